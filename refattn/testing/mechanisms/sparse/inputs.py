"""Inputs of all sparse mechanisms: calls of tiled attention, in which a mask is a rule."""

from __future__ import annotations

from refattn import masks
from refattn.testing.inputs import Draw
from refattn.testing.mechanisms.attention import inputs as of_attention
from refattn.testing.mechanisms.tiled.inputs import tiled


def restricted(draw: Draw) -> dict:
    """A random call of tiled_attention with every option, whose mask is a rule or none."""
    given = tiled(draw)
    return given if isinstance(given["mask"], masks.Mask) else {**given, "mask": None}


def plain(draw: Draw) -> dict:
    """A call without options."""
    return of_attention.plain(draw)
