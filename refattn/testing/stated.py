"""Limits in the words of the field: what a kernel takes, stated by whoever wrote it, believed and not asked.

    D in 64, 128; M % 16 == 0; N == M; causal

Statements stand between semicolons. One is about sizes, by the letters of docstrings, about axes, masks or options:

- `D in 64, 128`, `N == M`, `M <= 4096`, `M % 16 == 0`, `H / G in 2, 4`
- `4 axes`: of the first array
- `causal`: no mask, or `causal()`; `always causal`: that mask in every call; `no mask`
- `no bias`, and so of every option of the function

B and H are the first and the last of two leading axes where a docstring has no such letters; an axis that is not there
is 1.
"""

from __future__ import annotations

import inspect
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from refattn.masks import causal
from refattn.testing.docstrings import stated
from refattn.testing.names import function_named
from refattn.testing.sizes import NotMovable, letters_of, sizes_of, tied

FORMS = "D in 64, 128; M % 16 == 0; N == M; 4 axes; causal; always causal; no mask; no bias"
_SIGNS: dict[str, Callable] = {
    "==": operator.eq, "!=": operator.ne, "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
    "in": lambda size, sizes: size in sizes,
}  # fmt: skip
_TERM = r"([A-Za-z_]+)(?:\s*([%/])\s*([A-Za-z_]+|\d+))?"
_SIZE = re.compile(rf"{_TERM}\s*(==|!=|<=|>=|<|>|\bin\b)\s*(.+)")
_LEADING = ("B", "H")
_LONGEST, _LARGEST = 500, 10**6
_TRIED = 4096  # no larger size is tried


@dataclass(frozen=True)
class Statement:
    """One limit.

    Attributes
    ----------
    text : str
        As it was written.
    letters : frozenset of str
        The sizes that it is about.
    numbers : tuple of int
        Those that stand in it.
    option : str
        The option that it rules out; empty for another statement.
    holds : callable
        (arguments, sizes) -> bool.
    """

    text: str
    holds: Callable[[dict, dict[str, int]], bool]
    letters: frozenset[str] = frozenset()
    numbers: tuple[int, ...] = ()
    option: str = ""


