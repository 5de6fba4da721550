"""Attention over tiles: the softmax of a row is found while its keys pass by."""

from __future__ import annotations

import math

from refattn import arguments, backend
from refattn.attention import scaled_product, with_strange
from refattn.softmax import State, divisor, level, sink_shares
from refattn.tiled.problem import Problem, problem_of
from refattn.tiled.workspace import run, ticker


@backend.ieee
def tiled_attention(
    q, k, v, mask=None, *, bias=None, scale=None, softcap=None, sinks=None, dropout=None, q_positions=None,
    k_positions=None, return_lse=False, q_tile=None, k_tile=None, progress=None,
):  # fmt: skip
    r"""Attention over tiles of queries and keys, with memory that does not grow with N M.

    For the tiles j = 1, 2, ... of keys, with scores S_j of a tile of queries, from (m, l, a) = (-∞, 0, 0):

    .. math:: m' = \max(m, \max S_j), \quad l' = e^{m - m'} l + \sum e^{S_j - m'}, \quad
        a' = e^{m - m'} a + e^{S_j - m'} V_j; \qquad o = a / l, \quad L = m + \ln l \text{ at the end}

    Parameters
    ----------
    q : array (..., H, N, D) or (N, D)
        Queries.
    k : array (..., G, M, D) or (M, D)
        Keys, H a multiple of G: head h reads key/value head h // (H / G), and nothing is repeated.
        Other leading axes broadcast with those of q.
    v : array (..., G, M, Dv) or (M, Dv)
        Values; as many heads as k.
    mask : bool array that broadcasts to (..., H, N, M), or rule of `refattn.masks`, optional
        True where query i may attend to key j. A rule is asked tile by tile, and not at all where its window, its
        causality or its blocks say enough.
    bias : array that broadcasts to (..., H, N, M), or function, optional
        Added to the scores after scale and softcap. A function takes int64 positions (..., n, 1) of queries and
        (..., 1, m) of keys and returns what a tile's bias broadcasts from.
    scale, softcap, sinks
        As for `grouped_query_attention`.
    dropout : Dropout or (keep, rate), optional
        keep is an array, a function of positions as for the bias, or a rule of `refattn.masks`.
    q_positions, k_positions : int array that broadcasts to (..., H, N), (..., H, M), optional
        For rules and functions. Default: keys 0 to M - 1, queries the last N of M.
    return_lse : bool, default False
    q_tile, k_tile : int, optional
        How many queries and keys at a time, at most. The result is the same but for rounding.
    progress : callable, optional
        Called as progress(done, total) when a tile of queries is done, perhaps from another thread.

    Returns
    -------
    out : array (..., H, N, Dv) or (N, Dv)
    lse : array (..., H, N) or (N,)
        If `return_lse`; as for `attention`.

    Raises
    ------
    TypeError, ValueError
        As for `attention` and `grouped_query_attention`; and where a tile size is no integer of at least 1.

    See Also
    --------
    attention : the same from all scores at once.
    tiled_attention_vjp : its gradients.

    Notes
    -----
    Time O(N M (D + Dv)), less what the mask leaves out; memory O(q_tile k_tile) beside the results. With threadpoolctl
    installed (the extra `fast`), tiles of queries are shared out over the cores.
    Clauses: TILED-EQUAL, TILED-RESCALE, TILED-SKIP, TILED-FUNCTION, TILED-GROUP, TILED-MEMORY, TILED-REFUSE.
    Source: Milakov & Gimelshein 2018, algorithm 3; Rabe & Staats 2021; Dao 2023 (FlashAttention-2), algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from refattn.masks import causal
    >>> x = np.eye(5)[:, :2]
    >>> tiled_attention(x, x, np.arange(5.0)[:, None], causal(), scale=0.0, q_tile=2, k_tile=3)[:, 0]
    array([0. , 0.5, 1. , 1.5, 2. ])
    """
    return_lse = backend.flag("return_lse", return_lse)
    arguments.function("progress", progress, "done", "total")
    problem = problem_of(
        q, k, v, mask, bias=bias, scale=scale, softcap=softcap, sinks=sinks, dropout=dropout,
        q_positions=q_positions, k_positions=k_positions, q_tile=q_tile, k_tile=k_tile,
    )  # fmt: skip
    found = states(problem, progress)
    return (found.out, level(problem.xp, found.total, found.peak)[..., 0]) if return_lse else found.out


