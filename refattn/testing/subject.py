"""What the kit knows of a reference function: one record, in the package that bears the name of its folder in spec/.

`refattn/testing/mechanisms/latent/mla.py` holds the subjects of `spec/latent/mla`. Nothing lists them: every `Subject`
that stands there is found. This file imports no mechanism.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import refattn
from refattn import backend

if TYPE_CHECKING:
    from refattn.testing.inputs import Draw
    from refattn.testing.registry import Variant

Case = tuple[str, tuple[str, ...], dict]  # its name, the clauses that it pins, the arguments
HOME = "refattn.testing.mechanisms"


class Equal(NamedTuple):
    """Another reference function that gives the same results, and how its arguments follow.

    Attributes
    ----------
    function : str
        'attention'.
    arguments : callable
        Takes the subject's arguments, gives those of the other as a dictionary. It may raise `NotApplicable`:
        such a call is none of the other.
    results : callable, optional
        Takes what the other returns and the subject's arguments by name, gives what the subject returns; default the same.
    without : tuple of str
        Beginnings of names of variants that are none here.
    """

    function: str
    arguments: Callable[..., dict]
    results: Callable[[Any, dict], Any] | None = None
    without: tuple[str, ...] = ()


def _nothing(draw: Draw, effort: str) -> Iterator[Case]:
    return iter(())


@dataclass(frozen=True, eq=False)
class Subject:
    """A reference function and what is to be known about it.

    Attributes
    ----------
    function : callable
    random : callable
        One random call: takes a `refattn.testing.inputs.Draw`, gives the arguments. Sizes differ, and every variant
        shows in some calls.
    clause : str
        The clause that a random call pins.
    directed : callable
        Cases that are made so that certain mistakes cannot hide: takes a `Draw` and an effort, yields
        (name, clauses, arguments).
    equals : Equal, optional
        Another function that gives the same: its bound, variants, relations and pictures are this one's.
    parts : tuple of str
        Functions that this one calls directly: what goes wrong in them goes wrong here.
    derive : tuple of (str, callable)
        Further functions whose variants are variants of this one, and what makes one of theirs one of this.
    bound : callable, optional
        Derived by hand; takes the profile and the arguments. Without one the bound is found from the code.
    related : callable, optional
        A call of which self-consistency is asked (`refattn.testing.consistency`); takes a `Draw`. Without one it is a random
        call.
    axes : dict
        What the last axes of a result are called in a report: {"lse": ("heads", "queries")}; of one that is not there, as
        in the function that this one equals.
    whole : tuple of str
        Arguments that have a default and are no options all the same: without them it is another call, which the others
        may not fit.
    follow : callable, optional
        Arguments that follow from sizes and are no arrays: takes the arguments of a call with other sizes, the sizes before
        and those now, by letter, and gives what else changes.
    pictured : callable, optional
        A call worth drawing (`refattn.testing.patterns`): takes N and M, gives the arguments without v, and without q and k
        where they do not matter.
    name : str
        'attention', 'latent.latents_of'; that of the function, where it is not given.
    mechanism : str
        The folder of spec that it stands in; found, not given.
    """

    function: Callable
    random: Callable[[Draw], dict]
    clause: str
    directed: Callable[[Draw, str], Iterator[Case]] = _nothing
    equals: Equal | None = None
    parts: tuple[str, ...] = ()
    derive: tuple[tuple[str, Callable[[Variant], Variant]], ...] = ()
    bound: Callable[..., dict] | None = None
    related: Callable[[Draw], dict] | None = None
    axes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    whole: tuple[str, ...] = ()
    follow: Callable[[dict, Mapping[str, int], Mapping[str, int]], dict] | None = None
    pictured: Callable[[int, int], dict] | None = None
    name: str = ""
    mechanism: str = ""

    def __post_init__(self):
        object.__setattr__(self, "name", self.name or name_of(self.function))


# --- finding --------------------------------------------------------------------------------------------------------


def spec_dir() -> Path:
    """The folder of the specification: inside an installed package, or beside the package in a checkout."""
    inside = Path(refattn.__file__).parent / "_spec"
    return inside if inside.is_dir() else Path(refattn.__file__).parents[1] / "spec"


@cache
def listed(root: Path) -> tuple[str, ...]:
    """The mechanisms of a folder of the specification, ground floor first: 'softmax', 'latent/mla'."""
    return tuple((root / "mechanisms.txt").read_text(encoding="utf-8").split())


def mechanisms() -> tuple[str, ...]:
    """The mechanisms of the specification, ground floor first."""
    return listed(spec_dir())


@cache
def load() -> None:
    """Import all that the kit knows of the mechanisms, so that variants are registered and subjects found."""
    for mechanism in mechanisms():
        for _ in _modules(mechanism):
            pass


@cache
def subjects() -> dict[str, Subject]:
    """Every subject by the name of its function, in the order of the list."""
    found: dict[str, Subject] = {}
    for mechanism in mechanisms():
        for module in _modules(mechanism):
            for value in vars(module).values():
                if isinstance(value, Subject):  # one that a neighbour imports is at home where it was found first
                    found.setdefault(value.name, replace(value, mechanism=mechanism))
    return found


def subject(function: str) -> Subject:
    """The subject of a function, by its name; ValueError where there is none."""
    try:
        return subjects()[function]
    except KeyError:
        raise ValueError(f"{function} has no subject in {HOME}") from None


def _modules(mechanism: str) -> Iterator[ModuleType]:
    """The module of a mechanism; of a package every module, itself first."""
    try:
        home = importlib.import_module(f"{HOME}.{mechanism.replace('/', '.')}")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith(HOME):
            raise
        return
    yield home
    if hasattr(home, "__path__"):
        for module in pkgutil.iter_modules(home.__path__, f"{home.__name__}."):
            yield importlib.import_module(module.name)


def name_of(function) -> str:
    """The name under which the specification knows a reference function: 'attention', 'positions.rotate'."""
    if isinstance(function, str):
        return function
    if not isinstance(function, FunctionType):
        raise TypeError(f"function is {backend.shown(function)}; it must be a function of refattn, or its name")
    if not function.__module__.startswith("refattn."):
        raise ValueError(
            f"function is {backend.shown(function)} of {function.__module__}, which is no function of refattn"
        )
    module = function.__module__.split(".")[1]  # refattn.positions.rotary.rotate is positions.rotate
    name = function.__qualname__
    return name if getattr(refattn, name, None) is function else f"{module}.{name}"
