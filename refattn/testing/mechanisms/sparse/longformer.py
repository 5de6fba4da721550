"""Longformer and its gradients."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refattn import masks
from refattn.sparse import LongformerGradients, longformer_attention, longformer_attention_vjp
from refattn.testing.inputs import Case, Draw
from refattn.testing.mechanisms.gradients.inputs import with_cotangents
from refattn.testing.mechanisms.sparse.counted import as_attention
from refattn.testing.mechanisms.sparse.inputs import plain, restricted, square
from refattn.testing.mechanisms.tiled.bounds import tiled_attention_vjp_bound
from refattn.testing.registry import NotApplicable, variant
from refattn.testing.roundoff import Bound
from refattn.testing.subject import Equal, Subject
from refattn.tiled import tiled_attention, tiled_attention_vjp

OWN = ("global_q", "global_k", "global_v")


def random(draw: Draw) -> dict:
    """A random call: no, some or many global tokens, of all sequences or of each; all projections of their own, or some."""
    given = {name: x for name, x in restricted(draw).items() if name not in ("q_tile", "k_tile")}
    q, k = given["q"], given["k"]
    lead = draw.pick((), (q.shape[0], 1)) if q.ndim == 4 else ()
    positions = np.asarray(given.get("k_positions", np.arange(k.shape[-2]))).reshape(-1)
    known = np.unique(np.maximum(positions, -1)) if positions.size else np.array([-1])
    tokens = known[draw.integers(0, len(known) - 1, *lead, draw.between(0, 4))]
    tokens = np.where(draw.where(0.8, *tokens.shape), tokens, -1)
    given |= {"left": draw.pick(1, 2, 0, 5, 300, None), "right": draw.pick(0, 1, 2, 300, None), "global_tokens": tokens}
    names = draw.pick(OWN, OWN, (), OWN[:1], OWN[1:])
    return given | {name: draw.normal(*given[name[-1]].shape) for name in names}


def directed(draw: Draw, effort: str) -> Iterator[Case]:
    """A global token in the middle, sequences with different numbers of them, padding, and all tokens."""
    given = plain(draw, n=7, m=7) | {"left": 1, "right": 1, "return_lse": True}
    own = {name: draw.normal(*given[name[-1]].shape) for name in OWN}
    yield "middle", ("LONGFORMER-ONCE",), given | {"global_tokens": np.array([3])} | own
    yield "listed_twice", ("LONGFORMER-ONCE",), given | {"global_tokens": np.array([3, 0, 3])} | own
    yield "two_aside", ("LONGFORMER-KEYS",), given | {"global_tokens": np.array([0]), "left": 2, "right": 2} | own
    tokens = np.array([[[5, -1]], [[1, 3]]])[: given["q"].shape[0]]
    yield "sequences", ("LONGFORMER-TOKENS",), given | {"global_tokens": tokens} | own
    yield "padded", ("LONGFORMER-MASK",), given | {"global_tokens": np.array([0]), "mask": masks.padding(5)} | own
    yield "all", ("LONGFORMER-GLOBAL",), given | {"global_tokens": np.arange(7)} | own
    yield "none", ("LONGFORMER-KEYS",), given | {"global_tokens": np.array([-1])} | own


def of_gradients(draw: Draw, effort: str) -> Iterator[Case]:
    """All sizes equal, and results that are given: those of the global queries are no results of the window."""
    yield from square("LONGFORMER-GRADIENT", left=1, right=1, global_tokens=np.array([0, 3]))(draw, effort)
    if draw.fmt in ("float32", "float64"):  # rounded more coarsely they are no longer the results of these arguments
        given = plain(draw, n=7, m=7) | {"left": 1, "right": 1, "global_tokens": np.array([0, 4])}
        given |= {name: draw.normal(*given[name[-1]].shape) for name in OWN}
        out, lse = longformer_attention(**given, return_lse=True)
        yield "results_given", ("LONGFORMER-GRADIENT",), with_cotangents(draw, given) | {"out": out, "lse": lse}


def related(draw: Draw) -> dict:
    """A call in which no query is global, with one key that is."""
    return plain(draw) | {"left": 1, "right": 0, "global_tokens": np.array([0])}


def pictured(n: int, m: int) -> dict:
    """A start token, and one amid the others."""
    return {"left": 1, "right": 1, "global_tokens": np.array([0, m // 2])}


# --- as attention: under a mask, over the local keys and the global ones --------------------------------------------


def pairs(given, tokens=None):
    """The keys near each query, (..., N, M), and whether queries, (..., N, 1), and keys, (..., 1, M), are global."""
    n, m = given["q"].shape[-2], given["k"].shape[-2]
    at = {name: given.get(name) for name in ("q_positions", "k_positions")}
    i, j = masks.positions_of(n, m, **at, like=given["q"])
    tokens = np.asarray(given["global_tokens"] if tokens is None else tokens, dtype=np.int64)[..., None, :]
    of_i, of_j = (np.any((x[..., None] == tokens) & (tokens >= 0), axis=-1) for x in (i, j))
    near = masks.window(given["left"], given["right"]).dense(n, m, **at, like=given["q"])
    return near, of_i[..., :, None], of_j[..., None, :]


def stacked(given, count, of_global, mask_of_all=True):
    """Arguments of tiled_attention from how often a local query attends to each key: global ones have keys of their own."""
    mine = ("left", "right", "global_tokens", *OWN)
    q, k, v = (given[name] for name in "qkv")
    own_q, own_k, own_v = (given[name[-1]] if given.get(name) is None else given[name] for name in OWN)
    n, m = q.shape[-2], k.shape[-2]
    i, j = masks.positions_of(n, m, given.get("q_positions"), given.get("k_positions"), like=q)
    mask, shape = given.get("mask"), np.broadcast_shapes(np.shape(count), (*of_global.shape[:-1], m))
    if mask is not None and not mask_of_all:
        seen = mask.dense(n, m, q_positions=i, k_positions=j, like=q)
        shape = np.broadcast_shapes(shape, seen.shape)
        count, mask = count * seen, None
    count = np.broadcast_to(np.where(of_global, 0.0, count), shape)
    count = np.concatenate([count, np.broadcast_to(of_global, shape).astype(float)], axis=-1)
    rest = {name: x for name, x in given.items() if name not in (*mine, "mask")}
    rest |= {"q": np.where(of_global, own_q, q), "mask": mask, "q_positions": i}
    rest |= {"k": np.concatenate([k, own_k], axis=-2), "v": np.concatenate([v, own_v], axis=-2)}
    rest["k_positions"] = np.concatenate([j, j], axis=-1)
    if (bias := given.get("bias")) is not None:
        rest["bias"] = doubled(bias)
    if given.get("dropout") is not None:
        keep, rate = given["dropout"]
        rest["dropout"] = (doubled(keep), rate)
    return as_attention(count=count, **rest)


def doubled(table):
    """A table (..., M or 1) for the keys twice."""
    if callable(table) or isinstance(table, masks.Mask) or table.shape[-1] == 1:
        return table
    return np.concatenate([table, table], axis=-1)


def dense(**given):
    """Attention under a mask; where global queries have projections of their own, over twice as many keys."""
    near, of_i, of_j = pairs(given)
    if all(given.get(name) is None for name in OWN):
        rest = {name: x for name, x in given.items() if name not in ("left", "right", "global_tokens", *OWN)}
        return as_attention(count=(near | of_i | of_j).astype(float), **rest)
    return stacked(given, near | of_j, of_i)


def dense_vjp(d_out, **given):
    """Its gradients."""
    return {"d_out": d_out, **dense(**given)}


def parted(found, given):
    """The gradients of local and of global projections, from those of queries and keys of both kinds."""
    _, of_i, _ = pairs(given)
    m, bias, fields = given["k"].shape[-2], given.get("bias"), dict(found)
    if given.get("global_q") is not None:
        fields |= {"q": np.where(of_i, 0.0, found["q"]), "global_q": np.where(of_i, found["q"], 0.0)}
    for name in "kv":
        local, of_global = found[name][..., :m, :], found[name][..., m:, :]
        if given.get(f"global_{name}") is not None:
            fields |= {name: local, f"global_{name}": of_global}
        elif of_global.shape[-2]:
            fields[name] = local + of_global
    if bias is None or callable(bias):
        fields.pop("bias", None)
    elif found["bias"].shape[-1] > bias.shape[-1]:
        fields["bias"] = found["bias"][..., :m] + found["bias"][..., m:]
    return fields


def own_gradients(found, given):
    """The gradients by the names of the call."""
    fields = parted({name: x for name, x in found._asdict().items() if x is not None}, given)
    return LongformerGradients(**dict.fromkeys(LongformerGradients._fields) | fields)


def vjp_bound(profile, **given):
    """The bound of the gradients of attention under the mask; of a sum of two it is the sum."""
    found = tiled_attention_vjp_bound(profile, **dense_vjp(**given))
    values = parted({name: bound.value for name, bound in found.items()}, given)
    hard = parted({name: np.broadcast_to(bound.hard, bound.value.shape) for name, bound in found.items()}, given)
    return {name: Bound(values[name], hard[name]) for name in values}


LONGFORMER_ATTENTION = Subject(
    longformer_attention,
    random,
    "LONGFORMER-KEYS",
    directed,
    equals=Equal("tiled_attention", dense),
    related=related,
    pictured=pictured,
)
LONGFORMER_ATTENTION_VJP = Subject(
    longformer_attention_vjp,
    lambda draw: with_cotangents(draw, random(draw)),
    "LONGFORMER-GRADIENT",
    of_gradients,
    equals=Equal("tiled_attention_vjp", dense_vjp, own_gradients),
    bound=vjp_bound,
)


# --- mistakes --------------------------------------------------------------------------------------------------------


def _some(of, what=True):
    """There must be something for a mistake to show."""
    if not (np.any(of) and what):
        raise NotApplicable


def _local_instead(given, *names):
    _some([given.get(name) is not None for name in names])
    return longformer_attention(**given | dict.fromkeys(names))


@variant("longformer/counted_twice", "LONGFORMER-ONCE", "sparse.longformer_attention")
def counted_twice(**given):
    """A global key within the window counts twice: once there, and once among the global ones."""
    near, of_i, of_j = pairs(given)
    _some(near & of_j & ~of_i)
    return tiled_attention(**stacked(given, near.astype(float) + of_j, of_i))


@variant("longformer/local_projections", "LONGFORMER-GLOBAL", "sparse.longformer_attention")
def local_projections(**given):
    """Global queries use the local projections."""
    return _local_instead(given, *OWN)


@variant("longformer/local_values", "LONGFORMER-GLOBAL", "sparse.longformer_attention")
def local_values(**given):
    """Global queries mix the local values."""
    return _local_instead(given, "global_v")


@variant("longformer/global_keys_for_all", "LONGFORMER-KEYS", "sparse.longformer_attention")
def global_keys_for_all(**given):
    """Queries that are not global meet global tokens by their global keys and values."""
    near, of_i, of_j = pairs(given)
    _some(of_j & ~of_i, given.get("global_k") is not None or given.get("global_v") is not None)
    call = stacked(given, near & ~of_j, of_i)
    m, mask = given["k"].shape[-2], call["mask"].copy()
    seen = masks.visible(given.get("mask"), *near.shape[-2:], like=given["q"], **_positions(given))
    mask[..., m:] |= of_j & ~of_i & (True if seen is None else seen)
    return tiled_attention(**call | {"mask": mask})


@variant("longformer/rows_near", "LONGFORMER-GLOBAL", "sparse.longformer_attention")
def rows_near(**given):
    """Global tokens are seen by all, but see what the others see."""
    near, of_i, of_j = pairs(given)
    _some(of_i)
    plain = {name: x for name, x in given.items() if name not in OWN}
    return tiled_attention(**stacked(plain, near | of_j, np.zeros_like(of_i)))


@variant("longformer/columns_missing", "LONGFORMER-KEYS", "sparse.longformer_attention")
def columns_missing(**given):
    """Global tokens see all, but are seen within the window only."""
    near, of_i, of_j = pairs(given)
    _some(of_j)
    return tiled_attention(**stacked(given, near, of_i))


@variant("longformer/forgotten", "LONGFORMER-TOKENS", "sparse.longformer_attention", seen=["allenai/longformer#254"])
def forgotten(**given):
    """The mark of global tokens is lost where a mask is inverted: they are tokens like all others."""
    return longformer_attention(**given | {"global_tokens": np.array([-1])})


@variant(
    "longformer/half_window", "LONGFORMER-KEYS", "sparse.longformer_attention",
    seen=["allenai/longformer (a window of w on either side) against transformers (of w / 2)"],
)  # fmt: skip
def half_window(**given):
    """The window is taken for the whole of both sides: half as far on either."""
    if given["left"] is None or given["right"] is None:
        raise NotApplicable
    return longformer_attention(**given | {"left": given["left"] // 2, "right": given["right"] // 2})


@variant(
    "longformer/neighbouring_chunks", "LONGFORMER-KEYS", "sparse.longformer_attention",
    seen=["allenai/longformer (sliding_chunks_no_overlap)"],
)  # fmt: skip
def neighbouring_chunks(**given):
    """Not a window of w on either side, but the own chunk of w and the ones beside it."""
    if not given["left"] or given["left"] != given["right"]:
        raise NotApplicable
    near, of_i, of_j = pairs(given)
    chunks = masks.neighbours(given["left"]).dense(*near.shape[-2:], like=given["q"], **_positions(given))
    return tiled_attention(**stacked(given, chunks | of_j, of_i))


@variant("longformer/places", "LONGFORMER-TOKENS", "sparse.longformer_attention")
def places(**given):
    """Global queries are found by their places among the queries, where these are the last of the positions."""
    near, _, of_j = pairs(given)
    n, m = near.shape[-2:]
    if n >= m or given.get("q_positions") is not None:
        raise NotApplicable
    _, of_i, _ = pairs(given | {"q_positions": np.arange(n)})
    return tiled_attention(**stacked(given, near | of_j, of_i))


def _tokens(given, tokens):
    if np.array_equal(tokens, given["global_tokens"]):
        raise NotApplicable
    return longformer_attention(**given | {"global_tokens": tokens})


@variant("longformer/empty_is_first", "LONGFORMER-TOKENS", "sparse.longformer_attention")
def empty_is_first(**given):
    """An empty place, -1, is filled with 0: the first token is global too."""
    return _tokens(given, np.maximum(given["global_tokens"], 0))


@variant("longformer/empty_is_last", "LONGFORMER-TOKENS", "sparse.longformer_attention")
def empty_is_last(**given):
    """An empty place, -1, is an index from the end: the last token is global too."""
    tokens = np.asarray(given["global_tokens"])
    return _tokens(given, np.where(tokens < 0, given["k"].shape[-2] - 1, tokens))


@variant(
    "longformer/tokens_of_first", "LONGFORMER-TOKENS", "sparse.longformer_attention",
    seen=["huggingface/transformers#5659"],
)  # fmt: skip
def tokens_of_first(**given):
    """The global tokens of the first sequence are those of all."""
    tokens = np.asarray(given["global_tokens"])
    if tokens.ndim < 2:
        raise NotApplicable
    return _tokens(given, np.broadcast_to(tokens[:1], tokens.shape))


@variant("longformer/tokens_counted", "LONGFORMER-ONCE", "sparse.longformer_attention")
def tokens_counted(**given):
    """A global position that is listed twice counts twice."""
    near, of_i, of_j = pairs(given)
    tokens = np.asarray(given["global_tokens"])
    count = sum((pairs(given, tokens[..., t : t + 1])[2].astype(float) for t in range(tokens.shape[-1])), 0.0)
    _some(count > 1)
    return tiled_attention(**stacked(given, np.maximum(near | of_j, count), of_i))


@variant("longformer/mask_near_only", "LONGFORMER-MASK", "sparse.longformer_attention")
def mask_near_only(**given):
    """The further mask, as of padding, is that of the window: global queries see all keys."""
    near, of_i, of_j = pairs(given)
    _some(of_i, given.get("mask") is not None)
    return tiled_attention(**stacked(given, near | of_j, of_i, mask_of_all=False))


@variant("gradient/of_global_rows_near", "LONGFORMER-GRADIENT", "sparse.longformer_attention_vjp")
def of_global_rows_near(**given):
    """The output of global queries, first computed from the window and then written over, gives gradients there too."""
    _, of_i, _ = pairs(given)
    _some(of_i)
    found = longformer_attention_vjp(**given)
    zeros = {"d_out": np.where(of_i, given["d_out"], 0.0)}
    if given.get("d_lse") is not None:
        zeros["d_lse"] = np.where(of_i[..., 0], given["d_lse"], 0.0)
    near, of_i, of_j = pairs(given)
    rest = {name: x for name, x in given.items() if name not in OWN}
    more = _gradients_near(rest | zeros, near | of_j, np.zeros_like(of_i))
    return found._replace(q=found.q + more["q"], k=found.k + more["k"], v=found.v + more["v"])


def _gradients_near(given, count, of_global):
    d_out = given.pop("d_out")
    found = tiled_attention_vjp(d_out, **stacked(given, count, of_global))
    return parted({name: x for name, x in found._asdict().items() if x is not None}, given)


def _positions(given):
    return {name: given.get(name) for name in ("q_positions", "k_positions")}
