"""How far a correct kernel of a given profile can be from the oracle, element by element.

A bound function takes the profile and the reference function's own arguments (NumPy float64) and returns a
dictionary: for each result ('out', 'lse') a `Bound`. It is derived by forward error analysis with the actual
magnitudes; nothing is fitted.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refattn import backend
from refattn.testing.profiles import profile as named_profile


class Bound(NamedTuple):
    """An exact result and how far from it a correct kernel can be.

    Attributes
    ----------
    value : float64 array
        The oracle's result.
    hard : float64 array
        No correct kernel of the profile is farther away.
    statistical : float64 array or None
        What holds when roundings are independent (six standard deviations); None where it does not apply.
    """

    value: np.ndarray
    hard: np.ndarray
    statistical: np.ndarray | None = None

    def limit(self, tier: str) -> np.ndarray:
        """The bound of a tier, as large as the result; the hard one where the statistical one does not apply."""
        limit = self.statistical if tier == "statistical" and self.statistical is not None else self.hard
        return np.broadcast_to(limit, np.shape(self.value))


_HOME = {  # reference function -> the module here that bounds it
    "testing.round_to": "backend",
    "softmax": "softmax",
    "logsumexp": "softmax",
    "merge": "softmax",
    "attention": "attention",
    "grouped_query_attention": "attention",
    "attention_weights": "attention",
    "tiled_attention": "tiled",
    "split_attention": "tiled",
    "packed_attention": "tiled",
    "tiled_attention_vjp": "tiled",
    "attention_vjp": "gradients",
    "grouped_query_attention_vjp": "gradients",
    "layer_norm": "norms",
    "rms_norm": "norms",
    "rope": "positions",
    "alibi_slopes": "positions",
    "positions.rotate": "positions",
    **dict.fromkeys(
        ("relu", "gelu", "quick_gelu", "silu", "squared_relu", "softplus", "sigmoid", "tanh"), "feedforward"
    ),
    "feed_forward": "feedforward",
    "gated_feed_forward": "feedforward",
}

BOUNDS: dict[str, Callable] = {}


def bound_of(*functions):
    """Register a bound function for reference functions, by name."""

    def register(bound):
        BOUNDS.update(dict.fromkeys(functions, bound))
        return bound

    return register


def bound(function, precision, /, *args, **kwargs) -> dict[str, Bound]:
    """The results of a reference function with their bounds: derived by hand where that was done, else from its code.

    Parameters
    ----------
    function : callable or str
        The reference function.
    precision : str or Profile
        What the kernel promises to round and where.
    *args, **kwargs
        Its arguments, as the kernel got them, of any framework.

    Raises
    ------
    NotImplementedError
        The function takes a step for which there is no rule.

    Examples
    --------
    >>> import refattn
    >>> found = bound(refattn.softmax, "float32", np.zeros(4, dtype=np.float32))["out"]
    >>> found.value, bool(found.hard.max() < 1e-6)
    (array([0.25, 0.25, 0.25, 0.25]), True)
    """
    from refattn.testing.reference import in_float64, name_of, oracle

    function, profile = name_of(function), named_profile(precision)
    args, kwargs = in_float64(args), in_float64(kwargs)
    if function in _HOME:
        importlib.import_module(f"{__name__}.{_HOME[function]}")
    try:
        bounds = _bounded(function, profile, args, kwargs)
    except (ArithmeticError, AttributeError, IndexError, TypeError, ValueError, Warning):
        oracle(function, *args, **kwargs)  # says which argument is wrong, if one is
        raise
    if profile.out.name == "float64":  # the oracle rounds as much as the kernel does
        bounds = {name: Bound(b.value, 2 * b.hard, _twice(b.statistical)) for name, b in bounds.items()}
    return bounds


@backend.ieee
def _bounded(function, profile, args, kwargs):
    if function in BOUNDS:
        return BOUNDS[function](profile, *args, **kwargs)
    from refattn.testing.tracked import automatic_bound

    return automatic_bound(function, profile, *args, **kwargs)


def _twice(x):
    return None if x is None else 2 * x


def gamma(n, u):
    """γ_n = (1 - u)^-n - 1: the relative error of n successive roundings, each a factor 1 + δ or its inverse.

    It is at most n·u / (1 - n·u), the usual form (Higham 2002, lemma 3.1), and finite for any n.
    """
    with np.errstate(over="ignore"):
        return np.expm1(-np.asarray(n, dtype=np.float64) * np.log1p(-u))


def rounded(value, error, fmt):
    """The error of a number that carries `error` and is then rounded to a format."""
    return error + np.maximum(fmt.u * (np.abs(value) + error), fmt.eta)
