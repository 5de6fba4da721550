"""Inputs for tiled, split and packed attention: those of attention, and lengths around the tiles and parts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

import numpy as np

from refattn import masks, tiled_attention
from refattn.testing.inputs import Case, Draw
from refattn.testing.mechanisms.attention.inputs import aligned, attention, attentions, plain
from refattn.testing.mechanisms.attention.options import each_option, emptied_rows
from refattn.testing.mechanisms.gradients.inputs import with_cotangents


def _tile(draw):
    return draw.pick(1, 2, 3, 4, 5, 7, 8, 16, 64)


def tiled(draw: Draw) -> dict:
    """A random call of tiled_attention: heads shared or not, tiles that do not divide, draws and masks by rule."""
    given = attention(draw, grouped=draw.chance(0.4))
    if draw.chance(0.15):  # few keys are the exception there and the rule here
        n, m = draw.between(2, 9), draw.between(10, 40)
        given = {"q": draw.normal(2, 3, n, 4), "k": draw.normal(2, 3, m, 4), "v": draw.normal(2, 3, m, 5)}
        rule = draw.pick(masks.causal(), masks.causal() & masks.window(draw.between(1, 9), 0))
        given |= {"mask": rule, "return_lse": True}
    if draw.chance(0.15) and "k_positions" not in given:
        given["dropout"] = (draw.pick(masks.strided(3), masks.dilated(9, 9, 2), masks.window(5, 7)), 0.25)
    if draw.chance(0.06):  # scores below any finite start of the maximum
        given["bias"] = np.full((given["q"].shape[-2], given["k"].shape[-2]), draw.pick(-6e4, -9e4))
    if draw.chance(0.5):
        given["q_tile"] = _tile(draw)
    if draw.chance(0.85):
        given["k_tile"] = _tile(draw)
    return given


def split(draw: Draw) -> dict:
    """A random call of split_attention: parts by number or by where they end, empty ones among them."""
    given = {name: x for name, x in tiled(draw).items() if name not in ("q_tile", "k_tile") or draw.chance(0.5)}
    m = given["k"].shape[-2]
    ends = sorted(draw.integers(0, m, draw.between(1, 4)).tolist())
    given |= {"splits": ends if draw.chance(0.5) else draw.between(1, 6), "tree": draw.pick("balanced", "sequential")}
    if draw.chance(0.1):  # what overflows where nothing is subtracted
        given["bias"] = np.full((given["q"].shape[-2], m), draw.pick(200.0, -300.0))
    return given


def packed(draw: Draw) -> dict:
    """A random call of packed_attention: sequences of all lengths, queries and keys together or apart, a tail."""
    sequences, own = draw.between(1, 5), draw.chance(0.3)
    queries = [draw.pick(draw.between(1, 9), draw.between(1, 9), 0, draw.between(1, 20)) for _ in range(sequences)]
    keys = [draw.pick(draw.between(1, 12), draw.between(1, 12), 0, draw.between(1, 40)) for _ in range(sequences)]
    q_offsets, k_offsets = ([0, *accumulate(lengths)] for lengths in (queries, queries if own else keys))
    n, m = q_offsets[-1] + draw.pick(0, 0, draw.between(1, 3)), k_offsets[-1] + draw.pick(0, 0, draw.between(1, 3))
    m = n if own else m
    g, d, lead = draw.between(1, 3), draw.between(2, 9), draw.pick((), (2,))
    h = g * draw.between(1, 2)
    k, v = draw.normal(*lead, g, m, d), draw.normal(*lead, g, m, draw.between(1, 6))
    given = {"q": draw.normal(*lead, h, n, d), "k": k, "v": v, "q_offsets": q_offsets}
    given |= {"k_offsets": None if own else k_offsets, "return_lse": draw.chance(0.5)}
    window = masks.window(draw.between(1, 4), 0)
    given["mask"] = draw.pick(None, masks.causal(), masks.causal() & window, masks.window(draw.between(1, 3), 2))
    if draw.chance(0.3):
        given["scale"] = draw.pick(0.3, -0.4, 2.0)
    if draw.chance(0.3):
        given["softcap"] = draw.pick(0.7, 4.0)
    if draw.chance(0.3):
        given["sinks"] = draw.normal(h)
    if draw.chance(0.5):
        given |= {"q_tile": _tile(draw), "k_tile": _tile(draw)}
    return given


def moved(draw: Draw) -> dict:
    """A random call of attention_io."""
    sizes = {"n": draw.between(1, 90), "m": draw.between(1, 90), "d": draw.between(2, 16)}
    order = draw.pick("standard", "queries_outside", "keys_outside")
    return {**sizes, "fast_memory": draw.between(64, 700), "order": order}


def tiled_vjp(draw: Draw) -> dict:
    """A random call of tiled_attention_vjp."""
    return with_cotangents(draw, tiled(draw))


def tiled_by_length(draw: Draw, effort: str) -> Iterator[Case]:
    """What attention gets, in tiles that do not divide it; lengths one off a tile; rising and falling scores."""
    for name, _, arguments in attentions(draw, effort):
        yield name, ("TILED-EQUAL",), {**arguments, "q_tile": draw.between(1, 9), "k_tile": draw.between(1, 17)}
    for length in (15, 16, 17, 31, 33):
        x = plain(draw, b=1, h=2, n=length, m=length + 16, d=8, dv=5)
        yield f"length_{length}", ("TILED-EQUAL",), {**x, "mask": masks.causal(), "q_tile": 16, "k_tile": 16}
    for name, order in (("rising_tiles", slice(None)), ("falling_tiles", slice(None, None, -1))):
        x = plain(draw, b=1, h=1, n=3, m=37, d=4, dv=3)
        ramp = draw.round(np.linspace(-20.0, 20.0, 37)[order])
        yield name, ("TILED-RESCALE",), {**x, "bias": ramp, "k_tile": 4, "return_lse": True}
    late = np.zeros((5, 64), dtype=bool)
    late[[0, 1, 3], [63, 40, 17]] = True
    late[[0, 1, 3], [62, 33, 16]] = True
    yield (
        "late",
        ("TILED-SKIP",),
        {**plain(draw, n=5, m=64), "mask": late, "q_tile": 2, "k_tile": 16, "return_lse": True},
    )
    x = {"q": draw.normal(1, 6, 5, 8), "k": draw.normal(1, 2, 11, 8), "v": draw.normal(1, 2, 11, 3)}
    yield "grouped", ("TILED-GROUP",), {**x, "mask": masks.causal(), "q_tile": 2, "k_tile": 4}


def splits(draw: Draw, effort: str) -> Iterator[Case]:
    """Parts of unequal length, empty parts, parts that a query does not see, far log-sum-exps."""
    for splits, tree in (
        (2, "balanced"),
        (7, "balanced"),
        ([1], "sequential"),
        ([36], "sequential"),
        ([5, 5, 20], "balanced"),
    ):
        x = {**plain(draw, n=5, m=37), "splits": splits, "tree": tree, "return_lse": True}
        name = f"{tree}_{'_'.join(map(str, splits)) if isinstance(splits, list) else splits}"
        yield name, ("SPLIT-MERGE",), x
        yield f"{name}_causal", ("SPLIT-MERGE",), {**x, "mask": masks.causal() & masks.window(9, 0)}
    x = plain(draw, b=1, h=2, n=5, m=37)
    apart = np.zeros((5, 37), dtype=bool)
    apart[0, :7], apart[1, 7:20], apart[2, 20:], apart[3, ::5] = True, True, True, True
    yield "apart", ("SPLIT-MERGE",), {**x, "mask": apart, "splits": [7, 20], "return_lse": True}
    shift = np.zeros((5, 37))
    shift[:, :20] = -30000.0
    yield "far_apart", ("SPLIT-MERGE",), {**x, "bias": shift, "splits": [20], "return_lse": True}
    yield "sinks", ("SPLIT-SINK",), {**x, "sinks": draw.normal(2, scale=2.0), "splits": 3, "return_lse": True}
    needles = aligned(draw, 4, 33, 16, [15, 16, 17, 32])
    yield "needles", ("SPLIT-MERGE",), {**needles, "splits": [16, 32]}
    tiles = {"splits": 3, "q_tile": 2, "k_tile": 3, "return_lse": True}
    for name, given in each_option(draw, 3):
        yield f"option_{name}", ("SPLIT-MERGE",), {**plain(draw), **given, **tiles}
    for name, given in emptied_rows(draw):
        yield f"emptied_by_{name}", ("SPLIT-MERGE",), {**plain(draw), **given, **tiles}


def packs(draw: Draw, effort: str) -> Iterator[Case]:
    """Sequences of all lengths, empty ones among them, with a tail that belongs to none."""
    yield "one", ("PACKED-ALONE",), _packed(draw, [(7, 7)], 0)
    yield "tail", ("PACKED-TAIL",), _packed(draw, [(5, 7), (3, 3)], 4)
    yield "empty", ("PACKED-EMPTY",), _packed(draw, [(0, 3), (2, 0), (0, 0), (4, 5)], 1)
    yield "ones", ("PACKED-ALONE",), _packed(draw, [(1, 1)] * 9, 0)
    x = _packed(draw, [(5, 7), (3, 3), (0, 2), (4, 9)], 1)
    options: dict[str, dict] = {
        "scale": {"scale": -0.5},
        "softcap": {"softcap": 1.5},
        "sinks": {"sinks": draw.normal(4, scale=2.0)},
    }
    options["bias"] = {"bias": lambda i, j: -0.25 * abs(i - j)}
    options["tiles"] = {"q_tile": 2, "k_tile": 3}
    for name, given in options.items():
        yield f"option_{name}", ("PACKED-ALONE",), {**x, "mask": masks.causal(), **given}
    yield "equal_offsets", ("PACKED-ALONE",), {**_packed(draw, [(4, 4), (3, 3)], 0), "k_offsets": None}


def _packed(draw, lengths, tail, heads=4, kv_heads=2, d=8, dv=5):
    queries, keys = ([0, *np.cumsum(column).tolist()] for column in zip(*lengths, strict=True))
    return {
        "q": draw.normal(heads, queries[-1] + tail, d),
        "k": draw.normal(kv_heads, keys[-1] + tail, d),
        "v": draw.normal(kv_heads, keys[-1] + tail, dv),
        "q_offsets": queries,
        "k_offsets": keys,
        "return_lse": True,
    }


def gradients_of_tiles(draw: Draw, effort: str) -> Iterator[Case]:
    """Lengths around a tile, and every option alone."""
    x = plain(draw, b=1, h=2, n=17, m=33, d=8, dv=5)
    x = {"d_out": draw.normal(1, 2, 17, 5), **x, "q_tile": 16, "k_tile": 16}
    yield "plain", ("TILED-GRADIENT",), x
    yield "causal", ("TILED-GRADIENT",), {**x, "mask": masks.causal()}
    yield "lse", ("TILED-GRADIENT",), {**x, "d_lse": draw.normal(1, 2, 17)}
    yield "softcap", ("TILED-GRADIENT",), {**x, "softcap": 3.0}
    yield "sinks", ("TILED-GRADIENT",), {**x, "sinks": draw.normal(2)}
    yield "bias", ("TILED-GRADIENT",), {**x, "bias": draw.normal(17, 33)}
    yield "dropout", ("TILED-GRADIENT",), {**x, "dropout": (draw.rng.random((17, 33)) < 0.75, 0.25)}
    yield "scale", ("TILED-GRADIENT",), {**x, "scale": -0.5}
    places = {"q_positions": np.arange(17) + 7, "k_positions": np.arange(33) + 3}
    yield "positions", ("TILED-GRADIENT",), {**x, "mask": masks.causal(), **places}
    if draw.fmt in ("float32", "float64"):  # rounded more coarsely they are no longer the results of these arguments
        out, lse = tiled_attention(x["q"], x["k"], x["v"], return_lse=True)
        yield "results_given", ("TILED-GRADIENT",), {**x, "out": out, "lse": lse}
    small = {**plain(draw, dv=6), "d_out": draw.normal(2, 3, 5, 6), "d_lse": draw.normal(2, 3, 5)}
    for name, given in emptied_rows(draw):
        yield f"emptied_by_{name}", ("TILED-GRADIENT",), {**small, **given, "q_tile": 2, "k_tile": 3}
    yield "square", ("TILED-GRADIENT",), {**plain(draw, 1, 2, 6, 6, 6, 6), "d_out": draw.normal(1, 2, 6, 6)}
    x = {"q": draw.normal(1, 6, 5, 8), "k": draw.normal(1, 2, 11, 8), "v": draw.normal(1, 2, 11, 3)}
    yield "grouped", ("TILED-GRADIENT",), {"d_out": draw.normal(1, 6, 5, 3), **x, "q_tile": 2, "k_tile": 4}
