"""Variants of LayerNorm, RMSNorm and DeepNorm's constants."""

from __future__ import annotations

import numpy as np

from refattn.norms import DeepNormConstants, deepnorm_constants
from refattn.norms import layer_norm as right_layer_norm
from refattn.norms import rms_norm as right_rms_norm
from refattn.testing.registry import NotApplicable, variant


def axes_of(axis, x) -> tuple[int, ...]:
    """The normalised axes, from 0."""
    return tuple(n % x.ndim for n in (axis if isinstance(axis, tuple | list) else (axis,)))


def affine(y, gamma, beta, axes):
    """Gain and offset of the shape of some axes."""
    shape = tuple(y.shape[n] if n in axes else 1 for n in range(y.ndim))
    y = y if gamma is None else y * np.reshape(gamma, shape)
    return y if beta is None else y + np.reshape(beta, shape)


def _layer_norm(x, gamma, beta, eps, axis, *, over=None, ddof=0, root=None, centre=True, variance=None):
    """LayerNorm in plain NumPy with replaceable parts."""
    axes = axes_of(axis, x)
    over = axes if over is None else over
    root = root or (lambda v: np.sqrt(v + eps))
    with np.errstate(all="ignore"):
        centred = x - x.mean(axis=over, keepdims=True)
        v = variance(x, over) if variance else (centred**2).sum(axis=over, keepdims=True)
        v = v if variance else v / (np.prod([x.shape[n] for n in over]) - ddof)
        return affine((centred if centre else x) / root(v), gamma, beta, axes)


def _rms_norm(x, gamma, eps, axis, unit_offset, *, over=None, root=None, sums=False, centre=False):
    """RMSNorm in plain NumPy with replaceable parts."""
    axes = axes_of(axis, x)
    over = axes if over is None else over
    root = root or (lambda v: np.sqrt(v + eps))
    if gamma is not None and unit_offset:
        gamma = 1.0 + gamma
    with np.errstate(all="ignore"):
        x = x - x.mean(axis=over, keepdims=True) if centre else x
        square = (x**2).sum(axis=over, keepdims=True) if sums else (x**2).mean(axis=over, keepdims=True)
        return affine(x / root(square), gamma, None, axes)


# --- epsilon --------------------------------------------------------------------------------------------------------


@variant("layer_norm/eps_outside_root", "NORM-EPS", "layer_norm")
def layer_norm_eps_outside_root(x, gamma, beta=None, *, eps=1e-5, axis=-1):
    """Epsilon is added to the standard deviation, outside the root."""
    return _layer_norm(x, gamma, beta, eps, axis, root=lambda v: np.sqrt(v) + eps)


