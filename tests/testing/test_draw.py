"""What is drawn lies where it is said to lie, both ends included."""

from types import SimpleNamespace

import numpy as np
import pytest

from refattn.testing.inputs import Draw, Seeded


def drawing(**numbers):
    """A draw whose generator gives these numbers."""
    rng = SimpleNamespace(**{name: lambda *_, size, x=x: np.resize(x, size) for name, x in numbers.items()})
    return Draw(SimpleNamespace(rng=rng))


def test_far_tails_end_at_60():
    draw = drawing(standard_t=[-1e9, -60.5, -59.5, 0.0, 59.5, 60.5, 1e9])
    assert draw.heavy(7).tolist() == [-60.0, -60.0, -59.5, 0.0, 59.5, 60.0, 60.0]
    assert draw.heavy(7, scale=0.5)[-1] == 30.0


def test_normal_numbers_are_scaled():
    assert drawing(normal=[1.0, -3.0]).normal(2, scale=0.5).tolist() == [0.5, -1.5]
    assert drawing(normal=[1.0, -3.0]).normal(2).tolist() == [1.0, -3.0]


@pytest.mark.parametrize("low, high", [(0, 0), (-1, 1), (3, 5)])
def test_both_ends_of_integers_are_drawn(low, high):
    draw = Draw(Seeded(0))
    assert set(draw.integers(low, high, 200).tolist()) == set(range(low, high + 1))
    assert {draw.between(low, high) for _ in range(200)} == set(range(low, high + 1))


def test_each_choice_is_picked_and_a_chance_is_a_share():
    draw = Draw(Seeded(0))
    assert {draw.pick("a", "b", "c") for _ in range(100)} == set("abc")
    assert draw.pick("a") == "a"
    assert 150 < sum(draw.chance(0.2) for _ in range(1000)) < 250
    assert 150 < draw.where(0.2, 1000).sum() < 250
    x = draw.uniform(2.0, 3.0, 1000)
    assert 2.0 <= x.min() < 2.01 < 2.99 < x.max() <= 3.0
