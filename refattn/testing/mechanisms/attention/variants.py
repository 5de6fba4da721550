"""Variants of attention: one plain evaluation, and for each variant the one thing that it does differently."""

from __future__ import annotations

import math
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import numpy as np

from refattn import masks
from refattn.attention import attention_stages, attention_weights, capped
from refattn.testing.mechanisms.masks.variants import evaluated, replaced, shifted
from refattn.testing.registry import NotApplicable, Variant, variant
from refattn.testing.steps import Then, together, with_steps

_LN2 = math.log(2.0)


class Recorded(Exception):
    """What a variant was about to evaluate: `combined` puts the changes of two variants together."""


_recording = ContextVar("recording", default=False)


def evaluate(*args, **options):
    """Attention as a variant has it: with other arguments, with steps of the reference replaced, by their names, or with
    `finish`, which changes what is returned: it takes out, lse, the weights that mix the values and the masked scores.

    Without replacements it is the reference on finite values.
    """
    if _recording.get():
        raise Recorded(args, options)
    return _evaluate(*args, **options)


def recorded(call, *args, **options) -> tuple[tuple, dict[str, Any]]:
    """The arguments and replacements with which a variant evaluates attention, instead of its result."""
    token = _recording.set(True)
    try:
        call(*args, **options)
    except Recorded as found:
        return found.args[0], found.args[1]
    finally:
        _recording.reset(token)
    raise NotApplicable  # it evaluates attention in another way


def combined(first, second):
    """Two variants at once: the second changes what the first would have evaluated.

    NotApplicable where both replace one step, or where one of them does more than to evaluate something else.
    """

    return lambda *args, **options: after(recorded(first, *args, **options), second)


def after(first, second):
    """What a variant makes of what another was about to evaluate, as `recorded` gives it."""
    args, given = first
    steps, options = _apart(given)
    args, given = recorded(second, *args, **options)
    more, options = _apart(given)
    try:
        return _evaluate(*args, **options, **together(steps, more))
    except (ValueError, IndexError):  # both replace a step, or one changed the shapes that the other relies on
        raise NotApplicable from None


def pair(first: Variant, second: Variant) -> Variant:
    """Two variants of attention at once."""
    return replace(
        first,
        name=f"{first.name} + {second.name}",
        call=combined(first.call, second.call),
        meaning=f"{first.meaning} And: {second.meaning}",
        seen=(),
        equal=None,
        advice="; ".join(filter(None, (first.advice, second.advice))),
    )


def of_mask(v: Variant) -> Variant:
    """A variant of `Mask.dense` as one of attention."""
    dense = v.call

    def call(q, k, v, mask=None, *, q_positions=None, k_positions=None, **options):
        if not isinstance(mask, masks.Mask):
            raise NotApplicable
        changed = dense(mask, q.shape[-2], k.shape[-2], q_positions=q_positions, k_positions=k_positions)
        return evaluate(q, k, v, changed, **options)

    return replace(v, function="attention", call=call)


STEPS = frozenset(
    ("scored", "capped", "biased", "masked", "weighted", "shifted_exp", "level", "sunk", "dropped", "mixed", "finish")
)


def _evaluate(*args, return_lse=False, finish=None, **options):
    steps, options = _apart(options)
    with np.errstate(all="ignore"):
        steps = {"visible": _visible} | steps
        stages = with_steps(attention_stages, **steps)(*args, **options)
        out, lse = stages.out, stages.lse
        if finish is not None:
            out, lse = finish(out, lse, stages.dropout, stages.mask)
    return (out, lse) if return_lse else out


def _apart(given):
    """The steps, and the other options."""
    return {name: x for name, x in given.items() if name in STEPS}, {n: x for n, x in given.items() if n not in STEPS}


def _visible(*args, **positions):
    try:
        return masks.visible(*args, **positions)
    except ValueError:  # a rule that is read otherwise needs data for positions that have none
        raise NotApplicable from None


def of_finite(xp, weights, present, v):
    """The step `mixed` in which infinities and NaN among the values count for nothing."""
    return weights @ np.where(np.isfinite(v), v, 0.0)


def exponentials(exponential=np.exp, peak=lambda m: m):
    """The step `shifted_exp` with another exponential, or with another number in the place of the maximum."""

    def shifted_exp(xp, s, axis):
        m = peak(np.max(s, axis=axis, keepdims=True, initial=-np.inf))
        m = np.where(np.isneginf(m), 0.0, m)
        w = exponential(s - m)
        return w, w.sum(axis=axis, keepdims=True), m

    return shifted_exp


