"""Sliding window attention, its gradients, and what a window of one number means."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refattn import masks
from refattn.sparse import window_attention, window_attention_vjp, window_sides
from refattn.sparse.rules import both
from refattn.testing.inputs import Case, Draw
from refattn.testing.mechanisms.gradients.inputs import with_cotangents
from refattn.testing.mechanisms.sparse.inputs import plain, restricted, square
from refattn.testing.registry import NotApplicable, variant
from refattn.testing.subject import Equal, Subject
from refattn.tiled import tiled_attention

MEANINGS = ("tokens", "before", "each_side", "both_sides", "each_side_exclusive", "both_sides_exact")


def random(draw: Draw) -> dict:
    """A random call: windows of one key to more than there are, also open on a side."""
    given = restricted(draw)
    left, right = draw.pick(1, 2, 3, 5, 0, 16, 300, None), draw.pick(0, 1, 2, 4, 300, None)
    return given | {"left": left, "right": right}


def ends(draw: Draw, effort: str) -> Iterator[Case]:
    """Windows that reach beyond both ends, where all scores are below 0: what stands in for a key there takes the weight."""
    given = plain(draw)
    given |= {"q": draw.round(abs(given["q"])), "k": draw.round(-abs(given["k"]) - 1)}
    yield "beyond_the_ends", ("WINDOW-ENDS",), given | {"left": 3, "right": 2, "return_lse": True}
    yield "one_key", ("WINDOW-KEYS",), plain(draw) | {"left": 0, "right": 0}


def related(draw: Draw) -> dict:
    """A call with a window of some of the keys."""
    return plain(draw) | {"left": 3, "right": 1}


def sides(draw: Draw) -> dict:
    """A random call of window_sides."""
    return {"size": draw.between(1, 4097), "meaning": draw.pick(*MEANINGS)}


def dense(left, right, mask=None, **given):
    """Attention under the rule of the window."""
    return {**given, "mask": both(masks.window(left, right), mask)}


WINDOW_ATTENTION = Subject(
    window_attention,
    random,
    "WINDOW-KEYS",
    ends,
    equals=Equal("tiled_attention", dense),
    related=related,
    pictured=lambda n, m: {"left": 3, "right": 1},
)
WINDOW_ATTENTION_VJP = Subject(
    window_attention_vjp,
    lambda draw: with_cotangents(draw, random(draw)),
    "WINDOW-GRADIENT",
    square("WINDOW-GRADIENT", left=2, right=1),
    equals=Equal("tiled_attention_vjp", dense),
)
WINDOW_SIDES = Subject(window_sides, sides, "WINDOW-SIDES")


def _between_ends(q, k, given):
    """How many keys there are, and the positions of the queries, where keys stand at 0 to M - 1 and both sides are short."""
    n, m = q.shape[-2], k.shape[-2]
    if {"bias", "dropout", "q_positions", "k_positions"} & {x for x in given if given[x] is not None}:
        raise NotApplicable
    return m, np.arange(m - n, m)


@variant("window/zeros_beyond", "WINDOW-ENDS", "sparse.window_attention")
def zeros_beyond(q, k, v, left, right, mask=None, **given):
    """Keys and values are padded with zeros on both sides, and where a window reaches beyond an end the padding counts."""
    m, i = _between_ends(q, k, given)
    if left is None or right is None or max(left, right) > 64:
        raise NotApplicable
    k, v = (np.pad(x, [(0, 0)] * (x.ndim - 2) + [(left, right), (0, 0)]) for x in (k, v))
    rule, j = masks.window(left, right), np.arange(-left, m + right)
    try:
        return tiled_attention(q, k, v, both(rule, mask), q_positions=i, k_positions=j, **given)
    except ValueError:  # a mask has no data for what lies beyond
        raise NotApplicable from None


@variant("window/wrapped", "WINDOW-ENDS", "sparse.window_attention")
def wrapped(q, k, v, left, right, mask=None, **given):
    """Where a window reaches beyond an end it goes on at the other, as after a roll of the keys."""
    m, _ = _between_ends(q, k, given)
    rule = masks.window(left, right)
    around = masks.Mask(lambda i, j: rule.admits(i, j) | rule.admits(i, j - m) | rule.admits(i, j + m))
    return tiled_attention(q, k, v, both(around, mask), **given)
