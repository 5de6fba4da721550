"""Variants of the gradients of attention: one plain backward pass, and for each variant the one thing that it does
differently."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from refattn import attention_stages, masks
from refattn.gradients import AttentionGradients, grouped_query_attention_vjp
from refattn.masks import Mask
from refattn.testing.mechanisms.masks.variants import replaced, shifted
from refattn.testing.registry import NotApplicable, Variant, variant

_LN2 = math.log(2.0)


def summed(x, shape):
    """The sum over the axes along which an array of this shape was broadcast."""
    extra = x.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(n + extra for n, size in enumerate(shape) if size == 1)
    return np.reshape(np.sum(x, axis=axes), shape)


def evaluate(
    d_out,
    q,
    k,
    v,
    mask=None,
    *,
    d_lse=None,
    bias=None,
    scale=None,
    softcap=None,
    sinks=None,
    dropout=None,
    q_positions=None,
    k_positions=None,
    backward_mask=None,
    softmax=lambda s, w, allowed: w,
    drop=lambda x, keep, rate: np.where(keep, x / (1.0 - rate), 0.0),
    drop_weights=None,
    delta=lambda p, d_p, undropped, d_out, out: np.sum(p * d_p, axis=-1, keepdims=True),
    through_lse=lambda p, w, d_lse: w * d_lse,
    slope=lambda u, biased, c: 1.0 - np.tanh(u / c) ** 2,
    of_bias=lambda d_s, d_u, scale: d_s,
    of_sink=lambda delta, weight, d_lse: -delta * weight,
    reduce=summed,
    q_factor=lambda scale: scale,
    k_factor=lambda scale: scale,
    select=lambda present, x: np.where(present, x, 0.0),
    clean=lambda x: np.where(np.isfinite(x), x, 0.0),
    rows=lambda seen, x: np.where(seen, x, 0.0),
    finish=lambda found: found,
):
    """The backward pass in float64 with replaceable steps; without replacements it is the reference where all that
    takes part is finite."""
    options = {"bias": bias, "scale": scale, "softcap": softcap, "sinks": sinks, "dropout": dropout}
    positions = {"q_positions": q_positions, "k_positions": k_positions}
    stages = forward = attention_stages(q, k, v, mask, **options, **positions)
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    with np.errstate(all="ignore"):
        if backward_mask is not None:  # the weights are made again from the scores and the lse of the forward pass
            stages = attention_stages(q, k, v, backward_mask, **options, **positions)
            weights = np.exp(stages.mask - forward.lse[..., None])
            stages = stages._replace(weights=np.where(np.isfinite(forward.lse)[..., None], weights, 0.0))
        present = ~np.isneginf(stages.mask)
        p = softmax(stages.mask, stages.weights, present)
        seen = present.any(axis=-1, keepdims=True)
        without_sink = p
        if sinks is not None:
            share = np.where(
                seen, 1.0 / (1.0 + np.exp(np.asarray(sinks)[..., None, None] - stages.lse[..., None])), 0.0
            )
            without_sink = np.where(share > 0, p / share, 0.0)
        undropped = d_p = select(present, d_out @ np.swapaxes(clean(v), -1, -2))
        mixing = p
        if dropout is not None:
            d_p, mixing = drop(d_p, *dropout), (drop_weights or drop)(p, *dropout)
        row = delta(p, d_p, undropped, d_out, forward.out)
        d_s = select(present, p * (d_p - row))
        if d_lse is not None:
            d_s = d_s + select(present, through_lse(p, without_sink, d_lse[..., None]))
        d_u = d_s * slope(stages.scores, stages.bias, softcap) if softcap else d_s
        d_u = select(present, d_u)
        along_k = d_u @ clean(k)
        d_lse_row = 0.0 if d_lse is None else d_lse[..., None]
        return finish(
            AttentionGradients(
                q=reduce(q_factor(scale) * along_k, q.shape),
                k=reduce(k_factor(scale) * (np.swapaxes(d_u, -1, -2) @ clean(q)), k.shape),
                v=reduce(np.swapaxes(mixing, -1, -2) @ rows(seen, d_out), v.shape),
                bias=None if bias is None else reduce(of_bias(d_s, d_u, scale), np.shape(bias)),
                sinks=None
                if sinks is None
                else reduce(
                    np.sum(np.where(seen, of_sink(row, 1.0 - share, d_lse_row), 0.0)[..., 0], axis=-1), np.shape(sinks)
                ),
                scale=np.sum(np.where(seen, clean(q) * along_k, 0.0)),
            )
        )


def _needs(value, *others):
    if value is None or any(other is None for other in others):
        raise NotApplicable


# --- scale ----------------------------------------------------------------------------------------------------------


@variant("gradient/q_unscaled", "GRAD-SCALE", "attention_vjp")
def q_unscaled(*args, **options):
    """The gradient of the queries lacks the scale."""
    return evaluate(*args, q_factor=lambda scale: 1.0, **options)


@variant("gradient/k_unscaled", "GRAD-SCALE", "attention_vjp")
def k_unscaled(*args, **options):
    """The gradient of the keys lacks the scale."""
    return evaluate(*args, k_factor=lambda scale: 1.0, **options)


@variant("gradient/k_scaled_twice", "GRAD-SCALE", "attention_vjp")
def k_scaled_twice(*args, **options):
    """The gradient of the keys is made with queries that were scaled already, and scaled again."""
    return evaluate(*args, k_factor=lambda scale: scale * scale, **options)


@variant("gradient/default_scale", "GRAD-SCALE", "attention_vjp", seen=["NVIDIA/Megatron-LM#3698 (forward)"])
def default_scale(d_out, q, *args, scale=None, **options):
    """Backward uses 1/√D whatever scale was given."""
    _needs(scale)
    if scale == 1.0 / math.sqrt(max(q.shape[-1], 1)):
        raise NotApplicable
    factor = 1.0 / math.sqrt(q.shape[-1])
    return evaluate(d_out, q, *args, scale=scale, q_factor=lambda _: factor, k_factor=lambda _: factor, **options)


@variant("gradient/scale_of_scaled_scores", "GRAD-SCALE", "attention_vjp")
def scale_of_scaled_scores(d_out, q, *args, scale=None, **options):
    """The gradient of the scale is the sum of the scores' gradients times the scaled scores, not the products q·k."""
    used = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    return evaluate(d_out, q, *args, scale=scale, finish=lambda g: g._replace(scale=g.scale * used), **options)