def _needs(value, *others):
    if value is None or any(other is None for other in others):
        raise NotApplicable


# --- scale ----------------------------------------------------------------------------------------------------------


@variant("scale/ignored", "ATTN-SCALE", "attention", seen=["NVIDIA/Megatron-LM#3698"])
def scale_ignored(q, k, v, mask=None, *, scale=None, **options):
    """The scale that was given is ignored: always 1/√D."""
    _needs(scale)
    return evaluate(q, k, v, mask, **options)


@variant(
    "scale/none",
    "ATTN-SCALE",
    "attention",
    seen=["cuDNN frontend SDPA without attn_scale", "T5"],
    advice="pass scale=1.0",
)
def scale_none(q, k, v, mask=None, *, scale=None, **options):
    """No scale where none is given: 1 instead of 1/√D."""
    if scale is not None:
        raise NotApplicable
    return evaluate(q, k, v, mask, scale=1.0, **options)


@variant("scale/one_over_d", "ATTN-SCALE", "attention", advice="pass scale=1/D")
def scale_one_over_d(q, k, v, mask=None, *, scale=None, **options):
    """1/D instead of 1/√D."""
    if scale is not None:
        raise NotApplicable
    return evaluate(q, k, v, mask, scale=1.0 / q.shape[-1], **options)


@variant("scale/twice", "ATTN-SCALE", "attention", seen=["fla-org/flash-linear-attention#47"])
def scale_twice(q, k, v, mask=None, *, scale=None, **options):
    """The scale is applied twice, as by a caller and a kernel that both think it theirs."""
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    return evaluate(q, k, v, mask, scale=scale * scale, **options)


@variant(
    "scale/square_root_on_both", "ATTN-SCALE", "attention", seen=["onnx reference Attention (a negative scale is NaN)"]
)
def scale_square_root_on_both(q, k, v, mask=None, *, scale=None, **options):
    """√scale multiplies q and k, so that a negative scale is NaN."""
    _needs(scale)
    with np.errstate(invalid="ignore"):
        root = np.sqrt(np.float64(scale))
    return evaluate(q * root, k * root, v, mask, scale=1.0, **options)


@variant("exponent/base_2", "ATTN-OUT", "attention")
def exponent_base_2(*args, **kwargs):
    """Powers of 2 without the factor log2(e)."""
    return evaluate(*args, shifted_exp=exponentials(np.exp2), **kwargs)


# --- visibility -----------------------------------------------------------------------------------------------------


def _replaced(mask, name, replacement):
    if not isinstance(mask, masks.Mask):
        raise NotApplicable
    return replaced(mask, name, replacement)


@variant(
    "causal/top_left",
    "ATTN-ALIGN",
    "attention",
    seen=["torch scaled_dot_product_attention(is_causal=True)", "jax.nn.dot_product_attention(is_causal=True)",
          "onnx Attention without a cache", "FlashAttention 2.0", "Dao-AILab/flash-attention#282"],
    advice="pass q_positions=arange(N)",
)  # fmt: skip
def causal_top_left(q, k, v, mask=None, *, q_positions=None, **options):
    """Query i sits at position i: causality starts at the top left, although queries are the last N of M."""
    if q_positions is not None or q.shape[-2] == k.shape[-2]:
        raise NotApplicable
    offset = k.shape[-2] - q.shape[-2]
    changed = _replaced(mask, "causal", lambda: shifted(masks.causal(), -offset))
    return evaluate(q, k, v, changed, **options)


@variant(
    "window/top_left",
    "ATTN-ALIGN",
    "attention",
    seen=["jax.nn.dot_product_attention(local_window_size=...)"],
    advice="pass q_positions=arange(N)",
)
def window_top_left(q, k, v, mask=None, *, q_positions=None, **options):
    """Query i sits at position i: the window starts at the top left, although queries are the last N of M."""
    if q_positions is not None or q.shape[-2] == k.shape[-2]:
        raise NotApplicable
    offset = k.shape[-2] - q.shape[-2]
    changed = _replaced(mask, "window", lambda left, right: shifted(masks.window(left, right), -offset))
    return evaluate(q, k, v, changed, **options)


