"""Inputs for rules of masks: every rule at sizes where its readings differ."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refattn import masks
from refattn.testing.recipes import Draw, Recipe, recipe


def rules(draw: Draw, m: int) -> dict:
    """One mask of each kind, and combinations, for m keys."""
    ids = np.sort(draw.rng.integers(0, 3, size=(2, 1, m)), axis=-1)
    parents = np.array([-1, -1, 0, 0, 1, 4, 3][: m - 1])
    return {
        "causal": masks.causal(),
        "window": masks.window(2, 1),
        "window_left": masks.window(3, 0),
        "window_right": masks.window(0, 2),
        "window_open": masks.window(None, 1),
        "dilated": masks.dilated(2, 1, 2),
        "block": masks.block(4),
        "neighbours": masks.neighbours(2, 1, 1),
        "chunked": masks.chunked(4),
        "strided": masks.strided(3),
        "fixed": masks.fixed(3, 1),
        "global": masks.causal() & masks.window(1, 0) | masks.global_tokens([1, 4]),
        "prefix": masks.prefix(np.array([[3], [5]])),
        "padding": masks.padding(np.array([[5], [7]])),
        "left_padding": masks.padding(np.array([[4], [6]]), np.array([[3], [1]])),
        "documents": masks.documents(ids),
        "packed": masks.documents(ids) & masks.causal(),
        "not": masks.causal() & ~masks.window(1, 0),
        "or": masks.window(1, 0) | masks.prefix(np.array(2)),
        "tree": masks.tree(parents, prefix=m - len(parents)),
    }


@recipe("Mask.dense")
def mask_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """Every rule, with as many and with fewer queries than keys, and at positions that are given."""
    for name, mask in rules(draw, 8).items():
        yield name, ("MASK-POLARITY",), {"self": mask, "n": 8, "m": 8}
        yield f"{name}_wide", ("MASK-ALIGN",), {"self": mask, "n": 3, "m": 8}
    for name in ("causal", "window", "strided", "chunked", "dilated"):
        given = {"q_positions": np.arange(5) + 2**24 + 7, "k_positions": np.arange(9) + 2**24 + 1}
        yield f"{name}_far", ("MASK-POSITIONS",), {"self": rules(draw, 8)[name], "n": 5, "m": 9, **given}
    yield "causal_tall", ("MASK-EMPTY",), {"self": masks.causal(), "n": 7, "m": 4}
