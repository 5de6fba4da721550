"""Strided attention of the Sparse Transformer and its gradients."""

from __future__ import annotations

import numpy as np

from refattn import masks
from refattn.sparse import strided_attention, strided_attention_vjp
from refattn.sparse.rules import both
from refattn.testing.inputs import Draw
from refattn.testing.mechanisms.gradients.inputs import with_cotangents
from refattn.testing.mechanisms.sparse.counted import as_attention, of_rules
from refattn.testing.mechanisms.sparse.inputs import parts_of_heads, plain, restricted, same_parts, square
from refattn.testing.registry import NotApplicable, variant
from refattn.testing.subject import Equal, Subject
from refattn.tiled import tiled_attention

PARTS = ("merged", "local", "strided")


def random(draw: Draw) -> dict:
    """A random call: merged heads, one set, or a part for each head."""
    given = {name: x for name, x in restricted(draw).items() if name not in ("q_tile", "k_tile")}
    return given | {"stride": draw.pick(2, 3, 5, 1, 7, 40), "part": parts_of_heads(draw, given["q"], PARTS)}


def rule_of(stride, part) -> masks.Mask:
    """The rule of a part."""
    if part == "merged":
        return masks.strided(stride)
    return masks.window(stride, 0) if part == "local" else masks.dilated(None, 0, stride)


def dense(stride, part="merged", mask=None, **given):
    """Attention under the rule of the part; where heads have different ones, under an array."""
    if isinstance(part, str):
        return {**given, "mask": both(rule_of(stride, part), mask)}
    return as_attention(
        count=np.stack(of_rules([rule_of(stride, x) for x in part], **given), axis=-3), mask=mask, **given
    )


def dense_vjp(d_out, **given):
    """Its gradients."""
    return {"d_out": d_out, **dense(**given)}


STRIDED_ATTENTION = Subject(
    strided_attention,
    random,
    "STRIDED-MERGED",
    equals=Equal("tiled_attention", dense),
    related=lambda draw: plain(draw) | {"stride": 3},
    pictured=lambda n, m: {"stride": 4},
    follow=same_parts,
)
STRIDED_ATTENTION_VJP = Subject(
    strided_attention_vjp,
    lambda draw: with_cotangents(draw, random(draw)),
    "STRIDED-GRADIENT",
    square("STRIDED-GRADIENT", stride=2),
    equals=Equal("tiled_attention_vjp", dense_vjp),
    follow=same_parts,
)


def _under(rule, given):
    """Attention under another rule."""
    own = {name: x for name, x in given.items() if name not in ("stride", "part", "mask")}
    return tiled_attention(mask=both(rule, given.get("mask")), **own)


def _only(given, *parts):
    """The stride, where the part is one of some."""
    if given.get("part", "merged") not in parts:
        raise NotApplicable
    return given["stride"]


@variant("strided/overlap_twice", "STRIDED-MERGED", "sparse.strided_attention")
def overlap_twice(**given):
    """Both sets are attended to apart and merged by their log-sum-exp: keys at the distances 0 and l count twice."""
    stride = _only(given, "merged")
    own = {name: x for name, x in given.items() if name not in ("stride", "part")}
    sets = [masks.window(stride, 0), masks.dilated(None, 0, stride)]
    return tiled_attention(**as_attention(count=np.sum(of_rules(sets, **own), axis=0), **own))


@variant("strided/mean_of_sets", "STRIDED-MERGED", "sparse.strided_attention")
def mean_of_sets(**given):
    """The mean of the outputs over either set, each with a softmax of its own."""
    _only(given, "merged")
    sets = (strided_attention(**given | {"part": part, "return_lse": False}) for part in ("local", "strided"))
    mean = sum(sets) / 2
    return (mean, strided_attention(**given)[1]) if given.get("return_lse") else mean


@variant("strided/local_of_code", "STRIDED-LOCAL", "sparse.strided_attention", seen=["openai/sparse_attention"])
def local_of_code(**given):
    """The local set has as many keys as the stride, the query's own included: one fewer than in the paper."""
    return _under(masks.window(_only(given, "local") - 1, 0), given)


@variant("strided/columns", "STRIDED-FAR", "sparse.strided_attention")
def columns(**given):
    """The far keys stand at the multiples of the stride, whatever the position of the query."""
    stride = _only(given, "strided")
    return _under(masks.causal() & masks.Mask(lambda i, j: j % stride == 0), given)


@variant("strided/by_index", "STRIDED-FAR", "sparse.strided_attention")
def by_index(**given):
    """Queries and keys are dealt out by their indices, so that a query among the last N has the remainder of another."""
    n, m, stride = given["q"].shape[-2], given["k"].shape[-2], _only(given, "strided")
    if given.get("q_positions") is not None or (m - n) % stride == 0:
        raise NotApplicable
    return strided_attention(**given | {"q_positions": np.arange(n) + (m - n) // stride * stride})


@variant("strided/other_set", "STRIDED-LOCAL", "sparse.strided_attention")
def other_set(**given):
    """Layers take turns in the other order: the set of the other one."""
    _only(given, "local", "strided")
    return strided_attention(**given | {"part": {"local": "strided", "strided": "local"}[given["part"]]})


@variant("strided/part_of_first_head", "STRIDED-PART", "sparse.strided_attention")
def part_of_first_head(**given):
    """All heads have the part of the first."""
    if isinstance(given.get("part", "merged"), str) or len({*given["part"]}) < 2:
        raise NotApplicable
    return strided_attention(**given | {"part": given["part"][0]})
