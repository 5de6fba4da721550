"""Attention to given keys."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refattn.sparse import gather_attention, gather_attention_vjp
from refattn.testing.inputs import Case, Draw
from refattn.testing.mechanisms.gradients.inputs import with_cotangents
from refattn.testing.mechanisms.sparse.counted import as_attention, bound_of_gradients, own_bias
from refattn.testing.mechanisms.sparse.inputs import lists, plain, restricted, square
from refattn.testing.registry import NotApplicable, variant
from refattn.testing.subject import Equal, Subject


def random(draw: Draw) -> dict:
    """A random call: lists of all heads, or of each; some places empty, some keys named twice."""
    given = {name: x for name, x in restricted(draw).items() if name not in ("q_tile", "k_tile")}
    q, k = given["q"], given["k"]
    heads = draw.pick((), (q.shape[-3],)) if q.ndim > 2 else ()
    repeats = draw.pick("refuse", "once", "count")
    return given | {"indices": lists(draw, heads, q.shape[-2], k.shape[-2], repeats != "refuse"), "repeats": repeats}


def directed(draw: Draw, effort: str) -> Iterator[Case]:
    """Empty places before, between and behind keys where every other score is below 0; lists without a key."""
    given = plain(draw, n=3, m=7)
    given |= {"q": draw.round(abs(given["q"])), "k": draw.round(-abs(given["k"]) - 1), "return_lse": True}
    given["k"][..., [0, 6], :] *= -1
    yield "empty_places", ("GATHER-EMPTY",), given | {"indices": np.array([[-1, 2, 3], [4, -1, 1], [5, 3, -1]])}
    yield "no_keys", ("GATHER-EMPTY",), given | {"indices": np.array([[-1, -1], [2, 5], [-1, -1]])}
    twice = np.array([[2, 2, 3], [4, 1, 4], [5, 3, 0]])
    for repeats in ("once", "count"):
        yield f"repeats_{repeats}", ("GATHER-REPEATS",), given | {"indices": twice, "repeats": repeats}


def related(draw: Draw) -> dict:
    """A call with lists of some of the keys."""
    return plain(draw) | {"indices": np.array([[0, 3, 5], [6, 2, -1], [1, 0, 4], [2, 3, 4], [5, 6, 0]])}


def pictured(n: int, m: int) -> dict:
    """The key of each query, and two at distances that grow; near the ends some are the same."""
    own = np.arange(n)[:, None]
    return {"indices": np.maximum(m - n + own - np.array([0, 2, 5]), 0) % max(m, 1), "repeats": "count"}


def times(indices, m):
    """How often each list names each key, (..., N, M)."""
    found = np.zeros((*indices.shape[:-1], m + 1))
    for t in range(indices.shape[-1]):
        place = indices[..., t : t + 1]
        np.put_along_axis(found, place, np.take_along_axis(found, place, axis=-1) + 1.0, axis=-1)
    return found[..., :m]


def dense(indices, *, repeats="refuse", **given):
    """Attention to the keys that the lists name."""
    named = times(indices, given["k"].shape[-2])
    return as_attention(count=named if repeats == "count" else np.minimum(named, 1.0), **given)


def dense_vjp(d_out, **given):
    """Its gradients."""
    return {"d_out": d_out, **dense(**given)}


def vjp_bound(profile, d_out, q, k, v, indices, mask=None, **options):
    """The bound of the gradients of attention to the keys that the lists name."""
    given = {"d_out": d_out, "q": q, "k": k, "v": v, "indices": indices, "mask": mask, **options}
    return bound_of_gradients(profile, given, dense_vjp(**given))


GATHER_ATTENTION = Subject(
    gather_attention,
    random,
    "GATHER-KEYS",
    directed,
    equals=Equal("tiled_attention", dense),
    related=related,
    pictured=pictured,
)
GATHER_ATTENTION_VJP = Subject(
    gather_attention_vjp,
    lambda draw: with_cotangents(draw, random(draw)),
    "GATHER-GRADIENT",
    square("GATHER-GRADIENT", indices=np.array([[0, 3, 5], [2, 1, -1], [1, 0, 4], [2, 3, 4], [5, 4, 0], [3, 5, 1]])),
    equals=Equal("tiled_attention_vjp", dense_vjp, own_bias),
    bound=vjp_bound,
)


def _with(given, lists, repeats="count"):
    """The call with other lists."""
    if np.array_equal(lists, given["indices"]) and repeats == given.get("repeats", "refuse"):
        raise NotApplicable
    return gather_attention(**given | {"indices": lists, "repeats": repeats})


@variant("gather/empty_is_last", "GATHER-EMPTY", "sparse.gather_attention", seen=["NVIDIA/TensorRT-LLM#18673"])
def empty_is_last(**given):
    """An empty place, -1, is an index from the end: the last key."""
    return _with(given, np.where(given["indices"] < 0, given["k"].shape[-2] - 1, given["indices"]))


@variant(
    "gather/empty_is_first",
    "GATHER-EMPTY",
    "sparse.gather_attention",
    seen=["fla-org/native-sparse-attention (naive.py with lengths)"],
)
def empty_is_first(**given):
    """Empty places are filled with 0 and count: the first key, as often as places are left."""
    return _with(given, np.maximum(given["indices"], 0))


@variant(
    "gather/one_list_for_all", "GATHER-KEYS", "sparse.gather_attention",
    seen=["huggingface/transformers#45758", "huggingface/transformers#45925"],
)  # fmt: skip
def one_list_for_all(**given):
    """The lists of all queries are one: every query sees what any of them chose."""
    lists = given["indices"]
    flat = lists.reshape(*lists.shape[:-2], 1, -1)
    return _with(given, np.broadcast_to(flat, (*lists.shape[:-1], flat.shape[-1])), "once")


@variant("gather/list_of_first_head", "GATHER-AXES", "sparse.gather_attention")
def list_of_first_head(**given):
    """The list of the first head stands for all heads."""
    if given["indices"].ndim < 3 or given["indices"].shape[-3] == 1:
        raise NotApplicable
    return _with(given, given["indices"][..., :1, :, :], given.get("repeats", "refuse"))


@variant(
    "gather/repeats_counted", "GATHER-REPEATS", "sparse.gather_attention", seen=["fla-org/flash-linear-attention (nsa)"]
)
def repeats_counted(**given):
    """A key that is named twice has twice the weight, where it should count once."""
    if given.get("repeats") != "once":
        raise NotApplicable
    return _with(given, given["indices"])


@variant(
    "gather/repeats_once", "GATHER-REPEATS", "sparse.gather_attention",
    seen=["flash-attention (gather_kv_indices in its tests)"],
)  # fmt: skip
def repeats_once(**given):
    """A key that is named twice counts once, where it should count twice."""
    if given.get("repeats") != "count":
        raise NotApplicable
    return _with(given, given["indices"], "once")


@variant("gradient/of_last_list", "GATHER-GRADIENT", "sparse.gather_attention_vjp", seen=["NVIDIA/cudnn-frontend#385"])
def gradient_of_last_list(**given):
    """The gradients of a key are written, not added: those of the last query whose list names it are left."""
    lists = given["indices"]
    if lists.ndim > 2:
        raise NotApplicable
    found = gather_attention_vjp(**given)
    k, v = np.zeros_like(found.k), np.zeros_like(found.v)
    for n, row in enumerate(lists):
        only = np.arange(len(lists)) == n
        d_out, d_lse = np.where(only[:, None], given["d_out"], 0.0), given.get("d_lse")
        one = gather_attention_vjp(
            **given | {"d_out": d_out, "d_lse": None if d_lse is None else np.where(only, d_lse, 0.0)}
        )
        named = row[row >= 0]
        k[..., named, :], v[..., named, :] = one.k[..., named, :], one.v[..., named, :]
    return found._replace(k=k, v=v)
