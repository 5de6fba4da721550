"""How far a variant is seen by a golden case: what vectors say under `catches`."""

from __future__ import annotations

import numpy as np

from refattn.testing.bounds import bound
from refattn.testing.profiles import profile
from refattn.testing.variants import NotApplicable
from refattn.testing.vectors import GoldenCase, results


def distance(case: GoldenCase, variant, precision: str) -> float:
    """How far a variant's results lie from a golden case, in units of the bound of a precision.

    Infinite where the pattern of NaN and infinities, a shape or a boolean or integer result differs.
    """
    try:
        with np.errstate(all="ignore"):
            got = results(case.function, variant.call(**case.arguments))
    except NotApplicable:
        return 0.0
    limits = _limits(case, precision)
    return max(_distance(got[name], want, limits[name]) for name, want in case.expect.items() if name in got)


def _distance(got, want, limit):
    got, want = np.asarray(got), np.asarray(want)
    if got.shape != want.shape:
        return np.inf
    if want.dtype.kind != "f":
        return 0.0 if np.array_equal(got, want) else np.inf
    finite = np.isfinite(want)
    if not np.array_equal(got[~finite], want[~finite], equal_nan=True) or not np.isfinite(got[finite]).all():
        return np.inf
    difference = np.abs(got[finite] - want[finite])
    limit = np.broadcast_to(limit, want.shape)[finite]
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.max(np.where(difference == 0, 0.0, difference / limit), initial=0.0))


def _limits(case, precision):
    chosen = profile(precision)
    try:
        bounds = bound(case.function, chosen, **case.arguments)
        return {
            name: bounds[name].hard if name in bounds else _normwise(chosen, want) for name, want in case.expect.items()
        }
    except NotImplementedError:
        return {name: _normwise(chosen, want) for name, want in case.expect.items()}


def _normwise(chosen, want):
    """Where no bound is derived: 64 units of rounding of the largest element."""
    if want.dtype.kind != "f":
        return 0.0
    return 64 * chosen.out.u * np.max(np.abs(want[np.isfinite(want)]), initial=0.0) + chosen.out.eta
