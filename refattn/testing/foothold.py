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
from refattn.testing.sizes import NotMovable, leading, resized, sizes_of
from refattn.testing.subject import subject

SIZES = (1, 2, 3, 5, 8, 16, 17, 32, 33, 64, 96, 128, 192, 256)
_SELDOM = 100  # calls
USUAL_SCALE = 0.125  # where a kernel must be given one
USUAL = (64, 128, 32, 16, 256, 8)  # what a kernel is asked for first
COUNTS = {"H": (8, None, 32), "G": (2, None, 8, 1), "B": (None, 1)}  # of what there are few; None: as a call has them
_SOME = (1, 2, 3, 4, 6, 8)  # how many of these are asked for, one letter changed at a time
_AXES = (None, 2, 1, 0, 3)  # leading axes; None: as many as a call has
_LEADS = ((1, 2), (1, 8), (2, 4), (1, 1))  # batch and heads, where no letter is stated for them
_ROWS = ("N", "M", "T", "S")  # how many tokens there are; other letters are what each of them holds
_MODELS = ({"R": 512, "Dr": 64, "Dn": 128, "Dv": 128},)  # sizes of one letter each: those of DeepSeek
_FIRST, _BY_LETTER, _ALIKE, _APART = 50, 60, 400, 300  # calls that are tried at most, until one is taken
_CRASHES = 8  # in a row: each starts a process again, or waits for an answer; then a kernel is asked no more


class Asked:
    """A kernel that is asked, and counts how often.

    Parameters
    ----------
    call : callable
        The kernel, with the signature of the reference function.
    inside : callable, optional
        Whether a call lies inside limits that are stated; without one the kernel alone is asked.
    more : dict, optional
        Letter -> further sizes to ask for.
    """

    def __init__(self, call: Callable, inside: Callable[[dict], bool] | None = None, more: dict | None = None):
        self.call, self.inside, self.more = call, inside, more or {}
        self.calls = self.crashes = 0
        self.usual = tuple(dict.fromkeys((*USUAL, *(n for sizes in self.more.values() for n in sizes))))

    def sizes(self, letters: tuple[str, ...]) -> tuple[int, ...]:
        """What a kernel is asked for where some letters have one size."""
        return tuple(sorted({*SIZES, *(n for letter in letters for n in self.more.get(letter, ()))}))

    def takes(self, arguments: dict) -> bool:
        """Whether the kernel takes a call; of limits that are stated, whether they say so."""
        return self.has(arguments) if self.inside is None else self.inside(arguments)

    def has(self, arguments: dict) -> bool:
        """Whether the kernel itself takes a call, inside its limits."""
        if self.inside is not None and not self.inside(arguments):
            return False
        if self.crashes >= _CRASHES:
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
    """

    arguments: dict
    axes: int | tuple[int, ...] | None
    sizes: dict[str, int]
    taken: dict[tuple[str, ...], tuple[int, ...]] = field(default_factory=dict)
    unlimited: frozenset[tuple[str, ...]] = frozenset()

    @property
    def free(self) -> bool:
        """Whether any size is taken: where only options are refused there is nothing to move."""
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
        return "; ".join(said)


def survey(asked: Asked, function: str, calls: list[dict]) -> Foothold | None:
    """A call that a kernel takes, and what it takes of the sizes; None where it takes none of those that are tried.

    Parameters
    ----------
    asked : Asked
    function : str
        'rms_norm'.
    calls : list of dict
        Calls of the reference, to start from.

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
    options = options_of(function)
    few = [{name: x for name, x in arguments.items() if name not in options} for arguments in calls]
    fewer = [{name: bare(x) for name, x in arguments.items()} for arguments in few]
    try:
        tries = (_foothold(asked, function, _unlike([*few, *fewer]), *needed) for needed in _needed(options))
        at = next((found for found in tries if found is not None), None)
        return None if at is None else _surveyed(asked, function, at)
    except NotMovable:
        return None


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
    alike = _alike(asked, function, calls)
    tries = itertools.chain(
        itertools.islice(alike, _FIRST),
        itertools.islice(_by_letter(asked, function, calls), _BY_LETTER),
        itertools.islice(alike, _ALIKE - _FIRST),
        itertools.islice(_apart(asked, function, calls), _APART),
    )
    for arguments, axes, sizes in itertools.islice(tries, most):
        try:
            moved = resized(function, arguments, sizes, axes)
        except NotMovable:  # another of the calls may be
            continue
        for more in given:
            if asked.has({**moved, **more}):
                return Foothold({**moved, **more}, axes, sizes)
    return None


