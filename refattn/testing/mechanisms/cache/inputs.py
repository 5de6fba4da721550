"""Inputs for decoding through a cache: prompts of every length against windows and pages, drafts, beams."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refattn.testing.recipes import Draw, Recipe, count, recipe


def tokens(draw: Draw, t, b=2, h=4, g=2, d=8, dv=6):
    """Queries, keys and values of t tokens."""
    return {"q": draw.normal(b, h, t, d, scale=2.0), "k": draw.normal(b, g, t, d), "v": draw.normal(b, g, t, dv)}


@recipe("cache.decode")
def decode_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """Every cache, with prompts shorter than, equal to and longer than what it keeps, and random traces."""
    yield "steps", ("CACHE-SPLIT",), {**tokens(draw, 13), "blocks": [1] * 13, "rope_base": 1000.0}
    yield "prompt", ("CACHE-SPLIT",), {**tokens(draw, 13), "blocks": [9, 1, 3], "rope_base": 1000.0}
    drafts = [5, 4, -3, 2, 4, -4, 1, 1]
    yield "drafts", ("CACHE-TRUNCATE",), {**tokens(draw, 17), "blocks": drafts, "rope_base": 1000.0}
    yield "beams", ("CACHE-REORDER",), {**tokens(draw, 9, b=3), "blocks": [4, [2, 2, 0], 3, [1, 0, 1], 2]}
    for prompt in (3, 5, 11):
        ring = {"cache": "rolling", "window": 5, "rope_base": 1000.0}
        blocks = [prompt, *[1] * 12, 3, 7]
        yield f"ring_after_{prompt}", ("CACHE-RING",), {**tokens(draw, prompt + 22), "blocks": blocks, **ring}
    yield "ring_drafts", ("CACHE-TRUNCATE",), {
        **tokens(draw, 17), "blocks": drafts, "cache": "rolling", "window": 4, "rope_base": 1000.0,
    }  # fmt: skip
    for positions in ("cache", "absolute"):
        sinks = {"cache": "sink", "first": 2, "recent": 5, "positions": positions, "rope_base": 100.0}
        yield f"sinks_{positions}", ("CACHE-SINK",), {**tokens(draw, 19), "blocks": [4, *[1] * 9, 4, 2], **sinks}
    pages = {"cache": "paged", "page_size": 4}
    yield "pages", ("CACHE-PAGED",), {**tokens(draw, 17), "blocks": drafts, **pages}
    yield "pages_shared", ("CACHE-SHARED",), {**tokens(draw, 12), "blocks": [5, [1, 1], 4, [0, 0], 3], **pages}
    codes = {"cache": "quantized", "bits": 8, "group": 2, "residual": 4}
    yield "codes", ("CACHE-QUANTIZED",), {**tokens(draw, 13), "blocks": [6, *[1] * 7], **codes}
    for name, given in (
        ("scale_negative", {"scale": -0.5}),
        ("scale", {"scale": 0.75}),
        ("softcap", {"softcap": 1.5}),
        ("sinks", {"sinks": draw.normal(4, scale=2.0)}),
        ("interleaved", {"rope_base": 100.0, "layout": "interleaved"}),
    ):
        yield f"option_{name}", ("CACHE-SPLIT",), {**tokens(draw, 9), "blocks": [4, 1, 1, 3], **given}
    large = tokens(draw, 9)
    yield "large", ("CACHE-SPLIT",), {**large, "q": draw.round(large["q"] * 64.0), "blocks": [4, 1, 1, 3]}
    for number in range(count(effort, 1, 6, 60)):
        yield f"random_{number:04}", ("CACHE-SPLIT",), random_trace(draw)


def random_trace(draw: Draw) -> dict:
    """Blocks of random sizes through a cache that keeps all tokens or a window."""
    blocks, there, come = [], 0, 0
    for _ in range(draw.between(2, 9)):
        if there > 1 and draw.rng.random() < 0.25:
            blocks.append(-draw.between(1, min(there, 3)))
            there += blocks[-1]
        blocks.append(draw.between(1, 6))
        there, come = there + blocks[-1], come + blocks[-1]
    g = draw.between(1, 3)
    case = {**tokens(draw, come, h=2 * g, g=g, d=2 * draw.between(1, 9), dv=draw.between(1, 9)), "blocks": blocks}
    kind = draw.between(0, 2)
    extra = [
        {},
        {"cache": "rolling", "window": draw.between(1, 9)},
        {"cache": "paged", "page_size": draw.between(1, 7)},
    ]
    return {**case, **extra[kind], "rope_base": 100.0}


@recipe("cache.cache_nbytes")
def size_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """What a rolling cache keeps of more and of fewer tokens than its window."""
    shape = {"layers": 3, "kv_heads": 2, "head_dim": 8}
    for tokens_ in (5, 7, 100):
        yield f"window_of_{tokens_}", ("CACHE-BYTES",), {"tokens": tokens_, **shape, "window": 7}


@recipe("cache.dequantize")
def dequantize_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """Groups along the last axis and along another, in a square that hides which."""
    for axis in (-1, 0):
        codes = draw.rng.integers(0, 16, size=(6, 6)).astype(np.uint8)
        shape = (6, 3) if axis == -1 else (3, 6)
        given = {"codes": codes, "scale": np.abs(draw.normal(*shape)), "zero": draw.normal(*shape), "axis": axis}
        yield f"axis_{'last' if axis else 'first'}", ("CACHE-QUANTIZED",), given
