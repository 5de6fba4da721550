"""Variants of the gradients of softmax, merge, norms, activations, networks, rotations and chains."""

from __future__ import annotations

import math

import numpy as np

from refattn.feedforward import GatedFeedForwardParams
from refattn.gradients import (
    ACTIVATION_VJPS,
    InputGradient,
    checkpoint,
    checkpoint_vjp,
    feed_forward_vjp,
    gated_feed_forward_vjp,
    gelu_vjp,
    layer_norm_vjp,
    linear_vjp,
    logsumexp_vjp,
    merge_vjp,
    multi_head_attention_vjp,
    rms_norm_vjp,
    rope_vjp,
    rotate_vjp,
)
from refattn.positions import rope, rotate
from refattn.softmax import softmax
from refattn.testing.mechanisms.norms.variants import axes_of
from refattn.testing.registry import NotApplicable, variant

# --- softmax --------------------------------------------------------------------------------------------------------


@variant("gradient/softmax_diagonal", "GRAD-SOFTMAX", "softmax_vjp")
def softmax_diagonal(d_out, x, axis=-1, where=None):
    """Only the diagonal of the Jacobian: p (1 - p) times the cotangent."""
    p = softmax(x, axis=axis, where=where)
    if p.shape != x.shape:
        raise NotApplicable
    return InputGradient(np.where(p > 0, p * (1.0 - p) * d_out, 0.0))


@variant("gradient/softmax_last_axis", "GRAD-SOFTMAX", "softmax_vjp")
def softmax_last_axis(d_out, x, axis=-1, where=None):
    """The sum in the gradient runs over the last axis, whatever axis was normalised."""
    if where is not None or axis % x.ndim == x.ndim - 1:
        raise NotApplicable
    p = softmax(x, axis=axis)
    return InputGradient(p * (d_out - np.sum(p * d_out, axis=-1, keepdims=True)))


@variant("gradient/softmax_absent_leaks", "GRAD-ABSENT", "softmax_vjp")
def softmax_absent_leaks(d_out, x, axis=-1, where=None):
    """Absent entries are multiplied by 0 instead of being left out: NaN in their cotangent leaks."""
    p = softmax(x, axis=axis, where=where)
    if p.shape != x.shape:
        raise NotApplicable
    return InputGradient(p * (d_out - np.sum(p * d_out, axis=axis, keepdims=True)))


@variant("gradient/lse_of_base_2", "GRAD-LSE", "logsumexp_vjp")
def lse_of_base_2(d_out, x, axis=-1, where=None):
    """The gradient of the logarithm to base 2."""
    return logsumexp_vjp(d_out / math.log(2.0), x, axis, where)


@variant("gradient/lse_empty_nan", "GRAD-EMPTY", "logsumexp_vjp", seen=["pytorch/pytorch#136232"])
def lse_empty_nan(d_out, x, axis=-1, where=None):
    """Where nothing is present the gradient is exp(-infinity - (-infinity)): NaN."""
    found = logsumexp_vjp(d_out, x, axis, where).x
    if where is None or np.shape(where) != x.shape:
        raise NotApplicable
    return InputGradient(np.where(np.any(where & ~np.isneginf(x), axis=axis, keepdims=True), found, np.nan))


@variant("gradient/merge_weights_constant", "GRAD-MERGE", "merge_vjp", seen=["microsoft/torchscale dilated attention"])
def merge_weights_constant(d_out, out_a, lse_a, out_b, lse_b, *, d_lse=None):
    """The weights of the two parts are taken for constants: no gradient through either log-sum-exp."""
    found = merge_vjp(d_out, out_a, lse_a, out_b, lse_b, d_lse=d_lse)
    return found._replace(lse_a=0.0 * found.lse_a, lse_b=0.0 * found.lse_b)


@variant("gradient/merge_lse_ignored", "GRAD-LSE", "merge_vjp")
def merge_lse_ignored(d_out, out_a, lse_a, out_b, lse_b, *, d_lse=None):
    """The cotangent of the merged log-sum-exp is dropped."""
    if d_lse is None:
        raise NotApplicable
    return merge_vjp(d_out, out_a, lse_a, out_b, lse_b)


