"""How calls are drawn: one generator for each function, and two engines that make its choices.

`Seeded` chooses from a seed: the same seed gives the same call, in `check` as in the tests. `Shrinking` lets Hypothesis
choose, so that a failing call shrinks: sizes to the least, `pick` to its first choice, `chance` to False. So a generator
names the simplest choice first. Whoever writes one sees only `Draw`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from refattn.testing.nested import arrays, mapped
from refattn.testing.rounding import round_to
from refattn.testing.subject import Case, Subject, subject

__all__ = ["Case", "Draw", "Seeded", "Shrinking", "cases", "count"]

RANDOM = {"smoke": 4, "standard": 24, "full": 400}  # random calls of a function, by effort


class Engine(Protocol):
    """What makes the choices of a generator."""

    rng: np.random.Generator

    def between(self, low: int, high: int) -> int: ...

    def chance(self, p: float) -> bool: ...


class Seeded:
    """Choices from a seed, or from several numbers."""

    def __init__(self, *seed: int):
        self.rng = np.random.default_rng(seed)

    def between(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)


class Shrinking:
    """Choices by Hypothesis, `data` of `st.data()`; the numbers in arrays come from one seed that it chooses too."""

    def __init__(self, data):
        from hypothesis import strategies

        self._choose, self._strategies = data.draw, strategies
        self.rng = np.random.default_rng(self.between(0, 999))

    def between(self, low: int, high: int) -> int:
        return self._choose(self._strategies.integers(low, high))

    def chance(self, p: float) -> bool:
        return 0 < p and self._choose(self._strategies.booleans())


class Draw:
    """Random sizes, options, and arrays that a format holds exactly.

    Parameters
    ----------
    engine : Seeded, Shrinking
    fmt : str, optional
        The format; default any number of float64.
    """

    def __init__(self, engine: Engine, fmt: str | None = None):
        self.engine, self.rng, self.fmt = engine, engine.rng, fmt

    def between(self, low: int, high: int) -> int:
        """An integer, both ends included."""
        return self.engine.between(low, high)

    def chance(self, p: float) -> bool:
        """True with probability p."""
        return self.engine.chance(p)

    def pick(self, *choices: Any) -> Any:
        """One of them, the simplest first."""
        return choices[self.between(0, len(choices) - 1)]

    def normal(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        """Normal numbers."""
        return self.round(self.rng.normal(size=shape) * scale)

    def heavy(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        """Numbers with far tails."""
        return self.round(np.clip(self.rng.standard_t(3, size=shape), -60, 60) * scale)

    def uniform(self, low: float, high: float, *shape: int) -> np.ndarray:
        """Numbers between two."""
        return self.round(self.rng.uniform(low, high, size=shape))

    def integers(self, low: int, high: int, *shape: int) -> np.ndarray:
        """An array of integers, both ends included."""
        return self.rng.integers(low, high + 1, size=shape)

    def where(self, p: float, *shape: int) -> np.ndarray:
        """A boolean array, True with probability p."""
        return self.rng.random(shape) < p

    def round(self, x: Any) -> Any:
        """Floating-point arrays rounded to the format; anything else, and what needs no rounding, as it is."""
        if self.fmt is None or not (isinstance(x, np.ndarray) and x.dtype.kind == "f"):
            return x
        with np.errstate(all="ignore"):
            rounded = round_to(x, self.fmt)
        return x if ((rounded == x) | (x != x)).all() else rounded  # so that it keeps its strides

    def call(self, of: Subject) -> dict[str, Any]:
        """One random call of a subject, every number in it held by the format."""
        return mapped(self.round, of.random(self))


def count(effort: str, smoke: int, standard: int, full: int) -> int:
    """How many cases an effort asks for."""
    return {"smoke": smoke, "standard": standard, "full": full}[effort]


def cases(function: str, *, fmt: str, effort: str = "standard", seed: int = 0) -> Iterator[Case]:
    """The directed cases of a function, then random ones, held by a format; the same seed gives the same."""
    of = subject(function)
    key = zlib.crc32(f"{function} {fmt}".encode())
    draw = Draw(Seeded(seed, key), fmt)
    for name, clauses, arguments in of.directed(draw, effort):
        if _as_finite(kept := mapped(draw.round, arguments), arguments):
            yield name, clauses, kept
    for number in range(RANDOM[effort]):
        draw = Draw(Seeded(seed, key, number), fmt)
        arguments = of.random(draw)
        if _as_finite(kept := mapped(draw.round, arguments), arguments):
            yield f"random_{number:04}", (of.clause,), kept


def _as_finite(kept, arguments):
    """Whether rounding has made no infinity (what was none before, poison, stays)."""
    pairs = zip(arrays(kept), arrays(arguments), strict=True)
    return all(np.isfinite(a).sum() == np.isfinite(b).sum() for (_, a), (_, b) in pairs if b.dtype.kind == "f")