# --- softcap --------------------------------------------------------------------------------------------------------


@variant("gradient/softcap_omitted", "GRAD-SOFTCAP", "attention_vjp", seen=["Dao-AILab/flash-attention#2544"])
def softcap_omitted(*args, softcap=None, **options):
    """Backward forgets the softcap: the factor 1 - tanh² is missing."""
    _needs(softcap)
    return evaluate(*args, softcap=softcap, slope=lambda u, biased, c: 1.0, **options)


@variant("gradient/softcap_of_biased", "GRAD-SOFTCAP", "attention_vjp")
def softcap_of_biased(*args, softcap=None, bias=None, **options):
    """The factor is 1 - (s/c)² with s taken after the bias was added."""
    _needs(softcap, bias)
    return evaluate(*args, softcap=softcap, bias=bias, slope=lambda u, biased, c: 1.0 - (biased / c) ** 2, **options)


@variant("gradient/softcap_squared_once", "GRAD-SOFTCAP", "attention_vjp")
def softcap_squared_once(*args, softcap=None, **options):
    """The factor is 1 - tanh, without the square."""
    _needs(softcap)
    return evaluate(*args, softcap=softcap, slope=lambda u, biased, c: 1.0 - np.tanh(u / c), **options)


# --- bias -----------------------------------------------------------------------------------------------------------


@variant("gradient/bias_not_reduced", "GRAD-BROADCAST", "attention_vjp")
def bias_not_reduced(*args, bias=None, **options):
    """The gradient of a bias has the shape of the scores, not that of the bias."""
    _needs(bias)
    kept = {}

    def of_bias(d_s, d_u, scale):
        kept["bias"] = d_s
        return d_s

    found = evaluate(*args, bias=bias, of_bias=of_bias, **options)
    return found._replace(bias=kept["bias"])


@variant("gradient/bias_mean", "GRAD-BROADCAST", "attention_vjp")
def bias_mean(*args, bias=None, **options):
    """The gradient of a bias is the mean over the axes along which it was broadcast, not the sum."""
    _needs(bias)
    counted = {}

    def of_bias(d_s, d_u, scale):
        counted["times"] = d_s.size / max(np.size(bias), 1)
        return d_s

    found = evaluate(*args, bias=bias, of_bias=of_bias, **options)
    return found._replace(bias=found.bias / counted["times"])


