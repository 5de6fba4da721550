"""Variants of the gradients of attention: of most, the one step of the backward pass that it does differently."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from refattn import masks
from refattn.attention import attention_stages, dropped
from refattn.gradients import attention_vjp, grouped_query_attention_vjp
from refattn.gradients.attention import (
    row_sums,
    selected,
    to_bias,
    to_keys,
    to_queries,
    to_sinks,
    to_values,
    without_sink,
)
from refattn.masks import Mask
from refattn.testing.mechanisms.masks.variants import replaced, shifted
from refattn.testing.registry import NotApplicable, Variant, variant
from refattn.testing.steps import Then, with_steps

_LN2 = math.log(2.0)


STEPS = frozenset(
    ("attention_stages", "selected", "to_weights", "dropped", "row_sums", "without_sink", "through_cap", "product_of_present",
     "to_queries", "to_keys", "to_values", "to_bias", "to_sinks", "to_scale")
)  # fmt: skip


def evaluate(*args, **options):
    """The gradients as a variant has them: with other arguments, or with steps of the reference replaced, by their names."""
    steps = {name: x for name, x in options.items() if name in STEPS}
    with np.errstate(all="ignore"):
        return with_steps(attention_vjp, **steps)(*args, **{n: x for n, x in options.items() if n not in STEPS})


def _needs(value, *others):
    if value is None or any(other is None for other in others):
        raise NotApplicable


# --- scale ----------------------------------------------------------------------------------------------------------


@variant("gradient/q_unscaled", "GRAD-SCALE", "attention_vjp")
def q_unscaled(*args, **options):
    """The gradient of the queries lacks the scale."""
    return evaluate(*args, to_queries=_by(to_queries, 1.0), **options)


@variant("gradient/k_unscaled", "GRAD-SCALE", "attention_vjp")
def k_unscaled(*args, **options):
    """The gradient of the keys lacks the scale."""
    return evaluate(*args, to_keys=_by(to_keys, 1.0), **options)


@variant("gradient/k_scaled_twice", "GRAD-SCALE", "attention_vjp")
def k_scaled_twice(*args, **options):
    """The gradient of the keys is made with queries that were scaled already, and scaled again."""
    twice = lambda xp, scale, *rest: to_keys(xp, scale * scale, *rest)
    return evaluate(*args, to_keys=twice, **options)


@variant("gradient/default_scale", "GRAD-SCALE", "attention_vjp", seen=["NVIDIA/Megatron-LM#3698 (forward)"])
def default_scale(d_out, q, *args, scale=None, **options):
    """Backward uses 1/√D whatever scale was given."""
    _needs(scale)
    if scale == 1.0 / math.sqrt(max(q.shape[-1], 1)):
        raise NotApplicable
    factor = 1.0 / math.sqrt(q.shape[-1])
    own = {"to_queries": _by(to_queries, factor), "to_keys": _by(to_keys, factor)}
    return evaluate(d_out, q, *args, scale=scale, **own, **options)


def _by(step, factor):
    """A step with a factor in the place of the scale."""
    return lambda xp, scale, *rest: step(xp, factor, *rest)


@variant("gradient/scale_of_scaled_scores", "GRAD-SCALE", "attention_vjp")
def scale_of_scaled_scores(d_out, q, *args, scale=None, **options):
    """The gradient of the scale is the sum of the scores' gradients times the scaled scores, not the products q·k."""
    used = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    return evaluate(d_out, q, *args, scale=scale, to_scale=Then(lambda g: g * used), **options)


# --- softcap --------------------------------------------------------------------------------------------------------


@variant("gradient/softcap_omitted", "GRAD-SOFTCAP", "attention_vjp", seen=["Dao-AILab/flash-attention#2544"])
def softcap_omitted(*args, softcap=None, **options):
    """Backward forgets the softcap: the factor 1 - tanh² is missing."""
    _needs(softcap)
    return evaluate(*args, softcap=softcap, through_cap=lambda xp, d_s, stages, c: d_s, **options)


@variant("gradient/softcap_of_biased", "GRAD-SOFTCAP", "attention_vjp")
def softcap_of_biased(*args, softcap=None, bias=None, **options):
    """The factor is 1 - (s/c)² with s taken after the bias was added."""
    _needs(softcap, bias)
    of_biased = lambda xp, d_s, stages, c: d_s * (1.0 - (stages.bias / c) ** 2)
    return evaluate(*args, softcap=softcap, bias=bias, through_cap=of_biased, **options)


