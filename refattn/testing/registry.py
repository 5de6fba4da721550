"""Variants: other conventions and known bugs, each a small function beside the clause that it breaks.

One list, three uses: it diagnoses (a mismatch that a variant explains is reported by the variant's name), it tests
the tests (every variant must be caught by the golden cases), and it fills the site's table of conventions.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from refattn.testing.vectors import results


class NotApplicable(Exception):
    """The arguments do not exercise what a variant does differently."""


@dataclass(frozen=True)
class Variant:
    """One other way of computing a reference function.

    Attributes
    ----------
    name : str
        'topic/what': 'causal/top_left'.
    clause : str
        The clause that it breaks.
    function : str
        The reference function that it stands for: 'attention', 'positions.rotate'.
    call : callable
        Takes the arguments of the reference function (NumPy arrays) and returns the same results, wrongly.
        Raises NotApplicable where it could not differ.
    meaning : str
        What it does, in one line.
    seen : tuple of str
        The public implementations and threads where it was seen.
    advice : str
        What somebody who wants this behaviour, or compares with it, can pass to the reference instead.
    value : object
        The number with which it computes, where it is one of many that differ in a number: the size of a tile.
    others : tuple
        Values that give the same results for the inputs for which `value` was found.
    said : str
        What `value` means, in words: 'the tile has 256 keys', 'eps is 1e-05 whatever is given'.
    arguments : callable, optional
        From the arguments of a call those by name with which the reference does what the variant does.
    equal : Variant, optional
        That of the function which this one's equals, where it is derived from that.
    """

    name: str
    clause: str
    function: str
    call: Callable
    meaning: str
    seen: tuple[str, ...] = ()
    advice: str = ""
    value: Any = None
    others: tuple = ()
    said: str = ""
    arguments: Callable | None = None
    equal: Variant | None = None

    def results(self, args, kwargs) -> dict[str, np.ndarray] | None:
        """What it gives for a call, by result; None where it does not apply, or stumbles over the arguments."""
        try:
            with np.errstate(all="ignore"):
                found = results(self.function, self.call(*args, **kwargs))
                return {name: np.asarray(x, dtype=np.float64) for name, x in found.items() if x is not None}
        except Exception:  # NotApplicable above all; what it stands for must be reported, whatever else it raises
            return None


VARIANTS: dict[tuple[str, str], Variant] = {}  # by name and reference function


def variant(name, clause, *functions, seen=(), advice=""):
    """Register the decorated function as a variant of one or more reference functions; its docstring is its meaning."""

    def register(call):
        meaning = " ".join((call.__doc__ or "").split())
        if not meaning and sys.flags.optimize >= 2:  # python -OO drops docstrings
            meaning = name
        if not meaning:
            raise ValueError(f"variant {name} has no docstring to say what it does")
        for function in functions:
            if (name, function) in VARIANTS:
                raise ValueError(f"two variants of {function} are called {name}")
            VARIANTS[name, function] = Variant(name, clause, function, call, meaning, tuple(seen), advice)
        return call

    return register


@dataclass(frozen=True)
class Family:
    """Variants that differ in one number, which is found from a result instead of listed: the size of a tile.

    Attributes
    ----------
    example : Variant
        The member that is registered: golden cases catch it, and it bears the name of all.
    build : callable
        From a value to the call of a member.
    values : callable
        From the numbers of queries and keys and the mask to the values that are tried.
    unit : str or callable
        How a value is said: 'The tile has {} keys.'; or what says it, from a value and the mask.
    masked : callable, optional
        For members that only change who sees whom: from a value to a function of mask, n, m and positions that returns
        the array of truth values.
    rules : bool
        Whether `masked` needs the rule that a mask is, where otherwise its array will do.
    effect : callable, optional
        From a value and the numbers of queries and keys to what it comes to: values of one effect give one result.
    scales : bool
        Whether all that members do to an output is to scale its rows: no other output is held to them.
    """

    example: Variant
    build: Callable
    values: Callable
    unit: str | Callable
    masked: Callable | None = None
    rules: bool = False
    effect: Callable | None = None
    scales: bool = False

    def member(self, value, others=(), mask=None) -> Variant:
        """The variant with one value, for a mask; `others` are values that would do as well."""
        said = self.unit(value, mask) if callable(self.unit) else self.unit.format(_said(value))
        meaning = f"{self.example.meaning} {said}"
        said = said[:1].lower() + said[1:].removesuffix(".")
        if others and not callable(self.unit):
            more = f" and {len(others) - _SAID} more" if len(others) > _SAID else ""
            meaning += f" These inputs do not tell it from {', '.join(map(_said, others[:_SAID]))}{more}."
        return replace(
            self.example, call=self.build(value), meaning=meaning, value=value, others=tuple(others), said=said
        )


_NEARLY_ALL = 0.9  # of the cases must allow a value that is said of all
_SAID = 4  # so many other values stand in a text


def _said(value) -> str:
    return " x ".join(map(str, value)) if isinstance(value, tuple) else str(value)


FAMILIES: dict[tuple[str, str], Family] = {}  # by name and reference function


def family(
    name, clause, function, *, example, values, unit, masked=None, rules=False, effect=None, scales=False, seen=(),
    advice="",
):  # fmt: skip
    """Register variants that differ in a number: the decorated function makes the call of one from its value.

    Its docstring is their meaning; the one with the value `example` is listed among the variants.
    """

    def register(build):
        call = build(example)
        call.__doc__ = build.__doc__
        variant(name, clause, function, seen=seen, advice=advice)(call)
        FAMILIES[name, function] = Family(VARIANTS[name, function], build, values, unit, masked, rules, effect, scales)
        return build

    return register


def agreed(members: list[Variant]) -> Variant:
    """Of variants of one name, each with the value that one case gave, the one with the value that most cases allow."""
    votes = Counter(value for v in members for value in (v.value, *v.others))
    most = max(votes.values())
    leading = Counter(v.value for v in members if votes[v.value] == most)
    value = max(leading, key=leading.__getitem__, default=members[0].value)
    chosen = next(v for v in members if v.value == value)
    return chosen if votes[value] >= _NEARLY_ALL * len(members) else replace(chosen, said="")
