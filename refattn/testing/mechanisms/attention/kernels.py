"""Variants of attention as kernels get it wrong: indices, layouts, running maxima and narrow formats."""

from __future__ import annotations

import numpy as np

from refattn import masks
from refattn.testing.mechanisms.attention.variants import evaluate, exponentials
from refattn.testing.registry import NotApplicable, variant
from refattn.testing.steps import Then


def _needs(*conditions):
    if not all(conditions):
        raise NotApplicable


def _dense(mask, q, k, q_positions=None, k_positions=None):
    """The mask as an array, whatever it was."""
    return masks.visible(mask, q.shape[-2], k.shape[-2], q_positions=q_positions, k_positions=k_positions, like=q)


def _hidden(which):
    """Attention that never sees the keys of which `which(m)` is true."""

    def call(q, k, v, mask=None, **options):
        hidden = which(k.shape[-2])
        _needs(hidden.any())
        return evaluate(q, k, v, mask, scored=Then(lambda s: np.where(hidden, -np.inf, s)), **options)

    return call


# --- keys, values and features --------------------------------------------------------------------------------------


@variant("keys/first_dropped", "ATTN-OUT", "attention", seen=["Dao-AILab/flash-attention#1133"])
def keys_first_dropped(q, k, v, mask=None, **options):
    """The first key is never attended to."""
    return _hidden(lambda m: np.arange(m) == 0)(q, k, v, mask, **options)


@variant("keys/last_twice", "ATTN-OUT", "attention")
def keys_last_twice(q, k, v, mask=None, **options):
    """The last key counts twice: two tiles overlap."""
    _needs(k.shape[-2] > 1)
    bonus = np.where(np.arange(k.shape[-2]) == k.shape[-2] - 1, np.log(2.0), 0.0)

    def counted(xp, s, allowed):
        return np.where(allowed, s, -np.inf) + bonus

    everything = np.ones((q.shape[-2], k.shape[-2]), dtype=bool)
    allowed = _dense(mask, q, k, options.pop("q_positions", None), options.pop("k_positions", None))
    return evaluate(q, k, v, everything if allowed is None else allowed, masked=counted, **options)


@variant("keys/index_wraps_256", "ATTN-OUT", "attention", seen=["thu-ml/SageAttention#386 (at 2^31)"])
def keys_index_wraps(q, k, v, mask=None, **options):
    """The index of a key is held in 8 bits: key 256 is key 0 again, a small model of an offset in 32 bits."""
    _needs(k.shape[-2] > 256)
    read = np.arange(k.shape[-2]) % 256
    return evaluate(q, np.take(k, read, axis=-2), np.take(v, read, axis=-2), mask, **options)


@variant("values/index_wraps_256", "ATTN-OUT", "attention", seen=["ggml-org/llama.cpp#24912 (at 2^32)"])
def values_index_wraps(q, k, v, mask=None, **options):
    """The index of a value is held in 8 bits, that of a key is not."""
    _needs(k.shape[-2] > 256)
    return evaluate(q, k, np.take(v, np.arange(k.shape[-2]) % 256, axis=-2), mask, **options)


@variant("keys/index_sign_256", "ATTN-OUT", "attention", seen=["thu-ml/SageAttention#386 (at 2^31)"])
def keys_index_sign(q, k, v, mask=None, **options):
    """The index of a key is a signed number of 8 bits: key 128 is key -128, counted from the end."""
    _needs(k.shape[-2] > 128)
    read = (np.arange(k.shape[-2]) + 128) % 256 - 128
    return evaluate(q, np.take(k, read, axis=-2), np.take(v, read, axis=-2), mask, **options)


@variant("values/one_later", "ATTN-OUT", "attention")
def values_one_later(q, k, v, mask=None, **options):
    """The weight of a key meets the value that follows it."""
    _needs(v.shape[-2] > 1)
    return evaluate(q, k, np.roll(v, -1, axis=-2), mask, **options)


@variant("features/last_dropped", "ATTN-OUT", "attention")
def features_last_dropped(q, k, v, mask=None, *, scale=None, **options):
    """The last feature takes no part in the scores."""
    _needs(q.shape[-1] > 1)
    scale = 1.0 / np.sqrt(q.shape[-1]) if scale is None else scale
    return evaluate(q[..., :-1], k[..., :-1], v, mask, scale=scale, **options)


@variant("features/tail_of_8_dropped", "ATTN-OUT", "attention", seen=["Dao-AILab/flash-attention#2896 (its backward)"])
def features_tail_dropped(q, k, v, mask=None, *, scale=None, **options):
    """Features that do not fill a vector of 8 take no part in the scores."""
    d = q.shape[-1]
    _needs(d % 8, d > 1)
    scale = 1.0 / np.sqrt(d) if scale is None else scale
    return evaluate(q[..., : d - d % 8], k[..., : d - d % 8], v, mask, scale=scale, **options)


@variant(
    "heads/bshd_as_bhsd",
    "ATTN-OUT",
    "attention",
    seen=["facebookresearch/xformers#677", "jax-ml/jax#35916"],
    advice="move the head axis before the token axis",
)
def bshd_as_bhsd(q, k, v, mask=None, **options):
    """The axes of tokens and heads are confused: each token attends over its own heads."""
    _needs(q.ndim > 2, k.ndim > 2, q.shape[:-1] == k.shape[:-1] == v.shape[:-1], mask is None)
    options = {name: value for name, value in options.items() if value is not None and value is not False}
    _needs(not set(options) - {"scale", "softcap"})
    return np.swapaxes(evaluate(*(np.swapaxes(x, -3, -2) for x in (q, k, v)), **options), -3, -2)


