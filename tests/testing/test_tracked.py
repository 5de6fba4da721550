"""Bounds from the reference's own code: never below a correct kernel, close to what is derived by hand."""

import numpy as np
import pytest

import refattn
from refattn import backend
from refattn.testing import vectors
from refattn.testing.bounds import bound
from refattn.testing.names import function_named
from refattn.testing.nested import mapped
from refattn.testing.profiles import PROFILES, profile
from refattn.testing.rounding import FORMATS, round_to
from refattn.testing.subject import subject
from refattn.testing.tracked import automatic_bound
from refattn.testing.tracked.array import Tracked
from refattn.testing.tracked.namespace import Namespace
from refattn.testing.vectors import results
from tests.kernels import eager, flash
from tests.testing.test_bounds_attention import configuration

CASES = [
    case
    for mechanism in vectors.mechanisms()
    for case in vectors.load(mechanism)
    if not case.refuses
    and case.function != "testing.round_to"
    and not mechanism.startswith(("tiled", "sparse", "entmax"))  # have attention's, or one that is derived by hand
]


class Rounding:
    """NumPy, but matrix products round what enters them, and on request what leaves them: a kernel of the flash profile."""

    __name__ = "numpy"

    def __init__(self, enter, leave=None):
        self.enter, self.leave = enter, leave

    def __getattr__(self, name):
        return getattr(np, name)

    def matmul(self, a, b):
        a, b = (round_to(x, self.enter).astype(np.float32) for x in (a, b))
        out = np.matmul(a, b)
        return out if self.leave is None else round_to(out, self.leave).astype(np.float32)


def narrowed(value, dtype):
    """The arrays of an argument in another dtype."""
    wide = lambda x: isinstance(x, np.ndarray) and x.dtype.kind == "f"
    return mapped(lambda x: x.astype(dtype) if wide(x) else x, value)


def furthest(case, precision, call):
    """The largest error of a call, in units of the automatic bound."""
    limits = automatic_bound(case.function, profile(precision), **case.arguments)
    with np.errstate(all="ignore"):
        got = results(case.function, call())
        ratios = [0.0]
        for name, limit in limits.items():
            assert not np.isnan(limit.hard).any()
            if limit.value.dtype.kind != "f":
                assert np.array_equal(got[name], limit.value)
                continue
            fmt = profile(precision).out if name != "lse" else FORMATS["float32"]
            finite = np.isfinite(limit.value) & (np.abs(limit.value) + limit.hard <= fmt.largest)
            value = round_to(np.asarray(got[name], dtype=np.float64), fmt)
            error = np.abs(value[finite] - limit.value[finite])
            ratios.append(np.max(np.where(error == 0, 0.0, error / limit.hard[finite]), initial=0.0))
    return max(ratios)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_reference_in_float32_is_within_its_float32_bound(case):
    arguments = {name: narrowed(x, np.float32) for name, x in case.arguments.items()}
    assert furthest(case, "float32", lambda: function_named(case.function)(**arguments)) <= 1


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_rounded_operands_are_within_the_bound_of_a_narrow_format(case, precision, monkeypatch):
    arguments = {name: narrowed(x, np.float32) for name, x in case.arguments.items()}
    kernel, library = Rounding(precision), backend._library
    monkeypatch.setattr(backend, "_library", lambda x, name="x": kernel if library(x) is np else library(x))
    assert furthest(case, precision, lambda: function_named(case.function)(**arguments)) <= 1


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_exact_value_is_within_the_float64_bound_of_the_oracle(case):
    limits = automatic_bound(case.function, profile("float64"), **case.arguments)
    for name, want in case.expect.items():
        if want is not None and np.asarray(want).dtype.kind == "f":
            got, limit = limits[name].value, limits[name].hard
            finite = np.isfinite(want)
            assert np.array_equal(got[~finite], want[~finite], equal_nan=True)
            # golden values are the float64 numbers nearest to the exact ones: half an ulp of their own
            assert (np.abs(got[finite] - want[finite]) <= limit[finite] + np.spacing(np.abs(want[finite])) / 2).all()


@pytest.mark.parametrize("precision", PROFILES)
@pytest.mark.parametrize("seed", range(14))
def test_no_correct_attention_is_accused(precision, seed):
    ratio = attention_ratios(precision, seed)
    assert ratio is None or ratio[0] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("precision", PROFILES)
