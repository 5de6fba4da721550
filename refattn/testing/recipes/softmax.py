"""Inputs for softmax and log-sum-exp."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refattn.testing.recipes import Draw, Recipe, count, recipe


@recipe("softmax", "logsumexp")
def softmax_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """Scores of both signs and every size, rows with absent entries, axes."""
    yield "plain", ("SOFTMAX-NORMAL",), {"x": draw.normal(3, 5, 7)}
    yield "first_axis", ("SOFTMAX-NORMAL",), {"x": draw.normal(3, 5, 7), "axis": 0}
    yield "large", ("SOFTMAX-SHIFT",), {"x": draw.round(draw.normal(3, 7, scale=4.0) + 30000.0)}
    yield "all_negative", ("SOFTMAX-SHIFT",), {"x": draw.round(draw.normal(3, 7, scale=4.0) - 30000.0)}
    holes = draw.normal(3, 7)
    holes[0, 2] = -np.inf
    yield "absent", ("SOFTMAX-ABSENT",), {"x": holes}
    holes = holes.copy()
    holes[1] = -np.inf
    yield "empty_row", ("SOFTMAX-EMPTY",), {"x": holes}
    for number in range(count(effort, 2, 12, 100)):
        shape = draw.between(1, 5), draw.between(1, 200)
        yield f"random_{number:04}", ("SOFTMAX-NORMAL",), {"x": draw.normal(*shape, scale=2.0 ** draw.between(-3, 5))}
