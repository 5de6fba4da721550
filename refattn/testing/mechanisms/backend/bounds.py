"""The bound of rounding itself: none."""

from __future__ import annotations

import numpy as np

from refattn.testing.bounds import bound_of
from refattn.testing.rounding import round_to
from refattn.testing.roundoff import Bound


@bound_of("testing.round_to")
def round_to_bound(profile, x, fmt):
    """Rounding is exact: nothing else is right."""
    value = round_to(x, fmt)
    return {"out": Bound(value, np.zeros_like(value))}
