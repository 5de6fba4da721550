"""Sliding window: the positions beside a query's own."""

from ...exact import Tensor
from ...tiled.definition import dense_mask as dense_mask
from ..keys import counts_by, functions


def in_window(i, j, left, right):
    return (left is None or j >= i - left) and (right is None or j <= i + right)


SIDES = {
    "tokens": lambda W: (W - 1, 0),
    "before": lambda W: (W, 0),
    "each_side": lambda W: (W, W),
    "both_sides": lambda W: (W // 2, W // 2),
    "each_side_exclusive": lambda W: (W - 1, W - 1),
    "both_sides_exact": lambda W: ((W + 1) // 2 - 1, W // 2),
}


def window_sides(size, meaning):
    return {name: Tensor((), [x], "int64") for name, x in zip(("left", "right"), SIDES[meaning](size), strict=True)}


def sides_by_counting(size, meaning):
    """The keys before and after a query that the conditions of the sources admit."""
    admitted = {
        "tokens": lambda d: -size < d <= 0,
        "before": lambda d: -size <= d <= 0,
        "each_side": lambda d: abs(d) <= size,
        "both_sides": lambda d: 2 * abs(d) <= size,
        "each_side_exclusive": lambda d: abs(d) < size,
        "both_sides_exact": lambda d: -d < (size + 1) // 2 if d <= 0 else d < size // 2 + 1,
    }[meaning]
    counted = sum(admitted(-d) for d in range(1, size + 2)), sum(admitted(d) for d in range(1, size + 2))
    return {name: Tensor((), [x], "int64") for name, x in zip(("left", "right"), counted, strict=True)}


FUNCTIONS, SECOND = functions("window_attention", counts_by(in_window))
FUNCTIONS["sparse.window_sides"], SECOND["sparse.window_sides"] = window_sides, sides_by_counting
