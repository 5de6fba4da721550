"""Decision points: the questions on which public implementations of attention differ, each with the answers seen.

A point asks with one small directed call. Its first answer is the reference's; every other one is a set of variants,
so that what an implementation does can be said by names and be computed. `refattn identify` asks an unknown kernel,
a preset (`refattn.testing.presets`) is the list of an implementation's answers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

REFUSES = "refuses"  # an answer that every point has: the call is an error, or there is no such argument
UNKNOWN = "unknown"  # an answer that only presets that were read give: the source does not settle it

NOT_ASKED = "not asked"  # another answer makes the question pointless

_MODULES = ("attention", "elsewhere")


@dataclass(frozen=True)
class Answer:
    """One way to decide a point.

    Attributes
    ----------
    name : str
    meaning : str
        In a few words, for a table.
    variants : tuple of str
        What the reference has to be changed by; none for the reference's own answer.
    shows : callable, optional
        Tells from a result alone that this is the answer, where an answer promises no number.
    rewrite : callable, optional
        Turns the call's arguments into some that the reference takes, where an answer takes more than it does.
    """

    name: str
    meaning: str
    variants: tuple[str, ...] = ()
    shows: Callable[[np.ndarray], bool] | None = None
    rewrite: Callable[[dict], dict] | None = None


@dataclass(frozen=True)
class Point:
    """One question, how to ask it, and the answers that are known.

    Attributes
    ----------
    name : str
        'causal/fewer_queries'.
    title : str
        The question, as the heading of a table.
    clause : str
        The clause that the reference's answer obeys.
    function : str
        The reference function that is asked.
    ask : callable
        Makes the arguments of the directed call: float64 arrays, exact in bfloat16 and float16.
    exercised : callable
        Whether the arguments of any call depend on the answer.
    answers : tuple of Answer
        The reference's first.
    result : str
        The result that shows it: 'out' or 'lse'.
    needs : tuple of (str, str or None)
        Points that must have been answered before this one makes sense, and how: None for in any way but a refusal.
    part : callable, optional
        Which part of the result shows it.
    """

    name: str
    title: str
    clause: str
    function: str
    ask: Callable[[], dict]
    exercised: Callable[[dict], bool]
    answers: tuple[Answer, ...]
    result: str = "out"
    needs: tuple[tuple[str, str | None], ...] = ()
    part: Callable[[np.ndarray], np.ndarray] = lambda x: x

    def answer(self, name: str) -> Answer:
        """An answer by name; a LookupError where the point has none of that name."""
        for answer in self.answers:
            if answer.name == name:
                return answer
        raise LookupError(f"{self.name} has no answer {name!r}; it has {', '.join(a.name for a in self.answers)}")

    def pointless(self, answers) -> str | None:
        """The point whose answer (by name in `answers`) makes this question pointless, if there is one."""
        for name, wanted in self.needs:
            if answers[name] in (REFUSES, UNKNOWN, NOT_ASKED) or wanted not in (None, answers[name]):
                return name
        return None

    @property
    def own(self) -> Answer:
        """The reference's answer."""
        return self.answers[0]

    def meaning(self, name: str) -> str:
        """What an answer says, in a few words."""
        return {REFUSES: "refused", UNKNOWN: "unknown", NOT_ASKED: "—"}.get(name) or self.answer(name).meaning


def points(function: str = "attention") -> list[Point]:
    """The decision points of a function, in the order in which they are asked.

    Grouped-query attention is asked about with attention.
    """
    every = [p for module in _MODULES for p in importlib.import_module(f"{__name__}.{module}").POINTS]
    return [p for p in every if p.function == function]


def applied(answers, arguments, function: str = "attention") -> list[str]:
    """The variants of the answers (point -> name of an answer) that a call depends on, in the order of the points."""
    found: list[str] = []
    for point in points(function):
        name = answers.get(point.name, NOT_ASKED)
        if name not in (REFUSES, UNKNOWN, NOT_ASKED) and point.exercised(arguments):
            found += point.answer(name).variants
    return list(dict.fromkeys(found))


def functions() -> list[str]:
    """The functions that have decision points."""
    every = [p for module in _MODULES for p in importlib.import_module(f"{__name__}.{module}").POINTS]
    return list(dict.fromkeys(p.function for p in every))