@variant("positions/ignored", "ATTN-ALIGN", "attention", seen=["Lightning-AI/litgpt#2182"])
def positions_ignored(q, k, v, mask=None, *, q_positions=None, k_positions=None, **options):
    """Positions that were given are ignored: keys count from 0, queries are the last."""
    if q_positions is None and k_positions is None:
        raise NotApplicable
    return evaluate(q, k, v, mask, **options)


@variant("causal/strict", "ATTN-MASK", "attention")
def causal_strict(q, k, v, mask=None, **options):
    """A query does not see its own position."""
    return evaluate(q, k, v, _replaced(mask, "causal", lambda: shifted(masks.causal(), -1)), **options)


@variant("causal/one_more", "ATTN-MASK", "attention")
def causal_one_more(q, k, v, mask=None, **options):
    """A query sees one position beyond its own."""
    return evaluate(q, k, v, _replaced(mask, "causal", lambda: shifted(masks.causal(), 1)), **options)


def _without(name):
    def call(q, k, v, mask=None, **options):
        if not isinstance(mask, masks.Mask) or mask.name != "and":
            raise NotApplicable
        return evaluate(q, k, v, _replaced(mask, name, lambda **_: masks.everything()), **options)

    return call


@variant(
    "causal/lost_with_mask",
    "ATTN-MASK",
    "attention",
    seen=["keras-team/keras#23038", "unslothai/unsloth-zoo#963", "FlashInfer custom_mask"],
)
def causal_lost_with_mask(*args, **kwargs):
    """Causality is dropped as soon as another mask is given."""
    return _without("causal")(*args, **kwargs)


@variant("mask/lost_with_causal", "ATTN-MASK", "attention", seen=["OpenVINO ScaledDotProductAttention(causal=True)"])
def mask_lost_with_causal(*args, **kwargs):
    """Padding is dropped as soon as causality is asked for."""
    return _without("padding")(*args, **kwargs)


@variant(
    "window/one_more_left",
    "ATTN-MASK",
    "attention",
    seen=["huggingface/transformers#39408", "zml/zml#763", "vllm-project/vllm#9679"],
)
def window_one_more_left(q, k, v, mask=None, **options):
    """One key too many on the left: a window of W tokens passed as W instead of W - 1."""
    grown = lambda left, right: masks.window(None if left is None else left + 1, right)
    return evaluate(q, k, v, _replaced(mask, "window", grown), **options)


@variant("window/one_fewer_left", "ATTN-MASK", "attention", seen=["cuDNN frontend (left bound exclusive)"])
def window_one_fewer_left(q, k, v, mask=None, **options):
    """One key too few on the left: the bound is taken to be exclusive."""

    def shrunk(left, right):
        if not left:
            raise NotApplicable
        return masks.window(left - 1, right)

    return evaluate(q, k, v, _replaced(mask, "window", shrunk), **options)


@variant("window/right_ignored", "ATTN-MASK", "attention")
def window_right_ignored(q, k, v, mask=None, **options):
    """The right reach of the window is ignored: nothing beyond the query's own position."""
    return evaluate(q, k, v, _replaced(mask, "window", lambda left, right: masks.window(left, 0)), **options)


@variant(
    "mask/adds",
    "ATTN-ABSENT",
    "attention",
    seen=["pytorch/pytorch#101967", "torch scaled_dot_product_attention", "onnxruntime Attention"],
)
def mask_adds(q, k, v, mask=None, **options):
    """-infinity is added to excluded scores: NaN and +infinity in an excluded key leak into the row."""
    _needs(mask)
    return evaluate(q, k, v, mask, masked=lambda xp, s, allowed: s + np.where(allowed, 0.0, -np.inf), **options)


@variant("mask/ignored", "ATTN-MASK", "attention", seen=["pytorch/pytorch#117939", "huggingface/transformers#36293"])
def mask_ignored(q, k, v, mask=None, **options):
    """The mask is built and never applied."""
    _needs(mask)
    return evaluate(q, k, v, **options)


@variant(
    "mask/polarity",
    "ATTN-MASK",
    "attention",
    seen=["torch.nn.MultiheadAttention", "rasbt/LLMs-from-scratch#1061"],
    advice="pass ~mask",
)
def mask_polarity(q, k, v, mask=None, **options):
    """True means masked out."""
    _needs(mask)
    return evaluate(q, k, v, ~mask, **options)


