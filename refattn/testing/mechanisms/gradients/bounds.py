"""The bound of the gradients of attention: a kernel may keep the weights, or make them again from what it stored.

An eager kernel keeps its weights and sums δ = Σ p p̄: that is what `attention_vjp` does, whose bound follows from its
own code. A flash kernel reads the output and lse that its forward pass stored, rounded, and takes p = exp(s - L) and
δ = d_out · out from them (FlashAttention, appendix B.4). Both are correct, so in the flash order the bound is the larger
of the two, element by element.
"""

from __future__ import annotations

import math

import numpy as np

from refattn.attention import attention_stages, checked_dropout, checked_scale, checked_softcap
from refattn.gradients.activations import tanh_slope
from refattn.gradients.attention import AttentionGradients
from refattn.gradients.sums import product_of_present, summed_to
from refattn.testing.profiles import Profile
from refattn.testing.rounding import FORMATS
from refattn.testing.roundoff import Bound


def attention_vjp_bound(profile: Profile, *args, **kwargs) -> dict[str, Bound]:
    """The larger of the bounds of both ways to the gradients."""
    from refattn.testing.tracked import automatic_bound

    kept = automatic_bound("attention_vjp", profile, *args, **kwargs)
    if profile.order != "flash":
        return kept
    again = automatic_bound(recomputed_vjp, profile, *args, **kwargs)
    return {name: Bound(b.value, np.maximum(b.hard, again[name].hard)) for name, b in kept.items()}


def grouped_query_attention_vjp_bound(profile: Profile, d_out, q, k, v, mask=None, **options) -> dict[str, Bound]:
    """One key/value head for each query head, whose gradients, stored by some kernels, are summed over the group."""
    from refattn.testing.tracked import automatic_bound

    kept = automatic_bound("grouped_query_attention_vjp", profile, d_out, q, k, v, mask, **options)
    if profile.order != "flash":
        return kept
    kv_heads, group = k.shape[-3], q.shape[-3] // k.shape[-3]
    copies = (np.repeat(x, group, axis=-3) for x in (k, v))
    by_head = attention_vjp_bound(profile, d_out, q, *copies, mask, **options)
    found = {}
    for name, b in kept.items():
        hard = by_head[name].hard
        if name in ("k", "v"):
            hard = np.sum(np.reshape(hard, (*hard.shape[:-3], kv_heads, group, *hard.shape[-2:])), axis=-3)
            hard = np.reshape(np.sum(np.reshape(hard, (-1, *b.value.shape)), axis=0), b.value.shape)
        found[name] = Bound(b.value, np.maximum(b.hard, hard))
    return found


def recomputed_vjp(
    d_out, q, k, v, mask=None, *, d_lse=None, bias=None, scale=None, softcap=None, sinks=None, dropout=None,
    q_positions=None, k_positions=None,
):  # fmt: skip
    """The gradients of attention as a flash kernel takes them, from the stored output and log-sum-exp.

    Runs on tracked arrays only, in which what was stored is as wrong as its format makes it.
    """
    xp, (keep, rate) = q.xp, checked_dropout(dropout)
    scale, cap = checked_scale(scale, q.shape[-1]), checked_softcap(softcap)
    stages = attention_stages(
        q, k, v, mask, bias=bias, scale=scale, softcap=softcap, sinks=sinks, dropout=dropout,
        q_positions=q_positions, k_positions=k_positions,
    )  # fmt: skip
    out, lse = xp._stored(stages.out, xp.profile.out), stages.lse
    lse = xp._stored(lse, xp.profile.out if xp.profile.out.precision > 24 else FORMATS["float32"])
    present = stages.mask != -math.inf
    counted = present if keep is None else present & keep

    weights = xp.where(present, xp.exp(stages.mask - lse[..., None]), 0.0)  # without the sink
    p, delta = weights, xp.sum(d_out * out, axis=-1, keepdims=True)
    if sinks is not None:
        share = 1.0 / (1.0 + xp.exp(sinks[..., None] - lse))
        p = weights * xp.where(lse == -math.inf, 0.0, share)[..., None]
    dropped = xp.where(counted, p / (1.0 - rate), 0.0)
    d_p = xp.where(counted, xp.matmul(d_out, xp.matrix_transpose(v)) / (1.0 - rate), 0.0)
    d_s = summed_to(xp, xp.where(present, p * (d_p - delta), 0.0), stages.mask.shape)
    if d_lse is not None:
        d_s = d_s + xp.where(present, weights * d_lse[..., None], 0.0)
    d_u = xp.where(present, d_s * tanh_slope(xp, stages.scores / cap), 0.0) if cap else d_s
    transposed = xp.matrix_transpose
    along_k = product_of_present(xp, d_u, present, k)
    seen = xp.any(present, axis=-1, keepdims=True)
    d_sinks = None
    if sinks is not None:
        in_sink = xp.where(lse == -math.inf, 0.0, 1.0 / (1.0 + xp.exp(lse - sinks[..., None])))
        d_sinks = xp.sum(xp.where(seen[..., 0], -delta[..., 0] * in_sink, 0.0), axis=-1)
    return AttentionGradients(
        q=summed_to(xp, scale * along_k, q.shape),
        k=summed_to(xp, scale * product_of_present(xp, transposed(d_u), transposed(present), q), k.shape),
        v=summed_to(xp, product_of_present(xp, transposed(dropped), transposed(counted), d_out), v.shape),
        bias=None if bias is None else summed_to(xp, d_s, bias.shape),
        sinks=None if sinks is None else summed_to(xp, d_sinks, sinks.shape),
        scale=summed_to(xp, xp.where(seen, q * along_k, 0.0), ()),
    )