@variant("gradient/bias_through_cap", "GRAD-BIAS", "attention_vjp")
def bias_through_cap(*args, bias=None, softcap=None, **options):
    """The gradient of the bias is that of the scores before the cap, which the bias never passed through."""
    _needs(bias, softcap)
    return evaluate(*args, bias=bias, softcap=softcap, of_bias=lambda d_s, d_u, scale: d_u, **options)


@variant("gradient/bias_scaled", "GRAD-BIAS", "attention_vjp")
def bias_scaled(*args, bias=None, **options):
    """The gradient of the bias is multiplied by the scale."""
    _needs(bias)
    return evaluate(*args, bias=bias, of_bias=lambda d_s, d_u, scale: scale * d_s, **options)


@variant("gradient/bias_ignored", "GRAD-BIAS", "attention_vjp")
def bias_ignored(*args, bias=None, **options):
    """The bias gets no gradient: zeros."""
    _needs(bias)
    return evaluate(*args, bias=bias, of_bias=lambda d_s, d_u, scale: 0.0 * d_s, **options)


# --- log-sum-exp ----------------------------------------------------------------------------------------------------


@variant(
    "gradient/lse_ignored",
    "GRAD-LSE",
    "attention_vjp",
    seen=[
        "Dao-AILab/flash-attention#1817",
        "Dao-AILab/flash-attention#141",
        "jax.nn.dot_product_attention(return_residual=True)",
    ],
)
def lse_ignored(*args, d_lse=None, **options):
    """The cotangent of lse is dropped."""
    _needs(d_lse)
    return evaluate(*args, **options)


@variant("gradient/lse_sign", "GRAD-LSE", "attention_vjp")
def lse_sign(*args, d_lse=None, **options):
    """The cotangent of lse is added to δ instead of subtracted from it."""
    _needs(d_lse)
    return evaluate(*args, d_lse=-d_lse, **options)


@variant("gradient/lse_base_2", "GRAD-LSE", "attention_vjp")
def lse_base_2(*args, d_lse=None, **options):
    """The cotangent of lse is taken for one of the logarithm to base 2."""
    _needs(d_lse)
    return evaluate(*args, d_lse=d_lse / _LN2, **options)


@variant("gradient/lse_with_sink", "GRAD-LSE", "attention_vjp", advice="lse there includes the sink")
def lse_with_sink(*args, d_lse=None, sinks=None, **options):
    """The cotangent of lse flows as if lse included the sink: by the weights after it, and into the sink."""
    _needs(d_lse, sinks)
    return evaluate(
        *args, d_lse=d_lse, sinks=sinks, through_lse=lambda p, w, d: p * d,
        of_sink=lambda delta, weight, d: (d - delta) * weight, **options,
    )  # fmt: skip


# --- dropout --------------------------------------------------------------------------------------------------------


@variant("gradient/values_undropped", "GRAD-DROPOUT", "attention_vjp")
def values_undropped(*args, dropout=None, **options):
    """The gradient of the values is made with the weights before dropout."""
    _needs(dropout)
    return evaluate(*args, dropout=dropout, drop_weights=lambda p, keep, rate: p, **options)


@variant("gradient/dropout_by_rate", "GRAD-DROPOUT", "attention_vjp", seen=["NVIDIA/apex#816"])
def dropout_by_rate(*args, dropout=None, **options):
    """Backward multiplies what was kept by the rate instead of dividing by 1 - rate."""
    _needs(dropout)
    return evaluate(*args, dropout=dropout, drop=lambda x, keep, rate: np.where(keep, x * rate, 0.0), **options)


@variant("gradient/dropout_not_rescaled", "GRAD-DROPOUT", "attention_vjp")
def dropout_not_rescaled(*args, dropout=None, **options):
    """Backward does not divide by 1 - rate."""
    _needs(dropout)
    return evaluate(*args, dropout=dropout, drop=lambda x, keep, rate: np.where(keep, x, 0.0), **options)


@variant("gradient/dropout_forgotten", "GRAD-DROPOUT", "attention_vjp")
def dropout_forgotten(*args, dropout=None, **options):
    """Backward knows of no dropout at all."""
    _needs(dropout)
    return evaluate(*args, dropout=dropout, drop=lambda x, keep, rate: x, **options)


@variant("gradient/dropout_other_draws", "GRAD-DROPOUT", "attention_vjp", seen=["xlite-dev/ffpa-attn#166"])
def dropout_other_draws(*args, dropout=None, **options):
    """Backward draws other weights than forward: those of the neighbouring key."""
    _needs(dropout)
    return evaluate(
        *args, dropout=dropout,
        drop=lambda x, keep, rate: np.where(np.roll(keep, 1, axis=-1), x / (1.0 - rate), 0.0), **options,
    )  # fmt: skip