@variant("mask/multiplies", "ATTN-MASK", "attention", seen=["openxla/xla#11444"])
def mask_multiplies(q, k, v, mask=None, **options):
    """Scores are multiplied by the mask: an excluded key keeps score 0."""
    _needs(mask)
    return evaluate(q, k, v, mask, masked=lambda xp, s, allowed: s * allowed, **options)


@variant(
    "mask/batch_on_heads",
    "ATTN-BROADCAST",
    "attention",
    seen=["ml-explore/mlx-lm#1903", "lucidrains/graph-transformer-pytorch#2"],
)
def mask_batch_on_heads(q, k, v, mask=None, **options):
    """A mask for each batch entry is laid over the heads."""
    if isinstance(mask, masks.Mask):
        given = {name: options.pop(name, None) for name in ("q_positions", "k_positions")}
        mask = evaluated(mask, q.shape[-2], k.shape[-2], **given)
    if not isinstance(mask, np.ndarray) or mask.ndim != 4 or q.ndim != 4 or mask.shape[1] != 1 or mask.shape[0] == 1:
        raise NotApplicable
    over_heads = np.take(mask[:, 0], np.arange(q.shape[1]) % mask.shape[0], axis=0)
    return evaluate(q, k, v, over_heads, **options)


@variant(
    "values/multiplied_by_zero",
    "ATTN-ABSENT",
    "attention",
    seen=["torch", "jax.nn.dot_product_attention", "mlx", "onnxruntime", "vllm-project/vllm#53856"],
)
def values_multiplied_by_zero(q, k, v, mask=None, **options):
    """Excluded values are multiplied by weight 0: NaN and infinity in them become NaN in the output."""
    if mask is None or np.isfinite(v).all():
        raise NotApplicable
    return evaluate(q, k, v, mask, mixed=lambda xp, w, present, x: w @ x, **options)


@variant("values/cleaned", "ATTN-OUT", "attention")
def values_cleaned(q, k, v, mask=None, **options):
    """Infinities and NaN are removed from all values, those that may be attended to included."""
    if np.isfinite(v).all():
        raise NotApplicable
    return evaluate(q, k, v, mask, mixed=of_finite, **options)


@variant("keys/last_dropped", "ATTN-OUT", "attention")
def keys_last_dropped(q, k, v, mask=None, **options):
    """The last key is never attended to: a tail of the loop over keys is cut off."""
    if k.shape[-2] == 0:
        raise NotApplicable
    drop = lambda s: np.where(np.arange(s.shape[-1]) == s.shape[-1] - 1, -np.inf, s)
    return evaluate(q, k, v, mask, scored=Then(drop), **options)


# --- fills and empty rows -------------------------------------------------------------------------------------------


def _filled(value):
    def call(q, k, v, mask=None, **options):
        _needs(mask)
        return evaluate(q, k, v, mask, masked=lambda xp, s, allowed: np.where(allowed, s, value), **options)

    return call


@variant(
    "empty_row/mean",
    "ATTN-EMPTY",
    "attention",
    seen=["jax.nn.dot_product_attention", "transformers eager attention", "mlx (boolean mask)", "keras.ops.dot_product_attention",
          "microsoft/onnxruntime#28958"],
)  # fmt: skip
def empty_row_mean(q, k, v, mask=None, **options):
    """Excluded scores become the lowest finite number, so that a row without any key is the mean of all values."""
    return _filled(-1e30)(q, k, v, mask, **options)


@variant("fill/minus_1e4", "ATTN-EMPTY", "attention", seen=["BERT", "microsoft/onnxruntime#8549"])
def fill_minus_1e4(*args, **kwargs):
    """Excluded scores become -1e4, which an empty row makes uniform and legitimate scores can undercut."""
    return _filled(-1e4)(*args, **kwargs)


@variant(
    "fill/minus_5e4", "ATTN-OUT", "attention", seen=["flashinfer-ai/flashinfer#4401", "flashinfer-ai/flashinfer#4267"]
)
def fill_minus_5e4(*args, **kwargs):
    """The running maximum starts at the finite sentinel -5e4: rows below it come out as zeros."""
    return evaluate(*args, shifted_exp=exponentials(peak=lambda m: np.maximum(m, -5e4)), **kwargs)


@variant("empty_row/nan", "ATTN-EMPTY", "attention", seen=["torch.nn.MultiheadAttention", "pytorch/pytorch#103749"])
def empty_row_nan(q, k, v, mask=None, **options):
    """A row without any key is NaN: 0/0."""

    def divide(out, lse, weights, s):
        return np.where(np.isneginf(lse)[..., None], np.nan, out), lse

    return evaluate(q, k, v, mask, finish=divide, **options)


