"""Directed and random inputs: each recipe is made so that certain mistakes cannot hide.

A recipe yields (name, clauses, arguments). Sizes are pairwise different; numbers are rounded to the dtype that the
implementation will get, so that it and the oracle see the same ones.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import numpy as np

from refattn.testing.inputs import Draw, Seeded, cases, count
from refattn.testing.subject import load, subjects

__all__ = ["RECIPES", "Draw", "Recipe", "count", "recipe", "recipes"]

Recipe = tuple[str, tuple[str, ...], dict]
RECIPES: dict[str, Callable[..., Iterator[Recipe]]] = {}


def recipes(function: str, *, fmt: str, effort: str, seed: int) -> Iterator[Recipe]:
    """The cases of one function, rounded to a format; the same seed gives the same cases."""
    load()
    if function in subjects():
        yield from cases(function, fmt=fmt, effort=effort, seed=seed)
        return
    if function not in RECIPES:
        return
    key = zlib.crc32(f"{function} {fmt}".encode())
    draw = Draw(Seeded(seed, key), fmt)
    for name, clauses, arguments in RECIPES[function](draw, effort):
        if all(np.isfinite(draw.round(x)).all() for x in arguments.values() if isinstance(x, np.ndarray) and _sound(x)):
            yield name, clauses, {key: draw.round(x) for key, x in arguments.items()}


def _sound(x):
    """Whether an array is meant to be finite (poison is not)."""
    return x.dtype.kind == "f" and np.isfinite(x).all()


def recipe(*functions):
    """Register a generator of cases for one or more reference functions."""

    def register(generator):
        RECIPES.update(dict.fromkeys(functions, generator))
        return generator

    return register
