"""Block-sparse attention: a table of blocks of queries and blocks of keys."""

from __future__ import annotations

from refattn import backend
from refattn.sparse.lists import Lists, attend, attend_vjp
from refattn.sparse.rules import checked_rule


def block_attention(q, k, v, layout, size, mask=None, **options):
    r"""Attention of every query to the keys of the blocks that a layout gives to its block.

    .. math:: o_i = \sum_{j \in S_i} \frac{e^{s_{ij}}}{\sum_{l \in S_i} e^{s_{il}}} v_j, \qquad
        S_i = \{ j : A_{\lfloor (M - N + i) / B \rfloor, \lfloor j / B \rfloor} \}

    Parameters
    ----------
    q : array (..., H, N, D) or (N, D)
        Queries.
    k : array (..., G, M, D) or (M, D)
        Keys, H a multiple of G.
    v : array (..., G, M, Dv) or (M, Dv)
        Values.
    layout : bool array that broadcasts to (..., H, R, R)
        The A above, True where the queries of a block attend to the keys of one: a row and a column for each of the ⌈M / B⌉
        blocks of the sequence.
    size : int
        The B above, tokens a block. The last block holds those that are left.
    mask : rule of `refattn.masks`, optional
        What restricts it further: `causal()`, without which a query sees the rest of its own block.
    **options
        As for `tiled_attention`, which has tiles beside. Positions that are given count for rules and functions; blocks
        are of places, where the N queries are the last of M.

    Returns
    -------
    out : array (..., H, N, Dv) or (N, Dv)
    lse : array (..., H, N) or (N,)
        If `return_lse`; as for `attention`.

    Raises
    ------
    TypeError, ValueError
        As for `attention`; and where the layout is not boolean or has another number of blocks, the size is below 1, or the
        mask is no rule.

    Notes
    -----
    Time O(B² (D + Dv)) a block of the layout, memory beside the results that of the longest row of blocks. A set: no key
    counts twice.
    Clauses: BLOCK-KEYS, BLOCK-ALIGN, BLOCK-LAST, BLOCK-MASK, BLOCK-HEADS, BLOCK-OPTIONS, BLOCK-COST, BLOCK-REFUSE.
    Source: Child et al. 2019 (Sparse Transformer), section 5.5; the layouts of DeepSpeed and FlexAttention.

    Examples
    --------
    >>> import numpy as np
    >>> x, layout = np.zeros((5, 2)), np.array([[True, False, False], [True, True, False], [False, False, True]])
    >>> block_attention(x, x, np.arange(5.0)[:, None], layout, 2)[:, 0]
    array([0.5, 0.5, 1.5, 1.5, 4. ])
    """
    return attend(q, k, v, _lists(q, k, layout, size), checked_rule(mask), **options)


def block_attention_vjp(d_out, q, k, v, layout, size, mask=None, **options):
    """The gradients of block-sparse attention.

    Parameters
    ----------
    d_out : array (..., H, N, Dv) or (N, Dv)
        Cotangent of the output.
    q, k, v, layout, size, mask
        As for `block_attention`.
    **options
        As for `tiled_attention_vjp`, which has tiles beside.

    Returns
    -------
    AttentionGradients
        (q, k, v, bias, sinks, scale), each of the shape of its input.

    Raises
    ------
    TypeError, ValueError
        As for `block_attention`; and where a cotangent has another shape than its result.

    Notes
    -----
    Time and memory as for `block_attention`. Clauses: BLOCK-GRADIENT.
    Source: Dao et al. 2022 (FlashAttention), appendix B.4, over the keys of each block.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.zeros((4, 2))
    >>> block_attention_vjp(np.ones((4, 1)), x, x, np.ones((4, 1)), np.array([[True, False], [True, True]]), 2).v[:, 0]
    array([1.5, 1.5, 0.5, 0.5])
    """
    return attend_vjp(d_out, q, k, v, _lists(q, k, layout, size), checked_rule(mask), **options)


def _lists(q, k, layout, size) -> Lists:
    """The blocks of each row of the layout, from the one on in which the first query stands."""
    size, xp = backend.integer("size", size, least=1), backend.array("layout", layout)
    backend.boolean(xp, layout=layout)
    _, q, k = backend.floating(q=q, k=k)
    for name, x, shape in (("q", q, "(..., N, D)"), ("k", k, "(..., M, D)"), ("layout", layout, "(..., R, R)")):
        backend.rank(name, x, 2, shape)
    n, m = q.shape[-2], k.shape[-2]
    wanted = -(-m // size)
    if layout.shape[-2:] != (wanted, wanted):
        raise ValueError(
            f"layout has {layout.shape[-2]} x {layout.shape[-1]} blocks; {m} keys are {wanted} blocks of {size}"
        )
    backend.broadcast("leading axes", layout=layout.shape[:-2], q=q.shape[:-2])
    first, before = (m - n) // size, (m - n) % size  # the block of the first query, and its place there
    order = backend.stable_argsort(xp, backend.cast(~layout, xp.int64))  # those that are True, in their order
    blocks = xp.where(xp.take_along_axis(layout, order, axis=-1), order, -1)
    if first < 0:  # queries before the first place
        none = xp.zeros_like(blocks[..., :1, :]) - 1
        blocks = xp.concat([*[none] * -first, blocks], axis=-2)
    return Lists(blocks[..., max(first, 0) :, :], size, size, before)