@variant("gradient/merge_no_guard", "GRAD-ABSENT", "merge_vjp")
def merge_no_guard(d_out, out_a, lse_a, out_b, lse_b, *, d_lse=None):
    """Two empty parts give exp(-infinity - (-infinity)): NaN."""
    found = merge_vjp(d_out, out_a, lse_a, out_b, lse_b, d_lse=d_lse)
    both = np.isneginf(lse_a) & np.isneginf(lse_b)
    if not both.any():
        raise NotApplicable
    return type(found)(
        *(np.where(both if x.ndim == both.ndim else both[..., None], np.nan, x) for x in found),
    )


# --- norms ----------------------------------------------------------------------------------------------------------


def _mean(x, axes):
    return np.mean(x, axis=axes, keepdims=True)


def norm_by_x(d_out, x, gamma, eps, axis, *, centre, mean, square, offset=0.0, over=_mean):
    """The gradient of a norm by x, with or without the terms through the mean and the mean square, which `over` takes."""
    axes = axes_of(axis, x)
    gain = 1.0
    if gamma is not None:
        gain = offset + np.reshape(gamma, [x.shape[n] if n in axes else 1 for n in range(x.ndim)])
    with np.errstate(all="ignore"):
        y = x - x.mean(axis=axes, keepdims=True) if centre else x
        r = 1.0 / np.sqrt(np.mean(y * y, axis=axes, keepdims=True) + eps)
        y, g = r * y, gain * d_out
        through_mean = over(g, axes) if mean else 0.0
        through_square = y * over(g * y, axes) if square else 0.0
        return r * (g - through_mean - through_square)


def _layer(d_out, x, gamma, beta, eps, axis, **terms):
    found = layer_norm_vjp(d_out, x, gamma, beta, eps=eps, axis=axis)
    return found._replace(x=norm_by_x(d_out, x, gamma, eps, axis, centre=True, **terms))


@variant("gradient/layer_norm_mean_constant", "GRAD-LAYERNORM", "layer_norm_vjp")
def layer_norm_mean_constant(d_out, x, gamma, beta=None, *, eps=1e-5, axis=-1):
    """The mean is taken for a constant."""
    return _layer(d_out, x, gamma, beta, eps, axis, mean=False, square=True)


@variant("gradient/layer_norm_variance_constant", "GRAD-LAYERNORM", "layer_norm_vjp")
def layer_norm_variance_constant(d_out, x, gamma, beta=None, *, eps=1e-5, axis=-1):
    """The variance is taken for a constant."""
    return _layer(d_out, x, gamma, beta, eps, axis, mean=True, square=False)


@variant("gradient/layer_norm_gain_forgotten", "GRAD-LAYERNORM", "layer_norm_vjp")
def layer_norm_gain_forgotten(d_out, x, gamma, beta=None, *, eps=1e-5, axis=-1):
    """The gradient by x lacks the gain."""
    if gamma is None:
        raise NotApplicable
    found = layer_norm_vjp(d_out, x, gamma, beta, eps=eps, axis=axis)
    return found._replace(x=layer_norm_vjp(d_out, x, None, eps=eps, axis=axis).x)


@variant("gradient/layer_norm_eps_default", "GRAD-LAYERNORM", "layer_norm_vjp")
def layer_norm_eps_default(d_out, x, gamma, beta=None, *, eps=1e-5, axis=-1):
    """Backward uses 1e-5 whatever epsilon was given."""
    if eps == 1e-5:
        raise NotApplicable
    return layer_norm_vjp(d_out, x, gamma, beta, axis=axis)


def _rms(d_out, x, gamma, eps, axis, unit_offset, **terms):
    found = rms_norm_vjp(d_out, x, gamma, eps=eps, axis=axis, unit_offset=unit_offset)
    return found._replace(x=norm_by_x(d_out, x, gamma, eps, axis, centre=False, offset=float(unit_offset), **terms))


