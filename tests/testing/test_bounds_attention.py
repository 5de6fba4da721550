"""The bound of attention never accuses a correct kernel, and sees small mistakes."""

import numpy as np
import pytest

from refattn import masks
from refattn.testing.bounds import bound
from refattn.testing.profiles import PROFILES, profile
from refattn.testing.rounding import round_to
from tests.kernels import eager, flash

INPUTS = ("gaussian", "heavy", "negative", "dominated", "offset", "shifted", "flat")


def input_format(precision):
    return {"float8": "float8_e4m3fn", "tf32": "float32"}.get(name := precision.split("/")[0], name)


def configuration(precision, seed):
    """Random sizes, inputs and options, rounded to the profile's input format; None if they overflow it."""
    draw = np.random.default_rng([seed, len(precision)])
    d, m, n, dv = (int(draw.integers(1, top)) for top in (130, 260, 40, 20))
    kind = INPUTS[seed % len(INPUTS)]
    q, v = (
        draw.normal(size=(2, n, d)) * 2.0 ** draw.integers(-4, 3),
        draw.normal(size=(2, m, dv)) * 2.0 ** draw.integers(-6, 7),
    )
    k = draw.standard_t(3, size=(2, m, d)) if kind == "heavy" else draw.normal(size=(2, m, d))
    options = {}
    if kind == "flat":
        q = q * 2.0**-8
    elif kind == "offset":
        v = v + 30 * np.abs(v).max()
    elif kind == "negative":
        q, k = np.abs(q), -np.abs(k)
    elif kind == "dominated":
        k[:, 0] *= 8
    elif kind == "shifted":
        options["bias"] = draw.choice([1000.0, -1000.0]) + draw.normal(size=(1, n, m))
    if draw.random() < 0.3 and kind != "shifted":
        options["bias"] = draw.normal(size=(n, m))
    if draw.random() < 0.3:
        options["softcap"] = float(draw.choice([1.0, 15.0, 50.0]))
    if draw.random() < 0.3:
        options["sinks"] = draw.normal(size=2) * 3
    if draw.random() < 0.2:
        options["dropout"] = (draw.random((2, n, m)) > 0.2, 0.2)
    if draw.random() < 0.2:
        options["scale"] = float(draw.normal())
    if draw.random() < 0.7:
        options["mask"] = masks.causal() if draw.random() < 0.5 else masks.window(int(draw.integers(0, m)), 3)
    fmt = input_format(precision)
    if "bias" in options:
        options["bias"] = round_to(options["bias"], "bfloat16" if precision.startswith("float8") else fmt)
    q, k, v = (round_to(x, fmt) for x in (q, k, v))
    fits = all(np.isfinite(x).all() for x in (q, k, v)) and np.abs(q @ np.swapaxes(k, -1, -2)).max() < 6e4
    tiling = {
        "tile": int(draw.choice([1, 7, 16, 64, 128])),
        "tiles": "backward" if draw.integers(2) else "forward",
        "splits": int(draw.choice([1, 1, 3])),
    }
    return (q, k, v, options, tiling) if fits else None


def worst(precision, seed):
    """Largest error over hard and statistical bound of the output and over the bound of lse."""
    drawn = configuration(precision, seed)
    if drawn is None:
        return None
    q, k, v, options, tiling = drawn
    chosen = profile(precision)
    kernel = (lambda *a, **o: flash(*a, **o, **tiling, gain=chosen.prescale)) if chosen.order == "flash" else eager
    out, lse = kernel(q, k, v, precision=precision, **options)
    bounds = bound("attention", chosen, q, k, v, return_lse=True, **options)
    error = np.abs(out - bounds["out"].value)
    finite = np.isfinite(bounds["lse"].value)
    assert np.array_equal(lse[~finite], bounds["lse"].value[~finite])
    of_lse = np.abs(lse[finite] - bounds["lse"].value[finite]) / bounds["lse"].hard[finite]
    ratios = [
        _largest(error, bounds["out"].hard),
        _largest(error, bounds["out"].statistical),
        np.max(of_lse, initial=0.0),
    ]
    return np.array(ratios)


def _largest(error, limit):
    return np.max(np.where(error == 0, 0.0, error / np.maximum(limit, 1e-300)), initial=0.0)


