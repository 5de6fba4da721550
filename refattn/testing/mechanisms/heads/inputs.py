"""Inputs for layers and functions of heads: every option of each, weights packed and apart, every rotation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refattn import masks
from refattn.heads import MultiHeadParams, PackedMultiHeadParams, Rope
from refattn.testing.mechanisms.attention.options import each_option
from refattn.testing.mechanisms.positions.inputs import scalings
from refattn.testing.recipes import Draw, Recipe, recipe


@recipe("attention_weights")
def weights_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """Every option alone."""
    x = {"q": draw.normal(2, 3, 5, 8), "k": draw.normal(2, 3, 7, 8)}
    yield "plain", ("ATTN-WEIGHTS",), x
    for name, given in each_option(draw, 3):
        yield name, ("ATTN-WEIGHTS",), {**x, **given}


@recipe("multi_query_attention")
def multi_query_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
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


@recipe("multi_query_attention_vjp")
def multi_query_vjp_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """What `multi_query_attention` gets, and cotangents of the output and of the log-sum-exp."""
    for name, _, given in multi_query_recipes(draw, effort):
        d_out = draw.normal(*given["q"].shape[:-1], given["v"].shape[-1])
        d_lse = {"d_lse": draw.normal(*given["q"].shape[:-1])} if name != "square" else {}
        yield name, ("GRAD-GROUP",), {"d_out": d_out, **d_lse, **given}


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


@recipe("multi_head_attention")
def layer_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
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


@recipe("multi_head_attention_vjp")
def layer_vjp_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """What the layer gets, and cotangents."""
    for name, _, given in layer_recipes(draw, effort):
        yield name, ("GRAD-MHA",), {"d_out": draw.normal(2, 5, 6), **given}
    square = MultiHeadParams(*(draw.normal(6, 6, scale=0.5) for _ in range(4)))
    given = {"d_out": draw.normal(6, 6), "x_q": draw.normal(6, 6), "x_kv": None, "params": square, "heads": 2}
    yield "square", ("GRAD-MHA",), given
