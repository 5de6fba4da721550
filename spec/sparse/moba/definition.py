"""Mixture of block attention: which blocks a query chooses; the keys of given blocks are attended to as everywhere."""

from ...exact import Tensor, exact, lift, mean, mp
from ...tiled.definition import dense_mask as dense_mask
from ...tiled.definition import same_heads
from ..keys import functions


def products(q_i, k, size, own):
    """Of a query with the mean key of each block before its own."""
    blocks = [k[b * size : (b + 1) * size, :] for b in range(max(own, 0))]
    return [mp.fdot(map(exact, q_i), mean(block.T).data) for block in blocks]


def sum_of_products(q_i, k, size, own):
    """The mean of the products of a query with the keys of a block, for each block before its own."""
    dots = [mp.fdot(map(exact, q_i), map(exact, k[j])) for j in range(max(own, 0) * size)]
    return [mp.fsum(dots[b * size : (b + 1) * size]) / size for b in range(max(own, 0))]


def first_in_order(g, count):
    """The first in the order of products, the largest first and equals by their index."""
    return sorted(b for _, b in sorted((-x, b) for b, x in enumerate(g))[:count])


def fewer_ahead(g, count):
    """Each of which fewer than so many are ahead."""
    ahead = lambda b: sum(x > g[b] or (x == g[b] and c < b) for c, x in enumerate(g))
    return [b for b in range(len(g)) if ahead(b) < count]


def blocks_by(scores, best):
    """Blocks (..., N, T), ascending, -1 behind them."""

    def of_head(q, k, size, kept):
        (n, m), found = (q.shape[0], k.shape[0]), []
        width = min(kept, -(-m // size))
        for i in range(n):
            own = (m - n + i) // size
            chosen = [*best(scores(q[i], k, size, own), kept - 1), own] if own >= 0 else []
            found += chosen + [-1] * (width - len(chosen))
        return Tensor((n, width), found, "int64")

    def blocks(q, k, size, kept):
        k, _ = same_heads(q, k, k)
        found = lift(lambda q_, k_: of_head(q_, k_, size, kept), (2, 2), q, k)
        return Tensor(found.shape, found.data, "int64")

    return blocks


def keys_of(blocks):
    """Counts (..., N, M) of the keys of the chosen blocks that are not behind their query."""

    def counts(q, k, size, kept, **_):
        n, m = q.shape[-2], k.shape[-2]

        def table(chosen):
            cells = [int(j <= m - n + i and j // size in list(chosen[i])) for i in range(n) for j in range(m)]
            return Tensor((n, m), cells)

        return lift(table, (2,), blocks(q, k, size, kept))

    return counts


ONE, OTHER = blocks_by(products, first_in_order), blocks_by(sum_of_products, fewer_ahead)
FUNCTIONS = functions("moba_attention", keys_of(ONE))[0] | {
    "sparse.moba_blocks": lambda **given: {"blocks": ONE(**given)}
}
SECOND = functions("moba_attention", keys_of(OTHER))[1] | {
    "sparse.moba_blocks": lambda **given: {"blocks": OTHER(**given)}
}
