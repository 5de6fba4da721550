"""The bounds of activations and networks hold for correct kernels and are not much wider than they must be."""

import math

import numpy as np
import pytest
from scipy.special import erf, erfc

from refattn.feedforward import ACTIVATIONS, FeedForwardParams, GatedFeedForwardParams, gelu, silu
from refattn.testing.bounds import bound
from refattn.testing.profiles import profile
from refattn.testing.rounding import round_to

f32 = np.float32
PRECISIONS = ["float32", "float16", "bfloat16", "float8"]
ROOT2, C = f32(math.sqrt(2.0)), f32(math.sqrt(2.0 / math.pi))


def special(function, x):
    """A special function of float32, correctly rounded."""
    return function(x.astype(np.float64)).astype(f32)


def exp(x):
    return special(np.exp, x)


def exp_by_powers_of_2(x):
    return special(np.exp2, x * f32(math.log2(math.e)))


def sigmoid(x, e=exp):
    return f32(1) / (f32(1) + e(-x))


def cubic(x):
    return C * (x + f32(0.044715) * x * x * x)


# Every published way to write an activation, in float32: all of them are correct.
KERNELS = {
    "relu": [lambda x: np.maximum(x, f32(0))],
    "squared_relu": [lambda x: np.maximum(x, f32(0)) ** 2],
    "sigmoid": [sigmoid, lambda x: sigmoid(x, exp_by_powers_of_2)],
    "tanh": [lambda x: special(np.tanh, x)],
    "silu": [lambda x: x * sigmoid(x), lambda x: x / (f32(1) + exp(-x)), lambda x: x * sigmoid(x, exp_by_powers_of_2)],
    "softplus": [
        lambda x: np.maximum(x, f32(0)) + special(np.log1p, exp(-np.abs(x))),
        lambda x: np.where(x > 20, x, special(np.log, f32(1) + exp(np.minimum(x, f32(20))))),
    ],
    "gelu": [
        lambda x: f32(0.5) * x * (f32(1) + special(erf, x / ROOT2)),
        lambda x: x * (f32(0.5) * (f32(1) + special(erf, x * f32(1 / math.sqrt(2))))),
        lambda x: f32(0.5) * x * special(erfc, -x / ROOT2),
    ],
    "gelu_tanh": [
        lambda x: f32(0.5) * x * (f32(1) + special(np.tanh, cubic(x))),
        lambda x: f32(0.5) * x * (f32(1) + special(np.tanh, C * x * (f32(1) + f32(0.044715) * x * x))),
        lambda x: x * sigmoid(f32(2) * cubic(x)),
    ],
    "quick_gelu": [lambda x: x * sigmoid(f32(1.702) * x), lambda x: x * sigmoid(f32(1.702) * x, exp_by_powers_of_2)],
}


def numbers(seed, precision):
    draw = np.random.default_rng(seed)
    x = np.concatenate([
        draw.normal(size=2000) * 3,
        draw.uniform(-20, 20, size=2000),
        draw.normal(size=500) * 2.0**-12,
        draw.uniform(-110, 110, size=500) if precision != "float16" else draw.uniform(-60, 60, size=500),
    ])  # fmt: skip
    return round_to(x, profile(precision).out)


def bound_named(name, chosen, x):
    options = {"approximate": "tanh"} if name == "gelu_tanh" else {}
    return bound("gelu" if name == "gelu_tanh" else name, chosen, x, **options)["out"]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("name", "way"), [(name, n) for name in KERNELS for n in range(len(KERNELS[name]))])
def test_every_way_to_write_an_activation_is_within_the_bound(name, way, precision):
    chosen = profile(precision)
    for seed in range(5):
        x = numbers(seed, precision)
        found = bound_named(name, chosen, x)
        with np.errstate(all="ignore"):
            got = round_to(KERNELS[name][way](x.astype(f32)), chosen.out)
        used = np.abs(got - found.value) / found.hard
        assert used.max() <= 1.0, (x[used.argmax()], used.max())
        if name == "relu":
            assert used.max() == 0.0  # nothing is rounded
        elif precision == "float32":
            assert used.max() > 0.1
        else:
            assert used.max() > 0.8  # the rounding of the result, which a bound cannot leave out


def test_a_bound_is_a_few_units_of_rounding_where_nothing_cancels():
    x = np.linspace(0.5, 8.0, 1000)
    for name in KERNELS:
        found = bound_named(name, profile("float32"), x)
        assert np.all(found.hard <= 24 * 2.0**-24 * np.abs(found.value)), name


def test_the_nearest_other_gelu_is_far_outside_in_float32():
    x = np.linspace(-3.0, 3.0, 601)
    found = bound("gelu", profile("float32"), x)["out"]
    assert np.max(np.abs(gelu(x, "tanh") - found.value) / found.hard) > 500
    found = bound("gelu", profile("float32"), x, approximate="tanh")["out"]
    assert np.max(np.abs(gelu(x) - found.value) / found.hard) > 500


