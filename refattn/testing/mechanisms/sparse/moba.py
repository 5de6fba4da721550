"""Mixture of block attention: in numbers, the choice is a mask.

Calls are made so that rounding exchanges no blocks: the products of a query with the means of two blocks differ by about
1 at least, or are equal and made of small integers.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refattn.sparse import moba_attention, moba_attention_vjp, moba_blocks
from refattn.testing.inputs import Case, Draw
from refattn.testing.mechanisms.gradients.inputs import with_cotangents
from refattn.testing.mechanisms.sparse.counted import as_attention
from refattn.testing.mechanisms.sparse.inputs import plain, restricted
from refattn.testing.mechanisms.tiled.variants import repeated
from refattn.testing.registry import NotApplicable, variant
from refattn.testing.roundoff import Bound
from refattn.testing.subject import Equal, Subject
from refattn.tiled import tiled_attention

_LEFT = ("q_tile", "k_tile", "q_positions", "k_positions")


def apart(draw: Draw, given: dict, size: int) -> dict:
    """The call with other q and k: the mean keys of blocks are different integers times the first unit vector."""
    q, k = (draw.rng.normal(size=given[name].shape) for name in ("q", "k"))
    m = k.shape[-2]
    whole = k[..., : m // size * size, :].reshape(*k.shape[:-2], m // size, size, k.shape[-1])
    whole -= whole.mean(axis=-2, keepdims=True)
    order = np.argsort(draw.rng.random(whole.shape[:-2]), axis=-1) - (m // size) // 2
    whole[..., 0] += order[..., None]
    k[..., : m // size * size, :] = whole.reshape(*k.shape[:-2], -1, k.shape[-1])
    q[..., 0] = draw.rng.choice([1.0, -1.0, 2.0, -2.0], q.shape[:-1])
    return given | {"q": draw.round(q), "k": draw.round(k), "size": size}


def random(draw: Draw) -> dict:
    """A random call: few blocks of any size, of which few or all are kept."""
    given = {name: x for name, x in restricted(draw).items() if name not in _LEFT}
    size = max(draw.pick(2, 3, 4, 1, 16), -(-given["k"].shape[-2] // 9))
    return apart(draw, given, size) | {"kept": draw.pick(2, 3, 1, 4, 12)}


def tied(draw: Draw) -> dict:
    """A call whose products are small integers, many of them equal."""
    given = plain(draw, b=1, h=2, n=7, m=12, d=3, dv=5)
    q, k = (draw.integers(-1, 1, *given[name].shape).astype(float) for name in ("q", "k"))
    return given | {"q": q, "k": k, "size": 2, "kept": 3}


def directed(draw: Draw, effort: str) -> Iterator[Case]:
    """One block; all blocks; equal means; decoding; more queries than keys."""
    for kept in (1, 2, 9):
        yield f"kept_{kept}", ("MOBA-OWN",), apart(draw, plain(draw, n=13, m=13), 3) | {"kept": kept}
    yield "ties", ("MOBA-TIES",), tied(draw)
    for n, m, name in ((1, 12, "decode_full"), (1, 13, "decode_short"), (9, 4, "tall")):
        given = apart(draw, plain(draw, n=n, m=m), 3) | {"kept": 2, "return_lse": True}
        yield name, ("MOBA-PAST",), given


def square(draw: Draw, effort: str) -> Iterator[Case]:
    """All sizes are equal, so that sums over the wrong axis have the right shape."""
    given = apart(draw, plain(draw, h=6, n=6, m=6, d=6, dv=6), 2)
    yield "square", ("MOBA-GRADIENT",), with_cotangents(draw, given | {"kept": 2})


def pictured(n: int, m: int) -> dict:
    """Blocks of which now the first, now the last of the past suits best."""
    rising = np.arange(m)[:, None] / max(1, m)
    return {"size": 3, "kept": 2, "q": np.where(np.arange(n) % 2, 1.0, -1.0)[:, None], "k": rising}


def chosen(q, k, size, kept, own=None, ties=1):
    """Which blocks (..., N, R) each query chooses; `own` are the blocks that queries stand in."""
    n, m = q.shape[-2], k.shape[-2]
    blocks = np.arange(-(-m // size))
    own = (np.arange(m - n, m) // size)[:, None] if own is None else own
    whole = k[..., : m // size * size, :].reshape(*k.shape[:-2], m // size, size, k.shape[-1])
    products = q @ np.swapaxes(np.mean(whole, axis=-2, dtype=np.float64), -1, -2)
    products = np.pad(products, [(0, 0)] * (products.ndim - 1) + [(0, len(blocks) - m // size)])
    products = np.where(blocks < own, np.where(np.isnan(products), np.inf, products), -np.inf)
    order = np.argsort(-products[..., ::ties], axis=-1, kind="stable")
    place = np.argsort(order, axis=-1, kind="stable")[..., ::ties]
    return (blocks == own) | ((blocks < own) & (place < kept - 1))


def past(n, m):
    """Which keys are not behind their query."""
    return np.arange(m) <= np.arange(m - n, m)[:, None]


def under(blocks, *, size, kept, causal=True, **given):
    """Arguments of tiled attention to the keys of blocks."""
    n, m = given["q"].shape[-2], given["k"].shape[-2]
    count = blocks[..., np.arange(m) // size] & (past(n, m) if causal else True)
    return as_attention(count=count.astype(float), **given)


def shared(q, k):
    """k with a head for each query head."""
    return repeated(q, k, k)[0]


def dense(size, kept, **given):
    """Attention under the choice as a mask."""
    blocks = chosen(given["q"], shared(given["q"], given["k"]), size, kept)
    return under(blocks, size=size, kept=kept, **given)


def dense_vjp(d_out, **given):
    """Its gradients."""
    return {"d_out": d_out, **dense(**given)}


def random_blocks(draw: Draw) -> dict:
    """A random call of the choice alone, now and then with equal products."""
    given = tied(draw) if draw.chance(0.3) else random(draw)
    return {name: given[name] for name in ("q", "k", "size", "kept")}


def blocks_bound(profile, q, k, size, kept):
    """Integers: products are apart by more than rounding, so there is one right choice."""
    q, k = (np.asarray(x, dtype=np.float64) for x in (q, k))
    blocks = np.asarray(moba_blocks(q, k, size, kept))
    return {"blocks": Bound(blocks.astype(np.float64), np.zeros(blocks.shape))}


MOBA_ATTENTION = Subject(
    moba_attention,
    random,
    "MOBA-KEYS",
    directed,
    equals=Equal("tiled_attention", dense),
    related=lambda draw: apart(draw, plain(draw, n=5, m=9), 2) | {"kept": 2},
    pictured=pictured,
)
MOBA_ATTENTION_VJP = Subject(
    moba_attention_vjp,
    lambda draw: with_cotangents(draw, random(draw)),
    "MOBA-GRADIENT",
    square,
    equals=Equal("tiled_attention_vjp", dense_vjp),
)
MOBA_BLOCKS = Subject(moba_blocks, random_blocks, "MOBA-CHOICE", bound=blocks_bound)


# --- what only this mechanism gets wrong: the choice, or what is done with it --------------------------------------------


def _as_lists(blocks, m, size, kept):
    """Chosen blocks (..., N, R) as `moba_blocks` gives them: the first where there are too many."""
    width, none = min(kept, blocks.shape[-1]), blocks.shape[-1]
    found = np.sort(np.where(blocks, np.arange(none), none), axis=-1)[..., :width]
    return np.where(found == none, -1, found)


def _by(choose, **given):
    """The attention, or the blocks, by another choice: a function of q, k, size and kept."""
    q, k, size, kept = (given[name] for name in ("q", "k", "size", "kept"))
    if 0 in (*q.shape, *k.shape):
        raise NotApplicable
    blocks = choose(q, shared(q, k), size, kept)
    return tiled_attention(**under(blocks, **given)) if "v" in given else _as_lists(blocks, k.shape[-2], size, kept)


_BOTH = ("sparse.moba_attention", "sparse.moba_blocks")


@variant("moba/last_of_ties", "MOBA-TIES", *_BOTH, seen=["torch.topk on a CPU"])
def last_of_ties(**given):
    """Of blocks whose products are equal the last are chosen."""
    return _by(lambda q, k, size, kept: chosen(q, k, size, kept, ties=-1), **given)


@variant("moba/own_beside", "MOBA-OWN", *_BOTH)
def own_beside(**given):
    """The own block does not count: `kept` blocks of the past are chosen beside it."""
    if "v" not in given:
        kept = given["kept"] + 1
        found = moba_blocks(**given | {"kept": kept})
        return found[..., -min(given["kept"], found.shape[-1]) :]
    return _by(lambda q, k, size, kept: chosen(q, k, size, kept + 1), **given)


@variant("moba/least", "MOBA-CHOICE", *_BOTH)
def least(**given):
    """The blocks with the smallest products are chosen."""
    return _by(lambda q, k, size, kept: chosen(-q, k, size, kept), **given)


@variant("moba/one_more", "MOBA-CHOICE", "sparse.moba_attention")
def one_more(**given):
    """Everything that is at least the last product to be kept, one block too many."""
    return _by(lambda q, k, size, kept: chosen(q, k, size, kept + (kept > 1)), **given)


@variant("moba/first_keys", "MOBA-CHOICE", "sparse.moba_attention")
def first_keys(**given):
    """A block is known by its first key, not by the mean of its keys."""
    return _by(
        lambda q, k, size, kept: chosen(q, k[..., np.arange(k.shape[-2]) // size * size, :], size, kept), **given
    )


@variant("moba/all_past", "MOBA-CHOICE", *_BOTH)
def all_past(**given):
    """The first blocks of the past are chosen, whatever the products are."""
    return _by(lambda q, k, size, kept: chosen(q * 0.0, k, size, kept), **given)


@variant(
    "moba/all_past_of_one", "MOBA-OWN", "sparse.moba_attention",
    seen=["MoonshotAI/MoBA (moba_efficient.py)", "fla-org/flash-linear-attention (parallel_moba)"],
)  # fmt: skip
def all_past_of_one(**given):
    """One block to be kept is taken for attention to the whole past."""
    if given["kept"] != 1:
        raise NotApplicable
    return moba_attention(**given | {"kept": 2**31})


@variant("moba/not_past", "MOBA-KEYS", "sparse.moba_attention")
def not_past(**given):
    """The own block is attended to whole: its keys behind the query leak."""
    blocks = chosen(given["q"], shared(given["q"], given["k"]), given["size"], given["kept"])
    return tiled_attention(**under(blocks, causal=False, **given))


@variant("moba/top_left", "MOBA-PAST", "sparse.moba_attention")
def top_left(**given):
    """Query i stands at place i when blocks are chosen, although queries are the last N of M."""
    n, m = given["q"].shape[-2], given["k"].shape[-2]
    if n >= m:
        raise NotApplicable
    own = np.arange(n)[:, None] // given["size"]
    return _by(lambda q, k, size, kept: chosen(q, k, size, kept, own), **given)


@variant("moba/choice_of_first_head", "MOBA-HEADS", *_BOTH)
def choice_of_first_head(**given):
    """The blocks that the first head chooses are those of all heads."""
    if given["q"].ndim < 3 or given["q"].shape[-3] < 2:
        raise NotApplicable
    return _by(
        lambda q, k, size, kept: np.repeat(chosen(q, k, size, kept)[..., :1, :, :], q.shape[-3], axis=-3), **given
    )
