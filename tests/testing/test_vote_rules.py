"""The rules of the vote, to the last case: with cases, variants and fits that are made for them."""

from dataclasses import replace

import numpy as np
import pytest

from refattn.testing import vote
from refattn.testing.diagnosis import Explanation, Judged
from refattn.testing.matches import SMALL_VALUES, Comparison
from refattn.testing.outcome import CheckCase, Result
from refattn.testing.profiles import PROFILES
from refattn.testing.variants import Variant
from refattn.testing.vote import UNKNOWN, Cause, settled


def variant(name):
    """It lies as many bounds from the reference as a case says."""
    return Variant(name, "SOFTMAX-OUT", "softmax", lambda x, seen, shows: np.array([shows.get(name, 0.0)]), name)


VARIANTS = {name: variant(name) for name in "abcd"}


@pytest.fixture(autouse=True)
def _made_variants(monkeypatch):
    monkeypatch.setattr(vote, "variants", lambda function: list(VARIANTS.values()))


def result(verdict, hard, explanations=(), shows=None, given=1.0):
    number = np.array([0.0])
    call = {"x": np.array([given]), "seen": np.array([False]), "shows": shows or {}}
    judged = Judged("softmax", "out", number + hard, number, number + 1.0, PROFILES["float32"], (), call)
    compared = Comparison(
        "softmax", "out", "float32", verdict, hard=hard, got=hard, want=0.0, error_bound=1.0,
        explanations=[*explanations], judged=judged,
    )  # fmt: skip
    result.number += 1
    case = CheckCase(f"softmax.{result.number}", "softmax", ("SOFTMAX-OUT",), "float32", {})
    status = "holds" if compared.ok else "broken"
    deviation = explanations[0].name if explanations else "unexplained difference"
    return Result(case, status, deviation if status == "broken" else "", comparisons=(compared,))


result.number = 0


def broken(*names, fit=1.0, hard=1000.0, **more):
    """Cases that some variants, two at once, or precisions fit."""
    parts = lambda name: VARIANTS.get(name.partition(" + ")[0])
    return result("outside", hard, [Explanation(name, fit, parts(name)) for name in names], **more)


def holding(given=1.0, **shows):
    """A case that holds, and how many bounds from it variants would be."""
    return result("within hard", 0.0, shows=shows, given=given)


def causes(*results):
    """(name, number of cases, of which partly, number that hold although it would show) of each cause."""
    return [(c.name, len(c.cases), len(c.partly), len(c.holding)) for c in settled([*results])[1]]


def many(count, *names, **more):
    return [broken(*names, **more) for _ in range(count)]


def test_a_cause_needs_two_cases_and_a_twentieth_of_all():
    assert causes(broken("a")) == [("a", 1, 0, 0)]
    assert causes(broken("a"), broken("b")) == [(UNKNOWN, 2, 0, 0)]
    assert causes(*many(2, "a"), broken("b")) == [("a", 2, 0, 0), (UNKNOWN, 1, 0, 0)]
    assert causes(*many(57, "a"), *many(3, "b")) == [("a", 57, 0, 0), ("b", 3, 0, 0)]
    assert causes(*many(58, "a"), *many(3, "b")) == [("a", 58, 0, 0), (UNKNOWN, 3, 0, 0)]


def test_what_fits_within_two_bounds_counts():
    assert causes(*many(2, "a", fit=2.0)) == [("a", 2, 0, 0)]
    assert causes(*many(2, "a", fit=2.1, hard=3.0)) == [(UNKNOWN, 2, 0, 0)]


@pytest.mark.parametrize(
    ("against", "stays"),
    [
        ([holding(a=4.0)], True),
        ([holding(a=4.0), holding(a=4.0)], False),
        ([holding(a=4.0), holding(a=3.9)], True),
        ([holding(a=4.0), holding(b=4.0)], True),
        ([holding(a=4.0), holding(a=4.0, given=np.nan)], True),
    ],
)
def test_more_than_a_quarter_as_many_cases_that_hold_refute(against, stays):
    found = causes(*many(4, "a"), *many(4, "b"), *against)
    of_b = ("b", 4, 0, sum(r.comparisons[0].judged.kwargs["shows"].get("b", 0) >= 4 for r in against))
    rest = [(UNKNOWN, 4, 0, 0)]
    assert sorted(found) == sorted([("a", 4, 0, 1), of_b] if stays else [of_b, *rest])


def test_of_inputs_with_nan_broken_cases_support_nothing():
    against = [holding(a=4.0)]
    three, none = many(3, "a"), many(1, "a", given=np.nan)
    assert ("a", 4, 0, 1) not in causes(*three, *none, *many(4, "b"), *against)
    assert ("a", 4, 0, 1) in causes(*many(4, "a"), *many(4, "b"), *against)


def test_what_fits_nearly_all_of_five_or_more_is_refuted_by_none():
    against = [holding(a=9.0) for _ in range(9)]
    assert causes(*many(4, "a"), broken("b"), *against) == [("a", 4, 0, 9), (UNKNOWN, 1, 0, 0)]
    assert causes(*many(4, "a"), *many(2, "b"), *against) == [(UNKNOWN, 6, 0, 0)]
    assert causes(*many(4, "a"), *against) == [(UNKNOWN, 4, 0, 0)]
    assert causes(*many(5, "a"), *against) == [("a", 5, 0, 9)]


