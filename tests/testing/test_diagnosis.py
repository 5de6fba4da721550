"""Which variants explain a call, and in which order: with variants and limits that are made for it."""

from types import SimpleNamespace

import numpy as np
import pytest

from refattn.testing import diagnosis
from refattn.testing.diagnosis import Judged, explanations
from refattn.testing.profiles import PROFILES


def judged(got, want, limit=1.0, result="out", *, wrong=True, precision="float32"):
    got, want = np.array(got, dtype=np.float64), np.array(want, dtype=np.float64)
    limit = np.broadcast_to(np.asarray(limit, dtype=np.float64), want.shape)
    return Judged("softmax", result, got, want, limit, PROFILES[precision], (), {}, "hard", wrong)


@pytest.fixture
def explained(monkeypatch):
    """(name, fit) of what explains the first wrong result, among variants with the values given by name."""

    def run(judgements, variants, precisions=None, around=None):
        fakes = [
            SimpleNamespace(name=name, results=lambda args, kwargs, value=value: _of_results(value), seen=())
            for name, value in variants.items()
        ]
        others = {} if precisions is None else precisions
        monkeypatch.setattr(diagnosis, "settled", lambda judgements, ratios: fakes)
        monkeypatch.setattr(diagnosis, "constants", lambda *args: [])
        monkeypatch.setattr(diagnosis, "bound_around", lambda v, *rest: (around or {}).get(v.name))
        monkeypatch.setattr(diagnosis.precisions, "others", lambda judged: [PROFILES[name] for name in others])
        monkeypatch.setattr(diagnosis.precisions, "limits", lambda judgements, other: {"out": others[other.name]})
        found = explanations(judgements)
        first = next(j for j in judgements if j.wrong)
        return [(e.name, e.fit) for e in found[first.result]]

    return run


def _of_results(value):
    value = value if isinstance(value, dict) else {"out": value}
    return {name: np.asarray(x, dtype=np.float64) for name, x in value.items()}


WANT = [100.0, 200.0, 300.0]


def causes(found):
    return [name for name, fit in found if fit <= diagnosis.FITS]


@pytest.mark.parametrize(
    ("value", "fit", "explains"),
    [
        ([100.0, 200.0, 350.0], 0.0, True),
        ([100.0, 200.0, 348.0], 2.0, True),
        ([100.0, 200.0, 347.9], 2.1, False),
        ([100.0, 200.0, 352.1], 2.1, False),
        ([103.0, 200.0, 350.0], 3.0, False),
    ],
)
def test_a_variant_within_two_bounds_explains(explained, value, fit, explains):
    ((name, found),) = explained([judged([100.0, 200.0, 350.0], WANT)], {"a": value})
    assert (name, found) == ("a", pytest.approx(fit))
    assert (found <= diagnosis.FITS) == explains


def test_a_variant_that_is_the_reference_here_is_none(explained):
    got = judged([100.0, 200.0, 350.0], WANT)
    assert explained([got], {"same": WANT, "within": [101.0, 199.0, 300.5]}) == []


def test_a_variant_hardly_nearer_than_the_reference_explains_nothing(explained):
    got = [100.0, 200.0, 303.0]  # three bounds off
    assert explained([judged(got, WANT)], {"a": [100.0, 200.0, 301.6]}) == [("a", pytest.approx(1.4))]
    assert explained([judged(got, WANT)], {"a": [100.0, 200.0, 301.5]}) == []  # half as far is no nearer


def test_what_holds_must_hold_for_a_variant_too(explained):
    out = judged([150.0], [100.0])
    lse = judged([5.0], [5.0], 0.125, "lse", wrong=False)
    assert causes(explained([lse, out], {"a": {"out": [150.0], "lse": [5.0]}})) == ["a"]
    assert causes(explained([lse, out], {"a": {"out": [150.0], "lse": [5.25]}})) == ["a"]
    assert causes(explained([lse, out], {"a": {"out": [150.0], "lse": [5.375]}})) == []
    assert causes(explained([lse, out], {"a": {"out": [150.0]}})) == ["a"]
    scale = judged([5.0], [5.0], 0.1, "scale", wrong=False)  # few kernels have it
    assert causes(explained([scale, out], {"a": {"out": [150.0], "scale": [9.0]}})) == ["a"]


