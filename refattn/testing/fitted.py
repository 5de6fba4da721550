"""Calls that a kernel refuses, moved to what it takes: other sizes, another number of axes, fewer options."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import numpy as np

from refattn.masks import Mask, causal
from refattn.testing.foothold import Asked, Foothold, bare, is_call, options_of
from refattn.testing.nested import arrays
from refattn.testing.sizes import NotMovable, resized, sizes_of, tied
from refattn.testing.subject import Case, subject
from refattn.testing.tries import COUNTS

_FOLLOW = ("out", "lse")  # options that follow from the other arguments
_MOST = 32  # cases of a function and a precision
_CAUSAL = 8  # further ones with a causal mask


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
    chosen = _of_each_recipe(moved)[:_MOST]
    return chosen if function == "attention" else [*chosen, *_causal(asked, function, chosen)]


def _of_each_recipe(cases: list[Case]) -> list[Case]:
    """The cases in an order in which the first ones are of as many recipes as there are."""
    recipes: dict[str, list[Case]] = {}
    for case in cases:
        recipes.setdefault(re.sub(r"[\d.]+$", "", case[0]), []).append(case)
    return [
        case for one_of_each in itertools.zip_longest(*recipes.values()) for case in one_of_each if case is not None
    ]


def _causal(asked, function, cases) -> Iterator[Case]:
    """Some of the cases again with a causal mask: few have it, and most kernels take no other."""
    plain = [case for case in cases if case[2].get("mask") is None and "cache" not in case[2]]
    masked = ((name, clauses, {**arguments, "mask": causal()}) for name, clauses, arguments in plain)
    if "mask" in options_of(function):
        taken = (case for case in masked if is_call(function, case[2]) and asked.takes(case[2]))
        for name, clauses, arguments in itertools.islice(taken, _CAUSAL):
            yield name.replace("inside_", "inside_causal_", 1), clauses, arguments


def _moved(asked, function, refused, at, options, seed) -> Iterator[Case]:
    known: dict[tuple, bool] = {}
    whole = subject(function).whole

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
        kept = {n: x for n, x in arguments.items() if n in options and n not in _FOLLOW and is_plain(x) and taken(n, x)}
        if "mask" in arguments and "mask" not in kept and holds_poison(few):
            continue  # what nothing sees would be seen, which is another question
        kept |= {name: x for name, x in at.arguments.items() if name in options and name not in kept}  # it needs these
        if any(x.size == 0 for _, x in arrays(arguments)):
            continue
        tries = ((some, here) for some in _with_less(few, at.arguments, whole) for here in _sizes(function, at, some))
        for some, here in tries:
            rng = np.random.default_rng((seed, number))
            try:
                moved = resized(function, {**some, **kept}, here, at.axes, rng)
            except (NotMovable, ValueError, TypeError):  # sizes that it has not as its docstring says
                continue
            if is_call(function, moved) and asked.takes(moved):
                yield f"inside_{case}", clauses, moved
                break


def _sizes(function, at, arguments) -> Iterator[dict[str, int]]:
    """The sizes for a call, as near to its own as are taken: first with its own counts of heads, then with those taken."""
    own, sizes = sizes_of(function, arguments), dict[str, int]()
    alias = tied(function, at.arguments)  # what the call that is taken has as one, another may have apart
    for letters, possible in at.taken.items():
        letters = (*letters, *(letter for letter, of in alias.items() if of in letters))
        wanted = max((own[letter] for letter in letters if letter in own), default=possible[0])
        sizes |= dict.fromkeys(letters, min((s for s in possible if s >= wanted), default=possible[-1]))
    if counts := {letter: own[letter] for letter in sizes if letter in COUNTS and letter in own}:
        yield {**sizes, **counts}
    yield sizes


def _with_less(arguments, taken, whole) -> Iterator[dict]:
    """A call as it is, then without what the call that is taken has not: fields of records, arguments that are no options."""
    yield arguments
    less = {name: bare(x) for name, x in arguments.items()}
    if any(less[name] is not x for name, x in arguments.items()):
        yield less
    if whole:
        as_taken = {name: x for name, x in taken.items() if name in whole}
        for some in (arguments, less):
            yield {**{name: x for name, x in some.items() if name not in whole}, **as_taken}


def holds_poison(arguments) -> bool:
    """Whether some array of a call holds NaN or infinity."""
    return any(x.dtype.kind == "f" and not np.isfinite(x).all() for _, x in arrays(arguments))


def is_plain(value) -> bool:
    """Whether an option is an array, or means the same at all sizes."""
    if isinstance(value, Mask):
        return "array" not in repr(value)
    return isinstance(value, np.ndarray) or not any(True for _ in arrays(value))
