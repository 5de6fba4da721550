"""Properties of activations, the feed-forward network and its gated form."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mp, mpf

from refattn import feedforward
from refattn.feedforward import (
    ACTIVATIONS,
    FeedForwardParams,
    GatedFeedForwardParams,
    feed_forward,
    gated_feed_forward,
    gelu,
    quick_gelu,
    relu,
    sigmoid,
    silu,
    softplus,
    split_gate,
    squared_relu,
    tanh,
)
from tests.strategies import floats_for, rng

sizes = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 4))  # E, F, E_out
names = st.sampled_from(sorted(ACTIVATIONS))
GRID = np.linspace(-12.0, 12.0, 4801)


def close(a, b, scale=1.0):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * scale)


def params_for(seed, e, f, e_out, biases=True):
    draw = np.random.default_rng(seed)
    weights = draw.normal(size=(e, f)), draw.normal(size=f), draw.normal(size=(f, e_out)), draw.normal(size=e_out)
    return FeedForwardParams(*(w if biases or w.ndim == 2 else None for w in weights))


def gated_for(seed, e, f, e_out, biases=True):
    draw = np.random.default_rng(seed)
    weights = GatedFeedForwardParams(
        draw.normal(size=(e, f)), draw.normal(size=(e, f)), draw.normal(size=(f, e_out)),
        draw.normal(size=f), draw.normal(size=f), draw.normal(size=e_out),
    )  # fmt: skip
    return weights if biases else GatedFeedForwardParams(*weights[:3])


# --- activations ----------------------------------------------------------------------------------------------------


@pytest.mark.clause("ACT-RELU", "ACT-SQUARED-RELU", "ACT-SIGMOID", "ACT-TANH", "ACT-SOFTPLUS", "ACT-SILU")
def test_by_hand(library):
    x = np.array([-3.0, 0.0, 0.5, 4.0])
    np.testing.assert_array_equal(library.call(relu, x), [0.0, 0.0, 0.5, 4.0])
    np.testing.assert_array_equal(library.call(squared_relu, x), [0.0, 0.0, 0.25, 16.0])
    logs = np.log(np.array([0.25, 1.0, 3.0]))
    close(library.call(sigmoid, logs), [0.2, 0.5, 0.75])
    close(library.call(tanh, logs), [-15 / 17, 0.0, 0.8])
    close(library.call(softplus, logs), np.log([1.25, 2.0, 4.0]))
    close(library.call(silu, logs), logs * [0.2, 0.5, 0.75])
    close(library.call(quick_gelu, logs / 1.702), logs / 1.702 * [0.2, 0.5, 0.75])


@pytest.mark.clause("ACT-GELU", "ACT-GELU-TANH")
def test_gelu_by_the_tables(library):
    x = np.array([-1.0, 1.0, 2.0])
    close(library.call(gelu, x), [-0.15865525393145705, 0.8413447460685429, 2 * 0.9772498680518208])
    z = math.sqrt(2 / math.pi) * 1.044715
    close(library.call(gelu, x, approximate="tanh")[:2], [-0.5 * (1 - math.tanh(z)), 0.5 * (1 + math.tanh(z))])


@pytest.mark.clause("ACT-GELU", "ACT-GELU-TANH", "ACT-QUICK-GELU")
def test_the_three_gelus_are_as_far_apart_as_is_known(library):
    exact = library.call(gelu, GRID)
    approximate = np.abs(exact - library.call(gelu, GRID, approximate="tanh"))
    quick = np.abs(exact - library.call(quick_gelu, GRID))
    assert approximate.max() == pytest.approx(4.7e-4, rel=0.02)
    assert quick.max() == pytest.approx(2.0e-2, rel=0.02)


@pytest.mark.clause("ACT-GELU", "ACT-SILU", "ACT-QUICK-GELU", "ACT-SIGMOID", "ACT-SOFTPLUS", "ACT-TANH", "ACT-RELU")
def test_even_and_odd_parts(library):
    """f(x) - f(-x) = x for all but sigmoid and tanh, whose sums are 1 and 0."""
    for function in (relu, gelu, quick_gelu, silu, softplus):
        close(library.call(function, GRID) - library.call(function, -GRID), GRID)
    approximate = library.call(gelu, GRID, approximate="tanh") - library.call(gelu, -GRID, approximate="tanh")
    close(approximate, GRID)
    close(library.call(sigmoid, GRID) + library.call(sigmoid, -GRID), np.ones_like(GRID))
    close(library.call(tanh, GRID) + library.call(tanh, -GRID), np.zeros_like(GRID))


@pytest.mark.clause("ACT-SOFTPLUS", "ACT-SIGMOID", "ACT-TANH")
def test_how_they_hang_together(library):
    step = 2.0**-20
    slope = (library.call(softplus, GRID + step) - library.call(softplus, GRID - step)) / (2 * step)
    np.testing.assert_allclose(slope, library.call(sigmoid, GRID), atol=1e-8)
    close(library.call(tanh, GRID), 2 * library.call(sigmoid, 2 * GRID) - 1)
    close(library.call(silu, GRID), GRID * library.call(sigmoid, GRID))
    close(library.call(squared_relu, GRID), library.call(relu, GRID) ** 2)


def tail(name):
    """The function at 50 digits."""
    half = mp.sqrt(mpf(1) / 2)
    return {
        "gelu": lambda x: x * mp.erfc(-x * half) / 2,
        "gelu_tanh": lambda x: x / (1 + mp.exp(-2 * mp.sqrt(2 / mp.pi) * (x + mpf("0.044715") * x**3))),
        "quick_gelu": lambda x: x / (1 + mp.exp(-mpf("1.702") * x)),
        "silu": lambda x: x / (1 + mp.exp(-x)),
        "sigmoid": lambda x: 1 / (1 + mp.exp(-x)),
        "softplus": lambda x: mp.log1p(mp.exp(x)),
    }[name]


@pytest.mark.clause("ACT-TAIL")
@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "quick_gelu", "silu", "sigmoid", "softplus"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_negative_tail_keeps_its_digits(library, name, dtype):
    x = np.array([-1.0, -3.0, -5.0, -8.0, -10.0, -12.5], dtype=dtype)
    want = np.array([float(tail(name)(mpf(float(value)))) for value in x])
    got = library.call(ACTIVATIONS[name], x)
    assert got.dtype == dtype
    argument = (
        1.0 + 2.0 * np.abs(x * x * x) if name == "gelu_tanh" else 1.0 + 2.0 * x * x
    )  # the exponent's own rounding
    kept = np.abs(want) > np.finfo(dtype).tiny
    assert np.all(np.abs(got - want)[kept] <= (4 * np.finfo(dtype).eps * argument * np.abs(want))[kept])
    assert np.all(np.abs(got - want)[~kept] <= np.finfo(dtype).tiny)


@pytest.mark.clause("ACT-RANGE")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_no_input_but_nan_gives_nan(library, name, dtype):
    largest = np.finfo(dtype).max
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.array([-np.inf, -largest, -1e30, -1e4, -750.0, -104.0, -90.0, -39.0, -tiny, 0.0], dtype=dtype)
    x = np.concatenate([x, -x, np.array([np.nan], dtype=dtype)])
    got = library.call(ACTIVATIONS[name], x)
    assert not np.isnan(got[:-1]).any()
    assert np.isnan(got[-1])
    at_minus, at_plus = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "identity": (-np.inf, np.inf)}.get(
        name, (0.0, np.inf)
    )
    assert (got[0], got[10]) == (at_minus, at_plus)
    if name not in ("sigmoid", "tanh", "squared_relu"):
        np.testing.assert_array_equal(got[11:17], x[11:17])  # far on the right they are x


@pytest.mark.clause("ACT-RANGE")
def test_the_sign_of_zero_is_that_of_the_limit(library):
    for name in ("silu", "gelu", "gelu_tanh", "quick_gelu"):
        got = library.call(ACTIVATIONS[name], np.array([-1e4, -np.inf]))
        np.testing.assert_array_equal(np.signbit(got), [True, True])


@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"identity"}))
def test_shapes_strides_and_nothing(library, name):
    x = floats_for(1, (5, 6, 7))[::-2, 1::2, ::-3]
    x.flags.writeable = False
    np.testing.assert_array_equal(library.call(ACTIVATIONS[name], x), library.call(ACTIVATIONS[name], x.copy()))
    assert library.call(ACTIVATIONS[name], np.zeros((2, 0))).shape == (2, 0)
    assert library.call(ACTIVATIONS[name], np.array(0.5)).shape == ()


# --- the plain network ----------------------------------------------------------------------------------------------


@pytest.mark.clause("FFN-OUT")
def test_feed_forward_by_hand(library):
    params = FeedForwardParams(
        np.array([[1.0, -2.0, 0.0], [3.0, 1.0, -1.0]]),
        np.array([0.0, 1.0, -1.0]),
        np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]]),
        np.array([0.5, -0.5]),
    )
    x = np.array([[1.0, 2.0], [-1.0, -4.0]])  # before the activation (7, 1, -3) and (-13, -1, 3)
    np.testing.assert_array_equal(library.call(feed_forward, x, params), [[9.5, 89.5], [12.5, 119.5]])
    np.testing.assert_array_equal(library.call(feed_forward, x[0], params), [9.5, 89.5])
    bare = params._replace(b_in=None, b_out=None)  # (7, 0, -2)
    np.testing.assert_array_equal(library.call(feed_forward, x[:1], bare), [[7.0, 70.0]])


@pytest.mark.clause("FFN-OUT")
@given(size=sizes, name=names, seed=rng, biases=st.booleans())
def test_feed_forward_is_a_sum_over_units(library, size, name, seed, biases):
    e, f, e_out = size
    params = params_for(seed, e, f, e_out, biases)
    x = floats_for(seed + 1, (2, 3, e))
    want = np.zeros((2, 3, e_out)) + (params.b_out if biases else 0.0)
    for unit in range(f):
        z = (x * params.w_in[:, unit]).sum(axis=-1) + (params.b_in[unit] if biases else 0.0)
        want = want + ACTIVATIONS[name](z)[..., None] * params.w_out[unit]
    close(library.call(feed_forward, x, params, activation=name), want, 1000)


@pytest.mark.clause("FFN-OUT")
def test_identity_makes_it_linear_and_relu_is_the_default(library):
    params = params_for(1, 3, 5, 2)
    x = floats_for(2, (4, 3))
    linear = (x @ params.w_in + params.b_in) @ params.w_out + params.b_out
    close(library.call(feed_forward, x, params, activation="identity"), linear)
    np.testing.assert_array_equal(
        library.call(feed_forward, x, params), library.call(feed_forward, x, params, activation=relu)
    )
    got = library.call(feed_forward, x, params, activation=lambda z: z * z)
    close(got, (x @ params.w_in + params.b_in) ** 2 @ params.w_out + params.b_out)


@pytest.mark.clause("FFN-TOKENWISE")
@given(size=sizes, name=names, seed=rng)
def test_tokens_are_treated_one_by_one(library, size, name, seed):
    e, f, e_out = size
    x = floats_for(seed, (2, 4, e))
    order = np.random.default_rng(seed).permutation(4)
    poisoned = x.copy()
    poisoned[0, 2] = np.nan
    for function, params in (
        (feed_forward, params_for(seed, e, f, e_out)),
        (gated_feed_forward, gated_for(seed, e, f, e_out)),
    ):
        whole = library.call(function, x, params, activation=name)
        close(library.call(function, x[:, order].copy(), params, activation=name), whole[:, order], 1000)
        close(library.call(function, x[1, 3], params, activation=name), whole[1, 3], 1000)
        close(library.call(function, poisoned, params, activation=name)[1], whole[1], 1000)


# --- the gated network ----------------------------------------------------------------------------------------------


@pytest.mark.clause("GLU-OUT")
def test_gated_by_hand(library):
    params = GatedFeedForwardParams(
        np.array([[1.0, -1.0]]), np.array([[2.0, 3.0]]), np.array([[1.0], [10.0]]),
        np.array([1.0, 0.0]), np.array([0.0, -1.0]), np.array([0.25]),
    )  # fmt: skip
    x = np.array([[2.0], [-2.0]])  # gates (3, -2) and (-1, 2), ups (4, 5) and (-4, -7)
    got = library.call(gated_feed_forward, x, params, activation="relu")
    np.testing.assert_array_equal(got, [[12.25], [-139.75]])
    bilinear = library.call(gated_feed_forward, x, params, activation="identity")
    np.testing.assert_array_equal(bilinear, [[-87.75], [-135.75]])


@pytest.mark.clause("GLU-OUT")
@given(size=sizes, name=names, seed=rng, biases=st.booleans())
def test_gated_is_a_sum_over_units(library, size, name, seed, biases):
    e, f, e_out = size
    params = gated_for(seed, e, f, e_out, biases)
    x = floats_for(seed + 1, (2, 3, e))
    want = np.zeros((2, 3, e_out)) + (params.b_out if biases else 0.0)
    for unit in range(f):
        gate = (x * params.w_gate[:, unit]).sum(axis=-1) + (params.b_gate[unit] if biases else 0.0)
        up = (x * params.w_up[:, unit]).sum(axis=-1) + (params.b_up[unit] if biases else 0.0)
        want = want + (ACTIVATIONS[name](gate) * up)[..., None] * params.w_out[unit]
    close(library.call(gated_feed_forward, x, params, activation=name), want, 1000)


@pytest.mark.clause("GLU-OUT", "FFN-OUT")
@given(size=sizes, name=names, seed=rng)
def test_with_an_up_projection_of_1_the_gate_disappears(library, size, name, seed):
    e, f, e_out = size
    plain = params_for(seed, e, f, e_out)
    gated = GatedFeedForwardParams(
        plain.w_in, np.zeros((e, f)), plain.w_out, b_gate=plain.b_in, b_up=np.ones(f), b_out=plain.b_out
    )
    x = floats_for(seed + 1, (3, e))
    close(
        library.call(gated_feed_forward, x, gated, activation=name),
        library.call(feed_forward, x, plain, activation=name),
        1000,
    )


@pytest.mark.clause("GLU-OUT")
def test_silu_is_the_default_and_gate_and_up_are_not_interchangeable(library):
    params, x = gated_for(1, 3, 5, 2), floats_for(2, (4, 3))
    swiglu = library.call(gated_feed_forward, x, params)
    np.testing.assert_array_equal(swiglu, library.call(gated_feed_forward, x, params, activation=silu))
    swapped = params._replace(w_gate=params.w_up, w_up=params.w_gate, b_gate=params.b_up, b_up=params.b_gate)
    assert np.abs(library.call(gated_feed_forward, x, swapped) - swiglu).max() > 0.1


@pytest.mark.clause("GLU-PACKED")
def test_split_gate_by_hand(library):
    packed = np.arange(12.0).reshape(2, 6)
    for order, gate, up in (
        ("first", [0, 1, 2], [3, 4, 5]),
        ("second", [3, 4, 5], [0, 1, 2]),
        ("interleaved", [0, 2, 4], [1, 3, 5]),
    ):
        got = library.call(split_gate, packed, order)
        np.testing.assert_array_equal(got.gate, packed[:, gate])
        np.testing.assert_array_equal(got.up, packed[:, up])
        row = library.call(split_gate, packed[1], order)
        np.testing.assert_array_equal(row.up, packed[1, up])
    assert library.call(split_gate, np.zeros((0, 4)), "first").gate.shape == (0, 2)


@pytest.mark.clause("GLU-PACKED", "GLU-OUT")
@given(seed=rng, order=st.sampled_from(["first", "second", "interleaved"]))
def test_splitting_weights_is_splitting_the_product(library, seed, order):
    draw = np.random.default_rng(seed)
    packed, bias, w_out, x = (draw.normal(size=shape) for shape in ((3, 10), 10, (5, 2), (4, 3)))
    (w_gate, w_up), (b_gate, b_up) = library.call(split_gate, packed, order), library.call(split_gate, bias, order)
    gate, up = library.call(split_gate, x @ packed + bias, order)
    params = GatedFeedForwardParams(w_gate, w_up, w_out, b_gate, b_up)
    close(library.call(gated_feed_forward, x, params), (silu(gate) * up) @ w_out, 100)


# --- wrong and empty input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "e", "f", "e_out"), [((0,), 3, 5, 2), ((2,), 0, 5, 2), ((2,), 3, 0, 2), ((2,), 3, 5, 0)]
)
def test_nothing(library, tokens, e, f, e_out):
    x = np.zeros((*tokens, e))
    params = params_for(1, e, f, e_out)
    got = library.call(feed_forward, x, params)
    assert got.shape == (*tokens, e_out)
    if f == 0:
        np.testing.assert_array_equal(got, np.broadcast_to(params.b_out, got.shape))
    assert library.call(gated_feed_forward, x, gated_for(1, e, f, e_out)).shape == (*tokens, e_out)


def test_read_only_strided_and_narrow_inputs():
    x = floats_for(1, (8, 9))[::-2, ::3].astype(np.float32)
    params = FeedForwardParams(*(w.astype(np.float32) for w in params_for(2, 3, 5, 2)))
    for array in (x, *params):
        array.flags.writeable = False
    got = feed_forward(x, params)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, feed_forward(np.ascontiguousarray(x), params))
    narrow = FeedForwardParams(*(w.astype(np.float16) for w in params))
    assert feed_forward(x.astype(np.float16), narrow).dtype == np.float32
    assert feed_forward(x.astype(np.float64), params).dtype == np.float64  # one argument decides


@pytest.mark.clause("FFN-REFUSE")
def test_errors_of_the_networks_say_what_was_wrong(library):
    x, params, gated = np.zeros((4, 3)), params_for(1, 3, 5, 2), gated_for(1, 3, 5, 2)

    def fails(kind, match, function, *args, **kwargs):
        with pytest.raises(kind, match=match):
            library.call(function, *args, **kwargs)

    fails(ValueError, r"w_in has shape \(5, 3\), x has shape \(4, 3\): w_in must be \(E, F\) with E = 3",
          feed_forward, x, params._replace(w_in=params.w_in.T.copy()))  # fmt: skip
    fails(ValueError, r"b_in has shape \(4,\), w_in has shape \(3, 5\): b_in must be \(F,\) with F = 5",
          feed_forward, x, params._replace(b_in=np.zeros(4)))  # fmt: skip
    fails(ValueError, r"b_in has shape \(1,\)", feed_forward, x, params._replace(b_in=np.zeros(1)))
    fails(ValueError, r"w_out has shape \(4, 2\), w_in has shape \(3, 5\): w_out must be \(F, E_out\) with F = 5",
          feed_forward, x, params._replace(w_out=np.zeros((4, 2))))  # fmt: skip
    fails(ValueError, r"b_out has shape \(5,\), w_out has shape \(5, 2\): b_out must be \(E_out,\) with E_out = 2",
          feed_forward, x, params._replace(b_out=np.zeros(5)))  # fmt: skip
    fails(ValueError, r"w_in has shape \(1, 3, 5\)", feed_forward, x, params._replace(w_in=params.w_in[None]))
    fails(ValueError, r"x has shape \(\); it must be \(\.\.\., E\)", feed_forward, np.array(1.0), params)
    fails(TypeError, "w_out is None; it must be a NumPy or CuPy array", feed_forward, x, params._replace(w_out=None))
    fails(ValueError, r"w_up has 4 columns, w_gate has 5: both are F in \(E, F\)",
          gated_feed_forward, x, gated._replace(w_up=np.zeros((3, 4)), b_up=None))  # fmt: skip
    fails(ValueError, r"b_up has shape \(4,\), w_up has shape \(3, 5\)",
          gated_feed_forward, x, gated._replace(b_up=np.zeros(4)))  # fmt: skip
    fails(ValueError, r"w_gate has shape \(2, 5\), x has shape \(4, 3\)",
          gated_feed_forward, x, gated._replace(w_gate=np.zeros((2, 5))))  # fmt: skip
    fails(
        ValueError,
        r"activation is 'swish'; it must be one of 'identity', 'relu'",
        feed_forward,
        x,
        params,
        activation="swish",
    )
    fails(ValueError, "activation is None; it must be one of", gated_feed_forward, x, gated, activation=None)
    fails(TypeError, r"params is a GatedFeedForwardParams; it must be FeedForwardParams\(w_in, b_in, w_out, b_out\)",
          feed_forward, x, gated)  # fmt: skip
    fails(TypeError, r"params is a tuple; it must be GatedFeedForwardParams\(w_gate, w_up, w_out, ",
          gated_feed_forward, x, tuple(gated))  # fmt: skip
    fails(TypeError, "w_in has dtype int64; it must be floating-point",
          feed_forward, x, params._replace(w_in=np.zeros((3, 5), dtype=np.int64)))  # fmt: skip


@pytest.mark.clause("FFN-REFUSE")
def test_errors_of_activations_and_packed_gates_say_what_was_wrong():
    with pytest.raises(ValueError, match="approximate is 'erf'; it must be one of None, 'tanh'"):
        gelu(np.zeros(3), approximate="erf")
    for function in (relu, gelu, quick_gelu, silu, squared_relu, softplus, sigmoid, tanh):
        with pytest.raises(TypeError, match="x has dtype int64; it must be floating-point"):
            function(np.zeros(3, dtype=np.int64))
        with pytest.raises(TypeError, match="x is a float; it must be a NumPy or CuPy array"):
            function(0.5)
    with pytest.raises(ValueError, match="gate_order is 'third'; it must be one of 'first', 'second', 'interleaved'"):
        split_gate(np.zeros(4), "third")
    with pytest.raises(
        ValueError, match=r"packed has shape \(2, 5\); it must be \(\.\.\., 2F\), with an even last axis"
    ):
        split_gate(np.zeros((2, 5)), "first")
    with pytest.raises(ValueError, match=r"packed has shape \(\); it must be \(\.\.\., 2F\)"):
        split_gate(np.array(1.0), "first")


def test_every_name_is_the_function_of_that_name():
    for name, function in ACTIVATIONS.items():
        assert getattr(feedforward, name) is function
