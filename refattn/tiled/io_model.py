"""How many numbers attention moves between slow and fast memory: the model that FlashAttention is built on."""

from __future__ import annotations

import math
from typing import NamedTuple

from refattn import backend


class IOCounts(NamedTuple):
    """Numbers that one head moves.

    Attributes
    ----------
    loads, stores : int
        From slow to fast memory, and back.
    q_tile, k_tile : int
        The tiles; 0 where there are none.
    """

    loads: int
    stores: int
    q_tile: int
    k_tile: int


ORDERS = ("standard", "keys_outside", "queries_outside")


def attention_io(n, m, d, fast_memory, *, order="queries_outside"):
    r"""How many numbers attention moves between slow and fast memory, for one head.

    .. math:: \text{standard: } 2 (n + m) d + 4 n m, \qquad
        \text{keys outside: } 2 m d + T_k (3 n d + 4 n), \qquad
        \text{queries outside: } 2 n d + n + T_q\, 2 m d

    Parameters
    ----------
    n, m, d : int
        Queries, keys, head size (of keys and of values).
    fast_memory : int
        How many numbers the fast memory holds, at least 4 d. The caches of a GPU's multiprocessor hold about 50,000.
    order : {"queries_outside", "keys_outside", "standard"}
        FlashAttention-2, FlashAttention, or the three passes over an n m array of scores.

    Returns
    -------
    IOCounts
        (loads, stores, q_tile, k_tile); the formulas above are loads + stores.

    Raises
    ------
    TypeError, ValueError
        They are no integers or negative; the fast memory does not hold one row of each of q, k, v and out.

    Notes
    -----
    The tiles are those of the theorem: k_tile = ⌈S / 4d⌉ and q_tile = min(⌈S / 4d⌉, d) with S the fast memory, so that
    either order moves Θ(n m d² / S) numbers, the standard one Θ(n d + n m). With queries outside nothing depends on
    q_tile ≤ d, and a kernel takes it larger; `tiled_attention` moves 2 m d a tile of queries as well.
    Clauses: IO-STANDARD, IO-KEYS-OUTSIDE, IO-QUERIES-OUTSIDE, IO-TILES.
    Source: Dao et al. 2022 (FlashAttention), algorithms 0 and 1 and theorem 2; Dao 2023 (FlashAttention-2), algorithm 1.

    Examples
    --------
    >>> attention_io(4096, 4096, 64, 50_000, order="standard")
    IOCounts(loads=34340864, stores=33816576, q_tile=0, k_tile=0)
    >>> attention_io(4096, 4096, 64, 50_000)
    IOCounts(loads=33816576, stores=266240, q_tile=64, k_tile=196)
    """
    n, m = backend.integer("n", n, least=0), backend.integer("m", m, least=0)
    d, fast_memory = backend.integer("d", d, least=1), backend.integer("fast_memory", fast_memory)
    backend.choice("order", order, ORDERS)
    if fast_memory < 4 * d:
        raise ValueError(
            f"fast_memory is {fast_memory}; it must hold 4 d = {4 * d} numbers: a row each of q, k, v and out"
        )
    if order == "standard":
        scores, weights, out = (n * d + m * d, n * m), (n * m, n * m), (n * m + m * d, n * d)
        return IOCounts(scores[0] + weights[0] + out[0], scores[1] + weights[1] + out[1], 0, 0)
    k_tile = math.ceil(fast_memory / (4 * d))
    q_tile = min(k_tile, d)
    if order == "keys_outside":  # q, out, the row's peak and its sum come and go with every tile of keys
        passes = math.ceil(m / k_tile)
        return IOCounts(2 * m * d + passes * (2 * n * d + 2 * n), passes * (n * d + 2 * n), q_tile, k_tile)
    passes = math.ceil(n / q_tile)
    return IOCounts(n * d + passes * 2 * m * d, n * d + n, q_tile, k_tile)
