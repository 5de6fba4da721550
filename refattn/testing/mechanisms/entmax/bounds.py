"""The bounds of entmax and its gradient: how far the threshold may be off, and what that makes of every weight."""

from __future__ import annotations

import numpy as np

from refattn.entmax import entmax
from refattn.gradients.sums import summed_to
from refattn.testing.mechanisms.softmax.bounds import softmax_bound
from refattn.testing.roundoff import Bound, gamma, rounded


def entmax_bound(profile, x, alpha=1.5, axis=-1, where=None):
    """Each weight between those of its root lowered and raised by the error of the logit and of the threshold."""
    if alpha == 1:
        return softmax_bound(profile, x, axis, where)
    p = entmax(x, alpha, axis, where)
    rows, own = np.moveaxis(p, axis, -1), np.moveaxis(_present(x, where), axis, -1)
    low, high = between(profile, own, rows, alpha, 0.0)
    limit = np.where(high > 0, rounded(rows, np.maximum(high - rows, rows - low), profile.out), 0.0)
    return {"out": Bound(p, np.moveaxis(limit, -1, axis))}


def between(profile, x, p, alpha, error):
    """The least and the greatest weight that a kernel may find, along the last axis, from logits that are wrong by `error`."""
    if x.shape[-1] == 0:
        return p, p
    u, scale = profile.u_acc, alpha - 1.0
    with np.errstate(invalid="ignore", over="ignore"):
        peak = np.max(x, axis=-1, keepdims=True)
        level = np.maximum(scale * np.where(np.isneginf(x), -np.inf, x - np.where(np.isfinite(peak), peak, 0.0)), -2.0)
    seen = p > 0
    # the threshold from an entry of the support, the largest, whose root says it best
    tau = -(np.max(p, axis=-1, keepdims=True) ** scale)
    own = scale * np.broadcast_to(error, x.shape) + 4 * u * np.minimum(np.abs(level), 1.0)
    widest = np.max(np.where(seen, own, 0.0), axis=-1, keepdims=True, initial=0.0)
    contested = (level > -1.0 - widest - 8 * u) & (level - tau > -2 * widest - 8 * u)
    widest = np.max(np.where(contested, own, 0.0), axis=-1, keepdims=True, initial=0.0)
    off = own + 2 * (widest + _threshold(profile, level, p, alpha, tau))

    def power(t):
        return np.where(t > 0, np.maximum(t, 1e-300) ** (1.0 / scale), 0.0)

    root = np.where(level > -1.0, level - tau, -1.0)
    low, high = power(np.where(seen, root - off, 0.0)), power(np.where(np.isneginf(x), -1.0, root + off))
    digits = 4 * u * np.abs(np.log(np.where(high > 0, np.maximum(high, 1e-300), 1.0)))  # of a logarithm on the way
    total = np.sum(high - low, axis=-1, keepdims=True)  # what a division by the sum of the weights may undo
    more = digits + gamma(x.shape[-1] + 8, u) + 4 * profile.u_exp + total
    high = np.minimum(high * (1.0 + more), 1.0 + gamma(x.shape[-1] + 8, u))
    return np.minimum(low * np.maximum(1.0 - more, 0.0), p), np.maximum(high, p)


def _threshold(profile, level, p, alpha, tau):
    """How far the threshold may be off by the sums that it is found from: of any of the ways to find it."""
    u, scale, seen = profile.u_acc, alpha - 1.0, p > 0
    count = np.maximum(np.sum(seen, axis=-1, keepdims=True), 1)
    mean = np.sum(np.where(seen, np.abs(level), 0.0), axis=-1, keepdims=True) / count
    found = gamma(count + 4, u) * (mean + 1.0 / count)  # a mean, less 1 / k
    if alpha == 1.5:  # a mean less a root of a difference of means
        square = np.sum(np.where(seen, level * level, 0.0), axis=-1, keepdims=True) / count
        inside = gamma(2 * count + 6, u) * (square + mean**2) + 4 * u / count
        found = found + inside / (2 * np.maximum(-tau - mean, 1.0 / count)) + 2 * u
    slope = np.sum(np.where(seen, np.where(seen, p, 1.0) ** (2.0 - alpha), 0.0), axis=-1, keepdims=True)
    residual = gamma(level.shape[-1] + 8, u) + 4 * profile.u_exp + 4 * u * _entropy(p)
    return np.maximum(found, scale * residual / np.maximum(slope, 1e-300)) + 2 * u