@variant("gradient/rms_norm_constant", "GRAD-RMSNORM", "rms_norm_vjp")
def rms_norm_constant(d_out, x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
    """The mean square is taken for a constant."""
    return _rms(d_out, x, gamma, eps, axis, unit_offset, mean=False, square=False)


@variant("gradient/rms_norm_centred", "GRAD-RMSNORM", "rms_norm_vjp")
def rms_norm_centred(d_out, x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
    """A term through the mean, as LayerNorm has it."""
    return _rms(d_out, x, gamma, eps, axis, unit_offset, mean=True, square=True)


@variant("gradient/rms_norm_offset_forgotten", "GRAD-RMSNORM", "rms_norm_vjp")
def rms_norm_offset_forgotten(d_out, x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
    """Backward multiplies by gamma where forward multiplied by 1 + gamma."""
    if gamma is None or not unit_offset:
        raise NotApplicable
    return rms_norm_vjp(d_out, x, gamma, eps=eps, axis=axis)


@variant("gradient/gain_ignored", "GRAD-RMSNORM", "rms_norm_vjp", seen=["unslothai/unsloth#4533"])
def rms_norm_gain_ignored(d_out, x, gamma, **options):
    """The gain gets no gradient: zeros."""
    return _zeroed(rms_norm_vjp(d_out, x, gamma, **options), "gamma")


@variant("gradient/gain_ignored", "GRAD-LAYERNORM", "layer_norm_vjp", seen=["unslothai/unsloth#4533 (RMSNorm)"])
def layer_norm_gain_ignored(d_out, x, gamma, beta=None, **options):
    """The gain gets no gradient: zeros."""
    return _zeroed(layer_norm_vjp(d_out, x, gamma, beta, **options), "gamma")


@variant("gradient/offset_ignored", "GRAD-LAYERNORM", "layer_norm_vjp")
def layer_norm_offset_ignored(d_out, x, gamma, beta=None, **options):
    """The offset gets no gradient: zeros."""
    return _zeroed(layer_norm_vjp(d_out, x, gamma, beta, **options), "beta")


@variant("gradient/bias_ignored", "GRAD-LINEAR", "gradients.linear_vjp")
def linear_bias_ignored(d_out, x, w, b=None):
    """The bias gets no gradient: zeros."""
    return _zeroed(linear_vjp(d_out, x, w, b), "b")


@variant("gradient/biases_ignored", "GRAD-FFN", "feed_forward_vjp")
def feed_forward_biases_ignored(d_out, x, params, **options):
    """The biases get no gradient: zeros."""
    found = feed_forward_vjp(d_out, x, params, **options)
    return found._replace(params=_zeroed(found.params, "b_in", "b_out"))


@variant("gradient/biases_ignored", "GRAD-GLU", "gated_feed_forward_vjp")
def gated_feed_forward_biases_ignored(d_out, x, params, **options):
    """The biases get no gradient: zeros."""
    found = gated_feed_forward_vjp(d_out, x, params, **options)
    return found._replace(params=_zeroed(found.params, "b_gate", "b_up", "b_out"))


@variant("gradient/biases_ignored", "GRAD-MHA", "multi_head_attention_vjp")
def multi_head_biases_ignored(d_out, x_q, x_kv, params, **options):
    """The biases of the projections get no gradient: zeros."""
    found = multi_head_attention_vjp(d_out, x_q, x_kv, params, **options)
    names = [name for name in found.params._fields if name.startswith("b_")]
    return found._replace(params=_zeroed(found.params, *names))


def _zeroed(found, *names):
    """Gradients, some of which are zeros."""
    given = {name: 0.0 * getattr(found, name) for name in names if getattr(found, name, None) is not None}
    if not given:
        raise NotApplicable
    return found._replace(**given)


# --- activations and networks ---------------------------------------------------------------------------------------


@variant("gradient/relu_one_at_zero", "GRAD-ACT", "relu_vjp")
def relu_one_at_zero(d_out, x):
    """The derivative of relu at 0 is 1, that from the right."""
    return InputGradient(np.where(x >= 0, d_out, np.where(np.isnan(x), x, 0.0)))


@variant("gradient/squared_relu_without_2", "GRAD-ACT", "squared_relu_vjp")
def squared_relu_without_2(d_out, x):
    """The factor 2 is missing."""
    return InputGradient(0.5 * ACTIVATION_VJPS["squared_relu"](d_out, x).x)


@variant("gradient/other_gelu", "GRAD-ACT", "gelu_vjp")
def other_gelu(d_out, x, approximate=None):
    """Forward uses one form of GELU, backward the derivative of the other."""
    return gelu_vjp(d_out, x, approximate="tanh" if approximate is None else None)


@variant("gradient/quick_gelu_without_factor", "GRAD-ACT", "quick_gelu_vjp")
def quick_gelu_without_factor(d_out, x):
    """The inner derivative 1.702 is missing."""
    s = 0.5 * (1.0 + np.tanh(0.851 * x))
    with np.errstate(invalid="ignore"):
        return InputGradient(d_out * (s + np.where(s * (1.0 - s) == 0, 0.0, x * s * (1.0 - s))))


@variant("gradient/silu_sigmoid_only", "GRAD-ACT", "silu_vjp")
def silu_sigmoid_only(d_out, x):
    """The gate is taken for a constant: the derivative is the sigmoid alone."""
    return ACTIVATION_VJPS["softplus"](d_out, x)


@variant("gradient/sigmoid_of_output", "GRAD-ACT", "sigmoid_vjp")
def sigmoid_of_output(d_out, x):
    """σ(y) (1 - σ(y)) with y the output, to which the sigmoid is applied once more."""
    return ACTIVATION_VJPS["sigmoid"](d_out, 0.5 * (1.0 + np.tanh(0.5 * x)))


@variant("gradient/tanh_without_square", "GRAD-ACT", "tanh_vjp")
def tanh_without_square(d_out, x):
    """1 - tanh in the place of 1 - tanh²."""
    return InputGradient(d_out * (1.0 - np.tanh(x)))


@variant("gradient/tanh_cancels", "GRAD-ACT-TAIL", "tanh_vjp", seen=["torch", "jax"])
def tanh_cancels(d_out, x):
    """1 - tanh² as it is written: no digit is left where tanh rounds to 1."""
    return InputGradient(d_out * (1.0 - np.tanh(x) ** 2))


@variant("gradient/softplus_of_minus", "GRAD-ACT", "softplus_vjp")
def softplus_of_minus(d_out, x):
    """σ(-x) in the place of σ(x)."""
    return ACTIVATION_VJPS["softplus"](d_out, -x)


@variant("gradient/mean_over_tokens", "GRAD-LINEAR", "gradients.linear_vjp")
def mean_over_tokens(d_out, x, w, b=None):
    """Weights and bias get the mean over the tokens, not the sum."""
    found, tokens = linear_vjp(d_out, x, w, b), max(math.prod(x.shape[:-1]), 1)
    if tokens == 1:
        raise NotApplicable
    return found._replace(w=found.w / tokens, b=None if b is None else found.b / tokens)


@variant("gradient/first_sequence_only", "GRAD-LINEAR", "gradients.linear_vjp")
def first_sequence_only(d_out, x, w, b=None):
    """Weights and bias get the sum over the first sequence alone."""
    if x.ndim < 3 or x.shape[0] < 2:
        raise NotApplicable
    found, first = linear_vjp(d_out, x, w, b), linear_vjp(d_out[0], x[0], w, b)
    return found._replace(w=first.w, b=first.b)


@variant("gradient/activation_forgotten", "GRAD-FFN", "feed_forward_vjp")
def activation_forgotten(d_out, x, params, *, activation="relu"):
    """The cotangent passes by the activation as if it were the identity."""
    return feed_forward_vjp(d_out, x, params, activation=activation, activation_vjp=lambda d_out, x: d_out)


@variant("gradient/activation_of_output", "GRAD-FFN", "feed_forward_vjp")
def activation_of_output(d_out, x, params, *, activation="relu"):
    """The derivative of the activation is taken at its output, where it belongs at its input."""
    from refattn.feedforward import ACTIVATIONS

    name = activation if isinstance(activation, str) else activation.__name__
    vjp = ACTIVATION_VJPS[name]
    return feed_forward_vjp(
        d_out, x, params, activation=activation, activation_vjp=lambda d, z: vjp(d, ACTIVATIONS[name](z))
    )


@variant("gradient/gate_and_up_exchanged", "GRAD-GLU", "gated_feed_forward_vjp")
def gate_and_up_exchanged(d_out, x, params, *, activation="silu"):
    """The gradients of the gate and of up change places."""
    found = gated_feed_forward_vjp(d_out, x, params, activation=activation)
    p = found.params
    return found._replace(params=GatedFeedForwardParams(p.w_up, p.w_gate, p.w_out, p.b_up, p.b_gate, p.b_out))


@variant("gradient/gate_constant", "GRAD-GLU", "gated_feed_forward_vjp")
def gate_constant(d_out, x, params, *, activation="silu"):
    """The gate is taken for a constant: only up passes the cotangent on."""
    return gated_feed_forward_vjp(d_out, x, params, activation=activation, activation_vjp=lambda d_out, x: 0.0 * d_out)


# --- rotation -------------------------------------------------------------------------------------------------------


@variant("gradient/not_turned_back", "GRAD-ROPE", "rope_vjp")
def not_turned_back(d_out, x, positions, **options):
    """The cotangent is rotated by the same angle again, not by its negative."""
    turned = rope(d_out, positions, **options)
    if turned.shape != x.shape:
        raise NotApplicable
    return InputGradient(turned)


@variant("gradient/attention_factor_divides", "GRAD-ROPE", "rope_vjp")
def attention_factor_divides(d_out, x, positions, **options):
    """The inverse of the rotation in the place of its transpose: the attention factor divides."""
    probe = rope(np.ones_like(d_out), 0.0 * np.asarray(positions, dtype=np.float64), **options)
    factor = float(np.max(probe, initial=1.0))
    if factor == 1.0:
        raise NotApplicable
    turned = 2 * ((options.get("rotary_dim") or x.shape[-1]) // 2)
    found = rope_vjp(d_out, x, positions, **options).x
    return InputGradient(np.where(np.arange(x.shape[-1]) < turned, found / factor**2, found))


@variant("gradient/tables_not_turned_back", "GRAD-ROPE", "gradients.rotate_vjp")
def tables_not_turned_back(d_out, x, cos, sin, **options):
    """The cotangent is rotated by the same tables again, not by those of the negative angle."""
    found, turned = rotate_vjp(d_out, x, cos, sin, **options), rotate(d_out, cos, sin, **options)
    if turned.shape != x.shape:
        raise NotApplicable
    return found._replace(x=turned)


@variant("gradient/sine_sign", "GRAD-ROPE", "gradients.rotate_vjp")
def sine_sign(d_out, x, cos, sin, **options):
    """The gradient of the sines has the wrong sign."""
    found = rotate_vjp(d_out, x, cos, sin, **options)
    return found._replace(sin=-found.sin)


# --- multi-head attention and chains --------------------------------------------------------------------------------


@variant("gradient/queries_only", "GRAD-MHA", "multi_head_attention_vjp")
def queries_only(d_out, x_q, x_kv, params, **options):
    """In self-attention the sequence gets only its gradient as queries, not those as keys and values."""
    if x_kv is not None:
        raise NotApplicable
    found = multi_head_attention_vjp(d_out, x_q, x_q, params, **options)
    return found._replace(x_kv=None)


@variant("gradient/norm_gains_ignored", "GRAD-MHA", "multi_head_attention_vjp")
def norm_gains_ignored(d_out, x_q, x_kv, params, **options):
    """The gains of the norm on queries and keys get no gradient: zeros."""
    if getattr(params, "q_norm", None) is None or params.k_norm is None:
        raise NotApplicable
    found = multi_head_attention_vjp(d_out, x_q, x_kv, params, **options)
    p = found.params
    return found._replace(params=p._replace(q_norm=0.0 * p.q_norm, k_norm=0.0 * p.k_norm))


@variant("gradient/recomputed_from_wrong_block", "GRAD-CHECKPOINT", "gradients.checkpoint_vjp")
def recomputed_from_wrong_block(d_out, x, blocks, *, every=None):
    """Every block of a segment gets the activation that was kept, where each needs the one before itself."""
    run = checkpoint(x, blocks, every=every)
    if run.every == 1 or len(blocks) == 1:
        raise NotApplicable
    for n in reversed(range(len(blocks))):
        d_out = checkpoint_vjp(d_out, run.kept[n // run.every], blocks[n : n + 1]).x
    return checkpoint_vjp(d_out, x, [])
