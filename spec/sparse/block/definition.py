"""Block-sparse attention: a table of blocks."""

from ...exact import Tensor, lift
from ...tiled.definition import dense_mask as dense_mask
from ..keys import functions


def of_layout(q, k, layout, size, **positions):
    """Once for each pair of a query and a key whose blocks the layout joins."""
    n, m = q.shape[-2], k.shape[-2]
    places = range(m - n, m)

    def table(blocks):
        cells = [i >= 0 and blocks[i // size][j // size] for i in places for j in range(m)]
        return Tensor((n, m), [int(x) for x in cells])

    return lift(table, (2,), layout)


FUNCTIONS, SECOND = functions("block_attention", of_layout)
