"""Inputs for attention: needles at every boundary, extreme scores, poison, empty rows, random shapes and options."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refattn import masks
from refattn.testing import layouts
from refattn.testing.inputs import Case, Draw
from refattn.testing.mechanisms.attention.options import (
    broadcast_forms,
    each_option,
    emptied_rows,
    rules_everywhere,
)
from refattn.testing.mechanisms.masks import inputs as of_masks


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


def attentions(draw: Draw, effort: str) -> Iterator[Case]:
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
    visible = x["v"].copy()
    visible[..., 4, 1], visible[..., 5, 0] = np.inf, np.nan
    yield (
        "poison_seen",
        ("ATTN-OUT",),
        {**x, "v": visible, "mask": some & (np.arange(5)[:, None] > 0) | np.eye(5, 7, dtype=bool)},
    )
    excluded = np.zeros((5, 7))
    excluded[:, 2] = -np.inf
    stale = x["k"].copy()
    stale[..., 2, :] = np.nan
    yield "poison_bias", ("ATTN-ABSENT",), {**x, "k": stale, "bias": excluded}
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

    yield from exact_numbers(draw)
    yield from equal_sizes(draw)
    yield from option_pairs(draw)
    yield from more_masks(draw)
    yield from extremes(draw)
    yield from far_offsets(draw)
    yield from memory_layouts(draw)
    for name, n, m, given in rules_everywhere():
        yield f"rule_{name}", ("ATTN-MASK",), {**plain(draw, h=1, n=n, m=m), **given}
    for name, given in emptied_rows(draw, 1):
        yield f"emptied_by_{name}", ("ATTN-EMPTY",), {**plain(draw, h=1), **given, "return_lse": True}
    for name, n, m, given in broadcast_forms(draw):
        yield f"form_{name}", ("ATTN-BROADCAST",), {**plain(draw, n=n, m=m), **given}


def exact_numbers(draw: Draw) -> Iterator[Case]:
    """Small integers and equal scores: every order of summation gives the same numbers.

    Kills polarity, transposed axes, exchanged heads, values read one row off, a score of 0 taken for a masked one.
    """

    def integers(*shape):
        return draw.rng.integers(-3, 4, size=shape).astype(np.float64)

    x = {"q": np.zeros((2, 3, 4, 8)), "k": integers(2, 3, 8, 8), "v": integers(2, 3, 8, 5)}
    yield "integers_equal", ("ATTN-OUT",), x
    one = np.zeros((4, 8), dtype=bool)
    one[np.arange(4), [7, 0, 5, 2]] = True
    yield "integers_one_key", ("ATTN-MASK",), {**x, "q": integers(2, 3, 4, 8), "mask": one}
    half = np.ones((4, 8), dtype=bool)
    half[:, ::2] = False
    yield "integers_half", ("ATTN-MASK",), {**x, "mask": half}
    yield "integers_causal", ("ATTN-ALIGN",), {**x, "mask": masks.causal()}
    yield "zero_scores", ("ATTN-OUT",), {**x, "q": integers(2, 3, 4, 8), "k": x["k"] * (np.arange(8) % 2)[:, None]}


def equal_sizes(draw: Draw) -> Iterator[Case]:
    """B = H = N = M: no shape shows that axes were exchanged.

    Kills masks, biases and sinks of the batch laid on heads, tiled instead of repeated, transposed; a log-sum-exp
    whose axes are tokens and heads; attention over heads instead of tokens.
    """

    def same(d=5, dv=5):
        return plain(draw, 4, 4, 4, 4, d, dv)

    allowed = draw.rng.random((4, 1, 4, 4)) < 0.6
    allowed |= np.eye(4, dtype=bool)
    yield "equal_sizes", ("ATTN-OUT",), same()
    yield "equal_sizes_lse", ("ATTN-LSE",), {**same(), "return_lse": True}
    yield "equal_sizes_mask_of_batch", ("ATTN-BROADCAST",), {**same(), "mask": allowed}
    yield "equal_sizes_mask_of_heads", ("ATTN-BROADCAST",), {**same(), "mask": allowed.reshape(1, 4, 4, 4)}
    yield "equal_sizes_bias_of_batch", ("ATTN-BROADCAST",), {**same(), "bias": draw.normal(4, 1, 4, 4)}
    yield "equal_sizes_bias_of_heads", ("ATTN-BROADCAST",), {**same(), "bias": draw.normal(4, 4, 4)}
    yield "equal_sizes_bias_of_keys", ("ATTN-BROADCAST",), {**same(), "bias": draw.normal(4, 1, 1, 4)}
    yield "equal_sizes_sinks", ("ATTN-SINK",), {**same(), "sinks": draw.normal(4, scale=2.0), "return_lse": True}
    heads = draw.rng.random((1, 3, 1, 7)) < 0.6
    heads[..., 3] = True
    yield "mask_of_heads", ("ATTN-BROADCAST",), {**plain(draw), "mask": heads}
    keys = np.arange(7) < np.array([4, 7])[:, None, None, None]
    yield "mask_of_keys", ("ATTN-BROADCAST",), {**plain(draw), "mask": keys}
    rows = np.array([True, False, True, True, True])[:, None]
    yield "mask_of_queries", ("ATTN-BROADCAST",), {**plain(draw), "mask": rows, "return_lse": True}


def option_pairs(draw: Draw) -> Iterator[Case]:
    """Every option beside every other: kills whatever makes one of them disappear, or changes their order."""
    options = {
        "causal": {"mask": masks.causal()},
        "mask": {"mask": draw.rng.random((2, 1, 5, 7)) < 0.7},
        "window": {"mask": masks.window(2, 1)},
        "scale": {"scale": 0.75},
        "bias": {"bias": draw.normal(3, 5, 7, scale=2.0)},
        "softcap": {"softcap": 1.5},
        "sinks": {"sinks": draw.normal(3, scale=2.0)},
        "dropout": {"dropout": (draw.rng.random((2, 3, 5, 7)) < 0.75, 0.25)},
        "lse": {"return_lse": True},
    }
    clauses = {"scale": "ATTN-SCALE", "bias": "ATTN-BIAS", "softcap": "ATTN-SOFTCAP", "sinks": "ATTN-SINK",
               "dropout": "ATTN-DROPOUT", "lse": "ATTN-LSE"}  # fmt: skip
    names = list(options)
    for n, first in enumerate(names):
        for second in names[n + 1 :]:
            if not options[first].keys() & options[second].keys():
                clause = clauses[second]
                yield (
                    f"{first}_and_{second}",
                    (clause,),
                    {**plain(draw, q_scale=2.0), **options[first], **options[second]},
                )
    everything = {name: value for given in options.values() for name, value in given.items()}
    yield "all_options", ("ATTN-ORDER",), {**plain(draw), **everything}
    yield "all_options_causal", ("ATTN-ORDER",), {**plain(draw), **everything, "mask": masks.causal()}
    no_heads = {name: x[0, 0] for name, x in plain(draw).items()}
    yield "no_heads_causal", ("ATTN-BROADCAST",), {**no_heads, "mask": masks.causal(), "return_lse": True}
    three = {name: x[0] for name, x in plain(draw).items()}
    yield "three_axes_causal", ("ATTN-BROADCAST",), {**three, "mask": masks.causal() & masks.window(2, 0)}


def more_masks(draw: Draw) -> Iterator[Case]:
    """Rules at their edges: kills other readings of a window's two reaches, its anchor, and of rules that carry data."""
    for left, right in ((2, 1), (1, 3), (0, 2), (3, 0), (None, 2), (2, None), (0, 0), (6, 0)):
        rule = masks.window(left, right)
        name = f"window_{'all' if left is None else left}_{'all' if right is None else right}"
        yield name, ("ATTN-MASK",), {**plain(draw, n=7, m=7, q_scale=2.0), "mask": rule}
        yield f"{name}_wide", ("ATTN-ALIGN",), {**plain(draw, n=3, m=11, q_scale=2.0), "mask": rule}
    yield "window_tall", ("ATTN-EMPTY",), {**plain(draw, n=9, m=4), "mask": masks.window(1, 0), "return_lse": True}
    yield "causal_tall_lse", ("ATTN-EMPTY",), {**plain(draw, n=9, m=5), "mask": masks.causal(), "return_lse": True}
    yield "decode_causal", ("ATTN-ALIGN",), {**plain(draw, n=1, m=37), "mask": masks.causal()}
    yield "decode_window", ("ATTN-ALIGN",), {**plain(draw, n=1, m=37), "mask": masks.causal() & masks.window(15, 0)}
    far = {"q_positions": np.arange(5) + 1000, "k_positions": np.arange(11) + 993}
    yield (
        "far_positions",
        ("ATTN-ALIGN",),
        {**plain(draw, n=5, m=11), **far, "mask": masks.causal() & masks.window(3, 0)},
    )


