"""Routing attention, its gradients, and the members of clusters."""

from __future__ import annotations

from typing import Any

import numpy as np

from refattn import backend, masks
from refattn.attention import attention
from refattn.gradients import AttentionGradients, attention_vjp, grouped_query_attention_vjp
from refattn.gradients.sums import summed_to
from refattn.heads import grouped_query_attention
from refattn.sparse import routing_attention, routing_attention_vjp, routing_members
from refattn.testing.inputs import Draw
from refattn.testing.mechanisms.sparse.counted import as_attention
from refattn.testing.mechanisms.sparse.inputs import lists
from refattn.testing.reference import named_arguments
from refattn.testing.registry import NotApplicable, variant
from refattn.testing.roundoff import Bound
from refattn.testing.subject import Equal, Subject
from refattn.testing.tracked import automatic_bound
from refattn.tiled import tiled_attention


def random(draw: Draw) -> dict:
    """A random call: clusters that overlap, of all heads or of each, any option."""
    lead = draw.pick((draw.between(1, 3), draw.between(1, 3)), (draw.between(1, 3), draw.between(1, 3)), ())
    n, d, shared = draw.between(1, draw.pick(9, 9, 24)), draw.between(2, 9), draw.pick(1, 1, 2)
    heads = (*lead[:-1], lead[-1] * shared) if lead else ()
    given: dict[str, Any] = {"q": draw.normal(*heads, n, d, scale=draw.pick(1.0, 3.0)), "k": draw.normal(*lead, n, d)}
    own = draw.pick((), heads[-1:])
    given |= {"v": draw.normal(*lead, n, draw.between(1, 6)), "members": lists(draw, own, draw.between(1, 4), n, False)}
    if draw.chance(0.5):
        given["mask"] = draw.pick(masks.causal(), masks.window(3, 1), masks.padding(max(1, n - 2)))
    options = {
        "scale": draw.pick(0.3, -0.4, 1.0), "softcap": draw.pick(1.5, 4.0), "bias": draw.normal(n, n),
        "sinks": np.asarray(draw.normal(*heads[-1:])), "dropout": (draw.where(0.7, n, n), 0.25),
    }  # fmt: skip
    return given | {name: x for name, x in options.items() if draw.chance(0.2)}


def with_cotangent(draw: Draw, given: dict) -> dict:
    """A call with the cotangent of its output."""
    return {"d_out": draw.normal(*given["q"].shape[:-1], given["v"].shape[-1])} | given


def plain(draw: Draw) -> dict:
    """A call without options, with clusters that overlap and a token in none."""
    given = {name: draw.normal(2, 3, 8, 8) for name in "qkv"}
    return given | {"members": np.array([[0, 2, 5, -1], [6, 5, 1, 2], [4, 0, 6, -1]])}


def alone(draw: Draw, effort: str):
    """Every token alone in a cluster: its output is its value, to the last digit."""
    yield "alone", ("ROUTING-KEYS", "ROUTING-MEAN"), plain(draw) | {"members": np.arange(8)[:, None]}


def square(draw: Draw, effort: str):
    """Sizes that are equal, so that sums over the wrong axis have the right shape."""
    yield "square", ("ROUTING-GRADIENT",), with_cotangent(draw, plain(draw))


