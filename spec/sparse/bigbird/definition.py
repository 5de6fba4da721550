"""BigBird: how often the block of a query has that of a key."""

from ...exact import Tensor, lift
from ...tiled.definition import dense_mask as dense_mask
from ..keys import functions


def times(b, c, last, table):
    """How often block b has block c."""
    if b in (0, last):
        return 1
    return int(c in (0, last) or abs(b - c) <= 1) + list(table[b - 1]).count(c)


def of_blocks(q, k, size, random_blocks, extra=0, repeats="once", **positions):
    n, m = q.shape[-2], k.shape[-2]
    last = -(-(m - extra) // size) - 1
    most = 1 if repeats == "once" else m

    def cell(place, j, table):
        if place < 0:
            return 0
        if place < extra or j < extra:
            return 1
        return min(most, times((place - extra) // size, (j - extra) // size, last, table))

    def cells(table):
        return Tensor((n, m), [cell(place, j, table) for place in range(m - n, m) for j in range(m)])

    return lift(cells, (2,), random_blocks)


FUNCTIONS, SECOND = functions("bigbird_attention", of_blocks)
