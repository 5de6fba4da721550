"""All variants: those that are registered, and those that follow from what a function is built on."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from refattn.testing.derive import sources
from refattn.testing.registry import FAMILIES, VARIANTS, Family, NotApplicable, Variant, agreed, family, variant
from refattn.testing.subject import load

__all__ = [
    "FAMILIES", "VARIANTS", "Family", "NotApplicable", "Variant", "agreed", "families", "family", "variant", "variants",
]  # fmt: skip


def variants(function: str | None = None) -> list[Variant]:
    """All variants, or those of one reference function, in a stable order.

    What goes wrong in a mask goes wrong in attention as well, and what goes wrong there in what is built on it: of one
    function, variants that are derived from others' follow its own.
    """
    load()
    if function is None:
        return list(VARIANTS.values())
    return list(_with_derived(function, len(VARIANTS)))


@cache
def _with_derived(function: str, registered: int) -> tuple[Variant, ...]:
    found = {v.name: v for v in VARIANTS.values() if v.function == function}
    for source in sources(function):
        for v in _with_derived(source.function, registered):
            if v.name not in found and source.has(v):
                found[v.name] = source.make(v)
    return tuple(found.values())


Make = Callable[[Variant], Variant]


def families(function: str) -> list[tuple[Family, Make]]:
    """The families of a function, those of functions that give the same included, each with what makes a variant of
    this function of a member.

    Not those of its parts: to find a number would take the whole function many times.
    """
    load()
    found: dict[str, tuple[Family, Make]] = {
        f.example.name: (f, _as_it_is) for (_, own), f in FAMILIES.items() if own == function
    }
    for source in sources(function):
        for f, make in families(source.function) if not source.is_part else ():
            if f.example.name not in found and source.has(f.example):
                found[f.example.name] = f, _after(make, source.make)
    return list(found.values())


def _as_it_is(v):
    return v


def _after(first, second):
    return lambda v: second(first(v))
