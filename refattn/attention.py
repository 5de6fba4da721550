"""Scaled dot-product attention: the definition on arrays."""

import math
from typing import Any, NamedTuple

from refattn import arguments, backend
from refattn.masks import visible
from refattn.softmax import divisor, level, shifted_exp, sink_shares


class Dropout(NamedTuple):
    """Dropout with the draws given: randomness enters only as an argument.

    Attributes
    ----------
    keep : bool array that broadcasts to (..., N, M) or (..., H, N, M)
        True where a weight is kept.
    rate : float in [0, 1)
        The probability with which weights were dropped; the kept ones are divided by 1 - rate.
    """

    keep: Any
    rate: float


class AttentionStages(NamedTuple):
    """What attention computes, stage by stage, in the order in which it computes it.

    Attributes
    ----------
    scores : array (..., N, M)
        scale · q kᵀ.
    softcap : array (..., N, M)
        Scores after the cap (the same array without one).
    bias : array (..., N, M)
        Scores after the bias (the same array without one).
    mask : array (..., N, M)
        Scores after the mask: -inf where a key is excluded.
    weights : array (..., N, M)
        After softmax and sink.
    dropout : array (..., N, M)
        Weights after dropout (the same array without it): what multiplies v.
    out : array (..., N, Dv)
    lse : array (..., N)
    """

    scores: Any
    softcap: Any
    bias: Any
    mask: Any
    weights: Any
    dropout: Any
    out: Any
    lse: Any


def attention(
    q,
    k,
    v,
    mask=None,
    *,
    bias=None,
    scale=None,
    softcap=None,
    sinks=None,
    dropout=None,
    q_positions=None,
    k_positions=None,
    return_lse=False,
):
    r"""Scaled dot-product attention.

    .. math:: o_i = \sum_{j \in J_i} p_{ij} v_j, \qquad p_{ij} = e^{s_{ij} - L_i}, \qquad
        s_{ij} = c \tanh(\tau\, q_i \cdot k_j / c) + b_{ij}, \qquad L_i = \ln \sum_{j \in J_i} e^{s_{ij}}

    Parameters
    ----------
    q : array (..., N, D)
        Queries; with heads (B, H, N, D).
    k : array (..., M, D)
        Keys; leading axes broadcast with those of q.
    v : array (..., M, Dv)
        Values.
    mask : bool array that broadcasts to (..., N, M), or rule of `refattn.masks`, optional
        True where query i may attend to key j.
    bias : array that broadcasts to (..., N, M), optional
        Added to the scores after scale and softcap. -inf excludes the key.
    scale : float, default 1/√D
        Multiplies q kᵀ; zero and negative are legal.
    softcap : float, optional
        The c above; None or 0 is none.
    sinks : array that broadcasts to the leading axes (...), optional
        One learned logit a head: it joins the denominator and has no value.
    dropout : Dropout or (keep, rate), optional
        Applied to the weights.
    q_positions, k_positions : int array (..., N), (..., M), optional
        For a mask rule. Default: keys 0 to M - 1, queries the last N of M.
    return_lse : bool, default False
        Also return lse.

    Returns
    -------
    out : array (..., N, Dv)
        Zero for a query that may attend to nothing.
    lse : array (..., N)
        If `return_lse`: natural log-sum-exp of the scores, without the sink; -inf for such a query.

    Raises
    ------
    TypeError
        An argument is no array, of another library, or of the wrong kind of dtype.
    ValueError
        Shapes do not agree; a scalar is outside its range.

    See Also
    --------
    grouped_query_attention : fewer key/value heads than query heads.
    attention_stages : every intermediate array.

    Notes
    -----
    Time O(N M (D + Dv)), memory O(N M). Clauses: ATTN-OUT, ATTN-SCALE, ATTN-ORDER, ATTN-SOFTCAP, ATTN-BIAS,
    ATTN-MASK, ATTN-ABSENT, ATTN-EMPTY, ATTN-LSE, ATTN-SINK, ATTN-DROPOUT, ATTN-ALIGN, ATTN-BROADCAST, ATTN-VALUES,
    ATTN-REFUSE.
    Source: Vaswani et al. 2017, eq. 1; softcap: Gemma Team 2024 (Gemma 2), section 2; sinks: OpenAI 2025 (gpt-oss).

    Examples
    --------
    >>> import numpy as np
    >>> attention(np.eye(2), np.eye(2), np.array([[1.0], [3.0]]), scale=0.0)
    array([[2.],
           [2.]])
    """
    return_lse = backend.flag("return_lse", return_lse)
    stages = _attend(q, k, v, mask, bias, scale, softcap, sinks, dropout, q_positions, k_positions)
    return (stages.out, stages.lse) if return_lse else stages.out


