"""Calls that a kernel refuses, moved to what it takes: other sizes, another number of axes, fewer options."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refattn.masks import Mask
from refattn.testing.foothold import COUNTS, Asked, Foothold, options_of
from refattn.testing.names import function_named
from refattn.testing.nested import arrays
from refattn.testing.sizes import NotMovable, resized, sizes_of
from refattn.testing.subject import Case

_FOLLOW = ("out", "lse")  # options that follow from the other arguments
_MOST = 32  # cases of a function and a precision


def fitted(asked: Asked, function: str, at: Foothold, refused: list[Case], seed: int = 0) -> list[Case]:
    """Those of the calls that a kernel refuses that could be moved to what it takes.

    Parameters
    ----------
    asked : Asked
        The kernel.
    function : str
        'rms_norm'.
    at : Foothold
        What it takes.
    refused : list of (name, clauses, arguments)
        Calls of the reference that the kernel refuses.
    seed : int

    Examples
    --------
    >>> import refattn
    >>> from refattn.testing.foothold import survey
    >>> def kernel(x, gamma, eps=1e-6, **options):
    ...     if x.shape[-1] % 128 or options:
    ...         raise NotImplementedError
    ...     return refattn.rms_norm(x, gamma, eps=eps)
    >>> asked, given = Asked(kernel), {"x": np.ones((3, 6)), "gamma": np.ones(6), "eps": 1e-3}
    >>> at = survey(asked, "rms_norm", [given])
    >>> [(name, _, moved)] = fitted(asked, "rms_norm", at, [("some", ("RMSNORM-OUT",), given)])
    >>> name, moved["x"].shape, moved["eps"]
    ('inside_some', (3, 128), 0.001)
    """
    try:
        moved = list(_moved(asked, function, refused, at, options_of(function), seed))
    except NotMovable:
        return []
    return moved[:: -(-len(moved) // _MOST)] if moved else []


def _moved(asked, function, refused, at, options, seed) -> Iterator[Case]:
    known: dict[tuple, bool] = {}
    reference = function_named(function)

    def taken(name, value):
        """Whether the kernel takes an option beside the arguments of the foothold."""
        key = name, repr(value) if not isinstance(value, np.ndarray) else value.ndim
        if key not in known:
            try:
                known[key] = asked.has({**at.arguments, **moved_option(name, value)})
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
        counts = {letter: own[letter] for letter in sizes if letter in COUNTS and letter in own}
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
