"""Attention to the keys that a rule admits: `tiled_attention` visits no others, in tiles as wide as the rule."""

from __future__ import annotations

from refattn import backend
from refattn.masks import Mask

ROWS = 128  # queries a tile: with windows of 16 to 1,024 keys the least time, or near it (tests/benchmarks/sparse.py)
WIDEST = 2048  # of a rule that admits more keys in a row the tiles of tiled_attention do as well


def by_rule(rule: Mask, mask, width, options) -> dict:
    """Options of `tiled_attention` for a rule that admits at most `width` keys in a row to a query, and a further mask."""
    tiles = {"q_tile": ROWS, "k_tile": ROWS + width} if width is not None and width <= WIDEST else {}
    return {"mask": both(rule, mask), **tiles, **options}


def keys_of(window: Mask):
    """How many keys a window, dilated or not, admits to a query; None where it is open on a side."""
    left, right = window.arguments["left"], window.arguments["right"]
    return None if left is None or right is None else left + right + 1


def both(rule: Mask, mask) -> Mask:
    """A rule and a further mask."""
    return rule if checked_rule(mask) is None else rule & mask


def checked_rule(mask):
    """A mask beside a mechanism's own choice of keys, which must be a rule."""
    if mask is not None and not isinstance(mask, Mask):
        raise TypeError(
            f"mask is {backend.shown(mask)}; it must be a rule of refattn.masks, as padding(lengths): an array has N M"
            " entries, and goes with attention"
        )
    return mask
