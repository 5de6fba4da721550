"""Rows that a kernel takes a block at a time: where the whole blocks end, and how many entries the last one lacks.

What it gets wrong at the end depends on the size of its blocks, which may be any; so each mistake is a family.
"""

from __future__ import annotations

import math

import numpy as np

from refattn.testing.registry import NotApplicable

EXAMPLE = 64  # entries
WIDE = (64, 65, 100, 257)  # rows to ask about: of whole blocks, and with a last one that is not full
UNIT = "The block has {} entries."


def sizes(*_) -> tuple[int, ...]:
    """The sizes of blocks that are tried, the usual ones first."""
    return (EXAMPLE, 128, 32, 16, 256, 512, 1024, 2048, 4096, 8, 4)


def needled(x):
    """The rows of x, the last entry of each so large that nothing that leaves it out is near; x itself is written to."""
    x[..., -1] += 6.0
    return x


def count(shape, axes: tuple[int, ...]) -> int:
    """How many entries a row has that lies along some axes."""
    return math.prod(shape[n] for n in axes)


def lacking(shape, axes: tuple[int, ...], block: int) -> int:
    """How many entries the last block lacks; NotApplicable where it is full."""
    more = -count(shape, axes) % block
    if not more or not math.prod(shape):
        raise NotApplicable
    return more


def whole(x, axes: tuple[int, ...], block: int):
    """x with zeros in what fills no block of its rows, and how many entries are left; NotApplicable where all or none are."""
    n = count(x.shape, axes)
    kept = n - n % block
    if kept in (0, n):
        raise NotApplicable
    inside = np.reshape(np.arange(n) < kept, [size if at in axes else 1 for at, size in enumerate(x.shape)])
    return np.where(inside, x, 0.0), kept


def mean_of_whole(block: int):
    """In the place of the step `mean_over`: the mean over whole blocks."""

    def mean(xp, x, axes):
        left, kept = whole(x, axes, block)
        return np.sum(left, axis=axes, keepdims=True) / kept

    return mean