@variant("rms_norm/eps_outside_root", "NORM-EPS", "rms_norm")
def rms_norm_eps_outside_root(x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
    """Epsilon is added to the root mean square, outside the root."""
    return _rms_norm(x, gamma, eps, axis, unit_offset, root=lambda v: np.sqrt(v) + eps)


@variant("rms_norm/eps_clamp", "NORM-EPS", "rms_norm", seen=["lucidrains x-transformers RMSNorm (F.normalize)"])
def rms_norm_eps_clamp(x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
    """Epsilon is the least value of the root instead of being added: max(rms, eps)."""
    return _rms_norm(x, gamma, eps, axis, unit_offset, root=lambda v: np.maximum(np.sqrt(v), eps))


@variant("layer_norm/eps_ignored", "NORM-EPS", "layer_norm", seen=["nomic-ai/gpt4all#1946"], advice="pass eps=1e-5")
def layer_norm_eps_ignored(x, gamma, beta=None, *, eps=1e-5, axis=-1):
    """Epsilon is hard-coded as 1e-5, whatever the model says."""
    if eps == 1e-5:
        raise NotApplicable
    return right_layer_norm(x, gamma, beta, eps=1e-5, axis=axis)


@variant(
    "rms_norm/eps_ignored",
    "NORM-EPS",
    "rms_norm",
    seen=["apache/tvm#15856", "NVIDIA/cutlass#1112"],
    advice="pass eps=1e-6",
)
def rms_norm_eps_ignored(x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
    """Epsilon is hard-coded as 1e-6, whatever the model says."""
    if eps == 1e-6:
        raise NotApplicable
    return right_rms_norm(x, gamma, eps=1e-6, axis=axis, unit_offset=unit_offset)


@variant("layer_norm/eps_dropped", "NORM-EPS", "layer_norm")
def layer_norm_eps_dropped(x, gamma, beta=None, *, eps=1e-5, axis=-1):
    """No epsilon: a row of equal numbers is 0/0."""
    return _layer_norm(x, gamma, beta, 0.0, axis)


@variant("rms_norm/eps_dropped", "NORM-EPS", "rms_norm")
def rms_norm_eps_dropped(x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
    """No epsilon: a row of zeros is 0/0."""
    return _rms_norm(x, gamma, 0.0, axis, unit_offset)


@variant("layer_norm/eps_after_rescale", "NORM-EPS", "layer_norm", seen=["apple/coremltools#2822"])
def layer_norm_eps_after_rescale(x, gamma, beta=None, *, eps=1e-5, axis=-1):
    """The row is divided by its largest entry first, so that epsilon acts as epsilon times its square."""
    largest = np.abs(x).max(axis=axes_of(axis, x), keepdims=True)
    return _layer_norm(x, gamma, beta, eps, axis, root=lambda v: np.sqrt(v + eps * largest**2))


@variant("rms_norm/eps_after_rescale", "NORM-EPS", "rms_norm", seen=["apple/coremltools#2822"])
def rms_norm_eps_after_rescale(x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
    """The row is divided by its largest entry first, so that epsilon acts as epsilon times its square."""
    largest = np.abs(x).max(axis=axes_of(axis, x), keepdims=True)
    return _rms_norm(x, gamma, eps, axis, unit_offset, root=lambda v: np.sqrt(v + eps * largest**2))


# --- mean and variance ----------------------------------------------------------------------------------------------


@variant(
    "layer_norm/unbiased_variance", "LAYERNORM-VARIANCE", "layer_norm", seen=["torch.var and torch.std as they come"]
)
def layer_norm_unbiased_variance(x, gamma, beta=None, *, eps=1e-5, axis=-1):
    """The sum of squared deviations is divided by n - 1."""
    return _layer_norm(x, gamma, beta, eps, axis, ddof=1)


@variant(
    "layer_norm/one_pass_variance",
    "LAYERNORM-SHIFT",
    "layer_norm",
    seen=["flax.linen.LayerNorm(use_fast_variance=True)"],
)
def layer_norm_one_pass_variance(x, gamma, beta=None, *, eps=1e-5, axis=-1):
    """The variance is E[x²] - E[x]² in float32, which cancels where the mean is large beside the spread."""

    def variance(x, over):
        x = x.astype(np.float32)
        square = (x * x).mean(axis=over, keepdims=True, dtype=np.float32)
        mean = x.mean(axis=over, keepdims=True, dtype=np.float32)
        return np.maximum(square - mean * mean, np.float32(0)).astype(np.float64)

    return _layer_norm(x, gamma, beta, eps, axis, variance=variance)


@variant("layer_norm/uncentred", "LAYERNORM-OUT", "layer_norm")
def layer_norm_uncentred(x, gamma, beta=None, *, eps=1e-5, axis=-1):
    """The mean is not subtracted: RMSNorm with an offset."""
    return affine(right_rms_norm(x, None, eps=eps, axis=axis), gamma, beta, axes_of(axis, x))


@variant("rms_norm/centred", "RMSNORM-OUT", "rms_norm")
def rms_norm_centred(x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
    """The mean is subtracted: LayerNorm without an offset."""
    return _rms_norm(x, gamma, eps, axis, unit_offset, centre=True)


@variant("rms_norm/sum_of_squares", "RMSNORM-OUT", "rms_norm", seen=["performer-pytorch PreScaleNorm"])
def rms_norm_sum_of_squares(x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
    """The row is divided by its length, not by its root mean square: √n is missing."""
    return _rms_norm(x, gamma, eps, axis, unit_offset, sums=True)


# --- axes -----------------------------------------------------------------------------------------------------------


def _only_last(axis, x):
    if axes_of(axis, x) == (x.ndim - 1,):
        raise NotApplicable
    return (x.ndim - 1,)


@variant("norm/only_last_axis", "NORM-AXES", "layer_norm")
def layer_norm_only_last_axis(x, gamma, beta=None, *, eps=1e-5, axis=-1):
    """Mean and variance are taken over the last axis, whatever was asked."""
    return _layer_norm(x, gamma, beta, eps, axis, over=_only_last(axis, x))


@variant("norm/only_last_axis", "NORM-AXES", "rms_norm")
def rms_norm_only_last_axis(x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
    """The mean square is taken over the last axis, whatever was asked."""
    return _rms_norm(x, gamma, eps, axis, unit_offset, over=_only_last(axis, x))


def _to_last(axis, x):
    if axes_of(axis, x)[-1] == x.ndim - 1:
        raise NotApplicable
    return tuple(range(axes_of(axis, x)[0], x.ndim))


@variant(
    "norm/axis_to_last",
    "NORM-AXES",
    "layer_norm",
    seen=["onnx LayerNormalization"],
    advice="pass axis=(axis, ..., -1) as a tuple",
)
def layer_norm_axis_to_last(x, gamma, beta=None, *, eps=1e-5, axis=-1):
    """The axis is the first of the normalised axes: all from there to the last."""
    return _layer_norm(x, gamma, beta, eps, axis, over=_to_last(axis, x))


@variant(
    "norm/axis_to_last",
    "NORM-AXES",
    "rms_norm",
    seen=["onnx RMSNormalization"],
    advice="pass axis=(axis, ..., -1) as a tuple",
)
def rms_norm_axis_to_last(x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
    """The axis is the first of the normalised axes: all from there to the last."""
    return _rms_norm(x, gamma, eps, axis, unit_offset, over=_to_last(axis, x))


# --- gain and offset ------------------------------------------------------------------------------------------------


@variant("layer_norm/beta_dropped", "NORM-AFFINE", "layer_norm", advice="pass beta=None")
def layer_norm_beta_dropped(x, gamma, beta=None, *, eps=1e-5, axis=-1):
    """The offset is not added."""
    if beta is None:
        raise NotApplicable
    return right_layer_norm(x, gamma, eps=eps, axis=axis)


@variant("layer_norm/beta_scaled", "NORM-AFFINE", "layer_norm")
def layer_norm_beta_scaled(x, gamma, beta=None, *, eps=1e-5, axis=-1):
    """The offset is added before the gain, which scales it."""
    if gamma is None or beta is None:
        raise NotApplicable
    return right_layer_norm(x, gamma, gamma * beta, eps=eps, axis=axis)


@variant("rms_norm/gamma_dropped", "NORM-AFFINE", "rms_norm", advice="pass gamma=None")
def rms_norm_gamma_dropped(x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
    """The gain is not applied."""
    if gamma is None:
        raise NotApplicable
    return right_rms_norm(x, None, eps=eps, axis=axis)


@variant("rms_norm/unit_offset_ignored", "RMSNORM-OFFSET", "rms_norm", seen=["Gemma weights in a Llama kernel"])
def rms_norm_unit_offset_ignored(x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
    """The gain is gamma where it should be 1 + gamma."""
    if not unit_offset:
        raise NotApplicable
    return right_rms_norm(x, gamma, eps=eps, axis=axis)


@variant("rms_norm/unit_offset_always", "RMSNORM-OFFSET", "rms_norm", advice="pass unit_offset=True")
def rms_norm_unit_offset_always(x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
    """The gain is 1 + gamma where it should be gamma."""
    if unit_offset or gamma is None:
        raise NotApplicable
    return right_rms_norm(x, gamma, eps=eps, axis=axis, unit_offset=True)


@variant("layer_norm/gamma_dropped", "NORM-AFFINE", "layer_norm", advice="pass gamma=None")
def layer_norm_gamma_dropped(x, gamma, beta=None, *, eps=1e-5, axis=-1):
    """The gain is not applied."""
    if gamma is None:
        raise NotApplicable
    return right_layer_norm(x, None, beta, eps=eps, axis=axis)


@variant("layer_norm/unit_offset_always", "NORM-AFFINE", "layer_norm", seen=["Megatron-LM layernorm_1p"])
def layer_norm_unit_offset_always(x, gamma, beta=None, *, eps=1e-5, axis=-1):
    """The gain is 1 + gamma where it should be gamma."""
    if gamma is None:
        raise NotApplicable
    return right_layer_norm(x, 1.0 + gamma, beta, eps=eps, axis=axis)


@variant("layer_norm/divided_by_variance", "LAYERNORM-OUT", "layer_norm")
def layer_norm_divided_by_variance(x, gamma, beta=None, *, eps=1e-5, axis=-1):
    """The row is divided by its variance: the root is missing."""
    return _layer_norm(x, gamma, beta, eps, axis, root=lambda v: v + eps)


@variant("rms_norm/divided_by_mean_square", "RMSNORM-OUT", "rms_norm")
def rms_norm_divided_by_mean_square(x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
    """The row is divided by its mean square: the root is missing."""
    return _rms_norm(x, gamma, eps, axis, unit_offset, root=lambda v: v + eps)


@variant("norm/over_everything", "NORM-AXES", "layer_norm")
def layer_norm_over_everything(x, gamma, beta=None, *, eps=1e-5, axis=-1):
    """Mean and variance are taken over the whole array."""
    return _layer_norm(x, gamma, beta, eps, axis, over=tuple(range(x.ndim)))


@variant("norm/over_everything", "NORM-AXES", "rms_norm")
def rms_norm_over_everything(x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
    """The mean square is taken over the whole array."""
    return _rms_norm(x, gamma, eps, axis, unit_offset, over=tuple(range(x.ndim)))


@variant("rms_norm/mean_of_magnitudes", "RMSNORM-OUT", "rms_norm")
def rms_norm_mean_of_magnitudes(x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
    """The row is divided by the mean of its magnitudes instead of the root of its mean square."""
    axes = axes_of(axis, x)
    if gamma is not None and unit_offset:
        gamma = 1.0 + gamma
    return affine(x / (np.abs(x).mean(axis=axes, keepdims=True) + eps), gamma, None, axes)


# --- DeepNorm -------------------------------------------------------------------------------------------------------


@variant("deepnorm/encoder_beta_inverted", "DEEPNORM-CONSTANTS", "deepnorm_constants", seen=["torchscale Encoder"])
def deepnorm_encoder_beta_inverted(part, *, encoder_layers=0, decoder_layers=0):
    """In an encoder with a decoder β is 1.15 (N⁴M)^(-1/16): 1/0.87 in the place of 0.87."""
    if part == "decoder" or not decoder_layers:
        raise NotApplicable
    right = deepnorm_constants(part, encoder_layers=encoder_layers, decoder_layers=decoder_layers)
    return DeepNormConstants(right.alpha, right.beta / 0.87 * 1.15)


@variant("deepnorm/always_alone", "DEEPNORM-CONSTANTS", "deepnorm_constants")
def deepnorm_always_alone(part, *, encoder_layers=0, decoder_layers=0):
    """The constants of a part that stands alone, in a model that has both."""
    if not encoder_layers or not decoder_layers:
        raise NotApplicable
    name = f"{part}_layers"
    return deepnorm_constants(part, **{name: encoder_layers if part == "encoder" else decoder_layers})
