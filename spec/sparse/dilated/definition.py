"""Dilated window: every r-th position beside a query's own."""

from ...tiled.definition import dense_mask as dense_mask
from ..keys import by_head, functions


def in_window(i, j, left, right, dilation):
    steps, rest = divmod(j - i, dilation)
    return rest == 0 and (left is None or steps >= -left) and (right is None or steps <= right)


def of_heads(q, k, left, right, dilation, **positions):
    """The same for all heads, or a table for each."""
    return by_head(in_window, q, k, positions, left=left, right=right, dilation=dilation)


FUNCTIONS, SECOND = functions("dilated_attention", of_heads)
