"""The gradients of attention, from every weight: O(N M) memory."""

import math
from typing import Any, NamedTuple

from refattn import backend
from refattn.attention import attention_stages, checked_dropout, checked_scale, checked_softcap, scaled_product
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

    present = stages.mask != -math.inf  # (..., N, M)
    counted = present if keep is None else present & keep
    d_weights = xp.where(counted, xp.matmul(d_out, xp.matrix_transpose(v)) / (1.0 - rate), 0.0)
    delta = xp.sum(stages.weights * d_weights, axis=-1, keepdims=True)  # (..., N, 1)
    d_s = xp.where(present, stages.weights * (d_weights - delta), 0.0)
    weights, d_sinks = stages.weights, None
    if sinks is not None:
        plain, total, peak = shifted_exp(xp, stages.mask, axis=-1)
        weights = plain / divisor(xp, total)  # lse excludes the sink [GRAD-LSE]
        _, taken = sink_shares(xp, peak, total, sinks[..., None, None])  # (..., N, 1): the weight of the sink
        d_sinks = xp.sum(xp.where(total == 0, 0.0, -delta * taken), axis=(-2, -1))  # [GRAD-EMPTY]
        d_sinks = summed_to(xp, d_sinks, sinks.shape)
    if d_lse is not None:
        d_s = d_s + xp.where(present, weights * d_lse[..., None], 0.0)
    d_s = summed_to(xp, d_s, stages.mask.shape)  # v, sinks and dropout may have leading axes that scores have not
    d_scores = d_s
    if cap:
        d_scores = xp.where(present, d_s * tanh_slope(xp, stages.scores / cap), 0.0)

    transposed = xp.matrix_transpose

    def of_present(weights, x):
        return product_of_present(xp, weights, present, x)

    def of_present_queries(weights, x):
        return product_of_present(xp, weights, transposed(present), x)

    along_k = of_present(d_scores, k)  # (..., N, D)
    dropped = xp.where(counted, stages.dropout, 0.0)  # a row that is NaN is so for excluded keys, too [GRAD-ABSENT]
    seen = xp.any(present, axis=-1, keepdims=True)
    return AttentionGradients(
        q=summed_to(xp, scaled_product(xp, scale, d_scores, k, of_present, along_k), q.shape),
        k=summed_to(xp, scaled_product(xp, scale, transposed(d_scores), q, of_present_queries), k.shape),
        v=summed_to(xp, product_of_present(xp, transposed(dropped), transposed(counted), d_out), v.shape),
        bias=None if bias is None else summed_to(xp, d_s, bias.shape),
        sinks=d_sinks,
        scale=summed_to(xp, xp.where(seen, q * along_k, 0.0), ()),
    )
