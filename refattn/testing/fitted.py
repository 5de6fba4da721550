"""Calls that a kernel refuses, moved to what it takes: other sizes, another number of axes, fewer options.

What it takes is found by asking it. Exceptions decide, never numbers: what is wrong must be checked, not left out. The
letters in docstrings say which axes have one size.
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from refattn.masks import Mask, causal
from refattn.testing.docstrings import Shape, stated
from refattn.testing.limits import takes
from refattn.testing.names import function_named
from refattn.testing.nested import arrays
from refattn.testing.subject import Case

SIZES = (1, 2, 3, 5, 8, 16, 17, 32, 33, 64, 96, 128, 192, 256)
USUAL = (64, 128, 32, 16, 256, 8)  # what a kernel is asked for first
_AXES = (None, 2, 1, 0, 3)  # leading axes; None: as many as a call has
_COUNTS = {"H": (8, None, 32), "G": (2, None, 8, 1), "B": (None, 1)}  # of what there are few; None: as a call has them
_FOLLOW = ("out", "lse")  # options that follow from the other arguments
_MOST = 32  # cases of a function and a precision


@dataclass(frozen=True)
class Foothold:
    """A call that a kernel takes, from which one thing at a time is changed.

    Attributes
    ----------
    arguments : dict
    axes : int, optional
        The number of leading axes; None where any call's own is taken.
    sizes : dict
        Letter -> size.
    taken : dict
        Letters that have one size together -> the sizes that are taken.
    calls : int
        How many calls it took to find out.
    """

    arguments: dict
    axes: int | None
    sizes: dict[str, int]
    taken: dict[tuple[str, ...], tuple[int, ...]] = field(default_factory=dict)
    calls: int = 0

    def __str__(self) -> str:
        said = [f"{' = '.join(letters)} in {', '.join(map(str, sizes))}" for letters, sizes in self.taken.items()]
        axes = "" if self.axes is None else f"{self.axes} leading axes; "
        return f"{axes}{'; '.join(said)} (asked in {self.calls} calls)"


class NotMovable(ValueError):
    """Arrays inside of other arguments, axes without a letter, or nothing to make more of."""


def fitted(call: Callable, function: str, refused: list[Case], seed: int = 0) -> tuple[str, list[Case]]:
    """What a kernel takes, in words, and those of the calls that it refuses that could be moved there.

    Parameters
    ----------
    call : callable
        The kernel, with the signature of the reference function.
    function : str
        'rms_norm'.
    refused : list of (name, clauses, arguments)
        Calls of the reference that the kernel refuses.
    seed : int

    Examples
    --------
    >>> import refattn
    >>> def kernel(x, gamma, eps=1e-6, **options):
    ...     if x.shape[-1] % 128 or options:
    ...         raise NotImplementedError
    ...     return refattn.rms_norm(x, gamma, eps=eps)
    >>> calls = [("some", ("RMSNORM-OUT",), {"x": np.ones((3, 6)), "gamma": np.ones(6), "eps": 1e-3})]
    >>> limits, [(name, _, moved)] = fitted(kernel, "rms_norm", calls)
    >>> limits, moved["x"].shape, moved["eps"]
    ('E in 128, 256 (asked in 15 calls)', (3, 128), 0.001)
    """
    asked = _Asked(call)
    options = _options(function)
    bare = [{name: x for name, x in arguments.items() if name not in options} for _, _, arguments in refused]
    try:
        at = _foothold(asked, function, _unlike(function, bare), "mask" in options)
        if at is None:
            return "", []
        at = _surveyed(asked, function, at)
        moved = list(_moved(asked, function, refused, at, options, seed))
    except NotMovable:
        return "", []
    some = moved[:: -(-len(moved) // _MOST)] if moved else []
    return str(at), some


class _Asked:
    """A kernel that is asked, and counts how often."""

    def __init__(self, call):
        self.call, self.calls = call, 0

    def takes(self, arguments) -> bool:
        self.calls += 1
        return takes(self.call, arguments)


def _options(function) -> dict[str, Any]:
    given = inspect.signature(function_named(function)).parameters.values()
    return {p.name: p.default for p in given if p.default is not p.empty}


def _unlike(function, calls, most=4):
    """Some of the calls, one of each set of arguments and numbers of axes, those with few numbers first."""
    found: dict = {}
    for arguments in sorted(calls, key=lambda a: sum(x.size for _, x in arrays(a))):
        if all(x.size for _, x in arrays(arguments)):
            found.setdefault(tuple((name, getattr(x, "ndim", 0)) for name, x in arguments.items()), arguments)
    return list(found.values())[:most]


def _foothold(asked, function, calls, masked) -> Foothold | None:
    for arguments, axes in itertools.product(calls, _AXES):
        own = sizes_of(function, arguments)
        counts = {letter: _COUNTS[letter] for letter in own if letter in _COUNTS}
        letters = [letter for letter in own if letter not in counts]
        for few in itertools.product(*counts.values()):
            fixed = {letter: size or own[letter] for letter, size in zip(counts, few, strict=True)}
            for one, size in itertools.product((None, *letters), USUAL):
                sizes = {**dict.fromkeys(letters, size), **fixed} | ({one: 1} if one else {})
                try:
                    moved = resized(function, arguments, sizes, axes)
                except NotMovable:
                    return None
                for mask in ({}, {"mask": causal()}) if masked else ({},):
                    if asked.takes({**moved, **mask}):
                        return Foothold({**moved, **mask}, axes, sizes)
                if not letters:
                    break
    return None


def _surveyed(asked, function, at: Foothold) -> Foothold:
    """What is taken of the sizes, one letter changed at a time; two letters where neither changes alone."""

    def sizes_with(letters):
        if any(letter in _COUNTS for letter in letters):
            return (at.sizes[letters[0]],)
        other = lambda size: resized(function, at.arguments, {**at.sizes, **dict.fromkeys(letters, size)})
        return tuple(size for size in SIZES if size == at.sizes[letters[0]] or asked.takes(other(size)))

    alone: dict[tuple[str, ...], tuple[int, ...]] = {(letter,): sizes_with((letter,)) for letter in at.sizes}
    stuck = [letter for letter in at.sizes if len(alone[letter,]) == 1 and letter not in _COUNTS]
    for pair in itertools.combinations(stuck, 2):
        if at.sizes[pair[0]] == at.sizes[pair[1]] and len(sizes := sizes_with(pair)) > 1:
            for letter in pair:
                alone.pop((letter,), None)
            alone[pair] = sizes
    return Foothold(at.arguments, at.axes, at.sizes, alone, asked.calls)


def _moved(asked, function, refused, at, options, seed) -> Iterator[Case]:
    known: dict[tuple, bool] = {}
    reference = function_named(function)

    def taken(name, value):
        """Whether the kernel takes an option beside the arguments of the foothold."""
        key = name, repr(value) if not isinstance(value, np.ndarray) else value.ndim
        if key not in known:
            try:
                known[key] = asked.takes({**at.arguments, **moved_option(name, value)})
            except NotMovable:
                known[key] = False
        return known[key]

    def moved_option(name, value):
        return resized(function, {name: value}, at.sizes) if isinstance(value, np.ndarray) else {name: value}

    for number, (case, clauses, arguments) in enumerate(refused):
        few = {name: x for name, x in arguments.items() if name not in options}
        kept = {n: x for n, x in arguments.items() if n in options and n not in _FOLLOW and _plain(x) and taken(n, x)}
        if "mask" in arguments and "mask" not in kept and _holds_poison(few):
            continue  # what nothing sees would be seen, which is another question
        if "mask" in at.arguments and "mask" not in kept:
            kept["mask"] = at.arguments["mask"]
        own = sizes_of(function, arguments)
        if any(size == 0 for size in own.values()):
            continue
        sizes: dict[str, int] = {}
        for letters, possible in at.taken.items():
            wanted = max((own[letter] for letter in letters if letter in own), default=possible[0])
            sizes |= dict.fromkeys(letters, min((s for s in possible if s >= wanted), default=possible[-1]))
        counts = {letter: own[letter] for letter in sizes if letter in _COUNTS and letter in own}
        for here in ({**sizes, **counts}, sizes) if counts else (sizes,):
            rng = np.random.default_rng((seed, number))
            try:
                moved = resized(function, {**few, **kept}, here, at.axes, rng)
                with np.errstate(all="ignore"):
                    reference(**moved)
            except Exception:  # what does not belong together any more
                continue
            if asked.takes(moved):
                yield f"inside_{case}", clauses, moved
                break


def _holds_poison(arguments) -> bool:
    return any(x.dtype.kind == "f" and not np.isfinite(x).all() for _, x in arrays(arguments))


def _plain(value) -> bool:
    """Whether an option is an array, or means the same at all sizes."""
    if isinstance(value, Mask):
        return "array" not in repr(value)
    return isinstance(value, np.ndarray) or not any(True for _ in arrays(value))


# --- sizes ----------------------------------------------------------------------------------------------------------


def _axes(function, name, value) -> tuple[bool, Shape]:
    """Whether an array may have leading axes, and the letters of its last axes."""
    found = {x.name: x for x in stated(function_named(function), "Parameters")}
    if name not in found or not found[name].shapes:
        raise NotMovable(f"{function}: no shape is stated for {name}")
    for shape in sorted(found[name].shapes, key=lambda s: -len(s)):
        letters = tuple(letter for letter in shape if letter != "...")
        if value.ndim == len(letters) or ("..." in shape and value.ndim > len(letters)):
            return "..." in shape, letters
    return False, tuple(found[name].shapes[0])[-value.ndim :] if value.ndim else ()  # fewer axes, which broadcast


def sizes_of(function: str, arguments: dict) -> dict[str, int]:
    """Letter -> size, of the arrays of a call.

    Examples
    --------
    >>> sizes_of("rms_norm", {"x": np.ones((3, 6)), "gamma": np.ones(6)})
    {'E': 6}
    """
    found: dict[str, int] = {}
    for name, x in arguments.items():
        if isinstance(x, np.ndarray):
            letters = _axes(function, name, x)[1]
            for letter, size in zip(letters, x.shape[x.ndim - len(letters) :], strict=True):
                if re.fullmatch(r"[A-Za-z_]+", letter):
                    found[letter] = max(size, found.get(letter, 0))
    return found


def resized(function: str, arguments: dict, sizes: dict[str, int], axes: int | None = None, rng=None) -> dict:
    """A call with other sizes: rows that it has and others like them, half as large at random.

    Parameters
    ----------
    function : str
    arguments : dict
    sizes : dict
        Letter -> size.
    axes : int, optional
        How many leading axes there are to be; default as they are.
    rng : numpy.random.Generator, optional

    Raises
    ------
    NotMovable
        An array stands where its shape is not stated.

    Examples
    --------
    >>> moved = resized("rms_norm", {"x": np.ones((3, 6)), "gamma": np.ones(6)}, {"E": 128}, axes=2)
    >>> moved["x"].shape, moved["gamma"].shape
    ((1, 3, 128), (128,))
    """
    rng = np.random.default_rng(0) if rng is None else rng
    own, moved = sizes_of(function, arguments), dict(arguments)
    for name, x in arguments.items():
        if not isinstance(x, np.ndarray):
            if any(True for _ in arrays(x)):
                raise NotMovable(f"{function}: {name} holds arrays")
            continue
        leading, letters = _axes(function, name, x)
        for axis, letter in zip(range(-len(letters), 0), letters, strict=True):
            if letter in sizes and (x.shape[axis] != 1 or own[letter] == 1):
                x = _as_many(x, axis, sizes[letter], rng)
        moved[name] = _with_axes(x, len(letters), axes) if leading and axes is not None else x
    return moved


def _as_many(x, axis, size, rng):
    have = x.shape[axis]
    if size <= have:
        return np.take(x, range(have - size, have), axis)
    if not have:
        raise NotMovable("an axis of none has nothing to make more of")
    more = np.take(x, rng.integers(0, have, size - have), axis)
    if x.dtype.kind == "f":
        halves = np.where(rng.random(more.shape) < 0.5, 1.0, 0.5).astype(x.dtype)
        more = more * halves
    return np.concatenate([more, x], axis)  # queries and keys are aligned at the end


def _with_axes(x, core, axes):
    lead = x.shape[: x.ndim - core]
    kept = (1,) * (axes - len(lead)) + lead[max(len(lead) - axes, 0) :]
    return np.reshape(x[(0,) * (len(lead) - axes)] if len(lead) > axes else x, (*kept, *x.shape[x.ndim - core :]))


def refused_by(call: Callable, cases: Iterable[Case]) -> list[Case]:
    """Those of the calls that a kernel refuses."""
    return [case for case in cases if not takes(call, case[2])]