# --- sinks ----------------------------------------------------------------------------------------------------------


@variant("gradient/sink_sign", "GRAD-SINK", "attention_vjp")
def sink_sign(*args, sinks=None, **options):
    """The gradient of the sink has the wrong sign."""
    _needs(sinks)
    return evaluate(*args, sinks=sinks, of_sink=lambda delta, weight, d_lse: delta * weight, **options)


@variant("gradient/sink_ignored", "GRAD-SINK", "attention_vjp")
def sink_ignored(*args, sinks=None, **options):
    """The sink gets no gradient: zeros."""
    _needs(sinks)
    return evaluate(*args, sinks=sinks, of_sink=lambda delta, weight, d_lse: 0.0 * delta, **options)


@variant("gradient/sink_unweighted", "GRAD-SINK", "attention_vjp")
def sink_unweighted(*args, sinks=None, **options):
    """The gradient of the sink lacks the sink's weight."""
    _needs(sinks)
    return evaluate(*args, sinks=sinks, of_sink=lambda delta, weight, d_lse: -delta, **options)


@variant("gradient/sink_left_out", "GRAD-SINK", "attention_vjp")
def sink_left_out(*args, sinks=None, **options):
    """Backward makes the weights again without the sink in the denominator."""
    _needs(sinks)

    def softmax(s, weights, present):
        return weights / np.where(present.any(-1, keepdims=True), weights.sum(-1, keepdims=True), 1.0)

    return evaluate(*args, sinks=sinks, softmax=softmax, **options)


@variant("gradient/sink_gate_constant", "GRAD-SINK", "attention_vjp", seen=["pytorch/torchtitan#4796"])
def sink_gate_constant(*args, sinks=None, **options):
    """The sink multiplies the output by sigmoid(lse - sink), and what flows back through that lse is dropped: the sink
    gets its gradient, queries and keys lack a part."""
    _needs(sinks)

    def of_ungated(p, d_p, undropped, d_out, out):
        share = p.sum(axis=-1, keepdims=True)
        return np.sum(p * d_p, axis=-1, keepdims=True) / np.where(share > 0, share, 1.0)

    right = evaluate(*args, sinks=sinks, **options)
    return evaluate(*args, sinks=sinks, delta=of_ungated, **options)._replace(sinks=right.sinks)


# --- δ, the row sum -------------------------------------------------------------------------------------------------


@variant("gradient/delta_missing", "GRAD-EXACT", "attention_vjp")
def delta_missing(*args, **options):
    """The row sum δ is not subtracted: softmax taken for an exponential."""
    return evaluate(*args, delta=lambda p, d_p, undropped, d_out, out: np.zeros((*d_p.shape[:-1], 1)), **options)


@variant("gradient/delta_over_d", "GRAD-EXACT", "attention_vjp", seen=["XunhaoLai/native-sparse-attention-triton#27"])
def delta_over_d(d_out, q, k, v, *args, **options):
    """The row sum of d_out times out runs over the D columns of the queries, not the Dv of the values."""
    d = q.shape[-1]
    if d >= v.shape[-1]:
        raise NotApplicable

    def delta(p, d_p, undropped, d_out, out):
        return np.sum(d_out[..., :d] * out[..., :d], axis=-1, keepdims=True)

    return evaluate(d_out, q, k, v, *args, delta=delta, **options)


@variant("gradient/delta_undropped", "GRAD-DROPOUT", "attention_vjp")
def delta_undropped(*args, dropout=None, **options):
    """The row sum δ is taken from weights and cotangents before dropout."""
    _needs(dropout)
    return evaluate(
        *args, dropout=dropout,
        delta=lambda p, d_p, undropped, d_out, out: np.sum(p * undropped, axis=-1, keepdims=True), **options,
    )  # fmt: skip


# --- visibility -----------------------------------------------------------------------------------------------------


@variant(
    "gradient/empty_row_nan",
    "GRAD-EMPTY",
    "attention_vjp",
    seen=["Xilinx/brevitas#1591", "torch before 2.5", "pytorch/pytorch#158212"],
)
def empty_row_nan(*args, **options):
    """A query that may attend to nothing has weights 0/0 in backward: NaN in its gradient and in those of all keys."""

    return evaluate(*args, softmax=_in_empty_rows(np.nan), select=lambda present, x: x, clean=lambda x: x, **options)


