"""Attention to given keys: how often a list names each."""

from ...exact import Tensor, lift
from ...tiled.definition import dense_mask as dense_mask
from ..keys import functions


def named_by(_, k, indices, repeats="refuse", **positions):
    """How often each query's list names each key; once at most, unless repeats count."""

    def table(lists):
        named = [[list(row).count(j) for j in range(k.shape[-2])] for row in lists]
        most = max(map(max, named), default=0) if repeats == "count" else 1
        return Tensor((len(named), k.shape[-2]), [min(c, most) for row in named for c in row])

    return lift(table, (2,), indices)


FUNCTIONS, SECOND = functions("gather_attention", named_by)
