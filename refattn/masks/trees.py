"""The rule of a tree: a node sees its ancestors."""

from __future__ import annotations

import math

from refattn import backend
from refattn.masks.algebra import Mask
from refattn.masks.data import check_data, lookup
from refattn.masks.reach import NOWHERE, Interval, Reach
from refattn.masks.registry import rule

__all__ = ["tree"]


def _of_tree(first, last, parents, prefix):
    return Reach(may=Interval(-math.inf, last), must=NOWHERE)


@rule(data={"parents": 1}, reach=_of_tree)
def tree(parents, prefix=0):
    """Draft tokens of speculative decoding: a node sees the prefix, its ancestors and itself.

    Parameters
    ----------
    parents : list of int, or int array (..., T)
        Node t's parent, a smaller index, or -1 for a root.
    prefix : int, default 0
        Number of positions before the tree; among themselves they are causal.

    Raises
    ------
    TypeError
        They are no integers.
    ValueError
        A parent is not below its node; or, when evaluated, a position past the last node.

    Notes
    -----
    Positions are slots here: node t sits at prefix + t. (Rotary positions are depths; siblings share one.)
    Time O(N M + T³ log T). Clauses: MASK-TREE, MASK-DATA. Source: Miao et al. 2024 (SpecInfer), section 4.2.

    Examples
    --------
    >>> tree([-1, 0, 0, 1]).dense(4, 4).astype(int)
    array([[1, 0, 0, 0],
           [1, 1, 0, 0],
           [1, 0, 1, 0],
           [1, 1, 0, 1]])
    """
    count = check_data("parents", parents, axes=1, least=-1, below_own_index=True)[-1]
    prefix = backend.integer("prefix", prefix, least=0)

    def rule(i, j):
        xp = backend.namespace(i)
        last = prefix + count - 1
        for name, positions in (("query", i), ("key", j)):
            if bool(xp.any(positions > last)):
                raise ValueError(
                    f"the tree of parents ends at position {last} (prefix + T - 1, for T parents), but a {name} lies past it"
                )
        seen = (j <= i) & (j < prefix)
        up = backend.integers(xp, i, parents=parents)
        if count == 0:
            return seen & xp.all(up == up, axis=-1)[..., None, None]  # all of nothing: True, with the leading axes
        nodes = backend.arange(xp, 0, count, i)
        ancestors = _closure(xp, (up[..., :, None] == nodes) | (nodes[:, None] == nodes))
        # The pair (a, b) is entry a·T + b of the flattened table; pairs outside the tree read entry 0 and are dropped.
        in_tree = (i >= prefix) & (j >= prefix)
        pair = xp.where(in_tree, (i - prefix) * count + (j - prefix), 0)
        table = xp.reshape(ancestors, (*ancestors.shape[:-2], count * count))
        return seen | (in_tree & lookup(xp, "parents", table, pair, "node"))

    return Mask(rule, "tree", parents=parents, prefix=prefix)


def _closure(xp, related):
    """Transitive closure of a reflexive relation (..., T, T), by squaring."""
    steps = 1
    while steps < related.shape[-1]:
        counted = backend.cast(related, xp.float32)  # exact: counts stay below 2**24
        related = xp.matmul(counted, counted) > 0
        steps *= 2
    return related