@variant(
    "empty_row/lse_plus_infinity", "ATTN-EMPTY", "attention", seen=["FlashAttention-2", "Dao-AILab/flash-attention#978"]
)
def empty_row_lse_plus_infinity(q, k, v, mask=None, *, return_lse=False, **options):
    """The log-sum-exp of a row without any key is +infinity."""
    if not return_lse:
        raise NotApplicable
    flip = lambda out, lse, weights, s: (out, np.where(np.isneginf(lse), np.inf, lse))
    return evaluate(q, k, v, mask, finish=flip, return_lse=True, **options)


@variant("empty_row/lse_finite", "ATTN-EMPTY", "attention", seen=["flashinfer-ai/flashinfer#4452"])
def empty_row_lse_finite(q, k, v, mask=None, *, return_lse=False, **options):
    """The log-sum-exp of a row without any key is a finite sentinel."""
    if not return_lse:
        raise NotApplicable
    clip = lambda out, lse, weights, s: (out, np.maximum(lse, -49994.0))
    return evaluate(q, k, v, mask, finish=clip, return_lse=True, **options)


@variant("peak/none", "ATTN-OUT", "attention", seen=["tenstorrent/tt-metal#12661"])
def peak_none(*args, **kwargs):
    """Exponentials of the scores themselves, without subtracting the maximum."""
    return evaluate(*args, shifted_exp=exponentials(peak=np.zeros_like), **kwargs)


@variant("peak/from_zero", "ATTN-OUT", "attention", seen=["bytedance/lightseq#74"])
def peak_from_zero(*args, **kwargs):
    """The search for the maximum starts at 0, so that rows of very negative scores underflow."""
    return evaluate(*args, shifted_exp=exponentials(peak=lambda m: np.maximum(m, 0.0)), **kwargs)


# --- softcap and bias -----------------------------------------------------------------------------------------------


@variant(
    "softcap/after_mask",
    "ATTN-ORDER",
    "attention",
    seen=["onnx opset 23 as shipped", "onnx/onnx#7867", "microsoft/onnxruntime#28379"],
)
def softcap_after_mask(q, k, v, mask=None, *, softcap=None, **options):
    """The cap comes after the mask and turns -infinity into -c: excluded keys leak."""
    _needs(softcap or None, mask)
    late = Then(lambda s: capped(np, s, softcap))
    return evaluate(q, k, v, mask, masked=late, **options)


@variant("softcap/after_bias", "ATTN-ORDER", "attention", seen=["FlashInfer (ALiBi inside the cap)"])
def softcap_after_bias(q, k, v, mask=None, *, softcap=None, bias=None, **options):
    """The cap comes after the bias."""
    _needs(softcap or None, bias)
    late = Then(lambda s: capped(np, s, softcap))
    return evaluate(q, k, v, mask, bias=bias, biased=late, **options)


@variant("softcap/ignored", "ATTN-SOFTCAP", "attention", seen=["vllm-project/vllm#7425"])
def softcap_ignored(q, k, v, mask=None, *, softcap=None, **options):
    """The cap is not passed on."""
    _needs(softcap or None)
    return evaluate(q, k, v, mask, **options)


@variant("softcap/s_tanh_s", "ATTN-SOFTCAP", "attention", seen=["Dao-AILab/flash-attention#2402"])
def softcap_s_tanh_s(q, k, v, mask=None, *, softcap=None, **options):
    """s·tanh(s) instead of c·tanh(s/c)."""
    _needs(softcap or None)
    return evaluate(q, k, v, mask, softcap=softcap, capped=lambda xp, s, c: s * np.tanh(s), **options)


@variant("softcap/before_scale", "ATTN-ORDER", "attention")
def softcap_before_scale(q, k, v, mask=None, *, softcap=None, scale=None, **options):
    """The cap comes before the scale."""
    _needs(softcap or None)
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    before = Then(lambda s: scale * softcap * np.tanh(s / softcap))
    return evaluate(q, k, v, mask, scale=1.0, scored=before, **options)


@variant("softcap/zero_divides", "ATTN-SOFTCAP", "attention")
def softcap_zero_divides(q, k, v, mask=None, *, softcap=None, **options):
    """A cap of 0 is applied as it stands: NaN."""
    if softcap != 0:
        raise NotApplicable
    nothing = lambda out, lse, weights, s: (np.full_like(out, np.nan), np.full_like(lse, np.nan))
    return evaluate(q, k, v, mask, finish=nothing, **options)