@variant("gradient/empty_row_mean", "GRAD-EMPTY", "attention_vjp", seen=["jax.nn.dot_product_attention"])
def empty_row_mean(d_out, q, k, *args, **options):
    """A query that may attend to nothing weighs all keys alike: its cotangent flows into every value."""
    uniform = _in_empty_rows(1.0 / max(k.shape[-2], 1))
    return evaluate(d_out, q, k, *args, softmax=uniform, rows=lambda seen, x: x, **options)


def _in_empty_rows(weight):
    def softmax(s, weights, present):
        seen = present.any(axis=-1, keepdims=True)
        if seen.all():
            raise NotApplicable
        return np.where(seen, weights, weight)

    return softmax


@variant("gradient/multiplied_by_zero", "GRAD-ABSENT", "attention_vjp", seen=["pytorch/pytorch#101967 (forward)"])
def multiplied_by_zero(*args, **options):
    """Excluded pairs are multiplied by 0 instead of being left out: NaN and infinity in an excluded key or value leak."""
    return evaluate(*args, select=lambda present, x: x * present, clean=lambda x: x, **options)


@variant("gradient/mask_forgotten", "GRAD-MASK", "attention_vjp", seen=["Dao-AILab/flash-attention#2623"])
def mask_forgotten(d_out, q, k, v, mask=None, **options):
    """Backward makes the weights again without the mask."""
    _needs(mask)
    if not all(np.isfinite(x).all() for x in (d_out, q, k, v)):
        raise NotApplicable
    everything = np.ones((q.shape[-2], k.shape[-2]), dtype=bool)
    return evaluate(d_out, q, k, v, mask, backward_mask=everything, delta=_from_output, **options)


@variant(
    "gradient/causal_assumed", "GRAD-MASK", "attention_vjp", seen=["triton-lang/triton#5660", "triton-lang/triton#4541"]
)
def causal_assumed(d_out, q, k, v, mask=None, **options):
    """Without a mask backward is causal, forward is not: it makes the weights again from the log-sum-exp of all keys."""
    if mask is not None or not k.shape[-2] or not q.shape[-2]:
        raise NotApplicable
    backward = masks.causal().dense(
        q.shape[-2], k.shape[-2], q_positions=options.get("q_positions"), k_positions=options.get("k_positions")
    )
    return evaluate(d_out, q, k, v, mask, backward_mask=backward, delta=_from_output, **options)


@variant("causal/assumed", "ATTN-MASK", "attention_vjp", seen=["kyegomez/OpenMythos#2"])
def of_causal_assumed(d_out, q, k, v, mask=None, **options):
    """The gradients of attention that is causal without a mask, forward as backward."""
    if mask is not None or not k.shape[-2] or not q.shape[-2]:
        raise NotApplicable
    return evaluate(d_out, q, k, v, masks.causal(), **options)


@variant("causal/assumed_top_left", "ATTN-MASK", "attention_vjp", seen=["kyegomez/OpenMythos#2"])
def of_causal_assumed_top_left(d_out, q, k, v, mask=None, **options):
    """The gradients of attention that is causal without a mask and counts its queries from 0, forward as backward."""
    if mask is not None or not k.shape[-2] or q.shape[-2] in (0, k.shape[-2]):
        raise NotApplicable
    of_first = {"q_positions": np.arange(q.shape[-2]), "k_positions": None}
    return evaluate(d_out, q, k, v, masks.causal(), **{**options, **of_first})


@variant("mask/ignored", "ATTN-MASK", "attention_vjp", seen=["pytorch/pytorch#117939"])
def of_mask_ignored(d_out, q, k, v, mask=None, **options):
    """The gradients of attention without its mask, forward as backward."""
    if mask is None:
        raise NotApplicable
    return evaluate(d_out, q, k, v, **options)


def of_mask(v: Variant) -> Variant:
    """A variant of `Mask.dense` as one of the gradients: of attention that reads the rule so, forward as backward."""
    dense = v.call

    def call(d_out, q, k, v, mask=None, *, q_positions=None, k_positions=None, **options):
        if not isinstance(mask, Mask):
            raise NotApplicable
        changed = dense(mask, q.shape[-2], k.shape[-2], q_positions=q_positions, k_positions=k_positions)
        return evaluate(d_out, q, k, v, changed, **options)

    return replace(v, function="attention_vjp", call=call)


