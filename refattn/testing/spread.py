"""Can a limit tell a right result from a wrong one at all? Not where it is wider than the values are apart."""

from __future__ import annotations

import numpy as np

from refattn.testing.bounds import bound
from refattn.testing.equals import call_as, equal
from refattn.testing.profiles import PROFILES
from refattn.testing.reference import named_arguments

_COARSE = 0.125  # a limit below this share of the largest value is no coarse one, however close the values are


def says_nothing(function, result, profile, want, limit, args, kwargs) -> bool:
    """Whether a limit is as wide as the values are apart, wherever they are apart.

    Attention takes means of values: where the limit reaches their standard deviation, nearly any weights would pass. Of
    other functions a limit says nothing where it reaches twice the largest value, so that zeros would pass, and the
    opposite. What is zero but for rounding, or for the format, is no value. Only whole results are asked about: a row or
    two without a bound do not matter.
    """
    finite = np.isfinite(want)
    level = np.max(np.abs(want[finite]), initial=0.0)
    if not level or not np.any(limit[finite] > _COARSE * level):
        return False
    mixes = result == "out" and equal(function, "attention") and "v" in named_arguments(function, args, kwargs)
    apart = _deviation(function, args, kwargs) if mixes else 2.0 * level
    asked = finite & (np.broadcast_to(apart, want.shape) > 0) & (np.abs(want) > 4 * profile.out.eta)
    if not asked.any() or not np.all((limit >= apart)[asked]) or not np.all(limit[asked] > _COARSE * level):
        return False
    with np.errstate(all="ignore"):
        rounding = bound(function, PROFILES["float64"], *args, **kwargs)[result].hard
    return bool(np.any(asked & (np.abs(want) > rounding)))


def _deviation(function, args, kwargs):
    """The standard deviation of the values in each column, for every query head."""
    found = call_as(function, "attention", args, kwargs)
    v = np.zeros((0, 1)) if found is None else np.asarray(found.arguments["v"], dtype=np.float64)
    if not v.shape[-2]:
        return 0.0
    with np.errstate(invalid="ignore"):
        return np.std(np.where(np.isfinite(v), v, 0.0), axis=-2, keepdims=True)