def states(problem: Problem, progress=None) -> State:
    """The state of every query after all keys."""
    xp, rows = problem.xp, (*problem.lead, problem.n)
    out, peak, total = (backend.full(xp, (*rows, width), 0.0, problem.q) for width in (problem.v.shape[-1], 1, 1))
    tasks = [(index, rows) for index in problem.indices() for rows in problem.query_tiles()]
    done = ticker(progress, len(tasks))

    def work(task, workspace):
        index, rows = task
        place = (*index, ..., rows, slice(None))
        out[place], peak[place], total[place] = query_tile(problem.at(index), rows, workspace)
        done()

    run(xp, tasks, work)
    return State(out, peak, total)


@backend.ieee
def query_tile(problem: Problem, rows, workspace) -> State:
    """The state of a tile of queries, while the keys pass by once, tile by tile."""
    xp, v = problem.xp, problem.v
    q = problem.queries(rows)
    lead = q.shape[:-1]  # (..., n)
    # From the least finite number, and not from -inf, a row without keys has a level that can be taken from its scores.
    peak, total = backend.full(xp, (*lead, 1), float(xp.finfo(q.dtype).min), q), backend.full(xp, (*lead, 1), 0.0, q)
    out, strange = backend.full(xp, (*lead, v.shape[-1]), 0.0, q), None
    for keys, allowed in problem.key_tiles(rows):
        s = masked(problem, raw_scores(problem, q, keys, workspace), rows, keys, allowed, workspace)
        counted = None if problem.finite else s != -math.inf
        higher = xp.maximum(peak, xp.max(s, axis=-1, keepdims=True))  # (..., n, 1)
        s -= higher
        p = workspace.exp(s)  # (..., n, m)
        shrink = xp.exp(peak - higher)  # what was summed up before was relative to the old peak
        before, peak, total = total, higher, shrink * total + workspace.row_sums(p)
        if problem.large:  # a mean is kept, and no sum: that may overflow
            p = p / divisor(xp, total)
            shrink = shrink * before / divisor(xp, total)
        if problem.keep is not None:
            keep = problem.tile_of(problem.keep, rows, keys)
            p = xp.where(keep, p, 0.0)
        values = v[..., keys, :]
        if not problem.finite:
            counted = counted if problem.keep is None else counted & keep
            values, met = _sorted_out(xp, values, backend.cast(counted, q.dtype))
            strange = met if strange is None else strange + met
        out *= shrink
        out += workspace.matmul("values", p, values)

    out = out / ((1.0 - problem.rate) * (1.0 if problem.large else divisor(xp, total)))
    if problem.sinks is not None:
        out = out * sink_shares(xp, peak, total, problem.sinks[..., None, None])[0]
    out = undefined_rows(problem, rows, out, total)
    return State(out if strange is None else _with(xp, out, strange), peak, total)


def undefined_rows(problem: Problem, rows, out, total):
    """The output of rows whose weights are NaN, by a score that is NaN or +infinity: NaN, unless dropout leaves no key."""
    xp = problem.xp
    undefined = xp.isnan(total)
    if problem.keep is None or not bool(xp.any(undefined)):
        return out
    kept = xp.zeros_like(undefined)
    for keys in problem.all_key_tiles():
        kept = kept | xp.any(problem.tile_of(problem.keep, rows, keys), axis=-1, keepdims=True)
    return xp.where(undefined & kept, math.nan, xp.where(undefined, 0.0, out))


def raw_scores(problem: Problem, q, keys, workspace):
    """scale · q kᵀ of a tile, (..., n, m), of what `queries` gives."""
    k = problem.xp.matrix_transpose(problem.k[..., keys, :])
    if problem.scale_first:
        return workspace.matmul("scores", q, k)
    return scaled_product(problem.xp, problem.scale, q, k)


def masked(problem: Problem, s, rows, keys, allowed, workspace):
    """Scores of a tile after cap, bias and mask; `s` may be written over."""
    if problem.softcap:
        s /= problem.softcap
        s = workspace.tanh(s)
        s *= problem.softcap
    if problem.bias is not None:
        bias = backend.cast(problem.tile_of(problem.bias, rows, keys), s.dtype)
        s += bias
        s = workspace.select(bias != -math.inf, s)  # else inf - inf would be NaN
    return s if allowed is None else workspace.select(allowed, s)  # not added: NaN in an excluded key stays out


def _sorted_out(xp, v, counted):
    """The values with zeros for infinities and NaN, and how many of each kind each query meets, (..., n, 3 Dv)."""
    kinds = xp.concat([backend.cast(x, v.dtype) for x in (v == math.inf, v == -math.inf, xp.isnan(v))], axis=-1)
    return xp.where(xp.isfinite(v), v, 0.0), xp.matmul(counted, kinds)


def _with(xp, out, strange):
    """The output with the infinities and NaN that its queries have met."""
    met = strange > 0
    columns = out.shape[-1]
    return with_strange(xp, out, *(met[..., place * columns : (place + 1) * columns] for place in range(3)))
