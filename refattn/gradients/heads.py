"""The gradients of grouped-query, multi-query and multi-head attention."""

import functools
from typing import Any, NamedTuple

from refattn import arguments, backend
from refattn import rope as rotate_positions
from refattn.feedforward import linear
from refattn.gradients.attention import attention_vjp
from refattn.gradients.feedforward import linear_vjp
from refattn.gradients.norms import rms_norm_vjp
from refattn.gradients.positions import rope_vjp as rotate_positions_vjp
from refattn.gradients.sums import checked_cotangent
from refattn.heads import (
    OPTIONAL_WEIGHTS,
    MultiHeadParams,
    PackedMultiHeadParams,
    Rope,
    checked_norm_eps,
    grouped_arguments,
    grouped_query_attention,
    merge_heads,
    multi_head_arguments,
    normalised_heads,
    one_key_head,
    split_heads,
)


class MultiHeadGradients(NamedTuple):
    """What `multi_head_attention_vjp` returns; a field is None where its input was not given.

    Attributes
    ----------
    x_q : array (..., N, E)
        In self-attention (x_kv None) that of the one sequence in all its parts.
    x_kv : array (..., M, E_kv) or None
    params : MultiHeadParams or PackedMultiHeadParams
        As the parameters are: a gradient for each array.
    bias, sinks : array that broadcasts to (..., H, N, M), (..., H), or None
    scale
        As for `AttentionGradients`.
    """

    x_q: Any
    x_kv: Any
    params: Any
    bias: Any
    sinks: Any
    scale: Any


