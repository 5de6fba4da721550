"""Dilated window: every r-th position beside a query's own."""

from ...exact import concat
from ...tiled.definition import dense_mask as dense_mask
from ..keys import counts_by, functions


def in_window(i, j, left, right, dilation):
    steps, rest = divmod(j - i, dilation)
    return rest == 0 and (left is None or steps >= -left) and (right is None or steps <= right)


def of_heads(q, k, left, right, dilation, **positions):
    """The same for all heads, or a table for each."""
    count = counts_by(in_window)
    if isinstance(dilation, int):
        return count(q, k, left=left, right=right, dilation=dilation, **positions)
    tables = [count(q, k, left=left, right=right, dilation=r, **positions) for r in dilation]
    return concat(*(t.reshaped(*t.shape[:-2], 1, *t.shape[-2:]) for t in tables), axis=-3)


FUNCTIONS, SECOND = functions("dilated_attention", of_heads)
