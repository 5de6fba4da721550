"""The sizes in a call, by the letters of docstrings; and the same call with other sizes."""

from __future__ import annotations

import re

import numpy as np

from refattn.testing.docstrings import Named, Shape, stated
from refattn.testing.names import function_named
from refattn.testing.nested import arrays


class NotMovable(ValueError):
    """Arrays inside of other arguments, axes without a letter, or nothing to make more of."""


def _named(function, name) -> Named:
    found = next((x for x in stated(function_named(function), "Parameters") if x.name == name), None)
    if found is None or not found.shapes:
        raise NotMovable(f"{function}: no shape is stated for {name}")
    return found


def _axes(named: Named, value) -> tuple[bool, Shape]:
    """Whether an array may have leading axes, and the letters of its last axes."""
    for shape in sorted(named.shapes, key=lambda s: -len(s)):
        letters = tuple(letter for letter in shape if letter != "...")
        if value.ndim == len(letters) or ("..." in shape and value.ndim > len(letters)):
            return "..." in shape, letters
    return False, tuple(named.shapes[0])[-value.ndim :] if value.ndim else ()  # fewer axes, which broadcast


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
            letters = _axes(_named(function, name), x)[1]
            for letter, size in zip(letters, x.shape[x.ndim - len(letters) :], strict=True):
                if re.fullmatch(r"[A-Za-z_]+", letter):
                    found[letter] = max(size, found.get(letter, 0))
    return found


def resized(
    function: str, arguments: dict, sizes: dict[str, int], axes: int | tuple[int, ...] | None = None, rng=None
) -> dict:
    """A call with other sizes: rows that it has and others like them, half as large at random.

    Parameters
    ----------
    function : str
    arguments : dict
    sizes : dict
        Letter -> size.
    axes : int or tuple of int, optional
        How many leading axes there are to be, or their sizes; default as they are.
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
        named = _named(function, name)
        leading, letters = _axes(named, x)
        for axis, letter in zip(range(-len(letters), 0), letters, strict=True):
            if letter in sizes and (x.shape[axis] != 1 or own[letter] == 1):
                x = _as_many(x, axis, sizes[letter], rng)
        if leading and axes is not None:
            x = _with_axes(x, len(letters), axes if isinstance(axes, int) else len(axes))
            for axis, size in enumerate(axes if isinstance(axes, tuple) and not named.broadcasts else ()):
                x = _as_many(x, axis, size, rng)
        moved[name] = x
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
