"""Block-sparse attention and its gradients."""

from __future__ import annotations

import numpy as np

from refattn.sparse import block_attention, block_attention_vjp
from refattn.testing.inputs import Draw
from refattn.testing.mechanisms.gradients.inputs import with_cotangents
from refattn.testing.mechanisms.sparse.counted import as_attention
from refattn.testing.mechanisms.sparse.inputs import plain, restricted, square
from refattn.testing.registry import NotApplicable, variant
from refattn.testing.subject import Equal, Subject
from refattn.tiled import tiled_attention


def random(draw: Draw) -> dict:
    """A random call: a layout for all heads or for each, with any blocks, some rows without one."""
    size = draw.pick(2, 3, 4, 1, 16)
    given = {name: x for name, x in restricted(draw).items() if name not in ("q_tile", "k_tile")}
    q, m = given["q"], given["k"].shape[-2]
    heads = draw.pick((), (q.shape[-3],)) if q.ndim > 2 else ()
    return given | {"layout": draw.where(0.5, *heads, -(-m // size), -(-m // size)), "size": size}


def related(draw: Draw) -> dict:
    """A call with a layout of some of the blocks."""
    layout = np.array([[1, 0, 0, 1], [1, 1, 0, 0], [0, 1, 0, 1], [1, 0, 1, 0]], dtype=bool)
    return plain(draw) | {"layout": layout, "size": 2}


def pictured(n: int, m: int) -> dict:
    """The block of each row, the one before it, and the first."""
    rows = np.arange(-(-m // 3))
    return {"layout": (rows[:, None] - rows <= 1) & (rows[:, None] >= rows) | (rows == 0), "size": 3}


def joined(layout, size, places, m):
    """Which queries at some places, and which of m keys, have blocks that the layout joins."""
    found = layout[..., np.maximum(places, 0) // size, :][..., np.arange(m) // size]
    return found & (places >= 0)[:, None]


def dense(layout, size, **given):
    """Attention under the mask that the layout is."""
    n, m = given["q"].shape[-2], given["k"].shape[-2]
    return as_attention(count=joined(layout, size, np.arange(m - n, m), m).astype(float), **given)


def dense_vjp(d_out, **given):
    """Its gradients."""
    return {"d_out": d_out, **dense(**given)}


BLOCK_ATTENTION = Subject(
    block_attention, random, "BLOCK-KEYS", equals=Equal("tiled_attention", dense), related=related, pictured=pictured
)
BLOCK_ATTENTION_VJP = Subject(
    block_attention_vjp,
    lambda draw: with_cotangents(draw, random(draw)),
    "BLOCK-GRADIENT",
    square("BLOCK-GRADIENT", layout=np.array([[1, 0, 1], [1, 1, 0], [0, 1, 1]], dtype=bool), size=2),
    equals=Equal("tiled_attention_vjp", dense_vjp),
)


@variant("block/layout_transposed", "BLOCK-KEYS", "sparse.block_attention")
def layout_transposed(**given):
    """Rows of the layout are read as blocks of keys."""
    return block_attention(**given | {"layout": np.swapaxes(given["layout"], -1, -2).copy()})


@variant("block/top_left", "BLOCK-ALIGN", "sparse.block_attention")
def top_left(layout, size, **given):
    """Query i stands at place i: its row of the layout is that of the first keys."""
    n, m = given["q"].shape[-2], given["k"].shape[-2]
    if n >= m:
        raise NotApplicable
    return tiled_attention(**as_attention(count=joined(layout, size, np.arange(n), m).astype(float), **given))


@variant("block/mask_of_blocks", "BLOCK-MASK", "sparse.block_attention")
def mask_of_blocks(layout, size, mask=None, q_positions=None, k_positions=None, **given):
    """A block of which the mask admits any pair is taken whole: causality leaks within the blocks on the diagonal."""
    n, m = given["q"].shape[-2], given["k"].shape[-2]
    if mask is None or n > m or not n:
        raise NotApplicable
    places, at = np.arange(m - n, m), {"q_positions": q_positions, "k_positions": k_positions}
    seen = mask.dense(n, m, **at, like=given["q"])
    of_keys = np.logical_or.reduceat(seen, np.arange(0, m, size), axis=-1)
    starts = np.flatnonzero(np.diff(places // size, prepend=-1))
    whole = np.logical_or.reduceat(of_keys, starts, axis=-2)[..., places // size - places[0] // size, :]
    count = joined(layout, size, places, m) & whole[..., np.arange(m) // size]
    return tiled_attention(**as_attention(count=count.astype(float), **at, **given))


@variant("block/short_block_filled", "BLOCK-LAST", "sparse.block_attention")
def short_block_filled(layout, size, mask=None, **given):
    """The last block is filled up with zeros, which take part."""
    n, m = given["q"].shape[-2], given["k"].shape[-2]
    others = {x for x in ("bias", "dropout", "q_positions", "k_positions") if given.get(x) is not None}
    if m % size == 0 or mask is not None or others:
        raise NotApplicable
    more = {x: np.pad(given[x], [(0, 0)] * (given[x].ndim - 2) + [(0, -m % size), (0, 0)]) for x in "kv"}
    count = joined(layout, size, np.arange(m - n, m), m + -m % size).astype(float)
    at = {"q_positions": np.arange(m - n, m)}
    return tiled_attention(**as_attention(count=count, **at, **given | more))


@variant("block/layout_of_first", "BLOCK-HEADS", "sparse.block_attention")
def layout_of_first(**given):
    """The layout of the first head, or sequence, stands for all."""
    if given["layout"].ndim < 3:
        raise NotApplicable
    first = given["layout"].reshape(-1, *given["layout"].shape[-2:])[0]
    return block_attention(**given | {"layout": first})
