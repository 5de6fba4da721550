"""Inputs for softmax and log-sum-exp."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refattn.testing.inputs import Case, Draw
from refattn.testing.tails import WIDE, needled


def logits(draw: Draw) -> dict:
    """Random scores over either axis; at most one thing that is out of the ordinary: far from 0, absent, infinite."""
    shape = draw.between(2, 5), draw.between(2, draw.pick(30, 30, 200))
    x = draw.normal(*shape, scale=draw.pick(1.0, 4.0, 32.0))
    given = {"x": x, "axis": draw.pick(-1, -1, 0)}
    strange = draw.pick("", "", "far", "far", "where", "stale", "empty", "infinite", "equal")
    if strange == "far":
        x += draw.pick(3e4, -3e4, -7e4, 200.0, -800.0)
    if strange in ("where", "stale", "empty"):
        given["where"] = draw.where(0.7, *shape)
        given["where"][1] = given["where"][:, 1] = strange != "empty"
    if strange == "stale":
        x[~given["where"]] = np.nan
    if strange == "infinite":
        x[0, 1] = draw.pick(np.inf, -np.inf)
    if strange == "equal":
        x[1] = 0.5
    return given


def parts(draw: Draw) -> dict:
    """Two random parts of attention, of equal or different mass, near and far from 0; perhaps empty rows."""
    n, dv = draw.between(2, draw.pick(6, 30)), draw.between(1, 5)
    shift, apart = draw.pick(0.0, 0.0, 0.0, 800.0, -800.0), draw.pick(0.0, 5.0, -5.0)
    lse_a, lse_b = draw.normal(n, scale=2.0) + shift, draw.normal(n, scale=2.0) + shift + apart
    if draw.chance(0.4):
        lse_a[0] = -np.inf
        lse_b[: draw.between(1, n)] = -np.inf
    out_a, out_b = (np.where(np.isneginf(x)[:, None], 0.0, draw.normal(n, dv)) for x in (lse_a, lse_b))
    return {"out_a": out_a, "lse_a": lse_a, "out_b": out_b, "lse_b": lse_b}


def scores(draw: Draw, effort: str) -> Iterator[Case]:
    """Scores of both signs and every size, rows with absent entries, axes."""
    yield "plain", ("SOFTMAX-NORMAL",), {"x": draw.normal(3, 5, 7)}
    yield "first_axis", ("SOFTMAX-NORMAL",), {"x": draw.normal(3, 5, 7), "axis": 0}
    rows = draw.round(draw.normal(6, 6) + 8.0 * np.arange(6)[:, None])
    yield "square", ("SOFTMAX-NORMAL",), {"x": rows}
    yield "square_first_axis", ("SOFTMAX-NORMAL",), {"x": rows, "axis": 0}
    for width in WIDE:
        yield f"wide_{width}", ("SOFTMAX-NORMAL",), {"x": needled(draw.normal(2, width))}
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


def pairs_of_parts(draw: Draw, effort: str) -> Iterator[Case]:
    """Parts of equal and of very different mass, far from 0, and empty ones.

    Kills averages, exchanged or unshifted weights, other bases, and the missing guard of two empty parts.
    """

    def two(n, levels=(0.0, 0.0), empty=()):
        given = {}
        for place, name in enumerate("ab"):
            lse = draw.normal(n, scale=2.0) + levels[place]
            hidden = np.isin(np.arange(n), empty[place] if empty else ())
            given[f"out_{name}"] = draw.round(np.where(hidden[:, None], 0.0, draw.normal(n, 5)))
            given[f"lse_{name}"] = draw.round(np.where(hidden, -np.inf, lse))
        return given

    yield "equal", ("MERGE-UNION",), two(7)
    yield "unequal", ("MERGE-UNION",), two(7, (0.0, 3.0))
    yield "far_above", ("MERGE-UNION",), two(7, (900.0, 901.0))
    yield "far_below", ("MERGE-UNION",), two(7, (-900.0, -901.0))
    yield "one_empty", ("MERGE-IDENTITY",), two(7, empty=((0, 3), (5,)))
    yield "both_empty", ("MERGE-IDENTITY",), two(7, empty=((0, 3), (3, 5)))
