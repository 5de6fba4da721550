"""Properties of the gradients of softmax, norms, activations, networks and rotations, and of recomputation."""

import functools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mp

import refattn
from refattn import FeedForwardParams, GatedFeedForwardParams, positions
from refattn.gradients import (
    ACTIVATION_VJPS,
    Block,
    checkpoint,
    checkpoint_vjp,
    feed_forward_vjp,
    gated_feed_forward_vjp,
    gelu_vjp,
    layer_norm_vjp,
    linear_vjp,
    logsumexp_vjp,
    merge_vjp,
    rms_norm_vjp,
    rope_vjp,
    rotate_vjp,
    softmax_vjp,
    tanh_vjp,
)
from refattn.testing.vectors import results
from tests.derivatives import assert_derivative, weighted
from tests.strategies import floats_for, rng

SHAPES = st.permutations([2, 3, 4]).map(tuple)


def close(a, b, tolerance=1e-12):
    size = np.max(np.abs(b), initial=1.0)
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * size)


# --- softmax, log-sum-exp, merge ------------------------------------------------------------------------------------


@pytest.mark.clause("GRAD-SOFTMAX", "GRAD-LSE")
@given(seed=rng, shape=SHAPES, axis=st.integers(-3, 2), some=st.booleans())
def test_gradients_of_softmax_and_lse_are_derivatives(library, seed, shape, axis, some):
    x = floats_for(seed, shape, 2.0)
    where = np.random.default_rng(seed).random(shape) < 0.7 if some else None
    d_out = floats_for(seed + 1, shape)
    found = library.call(softmax_vjp, d_out, x, axis, where)
    assert_derivative(lambda x: np.sum(d_out * refattn.softmax(x, axis, where)), {"x": x}, {"x": found.x}, seed)
    close(found.x.sum(axis=axis), np.zeros_like(found.x.sum(axis=axis)))  # a shift of a row changes nothing
    total = refattn.logsumexp(x, axis, where)
    d_lse = np.where(np.isneginf(total), 0.0, floats_for(seed + 2, total.shape))
    found = library.call(logsumexp_vjp, d_lse, x, axis, where)
    assert_derivative(lambda x: weighted([refattn.logsumexp(x, axis, where)], [d_lse]), {"x": x}, {"x": found.x}, seed)
    close(found.x.sum(axis=axis), d_lse)


@pytest.mark.clause("GRAD-ABSENT", "GRAD-EMPTY", "GRAD-SOFTMAX")
@given(seed=rng, poison=st.sampled_from([np.nan, np.inf, -np.inf]))
def test_absent_entries_of_softmax_have_gradient_0_and_count_for_nothing(library, seed, poison):
    where = np.random.default_rng(seed).random((4, 5)) < 0.6
    where[1] = False
    x, d_out, d_lse = floats_for(seed, (4, 5)), floats_for(seed + 1, (4, 5)), floats_for(seed + 2, (4,))
    want = library.call(softmax_vjp, d_out, x, -1, where).x
    spoilt = [np.where(where, a, poison) for a in (d_out, x)]
    np.testing.assert_array_equal(library.call(softmax_vjp, *spoilt, -1, where).x, want)
    assert not np.any(want[~where])
    by_infinity = library.call(softmax_vjp, spoilt[0], np.where(where, x, -np.inf)).x
    np.testing.assert_array_equal(by_infinity, want)
    want = library.call(logsumexp_vjp, d_lse, x, -1, where).x
    d_lse = np.where(where.any(axis=-1), d_lse, poison)
    np.testing.assert_array_equal(library.call(logsumexp_vjp, d_lse, spoilt[1], -1, where).x, want)


@pytest.mark.clause("GRAD-BROADCAST", "GRAD-SOFTMAX")
@given(seed=rng, axis=st.sampled_from([-1, 0]))
def test_where_may_have_more_axes_than_x(library, seed, axis):
    x, where = floats_for(seed, (4,)), np.random.default_rng(seed).random((2, 3, 4)) < 0.7
    whole = np.broadcast_to(x, where.shape).copy()
    np.testing.assert_array_equal(
        library.call(refattn.softmax, x, axis, where), library.call(refattn.softmax, whole, -1, where)
    )
    np.testing.assert_array_equal(
        library.call(refattn.logsumexp, x, axis, where), library.call(refattn.logsumexp, whole, -1, where)
    )
    d_out = floats_for(seed + 1, where.shape)
    close(
        library.call(softmax_vjp, d_out, x, axis, where).x,
        library.call(softmax_vjp, d_out, whole, -1, where).x.sum(axis=(0, 1)),
    )
    close(
        library.call(logsumexp_vjp, d_out[..., 0], x, axis, where).x,
        library.call(logsumexp_vjp, d_out[..., 0], whole, -1, where).x.sum(axis=(0, 1)),
    )


