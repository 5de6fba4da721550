"""Dilated window attention and its gradients."""

from __future__ import annotations

import numpy as np

from refattn import masks
from refattn.sparse import dilated_attention, dilated_attention_vjp
from refattn.sparse.rules import both
from refattn.testing.inputs import Draw
from refattn.testing.mechanisms.gradients.inputs import with_cotangents
from refattn.testing.mechanisms.sparse.inputs import plain, restricted, square
from refattn.testing.registry import NotApplicable, variant
from refattn.testing.subject import Equal, Subject


def random(draw: Draw) -> dict:
    """A random call: one dilation for all heads, or one for each."""
    given = {name: x for name, x in restricted(draw).items() if name not in ("q_tile", "k_tile")}
    dilation: int | np.ndarray = draw.pick(2, 3, 1, 5)
    if given["q"].ndim > 2 and draw.chance(0.3):
        dilation = draw.integers(1, 4, given["q"].shape[-3])
    sides = {"left": draw.pick(1, 2, 3, 0, 16, None), "right": draw.pick(0, 1, 2, None)}
    return given | sides | {"dilation": dilation}


def dense(q, k, left, right, dilation, mask=None, *, q_positions=None, k_positions=None, **given):
    """Attention under the rule of the window; where heads have different ones, under an array."""
    n, m, at = q.shape[-2], k.shape[-2], {"q_positions": q_positions, "k_positions": k_positions}
    if np.ndim(dilation) == 0:
        allowed: masks.Mask | np.ndarray = both(masks.dilated(left, right, int(dilation)), mask)
    else:
        allowed = np.stack([masks.dilated(left, right, int(r)).dense(n, m, **at, like=q) for r in dilation], axis=-3)
        allowed = allowed if mask is None else allowed & mask.dense(n, m, **at, like=q)
    return {"q": q, "k": k, "mask": allowed, **at, **given}


DILATED_ATTENTION = Subject(
    dilated_attention,
    random,
    "DILATED-KEYS",
    equals=Equal("tiled_attention", dense),
    related=lambda draw: plain(draw) | {"left": 1, "right": 1, "dilation": 2},
    pictured=lambda n, m: {"left": 3, "right": 1, "dilation": 3},
)
DILATED_ATTENTION_VJP = Subject(
    dilated_attention_vjp,
    lambda draw: with_cotangents(draw, random(draw)),
    "DILATED-GRADIENT",
    square("DILATED-GRADIENT", left=1, right=1, dilation=2),
    equals=Equal("tiled_attention_vjp", dense),
)


@variant("dilated/by_index", "DILATED-STEP", "sparse.dilated_attention")
def by_index(**given):
    """Queries and keys are dealt out by their indices, so that a query among the last N has the remainder of another."""
    n, m, step = given["q"].shape[-2], given["k"].shape[-2], given["dilation"]
    if given.get("q_positions") is not None or np.ndim(step) or (m - n) % step == 0:
        raise NotApplicable
    return dilated_attention(**given | {"q_positions": np.arange(n) + (m - n) // step * step})


@variant("dilated/of_first_head", "DILATED-HEADS", "sparse.dilated_attention")
def of_first_head(**given):
    """All heads have the dilation of the first."""
    if np.ndim(given["dilation"]) == 0:
        raise NotApplicable
    return dilated_attention(**given | {"dilation": int(given["dilation"][0])})