def attention_weights(
    q,
    k,
    mask=None,
    *,
    bias=None,
    scale=None,
    softcap=None,
    sinks=None,
    dropout=None,
    q_positions=None,
    k_positions=None,
):
    """The weights with which attention mixes the values, for pictures and for study.

    Parameters
    ----------
    q, k, mask, bias, scale, softcap, sinks, dropout, q_positions, k_positions
        As for `attention`.

    Returns
    -------
    out : array (..., N, M)
        Rows sum to 1, less what the sink takes; a query that may attend to nothing has zeros. After dropout, if given.

    Notes
    -----
    Time O(N M D), memory O(N M). Clauses: ATTN-WEIGHTS, ATTN-EMPTY, ATTN-SINK.
    Source: Vaswani et al. 2017, eq. 1.

    Examples
    --------
    >>> import numpy as np
    >>> attention_weights(np.zeros((2, 1)), np.zeros((3, 1)), np.array([[True, True, False], [False, False, False]]))
    array([[0.5, 0.5, 0. ],
           [0. , 0. , 0. ]])
    """
    stages = _attend(
        q, k, None, mask, bias, scale, softcap, sinks, dropout, q_positions, k_positions, optional="v bias sinks"
    )
    return stages.dropout


def attention_stages(q, k, v, mask=None, **options):
    """Attention with every intermediate array, to see at which stage another implementation leaves the path.

    Parameters
    ----------
    q, k, v, mask, **options
        As for `attention`, without `return_lse`.

    Returns
    -------
    AttentionStages

    Notes
    -----
    Clauses: ATTN-ORDER. Memory: up to six N M arrays. Source: as for `attention`.

    Examples
    --------
    >>> import numpy as np
    >>> attention_stages(np.eye(2), np.eye(2), np.eye(2), scale=4.0).scores
    array([[4., 0.],
           [0., 4.]])
    """
    return _attend(q, k, v, mask, **options)


_BYTES_A_SCORE = 16  # of stages in float32, of which four are there at a time


@backend.ieee
def _attend(
    q,
    k,
    v,
    mask,
    bias=None,
    scale=None,
    softcap=None,
    sinks=None,
    dropout=None,
    q_positions=None,
    k_positions=None,
    optional="bias sinks",
) -> AttentionStages:
    keep, rate = checked_dropout(dropout)
    xp, q, k, v, bias, sinks = backend.floating(q=q, k=k, v=v, bias=bias, sinks=sinks, optional=optional)
    n, m, lead = check_shapes(q, k, v, bias, sinks)
    arguments.room(_BYTES_A_SCORE * math.prod((*lead, n, m)), N=n, M=m)
    allowed = visible(mask, n, m, q_positions=q_positions, k_positions=k_positions, like=q)
    if allowed is not None:
        backend.broadcast("leading axes", mask=allowed.shape[:-2], q_k_v=lead)
    if keep is not None:
        backend.boolean(xp, **{"dropout keep": keep})
        backend.fits_scores("dropout keep", keep, n, m)
    scale, cap = checked_scale(scale, q.shape[-1]), checked_softcap(softcap)

    s = scored(xp, q, k, scale)  # (..., N, M)
    c = capped(xp, s, cap) if cap else s  # before bias and mask: a capped -inf would be -c [ATTN-ORDER]
    b = c if bias is None else biased(xp, c, bias)
    x = b if allowed is None else masked(xp, b, allowed)
    w, lse = weighted(xp, x, sinks)  # (..., N, M), (..., N)
    p = w if keep is None else dropped(xp, w, keep, rate)
    out = None if v is None else mixed(xp, p, present(xp, x, keep), v)  # (..., N, Dv)

    if out is not None and lse.shape != out.shape[:-1]:  # only v, the sinks or dropout have some leading axis
        lse = xp.asarray(xp.broadcast_to(lse, out.shape[:-1]), copy=True)
    return AttentionStages(s, c, b, x, w, p, out, lse)


# --- the steps ------------------------------------------------------------------------------------------------------


def scored(xp, q, k, scale):
    return scaled_product(xp, scale, q, xp.matrix_transpose(k))


def capped(xp, s, cap):
    return cap * xp.tanh(s / cap)


def biased(xp, s, bias):
    return xp.where(bias == -math.inf, -math.inf, s + bias)  # not s + bias: inf - inf would be NaN [ATTN-BIAS]


def masked(xp, s, allowed):
    return xp.where(allowed, s, -math.inf)  # selected, not added: NaN in an excluded key stays out [ATTN-ABSENT]


def weighted(xp, s, sinks):
    """The softmax, with the sink in its denominator, and the log-sum-exp, without it."""
    w, total, peak = shifted_exp(xp, s, axis=-1)
    w = w / divisor(xp, total)  # an empty row stays zero [ATTN-EMPTY]
    return w if sinks is None else sunk(xp, w, total, peak, sinks), level(xp, total, peak)[..., 0]