@variant("gradient/softcap_squared_once", "GRAD-SOFTCAP", "attention_vjp")
def softcap_squared_once(*args, softcap=None, **options):
    """The factor is 1 - tanh, without the square."""
    _needs(softcap)
    once = lambda xp, d_s, stages, c: d_s * (1.0 - np.tanh(stages.scores / c))
    return evaluate(*args, softcap=softcap, through_cap=once, **options)


# --- bias -----------------------------------------------------------------------------------------------------------


@variant("gradient/bias_not_reduced", "GRAD-BROADCAST", "attention_vjp")
def bias_not_reduced(*args, bias=None, **options):
    """The gradient of a bias has the shape of the scores, not that of the bias."""
    _needs(bias)
    return evaluate(*args, bias=bias, to_bias=lambda xp, d_s, bias: d_s, **options)


@variant("gradient/bias_mean", "GRAD-BROADCAST", "attention_vjp")
def bias_mean(*args, bias=None, **options):
    """The gradient of a bias is the mean over the axes along which it was broadcast, not the sum."""
    _needs(bias)
    mean = lambda xp, d_s, bias: to_bias(xp, d_s, bias) / (d_s.size / max(bias.size, 1))
    return evaluate(*args, bias=bias, to_bias=mean, **options)


@variant("gradient/bias_through_cap", "GRAD-BIAS", "attention_vjp")
def bias_through_cap(*args, bias=None, softcap=None, **options):
    """The gradient of the bias is that of the scores before the cap, which the bias never passed through."""
    _needs(bias, softcap or None)
    passed = {}

    def kept(d_u):
        passed["d_u"] = d_u
        return d_u

    capped = lambda xp, d_s, bias: to_bias(xp, selected(xp, d_s != 0, passed["d_u"]), bias)  # 0 where a pair is absent
    return evaluate(*args, bias=bias, softcap=softcap, through_cap=Then(kept), to_bias=capped, **options)


@variant("gradient/bias_scaled", "GRAD-BIAS", "attention_vjp")
def bias_scaled(d_out, q, *args, bias=None, scale=None, **options):
    """The gradient of the bias is multiplied by the scale."""
    _needs(bias)
    factor = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    scaled = lambda xp, d_s, bias: to_bias(xp, factor * d_s, bias)
    return evaluate(d_out, q, *args, bias=bias, scale=scale, to_bias=scaled, **options)


@variant("gradient/bias_ignored", "GRAD-BIAS", "attention_vjp")
def bias_ignored(*args, bias=None, **options):
    """The bias gets no gradient: zeros."""
    _needs(bias)
    return evaluate(*args, bias=bias, to_bias=Then(lambda g: 0.0 * g), **options)


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

    def with_sink(xp, s, sinks):
        w, taken = without_sink(xp, s, sinks)
        return w * (1.0 - taken), taken

    into = lambda xp, delta, *rest: to_sinks(xp, delta - d_lse[..., None], *rest)
    return evaluate(*args, d_lse=d_lse, sinks=sinks, without_sink=with_sink, to_sinks=into, **options)


# --- dropout --------------------------------------------------------------------------------------------------------


@variant("gradient/values_undropped", "GRAD-DROPOUT", "attention_vjp")
def values_undropped(*args, dropout=None, **options):
    """The gradient of the values is made with the weights before dropout."""
    _needs(dropout)
    undropped = lambda xp, p, d_out, present, keep, rate: to_values(xp, p, d_out, present, None, 0.0)
    return evaluate(*args, dropout=dropout, to_values=undropped, **options)


def _dropping(drop):
    """The steps of a backward pass that drops otherwise."""
    return {
        "to_weights": lambda xp, d_out, v, keep, rate: drop(d_out @ np.swapaxes(v, -1, -2), keep, rate),
        "dropped": lambda xp, p, keep, rate: drop(p, keep, rate),
    }


@variant("gradient/dropout_by_rate", "GRAD-DROPOUT", "attention_vjp", seen=["NVIDIA/apex#816"])
def dropout_by_rate(*args, dropout=None, **options):
    """Backward multiplies what was kept by the rate instead of dividing by 1 - rate."""
    _needs(dropout)
    return evaluate(*args, dropout=dropout, **_dropping(lambda x, keep, rate: np.where(keep, x * rate, 0.0)), **options)


