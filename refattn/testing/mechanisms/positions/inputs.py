"""Inputs for rotary position embedding and for biases by distance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from refattn.positions import NTK, DynamicNTK, Linear, Llama3, LongRoPE, YaRN
from refattn.testing.recipes import Draw, Recipe, count, recipe


def scalings(pairs: int = 4) -> dict:
    """Every scaling of rotary positions, for R = 2·pairs; every field has another value than its default somewhere.

    Kills a field that is ignored, such as an attention factor that a configuration states.
    """
    long: dict[str, Any] = {
        "short_factors": tuple(1.0 + 0.125 * n for n in range(pairs)),
        "long_factors": tuple(1.0 + n * n for n in range(pairs)),
        "original_length": 512,
        "maximum_length": 4096,
        "length": 702,
    }
    return {
        "linear": Linear(4.0),
        "ntk": NTK(4.0),
        "dynamic": DynamicNTK(2.0, 512, 1024),
        "yarn": YaRN(8.0, 1024),
        "yarn_betas": YaRN(8.0, 1024, beta_fast=16.0, beta_slow=2.0),
        "yarn_beta_slow": YaRN(32.0, 4096, beta_slow=8.0, truncate=False),
        "yarn_factor": YaRN(8.0, 1024, attention_factor=1.75),
        "yarn_factor_of_one": YaRN(8.0, 1024, attention_factor=1.0),
        "yarn_mscale": YaRN(8.0, 1024, mscale=0.5),
        "yarn_mscales": YaRN(8.0, 1024, mscale=2.0, mscale_all_dim=0.5),
        "yarn_whole": YaRN(8.0, 1024, truncate=False),
        "llama3": Llama3(8.0, 1.0, 4.0, 1024),
        "longrope": LongRoPE(**long),
        "longrope_short": LongRoPE(**{**long, "length": 512}),
        "longrope_factor": LongRoPE(**long, attention_factor=1.75),
    }


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
    x = draw.normal(2, 3, 5, 8)
    for name, scaling in scalings().items():
        given = {"x": x, "positions": np.array([3, 701, 41, 5, 353]), "scaling": scaling}
        yield f"scaling_{name}", ("ROPE-FACTOR" if "factor" in name else "ROPE-FREQUENCY",), given
    yield "square", ("ROPE-ROTATION",), {"x": draw.normal(2, 6, 6, 6), "positions": np.arange(6) + 11}
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


@recipe("positions.rope_frequencies")
def frequency_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """Every scaling with every field, at more pairs than one ramp is long."""
    yield "base", ("ROPE-FREQUENCY",), {"rotary_dim": 32, "base": 500.0}
    for name, scaling in scalings(16).items():
        yield f"scaling_{name}", ("ROPE-FREQUENCY",), {"rotary_dim": 32, "base": 1000.0, "scaling": scaling}


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