def sunk(xp, w, total, peak, sinks):
    left, _ = sink_shares(xp, peak, total, sinks[..., None, None])
    return w * left


def dropped(xp, w, keep, rate):
    backend.broadcast("leading axes", weights=w.shape[:-2], keep=keep.shape[:-2])
    return xp.where(keep, w / (1.0 - rate), 0.0)


def present(xp, s, keep):
    """Where a weight multiplies a value."""
    seen = s != -math.inf
    return seen if keep is None else seen & keep


def mixed(xp, weights, present, v):
    """weights @ v, in which a weight that is absent multiplies nothing, NaN and infinity included."""
    finite = xp.isfinite(v)
    if bool(xp.all(finite)):
        return xp.matmul(weights, v)
    out = xp.matmul(weights, xp.where(finite, v, 0.0))
    counted = backend.cast(present, v.dtype)
    reach = {  # does a present key hold such a value? (..., N, Dv)
        value: xp.matmul(counted, backend.cast(holds, v.dtype)) > 0
        for value, holds in ((math.inf, v == math.inf), (-math.inf, v == -math.inf), (math.nan, xp.isnan(v)))
    }
    return with_strange(xp, out, reach[math.inf], reach[-math.inf], reach[math.nan])


def with_strange(xp, out, up, down, nan):
    """The output with the infinities and NaN that its queries meet among the values."""
    undefined = nan | (up & down) | xp.isnan(out)  # weights that are NaN make nothing of an infinity
    return xp.where(undefined, math.nan, xp.where(up, math.inf, xp.where(down, -math.inf, out)))


def scaled_product(xp, scale, a, b, product=None, unscaled=None):
    """scale · a b, also where a b alone, `unscaled` if it is known, overflows: there a is scaled first."""
    product = xp.matmul if product is None else product
    unscaled = product(a, b) if unscaled is None else unscaled
    result = scale * unscaled
    if abs(scale) >= 1.0:
        return result
    fits = xp.isfinite(unscaled)
    return result if bool(xp.all(fits)) else xp.where(fits, result, product(scale * a, b))


def checked_scale(scale, d):
    if scale is not None:
        return backend.number("scale", scale)
    if d == 0:
        raise ValueError("q has D = 0 in (..., N, D): the default scale 1/√D needs D of at least 1, so give scale")
    return 1.0 / math.sqrt(d)


def checked_softcap(softcap):
    cap = 0.0 if softcap is None else backend.number("softcap", softcap)
    if cap < 0:
        raise ValueError(f"softcap is {cap}; it must be positive (None or 0 for none)")
    return cap


def checked_dropout(dropout):
    if dropout is None:
        return None, 0.0
    if not isinstance(dropout, tuple) or len(dropout) != 2 or dropout[0] is None:
        raise TypeError("dropout must be a pair (keep, rate): a boolean array and the rate at which it dropped")
    rate = backend.number("dropout rate", dropout[1])
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"dropout rate is {rate}; it must be in [0, 1)")
    return dropout[0], rate


def check_shapes(q, k, v, bias, sinks):
    """N, M and the leading axes of the output; an error where shapes do not agree."""
    for name, x, shape in (("q", q, "(..., N, D)"), ("k", k, "(..., M, D)"), ("v", v, "(..., M, Dv)")):
        if x is not None:
            backend.rank(name, x, 2, shape)
    if k.shape[-1] != q.shape[-1]:
        raise ValueError(
            f"k has head size {k.shape[-1]}, q has {q.shape[-1]}: both are D in (..., N, D) and (..., M, D)"
        )
    n, m = q.shape[-2], k.shape[-2]
    if v is not None and v.shape[-2] != m:
        raise ValueError(f"v has {v.shape[-2]} keys, k has {m}: both are M in (..., M, D) and (..., M, Dv)")
    leads = {name: x.shape[:-2] for name, x in (("q", q), ("k", k), ("v", v)) if x is not None}
    try:
        lead = backend.broadcast("leading axes (...) of q, k and v", **leads)
    except ValueError as error:
        raise ValueError(f"{error}{_heads_hint(**leads)}") from None
    if bias is not None:
        backend.fits_scores("bias", bias, n, m)
        backend.broadcast("leading axes", bias=bias.shape[:-2], q_k_v=lead)
    if sinks is not None:
        backend.broadcast("leading axes", sinks=sinks.shape, q_k_v=lead)
    return n, m, lead


def _heads_hint(q, k, **_):
    heads, kv_heads = (q or (1,))[-1], (k or (1,))[-1]
    if kv_heads > 1 and heads % kv_heads == 0:
        return f"; for {heads} query heads over {kv_heads} key/value heads use grouped_query_attention"
    return ""
