"""Error bounds without hand derivation: arrays that carry how wrong they may be.

A `Tracked` array holds exact values and, element by element, how far from them a correct kernel of a precision profile
can be. It follows the array API, so that the reference functions themselves run on it: every operation passes the
errors of its operands on and adds its own rounding. What is rounded, and when:

- a step of arithmetic rounds once, in the accumulator's format; exp, log, tanh, erf, sin, cos and sqrt err by u_exp;
- a sum of n terms errs by γ_n, in whatever order a kernel adds; constants are rounded;
- what enters a matrix product is rounded to the format of weights, unless it was read from memory;
- where a profile stores scores (eager order), every step's result is stored in that format; a step that reduces over
  a row (softmax, a norm) is one kernel, whose inside stays in the accumulator until it meets another argument;
- results are rounded to the profile's output format.

Two dependencies between operands are followed, since attention would be hopeless without them. The maximum that a
softmax subtracts cancels, whatever its error. And weights that are divided by their own sum err together: errors θ of
the weights move Σ p v by Σ p θ (v - o) / (1 + Σ p θ), not by Σ p |θ| |v| (docs/bounds.md derives it).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from refattn import masks
from refattn.testing.names import function_named
from refattn.testing.nested import mapped
from refattn.testing.profiles import Profile
from refattn.testing.rounding import FORMATS
from refattn.testing.roundoff import Bound
from refattn.testing.tracked.array import MEMORY, Tracked, rounded
from refattn.testing.tracked.moving import constant_error
from refattn.testing.tracked.namespace import Namespace
from refattn.testing.vectors import results


def automatic_bound(function: str | Callable, profile: Profile, /, *args, **kwargs) -> dict[str, Bound]:
    """The results of any reference function with their hard bounds, from its own code.

    The bound holds for a kernel that takes the reference's steps, each sum in any order.

    Parameters
    ----------
    function : str or callable
        'attention', 'positions.rotate', or a function of the kit that takes such steps.
    profile : Profile
    *args, **kwargs
        The reference function's arguments (NumPy).

    Examples
    --------
    >>> from refattn.testing.profiles import profile
    >>> found = automatic_bound("softmax", profile("float32"), np.zeros(4))["out"]
    >>> float(found.value[0]), bool(found.hard[0] < 1e-6)
    (0.25, True)
    """
    xp = Namespace(profile)
    tracked = functools.partial(_tracked, xp)
    with np.errstate(all="ignore"):
        call = function_named(function) if isinstance(function, str) else function
        returned = call(*mapped(tracked, args), **mapped(tracked, kwargs))
        found = results(function, returned)
        return {name: _bound(profile, x, _format(profile, name, found)) for name, x in found.items()}


def _format(profile, name, found):
    """What a result is stored in: a log-sum-exp, with no axis of features, in float32 at least."""
    wide = name == "lse" and found[name].ndim < found["out"].ndim and profile.out.precision < 24
    return FORMATS["float32"] if wide else profile.out


def _bound(profile, x, fmt):
    if not isinstance(x, Tracked):  # a constant
        value = np.asarray(x)
        number = value.dtype.kind == "f"
        return Bound(value, rounded(value, constant_error(profile, value), fmt) if number else np.zeros(value.shape))
    if x.value.dtype.kind != "f":
        return Bound(x.value, np.zeros(x.shape))
    error = np.asarray(x.error)
    stored = x.place == MEMORY and (x.leaf or profile.scores is fmt)
    return Bound(x.value, error if stored else rounded(x.value, error, fmt))


def _tracked(xp, x):
    """An argument with every array in it tracked and free of error, rules and parameter sets included."""
    if isinstance(x, np.ndarray | np.generic):
        x = np.asarray(x)
        return Tracked(xp, x.astype(np.float64) if x.dtype.kind == "f" else x, place=MEMORY, leaf=True)
    if isinstance(x, masks.Mask) and any(isinstance(value, np.ndarray) for value in x._data()):
        tracked = functools.partial(_tracked, xp)
        return x.rewritten(
            lambda rule: rule.with_arguments(**mapped(tracked, rule.arguments)) if rule.arguments else rule
        )
    return x
