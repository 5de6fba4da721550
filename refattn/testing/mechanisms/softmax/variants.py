"""Variants of softmax, log-sum-exp and merge."""

import math

import numpy as np

from refattn.softmax import logsumexp, merge, softmax
from refattn.testing.registry import NotApplicable, variant

_LN2 = math.log(2.0)


def _masked(x, where):
    return x if where is None else np.where(where, x, -np.inf)


@variant("softmax/base_2", "SOFTMAX-NORMAL", "softmax")
def softmax_base_2(x, axis=-1, where=None):
    """Powers of 2 instead of e: the factor log2(e) was forgotten."""
    return softmax(x * _LN2, axis, where)


@variant("softmax/last_axis", "SOFTMAX-NORMAL", "softmax")
def softmax_last_axis(x, axis=-1, where=None):
    """The last axis is normalised, whatever was asked."""
    if axis % x.ndim == x.ndim - 1:
        raise NotApplicable
    return softmax(x, -1, where)


@variant("softmax/empty_row_nan", "SOFTMAX-EMPTY", "softmax", seen=["pytorch/pytorch#103749", "onnxruntime Softmax"])
def softmax_empty_row_nan(x, axis=-1, where=None):
    """NaN where nothing is present: 0/0."""
    if x.shape[axis] == 0:
        raise NotApplicable
    weights = softmax(x, axis, where)
    return np.where(weights.sum(axis=axis, keepdims=True) == 0, np.nan, weights)


@variant("softmax/no_shift", "SOFTMAX-SHIFT", "softmax", seen=["tenstorrent/tt-metal#12661"])
def softmax_no_shift(x, axis=-1, where=None):
    """Exponentials of the logits themselves, without subtracting the maximum."""
    with np.errstate(all="ignore"):
        weights = np.exp(_masked(x, where))
        return weights / weights.sum(axis=axis, keepdims=True)


@variant("softmax/peak_from_zero", "SOFTMAX-SHIFT", "softmax", seen=["bytedance/lightseq#74"])
def softmax_peak_from_zero(x, axis=-1, where=None):
    """The search for the maximum starts at 0, so that all-negative rows underflow."""
    x = _masked(x, where)
    with np.errstate(all="ignore"):
        weights = np.exp(x - np.maximum(x.max(axis=axis, keepdims=True, initial=-np.inf), 0.0))
        total = weights.sum(axis=axis, keepdims=True)
        return weights / np.where(total == 0, 1.0, total)


@variant(
    "softmax/finite_fill", "SOFTMAX-SHIFT", "softmax", seen=["flashinfer-ai/flashinfer#4401", "tracel-ai/burn#4697"]
)
def softmax_finite_fill(x, axis=-1, where=None):
    """The running maximum starts at the sentinel -5e4, which legitimate logits can lie below."""
    x = _masked(x, where)
    with np.errstate(all="ignore"):
        weights = np.exp(x - np.maximum(x.max(axis=axis, keepdims=True, initial=-np.inf), -5e4))
        total = weights.sum(axis=axis, keepdims=True)
        return weights / np.where(total == 0, 1.0, total)


@variant("softmax/where_adds", "SOFTMAX-ABSENT", "softmax", seen=["pytorch/pytorch#101967"])
def softmax_where_adds(x, axis=-1, where=None):
    """Absent entries get -infinity added instead of being replaced, so NaN and +infinity leak."""
    if where is None:
        raise NotApplicable
    with np.errstate(all="ignore"):
        return softmax(x + np.where(where, 0.0, -np.inf), axis)


@variant(
    "softmax/empty_row_uniform",
    "SOFTMAX-EMPTY",
    "softmax",
    seen=["jax.nn.dot_product_attention", "patrick-kidger/equinox#274"],
)
def softmax_empty_row_uniform(x, axis=-1, where=None):
    """Absent entries are filled with the lowest finite number, so that an empty row becomes uniform."""
    if x.shape[axis] == 0:
        raise NotApplicable
    return softmax(np.maximum(_masked(x, where), -1e30), axis)


@variant(
    "lse/base_2", "LSE-NATURAL", "logsumexp", seen=["FlashInfer", "pytorch/pytorch#181645", "sgl-project/sglang#35045"]
)
def lse_base_2(x, axis=-1, where=None):
    """The logarithm to base 2 of the same sum."""
    return logsumexp(x, axis, where) / _LN2


@variant("lse/no_shift", "LSE-SHIFT", "logsumexp")
def lse_no_shift(x, axis=-1, where=None):
    """Exponentials of the logits themselves, which overflow."""
    with np.errstate(all="ignore"):
        return np.log(np.exp(_masked(x, where)).sum(axis=axis))


@variant("lse/infinite_is_nan", "LSE-NATURAL", "logsumexp")
def lse_infinite_is_nan(x, axis=-1, where=None):
    """A logit of +infinity gives NaN: the maximum is subtracted from itself."""
    lse = logsumexp(x, axis, where)
    return np.where(np.isposinf(lse), np.nan, lse)


@variant(
    "lse/empty_is_plus_infinity", "LSE-EMPTY", "logsumexp", seen=["FlashAttention-2", "Dao-AILab/flash-attention#978"]
)
def lse_empty_is_plus_infinity(x, axis=-1, where=None):
    """+infinity where nothing is present, which takes all the weight in a merge."""
    lse = logsumexp(x, axis, where)
    return np.where(np.isneginf(lse), np.inf, lse)


@variant(
    "lse/empty_is_finite",
    "LSE-EMPTY",
    "logsumexp",
    seen=["flashinfer-ai/flashinfer#4452", "jax.nn.dot_product_attention"],
)
def lse_empty_is_finite(x, axis=-1, where=None):
    """A finite sentinel where nothing is present."""
    return np.maximum(logsumexp(x, axis, where), -5e4)


