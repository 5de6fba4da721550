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
    rows = draw.round(draw.normal(6, 6) + 8.0 * np.arange(6)[:, None])
    yield "square", ("SOFTMAX-NORMAL",), {"x": rows}
    yield "square_first_axis", ("SOFTMAX-NORMAL",), {"x": rows, "axis": 0}
    yield "large", ("SOFTMAX-SHIFT",), {"x": draw.round(draw.normal(3, 7, scale=4.0) + 30000.0)}
    yield "all_negative", ("SOFTMAX-SHIFT",), {"x": draw.round(draw.normal(3, 7, scale=4.0) - 30000.0)}
    holes = draw.normal(3, 7)
    holes[0, 2] = -np.inf
    yield "absent", ("SOFTMAX-ABSENT",), {"x": holes}
    holes = holes.copy()
    holes[1] = -np.inf
    yield "empty_row", ("SOFTMAX-EMPTY",), {"x": holes}
    yield "below_sentinels", ("SOFTMAX-SHIFT",), {"x": draw.round(draw.normal(3, 7, scale=4.0) - 60000.0)}
    yield "between_sentinels", ("SOFTMAX-SHIFT",), {"x": draw.round(draw.normal(3, 7, scale=4.0) - 20000.0)}
    levels = np.array([0.0, 500.0, -500.0])[:, None]
    yield "level_by_row", ("SOFTMAX-SHIFT",), {"x": draw.round(draw.normal(3, 7) + levels)}
    present = draw.rng.random((3, 7)) < 0.6
    present[0] = False
    poisoned = np.where(present, draw.normal(3, 7), np.nan)
    yield "where_poisoned", ("SOFTMAX-ABSENT",), {"x": poisoned, "where": present}
    for number in range(count(effort, 2, 12, 100)):
        shape = draw.between(1, 5), draw.between(1, 200)
        yield f"random_{number:04}", ("SOFTMAX-NORMAL",), {"x": draw.normal(*shape, scale=2.0 ** draw.between(-3, 5))}


@recipe("merge")
def merge_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """Parts of equal and of very different mass, far from 0, and empty ones.

    Kills averages, exchanged or unshifted weights, other bases, and the missing guard of two empty parts.
    """

    def parts(n, levels=(0.0, 0.0), empty=()):
        given = {}
        for place, name in enumerate("ab"):
            lse = draw.normal(n, scale=2.0) + levels[place]
            hidden = np.isin(np.arange(n), empty[place] if empty else ())
            given[f"out_{name}"] = draw.round(np.where(hidden[:, None], 0.0, draw.normal(n, 5)))
            given[f"lse_{name}"] = draw.round(np.where(hidden, -np.inf, lse))
        return given

    yield "equal", ("MERGE-UNION",), parts(7)
    yield "unequal", ("MERGE-UNION",), parts(7, (0.0, 3.0))
    yield "far_above", ("MERGE-UNION",), parts(7, (900.0, 901.0))
    yield "far_below", ("MERGE-UNION",), parts(7, (-900.0, -901.0))
    yield "one_empty", ("MERGE-IDENTITY",), parts(7, empty=((0, 3), (5,)))
    yield "both_empty", ("MERGE-IDENTITY",), parts(7, empty=((0, 3), (3, 5)))
    for number in range(count(effort, 1, 6, 60)):
        yield (
            f"random_{number:04}",
            ("MERGE-UNION",),
            parts(draw.between(1, 30), (draw.between(-5, 5), draw.between(-5, 5))),
        )
