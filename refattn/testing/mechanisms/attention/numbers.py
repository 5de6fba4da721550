"""Variants of attention's formulas: other scales, caps, sinks, dropouts and log-sum-exps."""

from __future__ import annotations

import math

import numpy as np

from refattn.softmax import level
from refattn.testing.mechanisms.attention.variants import evaluate, exponentials
from refattn.testing.registry import NotApplicable, variant
from refattn.testing.rounding import round_to
from refattn.testing.steps import Then

_LN2 = math.log(2.0)


def _needs(*conditions):
    if not all(conditions):
        raise NotApplicable


# --- scale ----------------------------------------------------------------------------------------------------------


@variant("scale/inverted", "ATTN-SCALE", "attention", seen=["AI-Hypercomputer/maxtext#1370"])
def scale_inverted(q, k, v, mask=None, *, scale=None, **options):
    """Scores are divided by the scale."""
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    _needs(scale not in (0.0, 1.0, -1.0))
    return evaluate(q, k, v, mask, scale=1.0 / scale, **options)


@variant("scale/zero_is_default", "ATTN-SCALE", "attention")
def scale_zero_is_default(q, k, v, mask=None, *, scale=None, **options):
    """A scale of 0 is taken for none given."""
    _needs(scale is not None and scale == 0)
    return evaluate(q, k, v, mask, **options)


@variant("scale/absolute", "ATTN-SCALE", "attention")
def scale_absolute(q, k, v, mask=None, *, scale=None, **options):
    """The sign of a negative scale is lost, as where its root multiplies q and k."""
    _needs(scale is not None and scale < 0)
    return evaluate(q, k, v, mask, scale=-scale, **options)


@variant("scale/size_of_values", "ATTN-SCALE", "attention", seen=["ollama/ollama#13893 (another size of MLA's)"])
def scale_size_of_values(q, k, v, mask=None, *, scale=None, **options):
    """1/√Dv instead of 1/√D."""
    _needs(scale is None, v.shape[-1] not in (0, q.shape[-1]))
    return evaluate(q, k, v, mask, scale=1.0 / math.sqrt(v.shape[-1]), **options)


@variant("scale/size_of_both", "ATTN-SCALE", "attention", seen=["FlashAttention-3 with qv"])
def scale_size_of_both(q, k, v, mask=None, *, scale=None, **options):
    """1/√(D + Dv) instead of 1/√D."""
    _needs(scale is None, v.shape[-1] > 0)
    return evaluate(q, k, v, mask, scale=1.0 / math.sqrt(q.shape[-1] + v.shape[-1]), **options)


@variant("scale/number_of_keys", "ATTN-SCALE", "attention")
def scale_number_of_keys(q, k, v, mask=None, *, scale=None, **options):
    """1/√M instead of 1/√D: the size of another axis."""
    _needs(scale is None, k.shape[-2] not in (0, q.shape[-1]))
    return evaluate(q, k, v, mask, scale=1.0 / math.sqrt(k.shape[-2]), **options)


@variant("scale/on_weights", "ATTN-SCALE", "attention")
def scale_on_weights(q, k, v, mask=None, *, scale=None, **options):
    """The scale multiplies the weights, after the softmax."""
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    after = lambda out, lse, weights, s: (scale * out, lse)
    return evaluate(q, k, v, mask, scale=1.0, finish=after, **options)


@variant("exponent/log2e_twice", "ATTN-OUT", "attention")
def exponent_log2e_twice(*args, **kwargs):
    """Scores are multiplied by log2(e), for powers of 2, and the powers are of e."""
    return evaluate(*args, shifted_exp=exponentials(lambda x: np.exp(x / _LN2)), **kwargs)


# --- softcap --------------------------------------------------------------------------------------------------------


def _capped(cap):
    def call(q, k, v, mask=None, *, softcap=None, **options):
        _needs(softcap)
        return evaluate(q, k, v, mask, softcap=softcap, capped=cap, **options)

    return call


@variant("softcap/factor_missing", "ATTN-SOFTCAP", "attention")
def softcap_factor_missing(*args, **kwargs):
    """tanh(s/c) instead of c·tanh(s/c)."""
    return _capped(lambda xp, s, c: np.tanh(s / c))(*args, **kwargs)


@variant("softcap/not_divided", "ATTN-SOFTCAP", "attention")
def softcap_not_divided(*args, **kwargs):
    """c·tanh(s) instead of c·tanh(s/c)."""
    return _capped(lambda xp, s, c: c * np.tanh(s))(*args, **kwargs)


