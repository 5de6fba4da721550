"""Attention to the best keys of each query: those with the largest scores, and no others."""

from __future__ import annotations

import math
from dataclasses import replace

from refattn import backend
from refattn.sparse.lists import Lists, attend, attend_vjp
from refattn.tiled.forward import masked, raw_scores
from refattn.tiled.problem import ROOM, Problem, block, problem_of
from refattn.tiled.workspace import run

_DECIDE = ("bias", "scale", "softcap", "q_positions", "k_positions")  # the options that scores depend on


def topk_attention(q, k, v, kept, mask=None, *, scores=None, **options):
    r"""Attention of every query to those of its keys that have the largest scores.

    .. math:: o_i = \sum_{j \in S_i} \frac{e^{s_{ij}}}{\sum_{l \in S_i} e^{s_{il}}} v_j, \qquad
        S_i = \{ j : \#\{ l : (r_{il}, -l) > (r_{ij}, -j) \} < \mathrm{kept} \}

    Parameters
    ----------
    q : array (..., H, N, D) or (N, D)
        Queries.
    k : array (..., G, M, D) or (M, D)
        Keys, H a multiple of G.
    v : array (..., G, M, Dv) or (M, Dv)
        Values.
    kept : int
        How many keys a query attends to, at most: all that the mask admits where those are fewer.
    mask : bool array that broadcasts to (..., H, N, M), or rule of `refattn.masks`, optional
        True where query i may attend to key j. It acts before the choice.
    scores : array that broadcasts to (..., H, N, M), optional
        The r above, what decides which keys are kept, as an indexer gives it; -inf is never chosen. Default: the scores s
        of attention itself, after scale, softcap and bias. The weights come from s either way.
    **options
        As for `tiled_attention`, which has tiles beside.

    Returns
    -------
    out : array (..., H, N, Dv) or (N, Dv)
    lse : array (..., H, N) or (N,)
        If `return_lse`; as for `attention`, over the keys that are kept.

    Raises
    ------
    TypeError, ValueError
        As for `attention`; and where kept is below 1, or the scores are no such array.

    See Also
    --------
    gather_attention : attention to keys that are chosen already.

    Notes
    -----
    Of keys with equal scores the first are kept. A NaN counts as the largest score, so that it shows.
    Time O(N M D + N kept Dv), memory O(N kept) beside the results and a few rows of scores.
    Clauses: TOPK-KEYS, TOPK-TIES, TOPK-FEWER, TOPK-MASK, TOPK-SCORES, TOPK-ORDER, TOPK-WEIGHTS, TOPK-OPTIONS, TOPK-COST,
    TOPK-REFUSE.
    Source: Zhao et al. 2019 (Explicit Sparse Transformer), eq. 3 to 5; Gupta et al. 2021, section 2.

    Examples
    --------
    >>> import numpy as np
    >>> q, k, v = np.ones((1, 1)), np.array([[0.0], [3.0], [3.0], [3.0]]), np.array([[1.0], [2.0], [4.0], [8.0]])
    >>> topk_attention(q, k, v, 2)
    array([[3.]])
    >>> topk_attention(q, k, v, 1, scores=np.array([[2.0, 1.0, 0.0, 2.0]]))
    array([[1.]])
    """
    lists = Lists(_best_keys(q, k, v, kept, mask, scores, **options))
    return attend(q, k, v, lists, **options)


def topk_attention_vjp(d_out, q, k, v, kept, mask=None, *, scores=None, **options):
    """The gradients of attention to the best keys: which keys those are has none.

    Parameters
    ----------
    d_out : array (..., H, N, Dv) or (N, Dv)
        Cotangent of the output.
    q, k, v, kept, mask, scores
        As for `topk_attention`.
    **options
        As for `tiled_attention_vjp`, which has tiles beside.

    Returns
    -------
    AttentionGradients
        (q, k, v, bias, sinks, scale), each of the shape of its input; 0 for keys that no query keeps.

    Raises
    ------
    TypeError, ValueError
        As for `topk_attention`; and where a cotangent has another shape than its result.

    Notes
    -----
    Time and memory as for `topk_attention`: only the kept keys are met again. Clauses: TOPK-GRADIENT.
    Source: Gupta et al. 2021, section 2; Dao et al. 2022 (FlashAttention), appendix B.4, over the kept keys.

    Examples
    --------
    >>> import numpy as np
    >>> q, k = np.ones((2, 1)), np.array([[0.0], [3.0], [3.0], [3.0]])
    >>> topk_attention_vjp(np.ones((2, 1)), q, k, np.ones((4, 1)), 2).v[:, 0]
    array([0., 1., 1., 0.])
    """
    lists = Lists(_best_keys(q, k, v, kept, mask, scores, **options))
    return attend_vjp(d_out, q, k, v, lists, **options)


@backend.ieee
def _best_keys(q, k, v, kept, mask, scores, **options):
    """The keys (..., N, kept) of each query, in ascending order, -1 behind them where there are fewer."""
    kept = backend.integer("kept", kept, least=1)
    of = problem_of(q, k, v, mask, **{name: options.get(name) for name in _DECIDE})
    xp, n, m = of.xp, of.n, of.m
    if scores is not None:
        backend.floating(q=q, scores=scores)
        _, scores = backend.floating(scores=scores)  # in their own dtype
        backend.fits_scores("scores", scores, n, m)
        scores = xp.reshape(scores, (*[1] * (2 - scores.ndim), *scores.shape))
        of = replace(of, lead=backend.broadcast("leading axes", q_k_v=of.lead, scores=scores.shape[:-2]))
    of = replace(of, q_tile=max(1, ROOM // max(1, m)), k_tile=max(1, m))
    keys = backend.full(xp, (*of.lead, n, min(kept, m)), -1, backend.arange(xp, 0, 0, of.q))

    def work(task, workspace):
        index, rows = task
        s = _ranks(of.at(index), rows, scores, workspace)
        best = backend.largest(xp, s, min(kept, m))
        there = xp.take_along_axis(s, best, axis=-1) != -math.inf
        keys[(*index, ..., rows, slice(None))] = xp.where(there, best, -1)

    if m:
        run(xp, [(index, rows) for index in of.indices() for rows in of.query_tiles()], work)
    return keys


def _ranks(of: Problem, rows, scores, workspace):
    """What decides for some queries, (..., n, M): -inf where a key may not be attended to."""
    xp, q = of.xp, of.queries(rows)
    s = backend.full(xp, (*q.shape[:-1], of.m), -math.inf, q if scores is None else scores)
    for keys, allowed in of.key_tiles(rows):
        if scores is None:
            s[..., keys] = masked(of, raw_scores(of, q, keys, workspace), rows, keys, allowed, workspace)
            continue
        given = block(scores[of.entry(scores, 2)], rows, keys)
        if of.bias is not None:
            given = xp.where(of.tile_of(of.bias, rows, keys) == -math.inf, -math.inf, given)
        s[..., keys] = given if allowed is None else xp.where(allowed, given, -math.inf)
    return xp.where(xp.isnan(s), math.inf, s)