def _entropy(p):
    return -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1, keepdims=True)


def entmax_vjp_bound(profile, d_out, x, alpha=1.5, axis=-1, where=None):
    """The interval of each weight carried through the formula of the gradient."""
    p = np.moveaxis(entmax(x, alpha, axis, where), axis, -1)
    own = np.broadcast_to(np.moveaxis(_present(x, where), axis, -1), p.shape)
    value, limit = gradient_of_logits(profile, np.moveaxis(d_out, axis, -1), own, p, alpha, 0.0, 0.0)
    value, limit = (summed_to(np, np.moveaxis(y, -1, axis), x.shape) for y in (value, limit))
    count = value.size and p.size // value.size
    return {"x": Bound(value, rounded(value, limit + gamma(count, profile.u_acc) * np.abs(value), profile.out))}


def gradient_of_logits(profile, d_out, x, p, alpha, error, d_error):
    """The gradient of rows of logits, and how far off it may be: logits are wrong by `error`, cotangents by `d_error`."""
    u = profile.u_acc
    if alpha == 1:
        with np.errstate(invalid="ignore"):
            drop = np.where(p > 0, np.abs(x - np.max(x, axis=-1, keepdims=True, initial=-np.inf)), 0.0)
        relative = np.expm1(np.minimum(error + 2 * u * drop + profile.u_exp, 700.0)) + gamma(x.shape[-1] + 4, u)
        total = np.sum(p * relative, axis=-1, keepdims=True)
        wrong = p * (relative + total) / (1.0 - np.minimum(total, 0.5)) + 2 * profile.eta_acc
        low, high = np.maximum(p - wrong, 0.0), np.where(np.isneginf(x), 0.0, p + wrong)
    else:
        low, high = between(profile, x, p, alpha, error)
    seen, possible = p > 0, high > 0
    d = np.where(possible & np.isfinite(d_out), d_out, 0.0)
    weight = np.where(seen, np.where(seen, p, 1.0) ** (2.0 - alpha), 0.0)
    ends = [np.where(w > 0, np.maximum(w, 1e-300) ** (2.0 - alpha), 0.0) for w in (low, high)]
    wrong = np.maximum(np.abs(ends[0] - weight), np.abs(ends[1] - weight)) + 4 * u * weight
    if alpha > 2:  # an entry at the threshold may have any weight above that of its greatest
        wrong = np.where(possible & (low <= 0), np.inf, wrong)
    total = np.sum(weight, axis=-1, keepdims=True)
    mean = np.sum(weight * d, axis=-1, keepdims=True) / np.where(total > 0, total, 1.0)
    away = np.abs(d - mean)
    with np.errstate(invalid="ignore"):
        moved = np.sum(np.where(wrong > 0, wrong * away, 0.0), axis=-1, keepdims=True)
        left = total - np.sum(wrong, axis=-1, keepdims=True)
        moved = np.where(left > 0, moved / np.where(left > 0, left, 1.0), np.inf)
        farthest = np.max(
            np.where(possible, away, 0.0), axis=-1, keepdims=True, initial=0.0
        )  # a mean stays in the hull
        moved = np.minimum(np.where(np.isnan(moved), np.inf, moved), farthest)
        size = np.sum(weight * np.abs(d), axis=-1, keepdims=True) / np.where(total > 0, total, 1.0)
        mean_error = moved + gamma(2 * x.shape[-1] + 6, u) * size + d_error
        limit = np.where(wrong > 0, wrong * away, 0.0)
        limit = limit + (weight + np.where(np.isfinite(wrong), wrong, 0.0)) * (
            mean_error + d_error + 4 * u * (np.abs(d) + np.abs(mean))
        )
    limit = np.where(np.isnan(limit), np.inf, limit)
    value = np.where(
        np.isnan(p), np.nan, weight * np.where(seen, d - mean, 0.0)
    )  # a logit of +infinity leaves no number
    return value, np.where(possible, limit, 0.0)


def _present(x, where):
    return x if where is None else np.where(where, x, -np.inf)
