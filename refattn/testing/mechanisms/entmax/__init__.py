"""Sparsemax, entmax, and their gradients."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refattn.entmax import entmax, entmax_vjp, sparsemax, sparsemax_vjp
from refattn.softmax import softmax
from refattn.testing.inputs import Case, Draw
from refattn.testing.mechanisms.entmax import bounds
from refattn.testing.mechanisms.gradients.inputs import cotangent
from refattn.testing.mechanisms.softmax.inputs import logits
from refattn.testing.registry import NotApplicable, variant
from refattn.testing.subject import Equal, Subject


def random(draw: Draw) -> dict:
    """A random call: logits of softmax, whose differences are of the size at which weights vanish, or far greater."""
    given = logits(draw)
    given["x"] = given["x"] * draw.pick(1.0, 0.25, 0.25, 0.0625)
    return given | {"alpha": draw.pick(1.5, 2.0, 1.25, 1.75, 1.0, 3.0)}


def without_alpha(given: dict) -> dict:
    """The call of sparsemax."""
    return {name: x for name, x in given.items() if name != "alpha"}


def with_two(**given):
    """Sparsemax as entmax."""
    return {**given, "alpha": 2.0}


def directed(draw: Draw, effort: str) -> Iterator[Case]:
    """Every alpha; logits large and below 0; ties; absent entries and rows; one entry; a long row."""
    x = draw.normal(3, 4, 7, scale=0.5)
    for alpha in (1.0, 1.0625, 1.25, 1.5, 1.75, 2.0, 2.5, 4.0):
        yield f"alpha_{alpha}", ("ENTMAX-NORMAL",), {"x": x, "alpha": alpha}
    for alpha in (1.25, 1.5, 2.0):
        name = str(alpha)
        yield f"first_axis_{name}", ("ENTMAX-NORMAL",), {"x": draw.normal(5, 5), "alpha": alpha, "axis": 0}
        large = np.round(draw.normal(3, 7, scale=3.0)) / 2
        for level in (1000.0, -1000.0):
            yield f"level_{level:.0f}_{name}", ("ENTMAX-SHIFT",), {"x": draw.round(large + level), "alpha": alpha}
        ties = np.array([[1.0, 1.0, 0.25, -3.0], [0.5] * 4, [2.0, 1.5, 1.5, 1.5], [-60000.0, 0.0, 0.0, 60000.0]])
        yield f"ties_{name}", ("ENTMAX-ZERO",), {"x": ties, "alpha": alpha}
        holes = draw.normal(4, 6, scale=0.5)
        holes[0, 2], holes[1], where = -np.inf, -np.inf, np.arange(6) != 3 * np.ones((4, 1))
        where[3] = False
        stale = np.where(where, holes, np.nan)
        yield f"absent_{name}", ("ENTMAX-ABSENT",), {"x": stale, "where": where, "alpha": alpha}
        yield f"one_{name}", ("ENTMAX-NORMAL",), {"x": draw.normal(4, 1), "alpha": alpha}
    yield "long", ("ENTMAX-NORMAL",), {"x": draw.normal(2, 513, scale=0.125)}
    yield "long_two", ("ENTMAX-NORMAL",), {"x": draw.normal(2, 513, scale=0.0625), "alpha": 2.0}


def of_two(draw: Draw, effort: str) -> Iterator[Case]:
    """Those of alpha 2."""
    for name, clauses, given in directed(draw, effort):
        if given.get("alpha") == 2.0:
            yield name, clauses, without_alpha(given)


def random_vjp(draw: Draw) -> dict:
    """A random call of the gradient; what is absent has no cotangent, whatever stands there."""
    given = cotangent(draw, "x", random(draw))
    if "where" in given and draw.chance(0.3):
        given["d_out"][~given["where"]] = np.nan
    return given


def square(draw: Draw, effort: str) -> Iterator[Case]:
    """As many rows as entries, over either axis."""
    for axis in (-1, 0):
        x = {"d_out": draw.normal(6, 6), "x": draw.normal(6, 6, scale=0.5), "axis": axis}
        yield f"square_{axis}", ("ENTMAX-GRADIENT",), x
        yield f"square_{axis}_two", ("ENTMAX-GRADIENT",), x | {"alpha": 2.0}


ENTMAX = Subject(
    entmax,
    random,
    "ENTMAX-NORMAL",
    directed,
    bound=bounds.entmax_bound,
    axes={"out": ("rows", "entries")},
)
SPARSEMAX = Subject(
    sparsemax,
    lambda draw: without_alpha(random(draw)),
    "ENTMAX-TWO",
    of_two,
    equals=Equal("entmax", with_two),
    axes={"out": ("rows", "entries")},
)
ENTMAX_VJP = Subject(entmax_vjp, random_vjp, "ENTMAX-GRADIENT", square, bound=bounds.entmax_vjp_bound)
SPARSEMAX_VJP = Subject(
    sparsemax_vjp,
    lambda draw: without_alpha(random_vjp(draw)),
    "ENTMAX-TWO",
    lambda draw, effort: ((n, c, without_alpha(x)) for n, c, x in square(draw, effort) if "alpha" in x),
    equals=Equal("entmax_vjp", with_two),
)


# --- variants -------------------------------------------------------------------------------------------------------


def _needs(*conditions):
    if not all(conditions):
        raise NotApplicable


def _present(x, where):
    return x if where is None else np.where(where, x, -np.inf)


@variant("entmax/softmax", "ENTMAX-NORMAL", "entmax")
def is_softmax(x, alpha=1.5, axis=-1, where=None):
    """Softmax: no entry has a weight of 0."""
    _needs(alpha != 1)
    return softmax(x, axis, where)


@variant("entmax/thresholded_softmax", "ENTMAX-NORMAL", "entmax")
def thresholded_softmax(x, alpha=1.5, axis=-1, where=None):
    """Softmax without its weights below 1 / M, normalised again."""
    _needs(alpha != 1, x.shape[axis])
    p = softmax(x, axis, where)
    p = np.where(p >= 1.0 / p.shape[axis], p, 0.0)
    return p / np.maximum(np.sum(p, axis=axis, keepdims=True), 1e-300)


@variant("entmax/alpha_ignored", "ENTMAX-NORMAL", "entmax")
def alpha_ignored(x, alpha=1.5, axis=-1, where=None):
    """Alpha is 1.5, whatever is given."""
    _needs(alpha != 1.5)
    return entmax(x, 1.5, axis, where)


@variant("entmax/not_halved", "ENTMAX-NORMAL", "entmax")
def not_halved(x, alpha=1.5, axis=-1, where=None):
    """The logits are not multiplied by alpha - 1."""
    _needs(alpha not in (1, 2))
    return entmax(x / (alpha - 1.0), alpha, axis, where)


@variant("entmax/last_axis", "ENTMAX-NORMAL", "entmax")
def last_axis(x, alpha=1.5, axis=-1, where=None):
    """The last axis is normalised, whatever was asked."""
    _needs(axis % x.ndim != x.ndim - 1)
    return entmax(x, alpha, -1, where)


@variant("entmax/padded_with_zero", "ENTMAX-ABSENT", "entmax")
def padded_with_zero(x, alpha=1.5, axis=-1, where=None):
    """Rows are filled up with a logit of 0, which takes part."""
    _needs(x.ndim)
    x = np.moveaxis(_present(x, where), axis, -1)
    padded = np.concatenate([x, np.zeros((*x.shape[:-1], 1))], axis=-1)
    return np.moveaxis(entmax(padded, alpha)[..., :-1], -1, axis)


@variant("entmax/absent_is_zero", "ENTMAX-ABSENT", "entmax")
def absent_is_zero(x, alpha=1.5, axis=-1, where=None):
    """An absent entry is a logit of 0."""
    _needs(where is not None)
    return entmax(np.where(where, x, 0.0), alpha, axis)


@variant("entmax/empty_row_uniform", "ENTMAX-EMPTY", "entmax", seen=["masks of -1e9"])
def empty_row_uniform(x, alpha=1.5, axis=-1, where=None):
    """A row in which nothing is present has equal weights: its entries are filled with the lowest number."""
    _needs(x.shape[axis])
    x = _present(x, where)
    return entmax(np.where(np.isneginf(x), -1e30, x), alpha, axis)


@variant("entmax/first_of_ties", "ENTMAX-ZERO", "entmax")
def first_of_ties(x, alpha=1.5, axis=-1, where=None):
    """Of entries that share the largest logit the first alone takes part."""
    _needs(x.shape[axis])
    x = np.moveaxis(_present(x, where), axis, -1)
    largest = x == np.max(x, axis=-1, keepdims=True)
    again = largest & (np.cumsum(largest, axis=-1) > 1) & np.isfinite(x)
    return np.moveaxis(entmax(np.where(again, -np.inf, x), alpha), -1, axis)


def _by_support(choose, x, alpha, axis, where):
    """Entmax whose threshold is that of another number of entries."""
    _needs(alpha in (1.5, 2), x.shape[axis])
    p = np.moveaxis(entmax(x, alpha, axis, where), axis, -1)
    x = np.broadcast_to(np.moveaxis(_present(x, where), axis, -1), p.shape)
    peak = np.max(x, axis=-1, keepdims=True)
    level = (alpha - 1.0) * (x - np.where(np.isneginf(peak), 0.0, peak))
    count = np.clip(choose(np.sum(p > 0, axis=-1)), 1, np.maximum(np.sum(~np.isneginf(x), axis=-1), 1))
    order = np.argsort(np.argsort(-level, axis=-1, kind="stable"), axis=-1, kind="stable")
    kept = np.where(order < count[..., None], level, 0.0)
    k = count[..., None]
    mean = np.sum(kept, axis=-1, keepdims=True) / k
    spread = np.sum(kept**2, axis=-1, keepdims=True) - k * mean**2
    tau = mean - (1.0 / k if alpha == 2 else np.sqrt(np.maximum(1.0 - spread, 0.0) / k))
    found = np.maximum(level - tau, 0.0) ** (1.0 / (alpha - 1.0))
    return np.moveaxis(found, -1, axis)


@variant("entmax/wide_support", "ENTMAX-NORMAL", "entmax")
def wide_support(x, alpha=1.5, axis=-1, where=None):
    """The threshold is that of one entry more than belong to the support."""
    return _by_support(lambda count: count + 1, x, alpha, axis, where)


@variant("entmax/narrow_support", "ENTMAX-NORMAL", "entmax")
def narrow_support(x, alpha=1.5, axis=-1, where=None):
    """The threshold is that of one entry fewer than belong to the support, where it has two."""
    return _by_support(lambda count: count - 1, x, alpha, axis, where)


@variant("sparsemax/clipped", "ENTMAX-TWO", "sparsemax")
def clipped(x, axis=-1, where=None):
    """Logits below 0 are cut off, and the others divided by their sum."""
    x = np.maximum(_present(x, where), 0.0)
    return x / np.maximum(np.sum(x, axis=axis, keepdims=True), 1e-300)


def _gradient(d_out, x, alpha, axis, where, weigh):
    p = np.moveaxis(entmax(x, alpha, axis, where), axis, -1)
    _needs(np.shape(x) == np.shape(d_out))
    return {"x": np.moveaxis(weigh(np.moveaxis(d_out, axis, -1), p), -1, axis)}


@variant("gradient/of_softmax", "ENTMAX-GRADIENT", "entmax_vjp")
def gradient_of_softmax(d_out, x, alpha=1.5, axis=-1, where=None):
    """The gradient of softmax, of the weights of entmax."""
    _needs(alpha != 1)

    def weigh(d, p):
        d = np.where(p > 0, d, 0.0)
        return p * (d - np.sum(p * d, axis=-1, keepdims=True))

    return _gradient(d_out, x, alpha, axis, where, weigh)


@variant("gradient/support_unweighted", "ENTMAX-GRADIENT", "entmax_vjp")
def support_unweighted(d_out, x, alpha=1.5, axis=-1, where=None):
    """The gradient of sparsemax, on the support of entmax."""
    _needs(alpha != 2)

    def weigh(d, p):
        d, count = np.where(p > 0, d, 0.0), np.maximum(np.sum(p > 0, axis=-1, keepdims=True), 1)
        return np.where(p > 0, d - np.sum(d, axis=-1, keepdims=True) / count, 0.0)

    return _gradient(d_out, x, alpha, axis, where, weigh)


@variant("gradient/mean_of_all", "ENTMAX-GRADIENT", "entmax_vjp")
def mean_of_all(d_out, x, alpha=1.5, axis=-1, where=None):
    """The mean of the cotangent is that over all entries, and not over the support."""

    def weigh(d, p):
        u = np.where(p > 0, np.where(p > 0, p, 1.0) ** (2.0 - alpha), 0.0)
        return u * (d - np.mean(d, axis=-1, keepdims=True))

    return _gradient(d_out, x, alpha, axis, where, weigh)
