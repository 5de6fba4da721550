"""How far one result is from another, in units of a limit."""

from __future__ import annotations

import numpy as np


def same(got, want):
    """Where two results are equal, NaN included."""
    return (got == want) | (np.isnan(got) & np.isnan(want))


def ratio(got, want, limit):
    """The difference in units of a limit; 0 where there is none, or where it is no number."""
    with np.errstate(all="ignore"):
        difference = np.abs(got - want)
        found = np.where(difference == 0, 0.0, difference / limit)
    return np.where(same(got, want) | ~np.isfinite(got), 0.0, found)


def distance(got, want, limit) -> float:
    """The largest difference in units of a limit; infinite where NaN and infinities differ."""
    if not np.array_equal(np.isnan(got), np.isnan(want)) or not np.array_equal(np.isinf(got), np.isinf(want)):
        return np.inf
    if not np.array_equal(np.isposinf(got), np.isposinf(want)):
        return np.inf
    return float(np.max(ratio(got, want, limit), initial=0.0))


def overall(got, want, limit) -> float:
    """The root mean square of the difference in units of a limit."""
    return float(np.sqrt(np.mean(ratio(got, want, limit) ** 2))) if np.size(got) else 0.0