@backend.ieee
def grouped_query_attention_vjp(
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
    r"""The gradients of grouped-query attention: keys and values get the sum over the query heads that read them.

    .. math:: \bar k_g = \sum_{h : \lfloor h / (H / G) \rfloor = g} \bar k_h, \qquad
        \bar v_g = \sum_{h : \lfloor h / (H / G) \rfloor = g} \bar v_h

    Parameters
    ----------
    d_out : array (..., H, N, Dv)
        Cotangent of the output.
    q, k, v, mask, bias, scale, softcap, sinks, dropout, q_positions, k_positions
        As for `grouped_query_attention`.
    d_lse : array (..., H, N), optional
        Cotangent of lse.

    Returns
    -------
    AttentionGradients
        (q, k, v, bias, sinks, scale), each of the shape of its input.

    Raises
    ------
    TypeError, ValueError
        As for `grouped_query_attention`; and where a cotangent has another shape than its result.

    Notes
    -----
    Time O(H N M (D + Dv)), memory O(H N M). Clauses: GRAD-GROUP, GRAD-REFUSE, and those of `attention_vjp`.
    Source: Ainslie et al. 2023 (GQA), section 2.2, and the chain rule.

    Examples
    --------
    >>> import numpy as np
    >>> q, k, v = np.zeros((4, 1, 3)), np.zeros((2, 5, 3)), np.ones((2, 5, 1))
    >>> grouped_query_attention_vjp(np.ones((4, 1, 1)), q, k, v).v[:, 0, 0]  # two heads of weight 1/5 each
    array([0.4, 0.4])
    """
    xp, d_out, d_lse, q, k, v, bias, sinks = backend.floating(
        d_out=d_out, d_lse=d_lse, q=q, k=k, v=v, bias=bias, sinks=sinks, optional="d_lse bias sinks"
    )
    given, grouped = grouped_arguments(xp, q, k, v, mask, bias, sinks, dropout, q_positions, k_positions)
    heads = q.shape[-3]
    _check_head_axis("d_out", d_out, -3, heads, "(..., H, N, Dv)")
    _check_head_axis("d_lse", d_lse, -2, heads, "(..., H, N)")
    found = attention_vjp(grouped(d_out, -3), **given, d_lse=grouped(d_lse, -2), scale=scale, softcap=softcap)
    shapes = {
        name: x.shape for name, x in (("q", q), ("k", k), ("v", v), ("bias", bias), ("sinks", sinks)) if x is not None
    }
    return found._replace(**{name: xp.reshape(getattr(found, name), shape) for name, shape in shapes.items()})


def multi_query_attention_vjp(d_out, q, k, v, mask=None, **options):
    r"""The gradients of multi-query attention: the one key/value head gets the sum over all query heads.

    Parameters
    ----------
    d_out : array (..., H, N, Dv)
        Cotangent of the output.
    q, k, v, mask, **options
        As for `multi_query_attention`.
    d_lse : array (..., H, N), optional
        Cotangent of lse.

    Returns
    -------
    AttentionGradients
        (q, k, v, bias, sinks, scale), each of the shape of its input.

    Raises
    ------
    TypeError, ValueError
        As for `grouped_query_attention_vjp`.

    Notes
    -----
    Clauses: GRAD-GROUP. Source: Shazeer 2019, section 3, and the chain rule.

    Examples
    --------
    >>> import numpy as np
    >>> multi_query_attention_vjp(np.ones((4, 1, 2)), np.zeros((4, 1, 3)), np.zeros((5, 3)), np.zeros((5, 2))).v.shape
    (5, 2)
    """
    q, k, v = one_key_head(q, k, v)
    xp = backend.namespace(q=q)
    found = grouped_query_attention_vjp(d_out, q, k[..., None, :, :], v[..., None, :, :], mask, **options)
    return found._replace(k=xp.reshape(found.k, k.shape), v=xp.reshape(found.v, v.shape))


@backend.ieee
def multi_head_attention_vjp(
    d_out,
    x_q,
    x_kv,
    params,
    *,
    heads,
    kv_heads=None,
    mask=None,
    rope=None,
    rope_vjp=None,
    bias=None,
    scale=None,
    softcap=None,
    sinks=None,
    dropout=None,
    q_positions=None,
    k_positions=None,
    qk_norm_eps=None,
):
    r"""The gradients of multi-head attention with its projections, norms and rotations.

    Parameters
    ----------
    d_out : array (..., N, E_out)
        Cotangent of the result.
    x_q, x_kv, params, heads, kv_heads, mask, rope, bias, scale, softcap, sinks, dropout, q_positions, k_positions, \
    qk_norm_eps
        As for `multi_head_attention`.
    rope_vjp : callable, optional
        For a `rope` of your own: `rope_vjp(d_out, x, positions)` returns the gradient by x, alone or as the first field
        of a tuple. `Rope`, `refattn.rope` and a `functools.partial` of it need none.

    Returns
    -------
    MultiHeadGradients
        (x_q, x_kv, params, bias, sinks, scale), each of the shape of its input.

    Raises
    ------
    TypeError, ValueError
        As for `multi_head_attention`; where d_out has another shape than the result; and where `rope` is none of
        refattn's and has no vjp.

    Notes
    -----
    Projections and attention are computed again. Time: three to four times that of the forward pass; memory O(H N M).
    Clauses: GRAD-MHA, GRAD-GROUP, GRAD-LINEAR, GRAD-REFUSE. Source: the chain rule on Vaswani et al. 2017,
    section 3.2.2.

    Examples
    --------
    >>> import numpy as np
    >>> from refattn import MultiHeadParams
    >>> eye, x = np.eye(2), np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> multi_head_attention_vjp(np.ones((2, 2)), x, None, MultiHeadParams(0 * eye, eye, eye, eye), heads=2).params.w_v
    array([[4., 4.],
           [6., 6.]])
    """
    packed = isinstance(params, PackedMultiHeadParams)
    xp, heads, kv_heads, q_in, kv_in, p, bias, sinks, q_positions, k_positions = multi_head_arguments(
        x_q, x_kv, params, heads, kv_heads, bias, sinks, q_positions, k_positions
    )
    xp, d_out, q_in, kv_in, bias, sinks, *arrays = backend.floating(
        d_out=d_out,
        x_q=q_in,
        x_kv=kv_in,
        bias=bias,
        sinks=sinks,
        **p._asdict(),
        optional=f"bias sinks {OPTIONAL_WEIGHTS}",
    )
    p = MultiHeadParams(*arrays)
    n, m = q_in.shape[-2], kv_in.shape[-2]
    q_at = backend.arange(xp, m - n, m, q_in) if q_positions is None else q_positions
    k_at = backend.arange(xp, 0, m, q_in) if k_positions is None else k_positions
    qk_norm_eps = checked_norm_eps(qk_norm_eps, p)
    turn_back = _rope_vjp(rope, rope_vjp)

    q_wide, k_wide = linear(xp, q_in, p.w_q, p.b_q), linear(xp, kv_in, p.w_k, p.b_k)
    q_heads = normalised_heads(q_wide, heads, p.q_norm, qk_norm_eps)  # (..., H, N, D)
    k_heads = normalised_heads(k_wide, kv_heads, p.k_norm, qk_norm_eps)  # (..., G, M, D)
    q = q_heads if rope is None else rope(q_heads, q_at)
    k = k_heads if rope is None else rope(k_heads, k_at)
    v = split_heads(linear(xp, kv_in, p.w_v, p.b_v), kv_heads)  # (..., G, M, Dv)
    options = {
        "bias": bias,
        "scale": scale,
        "softcap": softcap,
        "sinks": sinks,
        "dropout": dropout,
        "q_positions": q_positions,
        "k_positions": k_positions,
    }
    mixed = merge_heads(grouped_query_attention(q, k, v, mask, **options))  # (..., N, H·Dv)
    checked_cotangent("d_out", d_out, "the result", (*mixed.shape[:-1], p.w_o.shape[1]))

    o = linear_vjp(d_out, mixed, p.w_o, p.b_o)
    inner = grouped_query_attention_vjp(split_heads(o.x, heads), q, k, v, mask, **options)
    d_q, q_norm = _normalised_heads_vjp(turn_back(inner.q, q_heads, q_at), q_wide, heads, p.q_norm, qk_norm_eps)
    d_k, k_norm = _normalised_heads_vjp(turn_back(inner.k, k_heads, k_at), k_wide, kv_heads, p.k_norm, qk_norm_eps)
    of_q = linear_vjp(d_q, q_in, p.w_q, p.b_q)
    of_k = linear_vjp(d_k, kv_in, p.w_k, p.b_k)
    of_v = linear_vjp(merge_heads(inner.v), kv_in, p.w_v, p.b_v)
    d_kv = of_k.x + of_v.x
    gradients = MultiHeadParams(of_q.w, of_k.w, of_v.w, o.w, of_q.b, of_k.b, of_v.b, o.b, q_norm, k_norm)
    return MultiHeadGradients(
        x_q=of_q.x + d_kv if x_kv is None else of_q.x,
        x_kv=None if x_kv is None else d_kv,
        params=_packed(xp, gradients) if packed else gradients,
        bias=inner.bias,
        sinks=inner.sinks,
        scale=inner.scale,
    )


def _normalised_heads_vjp(d_heads, x, heads, gain, eps):
    """The gradients of `normalised_heads` by the projection and by the gain."""
    if gain is None:
        return merge_heads(d_heads), None
    if gain.shape[0] == x.shape[-1]:
        found = rms_norm_vjp(merge_heads(d_heads), x, gain, eps=eps)
        return found.x, found.gamma
    found = rms_norm_vjp(d_heads, split_heads(x, heads), gain, eps=eps)
    return merge_heads(found.x), found.gamma


def _packed(xp, p):
    """Gradients by separate projections as those by one matrix that holds them side by side."""
    w_qkv = xp.concat([p.w_q, p.w_k, p.w_v], axis=1)
    b_qkv = None if p.b_q is None else xp.concat([p.b_q, p.b_k, p.b_v])
    return PackedMultiHeadParams(w_qkv, p.w_o, b_qkv, p.b_o, p.q_norm, p.k_norm)


def _rope_vjp(rope, vjp):
    """The vector-Jacobian product of a rotation, as a function (d_out, x, positions) that returns the gradient by x."""
    arguments.function("rope", rope, "x", "positions")
    arguments.function("rope_vjp", vjp, "d_out", "x", "positions")
    if rope is None:
        arguments.unused("rope", rope_vjp=vjp)
        return lambda d_out, x, positions: d_out
    if vjp is None:
        if isinstance(rope, Rope):
            vjp = functools.partial(rotate_positions_vjp, **rope._asdict())
        elif rope is rotate_positions:
            vjp = rotate_positions_vjp
        elif isinstance(rope, functools.partial) and rope.func is rotate_positions and not rope.args:
            vjp = functools.partial(rotate_positions_vjp, **rope.keywords)
        else:
            raise ValueError(
                f"rope is {backend.shown(rope)}, none of refattn's: give its vector-Jacobian product as rope_vjp"
            )

    def alone(d_out, x, positions):
        gradient = vjp(d_out, x, positions)
        return gradient[0] if isinstance(gradient, tuple) else gradient

    return alone


def _check_head_axis(name, x, place, heads, shape):
    if x is not None and (x.ndim < -place or x.shape[place] != heads):
        raise ValueError(f"{name} has shape {tuple(x.shape)}; it must be {shape} with H={heads}")