@variant("gradient/dropout_not_rescaled", "GRAD-DROPOUT", "attention_vjp")
def dropout_not_rescaled(*args, dropout=None, **options):
    """Backward does not divide by 1 - rate."""
    _needs(dropout)
    return evaluate(*args, dropout=dropout, **_dropping(lambda x, keep, rate: np.where(keep, x, 0.0)), **options)


@variant("gradient/dropout_forgotten", "GRAD-DROPOUT", "attention_vjp")
def dropout_forgotten(*args, dropout=None, **options):
    """Backward knows of no dropout at all."""
    _needs(dropout)
    return evaluate(*args, dropout=dropout, **_dropping(lambda x, keep, rate: x), **options)


@variant("gradient/dropout_other_draws", "GRAD-DROPOUT", "attention_vjp", seen=["xlite-dev/ffpa-attn#166"])
def dropout_other_draws(*args, dropout=None, **options):
    """Backward draws other weights than forward: those of the neighbouring key."""
    _needs(dropout)
    return evaluate(
        *args, dropout=dropout,
        **_dropping(lambda x, keep, rate: np.where(np.roll(keep, 1, axis=-1), x / (1.0 - rate), 0.0)), **options,
    )  # fmt: skip


# --- sinks ----------------------------------------------------------------------------------------------------------


@variant("gradient/sink_sign", "GRAD-SINK", "attention_vjp")
def sink_sign(*args, sinks=None, **options):
    """The gradient of the sink has the wrong sign."""
    _needs(sinks)
    return evaluate(*args, sinks=sinks, to_sinks=Then(lambda g: -g), **options)


@variant("gradient/sink_ignored", "GRAD-SINK", "attention_vjp")
def sink_ignored(*args, sinks=None, **options):
    """The sink gets no gradient: zeros."""
    _needs(sinks)
    return evaluate(*args, sinks=sinks, to_sinks=Then(lambda g: 0.0 * g), **options)


@variant("gradient/sink_unweighted", "GRAD-SINK", "attention_vjp")
def sink_unweighted(*args, sinks=None, **options):
    """The gradient of the sink lacks the sink's weight."""
    _needs(sinks)
    unweighted = lambda xp, delta, taken, *rest: to_sinks(xp, delta, 1.0, *rest)
    return evaluate(*args, sinks=sinks, to_sinks=unweighted, **options)


@variant("gradient/sink_left_out", "GRAD-SINK", "attention_vjp")
def sink_left_out(*args, sinks=None, **options):
    """Backward makes the weights again without the sink in the denominator."""
    _needs(sinks)

    def weights(stages):
        seen = ~np.isneginf(stages.mask).all(axis=-1, keepdims=True)
        return stages.weights / np.where(seen, stages.weights.sum(-1, keepdims=True), 1.0)

    return evaluate(*args, sinks=sinks, **_weighing(weights), **options)


def _weighing(weights):
    """The steps of a backward pass with other weights, which are made of the stages of the forward pass."""
    return _other_stages(lambda stages, *_, **options: stages._replace(weights=weights(stages)))


def _other_stages(change):
    """The steps of a backward pass with other stages than the forward pass had."""
    kept = {}

    def stages(*given, **options):
        kept["stages"] = change(attention_stages(*given, **options), *given, **options)
        return kept["stages"]

    def of_these(xp, s, sinks):
        left = 1.0 - (taken := without_sink(xp, s, sinks)[1])
        return np.where(left > 0, kept["stages"].weights / left, 0.0), taken

    return {"attention_stages": stages, "without_sink": of_these}


@variant("gradient/sink_gate_constant", "GRAD-SINK", "attention_vjp", seen=["pytorch/torchtitan#4796"])
def sink_gate_constant(*args, sinks=None, **options):
    """The sink multiplies the output by sigmoid(lse - sink), and what flows back through that lse is dropped: the sink
    gets its gradient, queries and keys lack a part."""
    _needs(sinks)

    def of_ungated(xp, p, d_p):
        share = p.sum(axis=-1, keepdims=True)
        return np.sum(p * d_p, axis=-1, keepdims=True) / np.where(share > 0, share, 1.0)

    right = evaluate(*args, sinks=sinks, **options)
    return evaluate(*args, sinks=sinks, row_sums=of_ungated, **options)._replace(sinks=right.sinks)


# --- δ, the row sum -------------------------------------------------------------------------------------------------


