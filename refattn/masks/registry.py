"""What is known of each rule beside whom it admits: stated once, where the rule is, and asked for by its name.

    @rule(data={"lengths": 0}, reach=_of_prefix)
    def prefix(lengths): ...

says that lengths have no axes but leading ones, and gives the function that bounds which keys `prefix` can admit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from refattn.masks.reach import Reach, anywhere

Build = TypeVar("Build", bound=Callable)


class Rule(NamedTuple):
    """The function that builds a rule, the axes of its data, how far it reaches, whether it decides by differences of positions."""

    build: Callable
    data: Mapping[str, int]
    reach: Callable[..., Reach]
    relative: bool


RULES: dict[str, Rule] = {}


def rule(
    *, data: Mapping[str, int] | None = None, reach: Callable[..., Reach] = anywhere, relative: bool = False
) -> Callable[[Build], Build]:
    """Register a function that builds a rule, under its own name.

    Parameters
    ----------
    data : dict, optional
        The arguments that are data of a sequence, and the axes that each has beside leading ones.
    reach : callable, optional
        Takes the first and the last position of some queries and the arguments of the rule; see `Mask.reach`.
    relative : bool
        Whether it decides by the difference of two positions alone: then all tiles at one distance are one.
    """

    def register(build: Build) -> Build:
        RULES[build.__name__] = Rule(build, data or {}, reach, relative)
        return build

    return register


def data_axes(name: str) -> Mapping[str, int]:
    """The data of a rule of a name, and the axes that each has beside leading ones; none where it is a caller's own."""
    return RULES[name].data if name in RULES else {}
