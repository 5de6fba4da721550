"""Bounds of softmax, log-sum-exp and merge."""

from __future__ import annotations

import numpy as np

from refattn.softmax import logsumexp, merge, softmax
from refattn.testing.roundoff import Bound, gamma, rounded


def softmax_bound(profile, x, axis=-1, where=None):
    """Each weight carries the error E of its own exponential and the mean of all in the denominator.

    E_j = 2u|x_j - m| + u_exp bounds the exponent's error: one rounding of the subtraction, doubled because its
    result is used by an exponential that is itself rounded. Source: Blanchard, Higham & Higham 2021, section 4.
    """
    p = softmax(x, axis, where)
    e = exponent_error(profile, x, axis, where)
    n = x.shape[axis]
    relative = np.expm1(e) + gamma(n + 2, profile.u_acc)
    total = np.sum(p * relative, axis=axis, keepdims=True)
    error = p * (relative + total) / (1.0 - np.minimum(total, 0.5)) + 2 * profile.eta_acc
    return {"out": Bound(p, np.where(p > 0, rounded(p, error, profile.out), _vanished(profile, x, where, p)))}


def logsumexp_bound(profile, x, axis=-1, where=None):
    """The mean error of the exponents, the sum, the logarithm and the addition of the maximum."""
    lse = logsumexp(x, axis, where)
    p, e = softmax(x, axis, where), exponent_error(profile, x, axis, where)
    finite = np.where(np.isfinite(lse), lse, 0.0)
    log_sum = np.log(max(x.shape[axis], 1)) * np.ones_like(finite)
    error = np.sum(p * np.expm1(e), axis=axis) * 2 + gamma(x.shape[axis], profile.u_acc)
    error = error + profile.u_exp * log_sum + profile.u_acc * (np.abs(finite) + log_sum)
    return {"out": Bound(lse, np.where(np.isfinite(lse), rounded(finite, error, profile.out), 0.0))}


def merge_bound(profile, out_a, lse_a, out_b, lse_b):
    """A convex combination whose weights carry the exponents' errors: they act through |o_part - o|."""
    out, lse = merge(out_a, lse_a, out_b, lse_b)
    pairs = np.stack(np.broadcast_arrays(lse_a, lse_b))
    p, e = softmax(pairs, 0), exponent_error(profile, pairs, 0, None)
    relative = (np.expm1(e) + 4 * profile.u_acc)[..., None]
    parts = [np.where(np.isneginf(l)[..., None], 0.0, o) for o, l in ((out_a, lse_a), (out_b, lse_b))]
    spread = sum(w[..., None] * r * np.abs(o - out) for w, r, o in zip(p, relative, parts, strict=True))
    size = sum(w[..., None] * np.abs(o) for w, o in zip(p, parts, strict=True))
    error = 2 * spread + gamma(6, profile.u_acc) * size + profile.u_exp * np.abs(out)
    lse_error = logsumexp_bound(profile, pairs, 0)["out"].hard
    return {"out": Bound(out, rounded(out, error, profile.out)), "lse": Bound(lse, lse_error)}


def exponent_error(profile, x, axis, where):
    """How much an exponent x_j - m and its exponential can be off, relative to the exponential."""
    x = x if where is None else np.where(where, x, -np.inf)
    if x.shape[axis] == 0:
        return np.zeros_like(x)
    peak = np.max(x, axis=axis, keepdims=True)
    with np.errstate(invalid="ignore"):
        drop = np.where(np.isneginf(x), 0.0, np.abs(x - np.where(np.isneginf(peak), 0.0, peak)))
    return 2 * profile.u_acc * drop + profile.u_exp


def _vanished(profile, x, where, p):
    """A weight that is 0 in float64 although its entry is present may be anything below the underflow threshold."""
    present = ~np.isneginf(x) if where is None else np.broadcast_to(where, p.shape) & ~np.isneginf(x)
    return np.where(present, max(profile.eta_acc, profile.out.eta) * 2, 0.0)