@variant(
    "bias/infinity_adds",
    "ATTN-BIAS",
    "attention",
    seen=["torch scaled_dot_product_attention", "jax.nn.dot_product_attention"],
)
def bias_infinity_adds(q, k, v, mask=None, *, bias=None, **options):
    """A bias of -infinity is added, so that NaN in the key it excludes leaks, and 0 times NaN in its value."""
    if bias is None or not np.isneginf(bias).any():
        raise NotApplicable
    return evaluate(
        q, k, v, mask, bias=bias, biased=lambda xp, s, b: s + b, mixed=lambda xp, w, present, x: w @ x, **options
    )


@variant(
    "bias/scaled",
    "ATTN-BIAS",
    "attention",
    seen=["tenstorrent/tt-metal#42891", "Falcon (adds ALiBi before the scale)"],
    advice="pass scale * bias",
)
def bias_scaled(q, k, v, mask=None, *, bias=None, scale=None, **options):
    """The bias is multiplied by the scale."""
    _needs(bias)
    factor = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    scaled = lambda xp, s, b: np.where(np.isneginf(b), -np.inf, s + factor * b)
    return evaluate(q, k, v, mask, bias=bias, scale=scale, biased=scaled, **options)


@variant("bias/ignored", "ATTN-BIAS", "attention")
def bias_ignored(q, k, v, mask=None, *, bias=None, **options):
    """The bias is not added."""
    _needs(bias)
    return evaluate(q, k, v, mask, **options)


# --- sinks ----------------------------------------------------------------------------------------------------------


@variant("sink/ignored", "ATTN-SINK", "attention")
def sink_renormalised(q, k, v, mask=None, *, sinks=None, **options):
    """The sink has no effect: it is left out, or the weights are divided by their sum again after dropping it."""
    _needs(sinks)
    return evaluate(q, k, v, mask, **options)


@variant("sink/ignored", "ATTN-SINK", "attention_weights")
def weights_sink_renormalised(q, k, mask=None, *, sinks=None, **options):
    """The weights are divided by their sum again after the sink has been dropped: they sum to 1."""
    _needs(sinks)
    return attention_weights(q, k, mask, **options)


@variant("sink/after_shift", "ATTN-SINK", "attention", seen=["kyegomez/AttentionIsOFFByOne#5"])
def sink_after_shift(q, k, v, mask=None, *, sinks=None, **options):
    """e^sink is added to the denominator after the maximum was subtracted: its weight depends on the maximum."""
    _needs(sinks)
    sunk = lambda xp, w, total, peak, z: w * total / (total + np.exp(z[..., None, None]))
    return evaluate(q, k, v, mask, sinks=sinks, sunk=sunk, **options)


@variant(
    "sink/in_lse",
    "ATTN-LSE",
    "attention",
    seen=["cuDNN frontend", "FlashInfer", "flash-attn CuTe"],
    advice="compare logaddexp(lse, sink)",
)
def sink_in_lse(q, k, v, mask=None, *, sinks=None, return_lse=False, **options):
    """The log-sum-exp includes the sink."""
    _needs(sinks, return_lse or None)
    included = Then(lambda lse: np.logaddexp(lse, np.asarray(sinks)[..., None, None]))
    return evaluate(q, k, v, mask, sinks=sinks, level=included, return_lse=True, **options)


@variant("sink/scaled", "ATTN-SINK", "attention")
def sink_scaled(q, k, v, mask=None, *, sinks=None, scale=None, **options):
    """The sink is multiplied by the scale, as the scores are."""
    _needs(sinks)
    factor = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    return evaluate(q, k, v, mask, sinks=factor * sinks, scale=scale, **options)


@variant("sink/as_key_with_mean_value", "ATTN-SINK", "attention")
def sink_as_key_with_mean_value(q, k, v, mask=None, *, sinks=None, **options):
    """The sink's share goes to the mean of the values instead of to nothing."""
    _needs(sinks)
    if v.shape[-2] == 0:
        raise NotApplicable

    def share(xp, w, present, x):
        return w @ x + (1.0 - w.sum(axis=-1, keepdims=True)) * x.mean(axis=-2, keepdims=True)

    return evaluate(q, k, v, mask, sinks=sinks, mixed=share, **options)


