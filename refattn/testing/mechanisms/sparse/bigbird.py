"""BigBird and its gradients."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refattn.sparse import bigbird_attention, bigbird_attention_vjp
from refattn.testing.inputs import Case, Draw
from refattn.testing.mechanisms.gradients.inputs import with_cotangents
from refattn.testing.mechanisms.sparse.counted import as_attention, bound_of_gradients, own_bias
from refattn.testing.mechanisms.sparse.inputs import plain, restricted, square
from refattn.testing.registry import NotApplicable, variant
from refattn.testing.subject import Equal, Subject
from refattn.tiled import tiled_attention

OWN = ("size", "random_blocks", "extra", "repeats")


def random(draw: Draw) -> dict:
    """A random call: blocks of few keys, tables of all heads or of each, with and without extra tokens."""
    given = {name: x for name, x in restricted(draw).items() if name not in ("q_tile", "k_tile")}
    q, m = given["q"], given["k"].shape[-2]
    size, extra = draw.pick(1, 2, 1, 3, 16), draw.pick(0, 0, 0, 1, 3)
    blocks = max(0, -(-(m - extra) // size))
    heads = draw.pick((), (q.shape[-3],)) if q.ndim > 2 else ()
    table = draw.integers(-1, max(0, blocks - 1), *heads, max(0, blocks - 2), draw.between(0, 3))
    return given | {"size": size, "random_blocks": table, "extra": extra, "repeats": draw.pick("once", "count")}


def directed(draw: Draw, effort: str) -> Iterator[Case]:
    """Blocks that are there already, a short last block, and tokens in front of the first one."""
    given = plain(draw, n=9, m=9) | {"size": 2, "return_lse": True}
    over = {"random_blocks": np.array([[1, 3], [4, -1], [0, 0]])}
    for repeats in ("once", "count"):
        yield f"repeats_{repeats}", ("BIGBIRD-REPEATS",), given | over | {"repeats": repeats}
    yield (
        "table",
        ("BIGBIRD-RANDOM",),
        given | {"size": 1, "random_blocks": np.array([[3], [4], [5], [6], [7], [1], [2]])},
    )
    yield (
        "extra",
        ("BIGBIRD-EXTRA",),
        given | {"size": 1, "extra": 2, "random_blocks": np.array([[3], [4], [-1], [1], [2]])},
    )


def related(draw: Draw) -> dict:
    """A call in which no query sees all keys."""
    given = plain(draw, n=3, m=11)
    positions = {"q": given["q"], "k": given["k"][..., :7, :], "v": given["v"][..., :7, :]}
    return given | positions | {"size": 1, "random_blocks": np.array([[4], [5], [-1], [1], [0]])}


def pictured(n: int, m: int) -> dict:
    """Blocks of two, of one where there are few keys, with one of the table three blocks on."""
    size = 2 if m > 8 else 1
    blocks = -(-m // size)
    return {"size": size, "random_blocks": (np.arange(1, max(1, blocks - 1)) + 3)[:, None] % max(1, blocks)}


# --- as attention ----------------------------------------------------------------------------------------------------


def count(given, places=None, first=True, **changed):
    """How often each query attends to each key, (..., N, M)."""
    given = given | changed
    n, m, size, extra = given["q"].shape[-2], given["k"].shape[-2], given["size"], given.get("extra", 0)
    table, last = np.asarray(given["random_blocks"]), -(-(m - extra) // size) - 1
    places = np.arange(m - n, m) if places is None else places
    b, c = (places - extra)[:, None] // size, (np.arange(m) - extra) // size
    found = ((abs(b - c) <= 1) | (c == 0) | (c == last)).astype(float)
    row = np.clip(b[:, 0] - 1, 0, max(0, min(last, table.shape[-2] + 1) - 2))
    if table.shape[-2] and table.shape[-1]:
        named = (table[..., row, :, None] == np.where(c < 0, -2, c)).sum(axis=-2)
        found = found + np.where((b > 0) & (b < last), named, 0)
    if given.get("repeats", "once") == "once":
        found = np.minimum(found, 1.0)
    whole = (b == last) | (b == 0) if first else b != b
    found = np.where(whole | (places < extra)[:, None] | (np.arange(m) < extra), 1.0, found)
    return np.where((places < 0)[:, None], 0.0, found)


def counted(given, table):
    """Arguments of tiled_attention from a count."""
    return as_attention(count=table, **{name: x for name, x in given.items() if name not in OWN})


def dense(**given):
    """Attention over the keys of the blocks."""
    return counted(given, count(given))


def dense_vjp(d_out, **given):
    """Its gradients."""
    return {"d_out": d_out, **dense(**given)}


def vjp_bound(profile, **given):
    """The bound of the gradients of attention over the keys of the blocks."""
    return bound_of_gradients(profile, given, dense_vjp(**given))


BIGBIRD_ATTENTION = Subject(
    bigbird_attention,
    random,
    "BIGBIRD-KEYS",
    directed,
    equals=Equal("tiled_attention", dense),
    related=related,
    pictured=pictured,
)
BIGBIRD_ATTENTION_VJP = Subject(
    bigbird_attention_vjp,
    lambda draw: with_cotangents(draw, random(draw)),
    "BIGBIRD-GRADIENT",
    square("BIGBIRD-GRADIENT", size=1, random_blocks=np.array([[3], [-1], [1], [2]])),
    equals=Equal("tiled_attention_vjp", dense_vjp, own_bias),
    bound=vjp_bound,
)


# --- mistakes --------------------------------------------------------------------------------------------------------


def _with(given, table):
    if np.array_equal(table, np.broadcast_to(count(given), table.shape)):
        raise NotApplicable
    return tiled_attention(**counted(given, table))


@variant("bigbird/no_random", "BIGBIRD-RANDOM", "sparse.bigbird_attention")
def no_random(**given):
    """The table is not looked at."""
    return _with(given, count(given, random_blocks=given["random_blocks"] * 0 - 1))


@variant(
    "bigbird/table_of_zeros", "BIGBIRD-RANDOM", "sparse.bigbird_attention", seen=["huggingface/transformers#23056"]
)
def table_of_zeros(**given):
    """The table is zeros, so that block 0 counts once more for each column."""
    return _with(given, count(given, random_blocks=given["random_blocks"] * 0, repeats="count"))


@variant("bigbird/empty_is_last", "BIGBIRD-RANDOM", "sparse.bigbird_attention")
def empty_is_last(**given):
    """An empty place, -1, is an index from the end: the last block, once more."""
    last = -(-(given["k"].shape[-2] - given.get("extra", 0)) // given["size"]) - 1
    table = given["random_blocks"]
    return _with(given, count(given, random_blocks=np.where(table < 0, last, table), repeats="count"))


@variant("bigbird/table_of_all_rows", "BIGBIRD-RANDOM", "sparse.bigbird_attention")
def table_of_all_rows(**given):
    """The rows of the table are taken to begin with the first block: each block has those of the one behind it."""
    return _with(given, count(given, random_blocks=np.roll(given["random_blocks"], -1, axis=-2)))


@variant("bigbird/table_of_first_head", "BIGBIRD-RANDOM", "sparse.bigbird_attention")
def table_of_first_head(**given):
    """The table of the first head stands for all heads."""
    if given["random_blocks"].ndim < 3:
        raise NotApplicable
    return _with(given, np.broadcast_to(count(given)[..., :1, :, :], count(given).shape))


@variant("bigbird/rows_near", "BIGBIRD-GLOBAL", "sparse.bigbird_attention")
def rows_near(**given):
    """The first and the last block are seen by all, but see what is beside them."""
    return _with(given, count(given, first=False))


@variant("bigbird/no_global", "BIGBIRD-KEYS", "sparse.bigbird_attention")
def no_global(**given):
    """Queries of middle blocks see the last block only where it is beside them: tokens at the end are not global."""
    size, extra, m = given["size"], given.get("extra", 0), given["k"].shape[-2]
    places = np.arange(m - given["q"].shape[-2], m)
    b, c = (places - extra)[:, None] // size, (np.arange(m) - extra) // size
    last = -(-(m - extra) // size) - 1
    lost = (c == last) & (b < last - 1) & (b > 0) & (places >= extra)[:, None] & (np.arange(m) >= extra)
    return _with(given, np.where(lost, 0.0, count(given)))


@variant("bigbird/first_block_only", "BIGBIRD-GLOBAL", "sparse.bigbird_attention")
def first_block_only(**given):
    """The last block sees what is beside it: only the first is global."""
    size, extra, m = given["size"], given.get("extra", 0), given["k"].shape[-2]
    b = (np.arange(m - given["q"].shape[-2], m) - extra)[:, None] // size
    last = -(-(m - extra) // size) - 1
    return _with(given, np.where((b == last) & (last > 0), count(given, first=False), count(given)))


@variant("bigbird/top_left", "BIGBIRD-ALIGN", "sparse.bigbird_attention")
def top_left(**given):
    """Query i stands at place i."""
    n, m = given["q"].shape[-2], given["k"].shape[-2]
    if n >= m:
        raise NotApplicable
    return _with(given, count(given, np.arange(n)))


@variant("bigbird/extra_in_blocks", "BIGBIRD-EXTRA", "sparse.bigbird_attention")
def extra_in_blocks(**given):
    """Extra tokens are those of the first block."""
    extra = given.get("extra", 0)
    if not extra:
        raise NotApplicable
    return _with(given, np.minimum(count(given), count(given, extra=0, random_blocks=given["random_blocks"] * 0 - 1)))


@variant(
    "bigbird/counted", "BIGBIRD-REPEATS", "sparse.bigbird_attention",
    seen=["google-research/bigbird (block_sparse against simulated_sparse)"],
)  # fmt: skip
def counted_again(**given):
    """A block of the table that a query has already counts again."""
    return _with(given, count(given, repeats="count"))


@variant("bigbird/once", "BIGBIRD-REPEATS", "sparse.bigbird_attention")
def once(**given):
    """A block of the table that a query has already counts no more, where it should."""
    return _with(given, count(given, repeats="once"))
