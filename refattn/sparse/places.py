"""Where entries lie in an array with leading axes, what stands there, and sums of what belongs there."""

from __future__ import annotations

import math

from refattn import backend


def places_of(xp, lead, stride, inside, core=2, shared=1):
    """Where the entries `inside` of each leading index lie, when leading axes and those of an entry are laid out in one.

    An index of the last leading axis may stand for several: `shared` heads that have the same keys.
    """
    first = xp.reshape(backend.arange(xp, 0, math.prod(lead), inside) * stride, lead)
    if shared > 1:
        first = xp.broadcast_to(first[..., None], (*lead, shared))
        first = xp.reshape(first, (*lead[:-1], lead[-1] * shared))
    return xp.reshape(first, (*first.shape, *[1] * core)) + inside


def cells_of(xp, table, i, j):
    """Where pairs (..., R, W or 1, T or 1) of queries and keys lie in a table (..., N or 1, M or 1)."""
    n, m = table.shape[-2:]
    i, j = i if n > 1 else i * 0, j if m > 1 else j * 0
    return places_of(xp, table.shape[:-2], n * m, i * m + j, core=3)


def rows_at(xp, x, places):
    """Rows (..., R, L, D) of an array (..., M, D)."""
    found = xp.take(xp.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1])), xp.reshape(places, (-1,)), axis=0)
    return xp.reshape(found, (*places.shape, x.shape[-1]))


def numbers_at(xp, x, places):
    """Numbers of an array of any shape."""
    return xp.reshape(xp.take(xp.reshape(x, (-1,)), xp.reshape(places, (-1,)), axis=0), places.shape)


def added(xp, x, places, shape):
    """An array of a shape whose rows, or numbers, are the sums of those of x that belong to their place."""
    if 0 in shape:
        return backend.full(xp, shape, 0.0, x)
    width = x.shape[-1] if x.ndim > places.ndim else 1
    count = math.prod(shape) // max(1, width)
    found = backend.summed_rows(xp, xp.reshape(x, (math.prod(places.shape), width)), xp.reshape(places, (-1,)), count)
    return xp.reshape(found, shape)