@pytest.mark.parametrize("precision", PROFILES)
def test_no_correct_kernel_is_accused(precision):
    ratios = [r for seed in range(40) if (r := worst(precision, seed)) is not None]
    assert len(ratios) >= 30
    assert np.max(ratios) <= 1
    if not precision.startswith("float64"):  # there the oracle rounds as the kernel does
        assert np.max(ratios) >= 0.05, "a bound that nothing comes near is no test"


@pytest.mark.slow
@pytest.mark.parametrize("precision", PROFILES)
def test_no_correct_kernel_is_accused_at_length(precision):
    ratios = [r for seed in range(1000, 1400) if (r := worst(precision, seed)) is not None]
    assert np.max(ratios) <= 1


def gaussian(seed, n, m, d, precision):
    draw = np.random.default_rng(seed)
    return tuple(round_to(draw.normal(size=shape), precision) for shape in ((2, n, d), (2, m, d), (2, m, d)))


@pytest.mark.parametrize("seed", range(3))
def test_the_statistical_tier_sees_one_lost_key_of_4096_and_a_scale_off_by_one_percent(seed):
    q, k, v = gaussian(seed, 16, 4096, 64, "bfloat16")
    limits = bound("attention", profile("bfloat16"), q, k, v)["out"]
    for wrong in (
        flash(q, k[:, :-1], v[:, :-1], precision="bfloat16")[0],
        flash(q, k, v, precision="bfloat16", scale=1.01 / 8)[0],
    ):
        assert _largest(np.abs(wrong - limits.value), limits.statistical) > 1
    right = flash(q, k, v, precision="bfloat16")[0]
    assert _largest(np.abs(right - limits.value), limits.statistical) < 0.7


def test_weights_that_round_alike_are_counted_linearly():
    """All weights but one share one inexact value: their roundings do not cancel, and no correct kernel is accused."""
    draw = np.random.default_rng(0)
    n, d, used = 1024, 8, 0.0
    v = round_to(draw.random((1, n, d)) + 0.5, "bfloat16")
    q = np.zeros((1, 8, d))
    q[..., 0] = 1.0
    for level in np.arange(0.0, 3.0, 0.1):
        k = np.zeros((1, n, d))
        k[:, 0, 0] = level * d**0.5
        k = round_to(k, "bfloat16")
        limits = bound("attention", profile("bfloat16"), q, k, v)["out"]
        used = max(used, _largest(np.abs(flash(q, k, v, precision="bfloat16")[0] - limits.value), limits.statistical))
    assert 0.5 < used <= 1


def test_a_profile_is_part_of_the_contract():
    """An eager kernel breaks the bound of a flash kernel, and keeps its own."""
    q, k, v = gaussian(0, 16, 128, 64, "bfloat16")
    q = round_to(4 * q, "bfloat16")
    out = eager(q, k, v, precision="bfloat16/eager")[0]
    for precision, accused in (("bfloat16", True), ("bfloat16/eager", False)):
        limits = bound("attention", profile(precision), q, k, v)["out"]
        assert (_largest(np.abs(out - limits.value), limits.hard) > 1) == accused


def test_a_common_offset_of_the_values_costs_only_their_own_rounding():
    q, k, v = gaussian(0, 8, 64, 16, "float32")
    tight = bound("attention", profile("float32"), q, k, v)["out"].hard
    offset = bound("attention", profile("float32"), q, k, v + 1000.0)["out"].hard
    assert np.median(offset) < 1000 * 2.0**-24 * 200
    assert np.median(offset) > np.median(tight)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16", "float8", "float32/eager", "bfloat16/eager"])
@pytest.mark.parametrize("sharp", [1.0, 30.0, 1e7])
def test_the_bound_grows_as_the_values_do(precision, sharp):
    draw = np.random.default_rng(0)
    q, k, v = (draw.normal(size=shape) for shape in ((2, 5, 4), (2, 9, 4), (2, 9, 3)))
    bias = np.where(draw.random((5, 9)) < 0.2, -np.inf, draw.normal(size=(5, 9)))
    options = [{}, {"sinks": np.array([0.0, 5.0])}, {"bias": bias}, {"dropout": (draw.random((2, 5, 9)) < 0.7, 0.25)}]
    for given in options:
        small, large = (
            bound("attention", precision, sharp * q, k, size * v, **given)["out"] for size in (0.001, 1.024)
        )
        np.testing.assert_allclose(large.hard, 1024 * small.hard, rtol=1e-9)
        np.testing.assert_allclose(large.statistical, 1024 * small.statistical, rtol=1e-9)