def extremes(draw: Draw) -> Iterator[Case]:
    """Scores between and below the sentinels that are in use, overflow in narrow formats, subnormal and signed zeros.

    Kills fills and maxima at -100, -1e4, -5e4, the lowest number, clamps, a maximum taken over the whole array,
    products and sums held in float16, scores multiplied by log2(e) before their maximum is taken.
    """
    for level in (-200.0, -20000.0, -60000.0):
        shift = draw.round(np.full((5, 7), level))
        holes = np.ones((5, 7), dtype=bool)
        holes[:, ::3] = False
        yield f"level_{-level:.0f}", ("ATTN-OUT",), {**plain(draw), "bias": shift, "mask": holes, "return_lse": True}
    rows = draw.round(np.broadcast_to(np.array([0.0, 300.0, -300.0, 900.0, -900.0])[:, None], (5, 7)).copy())
    yield "level_by_row", ("ATTN-OUT",), {**plain(draw), "bias": rows, "return_lse": True}
    for name, lowest in (("half", -65504.0), ("lowest", -3.3895313892515355e38)):
        bias = np.zeros((5, 7))
        bias[1], bias[2, ::2] = lowest, lowest
        yield f"bias_{name}", ("ATTN-BIAS",), {**plain(draw), "bias": bias}
    wide = {"q": draw.normal(1, 2, 5, 16, scale=100.0), "k": draw.normal(1, 2, 7, 16, scale=100.0)}
    yield "products_overflow", ("ATTN-OUT",), {**wide, "v": draw.normal(1, 2, 7, 8), "scale": 2.0**-14}
    yield "values_overflow", ("ATTN-OUT",), {**plain(draw), "v": np.full((2, 3, 7, 8), 61440.0)}
    rising = plain(draw, 1, 2, 5, 131, 16, 8, q_scale=0.5)
    rising["bias"] = draw.round(np.linspace(-40.0, 40.0, 131)[None] + np.zeros((5, 1)))
    yield "rising", ("ATTN-OUT",), rising
    yield "falling", ("ATTN-OUT",), {**rising, "bias": rising["bias"][:, ::-1].copy()}
    tiny = plain(draw)
    tiny["v"] = draw.round(tiny["v"] * 2.0**-20)
    yield "small_values", ("ATTN-OUT",), tiny
    yield "signed_zeros", ("ATTN-OUT",), {**plain(draw), "q": np.zeros((2, 3, 5, 8)) * draw.rng.choice([-1.0, 1.0])}
    lengths = {"key_tail_17": 17, "key_tail_33": 33, "key_tail_65": 65, "key_tail_127": 127, "key_tail_257": 257}
    for name, m in lengths.items():  # each last key is the needle: one beyond a tile, or one short of it
        yield name, ("ATTN-OUT",), aligned(draw, 3, m, 16, [m - 1, m - 2, 0])
    for d in (1, 7, 40, 72, 80, 104):
        yield f"head_size_{d}", ("ATTN-OUT",), plain(draw, 1, 2, 5, 7, d, 3)


