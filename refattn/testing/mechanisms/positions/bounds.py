"""Bounds of rotary position embedding.

A rotation is arithmetic on elements, which tensor cores do not do, so a kernel's roundings here are those of float32
(or float64) even where a profile allows its matrix products more. In the eager order every step is stored in the
format of the result: cosines and sines, the two products, their sum.
"""

from __future__ import annotations

import numpy as np

from refattn.positions import alibi_slopes, rope_frequencies, rotate, scaling_from_config
from refattn.testing.rounding import FORMATS, round_to
from refattn.testing.roundoff import Bound, gamma, rounded


def rotate_bound(profile, x, cos, sin, layout="interleaved", rotary_dim=None):
    """Two products and their sum: every rounding acts on |a cos| + |b sin|."""
    return {"out": _rotated(profile, x, cos, sin, layout, rotary_dim)}


def rope_bound(profile, x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """The same, by cosines and sines that are rounded, at an angle that is off by δ: it turns the result by δ.

    A correct kernel is taken to compute angles in float32 (in float64 for a float64 result) from positions, with
    δ = |pθ|·u·(6 + 2|ln θ|): the exponent of the power is rounded, which costs |ln θ|, then the power itself, a
    reciprocal, the scaling and the product with p. A frequency on the ramp of a scaling is a mixture whose shares are
    rounded, (12 + 3|ln θ|) units of what it was before. Where θ is 1 nothing is rounded. Cosine and sine reduce
    their argument exactly and are within u_exp.
    """
    rotary_dim = x.shape[-1] if rotary_dim is None else rotary_dim
    scaling = scaling_from_config(scaling) if isinstance(scaling, dict) else scaling
    u = _unit(profile)
    plain = rope_frequencies(rotary_dim, base=base).frequencies
    theta, factor = rope_frequencies(rotary_dim, base=base, scaling=scaling)
    units = np.where(theta == 1.0, 0.0, 6.0 + 2.0 * np.abs(np.log(theta)))
    if hasattr(scaling, "factor") and hasattr(scaling, "original_length"):
        mixed = (theta != plain) & (theta != plain / scaling.factor)
        units = np.where(mixed, (12.0 + 3.0 * np.abs(np.log(plain))) * plain / theta, units)
    p = np.asarray(positions, dtype=np.float64)[..., None]
    if profile.out.name != "float64":
        units = units + (round_to(p, "float32") != p)
    angles = p * theta
    eager = profile.order == "eager"
    table = _rotated(
        profile,
        x,
        factor * np.cos(angles),
        factor * np.sin(angles),
        layout,
        rotary_dim,
        turn=np.abs(angles) * units * u,
        relative=(profile.out.u if eager else u) + (0.0 if factor == 1.0 else gamma(5, u)),
        absolute=factor * profile.u_exp + (profile.out.eta if eager else 0.0),
    )
    return {"out": table}


def alibi_slopes_bound(profile, heads, like=None):
    """A number of the format, raised to the power h, each step rounded correctly, and perhaps a reciprocal: h + 2 roundings."""
    value = alibi_slopes(heads)
    power = 1 << (int(heads).bit_length() - 1)
    steps = np.concatenate([np.arange(1, power + 1), 2 * np.arange(heads - power) + 1])
    return {"out": Bound(value, rounded(value, value * gamma(steps + 2, _unit(profile)), profile.out))}


def _unit(profile):
    return min(profile.u_acc, FORMATS["float32"].u)


def _rotated(profile, x, cos, sin, layout, rotary_dim, turn=0.0, relative=0.0, absolute=0.0):
    """The bound of a rotation by tables with a relative and an absolute error, at angles that are off by `turn`."""
    rotary_dim = x.shape[-1] if rotary_dim is None else rotary_dim
    value = rotate(x, cos, sin, layout=layout, rotary_dim=rotary_dim)
    features = np.arange(rotary_dim)
    if layout == "interleaved":
        pair, partner = features // 2, features ^ 1
    else:
        pair, partner = features % max(rotary_dim // 2, 1), np.roll(features, rotary_dim // 2)
    a, b, out = np.abs(x[..., features]), np.abs(x[..., partner]), np.abs(value)
    turn = np.broadcast_to(turn, cos.shape)[..., pair]
    reach = np.minimum(turn, 1.0) * np.hypot(cos, sin)[..., pair]
    products = a * (np.abs(cos)[..., pair] + reach) + b * (np.abs(sin)[..., pair] + reach)

    error = np.minimum(turn, 1.0) * out[..., partner] + np.minimum(turn**2 / 2.0, 2.0) * out[..., features]
    error = error + relative * products + absolute * (a + b)
    u, eager = _unit(profile), profile.order == "eager"
    products = products * (1.0 + relative) + absolute * (a + b)
    error = error + (u + max(u, profile.out.u if eager else 0.0)) * products * (1.0 + u)
    error = error + 2.0 * (profile.out.eta if eager else profile.eta_acc)

    unrotated = np.zeros_like(value[..., rotary_dim:])
    whole = np.concatenate([rounded(out[..., features], error, profile.out), unrotated], axis=-1)
    return Bound(value, whole)
