"""Attention to the best keys: in numbers, the choice is a mask."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refattn.attention import attention_stages
from refattn.sparse import topk_attention, topk_attention_vjp
from refattn.testing.inputs import Case, Draw
from refattn.testing.mechanisms.gradients.inputs import with_cotangents
from refattn.testing.mechanisms.sparse.contested import contest, gradient_bound, output_bound
from refattn.testing.mechanisms.sparse.counted import as_attention, own_bias
from refattn.testing.mechanisms.sparse.inputs import plain, square
from refattn.testing.mechanisms.tiled.inputs import tiled
from refattn.testing.mechanisms.tiled.variants import as_arrays, repeated
from refattn.testing.registry import NotApplicable, variant
from refattn.testing.subject import Equal, Subject
from refattn.tiled import tiled_attention, tiled_attention_vjp

_BESIDE = ("sinks", "dropout", "return_lse", "d_out", "d_lse", "out", "lse")  # what no score depends on


def random(draw: Draw) -> dict:
    """A random call: scores of attention, or given ones for all heads or each, integers with many ties among them."""
    given = {name: x for name, x in tiled(draw).items() if name not in ("q_tile", "k_tile")}
    q, n, m = given["q"], given["q"].shape[-2], given["k"].shape[-2]
    heads = draw.pick((), (q.shape[-3],)) if q.ndim > 2 else ()
    kind = draw.pick("own", "given", "ties")
    if kind == "given":
        given["scores"] = draw.normal(*heads, n, m)
    elif kind == "ties":
        given["scores"] = draw.integers(-2, 2, *heads, n, m).astype(float)
    return given | {"kept": draw.pick(1, 2, 3, 5, m, m + 2)}


def exact(draw: Draw, n: int = 5, m: int = 9, heads: int = 2) -> dict:
    """A call whose scores are integers in any format and any order of summation, many of them equal."""
    q, k = (draw.integers(-1, 1, 1, heads, x, 4).astype(float) for x in (n, m))
    return {"q": q, "k": k, "v": draw.normal(1, heads, m, 5), "scale": 1.0, "return_lse": True}


def apart(draw: Draw) -> dict:
    """A call without equal scores: they are integers, so that no rounding exchanges any two of a row."""
    given = plain(draw, b=1, h=3, n=4, m=9, d=2, dv=5)
    order = np.argsort(draw.rng.random((3, 9)), axis=-1) - 4.0
    given["k"] = np.stack([order, np.zeros((3, 9))], axis=-1)[None]
    given["q"] = np.stack([draw.rng.choice([-1.0, 1.0, 2.0, -2.0], (3, 4)), np.ones((3, 4))], axis=-1)[None]
    return given | {"scale": 0.5}


def directed(draw: Draw, effort: str) -> Iterator[Case]:
    """Ties of integers; scores far from one another; a mask that hides the best; scores that say the opposite."""
    for kept in (1, 3, 6):
        yield f"ties_{kept}", ("TOPK-TIES",), exact(draw) | {"kept": kept}
    yield "equal", ("TOPK-TIES",), exact(draw) | {"kept": 4, "scores": np.zeros((5, 9))}
    for kept in (1, 4, 9, 12):
        yield f"apart_{kept}", ("TOPK-KEYS",), apart(draw) | {"kept": kept}
    hidden = np.arange(9) % 3 > np.arange(4)[:, None] % 3
    yield "hidden", ("TOPK-MASK",), apart(draw) | {"kept": 3, "mask": hidden, "return_lse": True}
    yield "few", ("TOPK-FEWER",), apart(draw) | {"kept": 4, "mask": np.arange(9) < np.arange(4)[:, None]}
    yield "biased", ("TOPK-ORDER",), apart(draw) | {"kept": 2, "bias": draw.integers(-4, 4, 4, 9).astype(float)}
    yield "negative", ("TOPK-ORDER",), apart(draw) | {"kept": 2, "scale": -0.5}
    given = apart(draw)
    against = -given["q"] @ np.swapaxes(given["k"], -1, -2)
    yield "against", ("TOPK-SCORES",), given | {"kept": 3, "scores": against}
    yield "of_all_heads", ("TOPK-HEADS",), given | {"kept": 3, "scores": against[0, 0]}


def related(draw: Draw) -> dict:
    """A call with given scores, so that what is done to keys and values changes no choice."""
    return plain(draw) | {"kept": 3, "scores": draw.normal(5, 7)}


def pictured(n: int, m: int) -> dict:
    """Four keys of each query by scores that fall and rise again: near ones, and some farther off."""
    away = abs(m - n + np.arange(n)[:, None] - np.arange(m))
    return {"kept": 4, "scores": -1.0 * (away * 5 % 13)}


def ranks(mask=None, scores=None, **given):
    """What decides, (..., N, M), -inf where a key may not be attended to."""
    s = final_scores(mask, **given)
    return s if scores is None else np.where(np.isneginf(s), -np.inf, scores)


def final_scores(mask, q, k, v, **given):
    """The scores of attention after scale, softcap, bias and mask."""
    given = as_arrays(q, k, **{name: x for name, x in given.items() if name not in _BESIDE})
    k, v = repeated(q, k, v)
    return attention_stages(q, k, v, mask, **given).mask


def best(r, kept):
    """Which keys are kept: the largest, of equals the first."""
    r = np.where(np.isnan(r), np.inf, r)
    place = np.argsort(np.argsort(-r, axis=-1, kind="stable"), axis=-1, kind="stable")
    return (place < kept) & (r > -np.inf)


def dense(kept, mask=None, scores=None, choose=best, **given):
    """Attention under the choice as a mask."""
    chosen = choose(ranks(mask, scores, **given), kept)
    return as_attention(count=chosen.astype(float), **given)


def dense_vjp(d_out, **given):
    """Its gradients."""
    return {"d_out": d_out, **dense(**given)}


def bound(profile, q, k, v, kept, mask=None, *, scores=None, **given):
    """The bound of attention to the keys chosen, wider where rounding may choose others: not among scores that are given."""
    given = {"q": q, "k": k, "v": v, **given}
    open_ = None if scores is not None else contest(profile, kept, mask, **given)
    return output_bound(profile, dense(kept, mask, scores, **given), open_)


def vjp_bound(profile, d_out, q, k, v, kept, mask=None, *, scores=None, **given):
    """The bound of its gradients; there is none where rounding may choose other keys."""
    given = {"q": q, "k": k, "v": v, **given}
    open_ = None if scores is not None else contest(profile, kept, mask, **given)
    given |= {"d_out": d_out}
    return gradient_bound(profile, given, dense_vjp(kept=kept, mask=mask, scores=scores, **given), open_)


TOPK_ATTENTION = Subject(
    topk_attention,
    random,
    "TOPK-KEYS",
    directed,
    equals=Equal("tiled_attention", dense),
    bound=bound,
    related=related,
    pictured=pictured,
)
TOPK_ATTENTION_VJP = Subject(
    topk_attention_vjp,
    lambda draw: with_cotangents(draw, random(draw)),
    "TOPK-GRADIENT",
    square("TOPK-GRADIENT", kept=3, scores=np.arange(36.0).reshape(6, 6) * 5 % 7),
    equals=Equal("tiled_attention_vjp", dense_vjp, own_bias),
    bound=vjp_bound,
)


# --- what only this mechanism gets wrong: the choice, or what is done with it --------------------------------------------


def _other(choose=best, **given):
    """Attention to keys chosen in another way."""
    return tiled_attention(**dense(choose=choose, **given))


def _needs(*conditions):
    if not all(conditions):
        raise NotApplicable


def at_least(r, kept):
    """All keys whose score is the kept-th largest or more."""
    r = np.where(np.isnan(r), np.inf, r)
    least = np.sort(r, axis=-1)[..., -min(kept, r.shape[-1]), None]
    return (r >= least) & (r > -np.inf)


@variant(
    "topk/keeps_ties", "TOPK-TIES", "sparse.topk_attention",
    seen=["lancopku/Explicit-Sparse-Transformer (fairseq)", "lucidrains/x-transformers (sparse_topk)"],
)  # fmt: skip
def keeps_ties(**given):
    """A threshold: all keys that are as good as the last one kept are kept too."""
    _needs(given["k"].shape[-2])
    return _other(at_least, **given)


@variant("topk/last_of_ties", "TOPK-TIES", "sparse.topk_attention", seen=["torch.topk on a CPU"])
def last_of_ties(**given):
    """Of keys whose scores are equal the last are kept."""
    return _other(lambda r, kept: best(r[..., ::-1], kept)[..., ::-1], **given)


@variant("topk/one_fewer", "TOPK-KEYS", "sparse.topk_attention")
def one_fewer(**given):
    """Only keys above the last one to be kept: one fewer, or none."""
    return _other(lambda r, kept: best(r, kept - 1), **given)


@variant("topk/one_more", "TOPK-KEYS", "sparse.topk_attention")
def one_more(**given):
    """A key more than is to be kept."""
    return _other(lambda r, kept: best(r, kept + 1), **given)


@variant("topk/largest_magnitude", "TOPK-KEYS", "sparse.topk_attention")
def largest_magnitude(**given):
    """Keys are chosen by the magnitude of their scores."""
    return _other(lambda r, kept: best(np.where(np.isneginf(r), r, np.abs(r)), kept), **given)


@variant(
    "topk/one_choice_for_heads", "TOPK-HEADS", "sparse.topk_attention",
    seen=["lancopku/Explicit-Sparse-Transformer (tensor2tensor)"],
)  # fmt: skip
def one_choice_for_heads(**given):
    """One threshold for all heads: the best H times `kept` of the scores of all of them; a head may keep none, or all."""

    def together(r, kept):
        _needs(r.ndim > 2, r.shape[-3] > 1 if r.ndim > 2 else False)
        turned = np.moveaxis(r, -3, -2)  # (..., N, H, M)
        flat = turned.reshape(*turned.shape[:-2], -1)
        return np.moveaxis(at_least(flat, kept * r.shape[-3]).reshape(turned.shape), -2, -3)

    _needs(given["k"].shape[-2])
    return _other(together, **given)


@variant("topk/choice_of_first_head", "TOPK-HEADS", "sparse.topk_attention")
def choice_of_first_head(**given):
    """The keys that the first head keeps are kept by all."""

    def first(r, kept):
        _needs(r.ndim > 2, r.shape[-3] > 1 if r.ndim > 2 else False)
        return np.broadcast_to(best(r[..., :1, :, :], kept), r.shape) & (r > -np.inf)

    return _other(first, **given)


@variant("topk/mask_after_choice", "TOPK-MASK", "sparse.topk_attention", seen=["HKUSTDial/flash-sparse-attention#146"])
def mask_after_choice(kept, mask=None, scores=None, **given):
    """Keys are chosen among all and masked afterwards: a query near the start keeps few of them, or none."""
    _needs(mask is not None)
    chosen = best(ranks(None, scores, **given), kept) & (ranks(mask, **given) > -np.inf)
    return tiled_attention(**as_attention(count=chosen.astype(float), **given))


@variant(
    "topk/absent_kept", "TOPK-FEWER", "sparse.topk_attention",
    seen=["deepseek-ai/DeepSeek-V3.2-Exp (indices, before they are masked again)"],
)  # fmt: skip
def absent_kept(**given):
    """Where the mask admits too few keys, others fill up the places and are attended to."""

    def filled(r, kept):
        place = np.argsort(np.argsort(-r, axis=-1, kind="stable"), axis=-1, kind="stable")
        return place < kept

    _needs(given.get("mask") is not None)
    return _other(filled, **given)


@variant(
    "topk/choice_of_weights", "TOPK-WEIGHTS", "sparse.topk_attention",
    seen=["lancopku/Explicit-Sparse-Transformer (tensor2tensor, after the softmax)"],
)  # fmt: skip
def choice_of_weights(kept, mask=None, scores=None, return_lse=False, **given):
    """The weights are those of all keys, and those of the best are taken as they are: they do not sum to 1."""
    chosen = best(ranks(mask, scores, **given), kept)
    _needs(given.get("dropout") is None)
    arrays = as_arrays(**given)
    stages = attention_stages(
        mask=mask, **arrays | dict(zip("kv", repeated(*(given[x] for x in "qkv")), strict=True)), q=given["q"]
    )
    weights = np.where(chosen, stages.weights, 0.0)
    v = repeated(*(given[x] for x in "qkv"))[1]
    return (weights @ v, stages.lse) if return_lse else weights @ v


@variant("topk/before_bias", "TOPK-ORDER", "sparse.topk_attention")
def before_bias(kept, mask=None, scores=None, **given):
    """Products of queries and keys decide, before scale, softcap and bias."""
    _needs(scores is None, given.get("bias") is not None or (given.get("scale") or 1.0) <= 0)
    plain_ = {**given, "bias": None, "softcap": None, "scale": 1.0}
    absent = np.isneginf(ranks(mask, **given))
    r = np.where(absent, -np.inf, ranks(mask, **plain_))
    return tiled_attention(**as_attention(count=best(r, kept).astype(float), **given))


@variant("topk/scores_attend", "TOPK-SCORES", "sparse.topk_attention")
def scores_attend(kept, mask=None, scores=None, **given):
    """The scores that choose are also those that weigh."""
    _needs(scores is not None, not given.get("softcap"))
    arguments = dense(kept, mask, scores, **given)
    arguments["bias"] = np.broadcast_to(np.where(np.isfinite(scores), scores, 0.0), arguments["mask"].shape)
    return tiled_attention(**arguments | {"scale": 0.0})


@variant("topk/scores_ignored", "TOPK-SCORES", "sparse.topk_attention")
def scores_ignored(scores=None, **given):
    """Keys are chosen by the scores of attention, whatever is given."""
    _needs(scores is not None)
    return _other(**given)


@variant("gradient/of_all_keys", "TOPK-GRADIENT", "sparse.topk_attention_vjp")
def gradient_of_all_keys(d_out, kept, mask=None, scores=None, **given):
    """Backwards no key is dropped: weights are those of all keys."""
    given.pop("out", None), given.pop("lse", None)
    return tiled_attention_vjp(d_out, mask=mask, **given)