def test_no_correct_attention_of_many_is_accused(precision):
    found = [r for seed in range(300) if (r := attention_ratios(precision, seed)) is not None]
    assert max(r[0] for r in found) <= 1


@pytest.mark.parametrize("precision", PROFILES)
def test_it_is_close_to_the_bound_that_was_derived_by_hand(precision):
    found = [r[1] for seed in range(30) if (r := attention_ratios(precision, seed)) is not None and r[1] is not None]
    assert 0.5 <= np.median(found) <= 1.5


def attention_ratios(precision, seed):
    """The error of a correct kernel over the automatic bound; the automatic bound over the one derived by hand."""
    drawn = configuration(precision, seed)
    if drawn is None:
        return None
    q, k, v, options, tiling = drawn
    chosen = profile(precision)
    kernel = (lambda *a, **o: flash(*a, **o, **tiling)) if chosen.order == "flash" else eager
    out, lse = kernel(q, k, v, precision=precision, **options)
    automatic = automatic_bound("attention", chosen, q, k, v, return_lse=True, **options)
    derived = bound("attention", chosen, q, k, v, return_lse=True, **options)
    twice = 2.0 if chosen.out.name == "float64" else 1.0  # bound() counts the oracle's own rounding
    worst = 0.0
    for name, got in (("out", out), ("lse", lse)):
        finite = np.isfinite(automatic[name].value)
        error = np.abs(got[finite] - automatic[name].value[finite])
        with np.errstate(all="ignore"):
            ratio = np.where(error == 0, 0.0, error / (twice * automatic[name].hard[finite]))
        worst = max(worst, float(np.max(ratio, initial=0.0)))
    some = (derived["out"].hard > 0) & (automatic["out"].hard > 0)
    loose = twice * automatic["out"].hard[some] / derived["out"].hard[some]
    return worst, float(np.median(loose)) if loose.size else None


def test_a_shift_and_a_common_offset_of_the_values_cost_nothing():
    q, k, v = np.random.default_rng(0).normal(size=(3, 7, 8))
    plain = automatic_bound("attention", profile("bfloat16/eager"), 4 * q, k, v)["out"]
    offset = automatic_bound("attention", profile("bfloat16/eager"), 4 * q, k, v + 1000.0)["out"]
    of_scores = np.max(plain.hard)
    size = np.abs(offset.value) * 2.0**-8
    assert (offset.hard <= of_scores + 3.1 * size).all()  # rounded weights and output, no more


def test_rows_that_see_nothing_are_exact():
    found = automatic_bound("attention", profile("float32"), *np.ones((3, 2, 4)), np.zeros((2, 2), dtype=bool))
    assert not found["out"].hard.any()


def test_a_choice_that_rounding_may_flip_counts_both_sides():
    xp = Namespace(profile("float32"))
    x = Tracked(xp, np.array([0.5, -2.0]), np.array([1.0, 0.1]))
    jump = xp.where(x > 0.0, 3.0, 0.0)
    assert jump.value.tolist() == [3.0, 0.0]
    assert jump.error.tolist() == [3.0, 0.0]


def test_a_function_without_a_derivation_has_a_bound_all_the_same():
    assert subject("sinusoidal").bound is None
    found = bound("sinusoidal", profile("float32"), np.arange(3.0), 4)["out"]
    assert np.array_equal(found.value, refattn.sinusoidal(np.arange(3.0), 4))
    assert (found.hard[1:] > 0).all()


def test_a_dropped_key_counts_among_those_that_an_output_may_drift_to():
    assert attention_ratios("bfloat16/eager", 96)[0] <= 1  # scores off by more than 1: the weights may be any


def test_every_step_has_its_rounding():
    xp = Namespace(profile("float32"))
    one = Tracked(xp, np.ones(3))
    u_exp = profile("float32").u_exp
    assert (xp.exp(one).error >= u_exp * np.e).all()
    assert xp.lift(0.3).error >= 0.3 - np.float64(np.float32(0.3))
    assert xp.lift(0.25).error == 0
    eager = Namespace(profile("bfloat16/eager"))
    weights = refattn.softmax(Tracked(eager, np.array([0.0, 1.0, 3.0]), place="memory", leaf=True))
    assert (weights.error >= 2.0**-9 * weights.value).all()  # softmax is one kernel, and its result is stored


def test_inexact_remainders_are_refused():
    x = Tracked(Namespace(profile("float32")), np.array([0.5]), 0.1)
    with pytest.raises(NotImplementedError, match="no error bound"):
        _ = x % 2