@variant("softcap/clips", "ATTN-SOFTCAP", "attention")
def softcap_clips(*args, **kwargs):
    """Scores are cut off at ±c instead of bent towards it."""
    return _capped(lambda xp, s, c: np.clip(s, -c, c))(*args, **kwargs)


@variant("softcap/scaled_twice", "ATTN-SOFTCAP", "attention", seen=["FlashInfer with ALiBi (as its source reads)"])
def softcap_scaled_twice(q, k, v, mask=None, *, softcap=None, scale=None, **options):
    """The scale is applied again inside the cap."""
    _needs(softcap)
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    again = lambda xp, s, c: c * np.tanh(scale * s / c)
    return evaluate(q, k, v, mask, softcap=softcap, scale=scale, capped=again, **options)


@variant("softcap/zero_flattens", "ATTN-SOFTCAP", "attention", seen=["Gemma 2 in transformers, eager"])
def softcap_zero_flattens(q, k, v, mask=None, *, softcap=None, **options):
    """A cap of 0 is applied as it stands: 0·tanh(s/0) makes every score 0, and NaN of a score of 0."""
    _needs(softcap is not None and softcap == 0)
    return evaluate(q, k, v, mask, scored=Then(lambda s: 0.0 * np.tanh(s / 0.0)), **options)


# --- sinks ----------------------------------------------------------------------------------------------------------


def _sunk(change):
    def call(q, k, v, mask=None, *, sinks=None, **options):
        _needs(sinks is not None)
        return evaluate(q, k, v, mask, sinks=change(sinks, q, options), **options)

    return call


@variant("sink/zero", "ATTN-SINK", "attention", seen=["softmax-off-by-one"])
def sink_zero(*args, **kwargs):
    """Every sink is 0: one is added to the denominator."""
    return _sunk(lambda sinks, q, options: 0.0 * np.where(np.isfinite(sinks), sinks, 0.0))(*args, **kwargs)


@variant("sink/negated", "ATTN-SINK", "attention")
def sink_negated(*args, **kwargs):
    """The sink's sign is lost."""
    return _sunk(lambda sinks, q, options: -sinks)(*args, **kwargs)


@variant("sink/twice", "ATTN-SINK", "attention")
def sink_twice(*args, **kwargs):
    """The sink joins the denominator twice, as once for each of two splits."""
    return _sunk(lambda sinks, q, options: sinks + _LN2)(*args, **kwargs)


@variant("sink/base_2", "ATTN-SINK", "attention")
def sink_base_2(*args, **kwargs):
    """The sink enters as a power of 2, the scores as powers of e."""
    return _sunk(lambda sinks, q, options: sinks * _LN2)(*args, **kwargs)


@variant("sink/first_for_all", "ATTN-SINK", "attention")
def sink_first_for_all(*args, **kwargs):
    """The sink of the first head serves all of them."""

    def first(sinks, q, options):
        _needs(np.ndim(sinks) > 0)
        _needs(sinks.shape[-1] > 1)
        return sinks[..., :1]

    return _sunk(first)(*args, **kwargs)


@variant("sink/on_batch", "ATTN-SINK", "attention")
def sink_on_batch(*args, **kwargs):
    """One sink a head is laid over the batch, which no shape shows where B = H."""

    def turned(sinks, q, options):
        _needs(np.ndim(sinks) == 1, q.ndim == 4)
        _needs(sinks.shape[0] == q.shape[0] > 1)
        return sinks[:, None]

    return _sunk(turned)(*args, **kwargs)


@variant("sink/capped", "ATTN-SINK", "attention")
def sink_capped(*args, **kwargs):
    """The sink passes through the cap, as the scores do."""

    def capped(sinks, q, options):
        cap = options.get("softcap")
        _needs(cap)
        return cap * np.tanh(sinks / cap)

    return _sunk(capped)(*args, **kwargs)


@variant("sink/value_of_first_key", "ATTN-SINK", "attention")
def sink_value_of_first_key(q, k, v, mask=None, *, sinks=None, **options):
    """The sink's share goes to the first value instead of to nothing."""
    _needs(sinks is not None, k.shape[-2] > 0)
    share = lambda xp, w, present, x: w @ x + (1.0 - w.sum(axis=-1, keepdims=True)) * x[..., :1, :]
    return evaluate(q, k, v, mask, sinks=sinks, mixed=share, **options)


