"""Variants: other conventions and known bugs, each a small function beside the clause that it breaks.

One list, three uses: it diagnoses (a mismatch that a variant explains is reported by the variant's name), it tests
the tests (every variant must be caught by the golden cases), and it fills the site's table of conventions.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache


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

    What goes wrong in a mask goes wrong in attention as well, and what goes wrong there in what is built on it: of one
    function, variants that are derived from others' follow its own.
    """
    _register_all()
    if function is None:
        return list(VARIANTS.values())
    return list(_with_derived(function, len(VARIANTS)))


@cache
def _register_all() -> None:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


@cache
def _with_derived(function: str, registered: int) -> tuple[Variant, ...]:
    from refattn.testing.variants import derived, gradients

    own = tuple(v for v in VARIANTS.values() if v.function == function)
    sources: dict[str, tuple[str, Callable[[Variant], Variant]]] = {
        "attention": ("Mask.dense", derived.of_mask),
        "attention_weights": ("attention", derived.weights),
        "grouped_query_attention": ("attention", derived.grouped),
        "multi_head_attention": ("grouped_query_attention", derived.projected),
        "grouped_query_attention_vjp": ("attention_vjp", gradients.grouped),
        "tiled_attention": ("attention", derived.tiled),
        "split_attention": ("tiled_attention", derived.split),
        "tiled_attention_vjp": ("attention_vjp", derived.tiled_vjp),
    }
    if function not in sources:
        return own
    source, derive = sources[function]
    names = {v.name for v in own}
    return own + tuple(derive(v) for v in _with_derived(source, registered) if v.name not in names)
