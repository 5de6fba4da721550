"""Variants of masks that combine rules: a part dropped, AND taken for OR, a part moved out of an AND or into one.

Which part it is is found from the result, among all parts of the mask; rules of a caller's own are parts as others are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from refattn.masks import Mask
from refattn.masks.algebra import COMBINED
from refattn.testing.mechanisms.masks.variants import evaluated
from refattn.testing.registry import NotApplicable, family

_SHORT = 40  # characters of a rule that are shown


@dataclass(frozen=True)
class Change:
    """One way of changing a mask: which part it is about, in words, and the mask that comes out."""

    part: str
    mask: Mask

    def __str__(self):
        return self.part


def _words(mask) -> str:
    """A mask in a few words: rules with much data by their names."""
    if not mask.parts:
        text = repr(mask)
        return text if len(text) <= _SHORT else f"{mask.name}(...)"
    if mask.name == "not":
        return f"~{_nested(mask.parts[0])}"
    return {"and": " & ", "or": " | "}[mask.name].join(map(_nested, mask.parts))


def _nested(mask) -> str:
    return f"({_words(mask)})" if len(mask.parts) > 1 else _words(mask)


def everywhere(mask: Mask, change: Callable[[Mask], Iterator[Change]]) -> Iterator[Change]:
    """The changes of a mask and of every combination inside it."""
    yield from change(mask)
    for place, part in enumerate(mask.parts):
        for inner in everywhere(part, change):
            parts = [*mask.parts]
            parts[place] = inner.mask
            yield Change(inner.part, COMBINED[mask.name](*parts))


def _dropped(mask):
    if len(mask.parts) == 2:
        for place in (0, 1):
            yield Change(_words(mask.parts[place]), mask.parts[1 - place])


def _exchanged(mask):
    if mask.name in ("and", "or"):
        other = "or" if mask.name == "and" else "and"
        yield Change(_words(mask), COMBINED[other](*mask.parts))


def _moved(outside, inside):
    """(A `inside` B) `outside` C becomes (A `outside` C) `inside` B: B no longer meets C."""

    def change(mask):
        if mask.name != outside:
            return
        for place in (0, 1):
            part, other = mask.parts[place], mask.parts[1 - place]
            if part.name != inside:
                continue
            for moved in (0, 1):
                kept = COMBINED[outside](part.parts[1 - moved], other)
                yield Change(_words(part.parts[moved]), COMBINED[inside](kept, part.parts[moved]))

    return change


def _family(name, meaning, unit, change, seen=()):
    def changes(mask):
        return list(everywhere(mask, change)) if isinstance(mask, Mask) else []

    def values(n, m, mask=None):
        return range(len(changes(mask)))

    def masked(value):
        def altered(mask, n, m, q_positions=None, k_positions=None, like=None):
            found = changes(mask)
            if not found:
                raise NotApplicable
            options = {"q_positions": q_positions, "k_positions": k_positions, "like": like}
            seen = evaluated(found[value if value is not None else len(found) - 1].mask, n, m, **options)
            return seen & np.ones(np.shape(mask.dense(n, m, **options)), dtype=bool)  # a rule less may have fewer axes

        return altered

    def build(value):
        def call(self, n, m, **options):
            return masked(value)(self, n, m, **options)

        return call

    build.__doc__ = meaning
    said = lambda value, mask: unit.format(changes(mask)[value])
    options = {"masked": masked, "rules": True, "seen": seen}
    family(name, "MASK-ALGEBRA", "Mask.dense", example=None, values=values, unit=said, **options)(build)


_family(
    "combination/part_dropped",
    "One of the rules that the mask combines is left out.",
    "The part is {}.",
    _dropped,
    seen=["vllm-project/vllm#47217"],
)
_family(
    "combination/and_or_exchanged",
    "Two parts of the mask are combined by OR instead of AND, or the reverse.",
    "It is in {}.",
    _exchanged,
)
_family(
    "combination/part_escapes",
    "A part is admitted by OR at the end, past a rule that restricts it by AND: (A | B) & C is read as (A & C) | B.",
    "The part is {}.",
    _moved("and", "or"),
    seen=["huggingface/transformers#46850"],
)
_family(
    "combination/part_restricts_all",
    "A rule that restricts one part by AND restricts the others too: A & B | C is read as (A | C) & B.",
    "The part is {}.",
    _moved("or", "and"),
)