def pictured(n: int, m: int) -> dict:
    """Three clusters of which no two overlap."""
    tokens = np.arange(m)
    members = np.stack([np.where(tokens * 5 % 7 // 3 == c, tokens, -1) for c in range(3)])
    return {"q": np.zeros((m, 1)), "k": np.zeros((m, 1)), "members": members}


# --- as attention ---------------------------------------------------------------------------------------------------


def held(members, n):
    """Whether each token is in each cluster, (..., C, N)."""
    return np.any(members[..., None] == np.arange(n), axis=-2)


def share_of_each(members, n):
    """One over the number of clusters of each token, (..., N, 1)."""
    return 1.0 / np.maximum(1.0, held(members, n).sum(axis=-2))[..., None]


def dense(q, k, v, members, **given):
    """Attention in each cluster, with an axis of clusters in front."""
    there = np.moveaxis(held(members, q.shape[-2]), -2, 0)
    q, k, v = (np.broadcast_to(x, (len(there), *x.shape)) for x in (q, k, v))
    if there.ndim < q.ndim - 1:
        there = np.reshape(there, (len(there), *[1] * (q.ndim - 1 - there.ndim), *there.shape[1:]))
    return as_attention(q, k, v, (there[..., :, None] & there[..., None, :]).astype(float), **given)


def mean(found, given):
    """The mean over the clusters of each token."""
    return found.sum(axis=0) * share_of_each(given["members"], given["q"].shape[-2])


def dense_vjp(d_out, members, **given):
    """The gradients of attention in each cluster."""
    found = dense(members=members, **given)
    d_out = d_out * share_of_each(members, given["q"].shape[-2])
    return {"d_out": np.broadcast_to(d_out, (found["q"].shape[0], *d_out.shape)), **found}


def summed(found, given):
    """The sum over the clusters."""
    xp = backend.namespace(q=found.q)
    of_all = {name: summed_to(xp, getattr(found, name), given[name].shape) for name in "qkv"}
    return AttentionGradients(**of_all, bias=found.bias, sinks=found.sinks, scale=found.scale)


def grouped(given):
    """Whether query heads share keys."""
    return given["q"].ndim > 3 and given["k"].shape[-3] not in (1, given["q"].shape[-3])


def routing_attention_bound(profile, *args, **given):
    """That of attention in clusters and a mean, from their code."""

    def steps(share, **arguments):
        out = (grouped_query_attention if grouped(arguments) else attention)(**arguments)
        xp = backend.namespace(out=out)
        return {"out": xp.sum(out, axis=0) * share}

    given = named_arguments("sparse.routing_attention", args, given)
    share = share_of_each(given["members"], given["q"].shape[-2])
    return automatic_bound(steps, profile, share=share, **dense(**given))


def routing_attention_vjp_bound(profile, *args, **given):
    """That of the gradients of attention in clusters, from their code."""

    def steps(share, d_out, **arguments):
        d_out = d_out * share
        vjp = grouped_query_attention_vjp if grouped(arguments) else attention_vjp
        found = summed(vjp(d_out, **arguments), given)
        return {name: x for name, x in found._asdict().items() if x is not None}

    given = named_arguments("sparse.routing_attention_vjp", args, given)
    arguments, d_out = dense_vjp(**given), given["d_out"]
    d_out = np.broadcast_to(d_out, (arguments["q"].shape[0], *d_out.shape))
    share = share_of_each(given["members"], given["q"].shape[-2])
    return automatic_bound(steps, profile, share=share, **arguments | {"d_out": d_out})


ROUTING_ATTENTION = Subject(
    routing_attention,
    random,
    "ROUTING-KEYS",
    alone,
    equals=Equal("tiled_attention", dense, mean),
    bound=routing_attention_bound,
    related=plain,
    pictured=pictured,
)
ROUTING_ATTENTION_VJP = Subject(
    routing_attention_vjp,
    lambda draw: with_cotangent(draw, random(draw)),
    "ROUTING-GRADIENT",
    square,
    equals=Equal("tiled_attention_vjp", dense_vjp, summed),
    bound=routing_attention_vjp_bound,
)


def clustered(draw: Draw) -> dict:
    """A random call of routing_members, in numbers whose products are exact."""
    d, lead = draw.between(2, 6), draw.pick((), (draw.between(1, 3),))
    x = draw.integers(-4, 4, *lead, draw.between(1, 9), d).astype(float)
    return {"x": x, "centroids": draw.integers(-3, 3, draw.between(1, 4), d).astype(float), "width": draw.between(1, 9)}


def exact_bound(profile, *args, **given):
    """Members are integers: a kernel has them or it has not."""
    found = routing_members(*args, **given)
    return {"members": Bound(found, np.zeros(found.shape))}


ROUTING_MEMBERS = Subject(routing_members, clustered, "ROUTING-MEMBERS", bound=exact_bound)


# --- what goes wrong ------------------------------------------------------------------------------------------------


def times(given):
    """In how many clusters each pair of tokens is together."""
    there = held(given["members"], given["q"].shape[-2]).astype(float)
    return np.swapaxes(there, -1, -2) @ there


def counted_as(given, count):
    return tiled_attention(**as_attention(count=count, **{name: x for name, x in given.items() if name != "members"}))


@variant("routing/merged", "ROUTING-MEAN", "sparse.routing_attention")
def merged(**given):
    """Clusters are merged by their log-sum-exps: a multiset of keys."""
    return counted_as(given, times(given))


@variant("routing/keys_once", "ROUTING-MEAN", "sparse.routing_attention")
def keys_once(**given):
    """A token attends to the union of its clusters."""
    return counted_as(given, np.minimum(times(given), 1.0))


@variant("routing/summed", "ROUTING-MEAN", "sparse.routing_attention")
def not_divided(**given):
    """What a token gets in its clusters is added up."""
    return routing_attention(**given) / share_of_each(given["members"], given["q"].shape[-2])


@variant(
    "routing/one_hundredth_more", "ROUTING-MEAN", "sparse.routing_attention",
    seen=["google-research/google-research (routing_transformer)"],
)  # fmt: skip
def one_hundredth_more(**given):
    """The sum is divided by the number of clusters and 0.01."""
    share = share_of_each(given["members"], given["q"].shape[-2])
    return routing_attention(**given) / (1.0 + 0.01 * share)


@variant("routing/last_cluster", "ROUTING-MEAN", "sparse.routing_attention")
def last_cluster(**given):
    """What a cluster gives is written, not added: that of the last one is left."""
    n, found = given["q"].shape[-2], 0.0 * routing_attention(**given)
    for c in range(given["members"].shape[-2]):
        one = given["members"][..., c : c + 1, :]
        there = held(one, n)[..., 0, :, None]
        found = np.where(there, routing_attention(**given | {"members": one}), found)
    return found


@variant("routing/none_is_undefined", "ROUTING-NONE", "sparse.routing_attention")
def none_is_undefined(**given):
    """A token in no cluster is divided by their number, 0."""
    there = held(given["members"], given["q"].shape[-2]).any(axis=-2)
    return np.where(there[..., None], routing_attention(**given), np.nan)


@variant("routing/own_key_left_out", "ROUTING-KEYS", "sparse.routing_attention")
def own_key_left_out(**given):
    """A token attends to the others of its clusters alone."""
    found = dense(**given)
    others = found["mask"] & ~np.eye(given["q"].shape[-2], dtype=bool)
    return mean(tiled_attention(**found | {"mask": others}), given)


@variant("routing/clusters_of_first_head", "ROUTING-KEYS", "sparse.routing_attention")
def clusters_of_first_head(**given):
    """The clusters of the first head stand for all."""
    if given["members"].ndim < 3 or given["members"].shape[-3] == 1:
        raise NotApplicable
    return routing_attention(**given | {"members": given["members"][..., :1, :, :]})


@variant("routing/empty_is_last", "ROUTING-KEYS", "sparse.routing_attention")
def empty_is_last(**given):
    """An empty place, -1, is an index from the end: the last token is a member."""
    n, members = given["q"].shape[-2], given["members"]
    last = np.any(members == n - 1, axis=-1, keepdims=True)
    first_empty = (members < 0) & (np.cumsum(members < 0, axis=-1) == 1)
    filled = np.where(first_empty & ~last, n - 1, members)
    if np.array_equal(filled, members):
        raise NotApplicable
    return routing_attention(**given | {"members": filled})


@variant(
    "routing/causal_by_rank", "ROUTING-MASK", "sparse.routing_attention",
    seen=["google-research/google-research (routing_transformer)"],
)  # fmt: skip
def causal_by_rank(**given):
    """Later is what stands later in the list of a cluster."""
    mask, members, n = given.get("mask"), given["members"], given["q"].shape[-2]
    if mask is None or mask.name != "causal":
        raise NotApplicable
    found = dense(**given | {"mask": None})
    place = np.argmax(members[..., None] == np.arange(n), axis=-2)
    earlier = np.moveaxis(place[..., None, :] <= place[..., :, None], -3, 0)
    earlier = np.reshape(earlier, (len(earlier), *[1] * (found["mask"].ndim - earlier.ndim), *earlier.shape[1:]))
    return mean(tiled_attention(**found | {"mask": found["mask"] & earlier}), given)


@variant("routing/gradient_of_sum", "ROUTING-GRADIENT", "sparse.routing_attention_vjp")
def gradient_of_sum(**given):
    """The mean is no part of the gradients: each cluster gets the whole cotangent."""
    share = share_of_each(given["members"], given["q"].shape[-2])
    return routing_attention_vjp(**given | {"d_out": given["d_out"] / share})


@variant("routing/nearest_cluster_last", "ROUTING-MEMBERS", "sparse.routing_members")
def nearest_cluster_last(x, centroids, width):
    """Of equal tokens the last are taken."""
    return np.sort(x.shape[-2] - 1 - routing_members(np.flip(x, axis=-2), centroids, width), axis=-1)
