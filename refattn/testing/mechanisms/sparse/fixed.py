"""Fixed attention of the Sparse Transformer and its gradients."""

from __future__ import annotations

import numpy as np

from refattn import masks
from refattn.sparse import fixed_attention, fixed_attention_vjp
from refattn.sparse.rules import both
from refattn.testing.inputs import Draw
from refattn.testing.mechanisms.gradients.inputs import with_cotangents
from refattn.testing.mechanisms.sparse.counted import as_attention, of_rules
from refattn.testing.mechanisms.sparse.inputs import parts_of_heads, plain, restricted, same_parts, square
from refattn.testing.registry import NotApplicable, variant
from refattn.testing.subject import Equal, Subject
from refattn.tiled import tiled_attention

PARTS = ("merged", "local", "summary")
OWN = ("stride", "summary", "sub_block", "part")


def random(draw: Draw) -> dict:
    """A random call: merged heads, one set, or a part for each head; summaries of some positions, or of all."""
    given = {name: x for name, x in restricted(draw).items() if name not in ("q_tile", "k_tile")}
    stride, summary = draw.pick((4, 1), (3, 1), (5, 2), (2, 1), (3, 3), (6, 2), (1, 1), (40, 9))
    blocks: int | np.ndarray = draw.between(0, stride // summary - 1)
    if given["q"].ndim > 2 and draw.chance(0.3):
        blocks = draw.integers(0, stride // summary - 1, given["q"].shape[-3])
    own = {"stride": stride, "summary": summary, "sub_block": blocks}
    return given | own | {"part": parts_of_heads(draw, given["q"], PARTS)}


def summary_of(stride, summary, sub_block) -> masks.Mask:
    """The rule of the summary set."""
    return masks.causal() & masks.Mask(lambda i, j: (stride - 1 - j % stride) // summary == sub_block)


def rule_of(stride, summary, sub_block, part) -> masks.Mask:
    """The rule of a part."""
    if part == "local":
        return masks.chunked(stride)
    if part == "merged" and sub_block == 0:
        return masks.fixed(stride, summary)
    at = summary_of(stride, summary, sub_block)
    return at if part == "summary" else masks.chunked(stride) | at


def dense(stride, summary=1, sub_block=0, part="merged", mask=None, **given):
    """Attention under the rule of the part; where heads have different ones, under an array."""
    if isinstance(part, str) and np.ndim(sub_block) == 0:
        return {**given, "mask": both(rule_of(stride, summary, int(sub_block), part), mask)}
    heads = len(sub_block) if isinstance(part, str) else len(part)
    parts, blocks = [part] * heads if isinstance(part, str) else part, np.broadcast_to(sub_block, (heads,))
    rules = [rule_of(stride, summary, int(b), x) for b, x in zip(blocks, parts, strict=True)]
    return as_attention(count=np.stack(of_rules(rules, **given), axis=-3), mask=mask, **given)


def dense_vjp(d_out, **given):
    """Its gradients."""
    return {"d_out": d_out, **dense(**given)}


FIXED_ATTENTION = Subject(
    fixed_attention,
    random,
    "FIXED-MERGED",
    equals=Equal("tiled_attention", dense),
    related=lambda draw: plain(draw) | {"stride": 3},
    pictured=lambda n, m: {"stride": 4},
    follow=same_parts,
)
FIXED_ATTENTION_VJP = Subject(
    fixed_attention_vjp,
    lambda draw: with_cotangents(draw, random(draw)),
    "FIXED-GRADIENT",
    square("FIXED-GRADIENT", stride=3),
    equals=Equal("tiled_attention_vjp", dense_vjp),
    follow=same_parts,
)


def _of(given, *parts):
    """Stride, summary and sub-block of a call whose part is one of some, and its other arguments."""
    block = given.get("sub_block", 0)
    if given.get("part", "merged") not in parts or np.ndim(block):
        raise NotApplicable
    return given["stride"], given.get("summary", 1), int(block), {x: y for x, y in given.items() if x not in OWN}


def _under(rule, given):
    """Attention under another rule."""
    return tiled_attention(**given | {"mask": both(rule, given.get("mask"))})


@variant("fixed/overlap_twice", "FIXED-MERGED", "sparse.fixed_attention")
def overlap_twice(**given):
    """Both sets are attended to apart and merged by their log-sum-exp: summaries in the own block count twice."""
    stride, summary, block, own = _of(given, "merged")
    sets = [masks.chunked(stride), summary_of(stride, summary, block)]
    return tiled_attention(**as_attention(count=np.sum(of_rules(sets, **own), axis=0), **own))


@variant("fixed/mean_of_sets", "FIXED-MERGED", "sparse.fixed_attention")
def mean_of_sets(**given):
    """The mean of the outputs over either set, each with a softmax of its own."""
    _of(given, "merged")
    sets = (fixed_attention(**given | {"part": part, "return_lse": False}) for part in ("local", "summary"))
    mean = sum(sets) / 2
    return (mean, fixed_attention(**given)[1]) if given.get("return_lse") else mean


@variant("fixed/sub_blocks_from_start", "FIXED-SUB-BLOCK", "sparse.fixed_attention")
def sub_blocks_from_start(**given):
    """Sub-blocks are counted from the start of a block, so that the first one is a summary of what comes after it."""
    stride, summary, block, own = _of(given, "merged", "summary")
    if block == 0 and given.get("part", "merged") == "merged":  # fixed/first_of_block
        raise NotApplicable
    at = masks.causal() & masks.Mask(lambda i, j: j % stride // summary == block)
    return _under(at if given.get("part") == "summary" else masks.chunked(stride) | at, own)


@variant("fixed/block_whole", "FIXED-LOCAL", "sparse.fixed_attention", seen=["DeepSpeed (FixedSparsityConfig alone)"])
def block_whole(**given):
    """The own block is seen whole, later positions included, as a layout of blocks without a mask of positions has it."""
    stride, summary, block, own = _of(given, "merged", "local")
    far = summary_of(stride, summary, block)
    return _under(masks.block(stride) | far if given.get("part", "merged") == "merged" else masks.block(stride), own)


@variant("fixed/sub_block_of_first_head", "FIXED-SUB-BLOCK", "sparse.fixed_attention")
def sub_block_of_first_head(**given):
    """All heads read the sub-block of the first."""
    if np.ndim(given.get("sub_block", 0)) == 0:
        raise NotApplicable
    return fixed_attention(**given | {"sub_block": int(given["sub_block"][0])})


@variant("fixed/part_of_first_head", "FIXED-PART", "sparse.fixed_attention")
def part_of_first_head(**given):
    """All heads have the part of the first."""
    if isinstance(given.get("part", "merged"), str) or len({*given["part"]}) < 2:
        raise NotApplicable
    return fixed_attention(**given | {"part": given["part"][0]})