@variant("gradient/causal_top_left", "GRAD-MASK", "attention_vjp")
def causal_top_left(d_out, q, k, v, mask=None, **options):
    """Backward aligns the queries with the first keys, forward with the last."""
    offset = k.shape[-2] - q.shape[-2]
    if not isinstance(mask, Mask) or not offset or options.get("q_positions") is not None:
        raise NotApplicable
    moved = replaced(mask, "causal", lambda: shifted(masks.causal(), -offset))
    return evaluate(d_out, q, k, v, mask, backward_mask=moved, delta=_from_output, **options)


@variant(
    "causal/top_left",
    "ATTN-ALIGN",
    "attention_vjp",
    seen=["torch scaled_dot_product_attention(is_causal=True)", "jax.nn.dot_product_attention(is_causal=True)"],
    advice="pass q_positions=arange(N)",
)
def of_causal_top_left(d_out, q, k, v, mask=None, **options):
    """The gradients of attention that aligns the queries with the first keys, forward as backward."""
    offset = k.shape[-2] - q.shape[-2]
    if not isinstance(mask, Mask) or not offset or options.get("q_positions") is not None:
        raise NotApplicable
    moved = replaced(mask, "causal", lambda: shifted(masks.causal(), -offset))
    return evaluate(d_out, q, k, v, moved, **options)


def _from_output(p, d_p, undropped, d_out, out):
    return np.sum(d_out * out, axis=-1, keepdims=True)


@variant("gradient/last_features_missing", "GRAD-EXACT", "attention_vjp", seen=["Dao-AILab/flash-attention#2896"])
def last_features_missing(d_out, q, *args, **options):
    """Columns of the queries' gradient beyond the last whole tile, here beyond a power of two, are not written."""
    whole = 2 ** (max(q.shape[-1], 1).bit_length() - 1)
    if whole == q.shape[-1] or not q.shape[-1]:
        raise NotApplicable

    def finish(found):
        return found._replace(q=np.where(np.arange(q.shape[-1]) < whole, found.q, 0.0))

    return evaluate(d_out, q, *args, finish=finish, **options)


# --- groups ---------------------------------------------------------------------------------------------------------


def _by_head(d_out, q, k, v, *args, **options):
    """The gradients with a copy of keys and values for every query head, and H, G and the size of a group."""
    group = q.shape[-3] // k.shape[-3]
    if group == 1:
        raise NotApplicable
    copies = (np.repeat(x, group, axis=-3) for x in (k, v))
    return grouped_query_attention_vjp(d_out, q, *copies, *args, **options), q.shape[-3], k.shape[-3], group


def collected(found, heads, kv_heads, collect):
    def over(x):
        return collect(np.reshape(x, (*x.shape[:-3], kv_heads, heads // kv_heads, *x.shape[-2:])))

    return found._replace(k=over(found.k), v=over(found.v))


@variant("gradient/group_mean", "GRAD-GROUP", "grouped_query_attention_vjp")
def group_mean(*args, **options):
    """Keys and values get the mean over the query heads that read them, not the sum."""
    found, heads, kv_heads, _ = _by_head(*args, **options)
    return collected(found, heads, kv_heads, lambda x: x.mean(axis=-3))


@variant("gradient/group_last_head", "GRAD-GROUP", "grouped_query_attention_vjp")
def group_last_head(*args, **options):
    """Keys and values keep what the last query head of the group wrote, as without an atomic addition."""
    found, heads, kv_heads, _ = _by_head(*args, **options)
    return collected(found, heads, kv_heads, lambda x: x[..., -1, :, :])


@variant(
    "gradient/group_not_summed", "GRAD-GROUP", "grouped_query_attention_vjp",
    seen=["fla-org/flash-linear-attention#384"],
)  # fmt: skip
def group_not_summed(*args, **options):
    """The gradients of keys and values have one head for each query head."""
    return _by_head(*args, **options)[0]


@variant(
    "gradient/group_interleaved", "GRAD-GROUP", "grouped_query_attention_vjp",
    seen=["XunhaoLai/native-sparse-attention-triton#27"],
)  # fmt: skip
def group_interleaved(*args, **options):
    """Query head h adds to key/value head h % G in backward, but reads head h // (H // G) in forward."""
    found, _, kv_heads, group = _by_head(*args, **options)

    def over(x):
        return np.sum(np.reshape(x, (*x.shape[:-3], group, kv_heads, *x.shape[-2:])), axis=-4)

    if group == kv_heads == 1:
        raise NotApplicable
    return found._replace(k=over(found.k), v=over(found.v))