# --- dropout, lse ---------------------------------------------------------------------------------------------------


@variant("dropout/one_over_rate", "ATTN-DROPOUT", "attention", seen=["rasbt/LLMs-from-scratch#431"])
def dropout_one_over_rate(q, k, v, mask=None, *, dropout=None, **options):
    """Kept weights are divided by the rate instead of 1 - rate."""
    _needs(dropout)
    return evaluate(
        q, k, v, mask, dropout=dropout, dropped=lambda xp, w, keep, rate: np.where(keep, w / rate, 0.0), **options
    )


@variant("dropout/not_rescaled", "ATTN-DROPOUT", "attention")
def dropout_not_rescaled(q, k, v, mask=None, *, dropout=None, **options):
    """Kept weights are not divided by 1 - rate."""
    _needs(dropout)
    return evaluate(q, k, v, mask, dropout=dropout, dropped=lambda xp, w, keep, rate: np.where(keep, w, 0.0), **options)


@variant("dropout/renormalised", "ATTN-DROPOUT", "attention")
def dropout_renormalised(q, k, v, mask=None, *, dropout=None, **options):
    """Kept weights are divided by their own sum: dropout comes before the denominator."""
    _needs(dropout)

    def drop(xp, w, keep, rate):
        kept = np.where(keep, w, 0.0)
        return kept / np.maximum(kept.sum(axis=-1, keepdims=True), 1e-300)

    return evaluate(q, k, v, mask, dropout=dropout, dropped=drop, **options)


@variant("dropout/nan_where_all_dropped", "ATTN-DROPOUT", "attention", seen=["aws-neuron/nki-samples#80"])
def dropout_nan_where_all_dropped(q, k, v, mask=None, *, dropout=None, **options):
    """A row whose visible keys were all dropped is 0/0, NaN, instead of zeros."""
    _needs(dropout)

    def drop(xp, w, keep, rate):
        kept = np.where(keep, w / (1.0 - rate), 0.0)
        gone = (w > 0).any(axis=-1, keepdims=True) & ~(kept > 0).any(axis=-1, keepdims=True)
        return np.where(gone, np.nan, kept)

    return evaluate(q, k, v, mask, dropout=dropout, dropped=drop, **options)


@variant("dropout/ignored", "ATTN-DROPOUT", "attention")
def dropout_ignored(q, k, v, mask=None, *, dropout=None, **options):
    """Nothing is dropped."""
    _needs(dropout)
    return evaluate(q, k, v, mask, **options)


def _lse_only(change):
    def call(*args, return_lse=False, **kwargs):
        _needs(return_lse or None)
        return evaluate(*args, return_lse=True, finish=change, **kwargs)

    return call


@variant(
    "lse/base_2",
    "ATTN-LSE",
    "attention",
    seen=["FlashInfer", "pytorch/pytorch#181645", "sgl-project/sglang#35045"],
    advice="multiply by ln 2",
)
def attention_lse_base_2(*args, **kwargs):
    """The log-sum-exp is to base 2."""
    return _lse_only(lambda out, lse, weights, s: (out, lse / _LN2))(*args, **kwargs)


@variant("lse/unscaled", "ATTN-LSE", "attention")
def attention_lse_unscaled(q, k, v, mask=None, *, scale=None, return_lse=False, **options):
    """The log-sum-exp is of the products before the scale."""
    _needs(return_lse or None)
    out = evaluate(q, k, v, mask, scale=scale, **options)
    return out, evaluate(q, k, v, mask, scale=1.0, return_lse=True, **options)[1]


@variant("lse/before_bias", "ATTN-LSE", "attention")
def attention_lse_before_bias(q, k, v, mask=None, *, bias=None, return_lse=False, **options):
    """The log-sum-exp leaves the bias out."""
    _needs(bias, return_lse or None)
    out = evaluate(q, k, v, mask, bias=bias, **options)
    return out, evaluate(q, k, v, mask, return_lse=True, **options)[1]


@variant("weights/transposed_mask", "ATTN-MASK", "attention_weights")
def weights_transposed_mask(q, k, mask=None, **options):
    """The mask is laid on with its axes exchanged: row i admits what column i should."""
    if not isinstance(mask, masks.Mask):
        raise NotApplicable
    turned = np.swapaxes(evaluated(mask, k.shape[-2], q.shape[-2]), -1, -2)
    return attention_weights(q, k, turned, **options)
