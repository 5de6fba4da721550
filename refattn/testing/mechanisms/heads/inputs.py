"""Inputs for layers and functions of heads: every option of each, weights packed and apart, every rotation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refattn import masks
from refattn.heads import MultiHeadParams, PackedMultiHeadParams, Rope
from refattn.testing import layouts
from refattn.testing.inputs import Case, Draw
from refattn.testing.mechanisms.attention.inputs import attention
from refattn.testing.mechanisms.attention.options import SHAPES, each_option, emptied_rows, every_rule
from refattn.testing.mechanisms.masks import inputs as of_masks
from refattn.testing.mechanisms.positions.inputs import scalings


def grouped(draw: Draw) -> dict:
    """A random call of grouped_query_attention."""
    return attention(draw, grouped=True)


def six_over_three(draw: Draw) -> dict:
    """Six query heads over three."""
    return {"q": draw.normal(2, 6, 5, 8), "k": draw.normal(2, 3, 7, 8), "v": draw.normal(2, 3, 7, 8)}


def multi_query(draw: Draw) -> dict:
    """A random call of multi_query_attention: one head of keys and values, without its axis."""
    given = attention(draw)
    if given["q"].ndim == 2:
        return {**given, "q": given["q"][None]}
    return {**given, **{name: given[name][..., 0, :, :] for name in ("k", "v")}}


def groups(draw: Draw, effort: str) -> Iterator[Case]:
    """Groups that are neither one head nor all heads, so that no order of heads can hide."""

    def grouped(b, h, g, n, m, d, dv):
        return {"q": draw.normal(b, h, n, d), "k": draw.normal(b, g, m, d), "v": draw.normal(b, g, m, dv)}

    yield "six_over_two", ("HEADS-GROUP",), grouped(1, 6, 2, 5, 7, 8, 8)
    yield "six_over_three", ("HEADS-GROUP",), grouped(2, 6, 3, 5, 11, 8, 8)
    yield "multi_query", ("HEADS-GROUP",), grouped(2, 4, 1, 5, 7, 8, 8)
    yield "causal", ("HEADS-GROUP",), {**grouped(2, 6, 3, 7, 7, 8, 8), "mask": masks.causal()}
    per_sequence = draw.rng.random((3, 1, 5, 7)) < 0.6
    per_sequence[..., 2] = True
    yield "mask_as_groups", ("HEADS-OPTIONS",), {**grouped(3, 6, 3, 5, 7, 8, 8), "mask": per_sequence}
    yield "sinks", ("HEADS-OPTIONS",), {**grouped(2, 6, 2, 5, 7, 8, 8), "sinks": draw.normal(6, scale=2.0)}
    yield "bias_of_heads", ("HEADS-OPTIONS",), {**grouped(2, 6, 2, 5, 7, 8, 8), "bias": draw.normal(6, 5, 7)}
    yield "decode", ("HEADS-GROUP",), {**grouped(2, 6, 3, 1, 37, 16, 8), "mask": masks.causal(), "scale": 0.3}
    yield "lse", ("HEADS-OPTIONS",), {**grouped(2, 6, 3, 5, 7, 8, 4), "return_lse": True}
    x = grouped(2, 6, 3, 7, 7, 8, 8)
    yield "strides", ("HEADS-GROUP",), {name: layouts.tokens_first(a) for name, a in x.items()}
    for name, given in each_option(draw, 6):
        yield f"option_{name}", ("HEADS-OPTIONS",), {**grouped(2, 6, 2, 5, 7, 8, 6), **given}
    for name, given in emptied_rows(draw, 6):
        yield f"emptied_by_{name}", ("HEADS-OPTIONS",), {**grouped(2, 6, 3, 5, 7, 8, 6), **given, "return_lse": True}
    for shape, (n, m) in SHAPES.items():
        for name, rule in every_rule(n, m).items():
            yield f"rule_{name}_{shape}", ("HEADS-OPTIONS",), {**grouped(2, 4, 2, n, m, 8, 6), "mask": rule}
    yield "square", ("HEADS-GROUP",), grouped(2, 6, 3, 6, 6, 6, 6)
    x = grouped(2, 6, 3, 1, 37, 16, 8)
    yield "decode_large", ("HEADS-GROUP",), {**x, "q": draw.round(x["q"] * 64.0)}
    yield "decode_scale_negative", ("HEADS-GROUP",), {**x, "scale": -0.5}


def multi_queries(draw: Draw, effort: str) -> Iterator[Case]:
    """Every option alone, one step over a cache, and as many queries as keys and features."""

    def case(n, m, d=8, dv=6):
        return {"q": draw.normal(2, 4, n, d), "k": draw.normal(2, m, d), "v": draw.normal(2, m, dv)}

    x = case(5, 7)
    yield "plain", ("HEADS-MQA",), x
    yield "decode", ("HEADS-MQA",), {**case(1, 37), "mask": masks.causal()}
    yield "square", ("HEADS-MQA",), case(6, 6, 6, 6)
    yield "peaked", ("HEADS-MQA",), {**x, "q": draw.round(x["q"] * 16.0)}
    yield "large", ("HEADS-MQA",), {**x, "q": draw.round(x["q"] * 64.0), "k": draw.round(x["k"] * 16.0)}
    yield "values_offset", ("HEADS-MQA",), {**x, "v": draw.round(x["v"] + 30.0)}
    for name, given in each_option(draw, 4):
        yield name, ("HEADS-MQA",), {**x, **given}


def layer(draw: Draw, packed: bool = False, h: int = 4, g: int = 2, d: int = 8, dv: int = 3, e: int = 10) -> dict:
    """Tokens and weights of a layer of multi-head attention."""
    widths = {"q": h * d, "k": g * d, "v": g * dv}
    w = {name: draw.normal(e, width, scale=e**-0.5) for name, width in widths.items()}
    b = {name: draw.normal(width) for name, width in widths.items()}
    last = {"w_o": draw.normal(h * dv, 6, scale=0.3), "b_o": draw.normal(6)}
    norms = {"q_norm": draw.normal(d), "k_norm": draw.normal(d)}
    params: PackedMultiHeadParams | MultiHeadParams
    if packed:
        whole = {"w_qkv": np.concatenate(list(w.values()), axis=1), "b_qkv": np.concatenate(list(b.values()))}
        params = PackedMultiHeadParams(**whole, **last, **norms)
    else:
        each = {f"{kind}_{name}": x for kind, given in (("w", w), ("b", b)) for name, x in given.items()}
        params = MultiHeadParams(**each, **last, **norms)
    x = draw.normal(2, 5, e)
    return {"x_q": x, "x_kv": None if packed else draw.normal(2, 7, e), "params": params, "heads": h, "kv_heads": g}


def layers(draw: Draw, effort: str) -> Iterator[Case]:
    """Every option alone, norms with an epsilon that decides, every rotation."""
    apart, packed = layer(draw), layer(draw, packed=True)
    yield "norms", ("MHA-QKNORM",), apart
    yield "norms_packed", ("MHA-QKNORM",), packed
    yield "eps", ("MHA-QKNORM",), {**apart, "qk_norm_eps": 0.5}
    for name, given in each_option(draw, 4):
        yield name, ("MHA-OPTIONS",), {**apart, **given}
    ropes = {"base": Rope(100.0), "half": Rope(layout="half"), "part": Rope(rotary_dim=4)}
    ropes |= {name: Rope(100.0, scaling=scaling) for name, scaling in scalings().items()}
    for name, rope in ropes.items():
        yield f"rope_{name}", ("MHA-ROPE",), {**packed, "rope": rope, "q_positions": np.arange(5) * 9}


def random_layer(draw: Draw) -> dict:
    """A random call of multi_head_attention: groups, biases, norms, packed weights, self- and cross-attention, any option."""
    b, n, e = draw.between(1, 3), draw.between(2, 7), draw.pick(4, 6, 8)
    g = draw.between(1, 3)
    h, d, dv = g * draw.between(1, 3), 2 * draw.between(1, 3), draw.between(2, 5)
    cross, biased = draw.chance(0.4), draw.chance(0.6)
    m = draw.between(2, 9) if cross else n
    sizes = {"q": (e, h * d), "k": (e, g * d), "v": (e, g * dv), "o": (h * dv, e)}
    w = {f"w_{name}": draw.normal(*size, scale=draw.pick(1.0, 2.0) * size[0] ** -0.5) for name, size in sizes.items()}
    bias = {f"b_{name}": draw.normal(size[1]) if biased else None for name, size in sizes.items()}
    norm = draw.pick(None, "head", "width")
    norms = {"q_norm": (d, h * d), "k_norm": (d, g * d)} if norm else {}
    apart = MultiHeadParams(**w, **bias, **{name: draw.normal(size[norm == "width"]) for name, size in norms.items()})
    together = draw.chance(0.4) and not cross
    params = packed_of(apart._replace(q_norm=None, k_norm=None)) if together else apart
    b = h if draw.chance(0.2) else b
    given: dict = {
        "x_q": draw.normal(b, n, e),
        "x_kv": draw.normal(b, m, e) if cross else None,
        "params": params,
        "heads": h,
    }
    given |= {"kv_heads": g, "mask": of_masks.mask(draw, b, h, n, m)}
    if draw.chance(0.2):
        given["bias"] = draw.normal(h, n, m, scale=2.0)
    if draw.chance(0.2):
        given["dropout"] = (draw.where(0.7, n, m), 0.25)
    if draw.chance(0.4):
        given["rope"] = Rope(layout=draw.pick("interleaved", "half"))
    if draw.chance(0.3):
        given["scale"] = 0.3
    if draw.chance(0.3) and not of_masks.has_data(given["mask"]):
        given["q_positions"], given["k_positions"] = 5 + np.arange(n), 3 + np.arange(m)
    if draw.chance(0.2):
        given["softcap"] = 1.5
    if draw.chance(0.2):
        given["sinks"] = draw.normal(h)
    return given


def packed_of(p: MultiHeadParams) -> PackedMultiHeadParams:
    """The weights of queries, keys and values side by side."""
    b = None if p.b_q is None else np.concatenate([p.b_q, p.b_k, p.b_v])
    w = np.concatenate([p.w_q, p.w_k, p.w_v], axis=1)
    return PackedMultiHeadParams(w_qkv=w, w_o=p.w_o, b_qkv=b, b_o=p.b_o, q_norm=p.q_norm, k_norm=p.k_norm)


def split(draw: Draw) -> dict:
    """A random call of split_heads."""
    heads, size = draw.between(2, 4), draw.between(2, 5)
    return {"x": draw.normal(2, draw.between(2, 6), heads * size), "heads": heads}


def merged(draw: Draw) -> dict:
    """A random call of merge_heads."""
    return {"x": draw.normal(2, draw.between(2, 4), draw.between(2, 6), draw.between(2, 5))}
