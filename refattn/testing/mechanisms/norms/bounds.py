"""Bounds of LayerNorm and RMSNorm, for kernels that take the variance of x - mean.

A mean that is off by δ shifts every deviation by δ, and the deviations have mean 0, so the variance grows by δ² and no
more: a large common offset enters through δ alone, which is γ_n times the mean of |x|. Kernels that take E[x²] - mean²
are outside of this bound where the offset is large beside the spread, and rightly so.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from refattn.norms import layer_norm, rms_norm
from refattn.testing.profiles import Profile
from refattn.testing.roundoff import Bound, rounded
from refattn.testing.roundoff import gamma as roundings


def layer_norm_bound(profile: Profile, x, gamma, beta=None, *, eps=1e-5, axis=-1) -> dict[str, Bound]:
    """The mean's error, the variance's, the root and the division, the gain and the offset."""
    profile = _vector(profile)
    axes, n = _over(axis, x)
    u = profile.u_acc
    centred = x - _mean(x, axes, n)
    variance = _mean(centred * centred, axes, n)
    shift = roundings(n + 1, u) * _mean(np.abs(x), axes, n) + profile.eta_acc
    normal = layer_norm(x, None, eps=eps, axis=axis)
    scale, factor = _inverse_root(profile, variance, n, eps, grown=shift * shift)
    own = shift * (1 + u) + u * np.abs(centred) + profile.eta_acc
    error = scale * own * (1 + factor) + np.abs(normal) * factor
    value = layer_norm(x, gamma, beta, eps=eps, axis=axis)
    return _affine(profile, value, normal, error, _shaped(gamma, x, axes), _shaped(beta, x, axes))


def rms_norm_bound(profile: Profile, x, gamma, *, eps=1e-6, axis=-1, unit_offset=False) -> dict[str, Bound]:
    """Every error is relative: that of the mean square, the root, the division and the gain."""
    profile = _vector(profile)
    axes, n = _over(axis, x)
    square = _mean(x * x, axes, n)
    normal = rms_norm(x, None, eps=eps, axis=axis)
    _, factor = _inverse_root(profile, square, n, eps)
    value = rms_norm(x, gamma, eps=eps, axis=axis, unit_offset=unit_offset)
    gain = _shaped(gamma, x, axes)
    if gain is not None and unit_offset:
        gain = 1.0 + gain
    return _affine(profile, value, normal, np.abs(normal) * factor + profile.eta_acc, gain, None)


def _vector(profile):
    """The profile off the matrix units, whose accumulators may be narrower than float32 (float8)."""
    return replace(profile, u_acc=min(profile.u_acc, 2.0**-23))


def _over(axis, x):
    axes = tuple(axis) if isinstance(axis, tuple | list) else (axis,)
    return axes, int(np.prod([x.shape[n] for n in axes]))


def _mean(x, axes, n):
    return np.sum(x, axis=axes, keepdims=True) / max(n, 1)


def _shaped(weight, x, axes):
    if weight is None:
        return None
    inside = {n % x.ndim for n in axes}
    return np.reshape(np.asarray(weight, dtype=np.float64), [x.shape[n] if n in inside else 1 for n in range(x.ndim)])


def _inverse_root(profile, square, n, eps, grown=0.0):
    """1/√(square + eps) and its relative error; a mean that is off lets the square grow by `grown`.

    u for each square, γ_n for the sum, one rounding each for the division by n, for eps and for adding it.
    """
    with np.errstate(all="ignore"):
        total = square + eps
        relative = roundings(n + 6, profile.u_acc) + np.where(total > 0, (n + 2) * profile.eta_acc / total, 0.0)
        up = relative + (1 + relative) * np.where(total > 0, grown / total, 0.0)
        too_large = np.where(relative < 1, (1.0 - np.minimum(relative, 0.999)) ** -0.5 - 1.0, np.inf)
        too_small = 1.0 - (1.0 + up) ** -0.5
        factor = np.maximum(too_large, too_small) + profile.u_exp + 3 * profile.u_acc  # root, division, product
        return np.where(total > 0, total**-0.5, 0.0), factor


def _affine(profile, value, normal, error, gain, offset):
    """Gain and offset; an eager kernel stores the normalised entries, and their product with the gain, in between."""
    u, stored = profile.u_acc, profile.scores
    if stored is not None:
        error = rounded(normal, error, stored)
    product = normal
    if gain is not None:
        product = normal * gain
        error = np.abs(gain) * error * (1 + 2 * u) + 2 * u * np.abs(product) + profile.eta_acc
        if stored is not None and offset is not None:
            error = rounded(product, error, stored)
    if offset is not None:
        error = error + u * (np.abs(value) + error)
    hard = rounded(value, np.where(np.isfinite(value), error, 0.0), profile.out)
    return {"out": Bound(value, np.where(np.isfinite(value), hard, 0.0))}
