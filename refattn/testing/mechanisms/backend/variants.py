"""Variants of rounding."""

import numpy as np

from refattn.testing.registry import variant
from refattn.testing.rounding import FORMATS, round_to, ulp


def _towards(x, fmt, choose):
    nearest = round_to(x, fmt)
    with np.errstate(all="ignore"):
        step = ulp(np.where(np.isfinite(x), x, 0.0), fmt)
        grid = np.sign(x) * choose(np.abs(x) / step) * step
    return np.where(np.isfinite(nearest) & np.isfinite(x) & (np.abs(grid) <= FORMATS[fmt].largest), grid, nearest)


@variant("round_to/away_from_zero", "BACKEND-ROUND", "testing.round_to")
def round_away(x, fmt):
    """Ties go away from zero instead of to the even neighbour."""
    return _towards(x, fmt, lambda n: np.floor(n + 0.5))


@variant("round_to/truncates", "BACKEND-ROUND", "testing.round_to", seen=["tensor cores' accumulators"])
def round_towards_zero(x, fmt):
    """Towards zero instead of to the nearest."""
    return _towards(x, fmt, np.floor)
