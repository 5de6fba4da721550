"""Sizes of axes as docstrings write them, `H·D`, `R + Dr`, `H·(Dn + Dv)`: what is known of their letters, and such an axis
with other sizes.

A size is a letter, a number, or a sum or product of sizes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np


class Sum(NamedTuple):
    """Parts that lie one after another."""

    parts: tuple[Any, ...]


class Product(NamedTuple):
    """As many of the second as the first says: H·D is H parts of D."""

    parts: tuple[Any, ...]


Size = str | int | Sum | Product


class NotMovable(ValueError):
    """Arrays whose shape is not stated, axes without a letter, or nothing to make more of."""


@cache
def size_of(text: str) -> Size | None:
    """A size from text; None where it is none that can be moved.

    Examples
    --------
    >>> size_of("H·(Dn + Dv)")
    Product(parts=('H', Sum(parts=('Dn', 'Dv'))))
    >>> size_of("R/2")
    """
    tokens = re.findall(r"[A-Za-z_]+|\d+|\S", text)
    try:
        found = _sum(tokens)
    except (IndexError, SyntaxError):
        return None
    return found if not tokens else None


def _sum(tokens) -> Size:
    parts = [_product(tokens)]
    while tokens[:1] == ["+"]:
        tokens.pop(0)
        parts.append(_product(tokens))
    return parts[0] if len(parts) == 1 else Sum(tuple(parts))


def _product(tokens) -> Size:
    parts = [_factor(tokens)]
    while tokens[:1] == ["·"]:
        tokens.pop(0)
        parts.append(_factor(tokens))
    return parts[0] if len(parts) == 1 else Product(tuple(parts))


def _factor(tokens) -> Size:
    token = tokens.pop(0)
    if token == "(":
        inner = _sum(tokens)
        if tokens.pop(0) != ")":
            raise SyntaxError
        return inner
    if token.isdigit():
        return int(token)
    if not re.fullmatch(r"[A-Za-z_]+", token):
        raise SyntaxError
    return token


def letters_in(size: Size | None) -> tuple[str, ...]:
    """The letters of a size, in order.

    Examples
    --------
    >>> letters_in(size_of("H·D + G·D"))
    ('H', 'D', 'G')
    """
    if isinstance(size, str):
        return (size,)
    parts = size.parts if isinstance(size, Sum | Product) else ()
    return tuple(dict.fromkeys(letter for part in parts for letter in letters_in(part)))


def value(size: Size, known: Mapping[str, int]) -> int:
    """What a size comes to; KeyError where a letter is not known."""
    if isinstance(size, str):
        return known[size]
    if isinstance(size, int):
        return size
    return (sum if isinstance(size, Sum) else math.prod)(value(part, known) for part in size.parts)


def solved(size: Size, count: int, known: Mapping[str, int]) -> tuple[str, int] | None:
    """The one letter of a size that is not known yet, and what it must be; None where it cannot be told.

    Examples
    --------
    >>> solved(size_of("H·(Dn + Dv)"), 24, {"H": 3, "Dv": 5})
    ('Dn', 3)
    """
    unknown = [letter for letter in letters_in(size) if letter not in known]
    if len(unknown) != 1:
        return None
    (letter,) = unknown
    none, one, two = (value(size, {**known, letter: n}) for n in range(3))
    each = one - none
    if each < 1 or two - one != each or (count - none) % each or count < none:
        return None
    return letter, (count - none) // each


def moved(x: np.ndarray, axis: int, size: Size, own: Mapping[str, int], new: Mapping[str, int], rng) -> np.ndarray:
    """An array with other sizes along an axis, each part of it by itself.

    Examples
    --------
    >>> x = np.array([1.0, 2.0, 10.0, 20.0])
    >>> moved(x, 0, size_of("H·D"), {"H": 2, "D": 2}, {"D": 1}, np.random.default_rng(0))
    array([ 2., 20.])
    """
    if all(new.get(letter, own[letter]) == own[letter] for letter in letters_in(size)):
        return x
    if isinstance(size, str):
        return as_many(x, axis, new[size], rng)
    if isinstance(size, Sum):
        ends = np.cumsum([value(part, own) for part in size.parts])[:-1]
        cut = zip(np.split(x, ends, axis), size.parts, strict=True)
        return np.concatenate([moved(part, axis, of, own, new, rng) for part, of in cut], axis)
    assert isinstance(size, Product)
    first, *others = size.parts
    rest = others[0] if len(others) == 1 else Product(tuple(others))
    x = np.reshape(x, (*x.shape[:axis], value(first, own), value(rest, own), *x.shape[axis + 1 :]))
    x = moved(moved(x, axis + 1, rest, own, new, rng), axis, first, own, new, rng)
    return np.reshape(x, (*x.shape[:axis], x.shape[axis] * x.shape[axis + 1], *x.shape[axis + 2 :]))


def as_many(x: np.ndarray, axis: int, size: int, rng) -> np.ndarray:
    """The last rows of an array, or all of them after others like them, half as large at random."""
    have = x.shape[axis]
    if size <= have:
        return np.take(x, range(have - size, have), axis)
    if not have:
        raise NotMovable("an axis of none has nothing to make more of")
    more = np.take(x, rng.integers(0, have, size - have), axis)
    if x.dtype.kind == "f":
        halves = np.where(rng.random(more.shape) < 0.5, 1.0, 0.5).astype(x.dtype)
        more = more * halves
    return np.concatenate([more, x], axis)  # queries and keys are aligned at the end
