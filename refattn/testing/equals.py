"""A call of a function as a call of the one that it `equals`: what is known of that one is then known of it.

A window attention that says `equals=Equal("attention", dense)` is asked as attention with the window as its mask: for
relations between calls, for two variants at once, for the rows that are wrong. Nothing asks for its name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from refattn.testing.reference import named_arguments
from refattn.testing.registry import NotApplicable, Variant
from refattn.testing.subject import Subject, subjects


class Same(NamedTuple):
    """The same call of another function.

    Attributes
    ----------
    arguments : dict
        Those of the other function.
    back : callable
        Makes of what the other returns what the function itself returns.
    """

    arguments: dict
    back: Callable[[Any], Any]


@cache
def steps(function: str, other: str) -> tuple[Subject, ...] | None:
    """The subjects whose `equals` lead from one function to another: none from a function to itself.

    Returns
    -------
    tuple of Subject, or None where they do not lead there

    Examples
    --------
    >>> [of.name for of in steps("multi_query_attention", "attention")]
    ['multi_query_attention', 'grouped_query_attention']
    """
    if function == other:
        return ()
    of = subjects().get(function)
    if of is None or of.equals is None:
        return None
    rest = steps(of.equals.function, other)
    return None if rest is None else (of, *rest)


def equal(function: str, other: str) -> bool:
    """Whether a function is another one, or gives the very results that it gives, element by element."""
    found = steps(function, other)
    return found is not None and all(of.equals is not None and of.equals.results is None for of in found)


def bounded_as(function: str, other: str) -> bool:
    """Whether a function has the results of another and rounds as it does: no bound of its own is derived for it."""
    return equal(function, other) and all(of.bound is None for of in steps(function, other) or ())


def call_as(function: str, other: str, args=(), kwargs=None) -> Same | None:
    """A call as one of another function; None where the record knows of none, and where such a call is none of the other.

    Parameters
    ----------
    function, other : str
        'split_attention', 'attention'.
    args, kwargs : tuple, dict
        The arguments of the first.
    """
    found = steps(function, other)
    if found is None:
        return None
    given, changes = named_arguments(function, args, kwargs or {}), []
    for of in found:
        assert of.equals is not None
        changes.append((of.equals.results, given))
        try:
            given = of.equals.arguments(**given)
        except NotApplicable:
            return None

    def back(returned):
        for change, ours in reversed(changes):
            returned = returned if change is None else change(returned, ours)
        return returned

    return Same(given, back)


def in_terms_of(other: str, v: Variant) -> Variant | None:
    """The variant of another function of which one is derived because the functions are equal; None where it is not."""
    found: Variant | None = v
    while found is not None and found.function != other:
        found = found.equal
    return found
