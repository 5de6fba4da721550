"""The bound of a choice by computed scores: which keys a correct kernel may keep instead, and how far that moves results.

A computed score lies within e of the true one. At least `kept` keys have a computed score of t or more, the `kept`-th largest
of all s - e, so that a kernel keeps no key with s + e < t. At most `kept` have one above T, the next largest of all s + e, so
that it keeps each key with s - e > T. What lies between is contested, and any of it a right choice, unless nothing was rounded.
Where the reference keeps contested keys of weight P in all, others take their places one for one, with a weight that is at
most e^w times as large, w the width of the contested scores. With o the reference's output,

    o' - o = Σ [p (v' - v) + (p' - p)(v' - o)] / Σ p',   |o' - o| <= e^w P (max v - min v + (e^w - 1) max |v - o|),

the sum over the pairs and the extremes over the contested keys; and o' is a mean of values that may be kept.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refattn.attention import attention_stages
from refattn.gradients.sums import summed_to
from refattn.testing.mechanisms.attention.bounds import attention_bound, score_bound
from refattn.testing.mechanisms.sparse.counted import bound_of_gradients
from refattn.testing.mechanisms.tiled.variants import as_arrays, repeated
from refattn.testing.roundoff import Bound

_DECIDE = ("bias", "scale", "softcap", "q_positions", "k_positions")  # the options that scores depend on


class Contest(NamedTuple):
    """What rounding leaves open, (..., N, M) each.

    Attributes
    ----------
    possible, contested : bool array
        Keys that a correct kernel may keep, and those of them that it may also drop.
    low, high : array
        Between which numbers the computed score lies.
    """

    possible: np.ndarray
    contested: np.ndarray
    low: np.ndarray
    high: np.ndarray


def contest(profile, kept, mask, q, k, v, **options) -> Contest | None:
    """Which keys are kept for certain and which perhaps, by their computed scores; None where the choice is certain."""
    options = {name: options.get(name) for name in _DECIDE}
    if kept >= k.shape[-2] or products_are_exact(profile, q, k, options):
        return None
    arrays = {name: x for name, x in as_arrays(q, k, **options).items() if x is not None}
    s, error, _ = score_bound(profile, q, repeated(q, k, v)[0], mask, **arrays)
    s = np.where(np.isnan(s), np.inf, s)
    error = np.where(np.isfinite(s), error, 0.0)
    low, high = s - error, s + error
    least, next_best = np.sort(low, axis=-1)[..., -kept, None], np.sort(high, axis=-1)[..., -kept - 1, None]
    possible = (high >= least) & (s > -np.inf)
    contested = possible & (low <= next_best)
    return Contest(possible, contested, low, high) if np.any(contested) else None


def products_are_exact(profile, q, k, options) -> bool:
    """Whether no format and no order rounds a score: products of integers, at most 2^7 in all, times a power of 2."""
    scale = q.shape[-1] ** -0.5 if options["scale"] is None else abs(float(options["scale"]))
    if options["bias"] is not None or options["softcap"] or profile.operands or np.frexp(scale)[0] != 0.5:
        return False
    whole = all(np.all(np.isfinite(x)) and np.all(x == np.round(x)) for x in (q, k))
    return whole and bool(np.max(np.sum(np.abs(q), axis=-1), initial=0.0) * np.max(np.abs(k), initial=0.0) <= 128)


def output_bound(profile, arguments, of: Contest | None):
    """The bound of attention under a choice, a mask of `tiled_attention`, wider where it is contested."""
    k, v = repeated(*(arguments[name] for name in "qkv"))
    arguments = {**arguments, "k": k, "v": v}
    arguments = {name: x for name, x in as_arrays(**arguments).items() if x is not None} | {"q": arguments["q"], "k": k}
    found = attention_bound(profile, **arguments)
    if of is None:
        return found
    moved, of_lse = _moved(of, **arguments)
    more = {"out": 2 * moved, "lse": 2 * of_lse}  # twice, for the other keys round in their own way
    wider = lambda x, more: None if x is None else x + more
    return {name: Bound(b.value, b.hard + more[name], wider(b.statistical, more[name])) for name, b in found.items()}


def _moved(of: Contest, v, return_lse=False, **arguments):
    """How far another choice may move the output, (..., N, Dv), and its log-sum-exp, (..., N)."""
    stages = attention_stages(v=v, **arguments)
    o, any_ = stages.out, np.any(of.contested, axis=-1)
    share = np.sum(np.where(of.contested, stages.weights, 0.0), axis=-1)  # the P above
    ends = (np.max(np.where(of.contested, sign * x, -np.inf), axis=-1) for sign, x in ((1, of.high), (-1, of.low)))
    width = np.clip(np.where(any_, sum(ends), 0.0), 0.0, 300.0)  # w

    v = np.where(np.isfinite(v), v, 0.0)[..., None, :, :]
    if arguments.get("dropout") is not None:
        keep, rate = arguments["dropout"]
        v = v * np.where(np.broadcast_to(keep, stages.weights.shape), 1.0 / (1.0 - rate), 0.0)[..., None]
    away = np.abs(v - o[..., None, :])
    largest = lambda keys, x, least: np.max(np.where(keys[..., None], x, least), axis=-2)
    spread = np.where(any_[..., None], sum(largest(of.contested, x, -np.inf) for x in (v, -v)), 0.0)
    hull = np.maximum(largest(of.possible, away, 0.0), 0.0 if arguments.get("sinks") is None else np.abs(o))
    more, times = np.expm1(width)[..., None], np.exp(width)[..., None]
    moved = np.minimum(times * share[..., None] * (spread + more * largest(of.contested, away, 0.0)), hull)
    return np.where(any_[..., None], moved, 0.0), np.minimum(width, 2 * share * np.expm1(width))


def gradient_bound(profile, given, arguments, of: Contest | None):
    """The bound of gradients under a choice; infinite for queries whose choice is contested and keys that may be theirs."""
    found = bound_of_gradients(profile, given, arguments)
    if of is None:
        return found
    rows = np.any(of.contested, axis=-1)  # (..., N)
    cells = rows[..., None] & of.possible
    keys = np.any(cells, axis=-2)  # (..., M)
    q, k = given["q"], given["k"]
    if min(q.ndim, k.ndim) > 2 and k.shape[-3] not in (1, q.shape[-3]):  # of any of the heads that share them
        keys = np.any(keys.reshape(*keys.shape[:-2], k.shape[-3], -1, keys.shape[-1]), axis=-2)
    open_ = {"q": rows[..., None], "k": keys[..., None], "v": keys[..., None], "bias": cells}
    open_ |= {"sinks": np.any(rows, axis=-1), "scale": np.any(rows)}
    for name, b in found.items():
        shape = np.broadcast_shapes(open_[name].shape, b.value.shape)
        no_limit = summed_to(np, np.broadcast_to(open_[name], shape).astype(float), b.value.shape) > 0
        found[name] = Bound(b.value, np.where(no_limit, np.inf, b.hard))
    return found
