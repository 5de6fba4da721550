"""Inputs for the gradients: those of the forward pass with cotangents, and what only a backward pass gets wrong."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refattn import masks
from refattn.testing.mechanisms.attention.options import SHAPES, each_option, emptied_rows, every_rule
from refattn.testing.mechanisms.feedforward.inputs import feed_forward_recipes, gated_feed_forward_recipes
from refattn.testing.mechanisms.positions.inputs import rope_recipes
from refattn.testing.mechanisms.softmax.inputs import merge_recipes
from refattn.testing.recipes import Draw, Recipe, count, recipe


def drawn(draw, b=2, h=3, n=5, m=7, d=8, dv=6, g=None, d_lse=False, q_scale=1.0):
    """q, k, v and cotangents of sizes that differ; with g the keys and values have g heads."""
    g = h if g is None else g
    arguments = {
        "d_out": draw.normal(b, h, n, dv),
        "q": draw.normal(b, h, n, d, scale=q_scale),
        "k": draw.normal(b, g, m, d),
        "v": draw.normal(b, g, m, dv),
    }
    return arguments | ({"d_lse": draw.normal(b, h, n)} if d_lse else {})


def options(draw, h, n, m):
    """Every option, each in half of the cases."""
    some: dict = {}
    choices = {
        "mask": lambda: masks.causal() & masks.window(draw.between(1, m), 0),
        "bias": lambda: draw.normal(*[(1, h, 1, m), (h, n, m), (m,)][draw.between(0, 2)]),
        "scale": lambda: float(draw.rng.normal()),
        "softcap": lambda: float(2.0 ** draw.between(0, 4)),
        "sinks": lambda: draw.normal(h),
        "dropout": lambda: (draw.rng.random((h, n, m)) < 0.75, 0.25),
    }
    for name, choose in choices.items():
        if draw.rng.random() < 0.5:
            some[name] = choose()
    return some


@recipe("attention_vjp")
def attention_vjp_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """Each option alone, then all; rows without keys; poison; sizes around powers of two; random calls."""
    yield "plain", ("GRAD-EXACT",), drawn(draw)
    yield "values_wider", ("GRAD-EXACT",), drawn(draw, d=4, dv=11)
    yield "decode", ("GRAD-EXACT",), drawn(draw, n=1, m=67)
    yield "one_key", ("GRAD-EXACT",), drawn(draw, m=1)
    for d in (9, 40, 72):
        yield f"head_size_{d}", ("GRAD-EXACT",), drawn(draw, b=1, h=2, d=d, dv=d)
    for m in (63, 65, 129):
        yield f"keys_{m}", ("GRAD-EXACT",), drawn(draw, b=1, h=2, n=17, m=m, d=16, dv=16)
    yield "scale", ("GRAD-SCALE",), {**drawn(draw), "scale": 0.2}
    yield "scale_negative", ("GRAD-SCALE",), {**drawn(draw), "scale": -0.6}
    yield "scale_zero", ("GRAD-SCALE",), {**drawn(draw), "scale": 0.0}
    yield "causal_wide", ("GRAD-MASK",), {**drawn(draw, n=5, m=37), "mask": masks.causal()}
    yield "causal_tall", ("GRAD-EMPTY",), {**drawn(draw, n=9, m=5, d_lse=True), "mask": masks.causal()}
    yield "window", ("GRAD-MASK",), {**drawn(draw, n=37, m=37), "mask": masks.causal() & masks.window(15, 0)}
    for shape, name in (((3, 5, 7), "batch"), ((7,), "keys"), ((2, 1, 5, 1), "heads_and_keys")):
        yield f"bias_over_{name}", ("GRAD-BIAS", "GRAD-BROADCAST"), {**drawn(draw), "bias": draw.normal(*shape)}
    yield "softcap", ("GRAD-SOFTCAP",), {**drawn(draw, q_scale=4.0), "softcap": 2.0}
    biased = {**drawn(draw, q_scale=4.0), "softcap": 2.0, "bias": draw.normal(5, 7, scale=2.0)}
    yield "softcap_biased", ("GRAD-SOFTCAP", "GRAD-BIAS"), biased
    yield "sinks", ("GRAD-SINK",), {**drawn(draw), "sinks": draw.normal(3, scale=2.0)}
    yield "lse", ("GRAD-LSE",), drawn(draw, d_lse=True)
    yield "lse_alone", ("GRAD-LSE",), {**drawn(draw, d_lse=True), "d_out": np.zeros((2, 3, 5, 6))}
    yield "lse_and_sinks", ("GRAD-LSE", "GRAD-SINK"), {**drawn(draw, d_lse=True), "sinks": draw.normal(3)}
    keep = draw.rng.random((2, 3, 5, 7)) < 0.75
    yield "dropout", ("GRAD-DROPOUT",), {**drawn(draw, d_lse=True), "dropout": (keep, 0.25)}

    holes = np.ones((5, 7), dtype=bool)
    holes[:, 2] = False
    poisoned = drawn(draw)
    for place in ("k", "v"):
        spoilt = poisoned[place].copy()
        spoilt[..., 2, :] = np.nan
        yield f"poison_{place}", ("GRAD-ABSENT",), {**poisoned, place: spoilt, "mask": holes}
    holes = holes.copy()
    holes[3] = False
    yield "empty_row", ("GRAD-EMPTY",), {**drawn(draw, d_lse=True), "mask": holes}
    excluded = np.where(holes, draw.normal(5, 7), -np.inf)
    yield "bias_excludes", ("GRAD-BIAS", "GRAD-EMPTY"), {**drawn(draw), "bias": excluded}
    yield "no_keys", ("GRAD-EMPTY",), drawn(draw, m=0)
    yield "no_queries", ("GRAD-EMPTY",), drawn(draw, n=0)
    yield "peaked", ("GRAD-EXACT",), drawn(draw, m=67, q_scale=6.0)
    offset = drawn(draw, m=67)
    yield "offset_values", ("GRAD-EXACT",), {**offset, "v": draw.round(offset["v"] + 30.0)}
    yield "shifted", ("GRAD-EXACT",), {**drawn(draw), "bias": draw.round(np.full((5, 7), -3000.0))}
    for number in range(count(effort, 2, 16, 200)):
        h, n, m = draw.between(1, 4), draw.between(1, 40), draw.between(1, 80)
        sizes = {"h": h, "n": n, "m": m, "d": draw.between(1, 40), "dv": draw.between(1, 40)}
        arguments = drawn(draw, **sizes, d_lse=bool(draw.between(0, 1))) | options(draw, h, n, m)
        yield f"random_{number:04}", ("GRAD-EXACT",), arguments
    for place in ("square", "cached"):
        n, m = SHAPES[place]
        for name, rule in every_rule(n, m).items():
            yield f"rule_{name}_{place}", ("GRAD-MASK",), {**drawn(draw, h=2, n=n, m=m), "mask": rule}
    for name, given in emptied_rows(draw):
        yield f"emptied_by_{name}", ("GRAD-EMPTY",), {**drawn(draw, d_lse=True), **given}
    yield "square", ("GRAD-EXACT",), drawn(draw, n=6, m=6, d=6, dv=6)
    yield "positions", ("GRAD-MASK",), {**drawn(draw), **dict(each_option(draw, 3))["positions"]}


@recipe("grouped_query_attention_vjp")
def grouped_vjp_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """Groups that are neither one head nor all heads, and not as many as their heads."""
    yield "six_over_two", ("GRAD-GROUP",), drawn(draw, h=6, g=2)
    yield "six_over_three", ("GRAD-GROUP",), drawn(draw, h=6, g=3, d_lse=True)
    yield "multi_query", ("GRAD-GROUP",), drawn(draw, h=4, g=1)
    yield "causal", ("GRAD-GROUP", "GRAD-MASK"), {**drawn(draw, h=6, g=2, n=7, m=11), "mask": masks.causal()}
    sinks = {**drawn(draw, h=6, g=2, d_lse=True), "sinks": draw.normal(6)}
    yield "lse_and_sinks", ("GRAD-GROUP", "GRAD-LSE", "GRAD-SINK"), sinks
    poisoned, holes = drawn(draw, h=6, g=2), np.ones((5, 7), dtype=bool)
    poisoned["k"], holes[:, 2] = poisoned["k"].copy(), False
    poisoned["k"][..., 2, :] = np.nan
    yield "poison", ("GRAD-GROUP", "GRAD-ABSENT"), {**poisoned, "mask": holes}
    for number in range(count(effort, 1, 8, 60)):
        g, group, n, m = draw.between(2, 3), draw.between(2, 3), draw.between(1, 20), draw.between(1, 40)
        arguments = drawn(draw, h=g * group, g=g, n=n, m=m, d=draw.between(1, 20), dv=draw.between(1, 20))
        yield f"random_{number:04}", ("GRAD-GROUP",), arguments | options(draw, g * group, n, m)
    for name, given in each_option(draw, 6):
        yield f"option_{name}", ("GRAD-GROUP",), {**drawn(draw, h=6, g=2, d_lse=True), **given}
    yield "square", ("GRAD-GROUP",), drawn(draw, h=6, g=3, n=6, m=6, d=6, dv=6, d_lse=True)
    for name, given in emptied_rows(draw, 6):
        yield f"emptied_by_{name}", ("GRAD-GROUP", "GRAD-EMPTY"), {**drawn(draw, h=6, g=2, d_lse=True), **given}


@recipe("feed_forward_vjp")
def feed_forward_vjp_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """What `feed_forward` gets, and cotangents."""
    for name, _, given in feed_forward_recipes(draw, effort):
        d_out = draw.normal(*given["x"].shape[:-1], given["params"].w_out.shape[1])
        yield name, ("GRAD-FFN",), {"d_out": d_out, **given}


@recipe("gated_feed_forward_vjp")
def gated_feed_forward_vjp_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """What `gated_feed_forward` gets, and cotangents."""
    for name, _, given in gated_feed_forward_recipes(draw, effort):
        yield name, ("GRAD-GLU",), {"d_out": draw.normal(*given["x"].shape), **given}


@recipe("gradients.linear_vjp")
def linear_vjp_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """Weights that are square, wide and tall, with a bias and without."""
    for name, (rows, e, f) in {"square": (6, 6, 6), "wide": (5, 3, 7), "tall": (2, 9, 4)}.items():
        given = {"d_out": draw.normal(rows, f), "x": draw.normal(rows, e), "w": draw.normal(e, f)}
        yield name, ("GRAD-LINEAR",), given
        yield f"{name}_biased", ("GRAD-LINEAR",), {**given, "b": draw.normal(f)}


@recipe("merge_vjp")
def merge_vjp_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """What `merge` gets, and cotangents; as many rows as values."""
    for name, _, given in merge_recipes(draw, effort):
        yield name, ("GRAD-MERGE",), {"d_out": draw.normal(*given["out_a"].shape), **given}
    shapes = {"d_out": (6, 6), "out_a": (6, 6), "lse_a": (6,), "out_b": (6, 6), "lse_b": (6,), "d_lse": (6,)}
    yield "square", ("GRAD-MERGE",), {name: draw.normal(*shape) for name, shape in shapes.items()}


@recipe("logsumexp_vjp")
def logsumexp_vjp_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """Both axes of a square, absent entries, empty rows, scores far from 0."""
    for axis in (-1, 0):
        given = {"d_out": draw.normal(6), "x": draw.normal(6, 6, scale=2.0), "axis": axis}
        yield f"square{'_first_axis' * (axis == 0)}", ("GRAD-SOFTMAX",), given
    yield "rows", ("GRAD-SOFTMAX",), {"d_out": draw.normal(3, 5), "x": draw.normal(3, 5, 7)}
    for name, level in (("up", 30000.0), ("down", -30000.0)):
        x = draw.round(draw.normal(5, 7, scale=4.0) + level)
        yield f"scores_{name}", ("GRAD-SOFTMAX",), {"d_out": draw.normal(5), "x": x}
    yield "where", ("GRAD-SOFTMAX", "GRAD-ABSENT"), {"d_out": draw.normal(5), **_absent(draw)}


def _absent(draw):
    """Rows with absent entries, one of them all absent."""
    present = draw.rng.random((5, 7)) < 0.6
    present[1] = False
    return {"x": np.where(present, draw.normal(5, 7), np.nan), "where": present}


@recipe("softmax_vjp")
def softmax_vjp_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """Both signs and every size of logits, axes, absent entries."""
    yield "plain", ("GRAD-SOFTMAX",), {"d_out": draw.normal(3, 5, 7), "x": draw.normal(3, 5, 7)}
    yield "first_axis", ("GRAD-SOFTMAX",), {"d_out": draw.normal(3, 5, 7), "x": draw.normal(3, 5, 7), "axis": 0}
    for axis in (-1, 0):
        given = {"d_out": draw.normal(6, 6), "x": draw.normal(6, 6, scale=2.0), "axis": axis}
        yield f"square{'_first_axis' * (axis == 0)}", ("GRAD-SOFTMAX",), given
    yield "where", ("GRAD-SOFTMAX", "GRAD-ABSENT"), {"d_out": draw.normal(5, 7), **_absent(draw)}
    for number in range(count(effort, 1, 8, 60)):
        shape = draw.between(1, 5), draw.between(1, 100)
        x = draw.normal(*shape, scale=2.0 ** draw.between(-3, 4))
        yield f"random_{number:04}", ("GRAD-SOFTMAX",), {"d_out": draw.normal(*shape), "x": x}


@recipe("layer_norm_vjp", "rms_norm_vjp")
def norm_vjp_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """Rows of every size, with a spike, far from 0, and with an epsilon that matters."""

    def case(x, **rest):
        return {"d_out": draw.normal(*x.shape), "x": draw.round(x), "gamma": draw.normal(x.shape[-1]), **rest}

    both = ("GRAD-EXACT",)
    yield "plain", both, case(draw.normal(3, 5, 7))
    yield "eps_matters", both, case(draw.normal(3, 37, scale=2.0**-6), eps=1e-3)
    spike = draw.normal(3, 37)
    spike[:, 5] = 100.0
    yield "spike", both, case(spike)
    yield "offset", both, case(draw.normal(3, 37) + 8.0)
    yield "square", both, case(draw.normal(7, 7) * 2.0 ** np.arange(-3, 4)[:, None])
    x = draw.normal(5, 5)
    yield "square_first_axis", both, {"d_out": draw.normal(5, 5), "x": x, "gamma": draw.normal(5), "axis": 0}
    for number in range(count(effort, 1, 8, 60)):
        x = draw.normal(draw.between(1, 6), draw.between(2, 100), scale=2.0 ** draw.between(-4, 4))
        yield f"random_{number:04}", both, case(x)


def activation_vjp_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """Around 0, in the tails, and at random."""
    for name, x in (("around_zero", np.linspace(-1, 1, 41)), ("tails", np.linspace(-12, 12, 97))):
        yield name, ("GRAD-ACT",), {"d_out": draw.normal(x.size), "x": draw.round(x)}
    for number in range(count(effort, 1, 4, 40)):
        x = draw.normal(3, 37, scale=2.0 ** draw.between(-4, 3))
        yield f"random_{number:04}", ("GRAD-ACT",), {"d_out": draw.normal(3, 37), "x": x}
    yield "square", ("GRAD-ACT",), {"d_out": draw.normal(6, 6), "x": draw.normal(6, 6)}


_ACTIVATIONS = ("relu", "gelu", "quick_gelu", "silu", "squared_relu", "softplus", "sigmoid", "tanh")
recipe(*(f"{name}_vjp" for name in _ACTIVATIONS))(activation_vjp_recipes)


@recipe("rope_vjp")
def rope_vjp_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """What `rope` gets, and cotangents."""
    for name, _, given in rope_recipes(draw, effort):
        yield name, ("GRAD-ROPE",), {"d_out": draw.normal(*given["x"].shape), **given}


@recipe("gradients.rotate_vjp")
def rotate_vjp_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """Both layouts, all and some of the features, tables that are shared."""
    for layout in ("interleaved", "half"):
        for number in range(count(effort, 1, 4, 40)):
            n, half, rest = draw.between(1, 20), draw.between(1, 20), draw.between(0, 3)
            angles = draw.rng.uniform(-400, 400, size=(n, half))
            yield (
                f"{layout}_{number:04}",
                ("GRAD-ROPE",),
                {
                    "d_out": draw.normal(2, 3, n, 2 * half + rest),
                    "x": draw.normal(2, 3, n, 2 * half + rest),
                    "cos": draw.round(np.cos(angles)),
                    "sin": draw.round(np.sin(angles)),
                    "layout": layout,
                    "rotary_dim": 2 * half,
                },
            )