@pytest.mark.clause("GRAD-MERGE", "GRAD-LSE", "GRAD-BROADCAST")
@given(seed=rng, with_lse=st.booleans())
def test_gradients_of_merge_are_derivatives(library, seed, with_lse):
    arguments = {
        "out_a": floats_for(seed, (2, 3, 4)),
        "lse_a": floats_for(seed + 1, (2, 3)),
        "out_b": floats_for(seed + 2, (3, 4)),
        "lse_b": floats_for(seed + 3, (3,)),
    }
    d_out, d_lse = floats_for(seed + 4, (2, 3, 4)), floats_for(seed + 5, (2, 3)) if with_lse else None
    found = results(merge_vjp, library.call(merge_vjp, d_out, **arguments, d_lse=d_lse))
    assert_derivative(lambda **a: weighted(refattn.merge(**a), (d_out, d_lse)), arguments, found, seed)


@pytest.mark.clause("GRAD-MERGE", "GRAD-ABSENT")
def test_an_absent_part_of_a_merge_has_gradients_0_whatever_it_holds(library):
    d_out, out, lse = floats_for(1, (3, 2)), floats_for(2, (3, 2)), floats_for(3, (3,))
    nothing = np.full((3, 2), np.nan), np.full((3,), -np.inf)
    first = library.call(merge_vjp, d_out, out, lse, *nothing, d_lse=lse)
    second = library.call(merge_vjp, d_out, *nothing, out, lse, d_lse=lse)
    for absent in ((first.out_b, first.lse_b), (second.out_a, second.lse_a)):
        assert not any(np.any(x) for x in absent)
    for present in ((first.out_a, first.lse_a), (second.out_b, second.lse_b)):
        close(present[0], d_out)
        close(present[1], lse)
    none = library.call(merge_vjp, d_out, *nothing, *nothing)
    assert not any(np.any(x) for x in none)


# --- norms ----------------------------------------------------------------------------------------------------------

AXES = st.sampled_from([-1, 0, (0, 1), (-2, -1), (0, 2), (0, 1, 2)])


@pytest.mark.clause("GRAD-LAYERNORM", "GRAD-RMSNORM")
@given(seed=rng, shape=SHAPES, axis=AXES, eps=st.sampled_from([0.0, 1e-3, 1.0]), given_=st.integers(0, 3))
def test_gradients_of_norms_are_derivatives(library, seed, shape, axis, eps, given_):
    own = tuple(shape[n] for n in (axis if isinstance(axis, tuple) else (axis,)))
    x, d_out = floats_for(seed, shape), floats_for(seed + 1, shape)
    gamma = floats_for(seed + 2, own) if given_ & 1 else None
    beta = floats_for(seed + 3, own) if given_ & 2 else None
    arguments = {"x": x, "gamma": gamma, "beta": beta}
    if np.min(np.var(x, axis=axis)) < 0.05 and eps < 1:  # there differences say nothing
        return
    found = results(layer_norm_vjp, library.call(layer_norm_vjp, d_out, **arguments, eps=eps, axis=axis))
    assert set(found) == {name for name, value in arguments.items() if value is not None}
    assert_derivative(
        lambda **a: np.sum(d_out * refattn.layer_norm(**a, eps=eps, axis=axis)), arguments, found, seed, 1e-7
    )
    close(found["x"].sum(axis=axis), np.zeros_like(found["x"].sum(axis=axis)), 1e-11)  # a shift changes nothing
    del arguments["beta"]
    for offset in (False, True) if gamma is not None else (False,):
        options = {"eps": eps, "axis": axis, "unit_offset": offset}
        found = results(rms_norm_vjp, library.call(rms_norm_vjp, d_out, **arguments, **options))
        assert_derivative(
            lambda options=options, **a: np.sum(d_out * refattn.rms_norm(**a, **options)),
            arguments,
            found,
            seed,
            1e-7,
        )