def test_infinities_and_nan_have_no_error():
    x = np.array([-np.inf, np.inf, np.nan, 1.0])
    for name in KERNELS:
        found = bound_named(name, profile("bfloat16"), x)
        np.testing.assert_array_equal(found.value, ACTIVATIONS[name](x))
        np.testing.assert_array_equal(found.hard[:3], [0.0, 0.0, 0.0])
        assert found.hard[3] > 0


# --- networks -------------------------------------------------------------------------------------------------------


def matmul(chosen, x, w, b):
    """A product in float32, of operands that the profile may narrow first."""
    if chosen.operands is not None:
        x, w = (round_to(a, chosen.operands).astype(f32) for a in (x, w))
    y = x @ w
    return y if b is None else y + b


def store(fmt, x):
    return x if fmt is None else round_to(x, fmt).astype(f32)


def feed_forward_kernel(chosen, x, params, f):
    hidden = store(chosen.weights, f(store(chosen.scores, matmul(chosen, x, params.w_in, params.b_in))))
    return round_to(matmul(chosen, hidden, params.w_out, params.b_out), chosen.out)


def gated_kernel(chosen, x, params, f):
    gate = store(chosen.scores, matmul(chosen, x, params.w_gate, params.b_gate))
    up = store(chosen.scores, matmul(chosen, x, params.w_up, params.b_up))
    hidden = store(chosen.weights, store(chosen.scores, f(gate)) * up)
    return round_to(matmul(chosen, hidden, params.w_out, params.b_out), chosen.out)


def drawn(seed, precision, gated):
    draw = np.random.default_rng(seed)
    e, f, e_out = (int(draw.choice([1, 2, 16, 64])) for _ in range(3))
    shapes = [(e, f), (e, f), (f, e_out), f, f, e_out] if gated else [(e, f), f, (f, e_out), e_out]
    weights = [round_to(draw.normal(size=shape) / np.sqrt(e), profile(precision).out) for shape in shapes]
    if seed % 3 == 0:
        weights = [w if w.ndim == 2 else None for w in weights]
    tokens = 500 if e * f <= 4 else 20  # few terms: many draws, of which some are nearly as bad as can be
    x = round_to(draw.normal(size=(tokens, e)) * 2.0 ** draw.integers(-3, 3), profile(precision).out)
    return x, (GatedFeedForwardParams if gated else FeedForwardParams)(*weights)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("precision", ["float32", "tf32", "float16", "bfloat16", "bfloat16/eager", "float16/eager"])
def test_networks_are_within_the_bound(precision, gated):
    chosen, worst = profile(precision), []
    kernel, function = (gated_kernel, "gated_feed_forward") if gated else (feed_forward_kernel, "feed_forward")
    for seed in range(100):
        x, params = drawn(seed, precision, gated)
        name = sorted(KERNELS)[seed % len(KERNELS)]
        found = bound(function, chosen, x, params, activation=name)["out"]
        low = type(params)(*(None if w is None else w.astype(f32) for w in params))
        with np.errstate(all="ignore"):
            got = kernel(chosen, x.astype(f32), low, KERNELS[name][0])
        used = np.abs(got - found.value) / found.hard
        assert used.max() <= 1.0, (seed, name, used.max())
        worst.append(used.max())
    assert max(worst) > (0.1 if precision == "float32" else 0.3)


def test_a_function_is_known_by_its_name_and_a_stranger_is_not():
    x, params = drawn(1, "float32", True)
    named = bound("gated_feed_forward", profile("float32"), x, params, activation="silu")["out"]
    given = bound("gated_feed_forward", profile("float32"), x, params, activation=silu)["out"]
    np.testing.assert_array_equal(named.hard, given.hard)
    with pytest.raises(NotImplementedError, match="no error bound has been derived for the activation"):
        bound("gated_feed_forward", profile("float32"), x, params, activation=lambda z: z * z)


def test_an_activation_passes_errors_on_no_steeper_than_the_bound_thinks():
    from refattn.testing.mechanisms.feedforward.bounds import _ERRORS

    z = np.linspace(-10.0, 10.0, 200001)
    for name, (_, slope) in _ERRORS.items():
        if slope is not None:
            steepest = np.max(np.abs(np.diff(ACTIVATIONS[name](z)) / np.diff(z)))
            assert 0.98 * slope < steepest <= slope * (1 + 1e-9), name


@pytest.mark.parametrize("fmt", ["bfloat16", "float16"])
def test_activations_by_stored_steps_conform_in_the_eager_order(fmt):
    from refattn.testing import compare

    stored = lambda y: round_to(y, fmt)
    x = stored(1.5 * np.random.default_rng(0).normal(size=400))
    sigmoid = stored(1 / stored(1 + stored(np.exp(-x))))
    for name, got in (("sigmoid", sigmoid), ("silu", stored(x * sigmoid))):
        assert compare(got, name, x, precision=f"{fmt}/eager")[0].ok
        (found,) = compare(got, name, x, precision=fmt)
        assert [e.name for e in found.explanations[:1]] == [f"{fmt}/eager"]
