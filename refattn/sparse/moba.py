"""Mixture of block attention: every query chooses blocks of keys by their means."""

from __future__ import annotations

import math

from refattn import backend, masks
from refattn.sparse.lists import ROOM, Lists, attend, attend_vjp
from refattn.sparse.rules import both
from refattn.tiled.problem import problem_of


def moba_attention(q, k, v, size, kept, mask=None, **options):
    r"""Attention of every query to the past keys of its own block, and of the blocks whose mean keys suit it best.

    .. math:: o_i = \sum_{j \in S_i} \frac{e^{s_{ij}}}{\sum_{l \in S_i} e^{s_{il}}} v_j, \qquad
        S_i = \{ j \le M - N + i : \lfloor j / B \rfloor \in T_i \}

    Parameters
    ----------
    q : array (..., H, N, D) or (N, D)
        Queries, the last N of M places.
    k : array (..., G, M, D) or (M, D)
        Keys, H a multiple of G.
    v : array (..., G, M, Dv) or (M, Dv)
        Values.
    size : int
        The B above, keys a block. The last block holds those that are left.
    kept : int
        How many blocks a query attends to, its own among them: the T above, which `moba_blocks` gives.
    mask : rule of `refattn.masks`, optional
        What restricts it further: it leaves out keys of the blocks, and does not change which blocks those are.
    **options
        As for `tiled_attention`, which has tiles and positions beside: here all is counted in places.

    Returns
    -------
    out : array (..., H, N, Dv) or (N, Dv)
    lse : array (..., H, N) or (N,)
        If `return_lse`; as for `attention`.

    Raises
    ------
    TypeError, ValueError
        As for `attention` and `moba_blocks`; and where the mask is no rule, or positions are given.

    Notes
    -----
    Time O(N M D / B + N kept B (D + Dv)), memory O(N kept) beside the results. A set: no key counts twice.
    Clauses: MOBA-KEYS, MOBA-MASK, MOBA-OPTIONS, MOBA-COST, MOBA-REFUSE.
    Source: Lu et al. 2025 (MoBA), section 2.2, eq. 2 to 6.

    Examples
    --------
    >>> import numpy as np
    >>> q, k = np.zeros((6, 1)), np.array([[1.0], [1.0], [2.0], [2.0], [0.0], [0.0]])
    >>> moba_attention(q, k, np.arange(6.0)[:, None], 2, 2)[:, 0]  # all means are as good: the first block
    array([0.        , 0.5       , 1.        , 1.5       , 1.66666667,
           2.5       ])
    """
    return attend(q, k, v, Lists(moba_blocks(q, k, size, kept), size=size), _past(mask, options), **options)


def moba_attention_vjp(d_out, q, k, v, size, kept, mask=None, **options):
    """The gradients of mixture of block attention: which blocks those are has none.

    Parameters
    ----------
    d_out : array (..., H, N, Dv) or (N, Dv)
        Cotangent of the output.
    q, k, v, size, kept, mask
        As for `moba_attention`.
    **options
        As for `tiled_attention_vjp`, which has tiles and positions beside.

    Returns
    -------
    AttentionGradients
        (q, k, v, bias, sinks, scale), each of the shape of its input.

    Raises
    ------
    TypeError, ValueError
        As for `moba_attention`; and where a cotangent has another shape than its result.

    Notes
    -----
    Time and memory as for `moba_attention`. Clauses: MOBA-GRADIENT.
    Source: Lu et al. 2025 (MoBA), section 2.2; Dao et al. 2022 (FlashAttention), appendix B.4, over the chosen keys.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.zeros((4, 2))
    >>> moba_attention_vjp(np.ones((4, 1)), x, x, np.ones((4, 1)), 2, 1).v[:, 0]  # weights 1; 1/2, 1/2; 1; 1/2, 1/2
    array([1.5, 0.5, 1.5, 0.5])
    """
    lists = Lists(moba_blocks(q, k, size, kept), size=size)
    return attend_vjp(d_out, q, k, v, lists, _past(mask, options), **options)