@variant("merge/average", "MERGE-UNION", "merge")
def merge_average(out_a, lse_a, out_b, lse_b):
    """The outputs are averaged, whatever their mass."""
    return (out_a + out_b) / 2, np.logaddexp(lse_a, lse_b)


@variant("merge/base_2", "MERGE-UNION", "merge", seen=["sgl-project/sglang#35045", "sgl-project/sglang#40903"])
def merge_base_2(out_a, lse_a, out_b, lse_b):
    """Log-sum-exps to base 2 merged with e: a kernel and its merge do not agree on the base."""
    return merge(out_a, lse_a / _LN2, out_b, lse_b / _LN2)


@variant("merge/no_shift", "MERGE-UNION", "merge")
def merge_no_shift(out_a, lse_a, out_b, lse_b):
    """Exponentials of the log-sum-exps themselves, which overflow."""
    with np.errstate(all="ignore"):
        a, b = np.exp(lse_a), np.exp(lse_b)
        return (a[..., None] * out_a + b[..., None] * out_b) / (a + b)[..., None], np.log(a + b)


@variant(
    "merge/no_guard", "MERGE-IDENTITY", "merge", seen=["flashinfer-ai/flashinfer#4051", "flashinfer-ai/flashinfer#5262"]
)
def merge_no_guard(out_a, lse_a, out_b, lse_b):
    """No guard for empty parts: -infinity minus -infinity is NaN, and zero times garbage is garbage."""
    with np.errstate(all="ignore"):
        peak = np.maximum(lse_a, lse_b)
        a, b = np.exp(lse_a - peak), np.exp(lse_b - peak)
        return (a[..., None] * out_a + b[..., None] * out_b) / (a + b)[..., None], np.log(a + b) + peak


@variant("softmax/peak_of_everything", "SOFTMAX-SHIFT", "softmax")
def softmax_peak_of_everything(x, axis=-1, where=None):
    """The maximum of the whole array is subtracted from every row: rows far below it underflow."""
    x = _masked(x, where)
    with np.errstate(all="ignore"):
        top = np.max(np.where(np.isfinite(x), x, -np.inf), initial=-np.inf)
        weights = np.exp(x - top)
        total = weights.sum(axis=axis, keepdims=True)
        return weights / np.where(total == 0, 1.0, total)


@variant("softmax/not_divided", "SOFTMAX-NORMAL", "softmax")
def softmax_not_divided(x, axis=-1, where=None):
    """Exponentials that are not divided by their sum."""
    x = _masked(x, where)
    with np.errstate(all="ignore"):
        top = x.max(axis=axis, keepdims=True, initial=-np.inf)
        return np.exp(x - np.where(np.isneginf(top), 0.0, top))


@variant("softmax/one_more", "SOFTMAX-NORMAL", "softmax", seen=["softmax-off-by-one"])
def softmax_one_more(x, axis=-1, where=None):
    """One is added to the denominator: a logit of 0 that is nobody's takes part."""
    x = _masked(x, where)
    with np.errstate(all="ignore"):
        top = np.maximum(x.max(axis=axis, keepdims=True, initial=-np.inf), 0.0)
        weights = np.exp(x - top)
        return weights / (weights.sum(axis=axis, keepdims=True) + np.exp(-top))


@variant("softmax/minimum", "SOFTMAX-NORMAL", "softmax")
def softmax_of_negated(x, axis=-1, where=None):
    """The softmax of the negated logits."""
    return softmax(-x, axis, where)


@variant("lse/maximum_missing", "LSE-NATURAL", "logsumexp")
def lse_maximum_missing(x, axis=-1, where=None):
    """The maximum that was subtracted is not added again."""
    x = _masked(x, where)
    top = x.max(axis=axis, initial=-np.inf)
    return logsumexp(x, axis) - np.where(np.isfinite(top), top, 0.0)


@variant("lse/maximum_only", "LSE-NATURAL", "logsumexp")
def lse_maximum_only(x, axis=-1, where=None):
    """The maximum in the place of the log-sum-exp."""
    return _masked(x, where).max(axis=axis, initial=-np.inf)


@variant("lse/mean", "LSE-NATURAL", "logsumexp")
def lse_mean(x, axis=-1, where=None):
    """The logarithm of the mean instead of the sum."""
    return logsumexp(x, axis, where) - math.log(max(x.shape[axis], 1))


@variant("merge/weights_swapped", "MERGE-UNION", "merge")
def merge_weights_swapped(out_a, lse_a, out_b, lse_b):
    """Each part is weighted by the mass of the other."""
    lse = merge(out_a, lse_a, out_b, lse_b)[1]
    return merge(out_b, lse_a, out_a, lse_b)[0], lse


@variant("merge/sum", "MERGE-UNION", "merge")
def merge_sum(out_a, lse_a, out_b, lse_b):
    """The outputs are added, as parts of one unnormalised sum would be."""
    return out_a + out_b, np.logaddexp(lse_a, lse_b)


@variant("merge/lse_of_larger", "MERGE-UNION", "merge")
def merge_lse_of_larger(out_a, lse_a, out_b, lse_b):
    """The log-sum-exp of the merge is the larger of the two."""
    return merge(out_a, lse_a, out_b, lse_b)[0], np.maximum(lse_a, lse_b)


@variant("merge/lse_sum", "MERGE-UNION", "merge")
def merge_lse_sum(out_a, lse_a, out_b, lse_b):
    """The log-sum-exps are added."""
    return merge(out_a, lse_a, out_b, lse_b)[0], lse_a + lse_b
