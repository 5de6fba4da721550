"""BigBird: blocks beside one another, global blocks first and last, and blocks at random."""

from __future__ import annotations

from refattn import backend, masks
from refattn.sparse.lists import Lists
from refattn.sparse.parts import EVERY, Part, attend, attend_vjp
from refattn.sparse.rules import checked_rule


def bigbird_attention(q, k, v, size, random_blocks, mask=None, *, extra=0, repeats="once", **options):
    r"""Attention of blocks to the blocks beside them, to the first and the last, and to some that a table gives.

    .. math:: o_i = \sum_j \frac{m_{ij} e^{s_{ij}}}{\sum_l m_{il} e^{s_{il}}} v_j

    With b and c the blocks of query and key, m is 1 where one of them is the first or the last, or where \|b - c\| ≤ 1, or,
    with extra tokens, where one of both is such a token; and c counts for each time that row b of the table names it.

    Parameters
    ----------
    q : array (..., H, N, D) or (N, D)
        Queries.
    k : array (..., G, M, D) or (M, D)
        Keys, H a multiple of G.
    v : array (..., G, M, Dv) or (M, Dv)
        Values.
    size : int
        Tokens a block. The last block holds those that are left.
    random_blocks : int array that broadcasts to (..., H, R - 2, T)
        Blocks for each of the R blocks but the first and the last, -1 where it has fewer than T. R is ⌈(M - extra) / size⌉;
        a table for one or two blocks has no rows. `bigbird_blocks` draws one.
    mask : rule of `refattn.masks`, optional
        What restricts it further: `padding(lengths)`, or `causal()`.
    extra : int, default 0
        Global tokens in front of the first block: 0 is the internal construction (ITC), any other the extended (ETC).
    repeats : "once" or "count", default "once"
        What a block of the table is that a query has already: no more than that, or as many equal keys: a multiset.
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
        As for `attention`; and where a size is below 1, the table has another number of rows or no blocks in it, or
        the mask is no rule.

    Notes
    -----
    Time O(N (T + 5) size (D + Dv)) beside that of 2 size + extra queries that attend to all, memory O(N (T + 5)) beside
    the results.
    Clauses: BIGBIRD-KEYS, BIGBIRD-GLOBAL, BIGBIRD-RANDOM, BIGBIRD-REPEATS, BIGBIRD-EXTRA, BIGBIRD-ALIGN, BIGBIRD-MASK,
    BIGBIRD-OPTIONS, BIGBIRD-COST, BIGBIRD-REFUSE.
    Source: Zaheer et al. 2020 (BigBird), section 2 and appendix D, with global blocks as in its code.

    Examples
    --------
    >>> import numpy as np
    >>> x, table = np.zeros((6, 2)), np.array([[4], [-1], [-1], [1]])
    >>> bigbird_attention(x, x, np.eye(6), 1, table).astype(bool).astype(int)
    array([[1, 1, 1, 1, 1, 1],
           [1, 1, 1, 0, 1, 1],
           [1, 1, 1, 1, 0, 1],
           [1, 0, 1, 1, 1, 1],
           [1, 1, 0, 1, 1, 1],
           [1, 1, 1, 1, 1, 1]])
    """
    parts = _parts(size, random_blocks, extra, repeats)
    return attend(q, k, v, parts, checked_rule(mask), **options)


def bigbird_attention_vjp(d_out, q, k, v, size, random_blocks, mask=None, *, extra=0, repeats="once", **options):
    """The gradients of attention to blocks beside, first, last and at random; the table has none.

    Parameters
    ----------
    d_out : array (..., H, N, Dv) or (N, Dv)
        Cotangent of the output.
    q, k, v, size, random_blocks, mask, extra, repeats
        As for `bigbird_attention`.
    **options
        As for `tiled_attention_vjp`, which has tiles beside.

    Returns
    -------
    AttentionGradients
        (q, k, v, bias, sinks, scale), each of the shape of its input.

    Raises
    ------
    TypeError, ValueError
        As for `bigbird_attention`; and where a cotangent has another shape than its result.

    Notes
    -----
    Time and memory as for `bigbird_attention`. Clauses: BIGBIRD-GRADIENT.
    Source: Dao et al. 2022 (FlashAttention), appendix B.4, over the keys of each block.

    Examples
    --------
    >>> import numpy as np
    >>> x, table = np.zeros((4, 2)), np.array([[3], [-1]])
    >>> bigbird_attention_vjp(np.ones((4, 1)), x, x, np.ones((4, 1)), 1, table, repeats="count").v[:, 0]
    array([0.95, 0.95, 0.95, 1.15])
    """
    parts = _parts(size, random_blocks, extra, repeats)
    return attend_vjp(d_out, q, k, v, parts, checked_rule(mask), **options)