@backend.ieee
def moba_blocks(q, k, size, kept):
    r"""The blocks of keys that every query chooses: its own, and those before it whose mean keys have the largest products.

    .. math:: T_i = \{ b_i \} \cup \operatorname{top}_{\mathrm{kept} - 1} \{ b < b_i \text{ by } q_i \cdot \bar k_b \}, \qquad
        b_i = \lfloor (M - N + i) / B \rfloor, \quad \bar k_b = \tfrac{1}{B} \sum_{j = b B}^{b B + B - 1} k_j

    Parameters
    ----------
    q : array (..., H, N, D) or (N, D)
        Queries, the last N of M places.
    k : array (..., G, M, D) or (M, D)
        Keys, H a multiple of G.
    size : int
        The B above.
    kept : int
        How many blocks, the query's own among them; fewer where there are fewer up to its own.

    Returns
    -------
    blocks : int array (..., H, N, T) or (N, T)
        In ascending order, -1 behind them where there are fewer than T, the smaller of `kept` and ⌈M / B⌉.

    Raises
    ------
    TypeError, ValueError
        q and k are no such arrays, or the size or kept is no integer of at least 1.

    Notes
    -----
    Of blocks with equal products the first are chosen; a NaN counts as the largest, so that it shows. A query before the
    first place has no block. Time O(N M D / B), memory O(N kept) beside a few rows of products.
    Clauses: MOBA-CHOICE, MOBA-OWN, MOBA-TIES, MOBA-PAST, MOBA-HEADS, MOBA-REFUSE.
    Source: Lu et al. 2025 (MoBA), section 2.2, eq. 5 and 6; MoonshotAI/MoBA, moba_naive.py.

    Examples
    --------
    >>> import numpy as np
    >>> q, k = np.array([[1.0], [-1.0]]), np.array([[1.0], [1.0], [3.0], [3.0], [2.0], [0.0]])
    >>> moba_blocks(q, k, 2, 2)
    array([[1, 2],
           [0, 2]])
    """
    size, kept = backend.integer("size", size, least=1), backend.integer("kept", kept, least=1)
    of = problem_of(q, k, k)
    xp, n, m = of.xp, of.n, of.m
    means, queries = _mean_keys(of, size), of.q
    if of.lead and of.k.ndim > 2 and of.k.shape[-3] not in (1, of.lead[-1]):  # heads share keys: (G, H / G) and (G, 1)
        means = means[..., None, :, :]
        queries = xp.reshape(of.q, (*of.q.shape[:-3], of.k.shape[-3], -1, n, of.q.shape[-1]))
    own = backend.arange(xp, m - n, m, backend.integers(xp, q, size=size))[:, None] // size
    rows = max(1, ROOM // max(1, math.prod(of.lead) * means.shape[-2]))
    parts = [slice(start, min(start + rows, n)) for start in range(0, max(n, 1), rows)]
    found = [_chosen(xp, queries[..., part, :], means, own[part, :], kept) for part in parts]
    blocks = xp.concat(found, axis=-2)[..., : min(kept, -(-m // size))]
    return xp.reshape(blocks, (*of.lead, n, blocks.shape[-1]))


def _mean_keys(of, size):
    """The mean key of each block but the last, if that is short: (..., R, D)."""
    whole = of.m // size
    keys = of.k[..., : whole * size, :]
    return of.xp.mean(of.xp.reshape(keys, (*keys.shape[:-2], whole, size, keys.shape[-1])), axis=-2)


def _chosen(xp, q, means, own, kept):
    """The blocks of some queries, in ascending order, -1 behind them."""
    products = xp.matmul(q, xp.matrix_transpose(means))
    products = xp.where(xp.isnan(products), math.inf, products)
    past = backend.arange(xp, 0, means.shape[-2], own) < own
    best = backend.largest(xp, xp.where(past, products, -math.inf), min(kept - 1, means.shape[-2]))
    behind = means.shape[-2] + 1  # what sorts behind every block, the short one too
    chosen = [xp.where(best < own, best, behind), xp.broadcast_to(own, (*best.shape[:-1], 1))]
    blocks = xp.sort(xp.concat(chosen, axis=-1), axis=-1)
    return xp.where((blocks == behind) | (blocks < 0), -1, blocks)


def _past(mask, options):
    """The rule that a key is not behind its query, and a further one."""
    for name in ("q_positions", "k_positions"):
        if options.get(name) is not None:
            raise TypeError(
                f"{name} is given; blocks and what is past are counted in places: queries are the last N of M"
            )
    return both(masks.causal(), mask)
