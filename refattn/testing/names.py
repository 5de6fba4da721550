"""The names that text from outside may use: of functions, of sets of parameters, of rules. Nothing else is looked up.

Golden cases, kernels that speak the line protocol, allow-lists and the command line name things of refattn by text. What
such a text may reach stands here, name by name, so that none of them can call what is not meant to be called.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import cache, reduce

import refattn
from refattn import masks
from refattn.testing.subject import mechanisms, subjects

RULES = tuple(masks.RULES)


@cache
def functions() -> frozenset[str]:
    """The names of the reference functions: those that have a subject, and golden cases."""
    return frozenset(subjects())


@cache
def params() -> dict[str, type]:
    """The sets of parameters by name, 'MultiHeadParams' or 'positions.YaRN': every NamedTuple that refattn offers."""
    found = {}
    for module in (refattn, *(getattr(refattn, name) for name in {m.partition("/")[0] for m in mechanisms()})):
        home = "" if module is refattn else f"{module.__name__.partition('.')[2]}."
        for name in getattr(module, "__all__", dir(module)):
            thing = getattr(module, name)
            if (
                isinstance(thing, type)
                and hasattr(thing, "_fields")
                and f"{thing.__module__}.".startswith(f"refattn.{home}")
            ):
                found[f"{home}{name}"] = thing
    return found


def function_named(name: str) -> Callable:
    """The function of refattn that a name says: 'attention', 'positions.rotate', 'Mask.dense'.

    Raises
    ------
    ValueError
        There is none of that name among those that the golden cases call.
    """
    return _found("reference function", name, functions())


def params_named(name: str) -> Callable:
    """The set of parameters, 'MultiHeadParams' or 'positions.YaRN', that a name says; ValueError where there is none."""
    if name not in params():
        raise ValueError(_unknown("set of parameters", name, params()))
    return params()[name]


def rule_named(name: str) -> Callable:
    """The function of refattn.masks that builds a rule of a name; ValueError where there is none."""
    if name not in RULES:
        raise ValueError(_unknown("rule of refattn.masks", name, RULES))
    return masks.RULES[name].build


def meant(name: str, known) -> list[str]:
    """The known names that may have been meant by one that is not known, the nearest first."""
    if len(name) > 80:  # no slip of the fingers, and slow to compare
        return []
    same_end = [other for other in sorted(known) if other.endswith(f".{name}")]
    return same_end or difflib.get_close_matches(name, sorted(known))


def hint(function: str) -> str:
    """What to say after the name of a function that refattn has not: which may have been meant, or where they stand."""
    near = meant(function, functions())
    return f"; did you mean {' or '.join(near)}?" if near else "; try: refattn list functions"


def _found(kind, name, known):
    if not isinstance(name, str) or name not in known:
        raise ValueError(_unknown(kind, name, known))
    return _resolved(name)


@cache
def _resolved(name):
    return reduce(getattr, name.split("."), refattn)


def _unknown(kind, name, known):
    near = meant(name, known) if isinstance(name, str) else []
    said = repr(name) if len(repr(name)) <= 80 else f"{repr(name)[:80]} ..."
    return f"there is no {kind} {said}" + (f"; did you mean {' or '.join(near)}?" if near else "")
