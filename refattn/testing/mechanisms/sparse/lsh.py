"""LSH attention, its gradients, and the hash."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from refattn import backend, masks
from refattn.attention import attention
from refattn.gradients import attention_vjp, rms_norm_vjp
from refattn.gradients.sums import summed_to
from refattn.norms import rms_norm
from refattn.sparse import LSHGradients, lsh_attention, lsh_attention_vjp, lsh_buckets
from refattn.sparse.rules import both
from refattn.testing.inputs import Case, Draw
from refattn.testing.mechanisms.sparse.counted import as_attention
from refattn.testing.reference import named_arguments
from refattn.testing.registry import NotApplicable, variant
from refattn.testing.roundoff import Bound
from refattn.testing.steps import Then, with_steps
from refattn.testing.subject import Equal, Subject
from refattn.testing.tracked import automatic_bound
from refattn.tiled import tiled_attention

PATTERN = ("chunk", "before", "after")


def random(draw: Draw) -> dict:
    """A random call: a few buckets and rounds, chunks that seldom divide, any option."""
    lead = draw.pick((draw.between(1, 3), draw.between(1, 3)), (draw.between(1, 3), draw.between(1, 3)), ())
    n, d = draw.between(1, draw.pick(9, 9, 24)), draw.between(2, 9)
    qk, v = draw.normal(*lead, n, d, scale=draw.pick(1.0, 3.0)), draw.normal(*lead, n, draw.between(1, 6))
    rounds, own = draw.between(1, 3), draw.pick((), lead[-1:])
    given: dict[str, Any] = {"qk": qk, "v": v, "buckets": draw.integers(0, draw.pick(2, 1, 4), *own, rounds, n)}
    given |= {"chunk": draw.pick(2, 3, 1, 4, 16), "before": draw.pick(1, 1, 0, 2), "after": draw.pick(0, 0, 1)}
    given |= {"causal": draw.chance(0.5), "key_norm": draw.pick("rms", "l2"), "return_lse": draw.chance(0.5)}
    if draw.chance(0.4):
        given["mask"] = draw.pick(masks.window(draw.between(1, 5), draw.between(0, 5)), masks.padding(max(1, n - 2)))
    options = {
        "scale": draw.pick(0.3, -0.4, 1.0), "softcap": draw.pick(1.5, 4.0), "bias": draw.normal(n, n),
        "sinks": np.asarray(draw.normal(*lead[-1:])), "dropout": (draw.where(0.7, n, n), 0.25),
        "positions": 2 * np.arange(n) + draw.between(0, 9),
    }  # fmt: skip
    return given | {name: x for name, x in options.items() if draw.chance(0.2)}


def with_cotangents(draw: Draw, given: dict) -> dict:
    """A call with the cotangents of what it returns."""
    given = {name: x for name, x in given.items() if name != "return_lse"}
    d_out = {"d_out": draw.normal(*given["v"].shape)}
    return d_out | given | ({"d_lse": draw.normal(*given["v"].shape[:-1])} if draw.chance(0.4) else {})


def plain(draw: Draw, n=11, lead=(2, 3), rounds=2, **more) -> dict:
    """A call without options."""
    given = {"qk": draw.normal(*lead, n, 6), "v": draw.normal(*lead, n, 5)}
    return given | {"buckets": draw.integers(0, 3, rounds, n), "chunk": 3} | more


def directed(draw: Draw, effort: str) -> Iterator[Case]:
    """Tokens that see themselves alone, a ring that closes, short last chunks, padding in front."""
    yield "causal", ("LSH-OWN", "LSH-CAUSAL"), plain(draw, causal=True, return_lse=True)
    yield "ring", ("LSH-RING", "LSH-ROUNDS"), plain(draw, n=6, chunk=2, before=2, after=2, return_lse=True)
    yield "one_token", ("LSH-OWN",), plain(draw, n=1, return_lse=True)
    yield "no_tokens", ("LSH-OWN",), plain(draw, n=0)
    yield "short", ("LSH-LAST",), plain(draw, n=10, rounds=3)
    yield "l2", ("LSH-NORM",), plain(draw, key_norm="l2")
    padded = plain(draw, mask=masks.padding(np.array([[9], [4]]), starts=2), return_lse=True)
    yield "padding", ("LSH-MASK", "LSH-OWN"), padded


def gradients(draw: Draw, effort: str) -> Iterator[Case]:
    """Sizes that are equal, so that sums over the wrong axis have the right shape; tokens that see themselves alone."""
    given = plain(draw, n=6, lead=(6, 6)) | {"v": draw.normal(6, 6, 6, 6)}
    yield "square", ("LSH-GRADIENT",), with_cotangents(draw, given)
    given = plain(draw, n=9, causal=True)
    yield "causal", ("LSH-GRADIENT", "LSH-OWN"), with_cotangents(draw, given)
    out, lse = lsh_attention(**given, return_lse=True)
    stored = {"out": draw.round(out), "lse": draw.round(lse)}
    yield "stored", ("LSH-GRADIENT",), with_cotangents(draw, given) | stored


def related(draw: Draw) -> dict:
    """A call in which no token sees all others."""
    return plain(draw, n=12, before=0, rounds=1)


def pictured(n: int, m: int) -> dict:
    """Two rounds of three buckets, without a look back."""
    return {"buckets": np.stack([np.arange(m) * 5 % 3, np.arange(m) * 7 % 8 % 3]), "chunk": 3, "before": 0}


# --- as attention ---------------------------------------------------------------------------------------------------


def order_of(buckets):
    return np.argsort(buckets, axis=-1, kind="stable")


def met(buckets, chunk, before=1, after=0, order=None, ring=None):
    """How often each token meets each other, (..., N, N); `ring` says which chunk a step from chunk c leads to, or -1."""
    order = order_of(buckets) if order is None else order
    (*lead, rounds, n), found = order.shape, np.zeros((*order.shape[:-2], order.shape[-1], order.shape[-1]))
    starts = [(r, start) for r in range(rounds) for start in range(0, n, chunk)]
    ring = ring or (lambda c, step, count: (c + step) % count)
    for index in np.ndindex(*lead):
        chunks = [order[index][r, start : start + chunk] for r, start in starts]
        for c, rows in enumerate(chunks):
            for step in range(-min(before, len(chunks)), min(after, len(chunks)) + 1):
                other = ring(c, step, len(chunks))
                if other >= 0:
                    found[index][rows[:, None], chunks[other]] += 1
    return found


def without_own(count, seen, bias):
    """The counts of keys that are seen, that of a token itself 0 if it sees another."""
    count = np.where(seen, count, 0.0)
    others = count * (1 - np.eye(count.shape[-1]))
    there = others if bias is None else np.where(bias == -np.inf, 0.0, others)
    return np.where(np.any(there > 0, axis=-1, keepdims=True), others, count)


def key_of(qk, key_norm):
    d = qk.shape[-1]
    return rms_norm(qk, None) if key_norm == "rms" else rms_norm(qk, None, eps=1e-24 / d) / math.sqrt(d)


def dense(
    qk, v, buckets, mask=None, *, causal=False, key_norm="rms", positions=None, bias=None, own=without_own, count=None,
    rule=None, k=None, **given,
):  # fmt: skip
    """Attention with a bias that counts; variants give another rule for the token itself, another count, mask or keys."""
    pattern = {name: given.pop(name) for name in PATTERN if name in given}
    n, at = qk.shape[-2], {"q_positions": positions, "k_positions": positions}
    rule = (both(masks.causal(), mask) if causal else mask) if rule is None else rule
    seen = masks.visible(rule, n, n, **at, like=qk)
    count = met(buckets, **pattern) if count is None else count
    count = own(count, True if seen is None else seen, bias)
    k = key_of(qk, key_norm) if k is None else k
    return as_attention(qk, k, v, count, rule, **at, bias=bias, **given)


def as_it_is(found, given):
    """The results are the same; the keys are computed, so that a bound must know how."""
    return found


def dense_vjp(d_out, **given):
    """Its gradients."""
    return {"d_out": d_out, **dense(**given)}


def gradient_of(found, given):
    """What a token gets as a query and, through the normalisation, as a key."""
    d = given["qk"].shape[-1]
    length, eps = (1.0, 1e-6) if given.get("key_norm", "rms") == "rms" else (d**-0.5, 1e-24 / d)
    through = rms_norm_vjp(length * found.k, given["qk"], None, eps=eps).x
    bias = given.get("bias")
    if bias is not None:  # that which was given, not one that counts keys
        bias = summed_to(backend.namespace(bias=found.bias), found.bias, bias.shape)
    return LSHGradients(found.q + through, found.v, bias, found.sinks, found.scale)


def lsh_attention_bound(profile, *args, **given):
    """That of attention between tokens and their keys, from its code."""

    def steps(q, k, v, **options):
        out, lse = attention(q, key_of(q, kind), v, **options | {"return_lse": True})
        return {"out": out, "lse": lse} if options.get("return_lse") else {"out": out}

    given = named_arguments("sparse.lsh_attention", args, given)
    kind = given.get("key_norm", "rms")
    return automatic_bound(steps, profile, **untiled(dense(**given)))


def lsh_attention_vjp_bound(profile, *args, **given):
    """That of the gradients of attention, and of the norm, from their code."""

    def steps(d_out, q, k, v, **options):
        found = attention_vjp(d_out, q, key_of(q, kind), v, **options)
        return {name: x for name, x in gradient_of(found, given | {"qk": q})._asdict().items() if x is not None}

    given = named_arguments("sparse.lsh_attention_vjp", args, given)
    kind = given.get("key_norm", "rms")
    return automatic_bound(steps, profile, **untiled(dense_vjp(**given)))


def untiled(given):
    """Without results that were given: they are computed again."""
    return {name: x for name, x in given.items() if name not in ("out", "lse")}


LSH_ATTENTION = Subject(
    lsh_attention,
    random,
    "LSH-KEYS",
    directed,
    equals=Equal("tiled_attention", dense, as_it_is),
    bound=lsh_attention_bound,
    related=related,
    pictured=pictured,
)
LSH_ATTENTION_VJP = Subject(
    lsh_attention_vjp,
    lambda draw: with_cotangents(draw, random(draw)),
    "LSH-GRADIENT",
    gradients,
    equals=Equal("tiled_attention_vjp", dense_vjp, gradient_of),
    bound=lsh_attention_vjp_bound,
)


def hashed(draw: Draw) -> dict:
    """A random call of lsh_buckets, in numbers whose products are exact."""
    d, lead = draw.between(2, 6), draw.pick((), (draw.between(1, 3),))
    rotations = draw.integers(-3, 3, *lead, draw.between(1, 3), d, draw.between(1, 4)).astype(float)
    return {"x": draw.integers(-4, 4, *lead, draw.between(1, 9), d).astype(float), "rotations": rotations}


def exact_bound(profile, *args, **given):
    """Buckets are integers: a kernel has them or it has not."""
    found = lsh_buckets(*args, **given)
    return {"buckets": Bound(found, np.zeros(found.shape))}


LSH_BUCKETS = Subject(lsh_buckets, hashed, "LSH-HASH", bound=exact_bound)


# --- what goes wrong ------------------------------------------------------------------------------------------------


def counted_as(given, **changes):
    """Attention with another count, mask, or keys."""
    return tiled_attention(**dense(**given, **changes))


def pattern_of(given):
    return {name: given[name] for name in PATTERN if name in given}


@variant("lsh/counted_once", "LSH-ROUNDS", "sparse.lsh_attention", seen=["Reformer's paper, appendix A"])
def counted_once(**given):
    """A key that is met in several rounds counts once: the paper takes the logarithm of the number from its score."""
    count = met(given["buckets"], **pattern_of(given))
    return counted_as(given, count=np.minimum(count, 1.0))


@variant("lsh/rounds_averaged", "LSH-ROUNDS", "sparse.lsh_attention")
def rounds_averaged(**given):
    """The outputs of the rounds are averaged, whatever weight each has."""
    rounds = given["buckets"].shape[-2]
    if rounds == 1 or given.get("return_lse"):
        raise NotApplicable
    found = [lsh_attention(**given | {"buckets": given["buckets"][..., r : r + 1, :]}) for r in range(rounds)]
    return sum(found) / rounds


@variant("lsh/within_buckets", "LSH-KEYS", "sparse.lsh_attention", seen=["Reformer's paper, section 2"])
def within_buckets(**given):
    """A token attends to those of its chunks that are in its own bucket, and to no others."""
    same = sum(
        met(one, **pattern_of(given)) * (one[..., 0, :, None] == one[..., 0, None, :])
        for one in np.split(given["buckets"], given["buckets"].shape[-2], axis=-2)
    )
    return counted_as(given, count=same)


@variant("lsh/own_key_seen", "LSH-OWN", "sparse.lsh_attention")
def own_key_seen(**given):
    """A token attends to itself as to any other."""
    return counted_as(given, own=lambda count, seen, bias: np.where(seen, count, 0.0))


@variant("lsh/own_key_never", "LSH-OWN", "sparse.lsh_attention")
def own_key_never(**given):
    """A token that sees no other has no output."""
    return counted_as(given, own=lambda count, seen, bias: np.where(seen, count, 0.0) * (1 - np.eye(count.shape[-1])))


@variant(
    "lsh/own_score_in_lse", "LSH-OWN", "sparse.lsh_attention",
    seen=["transformers (-1e5 in float32)", "google/trax"],
)  # fmt: skip
def own_score_in_lse(**given):
    """Where a token sees only itself its score is -1e5, and that is what lse says."""
    if not given.get("return_lse"):
        raise NotApplicable
    out, lse = lsh_attention(**given)
    never = own_key_never(**given)[1]
    alone = (never == -np.inf) & (lse != -np.inf)
    return out, np.where(alone, -1e5, lse)


@variant("lsh/own_beats_padding", "LSH-MASK", "sparse.lsh_attention", seen=["transformers (LSHSelfAttention)"])
def own_beats_padding(**given):
    """The score of a token with itself is put in place last, so that padding attends to itself."""
    if given.get("mask") is None:
        raise NotApplicable
    rule = both(masks.causal(), given["mask"]) if given.get("causal") else given["mask"]
    return counted_as(given, rule=rule | masks.window(0, 0))


@variant("lsh/keys_of_other_length", "LSH-NORM", "sparse.lsh_attention", seen=["lucidrains/reformer-pytorch"])
def keys_of_other_length(**given):
    """Keys of length 1 where they should have √D, or the other way round."""
    other = "l2" if given.get("key_norm", "rms") == "rms" else "rms"
    return lsh_attention(**given | {"key_norm": other})


@variant("lsh/keys_as_they_are", "LSH-NORM", "sparse.lsh_attention")
def keys_as_they_are(**given):
    """Keys are the queries, not normalised."""
    return counted_as(given, k=given["qk"])


@variant("lsh/queries_normalised", "LSH-NORM", "sparse.lsh_attention")
def queries_normalised(**given):
    """Queries are normalised too."""
    found = dense(**given)
    return tiled_attention(**found | {"q": found["k"]})


@variant("lsh/no_ring", "LSH-RING", "sparse.lsh_attention")
def no_ring(**given):
    """The first chunk of all looks at none before it, the last at none after it."""
    ring = lambda c, step, count: c + step if 0 <= c + step < count else -1
    return counted_as(given, count=met(given["buckets"], **pattern_of(given), ring=ring))


@variant("lsh/ring_of_each_round", "LSH-RING", "sparse.lsh_attention")
def ring_of_each_round(**given):
    """The first chunk of a round looks at the last of its own round."""
    rounds = given["buckets"].shape[-2]

    def ring(c, step, count):
        own = count // rounds
        return c // own * own + (c + step) % own

    return counted_as(given, count=met(given["buckets"], **pattern_of(given), ring=ring))


@variant("lsh/later_first", "LSH-SORT", "sparse.lsh_attention")
def later_first(**given):
    """Of the tokens of a bucket the last comes first."""
    order = given["buckets"].shape[-1] - 1 - order_of(given["buckets"][..., ::-1])
    return counted_as(given, count=met(given["buckets"], **pattern_of(given), order=order))


@variant("lsh/chunks_run_on", "LSH-LAST", "sparse.lsh_attention")
def chunks_run_on(**given):
    """The last chunk of a round is filled up with the first tokens of the next."""
    order, n, chunk = order_of(given["buckets"]), given["qk"].shape[-2], given["chunk"]
    if order.shape[-2] == 1 or n % chunk == 0:
        raise NotApplicable
    in_a_row = order.reshape(*order.shape[:-2], 1, -1)
    wide = met(in_a_row, **pattern_of(given), order=in_a_row)[..., :n, :n]
    return counted_as(given, count=wide)


@variant("lsh/causal_in_sorted_order", "LSH-CAUSAL", "sparse.lsh_attention")
def causal_in_sorted_order(**given):
    """Later is what stands later in the order of the first round."""
    if not given.get("causal") or given.get("mask") is not None:
        raise NotApplicable
    place = np.argsort(order_of(given["buckets"]), axis=-1)[..., 0, :]
    count = met(given["buckets"], **pattern_of(given)) * (place[..., None, :] <= place[..., :, None])
    return counted_as(given | {"causal": False}, count=count)


@variant("lsh/norm_without_gradient", "LSH-GRADIENT", "sparse.lsh_attention_vjp")
def norm_without_gradient(**given):
    """The length by which keys are divided counts as a constant."""
    return with_steps(lsh_attention_vjp, rms_norm_vjp=_by_length)(**given)


def _by_length(d_out, x, gamma, *, eps):
    return rms_norm_vjp(d_out, x, gamma, eps=eps)._replace(
        x=d_out / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)
    )


@variant("lsh/keys_without_gradient", "LSH-GRADIENT", "sparse.lsh_attention_vjp")
def keys_without_gradient(**given):
    """A token gets nothing as a key."""
    return with_steps(lsh_attention_vjp, rms_norm_vjp=Then(lambda found: found._replace(x=0.0 * found.x)))(**given)


@variant("lsh/opposite_is_the_same", "LSH-HASH", "sparse.lsh_buckets")
def opposite_is_the_same(x, rotations):
    """The nearest axis in either direction is one bucket."""
    return lsh_buckets(x, rotations) % rotations.shape[-1]


@variant("lsh/signs_of_products", "LSH-HASH", "sparse.lsh_buckets")
def signs_of_products(x, rotations):
    """The bucket is a number whose digits are the signs of the products."""
    signs = x[..., None, :, :] @ rotations > 0
    return np.sum(signs * 2 ** np.arange(rotations.shape[-1]), axis=-1)
