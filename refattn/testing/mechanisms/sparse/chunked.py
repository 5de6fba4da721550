"""Chunked attention and its gradients."""

from __future__ import annotations

from refattn import masks
from refattn.sparse import chunked_attention, chunked_attention_vjp
from refattn.sparse.rules import both
from refattn.testing.inputs import Draw
from refattn.testing.mechanisms.gradients.inputs import with_cotangents
from refattn.testing.mechanisms.sparse.inputs import plain, restricted, square
from refattn.testing.registry import NotApplicable, variant
from refattn.testing.subject import Equal, Subject


def random(draw: Draw) -> dict:
    """A random call: chunks of some tokens to more than there are."""
    size = draw.pick(3, 4, 5, 7, 16, 300)
    return restricted(draw) | {"size": size}


def dense(size, mask=None, **given):
    """Attention under the rule of the chunks."""
    return {**given, "mask": both(masks.chunked(size), mask)}


CHUNKED_ATTENTION = Subject(
    chunked_attention,
    random,
    "CHUNK-KEYS",
    equals=Equal("tiled_attention", dense),
    related=lambda draw: plain(draw) | {"size": 3},
    pictured=lambda n, m: {"size": 5},
)
CHUNKED_ATTENTION_VJP = Subject(
    chunked_attention_vjp,
    lambda draw: with_cotangents(draw, random(draw)),
    "CHUNK-GRADIENT",
    square("CHUNK-GRADIENT", size=3),
    equals=Equal("tiled_attention_vjp", dense),
)


@variant("chunked/top_left", "CHUNK-POSITIONS", "sparse.chunked_attention")
def top_left(q, k, v, size, mask=None, **given):
    """Query i sits at position i: its chunk is that of the first keys, although queries are the last N of M."""
    n, m = q.shape[-2], k.shape[-2]
    if given.get("q_positions") is not None or n == m:
        raise NotApplicable
    rule = masks.Mask(lambda i, j: masks.chunked(size).admits(i - (m - n), j))
    return chunked_attention(**{**given, "q": q, "k": k, "v": v, "size": 2**40, "mask": both(rule, mask)})