@pytest.mark.clause("GRAD-LAYERNORM", "GRAD-RMSNORM")
def test_without_epsilon_the_gradient_of_a_norm_is_at_a_right_angle_to_x(library):
    x, d_out, gamma = floats_for(1, (5, 8)) + 3.0, floats_for(2, (5, 8)), floats_for(3, (8,))
    for vjp in (layer_norm_vjp, rms_norm_vjp):
        found = library.call(vjp, d_out, x, gamma, eps=0.0).x
        close(np.sum(found * x, axis=-1), np.zeros(5))
        close(library.call(vjp, d_out, 4.0 * x, gamma, eps=0.0).x, found / 4.0)


@pytest.mark.clause("GRAD-LAYERNORM")
def test_layer_norm_of_float32_far_from_0_has_as_good_a_gradient_as_near(library):
    x, d_out = np.round(floats_for(1, (50, 100)) * 8).astype(np.float32) / 8, floats_for(2, (50, 100), 1.0)
    far = x + np.float32(2.0**20)
    np.testing.assert_array_equal(far - np.float32(2.0**20), x)
    want = layer_norm_vjp(d_out.astype(np.float32).astype(np.float64), x.astype(np.float64), None).x
    found = library.call(layer_norm_vjp, d_out.astype(np.float32), far, None).x
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-5)


# --- activations ----------------------------------------------------------------------------------------------------

NAMES = [name for name in ACTIVATION_VJPS if name != "identity"]


def value_of(name):
    return functools.partial(refattn.gelu, approximate="tanh") if name == "gelu_tanh" else getattr(refattn, name)


@pytest.mark.clause("GRAD-ACT")
@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_activations_are_derivatives(library, name):
    x = np.linspace(-6.03, 6.0, 97)
    d_out = floats_for(1, x.shape)
    found = library.call(ACTIVATION_VJPS[name], d_out, x)
    assert_derivative(lambda x: np.sum(d_out * value_of(name)(x)), {"x": x}, {"x": found.x}, 1)
    assert not np.any(library.call(ACTIVATION_VJPS["relu"], np.ones(2), np.array([0.0, -0.0])).x)


@pytest.mark.clause("GRAD-ACT-RANGE")
@pytest.mark.parametrize("name", NAMES)
def test_derivatives_far_out_are_their_limits_and_nan_stays_nan(library, name):
    for dtype, large in ((np.float64, 1e300), (np.float32, 1e38)):
        x = np.array([-np.inf, -large, large, np.inf, np.nan], dtype=dtype)
        found = library.call(ACTIVATION_VJPS[name], np.ones(5, dtype=dtype), x).x
        assert np.isnan(found[4])
        assert not np.any(found[:2])
        if name == "squared_relu":
            np.testing.assert_array_equal(found[3], np.inf)
        else:
            np.testing.assert_array_equal(found[2:4], np.zeros(2) if name in ("sigmoid", "tanh") else np.ones(2))


@pytest.mark.clause("GRAD-ACT-TAIL")
def test_small_derivatives_keep_their_digits(library):
    mp.dps = 50
    x = np.array([20.0, 40.0, 300.0])
    ones = np.ones(3)
    for sign in (1.0, -1.0):
        np.testing.assert_allclose(library.call(tanh_vjp, ones, sign * x).x, 4.0 * np.exp(-2.0 * x), rtol=1e-13)
        found = library.call(ACTIVATION_VJPS["sigmoid"], ones, sign * x).x
        np.testing.assert_allclose(found, np.exp(-x), rtol=1e-8)
    found = library.call(ACTIVATION_VJPS["silu"], ones, -x).x
    np.testing.assert_allclose(found, (1.0 - x) * np.exp(-x), rtol=1e-7)
    found = library.call(gelu_vjp, ones[:2], np.array([-10.0, -30.0])).x
    np.testing.assert_allclose(found, [float(mp.ncdf(x) + x * mp.npdf(x)) for x in (-10, -30)], rtol=1e-12)


@pytest.mark.clause("GRAD-REFUSE", "GRAD-ACT")
@pytest.mark.parametrize("name", ACTIVATION_VJPS)
def test_activations_refuse_other_cotangents(library, name):
    with pytest.raises(ValueError, match=r"d_out has shape \(3,\); it must have the shape of x, \(2, 3\)"):
        library.call(ACTIVATION_VJPS[name], np.zeros(3), np.zeros((2, 3)))
    with pytest.raises(TypeError, match="x has dtype int64"):
        library.call(ACTIVATION_VJPS[name], np.zeros(3), np.zeros(3, dtype=np.int64))
    found = library.call(ACTIVATION_VJPS[name], np.ones(2, dtype=np.float32), np.ones(2, dtype=np.float32)).x
    assert found.dtype == np.float32


