"""Bounds of activations and of the two feed-forward networks.

An activation's bound allows every published way of writing it in the accumulator's arithmetic. Where 1 + erf and
1 + tanh cancel, for negative x, the error is that of erf and tanh, not of the result: such a kernel is correct, and
less accurate than the reference.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from refattn import backend, feedforward
from refattn.feedforward import ACTIVATIONS, FeedForwardParams, GatedFeedForwardParams
from refattn.testing.profiles import Profile
from refattn.testing.roundoff import Bound, gamma, rounded

# --- activations: the error before the result is rounded to its format ----------------------------------------------


def _relu(profile, x):
    return np.zeros_like(x)


def _squared_relu(profile, x):
    return profile.u_acc * feedforward.squared_relu(x) + profile.eta_acc


def _exp(profile, z, own=0.0):
    """Relative error of exp(z), with z off by `own` and multiplied by log2(e) for a power of 2."""
    return np.expm1(np.minimum(own + 2 * profile.u_acc * np.abs(z), 700.0)) + profile.u_exp


def _sigmoid(profile, z, own=0.0):
    """1 / (1 + exp(-z)): the exponential's error acts through its share of the sum."""
    s, share = feedforward.sigmoid(z), feedforward.sigmoid(-z)
    return s * np.minimum(share * _exp(profile, z, own) + profile.u_acc + profile.u_exp, 1.0) + 2 * profile.eta_acc


def _silu(profile, x):
    return np.abs(x) * _sigmoid(profile, x) + profile.u_acc * np.abs(feedforward.silu(x))


def _quick_gelu(profile, x):
    z = 1.702 * x
    own = 2 * profile.u_acc * np.abs(z)  # the constant and the product
    return np.abs(x) * _sigmoid(profile, z, own) + profile.u_acc * np.abs(feedforward.quick_gelu(x))


def _gelu(profile, x):
    """x/2 (1 + erf(x/√2)), or x/2 erfc(-x/√2)."""
    z = x / math.sqrt(2.0)
    slope = 2.0 / math.sqrt(math.pi) * np.exp(-z * z)
    weight = _half_of_one_plus(profile, backend.special(np, "erf")(z), slope * 2 * profile.u_acc * np.abs(z))
    return np.abs(x) * weight + 2 * profile.u_acc * np.abs(feedforward.gelu(x))


def _gelu_tanh(profile, x):
    """x/2 (1 + tanh z), or x sigmoid(2z); z takes eight roundings, none of which cancels."""
    z = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)
    own = gamma(8, profile.u_acc) * np.abs(z)
    slope = np.minimum(4.0 * np.exp(-2.0 * np.maximum(np.abs(z) - own, 0.0)), 1.0)  # at least 1 - tanh²
    weight = _half_of_one_plus(profile, np.tanh(z), slope * np.minimum(own, 1.0))
    return np.abs(x) * weight + 2 * profile.u_acc * np.abs(feedforward.gelu(x, "tanh"))


def _half_of_one_plus(profile, t, error):
    return 0.5 * (error + profile.u_exp * np.maximum(np.abs(t), 1.0 + t) + profile.u_acc * (1.0 + t)) + profile.eta_acc


def _tanh(profile, x):
    return profile.u_exp * np.abs(np.tanh(x)) + profile.eta_acc


def _softplus(profile, x):
    """ln(1 + exp(x)): the exponential, the sum under the logarithm, the logarithm."""
    value = feedforward.softplus(x)
    exponential = feedforward.sigmoid(x) * np.minimum(_exp(profile, x), 1.0)
    return exponential + profile.u_acc + (profile.u_exp + profile.u_acc) * np.abs(value) + profile.eta_acc


# The error of each activation in itself, and the steepest slope with which it passes an error of its argument on.
_ERRORS = {
    "identity": (_relu, 1.0),
    "relu": (_relu, 1.0),
    "squared_relu": (_squared_relu, None),
    "gelu": (_gelu, 1.13),
    "gelu_tanh": (_gelu_tanh, 1.13),
    "quick_gelu": (_quick_gelu, 1.1),
    "silu": (_silu, 1.1),
    "sigmoid": (_sigmoid, 0.25),
    "tanh": (_tanh, 1.0),
    "softplus": (_softplus, 1.0),
}