@variant("gradient/delta_missing", "GRAD-EXACT", "attention_vjp")
def delta_missing(*args, **options):
    """The row sum δ is not subtracted: softmax taken for an exponential."""
    return evaluate(*args, row_sums=lambda xp, p, d_p: np.zeros((*d_p.shape[:-1], 1)), **options)


@variant("gradient/delta_over_d", "GRAD-EXACT", "attention_vjp", seen=["XunhaoLai/native-sparse-attention-triton#27"])
def delta_over_d(d_out, q, k, v, *args, **options):
    """The row sum of d_out times out runs over the D columns of the queries, not the Dv of the values."""
    d = q.shape[-1]
    if d >= v.shape[-1]:
        raise NotApplicable

    forward = attention_stages(q, k, v, *args, **{name: options[name] for name in _FORWARD if name in options})
    return evaluate(d_out, q, k, v, *args, row_sums=_from_output(d_out, forward.out, d), **options)


@variant("gradient/delta_undropped", "GRAD-DROPOUT", "attention_vjp")
def delta_undropped(d_out, q, k, v, *args, dropout=None, **options):
    """The row sum δ is taken from weights and cotangents before dropout."""
    _needs(dropout)
    undropped = np.asarray(d_out) @ np.swapaxes(v, -1, -2)
    early = lambda xp, p, d_p: row_sums(xp, p, selected(xp, p != 0, undropped))
    return evaluate(d_out, q, k, v, *args, dropout=dropout, row_sums=early, **options)


# --- visibility -----------------------------------------------------------------------------------------------------


@variant(
    "gradient/empty_row_nan",
    "GRAD-EMPTY",
    "attention_vjp",
    seen=["Xilinx/brevitas#1591", "torch before 2.5", "pytorch/pytorch#158212"],
)
def empty_row_nan(*args, **options):
    """A query that may attend to nothing has weights 0/0 in backward: NaN in its gradient and in those of all keys."""
    return evaluate(*args, **_in_empty_rows(np.nan), **_ABSENT_TAKES_PART, **options)


@variant("gradient/empty_row_mean", "GRAD-EMPTY", "attention_vjp", seen=["jax.nn.dot_product_attention"])
def empty_row_mean(d_out, q, k, *args, **options):
    """A query that may attend to nothing weighs all keys alike: its cotangent flows into every value."""
    uniform = _in_empty_rows(1.0 / max(k.shape[-2], 1))
    into_all = lambda xp, p, d_out, present, keep, rate: (
        np.swapaxes(p if keep is None else dropped(xp, p, keep, rate), -1, -2) @ d_out
    )
    return evaluate(d_out, q, k, *args, **uniform, to_values=into_all, **options)


def _in_empty_rows(weight):
    def weights(stages):
        seen = ~np.isneginf(stages.mask).all(axis=-1, keepdims=True)
        if seen.all():
            raise NotApplicable
        return np.where(seen, stages.weights, weight)

    return _weighing(weights)


def _of_every_pair(xp, p, d_out, present, keep, rate):
    seen = present.any(axis=-1, keepdims=True)
    p = p if keep is None else dropped(xp, p, keep, rate)
    return np.swapaxes(p, -1, -2) @ np.where(seen, d_out, 0.0)


_ABSENT_TAKES_PART: dict[str, Callable] = {
    "selected": lambda xp, present, x: x,
    "product_of_present": lambda xp, weights, present, x: weights @ x,
    "to_values": _of_every_pair,
}


@variant("gradient/multiplied_by_zero", "GRAD-ABSENT", "attention_vjp", seen=["pytorch/pytorch#101967 (forward)"])
def multiplied_by_zero(*args, **options):
    """Excluded pairs are multiplied by 0 instead of being left out: NaN and infinity in an excluded key or value leak."""
    return evaluate(*args, **_ABSENT_TAKES_PART | {"selected": lambda xp, present, x: x * present}, **options)


@variant("gradient/mask_forgotten", "GRAD-MASK", "attention_vjp", seen=["Dao-AILab/flash-attention#2623"])
def mask_forgotten(d_out, q, k, v, mask=None, **options):
    """Backward makes the weights again without the mask."""
    _needs(mask)
    if not all(np.isfinite(x).all() for x in (d_out, q, k, v)):
        raise NotApplicable
    everything = np.ones((q.shape[-2], k.shape[-2]), dtype=bool)
    return evaluate(d_out, q, k, v, mask, **_again(d_out, q, k, v, mask, everything, options), **options)


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
    return evaluate(d_out, q, k, v, mask, **_again(d_out, q, k, v, mask, backward, options), **options)