@variant("values/size_of_keys", "ATTN-VALUES", "attention", seen=["pytorch/pytorch#176767"])
def values_size_of_keys(q, k, v, mask=None, *, return_lse=False, **options):
    """The output has the head size of the queries: the values' own is not read."""
    d, dv = q.shape[-1], v.shape[-1]
    _needs(d != dv)
    out, lse = evaluate(q, k, v, mask, return_lse=True, **options)
    fitted = np.zeros((*out.shape[:-1], d))
    fitted[..., : min(d, dv)] = out[..., : min(d, dv)]
    return (fitted, lse) if return_lse else fitted


# --- softmax --------------------------------------------------------------------------------------------------------


@variant("softmax/over_queries", "ATTN-OUT", "attention")
def softmax_over_queries(q, k, v, mask=None, **options):
    """The weights of a key sum to 1 over the queries, not those of a query over the keys."""
    _needs(q.shape[-2] > 0, options.get("sinks") is None, options.get("dropout") is None)
    values = np.where(np.isfinite(v), v, 0.0)

    def columns(out, lse, weights, s):
        m = np.max(s, axis=-2, keepdims=True)
        w = np.exp(s - np.where(np.isneginf(m), 0.0, m))
        total = w.sum(axis=-2, keepdims=True)
        return (w / np.where(total == 0, 1.0, total)) @ values, lse

    return evaluate(q, k, v, mask, finish=columns, **options)


@variant("softmax/not_divided", "ATTN-OUT", "attention")
def softmax_not_divided(q, k, v, mask=None, **options):
    """The weights are not divided by their sum."""

    def undivided(out, lse, weights, s):
        m = np.max(s, axis=-1, keepdims=True, initial=-np.inf)
        return out * np.exp(s - np.where(np.isneginf(m), 0.0, m)).sum(axis=-1, keepdims=True), lse

    return evaluate(q, k, v, mask, finish=undivided, **options)


@variant("peak/minus_1e4", "ATTN-OUT", "attention", seen=["tracel-ai/burn#4697"])
def peak_minus_1e4(*args, **kwargs):
    """The maximum is held at -1e4 or above: rows below it come out as zeros."""
    return evaluate(*args, shifted_exp=exponentials(peak=lambda m: np.maximum(m, -1e4)), **kwargs)


@variant("peak/of_first_key", "ATTN-OUT", "attention")
def peak_of_first_key(q, k, v, mask=None, **options):
    """The score of the first key stands for the maximum: the exponentials of far higher ones overflow."""
    _needs(k.shape[-2] > 1)

    def from_first(out, lse, weights, s):
        with np.errstate(all="ignore"):
            overflow = (s - s[..., :1] > 88.72).any(axis=-1)  # where float32's exponential does
        return np.where(overflow[..., None], np.nan, out), np.where(overflow, np.inf, lse)

    return evaluate(q, k, v, mask, finish=from_first, **options)


@variant("scores/zero_excluded", "ATTN-ABSENT", "attention")
def scores_zero_excluded(q, k, v, mask=None, **options):
    """A score of exactly 0 is taken for a masked one: the mask multiplied and the zeros were then filled."""
    return evaluate(q, k, v, mask, scored=Then(lambda s: np.where(s == 0, -np.inf, s)), **options)


# --- narrow formats -------------------------------------------------------------------------------------------------


@variant("scores/overflow_float16", "ATTN-OUT", "attention", seen=["ggml-org/llama.cpp#7805"])
def scores_overflow_float16(q, k, v, mask=None, *, scale=None, **options):
    """q kᵀ is stored in float16 before it is scaled: beyond 65,504 it is infinite, and the row NaN."""
    scale = 1.0 / np.sqrt(q.shape[-1]) if scale is None else scale

    def stored(s):
        wide = np.abs(s) > 65504.0 * abs(scale)
        return np.where(wide, np.sign(s) * np.inf, s)

    def broken(out, lse, weights, s):
        infinite = np.isposinf(s).any(axis=-1)
        return np.where(infinite[..., None], np.nan, out), np.where(infinite, np.nan, lse)

    return evaluate(q, k, v, mask, scale=scale, scored=Then(stored), finish=broken, **options)


@variant("values/overflow_float16", "ATTN-OUT", "attention", seen=["ikawrakow/ik_llama.cpp#1196"])
def values_overflow_float16(q, k, v, mask=None, *, dropout=None, **options):
    """Unnormalised sums of values are held in float16: beyond 65,504 they are infinite."""
    _needs(dropout is None)
    values = np.where(np.isfinite(v), v, 0.0)

    def held(out, lse, weights, s):
        m = np.max(s, axis=-1, keepdims=True, initial=-np.inf)
        total = np.exp(s - np.where(np.isneginf(m), 0.0, m)) @ values
        return np.where(np.abs(total) > 65504.0, np.sign(total) * np.inf, out), lse

    return evaluate(q, k, v, mask, finish=held, **options)
