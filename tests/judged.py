"""Kernels held to the cases of `check` and their bounds."""

import numpy as np

from refattn.testing.bounds import bound
from refattn.testing.distances import distance
from refattn.testing.inputs import cases
from refattn.testing.layouts import cast
from refattn.testing.profiles import profile
from refattn.testing.vectors import results


def judged(function, precision, seed=0, effort="smoke"):
    """Every case of a function: its name, the arguments as a kernel gets them, and the bounds of its results."""
    chosen = profile(precision)
    for name, _, arguments in cases(function, fmt=chosen.out.name, effort=effort, seed=seed):
        with np.errstate(all="ignore"):
            yield name, cast(arguments, chosen.out.name), bound(function, chosen, **arguments)


def away(got, limits):
    """How far results are from the reference, in bounds; infinitely, where shapes or NaN differ."""
    pairs = [(np.asarray(got[name], dtype=float), limit) for name, limit in limits.items() if name in got]
    if any(x.shape != np.shape(limit.value) for x, limit in pairs):
        return np.inf
    hard = ((x, np.asarray(limit.value, dtype=float), limit.limit("hard")) for x, limit in pairs)
    return max((distance(*each) for each in hard), default=0.0)


def accused(function, kernel, of_judged):
    """The cases in which a kernel lies outside its bounds, and how far."""
    with np.errstate(all="ignore"):
        shares = ((name, away(results(function, kernel(**given)), limits)) for name, given, limits in of_judged)
        return {name: share for name, share in shares if not share <= 1}
