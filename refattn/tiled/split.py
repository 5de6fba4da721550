"""Attention over parts of the keys, each for itself, and their merge: what split-K decoding and ring attention do."""

from __future__ import annotations

from itertools import pairwise

from refattn import backend
from refattn.masks import Mask
from refattn.softmax import level, merged_states, share_of, sink_shares
from refattn.tiled.forward import states, undefined_rows
from refattn.tiled.problem import block, problem_of


@backend.ieee
def split_attention(
    q, k, v, mask=None, *, splits, tree="balanced", bias=None, scale=None, softcap=None, sinks=None, dropout=None,
    q_positions=None, k_positions=None, return_lse=False, q_tile=None, k_tile=None,
):  # fmt: skip
    r"""Attention over parts of the keys, each computed for itself, and merged pair by pair.

    .. math:: (o, L) = \mathrm{merge}\big((o_A, L_A),\, (o_B, L_B)\big) \quad \text{at every node of the tree}

    Parameters
    ----------
    q, k, v, mask, bias, scale, softcap, dropout, q_positions, k_positions, q_tile, k_tile
        As for `tiled_attention`.
    splits : int, or list of int
        The number of parts, which then differ by at most one key; or the places where a new part begins, ascending from
        0 to M. Parts may be empty.
    tree : {"balanced", "sequential"} or nested pairs, default "balanced"
        The order of merges: `((0, 1), 2)` merges parts 0 and 1, then the result and part 2.
    sinks
        As for `tiled_attention`: a sink enters once, after the last merge.
    return_lse : bool, default False

    Returns
    -------
    out : array (..., H, N, Dv) or (N, Dv)
    lse : array (..., H, N) or (N,)
        If `return_lse`.

    Raises
    ------
    TypeError, ValueError
        As for `tiled_attention`; and where `splits` does not ascend, or `tree` does not hold every part once.

    Notes
    -----
    Time as `tiled_attention` and O(N Dv) a merge. The same tree gives the same bits, another tree other roundings.
    Clauses: SPLIT-MERGE, SPLIT-TREE, SPLIT-SINK, SPLIT-REFUSE.
    Source: Dao et al. 2023 (flash-decoding); Liu et al. 2023 (ring attention); Ye et al. 2025 (FlashInfer), section 2.2.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.zeros((3, 1))
    >>> split_attention(x, x, np.array([[1.0], [2.0], [6.0]]), splits=[1], tree=(1, 0))[:, 0]
    array([3., 3., 3.])
    """
    return_lse = backend.flag("return_lse", return_lse)
    problem = problem_of(
        q, k, v, mask, bias=bias, scale=scale, softcap=softcap, sinks=sinks, dropout=dropout,
        q_positions=q_positions, k_positions=k_positions, q_tile=q_tile, k_tile=k_tile,
    )  # fmt: skip
    xp, every = problem.xp, slice(None)
    edges = _edges(splits, problem.m)
    steps = _steps(tree, len(edges) - 1)

    def part(number):
        keys = slice(edges[number], edges[number + 1])

        def cut(x):
            return x if x is None or callable(x) or isinstance(x, Mask) else block(x, every, keys)

        return states(problem_of(
            problem.q, problem.k[..., keys, :], problem.v[..., keys, :], cut(problem.mask), bias=cut(problem.bias),
            scale=problem.scale, softcap=problem.softcap,
            dropout=None if problem.keep is None else (cut(problem.keep), problem.rate),
            q_positions=problem.q_positions, k_positions=problem.k_positions[..., keys], q_tile=q_tile, k_tile=k_tile,
        ))  # fmt: skip

    held: list = []  # states that wait for the other side of a merge
    for step in steps:
        if step is not None:
            held.append(part(step))
        else:
            other = held.pop()
            held.append(merged_states(xp, held.pop(), other))
    out, peak, total = held.pop()
    lse = level(xp, total, peak)[..., 0]
    if problem.sinks is not None:
        out = share_of(xp, sink_shares(xp, peak, total, problem.sinks[..., None, None])[0], out)
    out = undefined_rows(problem, every, out, total)
    return (out, xp.asarray(xp.broadcast_to(lse, out.shape[:-1]), copy=True)) if return_lse else out


_MOST_PARTS = 2**14  # where there are fewer keys, most are empty


def _edges(splits, m):
    """Where parts begin and end: 0, ..., M."""
    if not isinstance(splits, list | tuple):
        count = backend.integer("splits", splits, least=1, most=max(m, _MOST_PARTS))
        return [m * number // count for number in range(count + 1)]
    edges = [0, *(backend.integer("splits", cut) for cut in splits), m]
    if any(low > high for low, high in pairwise(edges)):
        raise ValueError(f"splits is {splits}; it must be a number of parts, or ascending places between 0 and M = {m}")
    return edges


def _steps(tree, count):
    """The order of merges, without recursion: numbers of parts, and None for the merge of the last two results."""
    if isinstance(tree, str) and tree == "sequential":
        return [0, *(step for number in range(1, count) for step in (number, None))]
    if isinstance(tree, str):
        backend.choice("tree", tree, ("balanced", "sequential"))
        return _balanced(0, count)
    steps: list = []
    todo = [tree]
    while todo and len(steps) < 2 * count:
        node = todo.pop()
        pair = isinstance(node, list | tuple) and len(node) == 2
        steps.append(None if pair else node)
        todo += node if pair else ()  # the second on top: reversed, every merge comes after its two sides
    steps.reverse()
    if todo or sorted(-1 if type(step) is not int else step for step in steps if step is not None) != list(
        range(count)
    ):
        raise ValueError(
            f"tree is {backend.shown(tree)}; it must be nested pairs that hold each of the parts 0 to {count - 1} once"
        )
    return steps


def _balanced(start, stop):
    if stop - start == 1:
        return [start]
    middle = (start + stop) // 2
    return [*_balanced(start, middle), *_balanced(middle, stop), None]
