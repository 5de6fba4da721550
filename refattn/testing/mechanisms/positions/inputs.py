"""Inputs for rotary position embedding and for biases by distance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from refattn.positions import NTK, DynamicNTK, Linear, Llama3, LongRoPE, YaRN, alibi_slopes
from refattn.testing.inputs import Case, Draw


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


# --- random ---------------------------------------------------------------------------------------------------------


def tables(draw: Draw) -> dict:
    """A random call of rotate: angles far from 0, perhaps features that are not turned."""
    n, half = draw.between(1, draw.pick(6, 40)), draw.between(2, draw.pick(8, 40))
    angles = draw.uniform(-400, 400, n, half)
    given = {"x": draw.normal(2, n, 2 * half + draw.pick(0, 4)), "cos": np.cos(angles), "sin": np.sin(angles)}
    return {**given, "layout": draw.pick("interleaved", "half"), "rotary_dim": 2 * half}


def rotation(draw: Draw) -> dict:
    """A random call of rope: positions near and far, of each entry of the batch, any scaling."""
    b, n, size = draw.between(1, 3), draw.between(1, draw.pick(6, 20)), 2 * draw.between(3, draw.pick(12, 40))
    start = draw.pick(1, 50, 3000, 100_000)
    given = {
        "x": draw.normal(b, 2, n, size),
        "positions": start + np.arange(n),
        "layout": draw.pick("interleaved", "half"),
    }
    if draw.chance(0.3):
        given["positions"] = start + draw.integers(0, 900, b, 1, n)
    if draw.chance(0.4):
        given["rotary_dim"] = 2 * draw.between(1, size // 2)
    if draw.chance(0.3):
        given["base"] = draw.pick(500.0, 500000.0)
    if draw.chance(0.6):
        given["scaling"] = scaling(draw, given.get("rotary_dim", size) // 2)
    return given


def scaling(draw: Draw, pairs: int):
    """A random scaling of rotary positions for R = 2·pairs."""
    factors = tuple(1 + 0.1 * np.arange(pairs)), tuple(2.0 + np.arange(pairs))
    return draw.pick(
        Linear(4.0), NTK(4.0), DynamicNTK(4.0, 64, 100), YaRN(8.0, 512), YaRN(8.0, 512, truncate=False),
        YaRN(8.0, 512, attention_factor=1.5), Llama3(8.0, 1.0, 4.0, 512), LongRoPE(*factors, 64, 128, draw.pick(32, 128)),
    )  # fmt: skip


def frequencies(draw: Draw) -> dict:
    """A random call of rope_frequencies."""
    return {"rotary_dim": 2 * draw.between(4, 40), "scaling": YaRN(8.0, draw.pick(512, 4096))}


def sinusoids(draw: Draw) -> dict:
    """A random call of sinusoidal."""
    given = {"positions": draw.between(0, 40) + np.arange(draw.between(2, 9)), "dim": draw.between(3, 16)}
    return {**given, "layout": draw.pick("interleaved", "half", "tensor2tensor")}


def learned(draw: Draw) -> dict:
    """A random call of learned_positions."""
    return {"table": draw.normal(20, 5), "positions": draw.integers(0, 15, 4), "offset": draw.pick(0, 2)}


def slopes(draw: Draw) -> dict:
    """A random call of alibi_slopes."""
    return {"heads": draw.between(1, 24)}


def distances(draw: Draw) -> dict:
    """A random call of alibi_bias."""
    n, m = draw.between(1, 6), draw.between(1, 9)
    given = {"slopes": alibi_slopes(draw.between(1, 12)), "n": n, "m": m}
    return given | ({"q_positions": 5 + np.arange(n), "k_positions": np.arange(m)} if draw.chance(0.3) else {})


def buckets(draw: Draw) -> dict:
    """A random call of relative_position_bucket: every distance to 300."""
    given = {"relative": np.arange(-300, 300), "bidirectional": draw.chance(0.5)}
    return given | draw.pick({}, {"buckets": 16, "max_distance": 64}, {"max_distance": 256})


def relative(draw: Draw) -> dict:
    """A random call of t5_bias."""
    n, m = draw.between(1, 9), draw.between(1, 200)
    given = {"table": draw.normal(32, 2), "n": n, "m": m, "bidirectional": draw.chance(0.5)}
    return given | ({"q_positions": np.arange(n) + 7, "k_positions": np.arange(m)} if draw.chance(0.3) else {})


# --- directed -------------------------------------------------------------------------------------------------------


def rotations_by_tables(draw: Draw, effort: str) -> Iterator[Case]:
    """Tables of angles far from 0, both layouts, all and some of the features."""

    def tables(n, half):
        angles = draw.rng.uniform(-400, 400, size=(n, half))
        return {"cos": draw.round(np.cos(angles)), "sin": draw.round(np.sin(angles))}

    for layout in ("interleaved", "half"):
        yield f"{layout}_whole", ("ROPE-LAYOUT",), {"x": draw.normal(2, 3, 5, 8), **tables(5, 4), "layout": layout}
        partial = {"x": draw.normal(2, 3, 5, 14), **tables(5, 3), "layout": layout, "rotary_dim": 6}
        yield f"{layout}_partial", ("ROPE-PARTIAL",), partial


def rotations(draw: Draw, effort: str) -> Iterator[Case]:
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


def frequencies_by_scaling(draw: Draw, effort: str) -> Iterator[Case]:
    """Every scaling with every field, at more pairs than one ramp is long."""
    yield "base", ("ROPE-FREQUENCY",), {"rotary_dim": 32, "base": 500.0}
    for name, scaling in scalings(16).items():
        yield f"scaling_{name}", ("ROPE-FREQUENCY",), {"rotary_dim": 32, "base": 1000.0, "scaling": scaling}


def slopes_by_distance(draw: Draw, effort: str) -> Iterator[Case]:
    """Fewer and more queries than keys, one step of a cache, positions that are given: signs and anchors."""
    for n, m in ((5, 5), (3, 7), (7, 4), (1, 9)):
        yield f"{n}_over_{m}", ("ALIBI-BIAS",), {"slopes": 2.0 ** -np.arange(1.0, 4.0), "n": n, "m": m}
    given = {"q_positions": np.array([40, 41, 45]), "k_positions": np.arange(5) + 38}
    yield "positions", ("ALIBI-ALIGN",), {"slopes": 2.0 ** -np.arange(1.0, 4.0), "n": 3, "m": 5, **given}


def buckets_by_distance(draw: Draw, effort: str) -> Iterator[Case]:
    """Every distance to 300 on either side, so that no boundary of a bucket is missed."""
    for both in (True, False):
        for buckets, farthest in ((32, 128), (16, 64), (32, 256)):
            given = {"relative": np.arange(-300, 301), "bidirectional": both}
            name = f"{'both' if both else 'past'}_{buckets}_{farthest}"
            yield name, ("T5-BUCKET",), {**given, "buckets": buckets, "max_distance": farthest}


def slopes_by_heads(draw: Draw, effort: str) -> Iterator[Case]:
    """Numbers of heads that are powers of two, and others, for which each implementation has its own slopes."""
    for heads in (1, 2, 3, 6, 8, 12, 16, 20, 66):
        yield f"heads_{heads}", ("ALIBI-SLOPES",), {"heads": heads}
