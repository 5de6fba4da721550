"""The gradients of attention over tiles: every tile of weights is computed again from the log-sum-exp."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from refattn import arguments, backend
from refattn.attention import scaled_product
from refattn.gradients.activations import tanh_slope
from refattn.gradients.attention import AttentionGradients
from refattn.gradients.sums import checked_cotangent, product_of_present, summed_to
from refattn.softmax import State, divisor, sink_shares, state_of
from refattn.tiled.forward import masked, query_tile, raw_scores
from refattn.tiled.problem import Problem, problem_of
from refattn.tiled.workspace import run, ticker


@backend.ieee
def tiled_attention_vjp(
    d_out, q, k, v, mask=None, *, d_lse=None, out=None, lse=None, bias=None, scale=None, softcap=None, sinks=None,
    dropout=None, q_positions=None, k_positions=None, q_tile=None, k_tile=None, progress=None,
):  # fmt: skip
    r"""The gradients of attention, with weights that are computed again tile by tile from the log-sum-exp.

    .. math:: p_{ij} = e^{s_{ij} - L_i}, \qquad \delta_i = \bar o_i \cdot o_i, \qquad
        \bar s_{ij} = p_{ij} (\bar o_i \cdot v_j - \delta_i + \bar L_i)

    Parameters
    ----------
    d_out : array (..., H, N, Dv) or (N, Dv)
        Cotangent of the output.
    q, k, v, mask, bias, scale, softcap, sinks, dropout, q_positions, k_positions, q_tile, k_tile, progress
        As for `tiled_attention`.
    d_lse : array (..., H, N) or (N,), optional
        Cotangent of lse.
    out, lse : array (..., H, N, Dv) or (N, Dv), (..., H, N) or (N,), optional
        What `tiled_attention` returned; without them they are computed again, a tile of queries at a time. So they are
        where lse is beyond ±256, since it has too few digits left for the sum of the weights.

    Returns
    -------
    AttentionGradients
        (q, k, v, bias, sinks, scale), each of the shape of its input, summed over what was broadcast and over the
        query heads that share a key/value head; bias is None also where it was a function.

    Raises
    ------
    TypeError, ValueError
        As for `tiled_attention`; and where a cotangent has another shape than its result, or only one of out and lse
        is given.

    See Also
    --------
    attention_vjp : the same from all weights at once, with the formulas of every option.

    Notes
    -----
    Time O(N M (D + Dv)), five products of a tile where the forward pass has two; memory O(q_tile k_tile) beside the
    gradients. Queries and keys whose products could overflow are handled apart, so that what a query cannot see has no
    influence even then. Clauses: TILED-GRADIENT, TILED-MEMORY, TILED-REFUSE.
    Source: Dao et al. 2022 (FlashAttention), appendix B.4; Dao 2023 (FlashAttention-2), algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> q, k, v = np.zeros((1, 1)), np.array([[1.0], [-1.0]]), np.array([[4.0], [0.0]])
    >>> tiled_attention_vjp(np.ones((1, 1)), q, k, v, k_tile=1).q
    array([[2.]])
    """
    arguments.function("progress", progress, "done", "total")
    table = None if callable(bias) else bias
    xp, d_out, d_lse, out, lse, q, k, v, table, sinks = backend.floating(
        d_out=d_out, d_lse=d_lse, out=out, lse=lse, q=q, k=k, v=v, bias=table, sinks=sinks,
        optional="d_lse out lse bias sinks",
    )  # fmt: skip
    problem = problem_of(
        q, k, v, mask, bias=bias if table is None else table, scale=scale, softcap=softcap, sinks=sinks,
        dropout=dropout, q_positions=q_positions, k_positions=k_positions, q_tile=q_tile, k_tile=k_tile,
    )  # fmt: skip
    for name, x in (("d_out", d_out), ("out", out)):
        checked_cotangent(name, x, "the output", (*problem.lead, problem.n, v.shape[-1]))
    for name, x in (("d_lse", d_lse), ("lse", lse)):
        checked_cotangent(name, x, "lse", (*problem.lead, problem.n))
    if (out is None) != (lse is None):
        raise ValueError("out and lse are the results of tiled_attention with these arguments: give both, or neither")

    found = gradients(problem, Cotangents(d_out, d_lse, out, lse), progress)
    return found if table is None else found._replace(bias=xp.reshape(found.bias, table.shape))


RANGES = 4  # of queries that are worked on side by side, each with its own sums, where there are fewer heads


def gradients(problem: Problem, cotangents: Cotangents, progress=None) -> AttentionGradients:
    """The gradients of a problem whose arguments are checked."""
    xp = problem.xp
    cotangents = cotangents._replace(calm=_calm(problem, cotangents.d_out, cotangents.d_lse))
    sums, tiles = Sums(problem), problem.query_tiles()
    done = ticker(progress, len(tiles) * len(list(problem.indices())))
    apart = sums.apart()
    ranges = _ranges(tiles, 1 if "bias" in sums.arrays or len(apart) >= RANGES else RANGES)
    own = [sums, *(Sums(problem) for _ in ranges[1:])]

    def work(task, workspace):
        indices, number = task
        for index in indices:
            part, given = problem.at(index), cotangents.at(problem, index)
            for rows in ranges[number]:
                query_tile_vjp(part, given, rows, own[number], workspace)
                done()

    run(xp, [(indices, number) for number in range(len(ranges)) for indices in apart], work)
    found = {name: sum((other.arrays[name] for other in own[1:]), x) for name, x in sums.arrays.items()}
    scale = xp.sum(found.pop("scale"))
    return AttentionGradients(**dict.fromkeys(AttentionGradients._fields) | found | {"scale": scale})


def _ranges(tiles, most):
    """The tiles of queries, in that many lists one after the other, or in fewer where these would have less than two."""
    count = max(1, min(most, len(tiles) // 2))
    return [tiles[len(tiles) * n // count : len(tiles) * (n + 1) // count] for n in range(count)]


class Cotangents(NamedTuple):
    """What a tile of queries needs beside the problem."""

    d_out: Any
    d_lse: Any
    out: Any
    lse: Any
    calm: bool = False  # nothing overflows: else weights of 0 may not multiply what they belong to
    known: State | None = None  # in place of out and lse

    def state(self, problem, rows):
        """The state of a tile of queries from what was given, if it was, and if lse has the digits of it."""
        if self.known is not None:
            return State(*(x[..., rows, :] for x in self.known))
        if self.lse is None:
            return None
        found = state_of(problem.xp, self.out[..., rows, :], self.lse[..., rows])
        empty = found.total == 0
        if not bool(problem.xp.all(empty | (problem.xp.abs(found.peak) <= 256.0))):
            return None
        return found._replace(peak=problem.xp.where(empty, 0.0, found.peak))  # -inf - (-inf) would be NaN

    def at(self, problem, index):
        """The cotangents of one index of the first leading axes."""
        d_out, out = (x if x is None else x[problem.entry(x, 2, index)] for x in (self.d_out, self.out))
        d_lse, lse = (x if x is None else x[problem.entry(x, 1, index)] for x in (self.d_lse, self.lse))
        known = None if self.known is None else State(*(x[problem.entry(x, 2, index)] for x in self.known))
        return Cotangents(d_out, d_lse, out, lse, self.calm, known)


class Sums:
    """Gradients that tiles add to, each of the shape of its input; that of the scale one for each leading index."""

    def __init__(self, problem: Problem):
        self.problem = problem
        inputs = {"q": problem.q, "k": problem.k, "v": problem.v, "sinks": problem.sinks}
        inputs["bias"] = None if callable(problem.bias) else problem.bias
        shapes = {name: x.shape for name, x in inputs.items() if x is not None} | {"scale": problem.lead}
        self.arrays = {name: backend.full(problem.xp, shape, 0.0, problem.q) for name, shape in shapes.items()}
        self.cores = {"q": 2, "k": 2, "v": 2, "bias": 2, "sinks": 0, "scale": 0}

    def add(self, name, x, index, *core):
        """Add a tile at an index of the leading axes and at slices of the others, summed over what was broadcast."""
        array = self.arrays[name]
        parts = [slice(None) if array.shape[n - len(core)] == 1 else part for n, part in enumerate(core)]
        place = (*self.problem.entry(array, self.cores[name], index), *parts)
        array[place] += summed_to(self.problem.xp, x, array[place].shape)

    def apart(self):
        """The leading indices, in lists that add to different places and so can be worked on side by side."""
        lead = self.problem.lead
        own = [array.shape[: array.ndim - self.cores[name]] for name, array in self.arrays.items()]
        own = [(*[1] * (len(lead) - len(shape)), *shape) for shape in own]
        sizes = [min(shape[n] for shape in own) for n in range(len(lead))]
        lists: dict[tuple, list] = {}
        for index in self.problem.indices():
            first = [i.start if isinstance(i, slice) else i for i in index]
            lists.setdefault(tuple(i * sizes[n] // lead[n] for n, i in enumerate(first)), []).append(index)
        return list(lists.values())


@backend.ieee
def query_tile_vjp(problem: Problem, given: Cotangents, rows, sums: Sums, workspace):
    """Add what a tile of queries gives to all gradients."""
    xp, index = problem.xp, problem.index
    out, peak, total = given.state(problem, rows) or query_tile(problem, rows, workspace)
    q, d_out, empty = problem.q[..., rows, :], given.d_out[..., rows, :], total == 0
    share = 1.0  # of the weights without the sink
    delta = xp.sum(d_out * out, axis=-1, keepdims=True)  # Σ p (d_out · v), as out = Σ p v
    if problem.sinks is not None:
        share, taken = sink_shares(xp, peak, total, problem.sinks[..., None, None])
        sums.add("sinks", xp.sum(xp.where(empty, 0.0, -delta * taken), axis=(-2, -1)), index)
    # The weights are exp(s - peak) / total; what they multiply is divided instead, which is smaller.
    d_out = d_out * (share / ((1.0 - problem.rate) * divisor(xp, total)))
    offset = share * delta
    if given.d_lse is not None:
        offset = offset - given.d_lse[..., rows, None]
    offset = offset / divisor(xp, total)
    calm = given.calm and bool(xp.all(xp.isfinite(peak + total + offset)))

    queries = problem.queries(rows)
    along_k, d_q = (backend.full(xp, queries.shape, 0.0, q) for _ in range(2))
    for keys, allowed in problem.key_tiles(rows):
        k, v = problem.k[..., keys, :], problem.v[..., keys, :]
        s = raw_scores(problem, queries, keys, workspace)
        slope = tanh_slope(xp, s / problem.softcap) if problem.softcap else None
        s = masked(problem, s, rows, keys, allowed, workspace)
        present = counted = None if calm else s != -math.inf
        s -= peak
        w = kept = workspace.exp(s)  # (..., n, m): the weights without the sink, again, times the total
        d_s = workspace.matmul("d_scores", d_out, xp.matrix_transpose(v))
        if problem.keep is not None:
            keep = problem.tile_of(problem.keep, rows, keys)
            kept, d_s = xp.where(keep, w, 0.0), xp.where(keep, d_s, 0.0)
            counted = None if present is None else present & keep
        sums.add("v", _columns(xp, _only(xp, counted, kept), counted, d_out), index, keys, slice(None))
        d_s = _only(xp, counted, d_s)
        d_s -= offset
        d_s *= w
        d_s = _only(xp, present, d_s)
        if "bias" in sums.arrays:
            sums.add("bias", d_s, index, rows, keys)
        if slope is not None:
            d_s = _only(xp, present, d_s * slope)
        along_k += _rows(xp, d_s, present, k)
        if calm and problem.scale_first:
            d_k = _columns(xp, d_s, present, queries)
        else:
            d_q += _scaled(problem, _rows, d_s, present, k)
            d_k = _scaled(problem, _columns, d_s, present, problem.with_lead(q))
        sums.add("k", d_k, index, keys, slice(None))
    sums.add("q", problem.scale * along_k if calm and problem.scale_first else d_q, index, rows, slice(None))
    sums.add("scale", xp.sum(xp.where(empty, 0.0, q * along_k), axis=(-2, -1)), index)


def _calm(problem, d_out, d_lse):
    """Whether no product can overflow, so that what a query cannot see is multiplied by zero without harm."""
    xp, arrays = problem.xp, (problem.q, problem.k, problem.v, d_out)
    if any(0 in x.shape for x in arrays):
        return False  # to be careful is never wrong
    q, k, v, d_out = (float(xp.max(xp.abs(x))) for x in arrays)
    largest = float(xp.finfo(problem.q.dtype).max)
    scores = q * k * problem.q.shape[-1] * max(1.0, abs(problem.scale))
    d_weights = d_out * v * problem.v.shape[-1] / (1.0 - problem.rate)
    d_lse = 0.0 if d_lse is None else float(xp.max(xp.abs(d_lse)))
    d_inputs = (2 * d_weights + d_lse) * max(q, k, 1.0) * max(problem.n, problem.m)
    return scores < largest and d_inputs * max(1.0, abs(problem.scale)) < largest


def _only(xp, present, x):
    """`x` where a pair is present and 0 elsewhere; `present` is None where nothing can go wrong."""
    return x if present is None else xp.where(present, x, 0.0)


def _scaled(problem, product, d_s, present, x):
    """scale · product(d_s, x), also where the product alone overflows."""
    return scaled_product(problem.xp, problem.scale, d_s, x, lambda a, b: product(problem.xp, a, present, b))


def _rows(xp, weights, present, x):
    """weights @ x."""
    if present is not None:
        return product_of_present(xp, weights, present, x)
    return weights * x if x.shape[-2] == 1 else xp.matmul(weights, x)  # of one row: three times as fast


def _columns(xp, weights, present, x):
    """weightsᵀ @ x."""
    return _rows(xp, xp.matrix_transpose(weights), None if present is None else xp.matrix_transpose(present), x)