def far_offsets(draw: Draw) -> Iterator[Case]:
    """Needles at the ends of arrays that an index of 8 bits, or an offset of 16, does not reach."""
    yield "far_index", ("ATTN-OUT",), aligned(draw, 5, 521, 16, [520, 511, 256, 255, 0])
    yield "far_offset", ("ATTN-OUT",), aligned(draw, 5, 2053, 37, [2052, 2000, 1771, 1770, 0])


def memory_layouts(draw: Draw) -> Iterator[Case]:
    """The same numbers in other orders in memory: kills kernels that ignore strides, of one operand or all."""
    x = plain(draw, n=7, m=7)
    for name in "qkv":
        yield f"strides_{name}_tokens_first", ("ATTN-OUT",), {**x, name: layouts.tokens_first(x[name])}
        yield f"strides_{name}_spread", ("ATTN-OUT",), {**x, name: layouts.spread(x[name])}
    yield "strides_all_tokens_first", ("ATTN-OUT",), {name: layouts.tokens_first(a) for name, a in x.items()}
    yield "strides_fused", ("ATTN-OUT",), dict(zip("qkv", layouts.fused(*(x[name] for name in "qkv")), strict=True))
    shared = plain(draw, n=5, m=33)
    yield "strides_expanded", ("ATTN-OUT",), {**shared, **{name: layouts.expanded(shared[name], 3) for name in "kv"}}


