"""Inputs that hold no numbers of the format that a kernel takes: it has rounded them, and answers another question."""

from __future__ import annotations

import numpy as np

from refattn.testing.profiles import Profile
from refattn.testing.reference import named_arguments
from refattn.testing.rounding import round_to

_COUNTED = ("positions", "q_positions", "k_positions")  # never stored in an implementation's format


def unrounded(function, args, kwargs, profile: Profile) -> list[str]:
    """The names of the arrays among the arguments whose numbers are not all of the format of the profile's results."""
    given = named_arguments(function, args, kwargs)
    return [name for name, x in given.items() if _asked(name, x) and not np.array_equal(x, _rounded(x, profile), True)]


def with_rounded(function, args, kwargs, profile: Profile) -> dict:
    """The same arguments by name with these arrays rounded."""
    given = named_arguments(function, args, kwargs)
    return {name: _rounded(x, profile) if _asked(name, x) else x for name, x in given.items()}


def _asked(name, x):
    return isinstance(x, np.ndarray) and x.dtype.kind == "f" and name not in _COUNTED


def _rounded(x, profile):
    with np.errstate(all="ignore"):
        return round_to(x, profile.out)