@dataclass(frozen=True)
class Stated:
    """What an implementation says that it takes of one function's calls.

    Attributes
    ----------
    function : str
    statements : tuple of Statement
    """

    function: str
    statements: tuple[Statement, ...]

    def __str__(self) -> str:
        return "; ".join(s.text for s in self.statements)

    def beyond(self, arguments: dict) -> str:
        """The first statement that a call does not meet; empty where it lies inside.

        Examples
        --------
        >>> x = np.ones((3, 6))
        >>> parse("E in 64, 128", "rms_norm").beyond({"x": x})
        'E in 64, 128'
        """
        sizes = _sizes(self.function, arguments)
        return next((s.text for s in self.statements if not s.holds(arguments, sizes)), "")

    @property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Letter -> sizes to try: the numbers that stand beside it, and multiples where it must be one.

        Examples
        --------
        >>> parse("D in 80, 96; M % 48 == 0", "attention").sizes
        {'D': (80, 96), 'M': (48, 96, 144)}
        """
        found: dict[str, set[int]] = {}
        for s in self.statements:
            for letter in sorted(s.letters):
                sizes = {n * times for n in s.numbers for times in ((1, 2, 3) if "%" in s.text else (1,))}
                found.setdefault(letter, set()).update(n for n in sizes if 0 < n <= _TRIED)
        return {letter: tuple(sorted(sizes)) for letter, sizes in found.items() if sizes}


def parse(text: str, function: str) -> Stated:
    """Limits from text.

    Parameters
    ----------
    text : str
    function : str
        The reference function whose calls they are about.

    Raises
    ------
    ValueError
        A statement is none, or names a size or an option that the function has not.

    Examples
    --------
    >>> str(parse("D in 64,128;  N == M; causal", "attention"))
    'D in 64,128; N == M; causal'
    """
    found = statements(text)
    for s in found:
        if unknown := foreign(s, function):
            raise ValueError(unknown)
    return Stated(function, found)


def statements(text: str) -> tuple[Statement, ...]:
    """The statements of a text, whatever function they are about; ValueError where one is none."""
    if not isinstance(text, str):
        raise TypeError(f"limits is of type {type(text).__name__}; it must be text, such as {FORMS!r}")
    if len(text) > _LONGEST:
        raise ValueError(f"limits has {len(text)} characters; it may have {_LONGEST}")
    parts = [" ".join(part.split()) for part in text.split(";")]
    found = tuple(_statement(part) for part in parts if part)
    if not found:
        raise ValueError(f"limits is {text!r}, which states nothing; it must be like {FORMS!r}")
    return found


def foreign(s: Statement, function: str) -> str:
    """Why a statement cannot be about a function; empty where it can."""
    letters = named_in(function)
    if unknown := sorted(s.letters - set(letters)):
        of = f"has the sizes {', '.join(letters)}" if letters else "has no sizes that are stated"
        return f"limits has {s.text!r}, but {function} has no size {unknown[0]}: it {of}"
    options = inspect.signature(function_named(function)).parameters
    if s.option and (s.option not in options or options[s.option].default is inspect.Parameter.empty):
        may = ", ".join(name for name, p in options.items() if p.default is not p.empty)
        if s.option in options:
            return f"limits has {s.text!r}, but {function} must be given {s.option}; it must be one of {may}"
        return f"limits has {s.text!r}, but {function} has no argument {s.option}: it has {', '.join(options)}"
    return ""


def named_in(function: str) -> tuple[str, ...]:
    """The sizes that a statement about a function may name."""
    shapes = [s for x in stated(function_named(function), "Parameters") for s in x.shapes]
    leading = _LEADING if any(s[0] == "..." for s in shapes if s) else ()
    return tuple(dict.fromkeys((*letters_of(function), *leading)))


def _sizes(function, arguments) -> dict[str, int]:
    """Letter -> size, those of leading axes included; empty where a call has arrays that the docstring does not know."""
    try:
        found = sizes_of(function, arguments)
    except NotMovable:
        return {}
    found |= {letter: found[of] for letter, of in tied(function, arguments).items() if of in found}
    first = next((x for x in arguments.values() if isinstance(x, np.ndarray)), np.zeros(0))
    shape = next((x.shape for x in stated(function_named(function), "Parameters") if x.shape), ())
    if shape and shape[0] == "...":
        lead = first.shape[: max(first.ndim - len(shape) + 1, 0)]
        if "H" in found:
            found.setdefault("B", lead[-1] if lead else 1)
        found.setdefault("H", lead[-1] if lead else 1)
        found.setdefault("B", lead[-2] if len(lead) > 1 else 1)
    return found


def _statement(text) -> Statement:
    if match := re.fullmatch(r"(\d) axes", text):
        count = int(match[1])
        return Statement(text, lambda given, _: _first(given).ndim == count)
    if text in ("causal", "always causal"):
        allowed = (repr(causal()),) if "always" in text else (repr(causal()), "None")
        return Statement(text, lambda given, _: repr(given.get("mask")) in allowed, option="mask")
    if match := re.fullmatch(r"no ([a-z_]+)", text):
        name = match[1]
        return Statement(text, lambda given, _: given.get(name) is None or given[name] is False, option=name)
    match = _SIZE.fullmatch(text)
    right = _right(match[5], match[4]) if match else None
    if match and match[3] == "0":
        raise ValueError(f"limits has {text!r}, which divides by 0; it must divide by 1 or more")
    if match is None or right is None:
        raise ValueError(f"limits has {text!r}, which is no statement; it must be one like these: {FORMS}")
    letter, sign, by, holds = match[1], match[2], match[3], _SIGNS[match[4]]
    letters = {x for x in (letter, by, right) if isinstance(x, str) and not x.isdigit()}
    numbers = tuple(n for n in (by, *(right if isinstance(right, tuple) else (right,))) if str(n).isdigit())

    def met(_, sizes):
        if not letters <= sizes.keys():
            return not sizes  # of a call that wants to be refused not all sizes are known
        value: Any = sizes[letter]
        if sign:
            other = sizes[by] if by in letters else int(by)
            if other == 0 or (sign == "/" and value % other):
                return False
            value = value % other if sign == "%" else value // other
        return holds(value, sizes[right] if isinstance(right, str) else right)

    return Statement(text, met, frozenset(letters), tuple(int(n) for n in numbers))


def _right(text, sign) -> Any:
    """What stands on the right: a letter, a number, or several after `in`; None where it is nothing of that."""
    parts = [part.strip() for part in text.strip("{}[]() ").split(",")]
    if sign == "in":
        return tuple(map(int, parts)) if all(_number(part) for part in parts) else None
    (one, *more) = parts
    if more:
        return None
    return int(one) if _number(one) else one if re.fullmatch(r"[A-Za-z_]+", one) else None


def _number(text) -> bool:
    return bool(re.fullmatch(r"[0-9]{1,7}", text)) and int(text) <= _LARGEST


def _first(arguments) -> np.ndarray:
    return next((x for x in arguments.values() if isinstance(x, np.ndarray)), np.zeros(0))
