"""No correct kernel is accused: kernels of every profile and style, on every kind of input, against their own bounds.

Both bounds are held to it, the one derived by hand and the one from the reference's own code. The default run takes a
sample; `pytest -m slow tests/testing/test_no_false_alarm.py` takes thousands, and prints how much of its bound each profile
and each kind of input uses.
"""

import collections

import numpy as np
import pytest

from refattn.testing.bounds import bound
from refattn.testing.profiles import PROFILES, profile
from refattn.testing.tracked import automatic_bound
from tests.kernels.cases import KINDS, draw_case
from tests.kernels.functions import FUNCTIONS, draw_function

NARROW = ("float16", "bfloat16", "float16/eager", "bfloat16/eager", "float8", "tf32")
OTHER_STEPS = ("rope", "gelu")  # published kernels take other steps than the reference: only derived bounds know them


def automatic(function, chosen, **arguments):
    """The automatic bound; twice it in float64, where the oracle rounds as the kernel does."""
    twice = 2 if chosen.out.name == "float64" else 1
    return {name: twice * found.hard for name, found in automatic_bound(function, chosen, **arguments).items()}


def used(error, limit):
    """The largest error in units of a bound."""
    with np.errstate(all="ignore"):
        return float(np.max(np.where(error == 0, 0.0, error / limit), initial=0.0))


def judge(case):
    """How much of each bound the output uses, and the lse of its own; and how wide the automatic bound is."""
    chosen, arguments = profile(case.precision), {**case.arguments, "return_lse": True}
    out, lse = case.run()
    with np.errstate(all="ignore"):
        by_hand, by_code = bound(case.function, chosen, **arguments), automatic(case.function, chosen, **arguments)
    error = np.abs(out - by_hand["out"].value)
    shares = {
        "hard": used(error, by_hand["out"].hard),
        "statistical": used(error, by_hand["out"].statistical),
        "automatic": used(error, by_code["out"]),
    }
    want = by_hand["lse"].value
    finite = np.isfinite(want)
    np.testing.assert_array_equal(lse[~finite], want[~finite])
    if case.promises_lse:
        of_lse = np.abs(lse[finite] - want[finite])
        shares["lse"] = used(of_lse, by_hand["lse"].hard[finite])
        shares["automatic lse"] = used(of_lse, by_code["lse"][finite])
    positive = by_hand["out"].hard > 0
    width = float(np.median(by_code["out"][positive] / by_hand["out"].hard[positive])) if positive.any() else 1.0
    return shares, width


def report(cases):
    """The largest share of each bound by profile and by kind, the widths, and every accused kernel by description."""
    worst: dict = collections.defaultdict(lambda: collections.defaultdict(float))
    widths, accused = [], []
    for case in cases:
        shares, width = judge(case)
        widths.append(width)
        for bound_, share in shares.items():
            for group in (case.precision, case.kind):
                worst[group][bound_] = max(worst[group][bound_], share)
            if not share <= 1:
                accused.append(f"{bound_} {share:.3g}: {case}")
    return worst, float(np.median(widths)), accused


def table(worst):
    return "\n".join(
        f"{group:16} " + "  ".join(f"{name} {share:.2f}" for name, share in row.items()) for group, row in worst.items()
    )


@pytest.mark.parametrize("number", range(len(PROFILES)))
def test_a_sample_of_correct_attention_kernels(number):
    precision = list(PROFILES)[number]
    worst, width, accused = report(draw_case(precision, seed) for seed in range(number % 2, len(KINDS), 2))
    assert not accused, "\n".join(accused)
    assert worst[precision]["hard"] > (0.05 if precision in NARROW else 0.01), "a bound that nothing comes near"
    assert width < 2


@pytest.mark.slow
@pytest.mark.parametrize("precision", PROFILES)
def test_correct_attention_kernels(precision, capsys):
    worst, width, accused = report(draw_case(precision, seed) for seed in range(5000, 5330))  # 3,300 in all
    with capsys.disabled():
        print(f"\n{table(worst)}\nmedian of automatic over derived bound: {width:.2f}")
    assert not accused, "\n".join(accused)
    assert width < 2


@pytest.mark.slow
@pytest.mark.parametrize("precision", PROFILES)
def test_correct_attention_kernels_on_small_problems(precision):
    *_, accused = report(draw_case(precision, seed, size="small") for seed in range(2000))
    assert not accused, "\n".join(accused)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PROFILES)
def test_correct_attention_kernels_at_8192_keys(precision):
    *_, accused = report(draw_case(precision, seed, size="long") for seed in range(len(KINDS)))
    assert not accused, "\n".join(accused)


def accused_functions(function, precision, seeds):
    chosen = profile(precision)
    for seed in seeds:
        case = draw_function(function, precision, seed)
        with np.errstate(all="ignore"):
            limits = bound(function, chosen, **case.arguments)
            by_code = None if function in OTHER_STEPS else automatic(function, chosen, **case.arguments)
        for name, got in case.results.items():
            want = limits[name].value
            finite = np.isfinite(want)
            np.testing.assert_array_equal(got[~finite], want[~finite], err_msg=str(case))
            for kind, hard in (("derived", limits[name].hard), ("automatic", by_code and by_code[name])):
                if hard is None:
                    continue
                share = used(np.abs(got[finite] - want[finite]), np.broadcast_to(hard, want.shape)[finite])
                if not share <= 1:
                    yield f"{kind} {name} {share:.3g}: {case}"


@pytest.mark.parametrize("precision", PROFILES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_sample_of_correct_kernels_of_other_functions(function, precision):
    accused = list(accused_functions(function, precision, range(3)))
    assert not accused, "\n".join(accused)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PROFILES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_correct_kernels_of_other_functions(function, precision):
    accused = list(accused_functions(function, precision, range(1000, 1150)))  # 21,000 in all
    assert not accused, "\n".join(accused)