@variant("causal/assumed", "ATTN-MASK", "attention_vjp", seen=["kyegomez/OpenMythos#2"])
def of_causal_assumed(d_out, q, k, v, mask=None, **options):
    """The gradients of attention that is causal without a mask, forward as backward."""
    if mask is not None or not k.shape[-2] or not q.shape[-2]:
        raise NotApplicable
    return attention_vjp(d_out, q, k, v, masks.causal(), **options)


@variant("causal/assumed_top_left", "ATTN-MASK", "attention_vjp", seen=["kyegomez/OpenMythos#2"])
def of_causal_assumed_top_left(d_out, q, k, v, mask=None, **options):
    """The gradients of attention that is causal without a mask and counts its queries from 0, forward as backward."""
    if mask is not None or not k.shape[-2] or q.shape[-2] in (0, k.shape[-2]):
        raise NotApplicable
    of_first = {"q_positions": np.arange(q.shape[-2]), "k_positions": None}
    return attention_vjp(d_out, q, k, v, masks.causal(), **{**options, **of_first})


@variant("mask/ignored", "ATTN-MASK", "attention_vjp", seen=["pytorch/pytorch#117939"])
def of_mask_ignored(d_out, q, k, v, mask=None, **options):
    """The gradients of attention without its mask, forward as backward."""
    if mask is None:
        raise NotApplicable
    return attention_vjp(d_out, q, k, v, **options)


def of_mask(v: Variant) -> Variant:
    """A variant of `Mask.dense` as one of the gradients: of attention that reads the rule so, forward as backward."""
    dense = v.call

    def call(d_out, q, k, v, mask=None, *, q_positions=None, k_positions=None, **options):
        if not isinstance(mask, Mask):
            raise NotApplicable
        changed = dense(mask, q.shape[-2], k.shape[-2], q_positions=q_positions, k_positions=k_positions)
        return attention_vjp(d_out, q, k, v, changed, **options)

    return replace(v, function="attention_vjp", call=call)


@variant("gradient/causal_top_left", "GRAD-MASK", "attention_vjp")
def causal_top_left(d_out, q, k, v, mask=None, **options):
    """Backward aligns the queries with the first keys, forward with the last."""
    offset = k.shape[-2] - q.shape[-2]
    if not isinstance(mask, Mask) or not offset or options.get("q_positions") is not None:
        raise NotApplicable
    moved = replaced(mask, "causal", lambda: shifted(masks.causal(), -offset))
    return evaluate(d_out, q, k, v, mask, **_again(d_out, q, k, v, mask, moved, options), **options)


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


def _from_output(d_out, out, columns=None):
    """The step that takes δ from the output."""
    return lambda xp, p, d_p: np.sum(d_out[..., :columns] * out[..., :columns], axis=-1, keepdims=True)


def _again(d_out, q, k, v, mask, backward, options):
    """The steps of a backward pass that makes the weights again, from scores under another mask and the lse of forward."""
    given = {name: options[name] for name in _FORWARD if name in options}

    def again(forward, *_, **rest):
        stages = attention_stages(q, k, v, backward, **given)
        weights = np.exp(stages.mask - forward.lse[..., None])
        return stages._replace(weights=np.where(np.isfinite(forward.lse)[..., None], weights, 0.0))

    return _other_stages(again) | {"row_sums": _from_output(d_out, attention_stages(q, k, v, mask, **given).out)}


_FORWARD = ("mask", "bias", "scale", "softcap", "sinks", "dropout", "q_positions", "k_positions")


@variant("gradient/last_features_missing", "GRAD-EXACT", "attention_vjp", seen=["Dao-AILab/flash-attention#2896"])
def last_features_missing(d_out, q, *args, **options):
    """Columns of the queries' gradient beyond the last whole tile, here beyond a power of two, are not written."""
    whole = 2 ** (max(q.shape[-1], 1).bit_length() - 1)
    if whole == q.shape[-1] or not q.shape[-1]:
        raise NotApplicable

    written = Then(lambda g: np.where(np.arange(q.shape[-1]) < whole, g, 0.0))
    return evaluate(d_out, q, *args, to_queries=written, **options)


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
