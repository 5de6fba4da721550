"""The gradients of attention, from every weight: O(N M) memory."""

import math
from typing import Any, NamedTuple

from refattn import backend
from refattn.attention import (
    attention_stages,
    checked_dropout,
    checked_scale,
    checked_softcap,
    dropped,
    scaled_product,
)
from refattn.gradients.activations import tanh_slope
from refattn.gradients.sums import checked_cotangent, product_of_present, summed_to
from refattn.softmax import divisor, shifted_exp, sink_shares


class AttentionGradients(NamedTuple):
    """What `attention_vjp` returns; a field is None where its input was not given.

    Attributes
    ----------
    q : array (..., N, D)
    k : array (..., M, D)
    v : array (..., M, Dv)
    bias : array that broadcasts to (..., N, M), or None
    sinks : array that broadcasts to (...), or None
    scale : array ()
        The derivative by the scale that was used, also where that is the default 1/√D.
    """

    q: Any
    k: Any
    v: Any
    bias: Any
    sinks: Any
    scale: Any


@backend.ieee
def attention_vjp(
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
):
    r"""The gradients of attention: its vector-Jacobian product with given cotangents.

    .. math:: \bar p_{ij} = \bar o_i \cdot v_j, \qquad \delta_i = \sum_j p_{ij} \bar p_{ij}, \qquad
        \bar s_{ij} = p_{ij} (\bar p_{ij} - \delta_i) + w_{ij} \bar L_i, \qquad \bar u_{ij} = \bar s_{ij} (1 - \tanh^2(u_{ij} / c))

    .. math:: \bar v_j = \sum_i p_{ij} \bar o_i, \qquad \bar q_i = \tau \sum_j \bar u_{ij} k_j, \qquad
        \bar k_j = \tau \sum_i \bar u_{ij} q_i, \qquad \bar \tau = \sum_{ij} \bar u_{ij}\, q_i \cdot k_j

    where p are the weights, w those without the sink, u = τ q kᵀ the scores. The bias has the gradient s̄, and a sink
    z the gradient -Σ_i δ_i (1 - Σ_j p_ij).

    Parameters
    ----------
    d_out : array (..., N, Dv)
        Cotangent of the output: the derivative of a loss by each of its elements.
    q, k, v, mask, bias, scale, softcap, sinks, dropout, q_positions, k_positions
        As for `attention`.
    d_lse : array (..., N), optional
        Cotangent of lse, which excludes the sink; without it lse is not part of the loss.

    Returns
    -------
    AttentionGradients
        (q, k, v, bias, sinks, scale), each of the shape of its input: summed over the axes that were broadcast.

    Raises
    ------
    TypeError, ValueError
        As for `attention`; and where a cotangent has another shape than its result.

    See Also
    --------
    grouped_query_attention_vjp : sums over the query heads that share a key/value head.

    Notes
    -----
    Time O(N M (D + Dv)), memory O(N M). An excluded key has gradient exactly 0 from the queries that may not attend to
    it, and a query that may attend to nothing has gradient 0 and gives none, whatever they and their cotangents hold.
    Clauses: GRAD-EXACT, GRAD-SCALE, GRAD-SOFTCAP, GRAD-BIAS, GRAD-SINK, GRAD-LSE, GRAD-DROPOUT, GRAD-EMPTY,
    GRAD-ABSENT, GRAD-BROADCAST, GRAD-REFUSE.
    Source: Dao et al. 2022 (FlashAttention), appendix B.2 and B.4; the cotangent of lse: derived in spec/gradients.

    Examples
    --------
    >>> import numpy as np
    >>> q, k, v = np.zeros((1, 1)), np.array([[1.0], [-1.0]]), np.array([[4.0], [0.0]])
    >>> attention_vjp(np.ones((1, 1)), q, k, v).q  # weights 1/2 each: 1/2 (4 - 2) - 1/2 (0 - 2)
    array([[2.]])
    """
    xp, d_out, d_lse, q, k, v, bias, sinks = backend.floating(
        d_out=d_out, d_lse=d_lse, q=q, k=k, v=v, bias=bias, sinks=sinks, optional="d_lse bias sinks"
    )
    keep, rate = checked_dropout(dropout)
    backend.rank("q", q, 2, "(..., N, D)")
    scale, cap = checked_scale(scale, q.shape[-1]), checked_softcap(softcap)
    stages = attention_stages(
        q,
        k,
        v,
        mask,
        bias=bias,
        scale=scale,
        softcap=softcap,
        sinks=sinks,
        dropout=dropout,
        q_positions=q_positions,
        k_positions=k_positions,
    )
    checked_cotangent("d_out", d_out, "out", stages.out.shape)
    checked_cotangent("d_lse", d_lse, "lse", stages.lse.shape)

    p, present = stages.weights, stages.mask != -math.inf  # (..., N, M)
    d_p = selected(xp, present, to_weights(xp, d_out, v, keep, rate))
    delta = row_sums(xp, p, d_p)  # (..., N, 1)
    d_s = selected(xp, present, p * (d_p - delta))
    w, taken = (p, None) if sinks is None else without_sink(xp, stages.mask, sinks)  # lse excludes the sink [GRAD-LSE]
    d_s = d_s if d_lse is None else d_s + selected(xp, present, w * d_lse[..., None])
    d_s = summed_to(xp, d_s, stages.mask.shape)  # v, sinks and dropout may have leading axes that scores have not
    d_u = selected(xp, present, through_cap(xp, d_s, stages, cap)) if cap else d_s
    d_u_k = product_of_present(xp, d_u, present, k)  # (..., N, D)

    return AttentionGradients(
        q=summed_to(xp, to_queries(xp, scale, d_u, k, present, d_u_k), q.shape),
        k=summed_to(xp, to_keys(xp, scale, d_u, q, present), k.shape),
        v=summed_to(xp, to_values(xp, p, d_out, present, keep, rate), v.shape),
        bias=None if bias is None else to_bias(xp, d_s, bias),
        sinks=None if sinks is None else to_sinks(xp, delta, taken, present, sinks),
        scale=summed_to(xp, to_scale(xp, q, d_u_k, present), ()),
    )


