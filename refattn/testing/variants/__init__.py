"""Variants: other conventions and known bugs, each a small function beside the clause that it breaks.

One list, three uses: it diagnoses (a mismatch that a variant explains is reported by the variant's name), it tests
the tests (every variant must be caught by the golden cases), and it fills the site's table of conventions.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np


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
    """

    name: str
    clause: str
    function: str
    call: Callable
    meaning: str
    seen: tuple[str, ...] = ()
    advice: str = ""


VARIANTS: dict[tuple[str, str], Variant] = {}  # by name and reference function


def variant(name, clause, *functions, seen=(), advice=""):
    """Register the decorated function as a variant of one or more reference functions; its docstring is its meaning."""

    def register(call):
        meaning = " ".join((call.__doc__ or "").split())
        if not meaning:
            raise ValueError(f"variant {name} has no docstring to say what it does")
        for function in functions:
            if (name, function) in VARIANTS:
                raise ValueError(f"two variants of {function} are called {name}")
            VARIANTS[name, function] = Variant(name, clause, function, call, meaning, tuple(seen), advice)
        return call

    return register


def variants(function: str | None = None) -> list[Variant]:
    """All variants, or those of one reference function, in a stable order.

    What goes wrong in attention goes wrong in grouped-query attention as well: there its variants count, too.
    """
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    own = [v for v in VARIANTS.values() if function is None or v.function == function]
    if function == "grouped_query_attention":
        own += [_grouped(v) for v in VARIANTS.values() if v.function == "attention"]
    return own


def _grouped(v: Variant) -> Variant:
    def call(q, k, v, *args, **options):
        group = q.shape[-3] // k.shape[-3]
        return one_head_each(q, np.repeat(k, group, axis=-3), np.repeat(v, group, axis=-3), *args, **options)

    one_head_each = v.call
    return replace(v, function="grouped_query_attention", call=call)
