"""Directed and random inputs: each recipe is made so that certain mistakes cannot hide.

A recipe yields (name, clauses, arguments). Sizes are pairwise different; numbers are rounded to the dtype that the
implementation will get, so that it and the oracle see the same ones.
"""

from __future__ import annotations

import importlib
import pkgutil
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from refattn.testing.rounding import round_to

Recipe = tuple[str, tuple[str, ...], dict]
RECIPES: dict[str, Callable[..., Iterator[Recipe]]] = {}


def recipes(function: str, *, fmt: str, effort: str, seed: int) -> Iterator[Recipe]:
    """The cases of one function, rounded to a format; the same seed gives the same cases."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    if function not in RECIPES:
        return
    key = zlib.crc32(f"{function} {fmt}".encode())
    draw = Draw(np.random.default_rng([seed, key]), fmt)
    for name, clauses, arguments in RECIPES[function](draw, effort):
        if all(np.isfinite(draw.round(x)).all() for x in arguments.values() if isinstance(x, np.ndarray) and _sound(x)):
            yield name, clauses, {key: draw.round(x) for key, x in arguments.items()}


def _sound(x):
    """Whether an array is meant to be finite (poison is not)."""
    return x.dtype.kind == "f" and np.isfinite(x).all()


class Draw:
    """Random numbers that a format holds exactly."""

    def __init__(self, rng, fmt):
        self.rng, self.fmt = rng, fmt

    def round(self, x):
        """Floating-point arrays rounded to the format; anything else, and what needs no rounding, as it is."""
        if not (isinstance(x, np.ndarray) and x.dtype.kind == "f"):
            return x
        rounded = round_to(x, self.fmt)
        return x if np.array_equal(rounded, x, equal_nan=True) else rounded  # so that it keeps its strides

    def normal(self, *shape, scale=1.0):
        return self.round(self.rng.normal(size=shape) * scale)

    def heavy(self, *shape, scale=1.0):
        return self.round(np.clip(self.rng.standard_t(3, size=shape), -60, 60) * scale)

    def between(self, low, high):
        """A random integer, both ends included."""
        return int(self.rng.integers(low, high + 1))


def recipe(*functions):
    """Register a generator of cases for one or more reference functions."""

    def register(generator):
        RECIPES.update(dict.fromkeys(functions, generator))
        return generator

    return register


def count(effort, smoke, standard, full):
    """How many cases an effort asks for."""
    return {"smoke": smoke, "standard": standard, "full": full}[effort]