@variant("sink/not_in_maximum", "ATTN-SINK", "attention", seen=["Dao-AILab/flash-attention#2752"])
def sink_not_in_maximum(q, k, v, mask=None, *, sinks=None, **options):
    """The sink joins the sum and the log-sum-exp after the maximum of the scores was taken: exp(sink - max) overflows
    far above the scores, and the log-sum-exp of a row without keys is NaN."""
    _needs(sinks is not None)
    z = np.asarray(sinks)[..., None, None]
    far = lambda peak: z - peak > 88.72  # where float32's exponential overflows

    def joined(xp, w, total, peak, _):
        return np.where((total > 0) & ~far(peak), w / (1.0 + np.exp(z - level(xp, total, peak))), 0.0)

    def included(xp, total, peak):
        lse = np.where(far(peak), np.inf, np.logaddexp(level(xp, total, peak), z))
        return np.where(total == 0, np.nan, lse)

    return evaluate(q, k, v, mask, sinks=sinks, sunk=joined, level=included, **options)


# --- dropout --------------------------------------------------------------------------------------------------------


def _dropped(drop):
    def call(q, k, v, mask=None, *, dropout=None, **options):
        _needs(dropout is not None)
        return evaluate(q, k, v, mask, dropout=dropout, dropped=drop, **options)

    return call


@variant("dropout/inverted", "ATTN-DROPOUT", "attention")
def dropout_inverted(*args, **kwargs):
    """The weights that should be kept are dropped."""
    return _dropped(lambda xp, w, keep, rate: np.where(keep, 0.0, w / (1.0 - rate)))(*args, **kwargs)


@variant("dropout/times_kept_share", "ATTN-DROPOUT", "attention")
def dropout_times_kept_share(*args, **kwargs):
    """Kept weights are multiplied by 1 - rate."""
    return _dropped(lambda xp, w, keep, rate: np.where(keep, w * (1.0 - rate), 0.0))(*args, **kwargs)


@variant("dropout/times_rate", "ATTN-DROPOUT", "attention", seen=["NVIDIA/apex#816 (its backward)"])
def dropout_times_rate(*args, **kwargs):
    """Kept weights are multiplied by the rate."""
    return _dropped(lambda xp, w, keep, rate: np.where(keep, w * rate, 0.0))(*args, **kwargs)


@variant("dropout/on_scores", "ATTN-DROPOUT", "attention")
def dropout_on_scores(q, k, v, mask=None, *, dropout=None, **options):
    """Scores are dropped to 0, before the softmax."""
    _needs(dropout is not None)
    keep, rate = np.asarray(dropout[0]), dropout[1]
    return evaluate(q, k, v, mask, scored=Then(lambda s: np.where(keep, s / (1.0 - rate), 0.0)), **options)


@variant("dropout/before_sum", "ATTN-DROPOUT", "attention", seen=["aws-neuron/nki-samples#80"])
def dropout_before_sum(q, k, v, mask=None, *, dropout=None, sinks=None, **options):
    """The sum of a row is taken after dropout: kept weights fill it up, and a row that kept no key is 0/0."""
    _needs(dropout is not None)
    keep, rate = np.asarray(dropout[0]), dropout[1]
    values = np.where(np.isfinite(v), v, 0.0)

    def summed(out, lse, weights, s):
        m = _top(s)[..., None]
        w = np.where(keep, np.exp(s - m) / (1.0 - rate), 0.0)
        total = w.sum(axis=-1, keepdims=True)
        p = w / total
        if sinks is not None:
            p = p / (1.0 + np.exp(np.asarray(sinks)[..., None, None] - np.log(total) - m))
        return p @ values, lse

    return evaluate(q, k, v, mask, finish=summed, **options)


@variant("dropout/in_lse", "ATTN-LSE", "attention")
def dropout_in_lse(q, k, v, mask=None, *, dropout=None, return_lse=False, **options):
    """The log-sum-exp is of the keys that dropout kept."""
    _needs(dropout is not None, return_lse, options.get("sinks") is None)
    keep = np.asarray(dropout[0])

    def of_kept(out, lse, weights, s):
        with np.errstate(divide="ignore"):
            kept = np.where(keep, np.exp(s - np.where(np.isneginf(lse), 0.0, lse)[..., None]), 0.0).sum(axis=-1)
            return out, np.where(np.isneginf(lse), -np.inf, lse + np.log(kept))

    return evaluate(q, k, v, mask, dropout=dropout, finish=of_kept, return_lse=True, **options)


# --- narrow weights -------------------------------------------------------------------------------------------------


