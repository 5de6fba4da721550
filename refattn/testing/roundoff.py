"""What an error bound is made of: an exact result with how far a correct kernel can be from it, and rounding errors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


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


def gamma(n, u):
    """γ_n = (1 - u)^-n - 1: the relative error of n successive roundings, each a factor 1 + δ or its inverse.

    It is at most n·u / (1 - n·u), the usual form (Higham 2002, lemma 3.1), and finite for any n.
    """
    with np.errstate(over="ignore"):
        return np.expm1(-np.asarray(n, dtype=np.float64) * np.log1p(-u))


def rounded(value, error, fmt):
    """The error of a number that carries `error` and is then rounded to a format."""
    return error + np.maximum(fmt.u * (np.abs(value) + error), fmt.eta)
