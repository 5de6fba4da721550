"""Inputs for rotary position embedding."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refattn.testing.recipes import Draw, Recipe, count, recipe


@recipe("positions.rotate")
def rotate_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """Tables of angles far from 0, both layouts, all and some of the features."""

    def tables(n, half):
        angles = draw.rng.uniform(-400, 400, size=(n, half))
        return {"cos": draw.round(np.cos(angles)), "sin": draw.round(np.sin(angles))}

    for layout in ("interleaved", "half"):
        yield f"{layout}_whole", ("ROPE-LAYOUT",), {"x": draw.normal(2, 3, 5, 8), **tables(5, 4), "layout": layout}
        partial = {"x": draw.normal(2, 3, 5, 14), **tables(5, 3), "layout": layout, "rotary_dim": 6}
        yield f"{layout}_partial", ("ROPE-PARTIAL",), partial
        for number in range(count(effort, 1, 4, 40)):
            n, half = draw.between(1, 40), draw.between(1, 40)
            arguments = {"x": draw.normal(2, 3, n, 2 * half), **tables(n, half), "layout": layout}
            yield f"{layout}_random_{number:04}", ("ROPE-LAYOUT",), arguments
