"""Which head and which rows a diagnosis looks at, to the last one."""

import numpy as np
import pytest

from refattn.testing import narrowing
from refattn.testing.diagnosis import Judged
from refattn.testing.narrowing import few_rows, rows_of_all, worst_head
from refattn.testing.profiles import PROFILES

B, H, N, M, D, DV = 2, 3, 5, 7, 4, 6


def judged(lead=(B, H), n=N, result="out", function="attention"):
    draw = np.random.default_rng(0)
    q, k, v = (draw.normal(size=(*lead, *shape)) for shape in ((n, D), (M, D), (M, DV)))
    got = np.zeros((*lead, n) if result == "lse" else (*lead, n, DV))
    x = {"q": q, "k": k, "v": v, "return_lse": result == "lse"}
    return Judged(function, result, got, got + 1, got + 1, PROFILES["float32"], (), x)


def ratio_at(whole, *wrong):
    """How far each element is off: each of some rows of head (1, 2) by so much."""
    ratio = np.zeros(whole.got.shape)
    for row, off in wrong:
        ratio[(1, 2, row) if whole.result == "lse" else (1, 2, row, 3)] = off
    return ratio


@pytest.mark.parametrize("result", ["out", "lse"])
@pytest.mark.parametrize(("lead", "pairs"), [((B, H), B * H * N * M), ((H,), H * N * M), ((), N * M)])
def test_one_head_is_looked_at_where_there_are_more_scores_than_a_limit(monkeypatch, result, lead, pairs):
    whole = judged(lead, result=result)
    ratio = np.zeros(whole.got.shape)
    ratio[..., -1] = 1.0
    ratio[(*(size - 1 for size in lead), 2)] = 9.0
    monkeypatch.setattr(narrowing, "LARGE", pairs)
    assert worst_head(whole, ratio) is None
    monkeypatch.setattr(narrowing, "LARGE", pairs - 1)
    assert worst_head(whole, ratio) == (tuple(size - 1 for size in lead) or None)


@pytest.mark.parametrize("result", ["out", "lse"])
def test_a_few_rows_are_the_worst_and_some_between_the_others_that_are_wrong(result):
    whole = judged(n=40, result=result)
    off = {row: 2.0 + row % 7 for row in range(1, 40, 2)}  # every second row
    rows = few_rows(whole, ratio_at(whole, *off.items(), (0, 1.0)))
    worst = sorted(off, key=lambda row: -off[row])[:6]
    between = sorted(off)[::3]
    assert rows.place[:2] == (1, 2)
    assert rows.place[2].tolist() == sorted({*worst, *between})
    np.testing.assert_array_equal(rows.q, whole.kwargs["q"][1, 2, rows.place[2]])
    np.testing.assert_array_equal(rows.v, whole.kwargs["v"][1, 2])
    assert rows.options == {"return_lse": result == "lse"}


@pytest.mark.parametrize("wrong", [[7], [2, 3, 5, 8, 13, 21, 22, 30, 39]])
def test_all_rows_are_looked_at_where_few_are_wrong(wrong):
    whole = judged(n=40)
    assert few_rows(whole, ratio_at(whole, *((row, 3.0) for row in wrong))).place[2].tolist() == wrong


@pytest.mark.parametrize("result", ["out", "lse"])
def test_what_costs_much_is_asked_of_the_worst_rows_and_some_between(result):
    whole = judged(n=100, result=result)
    off = {row: 50.0 - row for row in range(40)}
    count = 8
    ((part,), place) = rows_of_all([whole], ratio_at(whole, *off.items()), count)
    assert place[:2] == (1, 2)
    assert place[2].tolist() == sorted({0, 1, 2, 3, *range(0, 100, 25)})
    assert part.kwargs["q"].shape == (len(place[2]), D)


def test_of_few_rows_each_is_asked():
    whole = judged(n=10)
    off = {row: 3.0 for row in range(10) if row not in (7, 9)}
    assert rows_of_all([whole], ratio_at(whole, *off.items()), 16)[1][2].tolist() == list(range(10))


@pytest.mark.parametrize(("result", "n", "root"), [("out", 25, 30), ("lse", 24, 12)])
def test_all_rows_are_asked_of_a_result_that_is_no_larger_than_some_squared(result, n, root):
    whole = judged(n=n, result=result)
    ratio = ratio_at(whole, (0, 2.0))
    assert whole.got.size == root**2
    assert rows_of_all([whole], ratio, root) == ([whole], None)
    assert rows_of_all([whole], ratio, root - 1)[1] is not None