# --- networks -------------------------------------------------------------------------------------------------------


@pytest.mark.clause("GRAD-LINEAR")
@given(seed=rng, lead=st.sampled_from([(), (3,), (2, 3), (0,)]), bias=st.booleans())
def test_gradients_of_a_linear_projection_are_derivatives(library, seed, lead, bias):
    x, w, d_out = floats_for(seed, (*lead, 4)), floats_for(seed + 1, (4, 5)), floats_for(seed + 2, (*lead, 5))
    arguments = {"x": x, "w": w} | ({"b": floats_for(seed + 3, (5,))} if bias else {})
    found = results(linear_vjp, library.call(linear_vjp, d_out, **arguments))
    assert set(found) == set(arguments)
    assert_derivative(lambda x, w, b=0.0: np.sum(d_out * (x @ w + b)), arguments, found, seed)


def weights_for(seed, kind, bias):
    shapes = {"w_in": (4, 6), "b_in": (6,), "w_out": (6, 3), "b_out": (3,)}
    if kind is GatedFeedForwardParams:
        shapes = {"w_gate": (4, 6), "w_up": (4, 6), "w_out": (6, 3), "b_gate": (6,), "b_up": (6,), "b_out": (3,)}
    found = {name: floats_for([seed, n], shape) for n, (name, shape) in enumerate(shapes.items())}
    return kind(**{name: None if name.startswith("b_") and not bias else x for name, x in found.items()})


NETWORKS = {
    FeedForwardParams: (refattn.feed_forward, feed_forward_vjp),
    GatedFeedForwardParams: (refattn.gated_feed_forward, gated_feed_forward_vjp),
}


@pytest.mark.clause("GRAD-FFN", "GRAD-GLU", "GRAD-ACT")
@pytest.mark.parametrize("activation", ["identity", "gelu", "gelu_tanh", "silu", refattn.softplus, refattn.tanh])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", NETWORKS)
def test_gradients_of_networks_are_derivatives(library, kind, bias, activation):
    function, vjp = NETWORKS[kind]
    arguments = {"x": floats_for(1, (2, 3, 4)), "params": weights_for(2, kind, bias)}
    d_out = floats_for(3, (2, 3, 3))
    found = library.call(vjp, d_out, **arguments, activation=activation)
    assert isinstance(found.params, kind)
    wanted = {"x", *(f"params.{name}" for name, x in arguments["params"]._asdict().items() if x is not None)}
    found = results(vjp, found)
    assert set(found) == wanted
    assert_derivative(lambda **a: np.sum(d_out * function(**a, activation=activation)), arguments, found, 4)


@pytest.mark.clause("GRAD-FFN", "GRAD-GLU", "GRAD-REFUSE")
@pytest.mark.parametrize("kind", NETWORKS)
def test_an_activation_of_ones_own_needs_its_vjp(library, kind):
    _, vjp = NETWORKS[kind]
    x, params, d_out = floats_for(1, (3, 4)), weights_for(2, kind, True), floats_for(3, (3, 3))

    def half(x):
        return 0.5 * x

    with pytest.raises(ValueError, match=r"activation is .*half.*, none of refattn's: give .* activation_vjp"):
        library.call(vjp, d_out, x, params, activation=half)
    with pytest.raises(ValueError, match="activation is 'swish'; it must be one of"):
        library.call(vjp, d_out, x, params, activation="swish")
    for own in (lambda d, x: 0.5 * d, lambda d, x: (0.5 * d,)):
        found = library.call(vjp, d_out, x, params, activation=half, activation_vjp=own)
        want = library.call(vjp, 0.5 * d_out, x, params, activation="identity")
        close(found.x, want.x)
    with pytest.raises(ValueError, match=r"d_out has shape \(3, 4\); it must have the shape of the result, \(3, 3\)"):
        library.call(vjp, x, x, params)
    with pytest.raises(ValueError, match="has shape"):
        library.call(vjp, d_out, x[:, :3], params)
    with pytest.raises(TypeError, match="params is a tuple"):
        library.call(vjp, d_out, x, (1, 2))


