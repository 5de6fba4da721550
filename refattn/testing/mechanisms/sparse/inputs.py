"""Inputs of all sparse mechanisms: calls of tiled attention, in which a mask is a rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from refattn import masks
from refattn.testing.inputs import Case, Draw
from refattn.testing.mechanisms.attention import inputs as of_attention
from refattn.testing.mechanisms.gradients.inputs import with_cotangents
from refattn.testing.mechanisms.tiled.inputs import tiled


def restricted(draw: Draw) -> dict:
    """A random call of tiled_attention with every option, whose mask is a rule or none."""
    given = tiled(draw)
    return given if isinstance(given["mask"], masks.Mask) else {**given, "mask": None}


def plain(draw: Draw, **sizes) -> dict:
    """A call without options."""
    return of_attention.plain(draw, **sizes)


def square(clause: str, **keys) -> Callable:
    """Directed cases of gradients: all sizes are equal, so that sums over the wrong axis have the right shape."""

    def directed(draw: Draw, effort: str) -> Iterator[Case]:
        yield "square", (clause,), with_cotangents(draw, plain(draw, h=6, n=6, m=6, d=6, dv=6) | keys)

    return directed


def lists(draw: Draw, heads: tuple, n: int, m: int, twice: bool) -> np.ndarray:
    """Keys of m for each of n queries, (..., N, T), in any order, with empty places; named twice now and then, if they may."""
    most = draw.between(1, min(m, 12))
    order = np.argsort(draw.rng.random((*heads, n, m)), axis=-1)[..., :most]
    found = np.where(draw.where(0.8, *order.shape), order, -1)
    if twice and most > 1:
        found[..., -1] = np.where(draw.where(0.7, *order.shape[:-1]), found[..., 0], found[..., -1])
    return found


def parts_of_heads(draw: Draw, q: np.ndarray, parts: tuple[str, ...]) -> str | list[str]:
    """One of some names for all heads, or one for each."""
    one = draw.pick(*parts)
    return [draw.pick(*parts) for _ in range(q.shape[-3])] if q.ndim > 2 and draw.chance(0.3) else one


def same_parts(given: dict, before: Mapping[str, int], now: Mapping[str, int]) -> dict:
    """The parts of a call with other heads: those that there were, again and again."""
    part, heads = given.get("part"), now.get("H")
    return {"part": [part[h % len(part)] for h in range(heads)]} if isinstance(part, list) and heads else {}
