"""Inputs for rotary position embedding and for biases by distance."""

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


@recipe("rope")
def rope_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """Positions near and far from 0, both layouts, all and some features, other bases, positions by batch entry.

    Kills the other pairing, frequencies over the wrong size, angles in narrow formats, positions counted from 0 or 1.
    """
    for layout in ("interleaved", "half"):
        x = draw.normal(2, 3, 5, 8)
        yield f"{layout}_near", ("ROPE-ROTATION",), {"x": x, "positions": np.arange(5) + 1, "layout": layout}
        yield f"{layout}_far", ("ROPE-PRECISION",), {"x": x, "positions": np.arange(5) + 1857, "layout": layout}
        partial = {"x": draw.normal(2, 3, 5, 14), "positions": np.arange(5) + 700, "rotary_dim": 6}
        yield f"{layout}_partial", ("ROPE-PARTIAL",), {**partial, "layout": layout}
        yield (
            f"{layout}_base",
            ("ROPE-FREQUENCY",),
            {"x": x, "positions": np.arange(5) + 37, "base": 500.0, "layout": layout},
        )
    by_batch = np.array([[3, 4, 5, 6, 7], [0, 1, 40, 41, 42]])[:, None]
    yield "by_batch", ("ROPE-POSITION",), {"x": draw.normal(2, 3, 5, 8), "positions": by_batch}
    for number in range(count(effort, 1, 6, 60)):
        n, half = draw.between(1, 20), draw.between(1, 40)
        start = draw.between(0, 4000)
        yield (
            f"random_{number:04}",
            ("ROPE-ROTATION",),
            {"x": draw.normal(2, 3, n, 2 * half), "positions": start + np.arange(n)},
        )


@recipe("alibi_bias")
def alibi_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """Fewer and more queries than keys, one step of a cache, positions that are given: signs and anchors."""
    for n, m in ((5, 5), (3, 7), (7, 4), (1, 9)):
        yield f"{n}_over_{m}", ("ALIBI-BIAS",), {"slopes": 2.0 ** -np.arange(1.0, 4.0), "n": n, "m": m}
    given = {"q_positions": np.array([40, 41, 45]), "k_positions": np.arange(5) + 38}
    yield "positions", ("ALIBI-ALIGN",), {"slopes": 2.0 ** -np.arange(1.0, 4.0), "n": 3, "m": 5, **given}


@recipe("relative_position_bucket")
def bucket_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """Every distance to 300 on either side, so that no boundary of a bucket is missed."""
    for both in (True, False):
        for buckets, farthest in ((32, 128), (16, 64), (32, 256)):
            given = {"relative": np.arange(-300, 301), "bidirectional": both}
            name = f"{'both' if both else 'past'}_{buckets}_{farthest}"
            yield name, ("T5-BUCKET",), {**given, "buckets": buckets, "max_distance": farthest}


@recipe("alibi_slopes")
def slopes_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """Numbers of heads that are powers of two, and others, for which each implementation has its own slopes."""
    for heads in (1, 2, 3, 6, 8, 12, 16, 20, 66):
        yield f"heads_{heads}", ("ALIBI-SLOPES",), {"heads": heads}