def test_what_was_refuted_is_admitted_where_it_fits_nearly_all_that_others_leave():
    against = [holding(a=4.0), holding(a=4.0)]
    assert causes(*many(6, "b"), *many(5, "a"), *against) == [("b", 6, 0, 0), ("a", 5, 0, 2)]
    assert causes(*many(5, "b"), *many(4, "a"), *against) == [("b", 5, 0, 0), (UNKNOWN, 4, 0, 0)]
    mixed = [*many(4, "a"), broken("c")]
    assert causes(*many(6, "b"), *mixed, *against) == [("b", 6, 0, 0), ("a", 4, 0, 2), (UNKNOWN, 1, 0, 0)]
    mixed = [*many(4, "a"), broken("c"), broken("d")]
    assert causes(*many(7, "b"), *mixed, *against) == [("b", 7, 0, 0), (UNKNOWN, 6, 0, 0)]


def test_what_fits_fewer_cases_than_stay_unexplained_is_a_chance_hit():
    assert causes(*many(2, "a"), broken("c"), broken("d")) == [("a", 2, 0, 0), (UNKNOWN, 2, 0, 0)]
    assert causes(*many(2, "a"), broken("b"), broken("c"), broken("d")) == [(UNKNOWN, 5, 0, 0)]


def test_a_cause_that_leaves_a_hundredth_is_one_of_two():
    most, less = broken("a", fit=5.0, hard=500.0), broken("a", fit=5.0, hard=499.0)
    assert causes(*many(2, "a"), most, less) == [("a", 3, 1, 0), (UNKNOWN, 1, 0, 0)]


def test_a_pair_whose_halves_are_there_costs_nothing():
    assert causes(*many(2, "a"), *many(2, "b"), broken("a + b", "c")) == [
        ("a", 2, 0, 0),
        ("b", 2, 0, 0),
        ("a + b", 1, 0, 0),
    ]
    assert causes(*many(2, "a"), broken("a + b")) == [("a", 2, 0, 0), (UNKNOWN, 1, 0, 0)]
    assert causes(*many(2, "a + b", "c")) == [("c", 2, 0, 0)]


def test_of_causes_that_fit_as_many_that_which_fewer_deny_leads_then_that_which_is_more_often_the_best():
    assert causes(*many(8, "a", "b"), holding(a=4.0)) == [("b", 8, 0, 0)]
    assert causes(broken("a", "b"), *many(2, "b", "a")) == [("b", 3, 0, 0)]
    assert causes(*many(2, "a", "b"), broken("b", "a")) == [("a", 3, 0, 0)]


def test_a_precision_is_one_of_the_whole_kernel():
    assert causes(*many(3, "bfloat16")) == [("precision bfloat16", 3, 0, 0)]
    assert causes(*many(3, "bfloat16"), broken(SMALL_VALUES)) == [("precision bfloat16", 4, 0, 0)]
    assert causes(*many(3, "bfloat16"), broken()) == [(UNKNOWN, 4, 0, 0)]
    assert causes(*many(3, SMALL_VALUES)) == [(SMALL_VALUES, 3, 0, 0)]
    assert causes(*many(3, "bfloat16", "tf32"), broken("tf32")) == [("precision tf32", 4, 0, 0)]


def test_cases_that_were_not_explained_are_held_to_what_won():
    alone = broken(shows={"a": 1000.0})
    assert causes(*many(2, "a"), alone) == [("a", 3, 0, 0)]
    assert causes(*many(2, "a"), broken(shows={"a": 1500.0})) == [("a", 2, 0, 0), (UNKNOWN, 1, 0, 0)]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "a explains 2 of 3 broken cases"),
        ({"total": 1, "cases": ("x",)}, "a explains 1 of 1 broken case"),
        ({"value": "the tile has 8 keys"}, "a explains 2 of 3 broken cases: the tile has 8 keys"),
        (
            {"partly": ("y",)},
            "a explains 2 of 3 broken cases, in 1 of them all but a hundredth: something smaller is wrong as well",
        ),
        (
            {"holding": ("p", "q"), "shared": ("N = M", "no mask")},
            "a explains 2 of 3 broken cases; not where N = M, no mask (2 hold)",
        ),
        ({"holding": ("p",)}, "a explains 2 of 3 broken cases; yet as many as would show it hold (1 hold)"),
        ({"shared": ("N = M",)}, "a explains 2 of 3 broken cases"),
        ({"name": UNKNOWN}, "no known cause: 2 of 3 broken cases"),
        (
            {"name": UNKNOWN, "shared": ("N = M", "no mask")},
            "no known cause: 2 of 3 broken cases; all have N = M, no mask, which no case that holds has",
        ),
        (
            {"name": UNKNOWN, "shared": ("N = M",), "others": 4},
            "no known cause: 2 of 3 broken cases; all have N = M, as in 4 that hold",
        ),
    ],
)
def test_a_cause_in_words(more, said):
    assert str(Cause(**{"function": "softmax", "name": "a", "cases": ("x", "y"), "total": 3, **more})) == said


def test_what_is_known_is_called_as_before_and_what_is_no_number_takes_no_part():
    known = [replace(r, status="known") for r in many(2, "a")]
    results, found = settled(known)
    assert (results, found) == (known, [])
    results, (cause,) = settled([*known, broken("b", "a")])
    assert (cause.name, len(cause.cases)) == ("a", 3)
    assert [r.status for r in results] == ["known", "known", "broken"]
    assert results[0] is known[0]
    assert results[2].deviation == "a"
    without = replace(broken("b"), comparisons=())
    related = broken("b")
    related = replace(related, case=replace(related.case, relation="batch"))
    assert causes(*many(2, "a"), without, related) == [("a", 2, 0, 0)]
