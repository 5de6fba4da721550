"""A function of the reference with some of its steps replaced: what most variants are.

A step is a function that the reference calls by name: `capped` in `refattn.attention`. What stands here puts another in its
place for one call. It copies the functions on the way to the step; nothing in the reference is touched, so that other
threads, and what the replacement itself calls, meet the right one.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from types import FunctionType
from typing import Any

from refattn import backend
from refattn.testing.registry import NotApplicable, variant
from refattn.testing.subject import name_of


def with_steps(function: Callable, **steps: Callable | Then) -> Callable:
    """A reference function in which steps of its module are others.

    Parameters
    ----------
    function : callable
        A function of refattn.
    **steps : callable or Then
        By the name that the module calls: what is called instead, with the same arguments.

    Returns
    -------
    callable

    Raises
    ------
    ValueError
        The function calls no step of that name.

    Examples
    --------
    >>> import numpy as np, refattn
    >>> shifted = with_steps(refattn.attention, scored=lambda xp, q, k, scale: 0.0 * (q @ k.T))
    >>> shifted(np.eye(2), np.eye(2), np.array([[1.0], [3.0]]))
    array([[2.],
           [2.]])
    """
    if not steps:
        return function
    home = vars(sys.modules[function.__module__])
    others = {name: step for name, step in steps.items() if not isinstance(step, Then)}
    names = home | others
    for name, inner, wrapped in _between(function, frozenset(steps)):
        if name in others:  # what it would have called is nobody's business
            continue
        copy = FunctionType(inner.__code__, names, name, inner.__defaults__, inner.__closure__)
        copy.__kwdefaults__ = inner.__kwdefaults__
        names[name] = backend.ieee(copy) if wrapped else copy
    for name, step in steps.items():
        if isinstance(step, Then):
            names[name] = step.after(names[name])
    return names[function.__name__]


@dataclass(frozen=True)
class Then:
    """In the place of a step: the step as it is, and after it a change of what it gives."""

    change: Callable

    def after(self, step: Callable) -> Callable:
        return lambda *args, **options: self.change(step(*args, **options))


def variant_step(name: str, clause: str, function: Callable, step: str, seen: Iterable[str] = ()) -> Callable:
    """Register a variant of a reference function that is the decorated function in the place of one of its steps.

    Its docstring is the variant's meaning. Where the step is not called, or raises `NotApplicable`, the variant is none.
    """

    def register(other):
        def call(*args, **options):
            called = []

            def counted(*given):
                called.append(given)
                return other(*given)

            result = with_steps(function, **{step: counted})(*args, **options)
            if not called:
                raise NotApplicable
            return result

        call.__doc__ = other.__doc__
        variant(name, clause, name_of(function), seen=seen)(call)
        return other

    return register


def together(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The replacements of two variants at once; a ValueError that names a step which both replace.

    What one of them changes after a step is changed after the step that the other puts there.
    """
    both = first | second
    for name in first.keys() & second.keys():
        one, other = first[name], second[name]
        if isinstance(one, Then) and isinstance(other, Then):
            both[name] = Then(one_after(one.change, other.change))
        elif isinstance(one, Then):
            both[name] = one.after(other)
        elif isinstance(other, Then):
            both[name] = other.after(one)
        else:
            raise ValueError(name)
    return both


def one_after(first: Callable, second: Callable) -> Callable:
    return lambda x: second(first(x))


@cache
def _between(function, steps):
    """The functions of a module through which one of them calls the steps, itself included: the name of each, what it is,
    and whether it is wrapped."""
    module = vars(sys.modules[function.__module__])
    own = {name: x for name, x in module.items() if inspect.isfunction(x) and x.__module__ == function.__module__}
    calls = {name: set(_names(inspect.unwrap(x).__code__)) for name, x in own.items()}

    def reached(name, seen=()):
        """What a function calls, itself or through others of its module."""
        found = {name} | calls.get(name, set())
        return found.union(
            *(reached(x, (*seen, name)) for x in calls.get(name, ()) if x in own and x not in (*seen, name))
        )

    start = function.__name__
    met = reached(start)
    if unknown := sorted(steps - met):
        raise ValueError(f"{start} has no step {unknown[0]!r}")
    on_the_way = [name for name in own if name in met and steps & (reached(name) - {name})]
    return tuple((name, inspect.unwrap(own[name]), own[name] is not inspect.unwrap(own[name])) for name in on_the_way)


def _names(code):
    """The names that code refers to, functions inside of it included."""
    yield from code.co_names
    for inner in code.co_consts:
        if inspect.iscode(inner):
            yield from _names(inner)