@pytest.mark.parametrize("precision", ["float32", "bfloat16/eager"])
def test_weights_of_which_nothing_is_known_leave_the_result_among_the_values_and_the_zero_of_a_sink(precision):
    k, v = np.ones((1, 5, 1)), np.full((1, 5, 1), 3.0)
    q = np.full((1, 1, 1), 1e9)  # scores off by more than the logarithm of anything
    alike = bound("attention", precision, q, k, v, scale=1.0)["out"]
    assert alike.value.item() == pytest.approx(3.0)
    assert alike.hard.item() < 0.1
    share = bound("attention", precision, q, k, v, scale=1.0, sinks=np.array([1e9]))["out"]
    assert share.value.item() == pytest.approx(2.5)
    assert 2.5 <= share.hard.item() < 2.6
    v[0, 1] = -1.0
    apart = bound("attention", precision, q, k, v, scale=1.0)["out"]
    assert 3.2 <= apart.hard.item() < 3.3  # from 2.2 to -1


def used(precision, out, *arguments, tier="hard", **options):
    """How much of a bound an output uses."""
    limits = bound("attention", profile(precision), *arguments, **options)["out"]
    return _largest(np.abs(out - limits.value), getattr(limits, tier))


def test_dropout_in_the_eager_order_stores_the_weights_twice():
    worst = 0.0
    for n in range(2, 260):  # equal weights: all roundings go the same way
        q, k, v = np.zeros((1, 1, 1)), np.zeros((1, n, 1)), np.ones((1, n, 1))
        options = {"dropout": (np.arange(n)[None, None] < n // 2, 0.1)}
        out = eager(q, k, v, precision="bfloat16/eager", **options)[0]
        worst = max(worst, used("bfloat16/eager", out, q, k, v, **options))
    assert 2 / 3 < worst <= 1  # with one rounding of the weights the bound would be a third less


def test_a_sink_above_all_keys_takes_the_weights_down_to_where_they_underflow():
    q, k, v = np.full((1, 1, 1), 10.0), np.full((1, 1, 1), -10.1464614), np.full((1, 1, 1), 2.19)
    options = {"sinks": np.array([0.8]), "scale": 1.0}
    out = flash(q, k, v, precision="float32", **options)[0]
    assert 0 < abs(out.item()) < 2.0**-126
    assert used("float32", out, q, k, v, **options) <= 1


def test_powers_of_2_round_a_shifted_score_once_more():
    draw, worst = np.random.default_rng(1), 0.0
    for _ in range(300):
        q, k, v = (round_to(draw.normal(size=(1, n, d)), "float32") for n, d in ((8, 1), (2, 1), (2, 4)))
        options = {"bias": round_to(1000.0 + draw.normal(size=(8, 2)), "float32")}
        out = flash(q, k, v, precision="float32", exponent="2", **options)[0]
        worst = max(worst, used("float32", out, q, k, v, **options))
    assert 0.5 < worst <= 1


def test_squares_that_underflow_do_not_narrow_the_statistical_tier():
    q, k, v = np.array([[[30.0]]]), np.array([[[20.0], [0.1]]]), np.array([[[1.0], [2.0]]])
    options = {"scale": 1.0, "dropout": (np.array([[[False, True]]]), 0.2)}
    limits = bound("attention", profile("float64"), q, k, v, **options)["out"]
    assert 0 < limits.value.item() < 1e-150
    assert limits.statistical.item() == limits.hard.item() > 0


def test_one_query_of_one_key_has_with_dropout_the_bound_of_each_of_two():
    q, k, v = np.array([[0.7]]), np.array([[-1.3]]), np.array([[0.2, -1.9]])
    one = bound("attention", profile("float32"), q, k, v, dropout=(np.ones((1, 1), dtype=bool), 0.25))["out"]
    two = np.repeat(q, 2, axis=0)
    two = bound("attention", profile("float32"), two, k, v, dropout=(np.ones((2, 1), dtype=bool), 0.25))["out"]
    for limit, limits in ((one.hard, two.hard), (one.statistical, two.statistical)):
        np.testing.assert_allclose(np.repeat(limit, 2, axis=0), limits, rtol=1e-12)
