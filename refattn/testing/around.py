"""The bound around a variant: that of the reference for the variant's own arguments, where it is the reference for others.

A kernel that takes the wrong pairs, scale or positions rounds as the right one does, but other numbers: how far it may
be from the variant follows from what the variant computes, not from what was to be computed.
"""

from __future__ import annotations

import functools
import types

import numpy as np

from refattn.testing.bounds import Bound, bound
from refattn.testing.equals import bounded_as, call_as, in_terms_of
from refattn.testing.mechanisms.attention.variants import STEPS, recorded
from refattn.testing.subject import name_of
from refattn.testing.variants import NotApplicable, Variant


def bound_around(v: Variant, profile, args, kwargs) -> dict[str, Bound] | None:
    """The bounds of what a variant computes; None where it is not its function with other arguments."""
    try:
        with np.errstate(all="ignore"):
            own = _own_call(v, args, kwargs)
            return None if own is None else bound(own[0], profile, *own[1], **own[2])
    except NotApplicable:
        return None
    except Exception:  # whatever a variant makes of the arguments: it has no bound then
        return None


def _own_call(v, args, kwargs):
    """The call of the reference that gives what a variant gives: function, args, kwargs."""
    if v.arguments is not None:
        return v.function, (), v.arguments(args, kwargs)
    of_attention = in_terms_of("attention", v) if bounded_as(v.function, "attention") else None
    if of_attention is None:
        traced = _traced(v, args, kwargs)
        return None if traced is None else (v.function, *traced)
    call = call_as(v.function, "attention", args, kwargs)
    if call is None:
        return None
    given, options = recorded(of_attention.call, **call.arguments)
    return None if STEPS & options.keys() else ("attention", given, options)


def _traced(v, args, kwargs):
    """The arguments with which a variant calls its own function last, where that call's result is its result."""
    call = v.call
    if not isinstance(call, types.FunctionType):
        return None
    calls = []

    def watched(function):
        @functools.wraps(function)
        def watching(*given, **options):
            result = function(*given, **options)
            calls.append((result, given, options))
            return result

        return watching

    seen = {name: _Watched(x, v.function, watched) for name, x in call.__globals__.items() if _of_reference(x)}
    copy = types.FunctionType(
        call.__code__, {**call.__globals__, **seen}, call.__name__, call.__defaults__, call.__closure__
    )
    copy.__kwdefaults__ = call.__kwdefaults__
    result = copy(*args, **kwargs)
    return next(((given, options) for returned, given, options in calls if returned is result), None)


def _of_reference(x):
    name = x.__name__ if isinstance(x, types.ModuleType) else ""
    return name.partition(".")[0] == "refattn" and not name.startswith("refattn.testing")


class _Watched:
    """A module of the reference, one function of which is watched."""

    def __init__(self, module, function, watched):
        self._module, self._function, self._watched = module, function, watched

    def __getattr__(self, name):
        found = getattr(self._module, name)
        ours = isinstance(found, types.FunctionType) and found.__module__.startswith("refattn.")
        ours = ours and name_of(found) == self._function
        return self._watched(found) if ours else found
