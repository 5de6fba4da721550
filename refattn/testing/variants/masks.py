"""Variants of masks."""

from __future__ import annotations

from refattn.masks import Mask


def rewrite(mask: Mask, leaf) -> Mask:
    """The mask with every rule replaced by `leaf(rule)`; combinations are kept."""
    if not mask.parts:
        return leaf(mask)
    parts = [rewrite(part, leaf) for part in mask.parts]
    if mask.name == "not":
        return ~parts[0]
    return parts[0] & parts[1] if mask.name == "and" else parts[0] | parts[1]
