"""What goes wrong in one function goes wrong in those that are built on it: their variants, derived.

A function that `equals` another has its variants, on the arguments that the other would get. A function of which another
is a part is computed with a variant of that part in its place. A rule of masks that is read wrongly makes attention wrong.
A derived variant bears the name of the one that it comes from.
"""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from refattn.testing.names import function_named
from refattn.testing.reference import named_arguments
from refattn.testing.registry import NotApplicable, Variant
from refattn.testing.subject import Equal, subject


class Source(NamedTuple):
    """A function whose variants are variants of another, and what makes one of the other's of one of its own."""

    function: str
    make: Callable[[Variant], Variant]
    without: tuple[str, ...] = ()
    is_part: bool = False

    def has(self, v: Variant) -> bool:
        """Whether a variant of the source is one of the other, too."""
        return not v.name.startswith(self.without)


@cache
def sources(function: str) -> tuple[Source, ...]:
    """Where the derived variants of a function come from."""
    of = subject(function)
    found = [Source(source, derived) for source, derived in of.derive]
    if (equal := of.equals) is not None:
        found.append(Source(equal.function, lambda v: of_equal(function, equal, v), equal.without))
    return (*found, *(Source(part, lambda v: of_part(function, v), is_part=True) for part in of.parts))


# --- equals ---------------------------------------------------------------------------------------------------------


def of_equal(function: str, equal: Equal, v: Variant) -> Variant:
    """A variant of a function as one of another that equals it."""
    theirs = v.call

    def call(*args, **kwargs):
        given = named_arguments(function, args, kwargs)
        found = theirs(**equal.arguments(**given))
        return found if equal.results is None else equal.results(found, given)

    return replace(v, function=function, call=call, equal=v)


# --- parts ----------------------------------------------------------------------------------------------------------


def of_part(function: str, v: Variant) -> Variant:
    """A variant of a function as one of another that calls it: computed with the wrong part in the place of the right one.

    It does not apply where the part is not called, or does not go with what is done with its result.
    """
    whole, part, wrong = function_named(function), function_named(v.function), v.call

    def call(*args, **kwargs):
        with standing_in(part, wrong) as calls:
            try:
                found = whole(*args, **kwargs)
            except Exception:
                raise NotApplicable from None
        if not calls:
            raise NotApplicable
        return found

    return replace(v, function=function, call=call)


_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def standing_in(part: Callable, call: Callable) -> Iterator[list[None]]:
    """Put a call in the place of a reference function, wherever the reference calls it by its name; gives a list with an
    entry for each time that it was called. Inside of the call the function is what it was.

    It holds for the whole process while it lasts: not for parts that threads call.
    """
    calls: list[None] = []

    def stand_in(*args, **kwargs):
        calls.append(None)
        with _bound(part, part):
            return call(*args, **kwargs)

    with _ONE_AT_A_TIME, _bound(part, stand_in):
        yield calls


@contextmanager
def _bound(part, value):
    """Every name of a function in the reference bound to something else."""
    before = [(names, name, names[name]) for names, name in _names(part)]
    for names, name, _ in before:
        names[name] = value
    try:
        yield
    finally:
        for names, name, was in before:
            names[name] = was


@cache
def _names(part: Callable) -> tuple[tuple[dict, str], ...]:
    """The modules of the reference that bind a function, and the names under which they do."""
    modules = [m for name, m in sys.modules.items() if name.startswith("refattn.") and not name.startswith(_KIT)]
    return tuple(
        (vars(module), name)
        for module in modules
        if isinstance(module, types.ModuleType)
        for name, x in list(vars(module).items())
        if x is part
    )


_KIT = ("refattn.testing", "refattn.conformance", "refattn.cli", "refattn.console")