def test_every_wrong_result_must_be_explained(explained):
    out, k = judged([150.0], [100.0]), judged([60.0], [50.0], 1.0, "k")
    assert causes(explained([out, k], {"a": {"out": [150.0], "k": [60.0]}})) == ["a"]
    assert causes(explained([out, k], {"a": {"out": [150.0], "k": [50.0]}})) == []
    assert causes(explained([out, k], {"a": {"out": [150.0]}})) == []
    hardly = judged([51.8], [50.0], 1.0, "k")  # may be hardly nearer, where it lies within the bound
    assert causes(explained([out, hardly], {"a": {"out": [150.0], "k": [50.8]}})) == ["a"]
    assert causes(explained([out, hardly], {"a": {"out": [150.0], "k": [50.7]}})) == []


def test_the_nearest_on_the_whole_comes_first_and_what_does_not_explain_last(explained):
    variants = {
        "far": [100.0, 200.0, 390.0],
        "less": [101.5, 201.0, 350.0],
        "best": [100.5, 200.0, 350.0],
        "farther": [100.0, 200.0, 900.0],
    }
    found = explained([judged([100.0, 200.0, 350.0], WANT)], variants)
    assert [name for name, _ in found] == ["best", "less", "far", "farther"]
    assert [fit for _, fit in found] == [0.5, 1.5, 40.0, 550.0]


def test_of_variants_that_are_alike_that_which_changes_least_leads(explained):
    got = [100.0, 205.0, 350.0]
    variants = {"more": [105.0, 205.0, 350.0], "alike": [100.95, 205.0, 350.0], "less": [101.04, 205.0, 350.0]}
    found = explained([judged(got, WANT)], variants)
    assert [name for name, _ in found] == ["alike", "less", "more"]
    wide = [50.0, 1.0, 1.0]  # where the limit is wide, changing much is still alike
    variants = {"more": [151.0, 205.0, 350.0], "less": [146.5, 205.0, 350.0]}
    assert [name for name, _ in explained([judged([151.0, 205.0, 350.0], WANT, wide)], variants)] == ["less", "more"]


def test_nan_and_infinities_are_told_apart(explained):
    got = judged([np.nan, 200.0, 350.0], WANT)
    assert causes(explained([got], {"nan": [np.nan, 200.0, 350.0], "not": [100.0, 200.0, 350.0]})) == ["nan"]
    got = judged([np.inf, 200.0, 350.0], WANT)
    assert causes(explained([got], {"minus": [-np.inf, 200.0, 350.0], "plus": [np.inf, 200.0, 350.0]})) == ["plus"]


def test_a_variant_beyond_the_format_is_stored_as_infinity(explained):
    got = judged([-np.inf, 7e4], [1.0, 7e4 - 50], precision="float16")
    assert causes(explained([got], {"a": [-7e4, 7e4]})) == []
    got = judged([-np.inf, np.inf], [1.0, 2.0], precision="float16")
    assert causes(explained([got], {"a": [-7e4, 7e4]})) == ["a"]
    count = judged([7e4], [6e4], 0.0, precision="float16")  # what has no bound is a count
    assert causes(explained([count], {"a": [7e4]})) == ["a"]


@pytest.mark.parametrize(
    ("got", "value", "explains"),
    [
        (-np.inf, -1e30, True),
        (-1e4, -1e30, True),
        (-9e3, -1e29, True),
        (-8e3, -1e30, False),
        (-np.inf, -1e28, False),
    ],
)
def test_any_number_far_down_may_stand_for_minus_infinity_in_a_log_sum_exp(explained, got, value, explains):
    found = explained([judged([got, 3.0], [1.0, 3.0], 0.1, "lse")], {"a": {"lse": [value, 3.0]}})
    assert (causes(found) == ["a"]) == explains


@pytest.mark.parametrize(("off", "first"), [(3.9, "float16"), (4.0, "a")])
def test_a_precision_is_asked_about_unless_a_variant_is_clearly_nearer(explained, off, first):
    """Four times nearer than the reference: a variant one bound away, where the reference is so many."""
    got = judged([100.0, 200.0, 300.0 + off], WANT)
    variants = {"a": [100.0, 200.0, 299.0 + off]}
    assert causes(explained([got], variants, {"float16": np.full(3, 5.0)}))[0] == first
    assert causes(explained([got], variants, {"float16": np.full(3, 3.5)})) == ["a"]  # its bound is too narrow


def test_a_precision_explains_within_its_bound_only(explained):
    got = judged([100.0, 200.0, 308.0], WANT)
    wide = {"bfloat16": np.full(3, 8.0), "float16": np.full(3, 7.9)}
    assert explained([got], {}, wide) == [("bfloat16", 1.0)]


