"""Attention over keys that count some number of times, as attention: under a mask, and with a bias where one counts twice."""

from __future__ import annotations

import numpy as np

from refattn import masks
from refattn.gradients.sums import summed_to
from refattn.testing.mechanisms.tiled.bounds import tiled_attention_vjp_bound
from refattn.testing.roundoff import Bound


def as_attention(
    q, k, v, count, mask=None, *, q_positions=None, k_positions=None, bias=None, out=None, lse=None, **given
):  # fmt: skip
    """Arguments of tiled_attention from how often each query attends to each key, (..., N, M)."""
    if q.ndim > 2 and count.ndim > 2 and count.shape[-3] not in (1, q.shape[-3]):
        count = np.repeat(count, q.shape[-3] // k.shape[-3], axis=-3)
    n, m, at = q.shape[-2], k.shape[-2], {"q_positions": q_positions, "k_positions": k_positions}
    seen = masks.visible(mask, n, m, **at, like=q)
    if np.any(count > 1):
        i, j = masks.positions_of(n, m, **at, like=q)
        table = bias(i[..., :, None], j[..., None, :]) if callable(bias) else 0.0 if bias is None else bias
        bias = np.log(np.maximum(count, 1.0)) + table
    return {
        "q": q,
        "k": k,
        "v": v,
        "mask": count > 0 if seen is None else (count > 0) & seen,
        "bias": bias,
        **at,
        **given,
    }


def of_rules(rules, q, k, q_positions=None, k_positions=None, **_) -> list:
    """Whether each of some rules admits a pair, as numbers (..., N, M)."""
    at = {"q_positions": q_positions, "k_positions": k_positions, "like": q}
    return [rule.dense(q.shape[-2], k.shape[-2], **at).astype(float) for rule in rules]


def own_bias(found, given):
    """Gradients of attention with that of the bias that was given, not of one that counts keys."""
    bias = given.get("bias")
    own = None if bias is None or callable(bias) else summed_to(np, found.bias, bias.shape)
    return found._replace(bias=own)


def bound_of_gradients(profile, given, arguments):
    """The bound of gradients that are those of `tiled_attention_vjp` with other arguments, its bias that which was given."""
    found, bias = tiled_attention_vjp_bound(profile, **arguments), given.get("bias")
    if bias is None or callable(bias):
        found.pop("bias", None)
    else:
        b = found["bias"]
        found["bias"] = Bound(summed_to(np, b.value, bias.shape), summed_to(np, b.hard, bias.shape))
    return found
