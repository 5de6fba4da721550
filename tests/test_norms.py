"""Properties of LayerNorm, RMSNorm and DeepNorm's constants."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refattn.norms import deepnorm_constants, layer_norm, rms_norm
from tests.strategies import floats_for, rng

shapes = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(2, 7))
axes = st.sampled_from([-1, -2, 0, 2, (-1,), (1, 2), (-2, -1), (0, 1, 2), (0, 2)])


def close(a, b, scale=1.0):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * scale)


def size_of(x, axis):
    """The shape of the normalised axes."""
    return tuple(x.shape[n] for n in (axis if isinstance(axis, tuple) else (axis,)))


def beside(weight, x, axis):
    """A weight with axes of length 1 where x is not normalised."""
    named = {n % x.ndim for n in (axis if isinstance(axis, tuple) else (axis,))}
    return np.reshape(weight, [x.shape[n] if n in named else 1 for n in range(x.ndim)])


@pytest.mark.clause("LAYERNORM-OUT", "LAYERNORM-VARIANCE", "NORM-AFFINE")
def test_layer_norm_by_hand(library):
    x = np.array([[1.0, 3.0, 1.0, 3.0], [-10.0, 2.0, -4.0, -4.0]])  # means 2 and -4, variances 1 and 18
    gamma, beta = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 0.0, 10.0, -10.0])
    root = np.sqrt(18.0)
    want = [[-1.0, 2.0, 7.0, -6.0], [-6.0 / root, 12.0 / root, 10.0, -10.0]]
    close(library.call(layer_norm, x, gamma, beta, eps=0.0), want)
    close(library.call(layer_norm, x, gamma, eps=0.0), np.array(want) - beta)
    close(library.call(layer_norm, x[0], None, eps=3.0), [-0.5, 0.5, -0.5, 0.5])


@pytest.mark.clause("RMSNORM-OUT", "RMSNORM-OFFSET", "NORM-AFFINE")
def test_rms_norm_by_hand(library):
    x, gamma = np.array([[1.0, 7.0], [-3.0, 0.0]]), np.array([10.0, 20.0])  # mean squares 25 and 4.5
    close(library.call(rms_norm, x, gamma, eps=0.0), [[2.0, 28.0], [-10.0 * np.sqrt(2.0), 0.0]])
    close(library.call(rms_norm, x[0], gamma, eps=0.0, unit_offset=True), [2.2, 29.4])
    close(library.call(rms_norm, x[0], None, eps=75.0), [0.1, 0.7])


@pytest.mark.clause("LAYERNORM-OUT", "LAYERNORM-VARIANCE", "NORM-AXES")
@given(shape=shapes, axis=axes, seed=rng)
def test_layer_norm_has_mean_0_and_variance_1_over_its_axes(library, shape, axis, seed):
    x = floats_for(seed, shape, scale=5.0)
    y = library.call(layer_norm, x, None, axis=axis, eps=0.0)
    if np.prod(size_of(x, axis)) > 1:
        close(y.mean(axis=axis), np.zeros_like(y.mean(axis=axis)), 100)
        close((y * y).mean(axis=axis), np.ones_like(y.mean(axis=axis)))


@pytest.mark.clause("RMSNORM-OUT", "NORM-AXES")
@given(shape=shapes, axis=axes, seed=rng)
def test_rms_norm_has_mean_square_1_over_its_axes_and_keeps_directions(library, shape, axis, seed):
    x = floats_for(seed, shape, scale=5.0)
    y = library.call(rms_norm, x, None, axis=axis, eps=0.0)
    close((y * y).mean(axis=axis), np.ones_like(y.mean(axis=axis)))
    close(y * np.sqrt((x * x).mean(axis=axis, keepdims=True)), x)


@pytest.mark.clause("LAYERNORM-SHIFT", "NORM-SCALE")
@given(
    shape=shapes, axis=axes, seed=rng, scale=st.sampled_from([2.0**-40, 0.125, 8.0, 2.0**40]), shift=st.floats(-1, 1)
)
def test_layer_norm_ignores_shift_and_scale(library, shape, axis, seed, scale, shift):
    x, shift = np.round(floats_for(seed, shape) * 64) / 64, round(shift * 2**20) / 64  # so that x + shift is exact
    if np.any(x.var(axis=axis) == 0):
        return
    want = library.call(layer_norm, x, None, axis=axis, eps=0.0)
    close(library.call(layer_norm, scale * (x + shift), None, axis=axis, eps=0.0), want)


@pytest.mark.clause("LAYERNORM-SHIFT")
def test_layer_norm_of_float32_far_from_0_is_as_good_as_near(library):
    x = np.round(floats_for(1, (50, 100)) * 8).astype(np.float32) / 8
    far = x + np.float32(2.0**20)
    np.testing.assert_array_equal(far - np.float32(2.0**20), x)
    want = layer_norm(x.astype(np.float64), None)
    np.testing.assert_allclose(library.call(layer_norm, far, None), want, rtol=0, atol=1e-6)


@pytest.mark.clause("NORM-SCALE", "RMSNORM-OUT")
@given(shape=shapes, axis=axes, seed=rng, scale=st.sampled_from([2.0**-40, 0.125, 3.0, 2.0**40]))
def test_rms_norm_ignores_scale_but_not_shift(library, shape, axis, seed, scale):
    x = floats_for(seed, shape)
    want = library.call(rms_norm, x, None, axis=axis, eps=0.0)
    close(library.call(rms_norm, scale * x, None, axis=axis, eps=0.0), want)
    if x.size > 1 and np.prod(size_of(x, axis)) > 1:
        assert np.abs(library.call(rms_norm, x + 3.0, None, axis=axis, eps=0.0) - want).max() > 1e-3


@pytest.mark.clause("RMSNORM-OUT", "LAYERNORM-OUT", "NORM-EPS")
@given(shape=shapes, axis=axes, seed=rng, eps=st.sampled_from([0.0, 1e-6, 0.1, 10.0]))
def test_without_mean_the_two_agree(library, shape, axis, seed, eps):
    x = floats_for(seed, shape)
    x = x - x.mean(axis=axis, keepdims=True)
    if np.prod(size_of(x, axis)) == 1:
        return
    gamma = floats_for(seed + 1, size_of(x, axis))
    close(
        library.call(rms_norm, x, gamma, axis=axis, eps=eps),
        library.call(layer_norm, x, gamma, axis=axis, eps=eps),
        100,
    )


@pytest.mark.clause("NORM-AFFINE", "RMSNORM-OFFSET")
@given(shape=shapes, axis=axes, seed=rng)
def test_gain_and_offset_act_entry_by_entry_afterwards(library, shape, axis, seed):
    x = floats_for(seed, shape)
    gamma, beta = floats_for(seed + 1, size_of(x, axis)), floats_for(seed + 2, size_of(x, axis))
    normal = library.call(layer_norm, x, None, axis=axis)
    g, b = beside(gamma, x, axis), beside(beta, x, axis)
    close(library.call(layer_norm, x, gamma, beta, axis=axis), normal * g + b)
    close(library.call(layer_norm, x, None, beta, axis=axis), normal + b)
    normal = library.call(rms_norm, x, None, axis=axis)
    close(library.call(rms_norm, x, gamma, axis=axis), normal * g)
    close(library.call(rms_norm, x, gamma, axis=axis, unit_offset=True), normal * (1 + g))
    close(library.call(rms_norm, x, np.zeros_like(gamma), axis=axis, unit_offset=True), normal)


@pytest.mark.clause("NORM-EPS")
@pytest.mark.parametrize("value", [0.0, 0.1, -7e4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_without_spread_give_beta_and_zeros_give_zeros(library, value, dtype):
    gamma, beta = floats_for(1, 7).astype(dtype), floats_for(2, 7).astype(dtype)
    row = np.full((3, 7), value, dtype=dtype)
    np.testing.assert_array_equal(library.call(layer_norm, row, gamma, beta), np.broadcast_to(beta, (3, 7)))
    zeros = library.call(rms_norm, np.zeros((3, 7), dtype=dtype), gamma)
    np.testing.assert_array_equal(zeros, np.zeros((3, 7)))


@pytest.mark.clause("NORM-EPS")
@pytest.mark.parametrize("eps", [1e-12, 1e-6, 1e-5, 1e-3])
def test_epsilon_is_inside_the_root(library, eps):
    x = np.sqrt(eps) * np.array([1.0, -1.0])  # mean 0; variance and mean square are epsilon
    close(library.call(layer_norm, x, None, eps=eps), np.array([1.0, -1.0]) / np.sqrt(2.0))
    close(library.call(rms_norm, x, None, eps=eps), np.array([1.0, -1.0]) / np.sqrt(2.0))


@pytest.mark.clause("NORM-EPS")
def test_default_epsilons(library):
    x = np.array([1e-3, -1e-3])
    close(library.call(layer_norm, x, None), library.call(layer_norm, x, None, eps=1e-5))
    close(library.call(rms_norm, x, None), library.call(rms_norm, x, None, eps=1e-6))


def test_with_epsilon_0_a_row_without_spread_is_nan(library):
    assert np.isnan(library.call(layer_norm, np.ones((2, 3)), None, eps=0.0)).all()
    assert np.isnan(library.call(rms_norm, np.zeros((2, 3)), None, eps=0.0)).all()


@pytest.mark.clause("NORM-AXES")
def test_an_integer_is_one_axis_and_a_tuple_several_together(library):
    x = floats_for(3, (2, 3, 5))
    gamma = floats_for(4, 3)
    moved = library.call(layer_norm, np.moveaxis(x, 1, -1).copy(), gamma)
    close(library.call(layer_norm, x, gamma, axis=1), np.moveaxis(moved, -1, 1))
    close(library.call(rms_norm, x, gamma, axis=-2), np.moveaxis(rms_norm(np.moveaxis(x, 1, -1), gamma), -1, 1))
    flat = library.call(layer_norm, x.reshape(2, 15), None)
    close(library.call(layer_norm, x, None, axis=(1, 2)), flat.reshape(2, 3, 5))
    close(library.call(layer_norm, x, None, axis=[-2, -1]), flat.reshape(2, 3, 5))


@pytest.mark.clause("NORM-AXES")
@given(seed=rng)
def test_other_rows_have_no_influence(library, seed):
    x = floats_for(seed, (3, 4, 5))
    changed = x.copy()
    changed[1] = np.nan
    for function in (layer_norm, rms_norm):
        got, want = library.call(function, changed, None, axis=(-2, -1)), library.call(function, x, None, axis=(-2, -1))
        np.testing.assert_array_equal(got[[0, 2]], want[[0, 2]])
        assert np.isnan(got[1]).all()


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 0, 3)])
def test_nothing_stays_nothing(library, shape):
    weight = np.ones(shape[-1])
    assert library.call(layer_norm, np.zeros(shape), weight, weight).shape == shape
    assert library.call(rms_norm, np.zeros(shape), weight).shape == shape


def test_strided_reversed_and_read_only_inputs(library):
    x = floats_for(5, (6, 8, 10))
    view, gamma = x[::-2, 1::3, ::-2], floats_for(6, 10)[::-2]
    view.flags.writeable = gamma.flags.writeable = False
    np.testing.assert_array_equal(
        library.call(layer_norm, view, gamma, gamma), library.call(layer_norm, view.copy(), gamma.copy(), gamma.copy())
    )
    np.testing.assert_array_equal(
        library.call(rms_norm, view, gamma), library.call(rms_norm, view.copy(), gamma.copy())
    )


def test_float16_is_computed_and_returned_in_float32():
    x = np.array([300.0, -400.0, 60000.0], dtype=np.float16)  # squares overflow float16
    for function in (layer_norm, rms_norm):
        got = function(x, None)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, function(x.astype(np.float64), None), rtol=1e-6)


@pytest.mark.clause("DEEPNORM-CONSTANTS")
def test_deepnorm_constants_by_hand():
    close(deepnorm_constants("encoder", encoder_layers=8), (2.0, 1 / 8**0.5))
    close(deepnorm_constants("decoder", decoder_layers=2), (2**0.5, 0.5))
    both = {"encoder_layers": 4, "decoder_layers": 256}  # N⁴M = 2^16
    close(deepnorm_constants("encoder", **both), (1.62, 0.435))
    both = {"encoder_layers": 5, "decoder_layers": 27}
    close(deepnorm_constants("decoder", **both), (3.0, 324**-0.25))
    assert all(type(x) is float for x in deepnorm_constants("encoder", **both))


@pytest.mark.clause("NORM-REFUSE")
def test_errors_say_what_was_wrong(library):
    x, gamma = library.array(np.zeros((2, 3, 8))), library.array(np.ones(8))
    seven = library.array(np.ones(7))
    with pytest.raises(ValueError, match=r"gamma has shape \(7,\), x has shape \(2, 3, 8\): .*normalised axes, \(8,\)"):
        layer_norm(x, seven)
    with pytest.raises(ValueError, match=r"beta has shape \(7,\), x has shape \(2, 3, 8\): .*normalised axes, \(8,\)"):
        layer_norm(x, gamma, seven)
    with pytest.raises(ValueError, match=r"gamma has shape \(8,\), .*normalised axes, \(3, 8\)"):
        rms_norm(x, gamma, axis=(-2, -1))
    with pytest.raises(ValueError, match=r"gamma has shape \(1,\)"):
        rms_norm(x, gamma[:1])
    with pytest.raises(ValueError, match=r"axis is 3; x has shape \(2, 3, 8\), so it must be from -3 to 2"):
        layer_norm(x, None, axis=3)
    for axis in ((), (1, 1), (2, 1), (-1, -2), (1, -2)):
        with pytest.raises(ValueError, match=r"axis is \(.*\); it must name .* each once and in increasing order"):
            rms_norm(x, None, axis=axis)
    with pytest.raises(TypeError, match=r"axis must be an integer, not 1\.0"):
        layer_norm(x, None, axis=1.0)
    for eps in (-1e-9, float("nan")):
        with pytest.raises(ValueError, match=r"eps is (-1e-09; it must be at least 0|nan; it must be finite)"):
            layer_norm(x, gamma, eps=eps)
    with pytest.raises(TypeError, match="eps must be a real number, not '1e'"):
        rms_norm(x, gamma, eps="1e")
    with pytest.raises(TypeError, match="x has dtype int64; it must be floating-point"):
        rms_norm(library.array(np.zeros(3, dtype=np.int64)), None)
    with pytest.raises(TypeError, match="gamma is a list; it must be a NumPy or CuPy array"):
        layer_norm(x, [1.0] * 8)
    with pytest.raises(ValueError, match="axis is -1; x has shape"):
        layer_norm(library.array(np.array(1.0)), None)


@pytest.mark.clause("DEEPNORM-CONSTANTS")
def test_errors_of_deepnorm_say_what_was_wrong():
    with pytest.raises(ValueError, match="part is 'middle'; it must be one of 'encoder', 'decoder'"):
        deepnorm_constants("middle", encoder_layers=3)
    with pytest.raises(ValueError, match="decoder_layers is 0; the decoder of a model must have at least 1"):
        deepnorm_constants("decoder", encoder_layers=3)
    with pytest.raises(ValueError, match="encoder_layers is -1; it must be at least 0"):
        deepnorm_constants("encoder", encoder_layers=-1)
    with pytest.raises(ValueError, match="decoder_layers is -2; it must be at least 0"):
        deepnorm_constants("encoder", encoder_layers=1, decoder_layers=-2)
    with pytest.raises(TypeError, match=r"encoder_layers must be an integer, not 2\.5"):
        deepnorm_constants("encoder", encoder_layers=2.5)