def _alike(asked, function, calls) -> Iterator[tuple]:
    """Calls, numbers of leading axes, and sizes: all alike, or one of them 1."""
    each = [_alike_of(asked, function, arguments) for arguments in calls]
    if any("." in path for arguments in calls for path, _ in arrays(arguments)):  # a record may be what is refused
        return (tried for one_of_each in itertools.zip_longest(*each) for tried in one_of_each if tried is not None)
    return itertools.chain.from_iterable(each)


def _alike_of(asked, function, arguments) -> Iterator[tuple]:
    for letters, fixed in _counted(asked, function, arguments):
        for axes, one, size in itertools.product(_AXES, (None, *letters), asked.usual):
            if letters or size == asked.usual[0]:
                yield arguments, axes, {**dict.fromkeys(letters, size), **fixed} | ({one: 1} if one else {})


def _apart(asked, function, calls) -> Iterator[tuple]:
    """The same with one size for rows and another for what they hold, and with batch and heads where no letter has them."""
    for arguments in calls[:1]:
        leads = (None,) if "H" in sizes_of(function, arguments) else (None, *_LEADS)
        for letters, fixed in _counted(asked, function, arguments):
            rows, others = ([x for x in letters if (x in _ROWS) == of_rows] for of_rows in (True, False))
            for axes, size, width, one in itertools.product(leads, asked.usual, asked.usual, (None, *rows[:1])):
                if rows and others and (size != width or axes is not None):
                    sizes = {**dict.fromkeys(rows, size), **dict.fromkeys(others, width), **fixed}
                    yield arguments, axes, sizes | ({one: 1} if one else {})


def _by_letter(asked, function, calls) -> Iterator[tuple]:
    """Each letter with a size of its own: that of well known models, or the first that is stated for it."""
    stated = {letter: sizes[0] for letter, sizes in asked.more.items()}
    for own, arguments in itertools.product((stated, *_MODELS), calls):
        for letters, fixed in _counted(asked, function, arguments):
            if own and own.keys() & {*letters, *fixed}:
                for size in asked.usual:
                    sizes = {**dict.fromkeys(letters, size), **fixed}
                    yield arguments, None, sizes | {letter: n for letter, n in own.items() if letter in sizes}


def _counted(asked, function, arguments):
    """The letters of a call but for those of which there are few, and each choice of these."""
    own = sizes_of(function, arguments)
    counts = {
        letter: dict.fromkeys((*COUNTS[letter], *asked.more.get(letter, ()))) for letter in own if letter in COUNTS
    }
    letters = [letter for letter in own if letter not in counts]
    for few in itertools.product(*counts.values()):
        yield letters, {letter: size or own[letter] for letter, size in zip(counts, few, strict=True)}


def _surveyed(asked, function, at: Foothold) -> Foothold:
    """What is taken of the sizes, one letter changed at a time; two letters where neither changes alone."""
    unlimited = set()

    def sizes_with(letters):
        own, counts = at.sizes[letters[0]], letters[0] in COUNTS
        some = _SOME if counts else asked.sizes(letters)
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
    return Foothold(at.arguments, _axes(asked, function, at), at.sizes, alone, frozenset(unlimited))


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
