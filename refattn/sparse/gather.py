"""Attention to given keys: a list of indices for each query."""

from __future__ import annotations

from refattn import backend
from refattn.sparse.lists import Lists, attend, attend_vjp
from refattn.sparse.rules import checked_rule


def gather_attention(q, k, v, indices, mask=None, *, repeats="refuse", **options):
    r"""Attention of every query to the keys that its list names.

    .. math:: o_i = \sum_j \frac{m_{ij} e^{s_{ij}}}{\sum_l m_{il} e^{s_{il}}} v_j, \qquad
        m_{ij} = \text{how often list } i \text{ names } j

    Parameters
    ----------
    q : array (..., H, N, D) or (N, D)
        Queries.
    k : array (..., G, M, D) or (M, D)
        Keys, H a multiple of G.
    v : array (..., G, M, Dv) or (M, Dv)
        Values.
    indices : int array that broadcasts to (..., H, N, T)
        Keys of each query, -1 where a list has fewer than T.
    mask : rule of `refattn.masks`, optional
        Leaves out keys that a list names.
    repeats : "refuse", "once" or "count", default "refuse"
        What a key is that a list names more than once: an error, one key, or as many equal keys: a multiset.
    **options
        As for `tiled_attention`, which has tiles beside.

    Returns
    -------
    out : array (..., H, N, Dv) or (N, Dv)
    lse : array (..., H, N) or (N,)
        If `return_lse`; as for `attention`.

    Raises
    ------
    TypeError, ValueError
        As for `attention`; and where indices are no integers from -1 to M - 1, or name a key twice, or the mask is no rule.

    Notes
    -----
    Time O(N T (D + Dv)), memory beside lists and results constant. It equals attention under a mask, where repeats count
    with a bias of ln m.
    Clauses: GATHER-KEYS, GATHER-EMPTY, GATHER-REPEATS, GATHER-AXES, GATHER-OPTIONS, GATHER-COST, GATHER-REFUSE.
    Source: DeepSeek-AI 2025 (DeepSeek-V3.2), section 2.1, the attention after the indexer.

    Examples
    --------
    >>> import numpy as np
    >>> x, keys = np.zeros((3, 2)), np.array([[2, 0], [1, -1], [-1, -1]])
    >>> gather_attention(x, x, np.array([[1.0], [2.0], [4.0]]), keys)[:, 0]
    array([2.5, 2. , 0. ])
    """
    return attend(q, k, v, Lists(_named(q, k, indices, repeats)), checked_rule(mask), **options)


def gather_attention_vjp(d_out, q, k, v, indices, mask=None, *, repeats="refuse", **options):
    """The gradients of attention to given keys; which keys those are has none.

    Parameters
    ----------
    d_out : array (..., H, N, Dv) or (N, Dv)
        Cotangent of the output.
    q, k, v, indices, mask, repeats
        As for `gather_attention`.
    **options
        As for `tiled_attention_vjp`, which has tiles beside.

    Returns
    -------
    AttentionGradients
        (q, k, v, bias, sinks, scale), each of the shape of its input.

    Raises
    ------
    TypeError, ValueError
        As for `gather_attention`; and where a cotangent has another shape than its result.

    Notes
    -----
    Time and memory as for `gather_attention`. Clauses: GATHER-GRADIENT.
    Source: Dao et al. 2022 (FlashAttention), appendix B.4, over the keys of each list.

    Examples
    --------
    >>> import numpy as np
    >>> x, keys = np.zeros((2, 2)), np.array([[0, 2], [0, -1]])
    >>> gather_attention_vjp(np.ones((2, 1)), x, np.zeros((3, 2)), np.ones((3, 1)), keys).v[:, 0]
    array([1.5, 0. , 0.5])
    """
    return attend_vjp(d_out, q, k, v, Lists(_named(q, k, indices, repeats)), checked_rule(mask), **options)


def _named(q, k, indices, repeats):
    """The indices, each of which names a key once, or as often as it counts."""
    backend.choice("repeats", repeats, ("refuse", "once", "count"))
    xp, q, k = backend.floating(q=q, k=k)
    backend.rank("q", q, 2, "(..., N, D)")
    backend.rank("k", k, 2, "(..., M, D)")
    indices, m = backend.integers(xp, k, indices=indices), k.shape[-2]
    backend.rank("indices", indices, 2, "(..., H, N, T)")
    if indices.shape[-2] != q.shape[-2]:
        raise ValueError(
            f"indices has {indices.shape[-2]} lists, q has {q.shape[-2]} queries: both are N in (..., N, T)"
        )
    backend.broadcast("leading axes", indices=indices.shape[:-2], q=q.shape[:-2])
    if bool(xp.any((indices < -1) | (indices >= m))):
        raise ValueError(
            f"indices reach from {int(xp.min(indices))} to {int(xp.max(indices))}; they must be keys, 0 to {m - 1}, or -1 for none"
        )
    if repeats == "count" or indices.shape[-1] < 2:
        return indices
    order = backend.stable_argsort(xp, indices)
    ascending = xp.take_along_axis(indices, order, axis=-1)
    again = (ascending[..., 1:] == ascending[..., :-1]) & (ascending[..., 1:] >= 0)
    if repeats == "refuse" and bool(xp.any(again)):
        raise ValueError('indices name a key twice for one query; give repeats="once" or repeats="count"')
    first = xp.concat([xp.zeros_like(again[..., :1]), again], axis=-1)
    again = xp.take_along_axis(first, backend.stable_argsort(xp, order), axis=-1)  # back in the order of the list
    return xp.where(again, -1, indices)