def gelu_bound(profile: Profile, x, approximate=None) -> dict[str, Bound]:
    """The exact function or its approximation with tanh."""
    return _bound("gelu_tanh" if approximate else "gelu", profile, x)


def _bound(name, profile, x):
    with np.errstate(all="ignore"):
        value = ACTIVATIONS[name](np.asarray(x, dtype=np.float64))
        finite = np.isfinite(value) & np.isfinite(x)
        safe = np.where(finite, x, 0.0)
        error = rounded(ACTIVATIONS[name](safe), _ERRORS[name][0](_steps(profile), safe), profile.out)
        return {"out": Bound(value, np.where(finite, error, 0.0))}


def _steps(profile):
    """The profile of the steps of an activation: in the eager order each is a kernel that stores its result."""
    own, out = _vector(profile), profile.out
    if profile.order != "eager":
        return own
    return replace(own, u_acc=max(own.u_acc, out.u), u_exp=own.u_exp + out.u, eta_acc=max(own.eta_acc, out.eta))


def _vector(profile):
    """The profile off the matrix units, whose accumulators may be narrower than float32 (float8)."""
    return replace(profile, u_acc=min(profile.u_acc, 2.0**-23))


def activation_bound(name):
    """The bound of an activation without options, by its name."""

    def bound(profile: Profile, x) -> dict[str, Bound]:
        return _bound(name, profile, x)

    return bound


# --- networks -------------------------------------------------------------------------------------------------------


def feed_forward_bound(profile: Profile, x, params: FeedForwardParams, *, activation="relu") -> dict[str, Bound]:
    """Two products with their accumulations; between them the activation, and what the profile stores of it."""
    z, error = _linear(profile, x, 0.0, params.w_in, params.b_in, profile.scores)
    hidden, error = _activated(profile, activation, z, error)
    hidden, error = _stored(profile, hidden, error)
    return _last(profile, hidden, error, params)


def gated_feed_forward_bound(
    profile: Profile, x, params: GatedFeedForwardParams, *, activation="silu"
) -> dict[str, Bound]:
    """As the plain network, with a product of two projections in the middle."""
    gate, gate_error = _linear(profile, x, 0.0, params.w_gate, params.b_gate, profile.scores)
    up, up_error = _linear(profile, x, 0.0, params.w_up, params.b_up, profile.scores)
    gate, gate_error = _activated(profile, activation, gate, gate_error)
    if profile.scores is not None:
        gate_error = rounded(gate, gate_error, profile.scores)
    hidden = gate * up
    error = np.abs(gate) * up_error + gate_error * (np.abs(up) + up_error)
    error = error + _vector(profile).u_acc * (np.abs(hidden) + error) + profile.eta_acc
    hidden, error = _stored(profile, hidden, error)
    return _last(profile, hidden, error, params)


def _linear(profile, x, error, w, b, store):
    """x w + b and its error, where x carries an error already."""
    value = x @ w + (0.0 if b is None else b)
    size = (np.abs(x) + error) @ np.abs(w) + (0.0 if b is None else np.abs(b))
    operands = 2 * profile.operands.u + profile.operands.u**2 if profile.operands else 0.0
    error = np.zeros_like(x) + error
    total = error @ np.abs(w) + (gamma(x.shape[-1] + 1, profile.u_acc) + operands * 1.01) * size
    total = total + x.shape[-1] * profile.eta_acc
    return value, total if store is None else rounded(value, total, store)


def _activated(profile, activation, z, error):
    """The activation's own error at z or where z may lie, and the error of z, passed on."""
    name = activation if isinstance(activation, str) else getattr(activation, "__name__", "")
    if name not in _ERRORS or (callable(activation) and ACTIVATIONS[name] is not activation):
        raise NotImplementedError(f"no error bound has been derived for the activation {activation!r}")
    own, slope = _ERRORS[name]
    profile = _vector(profile)
    passed = error * (2 * feedforward.relu(z) + error) if slope is None else error * slope
    return ACTIVATIONS[name](z), passed + np.maximum.reduce([own(profile, z + d) for d in (-error, 0.0, error)])


def _stored(profile, hidden, error):
    """The hidden units in the format in which they are multiplied."""
    return hidden, error if profile.weights is None else rounded(hidden, error, profile.weights)


def _last(profile, hidden, error, params):
    value, error = _linear(profile, hidden, error, params.w_out, params.b_out, None)
    return {"out": Bound(value, rounded(value, error, profile.out))}
