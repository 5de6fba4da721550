"""Rules of blocks and strides.

Blocks start at position 0, and block b holds the positions b·size to (b + 1)·size - 1, also for negative b.
"""

from __future__ import annotations

import math

from refattn import backend
from refattn.masks.algebra import Mask
from refattn.masks.bands import within
from refattn.masks.reach import Interval, Reach, so_far
from refattn.masks.registry import rule

__all__ = ["block", "chunked", "fixed", "neighbours", "strided"]


def _of_blocks(first, last, size, before=0, after=0):
    low, high = first // size, last // size
    return Reach(
        may=Interval((low - before) * size, (high + after + 1) * size - 1),
        must=Interval((high - before) * size, (low + after + 1) * size - 1),
    )


def _of_chunks(first, last, size):
    return _of_blocks(first, last, size) & so_far(first, last)


@rule(reach=_of_blocks)
def block(size):
    """A query may attend to the keys of its own block of `size` positions; blocks start at position 0.

    Notes
    -----
    Clauses: MASK-BLOCK. Source: Qiu et al. 2020 (blockwise attention), with the identity permutation.

    Examples
    --------
    >>> block(2).dense(3, 3).astype(int)
    array([[1, 1, 0],
           [1, 1, 0],
           [0, 0, 1]])
    """
    size = backend.integer("size", size, least=1)
    return Mask(lambda i, j: i // size == j // size, "block", size=size)


@rule(reach=_of_blocks)
def neighbours(size, before=1, after=1):
    """A query may attend to its own block, `before` blocks before it and `after` blocks after it.

    Parameters
    ----------
    size : int
        Positions a block.
    before, after : int, default 1
        Blocks on either side.

    Notes
    -----
    Clauses: MASK-NEIGHBOURS. Source: Zaheer et al. 2020 (BigBird), appendix D: its window of blocks.

    Examples
    --------
    >>> neighbours(2, before=1, after=0).dense(6, 6)[4].astype(int)
    array([0, 0, 1, 1, 1, 1])
    """
    size = backend.integer("size", size, least=1)
    before, after = backend.integer("before", before, least=0), backend.integer("after", after, least=0)
    return Mask(
        lambda i, j: within(j // size - i // size, before, after),
        "neighbours",
        size=size,
        before=before,
        after=after,
    )


@rule(reach=_of_chunks)
def chunked(size):
    """Causal within chunks of `size` positions: `block(size) & causal()`.

    Notes
    -----
    Clauses: MASK-CHUNKED. Source: Meta 2025 (Llama 4), the layers with chunked attention.

    Examples
    --------
    >>> chunked(3).dense(7, 7).sum(axis=-1)
    array([1, 2, 3, 1, 2, 3, 1])
    """
    size = backend.integer("size", size, least=1)
    return Mask(lambda i, j: (i // size == j // size) & (j <= i), "chunked", size=size)


def _of_strided(first, last, stride):
    return Reach(may=Interval(-math.inf, last), must=Interval(last - stride, first))


@rule(reach=_of_strided)
def strided(stride):
    """The strided pattern of the Sparse Transformer: the last `stride` positions and every stride-th before.

    Notes
    -----
    One head that attends to the union of the paper's two index sets, max(0, i - l) ≤ j ≤ i and (i - j) mod l = 0.
    Alone, the first is `window(stride, 0)` and the second `dilated(None, 0, stride)`.
    Clauses: MASK-STRIDED. Source: Child et al. 2019, section 4.2.

    Examples
    --------
    >>> strided(3).dense(8, 8)[7].astype(int)
    array([0, 1, 0, 0, 1, 1, 1, 1])
    """
    stride = backend.integer("stride", stride, least=1)
    return Mask(
        lambda i, j: (j <= i) & ((i - j <= stride) | ((i - j) % stride == 0)),
        "strided",
        stride=stride,
    )


def _of_fixed(first, last, stride, summary):
    return Reach(may=Interval(-math.inf, last), must=_of_chunks(first, last, stride).must)


@rule(reach=_of_fixed)
def fixed(stride, summary=1):
    """The fixed pattern of the Sparse Transformer: the own block so far, and the last `summary` of each block before.

    Parameters
    ----------
    stride : int
        Positions a block.
    summary : int, default 1
        How many of a block's last positions later blocks may attend to.

    Notes
    -----
    Clauses: MASK-FIXED. Source: Child et al. 2019, section 4.2, with the summary positions l - c to l - 1 of each
    block (the paper's upper end l is never reached by a remainder).

    Examples
    --------
    >>> fixed(4).dense(10, 10)[9].astype(int)
    array([0, 0, 0, 1, 0, 0, 0, 1, 1, 1])
    """
    stride = backend.integer("stride", stride, least=1)
    summary = backend.integer("summary", summary, least=1)
    if summary > stride:
        raise ValueError(f"summary is {summary}; it must be at most stride ({stride})")
    return Mask(
        lambda i, j: (j <= i) & ((i // stride == j // stride) | (j % stride >= stride - summary)),
        "fixed",
        stride=stride,
        summary=summary,
    )
