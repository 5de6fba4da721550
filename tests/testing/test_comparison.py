"""The numbers of a comparison, to the last one, under bounds that are made for it."""

import math

import numpy as np
import pytest

from refattn.testing import compare, matches
from refattn.testing.bounds import Bound
from refattn.testing.rounding import FORMATS, ulp

INF, NAN = math.inf, math.nan


@pytest.fixture
def compared(monkeypatch):
    """A softmax over three entries whose reference and bounds are as given."""

    def run(got, want, hard, statistical=None, **options):
        array = lambda x: None if x is None else np.broadcast_to(np.asarray(x, dtype=np.float64), np.shape(want))
        limits = {"out": Bound(np.asarray(want, dtype=np.float64), array(hard), array(statistical))}
        monkeypatch.setattr(matches, "bound", lambda *args, **kwargs: limits)
        monkeypatch.setattr(matches, "says_nothing", lambda *args: False)
        (found,) = compare(np.asarray(got), "softmax", np.zeros(np.shape(want)), explain=False, **options)
        return found

    return run


def test_the_worst_element_is_that_which_is_most_bounds_away(compared):
    found = compared([1.25, 3.0, 4.75], [1.0, 2.0, 4.0], [0.5, 0.5, 0.75])
    assert (found.verdict, found.tier, found.ok) == ("outside", "hard", False)
    assert (found.hard, found.outside, found.size, found.worst) == (2.0, 1, 3, (1,))
    assert (found.got, found.want, found.error_bound) == (3.0, 2.0, 0.5)
    assert found.ulps == 1.0 / ulp(2.0, FORMATS["float32"]) == 2.0**22
    assert found.where == "entries 1 of 3"
    assert math.isnan(found.statistical)


@pytest.mark.parametrize(
    ("got", "tier", "verdict", "outside", "limit"),
    [
        (2.0, "auto", "equal", 0, 0.5),
        (2.5, "auto", "within statistical", 0, 0.5),
        (2.75, "auto", "outside", 1, 0.5),
        (2.75, "statistical", "outside", 1, 0.5),
        (2.5, "hard", "within statistical", 0, 1.0),
        (2.75, "hard", "within hard", 0, 1.0),
        (3.0, "hard", "within hard", 0, 1.0),
        (3.25, "hard", "outside", 1, 1.0),
    ],
)
def test_what_lies_on_a_bound_is_within(compared, got, tier, verdict, outside, limit):
    found = compared([got], [2.0], 1.0, 0.5, tier=tier)
    assert (found.verdict, found.outside, found.error_bound) == (verdict, outside, limit)
    assert (found.hard, found.statistical) == (got - 2.0, 2 * (got - 2.0))
    assert found.tier == ("hard" if tier == "hard" else "statistical")


def test_without_a_statistical_bound_the_hard_one_judges(compared):
    for tier in ("auto", "statistical", "hard"):
        found = compared([2.75], [2.0], 1.0, None, tier=tier)
        assert (found.verdict, found.tier) == ("within hard", "hard")


@pytest.mark.parametrize(
    ("got", "want", "ok"),
    [
        ([1.0, NAN], [1.0, NAN], True),
        ([1.0, INF], [1.0, INF], True),
        ([1.0, -INF], [1.0, INF], False),
        ([1.0, NAN], [1.0, INF], False),
        ([1.0, 2.0], [1.0, NAN], False),
        ([1.0, 3e38], [1.0, INF], False),
        ([1.0, INF], [1.0, 3.4028e38], True),  # within its bound, 1e35, of what the format cannot hold
        ([1.0, -INF], [1.0, -3.4028e38], True),
        ([1.0, -INF], [1.0, 3.4028e38], False),
        ([1.0, INF], [1.0, 3.4e38], False),
        ([1.0, NAN], [1.0, 3.4028e38], False),
    ],
)
def test_nan_and_infinities_stand_where_the_reference_has_them(compared, got, want, ok):
    found = compared(got, want, [0.5, 1e34])
    assert found.ok == ok
    assert (found.outside, found.worst) == ((0, found.worst) if ok else (1, (1,)))
    assert ok or (found.verdict, found.hard, found.where) == ("special values", INF, "entries 1 of 2")


def test_what_is_finite_is_judged_beside_what_is_not(compared):
    found = compared([NAN, 3.0, 4.0], [1.0, 2.0, 4.0], 0.25)
    assert (found.verdict, found.outside, found.size, found.finite) == ("special values", 1, 3, 4.0)
    assert "The rest is wrong as well: by up to 4x of the bound." in str(found)
    assert "Everything else matches." in str(compared([NAN, 2.25, 4.0], [1.0, 2.0, 4.0], 0.25))


def test_nothing_is_equal_to_nothing(compared):
    found = compared(np.zeros((0, 3)), np.zeros((0, 3)), 0.0)
    assert (found.verdict, found.size, found.hard, found.worst) == ("equal", 0, 0.0, ())


def test_where_no_error_is_allowed_any_is_infinitely_many_bounds(compared):
    found = compared([1.0, 2.0 + 2.0**-20], [1.0, 2.0], 0.0)
    assert (found.verdict, found.outside, found.hard, found.worst) == ("outside", 1, INF, (1,))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ([[1, 1, 0], [1, 1, 0]], "entries 0-1 of 3"),
        ([[1, 0, 1], [0, 0, 0]], "rows 0 of 2; entries 0, 2 of 3"),
        ([[1, 1, 1], [1, 1, 1]], ""),
        ([[0, 0, 0], [0, 0, 1]], "rows 1 of 2; entries 2 of 3"),
    ],
)
def test_where_is_said_of_the_axes_on_which_not_all_is_wrong(compared, wrong, words):
    assert compared(np.array(wrong, dtype=float), np.zeros((2, 3)), 0.5).where == words


def test_many_places_are_cut_short(compared):
    wrong = np.zeros(13)
    wrong[[0, 2, 4, 6, 8, 10]] = 1.0
    assert compared(wrong, np.zeros(13), 0.5).where == "entries 0, 2, 4, 6, 8 ... of 13"
    wrong[10] = 0.0
    assert compared(wrong, np.zeros(13), 0.5).where == "entries 0, 2, 4, 6, 8 of 13"
