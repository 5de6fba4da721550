"""Where a kernel stands: a call that it takes, and the sizes that it takes one thing at a time from there.

It is asked. Exceptions decide, never numbers: what is wrong must be checked, not left out. Where its limits are stated,
they are believed: it is asked for no size.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from refattn.masks import causal, window
from refattn.testing.adapters.base import Failed
from refattn.testing.names import function_named
from refattn.testing.nested import arrays
from refattn.testing.sizes import NotMovable, leading, resized
from refattn.testing.stated import Stated
from refattn.testing.subject import subject
from refattn.testing.tries import COUNTS, LARGE, USUAL, tried

SIZES = (1, 2, 3, 5, 8, 16, 17, 32, 33, 64, 96, 128, 192, 256)
_SELDOM, _RARELY = 100, 60  # calls
USUAL_SCALE = 0.125  # where a kernel must be given one
_SOME = (1, 2, 3, 4, 6, 8)  # how many of what there are few are asked for, one letter changed at a time
_MOST = 2600  # calls that are tried, whatever is: a kernel that has taken none of them needs its limits stated
_CRASHES = 8  # in a row: each starts a process again, or waits for an answer; then a kernel is asked no more


class Asked:
    """A kernel that is asked, and counts how often.

    Parameters
    ----------
    call : callable
        The kernel, with the signature of the reference function.
    stated : Stated, optional
        Its limits, where they are stated; without them the kernel alone is asked.
    """

    def __init__(self, call: Callable, stated: Stated | None = None):
        self.call, self.stated = call, stated
        self.more = stated.sizes if stated else {}  # letter -> further sizes to ask for
        self.calls = self.crashes = 0
        self.usual = tuple(dict.fromkeys((*USUAL, *(n for sizes in self.more.values() for n in sizes))))

    def sizes(self, letters: tuple[str, ...], own: int) -> tuple[int, ...]:
        """What a kernel is asked for where some letters have one size, beside their own."""
        large = () if own in SIZES else LARGE
        return tuple(sorted({*SIZES, *large, *(n for letter in letters for n in self.more.get(letter, ()))}))

    def inside(self, arguments: dict) -> bool:
        """Whether a call lies inside the limits that are stated."""
        return self.stated is None or not self.stated.beyond(arguments)

    def takes(self, arguments: dict) -> bool:
        """Whether the kernel takes a call; of limits that are stated, whether they say so."""
        return self.has(arguments) if self.stated is None else self.inside(arguments)

    def has(self, arguments: dict) -> bool:
        """Whether the kernel itself takes a call, inside its limits."""
        if self.crashes >= _CRASHES or not self.inside(arguments):
            return False
        self.calls += 1
        try:
            with np.errstate(all="ignore"):
                self.call(**arguments)
        except Failed as failure:
            self.crashes += _CRASHES if failure.deviation == "hangs" else 1
            return False
        except Exception:  # a refusal of any kind is a limit; whether it is also a fault is for `check` to say
            return False
        self.crashes = 0
        return True


@dataclass(frozen=True)
class Foothold:
    """A call that a kernel takes, from which one thing at a time is changed.

    Attributes
    ----------
    arguments : dict
    axes : int or tuple of int, optional
        The number of leading axes, or their sizes; None where any call's own is taken.
    sizes : dict
        Letter -> size.
    taken : dict
        Letters that have one size together -> the sizes that are taken.
    unlimited : frozenset
        Those of which all sizes are taken that the reference takes.
    always : tuple of str
        Options without which it is not taken, the mask apart.
    """

    arguments: dict
    axes: int | tuple[int, ...] | None
    sizes: dict[str, int]
    taken: dict[tuple[str, ...], tuple[int, ...]] = field(default_factory=dict)
    unlimited: frozenset[tuple[str, ...]] = frozenset()
    always: tuple[str, ...] = ()

    @property
    def free(self) -> bool:
        """Whether any size is taken, without options: where only options are refused there is nothing to move."""
        if self.always:
            return False
        counted = all(letters in self.unlimited for letters in self.taken)
        return counted and all(len(letters) == 1 for letters in self.taken) and self.axes is None

    def __str__(self) -> str:
        said, free = [], []
        for letters, sizes in self.taken.items():
            together = " = ".join(letters)
            if letters in self.unlimited:
                free.append(together)
            else:
                said.append(f"{together} in {', '.join(map(str, sizes))}")
        said += [f"{', '.join(free)} of any size"] if free else []
        if isinstance(self.axes, tuple):
            said = [f"leading axes {'x'.join(map(str, self.axes))}", *said]
        elif self.axes is not None:
            said = [f"{self.axes} leading axes", *said]
        said += [f"always {_said(name, self.arguments[name])}" for name in self.always]
        return "; ".join(said)


def _said(name, value) -> str:
    return f"{name}={value!r}" if isinstance(value, str) else name


def survey(asked: Asked, function: str, calls: list[dict], taken: list[dict] | None = None) -> Foothold | None:
    """A call that a kernel takes, and what it takes of the sizes; None where it takes none of those that are tried.

    Parameters
    ----------
    asked : Asked
    function : str
        'rms_norm'.
    calls : list of dict
        Calls of the reference, to start from.
    taken : list of dict, optional
        Those that the kernel takes as they are. An option that all of them have must be given.

    Examples
    --------
    >>> import refattn
    >>> def kernel(x, gamma):
    ...     if x.shape[-1] % 128:
    ...         raise NotImplementedError
    ...     return refattn.rms_norm(x, gamma)
    >>> str(survey(Asked(kernel), "rms_norm", [{"x": np.ones((3, 6)), "gamma": np.ones(6)}]))
    'E in 128, 256'
    """
    try:
        tries = (_foothold(asked, function, *some) for some in _starts(function, calls, taken or []))
        at = next((found for found in tries if found is not None), None)
        return None if at is None else _surveyed(asked, function, at)
    except NotMovable:
        return None


def _starts(function, calls, taken) -> Iterator[tuple[list[dict], list[dict], int | None]]:
    """Calls to start from, what a kernel may have to be given beside them, one of several, and how many are tried."""
    options = options_of(function)
    plain = _without(calls, options)
    if always := given_always(function, taken):
        yield _without(taken, options.keys() - always), [{}], _SELDOM
    yield from ((plain, *needed) for needed in _needed(options))
    if not taken:
        for some in _each_option(calls, options):
            yield some, [{}], _RARELY


def _without(calls, options) -> list[dict]:
    """Some of the calls, one of each kind, without these options, and without what records need not hold."""
    few = [{name: x for name, x in arguments.items() if name not in options} for arguments in calls]
    return _unlike([*few, *({name: bare(x) for name, x in arguments.items()} for arguments in few)])


def given_always(function: str, calls: list[dict]) -> set[str]:
    """The options that all calls have, and that say something; but the mask, which has cases of its own."""
    said = [{n for n, x in c.items() if x is not None and x is not False} for c in calls]
    return set.intersection(*said) & options_of(function).keys() - {"mask"} if said else set()


def _each_option(calls, options) -> Iterator[list[dict]]:
    """Calls with one option, words by what they say, and words first: there are few, and kernels that know one only."""
    found: dict[tuple[str, str], list[dict]] = {}
    for arguments in calls:
        for name in arguments.keys() & options.keys() - {"mask", "scale"}:
            x = arguments[name]
            if x is not None and x is not False:
                found.setdefault((name, x if isinstance(x, str) else ""), []).append(arguments)
    for (name, _), some in sorted(found.items(), key=lambda item: (not item[0][1], item[0])):
        yield _without(some, options.keys() - {name})


def options_of(function: str) -> dict[str, Any]:
    """The arguments of a function that need not be given, and their defaults."""
    given = inspect.signature(function_named(function)).parameters.values()
    return {p.name: p.default for p in given if p.default is not p.empty and p.name not in subject(function).whole}


def bare(record):
    """A record without the fields that need not be given."""
    defaults = getattr(record, "_field_defaults", {})
    given = {name: x for name, x in defaults.items() if getattr(record, name) is not x}
    return record._replace(**given) if given else record


def _unlike(calls, most=6):
    """Some of the calls, one of each kind, those with few arrays first and of these those with few numbers."""
    found: dict = {}
    for arguments in sorted(calls, key=lambda a: (len(arrays(a)), sum(x.size for _, x in arrays(a)))):
        if all(x.size for _, x in arrays(arguments)):
            found.setdefault(_kind(arguments), arguments)
    return list(found.values())[:most]


def _kind(arguments) -> tuple:
    """What a kernel may refuse of a call whatever its sizes: arguments, their numbers of axes, words, what records hold."""
    said = tuple((name, x) for name, x in arguments.items() if isinstance(x, str))
    return (*arguments, *said, *((path, x.ndim) for path, x in arrays(arguments)))


def _needed(options) -> Iterator[tuple[list[dict], int | None]]:
    """What a kernel may have to be given beside its arrays, one of several, and how often it is asked with these."""
    masks = [{}, {"mask": causal()}] if "mask" in options else [{}]
    yield masks, None
    if "scale" in options:  # some have none of their own
        yield [{**mask, "scale": USUAL_SCALE} for mask in masks], _SELDOM
    if "mask" in options:
        yield [{"mask": window(4, 4)}, {"mask": causal() & window(4, 0)}], _SELDOM


def _foothold(asked, function, calls, given, most) -> Foothold | None:
    for arguments, axes, sizes in itertools.islice(tried(function, calls, asked.stated, asked.usual), most):
        if asked.calls >= _MOST:
            return None
        try:
            moved = resized(function, arguments, sizes, axes)
        except NotMovable:  # another of the calls may be
            continue
        for more in given:
            if asked.has({**moved, **more}):
                return Foothold({**moved, **more}, axes, sizes)
    return None


def _surveyed(asked, function, at: Foothold) -> Foothold:
    """What is taken of the sizes, one letter changed at a time; two letters where neither changes alone."""
    unlimited = set()

    def sizes_with(letters):
        own, counts = at.sizes[letters[0]], letters[0] in COUNTS
        some = _SOME if counts else asked.sizes(letters, own)
        calls = {n: resized(function, at.arguments, {**at.sizes, **dict.fromkeys(letters, n)}) for n in some}
        found = {own, *(n for n, moved in calls.items() if n == own or asked.takes(moved))}
        if not any(n not in found and is_call(function, moved) for n, moved in calls.items()):
            unlimited.add(letters)
        return (own,) if counts else tuple(sorted(found))

    alone: dict[tuple[str, ...], tuple[int, ...]] = {(letter,): sizes_with((letter,)) for letter in at.sizes}
    stuck = [letter for letter in at.sizes if len(alone[letter,]) == 1 and letter not in COUNTS]
    for pair in itertools.combinations(stuck, 2):
        if at.sizes[pair[0]] == at.sizes[pair[1]] and len(sizes := sizes_with(pair)) > 1:
            for letter in pair:
                alone.pop((letter,), None)
            alone[pair] = sizes
    always = tuple(sorted(given_always(function, [at.arguments])))
    return Foothold(at.arguments, _axes(asked, function, at), at.sizes, alone, frozenset(unlimited), always)


def _axes(asked, function, at) -> int | tuple[int, ...] | None:
    """The number of leading axes of a call, where another is refused that the reference takes."""
    own = leading(function, at.arguments)
    if at.axes is not None or own is None:
        return at.axes
    others = (resized(function, at.arguments, {}, axes) for axes in (0, 1, 2) if axes != own)
    return own if any(not asked.takes(moved) and is_call(function, moved) for moved in others) else None


def is_call(function, arguments) -> bool:
    """Whether the reference takes a call."""
    try:
        with np.errstate(all="ignore"):
            function_named(function)(**arguments)
    except Exception:
        return False
    return True