def bigbird_blocks(generator, blocks, count, lead=()):
    """A table of random blocks for `bigbird_attention` in which no query meets a block twice.

    Parameters
    ----------
    generator : numpy.random.Generator
        What draws: anything whose `random(shape)` gives numbers from 0 to 1 as an array.
    blocks : int
        The R of the table.
    count : int
        Blocks a row; a row with fewer that are neither near nor global ends in -1.
    lead : tuple of int, default ()
        Leading axes: (H,) for a table for each head.

    Returns
    -------
    int array (*lead, R - 2, count)

    Notes
    -----
    It is no part of the definition, which takes any table. Time and memory O(R²). Clauses: BIGBIRD-RANDOM.
    Source: Zaheer et al. 2020 (BigBird), appendix D.

    Examples
    --------
    >>> import numpy as np
    >>> bigbird_blocks(np.random.default_rng(0), 6, 2)
    array([[ 4,  3],
           [ 4, -1],
           [ 1, -1],
           [ 2,  1]])
    """
    blocks, count = backend.integer("blocks", blocks, least=0), backend.integer("count", count, least=0)
    middle = max(0, blocks - 2)
    numbers = generator.random((*lead, middle, middle))
    xp = backend.namespace(numbers=numbers)
    b = backend.arange(xp, 0, middle, numbers)
    far = abs(b[:, None] - b) > 1
    order = backend.stable_argsort(xp, xp.where(far, numbers, 2.0))[
        ..., :count
    ]  # those that are near behind the others
    place = backend.arange(xp, 0, order.shape[-1], numbers)
    found = xp.where(place < xp.sum(backend.cast(far, xp.int64), axis=-1)[:, None], order + 1, -1)
    none = xp.zeros((*found.shape[:-1], count - found.shape[-1]), dtype=found.dtype) - 1
    return xp.concat([found, none], axis=-1)


def _parts(size, random_blocks, extra, repeats):
    """What makes parts of a problem: the queries of global tokens, before and behind the others, and those, by lists."""
    size, extra = backend.integer("size", size, least=1), backend.integer("extra", extra, least=0)
    backend.choice("repeats", repeats, ("once", "count"))

    def parts(of):
        table, blocks = _table(of, size, random_blocks, extra)
        first, last = (min(extra + size * b, of.m) for b in (1, max(1, blocks - 1)))
        before, start, stop, end = (min(max(place - of.m + of.n, 0), of.n) for place in (0, first, last, of.m))
        everything = masks.everything()
        for rows in (slice(before, start), slice(stop, end)):
            if rows.start < rows.stop:
                yield Part(None, rows, EVERY, everything, None)
        if start < stop:
            place = of.m - of.n + start - first  # behind the first block
            keys = _keys(of.xp, table, size, extra, blocks, repeats)
            rows = slice(place // size, -(-(place + stop - start) // size))
            lists = Lists(keys[..., rows, :], size, 1, place % size)
            yield Part(None, slice(start, stop), EVERY, everything, None, lists)

    return parts


def _keys(xp, table, size, extra, blocks, repeats):
    """The keys of each block but the first and the last, (..., R - 2, L): extra tokens, global blocks, near ones, others."""
    b = backend.arange(xp, 1, blocks - 1, table)[:, None]
    own = xp.concat([b * 0, b - 1, b, b + 1, b * 0 + blocks - 1], axis=-1)
    once = xp.concat([b == b, b > 1, b == b, b < blocks - 2, b == b], axis=-1)  # near and global: it counts once
    own = xp.where(once, own, -1)
    if repeats == "once" and table.shape[-1]:
        table = xp.take_along_axis(table, backend.stable_argsort(xp, table), axis=-1)
        again = xp.any(table[..., :, None] == own[:, None, :], axis=-1)
        first = xp.ones_like(again[..., :1])
        again = again | ~xp.concat([first, table[..., 1:] != table[..., :-1]], axis=-1)
        table = xp.where(again, -1, table)
    found = xp.concat([xp.broadcast_to(own, (*table.shape[:-1], 5)), table], axis=-1)
    keys = found[..., None] * size + backend.arange(xp, extra, extra + size, table)
    keys = xp.where(found[..., None] < 0, -1, keys)
    keys = xp.reshape(keys, (*found.shape[:-1], found.shape[-1] * size))
    front = backend.arange(xp, 0, extra, table)
    return xp.concat([xp.broadcast_to(front, (*found.shape[:-1], extra)), keys], axis=-1)


def _table(of, size, random_blocks, extra):
    """The random blocks as integers, and the number of all blocks."""
    table, blocks = backend.integers(of.xp, of.q, random_blocks=random_blocks), max(0, -(-(of.m - extra) // size))
    backend.rank("random_blocks", table, 2, "(..., R - 2, T)")
    if table.shape[-2] != max(0, blocks - 2):
        raise ValueError(
            f"random_blocks has {table.shape[-2]} rows; {of.m} keys, {extra} of them extra, are {blocks} blocks of {size}: it"
            f" must have {max(0, blocks - 2)}, for all but the first and the last"
        )
    if backend.broadcast("leading axes", q_k_v=of.lead, random_blocks=table.shape[:-2]) != tuple(of.lead):
        raise ValueError(
            f"random_blocks has leading axes {tuple(table.shape[:-2])}; they must broadcast to those of q, {tuple(of.lead)}"
        )
    if bool(of.xp.any((table < -1) | (table >= blocks))):
        raise ValueError(
            f"random_blocks reach from {int(of.xp.min(table))} to {int(of.xp.max(table))}; they must be blocks, 0 to"
            f" {blocks - 1}, or -1 for none"
        )
    return table, blocks