def attention(draw: Draw, grouped: bool = False) -> dict:
    """A random call of attention, with any options; of grouped_query_attention if there are to be fewer key/value heads.

    Sizes differ for the most part, and those that may be confused are equal now and then.
    """
    b, h = draw.between(1, 3), draw.between(1, 4)
    n, m = draw.between(1, draw.pick(9, 9, 9, 40)), draw.between(1, draw.pick(21, 21, 21, 150, 300))
    if m < 30 and draw.chance(0.3):
        n = m + draw.pick(0, 0, 0, draw.between(1, 4))
    n, b = (h if draw.chance(0.2) else n), (h if draw.chance(0.2) else b)
    d, dv = draw.between(2, draw.pick(20, 20, 20, 80)), draw.between(1, draw.pick(12, 12, 12, 40))
    dv = d if draw.chance(0.4) else dv
    g = h
    if grouped:
        g = draw.between(1, 3)
        h = g * draw.between(1, 3)
    scale = draw.pick(1.0, 1.0, 3.0, 0.125)
    q, k, v = draw.normal(b, h, n, d, scale=scale), draw.normal(b, g, m, d), draw.normal(b, g, m, dv)
    if draw.chance(0.1) and not grouped:
        q, k, v, b, h = q[0, 0], k[0, 0], v[0, 0], 1, 1
    mask = of_masks.mask(draw, b, h, n, m)
    given = {"q": q, "k": k, "v": v, "mask": masks.causal() if q.ndim == 2 and mask is not None else mask}
    return given | options(draw, given, h) | {"return_lse": draw.chance(0.5)}


def options(draw: Draw, given: dict, h: int) -> dict:
    """Random options for q, k, v and a mask."""
    q, mask = given["q"], given["mask"]
    n, m, found = q.shape[-2], given["k"].shape[-2], {}
    b = q.shape[0] if q.ndim == 4 else 1
    if draw.chance(0.35):
        found["scale"] = draw.pick(0.3, 0.11, -0.4, 0.0, 1.0, 2.0)
    if draw.chance(0.35):
        found["bias"] = draw.normal(
            *(() if q.ndim == 2 else draw.pick((b, 1), (1, h), (h,), (), (b, h))), n, m, scale=2.0
        )
    if draw.chance(0.3):
        found["softcap"] = draw.pick(1.5, 0.7, 4.0, 0.0)
    if draw.chance(0.3):
        found["sinks"] = draw.normal(h) if q.ndim > 2 else np.asarray(draw.normal())
    if draw.chance(0.25):
        found["dropout"] = (draw.where(0.7, n, m), 0.25)
    if isinstance(mask, masks.Mask) and draw.chance(0.2) and not of_masks.has_data(mask):
        found["q_positions"] = draw.between(3, 90) + np.arange(n)
        found["k_positions"] = draw.between(0, 90) + np.arange(m)
    elif draw.chance(0.35):
        found |= strange(draw, given | found)
    return found


def strange(draw: Draw, given: dict) -> dict:
    """One thing that is out of the ordinary: keys that a bias excludes, scores far from 0, extreme numbers.

    Rows without keys and stale keys have directed cases: beside other options they hide what is wrong with these.
    """
    q, k, v = given["q"], given["k"], given["v"]
    n, m = q.shape[-2], k.shape[-2]
    bias = np.broadcast_to(given.get("bias", 0.0), (*np.shape(given.get("bias", 0.0))[:-2], n, m)).copy()
    kind = draw.pick("excluded", "lowest", "far", "products", "values")
    if kind == "excluded":
        bias[..., draw.between(0, m - 1)] = -np.inf
        return {"bias": bias}
    if kind == "lowest":
        bias[..., 0, :] = draw.pick(-(2.0**15), -3.3895313892515355e38)
        return {"bias": bias}
    if kind == "far":
        return {"bias": np.full((n, m), draw.pick(-3e4, -2e4, -7e4, 3e4)) + draw.normal(n, m)}
    if kind == "products":  # that float16 cannot hold
        return {"q": q * 300, "k": k * 300, "scale": 1e-5}
    return {"v": v * 20000}


def weights(draw: Draw) -> dict:
    """A random call of attention_weights."""
    return {name: x for name, x in attention(draw).items() if name not in ("v", "return_lse")}


def stages(draw: Draw) -> dict:
    """A random call of attention_stages: every row has a key, and numbers are ordinary."""
    n, m, d, dv = draw.between(1, 9), draw.between(1, 21), draw.between(2, 20), draw.between(1, 12)
    given = plain(draw, draw.between(1, 3), draw.between(1, 4), n, m, d, dv)
    if draw.chance(0.5):
        given["mask"] = draw.where(0.6, n, m) | (np.arange(m) == draw.between(0, m - 1))
    if draw.chance(0.3):
        given["scale"] = draw.pick(0.3, 2.0)
    if draw.chance(0.3):
        given["softcap"] = draw.pick(1.5, 4.0)
    return given | ({"bias": draw.normal(n, m, scale=2.0)} if draw.chance(0.3) else {})


def weights_by_option(draw: Draw, effort: str) -> Iterator[Case]:
    """Every option of attention_weights alone."""
    x = {"q": draw.normal(2, 3, 5, 8), "k": draw.normal(2, 3, 7, 8)}
    yield "plain", ("ATTN-WEIGHTS",), x
    for name, given in each_option(draw, 3):
        yield name, ("ATTN-WEIGHTS",), {**x, **given}
