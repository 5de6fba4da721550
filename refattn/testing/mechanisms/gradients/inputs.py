"""Inputs for the gradients: those of the forward pass with cotangents, and what only a backward pass gets wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from refattn import masks
from refattn.feedforward import ACTIVATIONS
from refattn.gradients import ACTIVATION_VJPS
from refattn.heads import MultiHeadParams
from refattn.testing.inputs import Case, Draw
from refattn.testing.mechanisms.attention.inputs import attention
from refattn.testing.mechanisms.attention.options import SHAPES, each_option, emptied_rows, every_rule
from refattn.testing.mechanisms.feedforward import inputs as of_feedforward
from refattn.testing.mechanisms.heads import inputs as of_heads
from refattn.testing.mechanisms.softmax import inputs as of_softmax
from refattn.testing.tails import WIDE, needled

Random = Callable[[Draw], dict]
Directed = Callable[[Draw, str], Iterator[Case]]

# --- random ---------------------------------------------------------------------------------------------------------


def cotangent(draw: Draw, name: str, given: dict) -> dict:
    """A call of a function with the cotangent of a result that is as large as one of its arguments."""
    return {"d_out": draw.normal(*given[name].shape), **given}


def of_random(random: Random, name: str = "x") -> Random:
    """The random calls of a function with cotangents of its result, which is as large as an argument."""
    return lambda draw: cotangent(draw, name, random(draw))


def of_directed(directed: Directed, clause: str, name: str = "x") -> Directed:
    """The directed cases of a function, with cotangents."""

    def cases(draw, effort):
        for case, _, given in directed(draw, effort):
            yield case, (clause,), cotangent(draw, name, given)

    return cases


def with_cotangents(draw: Draw, given: dict) -> dict:
    """A call of an attention with the cotangents of what it returns."""
    given = {name: x for name, x in given.items() if name != "return_lse"}
    rows = given["q"].shape[:-1]
    return {"d_out": draw.normal(*rows, given["v"].shape[-1]), **given} | (
        {"d_lse": draw.normal(*rows)} if draw.chance(0.4) else {}
    )


def attention_vjp(draw: Draw) -> dict:
    """A random call of attention_vjp."""
    return with_cotangents(draw, attention(draw))


def grouped_vjp(draw: Draw) -> dict:
    """A random call of grouped_query_attention_vjp."""
    return with_cotangents(draw, of_heads.grouped(draw))


def multi_query_vjp(draw: Draw) -> dict:
    """A random call of multi_query_attention_vjp."""
    return with_cotangents(draw, of_heads.multi_query(draw))


def layer_vjp(draw: Draw) -> dict:
    """A random call of multi_head_attention_vjp."""
    return cotangent(draw, "x_q", of_heads.random_layer(draw))


def softmax_vjp(draw: Draw) -> dict:
    """A random call of softmax_vjp; what is absent has no cotangent, whatever stands there."""
    given = cotangent(draw, "x", of_softmax.logits(draw))
    if "where" in given and draw.chance(0.3):
        given["d_out"][~given["where"]] = np.nan
    return given


def logsumexp_vjp(draw: Draw) -> dict:
    """A random call of logsumexp_vjp."""
    given = of_softmax.logits(draw)
    return {**given, "d_out": draw.normal(*np.delete(given["x"].shape, given["axis"]))}


def merge_vjp(draw: Draw) -> dict:
    """A random call of merge_vjp."""
    given = cotangent(draw, "out_a", of_softmax.parts(draw))
    return given | ({"d_lse": draw.normal(*given["lse_a"].shape)} if draw.chance(0.6) else {})


def linear_vjp(draw: Draw) -> dict:
    """A random call of linear_vjp: any leading axes."""
    rows, e, f = draw.between(2, 7), draw.between(2, 6), draw.between(2, 6)
    lead = draw.pick((rows,), (draw.between(2, 4), draw.between(2, 5)), (draw.between(2, 3), 2, 3))
    given = {"d_out": draw.normal(*lead, f), "x": draw.normal(*lead, e), "w": draw.normal(e, f)}
    return given | ({"b": draw.normal(f)} if draw.chance(0.6) else {})


def feed_forward_vjp(draw: Draw) -> dict:
    """A random call of feed_forward_vjp."""
    differentiated = sorted(set(ACTIVATIONS) & set(ACTIVATION_VJPS))
    return cotangent(draw, "x", of_feedforward.network(draw)) | {"activation": draw.pick(*differentiated)}


def line(draw: Draw) -> dict:
    """Random numbers as for an activation, some of them 0, where it may have a corner."""
    given = of_feedforward.line(draw)
    given["x"][1, : draw.between(1, 5)] = 0.0
    return given


def line_for_gelu(draw: Draw) -> dict:
    """The same, exact or by tanh."""
    return {**line(draw), "approximate": draw.pick(None, "tanh")}


def chain(draw: Draw) -> dict:
    """A random call of checkpoint_vjp."""
    steps = [draw.pick("silu", "softmax", "tanh", "gelu", "softplus", "sigmoid") for _ in range(draw.between(2, 7))]
    shape = draw.between(1, 3), draw.between(2, 6)
    every = draw.pick(None, 1, 2, 3, 9)
    return {"d_out": draw.normal(*shape), "x": draw.normal(*shape), "blocks": steps, "every": every}


# --- directed -------------------------------------------------------------------------------------------------------


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


def attentions(draw: Draw, effort: str) -> Iterator[Case]:
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
    for place in ("square", "cached"):
        n, m = SHAPES[place]
        for name, rule in every_rule(n, m).items():
            yield f"rule_{name}_{place}", ("GRAD-MASK",), {**drawn(draw, h=2, n=n, m=m), "mask": rule}
    for name, given in emptied_rows(draw):
        yield f"emptied_by_{name}", ("GRAD-EMPTY",), {**drawn(draw, d_lse=True), **given}
    yield "square", ("GRAD-EXACT",), drawn(draw, n=6, m=6, d=6, dv=6)
    yield "positions", ("GRAD-MASK",), {**drawn(draw), **dict(each_option(draw, 3))["positions"]}


def groups(draw: Draw, effort: str) -> Iterator[Case]:
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
    for name, given in each_option(draw, 6):
        yield f"option_{name}", ("GRAD-GROUP",), {**drawn(draw, h=6, g=2, d_lse=True), **given}
    yield "square", ("GRAD-GROUP",), drawn(draw, h=6, g=3, n=6, m=6, d=6, dv=6, d_lse=True)
    for name, given in emptied_rows(draw, 6):
        yield f"emptied_by_{name}", ("GRAD-GROUP", "GRAD-EMPTY"), {**drawn(draw, h=6, g=2, d_lse=True), **given}


def products(draw: Draw, effort: str) -> Iterator[Case]:
    """Weights that are square, wide and tall, with a bias and without."""
    for name, (rows, e, f) in {"square": (6, 6, 6), "wide": (5, 3, 7), "tall": (2, 9, 4)}.items():
        given = {"d_out": draw.normal(rows, f), "x": draw.normal(rows, e), "w": draw.normal(e, f)}
        yield name, ("GRAD-LINEAR",), given
        yield f"{name}_biased", ("GRAD-LINEAR",), {**given, "b": draw.normal(f)}


def merges(draw: Draw, effort: str) -> Iterator[Case]:
    """What `merge` gets, and cotangents; as many rows as values."""
    for name, _, given in of_softmax.pairs_of_parts(draw, effort):
        yield name, ("GRAD-MERGE",), {"d_out": draw.normal(*given["out_a"].shape), **given}
    shapes = {"d_out": (6, 6), "out_a": (6, 6), "lse_a": (6,), "out_b": (6, 6), "lse_b": (6,), "d_lse": (6,)}
    yield "square", ("GRAD-MERGE",), {name: draw.normal(*shape) for name, shape in shapes.items()}


def logsumexps(draw: Draw, effort: str) -> Iterator[Case]:
    """Both axes of a square, absent entries, empty rows, scores far from 0."""
    for axis in (-1, 0):
        given = {"d_out": draw.normal(6), "x": draw.normal(6, 6, scale=2.0), "axis": axis}
        yield f"square{'_first_axis' * (axis == 0)}", ("GRAD-SOFTMAX",), given
    yield "rows", ("GRAD-SOFTMAX",), {"d_out": draw.normal(3, 5), "x": draw.normal(3, 5, 7)}
    for name, level in (("up", 30000.0), ("down", -30000.0)):
        x = draw.round(draw.normal(5, 7, scale=4.0) + level)
        yield f"scores_{name}", ("GRAD-SOFTMAX",), {"d_out": draw.normal(5), "x": x}
    for width in WIDE:
        yield f"wide_{width}", ("GRAD-SOFTMAX",), {"d_out": draw.normal(2), "x": needled(draw.normal(2, width))}
    yield "where", ("GRAD-SOFTMAX", "GRAD-ABSENT"), {"d_out": draw.normal(5), **_absent(draw)}


def _absent(draw):
    """Rows with absent entries, one of them all absent."""
    present = draw.rng.random((5, 7)) < 0.6
    present[1] = False
    return {"x": np.where(present, draw.normal(5, 7), np.nan), "where": present}


def softmaxes(draw: Draw, effort: str) -> Iterator[Case]:
    """Both signs and every size of logits, axes, absent entries."""
    yield "plain", ("GRAD-SOFTMAX",), {"d_out": draw.normal(3, 5, 7), "x": draw.normal(3, 5, 7)}
    yield "first_axis", ("GRAD-SOFTMAX",), {"d_out": draw.normal(3, 5, 7), "x": draw.normal(3, 5, 7), "axis": 0}
    for axis in (-1, 0):
        given = {"d_out": draw.normal(6, 6), "x": draw.normal(6, 6, scale=2.0), "axis": axis}
        yield f"square{'_first_axis' * (axis == 0)}", ("GRAD-SOFTMAX",), given
    for width in WIDE:
        yield f"wide_{width}", ("GRAD-SOFTMAX",), {"d_out": draw.normal(2, width), "x": needled(draw.normal(2, width))}
    yield "where", ("GRAD-SOFTMAX", "GRAD-ABSENT"), {"d_out": draw.normal(5, 7), **_absent(draw)}


def norms(draw: Draw, effort: str) -> Iterator[Case]:
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
    for width in WIDE:
        yield f"wide_{width}", both, case(needled(draw.normal(2, width) + 2.0))
    yield "square", both, case(draw.normal(7, 7) * 2.0 ** np.arange(-3, 4)[:, None])
    x = draw.normal(5, 5)
    yield "square_first_axis", both, {"d_out": draw.normal(5, 5), "x": x, "gamma": draw.normal(5), "axis": 0}


def activations(draw: Draw, effort: str) -> Iterator[Case]:
    """Around 0, in the tails, and at random."""
    for name, x in (("around_zero", np.linspace(-1, 1, 41)), ("tails", np.linspace(-12, 12, 97))):
        yield name, ("GRAD-ACT",), {"d_out": draw.normal(x.size), "x": draw.round(x)}
    yield "square", ("GRAD-ACT",), {"d_out": draw.normal(6, 6), "x": draw.normal(6, 6)}


def multi_queries(draw: Draw, effort: str) -> Iterator[Case]:
    """What `multi_query_attention` gets, and cotangents of the output and of the log-sum-exp."""
    for name, _, given in of_heads.multi_queries(draw, effort):
        d_out = draw.normal(*given["q"].shape[:-1], given["v"].shape[-1])
        d_lse = {"d_lse": draw.normal(*given["q"].shape[:-1])} if name != "square" else {}
        yield name, ("GRAD-GROUP",), {"d_out": d_out, **d_lse, **given}


def layers(draw: Draw, effort: str) -> Iterator[Case]:
    """What the layer gets, and cotangents; square weights."""
    for name, _, given in of_heads.layers(draw, effort):
        yield name, ("GRAD-MHA",), {"d_out": draw.normal(2, 5, 6), **given}
    square = MultiHeadParams(*(draw.normal(6, 6, scale=0.5) for _ in range(4)))
    given = {"d_out": draw.normal(6, 6), "x_q": draw.normal(6, 6), "x_kv": None, "params": square, "heads": 2}
    yield "square", ("GRAD-MHA",), given


def networks(draw: Draw, effort: str) -> Iterator[Case]:
    """What `feed_forward` gets, and cotangents."""
    for name, _, given in of_feedforward.networks(draw, effort):
        d_out = draw.normal(*given["x"].shape[:-1], given["params"].w_out.shape[1])
        yield name, ("GRAD-FFN",), {"d_out": d_out, **given}