def test_a_variant_in_another_precision_is_the_last_that_is_tried(explained):
    got, variants = judged([100.0, 200.0, 350.0], WANT), {"a": [100.0, 200.0, 340.0]}
    assert explained([got], variants, {"bfloat16": np.full(3, 5.0)})[0] == ("a, precision bfloat16", 2.0)
    assert causes(explained([got], variants, {"bfloat16": np.full(3, 4.9)})) == []
    assert causes(explained([got], variants, {"float8": np.full(3, 5.0)})) == []  # which would explain anything
    assert causes(explained([got], variants, {"float32/eager": np.full(3, 5.0)})) == []  # bfloat16 holds the numbers


def test_small_values_are_said_to_be_small(explained):
    want = np.array([1.0, 1e-9])
    unit = 8 * 2.0**-24
    (found,) = explained([judged(want + [0.0, unit], want, 1e-12)], {})
    assert found == ("small values", pytest.approx(1.0))
    assert explained([judged(want + [0.0, 1.01 * unit], want, 1e-12)], {}) == []


def test_where_a_variant_has_values_of_its_own_the_usual_limit_holds(explained):
    """The reference's bound is 0 in an empty row: a variant's mean in it has the bound of the other rows."""
    want, limit = [0.0, 200.0, 300.0], [0.0, 1.0, 1.0]
    assert causes(explained([judged([50.0, 200.0, 300.0], want, limit)], {"a": [52.0, 200.0, 300.0]})) == ["a"]
    assert causes(explained([judged([50.0, 200.0, 300.0], want, limit)], {"a": [52.1, 200.0, 300.0]})) == []
    assert causes(explained([judged([50.0, 200.0, 300.0], want, limit)], {"a": [50.0, 200.0, 300.0]})) == ["a"]


def test_a_limit_beyond_all_values_is_not_the_usual_one(explained):
    want, limit = [0.0, 200.0, 300.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1e6, 1e6]
    got = [50.0, 200.0, 300.0, 0.0, 0.0]
    assert causes(explained([judged(got, want, limit)], {"a": [52.0, 200.0, 300.0, 0.0, 0.0]})) == ["a"]
    assert causes(explained([judged(got, want, limit)], {"a": [53.0, 200.0, 300.0, 0.0, 0.0]})) == []


def test_the_nearest_are_held_to_the_bound_around_themselves(explained):
    got, value = judged([100.0, 200.0, 350.0], WANT), [100.0, 200.0, 345.0]
    around = lambda hard: {"a": {"out": SimpleNamespace(value=np.array(value), hard=np.asarray(hard))}}
    assert causes(explained([got], {"a": value})) == []
    assert explained([got], {"a": value}, around=around(2.5)) == [("a", 2.0)]
    assert causes(explained([got], {"a": value}, around=around(2.4))) == []
    far = [100.0, 200.0, 337.4]  # not four times nearer than the reference
    assert causes(explained([got], {"a": far}, around=around(50.0))) == []


def test_another_shape_is_explained_by_its_numbers(explained):
    got = judged([100.0, 200.0, 350.0], [1.0, 2.0], [1.0, 1.0])
    level = 64 * 2.0**-24 * 350.0
    near = np.array([100.0, 200.0, 350.0]) + 2.0 * level
    found = explained([got], {"other": [9.0, 9.0], "far": near + 0.1 * level, "near": near, "best": near - 2.0 * level})
    assert [name for name, _ in found] == ["best", "near"]


def test_a_variant_is_near_a_few_rows_within_four_bounds():
    few = judged([[350.0, 360.0]], [[300.0, 310.0]])
    value = lambda x: np.array([[[1.0, 1.0], [x, 360.0]]])
    for x, near in ((350.0, True), (354.0, True), (346.0, True), (354.1, False), (np.nan, False)):
        assert diagnosis._is_near(value(x), few, (0, np.array([1]))) == near
    assert not diagnosis._is_near(None, few, (0, np.array([1])))
    assert not diagnosis._is_near(np.zeros(2), few, (0, np.array([1])))
    assert not diagnosis._is_near(value(350.0), few, (0, np.array([0, 1])))
    lse = judged([3.5], [3.0], result="lse")  # has an axis less
    assert diagnosis._is_near(np.array([[9.0, 3.5]]), lse, (0, np.array([1])))
    assert not diagnosis._is_near(np.array([[9.0, 9.5]]), lse, (0, np.array([1])))
