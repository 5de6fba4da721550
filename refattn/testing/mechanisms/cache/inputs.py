"""Inputs for decoding through a cache: prompts of every length against windows and pages, drafts, beams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from refattn.testing.inputs import Case, Draw

# --- random ---------------------------------------------------------------------------------------------------------


def events(draw: Draw, batch: int, *, drafts: bool, beams: bool) -> tuple[list, int]:
    """Random blocks for `decode`, and how many tokens they bring; drafts are taken back, beams reorder the batch."""
    blocks: list = [draw.pick(1, draw.between(2, 11))]
    there = come = blocks[0]
    for _ in range(draw.between(1, 7)):
        if drafts and there > 1 and draw.chance(0.35):
            blocks.append(-draw.between(1, min(there - 1, 4)))
            there += blocks[-1]
        elif beams and draw.chance(0.3):
            blocks.append(draw.integers(0, batch - 1, batch).tolist())
        blocks.append(draw.pick(1, 1, draw.between(2, 6)))
        there, come = there + blocks[-1], come + blocks[-1]
    return blocks, come


def trace(draw: Draw) -> dict:
    """A random call of decode: any cache, with drafts and beams where it can take them."""
    kinds = ("contiguous", "rolling", "rolling", "rolling", "sink", "sink", "paged", "paged", "quantized", "cross")
    cache = draw.pick(*kinds)
    b, g = draw.between(1, 3), draw.between(1, 2)
    h, d = g * draw.between(1, 2), 2 * draw.between(1, 4)
    drafts = draw.chance(0.5) and cache in ("contiguous", "rolling", "paged")
    blocks, n = events(draw, b, drafts=drafts, beams=b > 1 and cache != "cross" and draw.chance(0.5))
    m = draw.between(1, 9) if cache == "cross" else n
    group = draw.between(1, 3)
    if cache == "quantized" and draw.chance(0.8):
        d = group * draw.pick(2, 4)
    dv = group * draw.between(1, 3) if cache == "quantized" else draw.between(1, 6)
    q = draw.normal(b, h, n, d, scale=draw.pick(1.0, 2.0))
    given = {"q": q, "k": draw.normal(b, g, m, d), "v": draw.normal(b, g, m, dv), "blocks": blocks, "cache": cache}
    given |= {
        "rolling": {"window": draw.between(1, 7)},
        "sink": {
            "first": draw.between(0, 3),
            "recent": draw.between(1, 6),
            "positions": draw.pick("cache", "absolute"),
        },
        "paged": {"page_size": draw.between(1, 5)},
        "quantized": {"bits": draw.pick(4, 8), "group": group, "residual": group * draw.between(1, 3)},
    }.get(cache, {})
    if cache != "cross" and draw.chance(0.75):
        given |= {"rope_base": draw.pick(10.0, 100.0, 10000.0)}
        given |= {"layout": draw.pick("half", "interleaved")} if d % 2 == 0 else {}
    if draw.chance(0.25):
        given["scale"] = draw.pick(0.3, 1.0)
    if draw.chance(0.25):
        given["softcap"] = draw.pick(0.7, 4.0)
    if draw.chance(0.25):
        given["sinks"] = draw.normal(h)
    return given


def blocks_of(given: dict, before: Mapping[str, int], now: Mapping[str, int]) -> dict:
    """The blocks of a call with more or fewer tokens, which are those of the prompt, and with other sequences."""
    if "blocks" not in given or before == now:
        return {}
    batch = now["B"]
    reordered = lambda rows: [row % batch for row in [*range(batch), *rows][-batch:]] if batch != before["B"] else rows
    first, *blocks = given["blocks"]
    first = first + now["T"] - before["T"] if isinstance(first, int) else 0
    if first < 1:
        return {"blocks": [now["T"]]}
    return {"blocks": [first, *(n if isinstance(n, int) else reordered(n) for n in blocks)]}


def numbers(draw: Draw) -> dict:
    """A random call of quantize."""
    axis, group = draw.pick(-1, -2, 1), draw.between(1, 5)
    shape = [draw.between(1, 3), draw.between(2, 6), draw.between(2, 6)]
    shape[axis] = group * draw.between(1, 4)
    return {"x": draw.normal(*shape, scale=draw.pick(1.0, 30.0)), "bits": draw.pick(4, 8), "group": group, "axis": axis}


def codes(draw: Draw) -> dict:
    """A random call of dequantize."""
    groups, group, n = draw.between(1, 3), draw.between(1, 4), draw.between(1, 5)
    given = {"codes": draw.integers(0, 15, n, groups * group), "scale": np.abs(draw.normal(n, groups))}
    return {**given, "zero": draw.normal(n, groups)}


def sizes(draw: Draw) -> dict:
    """A random call of cache_nbytes."""
    given = {"tokens": draw.between(1, 300), "layers": draw.between(1, 4), "kv_heads": draw.between(1, 4)}
    given |= {"head_dim": 4 * draw.between(1, 9)} | ({"value_dim": 4 * draw.between(1, 9)} if draw.chance(0.6) else {})
    pages, window = {"page_size": draw.between(1, 9)}, {"window": draw.between(1, 400)}
    return given | draw.pick({}, pages, window, {"bits": 4, "group": 4, "residual": 16})


def tree(draw: Draw) -> dict:
    """A random call of tree_positions."""
    parents = [-1, *(draw.between(-1, j - 1) for j in range(1, draw.between(2, 9)))]
    return {"parents": parents, "prefix": draw.between(0, 9)}


# --- directed -------------------------------------------------------------------------------------------------------


def tokens(draw: Draw, t, b=2, h=4, g=2, d=8, dv=6):
    """Queries, keys and values of t tokens."""
    return {"q": draw.normal(b, h, t, d, scale=2.0), "k": draw.normal(b, g, t, d), "v": draw.normal(b, g, t, dv)}


def traces(draw: Draw, effort: str) -> Iterator[Case]:
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


def sizes_of_windows(draw: Draw, effort: str) -> Iterator[Case]:
    """What a rolling cache keeps of more and of fewer tokens than its window."""
    shape = {"layers": 3, "kv_heads": 2, "head_dim": 8}
    for tokens_ in (5, 7, 100):
        yield f"window_of_{tokens_}", ("CACHE-BYTES",), {"tokens": tokens_, **shape, "window": 7}


def codes_by_axis(draw: Draw, effort: str) -> Iterator[Case]:
    """Groups along the last axis and along another, in a square that hides which."""
    for axis in (-1, 0):
        codes = draw.rng.integers(0, 16, size=(6, 6)).astype(np.uint8)
        shape = (6, 3) if axis == -1 else (3, 6)
        given = {"codes": codes, "scale": np.abs(draw.normal(*shape)), "zero": draw.normal(*shape), "axis": axis}
        yield f"axis_{'last' if axis else 'first'}", ("CACHE-QUANTIZED",), given