@variant("weights/float8_without_prescale", "ATTN-OUT", "attention", seen=["flashinfer-ai/flashinfer#5020"])
def weights_float8_without_prescale(q, k, v, mask=None, *, sinks=None, dropout=None, **options):
    """Weights between 0 and 1 are rounded to float8 (e4m3) as they are, after their sum was taken: below 2^-10 they are
    0 in the sum of values and count in the other."""
    values = np.where(np.isfinite(v), v, 0.0)

    def rounded(out, lse, weights, s):
        w = np.exp(s - _top(s)[..., None])
        total = w.sum(axis=-1, keepdims=True)
        w = round_to(w, "float8_e4m3fn")
        if dropout is not None:
            w = np.where(dropout[0], w / (1.0 - dropout[1]), 0.0)
        found = w @ values / np.where(total == 0, 1.0, total)
        if sinks is not None:
            left = 1.0 / (1.0 + np.exp(np.asarray(sinks)[..., None, None] - lse[..., None]))
            found = np.where(total == 0, 0.0, found * left)
        return np.where(np.isfinite(out), found, out), lse

    return evaluate(q, k, v, mask, sinks=sinks, dropout=dropout, finish=rounded, **options)


# --- log-sum-exp ----------------------------------------------------------------------------------------------------


def _lse(change):
    def call(*args, return_lse=False, **kwargs):
        _needs(return_lse)
        return evaluate(*args, return_lse=True, finish=lambda out, lse, w, s: (out, change(lse, s)), **kwargs)

    return call


def _top(s):
    m = np.max(s, axis=-1, initial=-np.inf)
    return np.where(np.isneginf(m), 0.0, m)


@variant("lse/times_ln_2", "ATTN-LSE", "attention", seen=["pytorch/pytorch#181645"])
def lse_times_ln_2(*args, **kwargs):
    """The log-sum-exp is multiplied by ln 2 once too often, as if it were to base 2."""
    return _lse(lambda lse, s: lse * _LN2)(*args, **kwargs)


@variant("lse/maximum_missing", "ATTN-LSE", "attention")
def lse_maximum_missing(*args, **kwargs):
    """The maximum that was subtracted is not added again."""
    return _lse(lambda lse, s: lse - _top(s))(*args, **kwargs)


@variant("lse/maximum_only", "ATTN-LSE", "attention")
def lse_maximum_only(*args, **kwargs):
    """The running maximum is returned in the place of the log-sum-exp."""
    return _lse(lambda lse, s: np.max(s, axis=-1, initial=-np.inf))(*args, **kwargs)


@variant("lse/sum_only", "ATTN-LSE", "attention")
def lse_sum_only(*args, **kwargs):
    """The denominator is returned, without logarithm and maximum."""
    return _lse(lambda lse, s: np.exp(s - _top(s)[..., None]).sum(axis=-1))(*args, **kwargs)


@variant("lse/negated", "ATTN-LSE", "attention")
def lse_negated(*args, **kwargs):
    """The sign of the log-sum-exp is lost."""
    return _lse(lambda lse, s: -lse)(*args, **kwargs)


@variant("lse/constant_added", "ATTN-LSE", "attention")
def lse_constant_added(*args, **kwargs):
    """The log-sum-exp is off by one and the same constant everywhere."""
    return _lse(lambda lse, s: lse + _LN2)(*args, **kwargs)


@variant("lse/bfloat16", "ATTN-LSE", "attention", seen=["jax.nn.dot_product_attention(return_residual=True)"])
def lse_bfloat16(*args, **kwargs):
    """The log-sum-exp is rounded to bfloat16, whatever it was computed in."""
    return _lse(lambda lse, s: round_to(lse, "bfloat16"))(*args, **kwargs)


@variant("lse/tokens_first", "ATTN-LSE", "attention", seen=["FlashInfer (tokens, heads)"], advice="exchange the axes")
def lse_tokens_first(*args, **kwargs):
    """The axes of the log-sum-exp are tokens and heads, which no shape shows where N = H."""

    def turned(lse, s):
        _needs(lse.ndim > 1)
        _needs(lse.shape[-1] == lse.shape[-2] > 1)
        return np.swapaxes(lse, -1, -2)

    return _lse(turned)(*args, **kwargs)


@variant("lse/before_softcap", "ATTN-LSE", "attention")
def lse_before_softcap(q, k, v, mask=None, *, softcap=None, return_lse=False, **options):
    """The log-sum-exp leaves the cap out."""
    _needs(softcap, return_lse)
    out = evaluate(q, k, v, mask, softcap=softcap, **options)
    return out, evaluate(q, k, v, mask, return_lse=True, **options)[1]


@variant("lse/before_mask", "ATTN-LSE", "attention")
def lse_before_mask(q, k, v, mask=None, *, return_lse=False, **options):
    """The log-sum-exp is of all keys, excluded ones included."""
    _needs(mask is not None, return_lse)
    out = evaluate(q, k, v, mask, **options)
    return out, evaluate(q, k, v, None, return_lse=True, **options)[1]