@pytest.mark.clause("GRAD-LINEAR", "GRAD-REFUSE")
def test_linear_refuses_shapes_that_do_not_fit(library):
    x, w, d = np.zeros((3, 4)), np.zeros((4, 5)), np.zeros((3, 5))
    for arguments, message in (
        ((d, x, np.zeros((3, 5))), r"w has shape \(3, 5\), x has shape \(3, 4\): w must be \(E, C\) with E = 4"),
        ((d, x, w, np.zeros(4)), r"b has shape \(4,\); it must be \(C,\) = \(5,\)"),
        ((x, x, w), r"d_out has shape \(3, 4\)"),
    ):
        with pytest.raises(ValueError, match=message):
            library.call(linear_vjp, *arguments)


# --- rotation -------------------------------------------------------------------------------------------------------

ROPE = st.fixed_dictionaries(
    {},
    optional={
        "layout": st.sampled_from(["interleaved", "half"]),
        "rotary_dim": st.sampled_from([2, 4, 6]),
        "base": st.sampled_from([100.0, 1e6]),
        "scaling": st.sampled_from([positions.Linear(4.0), positions.YaRN(4.0, 32)]),
    },
)


@pytest.mark.clause("GRAD-ROPE", "GRAD-BROADCAST")
@given(seed=rng, options=ROPE, lead=st.sampled_from([(), (2,), (2, 1)]))
def test_the_gradient_of_rope_is_its_transpose(library, seed, options, lead):
    x = floats_for(seed, (3, 5, 6))
    places = np.random.default_rng(seed).integers(0, 1000, size=(*lead[:1], *lead[1:], 5) if lead != (2,) else (3, 5))
    y = refattn.rope(x, places, **options)
    d_out = floats_for(seed + 1, y.shape)
    found = library.call(rope_vjp, d_out, x, places, **options).x
    assert found.shape == x.shape
    close(np.sum(found * x), np.sum(d_out * y))  # <Rᵀd, x> = <d, Rx>
    z = floats_for(seed + 2, x.shape)
    close(np.sum(found * z), np.sum(d_out * refattn.rope(z, places, **options)))


@pytest.mark.clause("GRAD-ROPE", "GRAD-BROADCAST")
@given(seed=rng, layout=st.sampled_from(["interleaved", "half"]), lead=st.sampled_from([(), (3,), (2, 1)]))
def test_gradients_of_rotate_are_derivatives(library, seed, layout, lead):
    arguments = {
        "x": floats_for(seed, (3, 5, 7)),
        "cos": floats_for(seed + 1, (*lead, 5, 2)),
        "sin": floats_for(seed + 2, (5, 2)),
    }
    options = {"layout": layout, "rotary_dim": 4}
    d_out = floats_for(seed + 3, positions.rotate(**arguments, **options).shape)
    found = results(rotate_vjp, library.call(rotate_vjp, d_out, **arguments, **options))
    assert_derivative(lambda **a: np.sum(d_out * positions.rotate(**a, **options)), arguments, found, seed)


@pytest.mark.clause("GRAD-ROPE", "GRAD-REFUSE")
def test_rotations_refuse_other_cotangents(library):
    x, table = np.zeros((3, 5, 6)), np.zeros((2, 1, 5, 3))
    with pytest.raises(ValueError, match=r"d_out has shape \(3, 5, 6\).*the result, \(2, 3, 5, 6\)"):
        library.call(rotate_vjp, x, x, table, table)
    with pytest.raises(ValueError, match=r"d_out has shape \(3, 5, 4\)"):
        library.call(rope_vjp, x[..., :4], x, np.arange(5))


# --- recomputation --------------------------------------------------------------------------------------------------


def chain(seed, length, width=4):
    """Blocks of every kind, with parameters and without."""
    blocks = []
    for n in range(length):
        w_in, w_out = floats_for([seed, n, 0], (width, 2 * width)), floats_for([seed, n, 1], (2 * width, width))
        blocks.append(
            [
                Block("layer_norm", {"gamma": floats_for([seed, n, 2], (width,)), "eps": 0.1}),
                Block(
                    refattn.feed_forward, {"params": FeedForwardParams(w_in, None, w_out, None), "activation": "silu"}
                ),
                "softmax",
                refattn.tanh,
            ][n % 4]
        )
    return blocks


