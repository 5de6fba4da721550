"""How far a correct kernel of a given profile can be from the oracle, element by element.

A bound function takes the profile and the reference function's own arguments (NumPy float64) and returns a
dictionary: for each result ('out', 'lse') a `Bound`. It is derived by forward error analysis with the actual
magnitudes; nothing is fitted.
"""

from __future__ import annotations

from refattn import backend
from refattn.testing.profiles import profile as named_profile
from refattn.testing.reference import call_in_float64, named_arguments, oracle
from refattn.testing.roundoff import Bound, gamma, rounded
from refattn.testing.subject import name_of, subject

__all__ = ["Bound", "bound", "gamma", "rounded"]


def bound(function, precision, /, *args, **kwargs) -> dict[str, Bound]:
    """The results of a reference function with their bounds: derived by hand where that was done, for it or for a function
    that it equals; else from its code.

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
    >>> import numpy as np
    >>> import refattn
    >>> found = bound(refattn.softmax, "float32", np.zeros(4, dtype=np.float32))["out"]
    >>> found.value, bool(found.hard.max() < 1e-6)
    (array([0.25, 0.25, 0.25, 0.25]), True)
    """
    function, profile = name_of(function), named_profile(precision)
    args, kwargs = call_in_float64(function, args, kwargs)
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
    of = subject(function)
    if of.bound is not None:
        return of.bound(profile, *args, **kwargs)
    if of.equals is not None and of.equals.results is None:
        return _bounded(of.equals.function, profile, (), of.equals.arguments(**named_arguments(function, args, kwargs)))
    from refattn.testing.tracked import automatic_bound

    return automatic_bound(function, profile, *args, **kwargs)


def _twice(x):
    return None if x is None else 2 * x