# --- the steps ------------------------------------------------------------------------------------------------------


def selected(xp, present, x):
    return xp.where(present, x, 0.0)


def to_weights(xp, d_out, v, keep, rate):
    d_p = xp.matmul(d_out, xp.matrix_transpose(v)) / (1.0 - rate)
    return d_p if keep is None else xp.where(keep, d_p, 0.0)


def row_sums(xp, p, d_p):
    return xp.sum(p * d_p, axis=-1, keepdims=True)


def without_sink(xp, s, sinks):
    """The weights as they are without the sink, and the weight of the sink, (..., N, 1)."""
    w, total, peak = shifted_exp(xp, s, axis=-1)
    return w / divisor(xp, total), sink_shares(xp, peak, total, sinks[..., None, None])[1]


def through_cap(xp, d_s, stages, cap):
    return d_s * tanh_slope(xp, stages.scores / cap)


def to_queries(xp, scale, d_u, k, present, d_u_k):
    return _scaled_product_of_present(xp, scale, d_u, present, k, d_u_k)


def to_keys(xp, scale, d_u, q, present):
    return _scaled_product_of_present(xp, scale, xp.matrix_transpose(d_u), xp.matrix_transpose(present), q)


def to_values(xp, p, d_out, present, keep, rate):
    p = selected(xp, present, p)  # a row that is NaN is so for excluded keys, too [GRAD-ABSENT]
    if keep is not None:
        p, present = dropped(xp, p, keep, rate), present & keep
    return product_of_present(xp, xp.matrix_transpose(p), xp.matrix_transpose(present), d_out)


def to_bias(xp, d_s, bias):
    return summed_to(xp, d_s, bias.shape)


def to_sinks(xp, delta, taken, present, sinks):
    seen = xp.any(present, axis=-1, keepdims=True)  # a query without keys gives nothing [GRAD-EMPTY]
    return summed_to(xp, xp.sum(xp.where(seen, -delta * taken, 0.0), axis=(-2, -1)), sinks.shape)


def to_scale(xp, q, d_u_k, present):
    return xp.where(xp.any(present, axis=-1, keepdims=True), q * d_u_k, 0.0)


def _scaled_product_of_present(xp, scale, weights, present, x, unscaled=None):
    return scaled_product(xp, scale, weights, x, lambda a, b: product_of_present(xp, a, present, b), unscaled)