@pytest.mark.clause("GRAD-CHECKPOINT")
@pytest.mark.parametrize("length", [1, 2, 7, 9, 16])
def test_recomputation_gives_the_same_bits_as_storage(length):
    x, d_out, blocks = floats_for(1, (3, 4)), floats_for(2, (3, 4)), chain(3, length)
    whole = checkpoint_vjp(d_out, x, blocks, every=1)
    for every in (None, 2, 3, 5, length, length + 3):
        run = checkpoint(x, blocks, every=every)
        assert len(run.kept) == -(-length // run.every)
        np.testing.assert_array_equal(run.out, checkpoint(x, blocks, every=1).out)
        for found in (checkpoint_vjp(d_out, run, blocks), checkpoint_vjp(d_out, x, blocks, every=every)):
            got, stored = results(checkpoint_vjp, found), results(checkpoint_vjp, whole)
            assert got.keys() == stored.keys()
            for name, want in stored.items():
                np.testing.assert_array_equal(got[name], want)
    assert len(whole.blocks) == length
    assert checkpoint(x, blocks).every == {1: 1, 2: 2, 7: 3, 9: 3, 16: 4}[length]
    assert all(gradients[0] is None for gradients in whole.blocks)


@pytest.mark.clause("GRAD-CHECKPOINT")
def test_gradients_of_a_chain_are_derivatives(library):
    x, d_out, gamma = floats_for(1, (3, 4)), floats_for(2, (3, 4)), floats_for(3, (4,))

    def blocks(gamma):
        return ["tanh", Block("rms_norm", {"gamma": gamma}), "silu"]

    def value(x, gamma):
        return np.sum(d_out * refattn.silu(refattn.rms_norm(refattn.tanh(x), gamma)))

    found = library.call(lambda d_out, x, gamma: checkpoint_vjp(d_out, x, blocks(gamma), every=2), d_out, x, gamma)
    assert_derivative(value, {"x": x, "gamma": gamma}, {"x": found.x, "gamma": found.blocks[1].gamma}, 4)


@pytest.mark.clause("GRAD-CHECKPOINT")
def test_recomputation_needs_the_square_root_of_the_memory():
    """The forward and the backward pass together, in activations of 1 MB, for 100 blocks."""
    size, length = 2**17, 100
    x, d_out = np.full(size, 0.5), np.ones(size)

    def peak(every):
        tracemalloc.start()
        checkpoint_vjp(d_out, x, ["tanh"] * length, every=every)
        found = tracemalloc.get_traced_memory()[1] / (8 * size)
        tracemalloc.stop()
        return found

    few, all_of_them = peak(None), peak(1)
    assert all_of_them > length
    assert few < 2 * 10 + 10


@pytest.mark.clause("GRAD-CHECKPOINT")
def test_blocks_run_twice_forward_and_once_backward():
    calls = []

    def own(x, name):
        calls.append(name)
        return 2.0 * x

    def own_vjp(d_out, x, name):
        calls.append(f"-{name}")
        return refattn.gradients.InputGradient(2.0 * d_out)

    blocks = [Block(own, {"name": str(n)}, own_vjp) for n in range(4)]
    run = checkpoint(np.ones(1), blocks, every=2)
    assert calls == ["0", "1", "2", "3"]
    calls.clear()
    assert checkpoint_vjp(np.ones(1), run, blocks).x[0] == 16.0
    assert calls == ["2", "-3", "-2", "0", "-1", "-0"]  # the last block of a segment need not run again


@pytest.mark.clause("GRAD-CHECKPOINT", "GRAD-REFUSE")
def test_blocks_that_cannot_be_differentiated_are_refused():
    x = np.ones(3)
    with pytest.raises(TypeError, match="block 1 is 'no_such'; it must be a Block, a function, or the name of one"):
        checkpoint(x, ["tanh", "no_such"])
    with pytest.raises(TypeError, match="block 0 is 3"):
        checkpoint(x, [3])
    with pytest.raises(
        ValueError, match=r"block 0 has no vjp, and refattn knows none for .*: give Block\(..., vjp=...\)"
    ):
        checkpoint(x, [lambda x: x])
    with pytest.raises(ValueError, match="every is 0; it must be at least 1"):
        checkpoint(x, ["tanh"], every=0)
    run = checkpoint(x, ["tanh"] * 9)
    with pytest.raises(ValueError, match="x holds 3 kept activations, one for every 3 blocks; there are 10 blocks"):
        checkpoint_vjp(x, run, ["tanh"] * 10)
    nothing = checkpoint_vjp(x, x, [])
    np.testing.assert_array_equal(nothing.x, x)
    assert nothing.blocks == ()
