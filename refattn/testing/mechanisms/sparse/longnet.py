"""LongNet's dilated attention and its gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from refattn import masks
from refattn.gradients import AttentionGradients
from refattn.sparse import longnet_attention, longnet_attention_vjp
from refattn.sparse.longnet import RULES
from refattn.testing.inputs import Case, Draw
from refattn.testing.mechanisms.gradients.inputs import with_cotangents
from refattn.testing.mechanisms.sparse.counted import as_attention, bound_of_gradients, own_bias
from refattn.testing.mechanisms.sparse.inputs import plain, restricted, square
from refattn.testing.registry import NotApplicable, variant
from refattn.testing.subject import Equal, Subject
from refattn.tiled import tiled_attention, tiled_attention_vjp

OWN = ("segments", "dilations", "offsets", "causal")


def random(draw: Draw) -> dict:
    """A random call: one to three branches, steps that divide their segments and steps that do not, offsets of any kind."""
    given = {name: x for name, x in restricted(draw).items() if name not in ("q_tile", "k_tile")}
    branches = draw.pick(((3, 1), (6, 2)), ((2, 1), (4, 1), (8, 2)), ((5, 2),), ((4, 1), (7, 3)), ((1, 1), (40, 2)))
    offsets: str | list = draw.pick("paper", "code")
    if draw.chance(0.4):
        heads = given["q"].shape[-3] if given["q"].ndim > 2 and draw.chance(0.5) else 0
        one = lambda r: draw.between(0, r - 1)
        offsets = [[one(r) for _ in range(heads)] if heads else one(r) for _, r in branches]
    segments, dilations = ([x[n] for x in branches] for n in (0, 1))
    return given | dict(zip(OWN, (segments, dilations, offsets, draw.chance(0.5)), strict=True))


def directed(draw: Draw, effort: str) -> Iterator[Case]:
    """A log-sum-exp of 0, which is no absent branch; last segments that are short."""
    given = plain(draw, n=4, m=4)
    zero = {"q": 0.0 * given["q"], "segments": [1, 4], "dilations": [1, 1], "offsets": [0, 0]}
    yield "lse_of_zero", ("LONGNET-NONE",), given | zero
    short = {"segments": [4, 6], "dilations": [1, 2], "offsets": [0, 0]}
    yield "short_segments", ("LONGNET-SEGMENT",), plain(draw, n=5, m=11) | short


def same_offsets(given: dict, before: Mapping[str, int], now: Mapping[str, int]) -> dict:
    """The offsets of a call with other heads: those that there were, again and again."""
    offsets, heads = given.get("offsets"), now.get("H")
    if not isinstance(offsets, list) or not heads:
        return {}
    return {"offsets": [x if isinstance(x, int) else [x[h % len(x)] for h in range(heads)] for x in offsets]}


def offset_of(offsets, branch, step, head, heads):
    """The offset of a head in a branch."""
    if isinstance(offsets, str):
        return RULES[offsets](head, heads, step)
    return offsets[branch] if isinstance(offsets[branch], int) else offsets[branch][head]


def times(q, k, segments, dilations, offsets, causal=False, *, q_positions=None, k_positions=None, **_):
    """In which branches each query and each key meet, a table (..., N, M) for each branch."""
    i, j = masks.positions_of(q.shape[-2], k.shape[-2], q_positions, k_positions, like=q)
    i, j = i[..., :, None], j[..., None, :]
    heads = max((x.shape[-3] for x in (q, k) if x.ndim > 2), default=1)
    found = []
    for b, (w, r) in enumerate(zip(segments, dilations, strict=True)):
        own = np.array([offset_of(offsets, b, r, h, heads) for h in range(heads)])
        a = own[:, None, None] if q.ndim > 2 or k.ndim > 2 else own[0]
        meet = (i // w == j // w) & (i % w % r == a) & (j % w % r == a)
        found.append((meet & (j <= i) if causal else meet).astype(float))
    return found


def _others(given):
    return {name: x for name, x in given.items() if name not in OWN}


def dense(**given):
    """Attention in which each key counts as often as branches hold it."""
    return as_attention(count=sum(times(**given)), **_others(given))


def dense_vjp(d_out, **given):
    """Its gradients."""
    return {"d_out": d_out, **dense(**given)}


def vjp_bound(profile, d_out, q, k, v, segments, dilations, mask=None, **options):
    """The bound of the gradients."""
    own = {"segments": segments, "dilations": dilations, "mask": mask, **options}
    given = {"d_out": d_out, "q": q, "k": k, "v": v, **own}
    return bound_of_gradients(profile, given, dense_vjp(**given))


PLAIN = {"segments": [2, 4], "dilations": [1, 2], "offsets": [0, 0]}

LONGNET_ATTENTION = Subject(
    longnet_attention,
    random,
    "LONGNET-BRANCH",
    directed,
    equals=Equal("tiled_attention", dense, without=("bias/",)),  # there the bias holds the counts as well
    related=lambda draw: plain(draw) | PLAIN,
    pictured=lambda n, m: {"segments": [3, 6], "dilations": [1, 2], "offsets": [0, 0]},
    follow=same_offsets,
)
LONGNET_ATTENTION_VJP = Subject(
    longnet_attention_vjp,
    lambda draw: with_cotangents(draw, random(draw)),
    "LONGNET-GRADIENT",
    square("LONGNET-GRADIENT", **PLAIN),
    equals=Equal("tiled_attention_vjp", dense_vjp, own_bias),
    bound=vjp_bound,
    follow=same_offsets,
)


def _branches(given):
    """What attention over each branch returns, output and log-sum-exp, without a sink."""
    if given.get("sinks") is not None:
        raise NotApplicable
    options = _others(given) | {"return_lse": True}
    return [tiled_attention(**as_attention(count=table, **options)) for table in times(**given)]


def _merged(parts, given):
    """Outputs merged in proportion to the exponentials of log-sum-exps; a NaN of none is 0."""
    lse = np.stack([x for _, x in parts])
    peak = np.where(np.isfinite(most := np.max(lse, axis=0)), most, 0.0)
    weights = np.exp(lse - peak)
    total = np.sum(weights, axis=0)
    shares = weights / np.where(total == 0, 1.0, total)
    out = sum(share[..., None] * out for share, (out, _) in zip(shares, parts, strict=True))
    return (out, np.log(total) + peak) if given.get("return_lse") else out


@variant("longnet/counted_once", "LONGNET-MULTISET", "sparse.longnet_attention")
def counted_once(**given):
    """A key that several branches hold counts once: attention under the union of the branches, as a mask has it."""
    return tiled_attention(**as_attention(count=np.minimum(sum(times(**given)), 1.0), **_others(given)))


@variant("longnet/mean_of_branches", "LONGNET-MULTISET", "sparse.longnet_attention")
def mean_of_branches(**given):
    """The branches that a query takes part in have equal shares, whatever their sums of exponentials."""
    parts = _branches(given)
    equal = [(out, np.where(lse == -np.inf, lse, 0.0)) for out, lse in parts]
    out = _merged(equal, given | {"return_lse": False})
    return (out, longnet_attention(**given)[1]) if given.get("return_lse") else out


@variant(
    "longnet/zero_is_absent", "LONGNET-NONE", "sparse.longnet_attention",
    seen=["microsoft/torchscale (masked_fill of lse == 0)"],
)  # fmt: skip
def zero_is_absent(**given):
    """A branch whose log-sum-exp is 0 is taken for one that the query is not in."""
    parts = _branches(given)
    return _merged([(out, np.where(lse == 0, -np.inf, lse)) for out, lse in parts], given)


@variant("longnet/segment_filled", "LONGNET-SEGMENT", "sparse.longnet_attention", seen=["microsoft/torchscale"])
def segment_filled(mask=None, **given):
    """The last segment of each branch is filled up with zeros, which take part where attention is not causal."""
    n, m = given["q"].shape[-2], given["k"].shape[-2]
    others = {x for x in ("bias", "dropout", "q_positions", "k_positions", "sinks") if given.get(x) is not None}
    if given.get("causal") or mask is not None or others or n > m:
        raise NotApplicable
    parts = []
    for b, (w, r) in enumerate(zip(given["segments"], given["dilations"], strict=True)):
        more = {x: np.pad(given[x], [(0, 0)] * (given[x].ndim - 2) + [(0, -m % w), (0, 0)]) for x in "kv"}
        offsets = given["offsets"] if isinstance(given["offsets"], str) else [given["offsets"][b]]
        one = {"segments": [w], "dilations": [r], "offsets": offsets, "q_positions": np.arange(m - n, m)}
        parts += _branches({**given, **more, **one})
    return _merged(parts, given)


@variant("longnet/remainder_of_position", "LONGNET-SEGMENT", "sparse.longnet_attention")
def remainder_of_position(**given):
    """Steps are counted from position 0 through all segments, and not from the beginning of each."""
    if not any(w % r for w, r in zip(given["segments"], given["dilations"], strict=True)):
        raise NotApplicable
    count = 0.0
    for b, (w, r) in enumerate(zip(given["segments"], given["dilations"], strict=True)):
        offsets = given["offsets"] if isinstance(given["offsets"], str) else [given["offsets"][b]]
        every = {"segments": [2**40 // r * r], "dilations": [r], "offsets": offsets}
        [own] = times(**{**given, "segments": [w], "dilations": [1], "offsets": [0]})
        [steps] = times(**given | every)
        count = count + own * steps
    return tiled_attention(**as_attention(count=count, **_others(given)))


def _other_rule(given, meant, taken):
    """The call by another rule of offsets than that which is meant."""
    if given["offsets"] != meant:
        raise NotApplicable
    return longnet_attention(**given | {"offsets": taken})


@variant("longnet/heads_in_groups", "LONGNET-OFFSETS", "sparse.longnet_attention", seen=["microsoft/torchscale"])
def heads_in_groups(**given):
    """Heads have their offsets in groups one after the other, where those of the paper are meant: h mod r."""
    return _other_rule(given, "paper", "code")


@variant(
    "longnet/heads_in_turn",
    "LONGNET-OFFSETS",
    "sparse.longnet_attention",
    seen=["Ding et al. 2023 (LongNet), section 2.3"],
)
def heads_in_turn(**given):
    """Heads have their offsets in turn, h mod r, where those of the released code are meant: groups of heads."""
    return _other_rule(given, "code", "paper")


@variant("longnet/offsets_of_first_head", "LONGNET-OFFSETS", "sparse.longnet_attention")
def offsets_of_first_head(**given):
    """All heads have the offsets of the first."""
    steps = enumerate(given["dilations"])
    return longnet_attention(**given | {"offsets": [offset_of(given["offsets"], b, r, 0, 1) for b, r in steps]})


@variant(
    "gradient/constant_shares", "LONGNET-GRADIENT", "sparse.longnet_attention_vjp", seen=["microsoft/torchscale (no_grad)"]
)  # fmt: skip
def constant_shares(d_out, d_lse=None, **given):
    """The shares of the branches have no gradient: each branch gets its share of the cotangent, and no more."""
    if given.get("bias") is not None:
        raise NotApplicable
    given.pop("out", None), given.pop("lse", None)
    parts, total = _branches(given), longnet_attention(**given | {"return_lse": True})[1]
    found = []
    for table, (_, lse) in zip(times(**given), parts, strict=True):
        share = np.where(lse == -np.inf, 0.0, np.exp(lse - np.where(total == -np.inf, 0.0, total)))
        cotangents = {"d_lse": None if d_lse is None else share * d_lse, "d_out": share[..., None] * d_out}
        found.append(tiled_attention_vjp(**cotangents, **as_attention(count=table, **_others(given))))
    names = [name for name in AttentionGradients._fields if getattr(found[0], name) is not None and name != "bias"]
    sums = {name: sum(getattr(x, name) for x in found) for name in names}
    return AttentionGradients(**dict.fromkeys(AttentionGradients._fields) | sums)
