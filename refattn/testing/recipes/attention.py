"""Inputs for attention: needles at every boundary, extreme scores, poison, empty rows, random shapes and options."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refattn import masks
from refattn.testing.recipes import Draw, Recipe, count, recipe


def aligned(draw, n, m, d, targets):
    """Queries aligned with the keys `targets`, which alone get nearly all the weight if they may be attended to."""
    k = draw.rng.normal(size=(m, d))
    k /= np.sqrt(np.sum(k**2, axis=-1, keepdims=True))
    q = 24.0 * np.sqrt(d) * k[np.asarray(targets) % m]
    v = draw.rng.normal(size=(m, 3)) + 4.0 * np.where(np.arange(m)[:, None] % 2, 1.0, -1.0)
    return {"q": draw.round(q)[None, None], "k": draw.round(k)[None, None], "v": draw.round(v)[None, None]}


def plain(draw, b=2, h=3, n=5, m=7, d=8, dv=8, q_scale=1.0):
    """Normal q, k and v of sizes that differ."""
    return {"q": draw.normal(b, h, n, d, scale=q_scale), "k": draw.normal(b, h, m, d), "v": draw.normal(b, h, m, dv)}


@recipe("attention")
def attention_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """Needles at every boundary, extreme scores, poison, empty rows, and random shapes with random options."""
    yield "square", ("ATTN-OUT",), plain(draw, n=7, m=7)
    yield "decode", ("ATTN-OUT",), plain(draw, n=1, m=67, d=16, dv=16)
    yield "wide", ("ATTN-OUT",), plain(draw, n=5, m=131, d=17, dv=17)
    yield "tall", ("ATTN-OUT",), plain(draw, n=67, m=11, d=33, dv=33)
    yield "values", ("ATTN-VALUES",), plain(draw, d=8, dv=5)
    yield "one_key", ("ATTN-OUT",), plain(draw, n=5, m=1)
    yield "causal_square", ("ATTN-MASK",), {**plain(draw, n=37, m=37), "mask": masks.causal()}
    yield "causal_wide", ("ATTN-ALIGN",), {**plain(draw, n=5, m=37), "mask": masks.causal()}
    yield "causal_tall", ("ATTN-EMPTY",), {**plain(draw, n=9, m=5), "mask": masks.causal()}
    edges = [36, 35, 20, 19, 21, 0, 16, 15]
    for left, name in ((16, "window_edge"), (15, "window_block")):
        rule = masks.causal() & masks.window(left, 0)
        yield name, ("ATTN-MASK",), {**aligned(draw, 37, 37, 16, [*range(29), *edges]), "mask": rule}
        before = [max(i - left - 1, 0) for i in range(37)]
        yield f"{name}_beyond", ("ATTN-MASK",), {**aligned(draw, 37, 37, 16, before), "mask": rule}
    beyond = [min(i + 1, 40) for i in range(41)]
    yield "causal_beyond", ("ATTN-MASK",), {**aligned(draw, 41, 41, 16, beyond), "mask": masks.causal()}
    yield "last_key", ("ATTN-OUT",), aligned(draw, 3, 129, 16, [128, 127, 64])
    yield "first_key", ("ATTN-OUT",), aligned(draw, 3, 129, 16, [0, 1, 63])
    lengths = np.array([[5], [37]])
    yield "padding", ("ATTN-MASK",), {**plain(draw, n=7, m=37), "mask": masks.padding(lengths).dense(7, 37)}
    both = masks.causal() & masks.padding(np.array([[37], [20]]))
    yield "causal_and_padding", ("ATTN-MASK",), {**plain(draw, n=37, m=37), "mask": both}

    x = plain(draw, n=5, m=7)
    holes = np.ones((5, 7), dtype=bool)
    holes[:, 2] = False
    holes[3] = False
    yield "empty_row", ("ATTN-EMPTY",), {**x, "mask": holes}
    some = np.ones((5, 7), dtype=bool)
    some[:, 2] = False
    for poison, name in ((np.nan, "nan"), (np.inf, "inf")):
        for place in ("k", "v"):
            poisoned = x[place].copy()
            poisoned[..., 2, :] = poison
            yield f"poison_{place}_{name}", ("ATTN-ABSENT",), {**x, place: poisoned, "mask": some}
    yield "no_keys", ("ATTN-EMPTY",), plain(draw, n=5, m=0)
    yield "no_queries", ("ATTN-EMPTY",), plain(draw, n=0, m=5)

    yield "scale", ("ATTN-SCALE",), {**plain(draw), "scale": 0.3}
    yield "scale_negative", ("ATTN-SCALE",), {**plain(draw), "scale": -0.5}
    yield "scale_zero", ("ATTN-SCALE",), {**plain(draw), "scale": 0.0}
    yield "bias", ("ATTN-BIAS",), {**plain(draw), "bias": draw.normal(2, 3, 5, 7, scale=2.0), "scale": 0.3}
    row = draw.normal(5, 7)
    row[:, 2] = -np.inf
    yield "bias_excludes", ("ATTN-BIAS",), {**plain(draw), "bias": row}
    yield "softcap", ("ATTN-SOFTCAP",), {**plain(draw, q_scale=8.0), "softcap": 4.0}
    yield "softcap_masked", ("ATTN-ORDER",), {**plain(draw, q_scale=8.0), "softcap": 4.0, "mask": some}
    capped = {**plain(draw, q_scale=8.0), "softcap": 4.0, "bias": draw.normal(5, 7, scale=4.0)}
    yield "softcap_biased", ("ATTN-ORDER",), capped
    yield "sinks", ("ATTN-SINK",), {**plain(draw), "sinks": draw.normal(3, scale=2.0)}
    keep = draw.rng.random((2, 3, 5, 7)) < 0.75
    yield "dropout", ("ATTN-DROPOUT",), {**plain(draw), "dropout": (keep, 0.25)}
    yield "lse", ("ATTN-LSE",), {**plain(draw), "return_lse": True}

    far = {
        "q": draw.round(-np.abs(draw.normal(1, 2, 5, 16)) - 4),
        "k": draw.round(np.abs(draw.normal(1, 2, 7, 16)) + 4),
    }
    yield "all_negative", ("ATTN-OUT",), {**far, "v": draw.normal(1, 2, 7, 8), "scale": 1.0}
    shift = draw.round(np.full((5, 7), -30000.0))
    yield "shifted_down", ("ATTN-OUT",), {**plain(draw), "bias": shift}
    yield "shifted_up", ("ATTN-OUT",), {**plain(draw), "bias": -shift}
    peaked = plain(draw, n=5, m=67, d=16, dv=8, q_scale=6.0)
    yield (
        "peaked",
        ("ATTN-OUT",),
        {**peaked, "v": draw.round(peaked["v"] * 2.0 ** draw.rng.integers(-3, 4, (2, 3, 67, 1)))},
    )
    yield "offset_values", ("ATTN-OUT",), {**peaked, "v": draw.round(peaked["v"] + 30.0)}
    yield "ties", ("ATTN-OUT",), {**plain(draw, m=67), "k": np.zeros((2, 3, 67, 8))}
    heavy = {"q": draw.heavy(1, 2, 5, 16), "k": draw.heavy(1, 2, 37, 16), "v": draw.heavy(1, 2, 37, 8)}
    yield "heavy_tails", ("ATTN-OUT",), heavy
    if effort != "smoke":
        yield "flat_long", ("ATTN-OUT",), plain(draw, b=1, h=2, n=3, m=4099, d=16, dv=8, q_scale=0.05)
    if effort == "full":
        yield "long", ("ATTN-OUT",), plain(draw, b=1, h=1, n=5, m=32771, d=64, dv=64)

    for number in range(count(effort, 4, 24, 400)):
        yield f"random_{number:04}", ("ATTN-OUT",), random_attention(draw)


def random_attention(draw: Draw) -> dict:
    """Random sizes and options; the sizes that could be confused differ."""
    b, h, d, dv = draw.between(1, 3), draw.between(1, 4), draw.between(1, 80), draw.between(1, 40)
    n, m, dv = draw.between(1, 40), draw.between(1, 150), d if draw.rng.random() < 0.5 else dv
    arguments = plain(draw, b, h, n, m, d, dv, q_scale=2.0 ** draw.between(-3, 2))
    if draw.rng.random() < 0.5:
        arguments["scale"] = float((abs(draw.rng.normal()) + 0.05) / np.sqrt(d))  # its sign has cases of its own
    choice = draw.between(0, 4)
    if choice == 1 and n == m:
        arguments["mask"] = masks.causal()
    elif choice >= 2:
        allowed = draw.rng.random((b, 1, n, m)) < 0.7
        allowed[..., draw.between(0, m - 1)] = True
        arguments["mask"] = allowed
    elif draw.rng.random() < 0.5:
        arguments["bias"] = draw.normal(1, h, n, m, scale=2.0)
    if draw.rng.random() < 0.2:
        arguments["softcap"] = float(2.0 ** draw.between(0, 5))
    return arguments


@recipe("grouped_query_attention")
def grouped_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """Groups that are neither one head nor all heads, so that no order of heads can hide."""

    def grouped(b, h, g, n, m, d, dv):
        return {"q": draw.normal(b, h, n, d), "k": draw.normal(b, g, m, d), "v": draw.normal(b, g, m, dv)}

    yield "six_over_two", ("HEADS-GROUP",), grouped(1, 6, 2, 5, 7, 8, 8)
    yield "six_over_three", ("HEADS-GROUP",), grouped(2, 6, 3, 5, 11, 8, 8)
    yield "multi_query", ("HEADS-GROUP",), grouped(2, 4, 1, 5, 7, 8, 8)
    yield "causal", ("HEADS-GROUP",), {**grouped(2, 6, 3, 7, 7, 8, 8), "mask": masks.causal()}
    for number in range(count(effort, 1, 8, 60)):
        g, r = draw.between(2, 3), draw.between(2, 3)
        sizes = (
            draw.between(1, 3),
            g * r,
            g,
            draw.between(1, 20),
            draw.between(1, 50),
            draw.between(1, 40),
            draw.between(1, 20),
        )
        yield f"random_{number:04}", ("HEADS-GROUP",), grouped(*sizes)
