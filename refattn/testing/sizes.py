"""The sizes in a call, by the letters of docstrings; and the same call with other sizes.

Arrays inside of other arguments count where these are records whose docstring states them: weights, latents that are held.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from refattn.testing.axes import NotMovable, Size, as_many, letters_in, moved, size_of, solved, value
from refattn.testing.docstrings import Named, Shape, stated
from refattn.testing.names import function_named
from refattn.testing.nested import arrays, members
from refattn.testing.subject import subjects

COUNTING = {"heads": "H", "kv_heads": "G", "page_size": "page_size"}  # arguments that are a size themselves
_ITSELF = {"x_kv": "x_q"}  # None: the other one

__all__ = ["COUNTING", "NotMovable", "leading", "letters_of", "resized", "sizes_of", "tied"]


class _Array(NamedTuple):
    path: tuple[str, ...]
    named: Named
    x: np.ndarray


class _Axes(NamedTuple):
    leading: bool  # whether there may be further axes before these
    sizes: tuple[Size | None, ...]


def letters_of(function: str) -> tuple[str, ...]:
    """The letters of the arrays that a function takes, those inside of records included.

    Examples
    --------
    >>> letters_of("gated_feed_forward")
    ('E', 'F', 'E_out')
    """
    found: dict[str, None] = {}
    for x in stated(function_named(function), "Parameters"):
        names = re.findall(r"\b[A-Z]\w+", x.kind) if not x.shapes and "optional" not in x.kind else []
        records = [_class(function, name) for name in names]
        for shape in (
            *x.shapes,
            *(s for of in records if of for field in stated(of, "Attributes") for s in field.shapes),
        ):
            found |= dict.fromkeys(letter for size in shape for letter in letters_in(size_of(size)))
    found |= {"E": None} if _elementwise(function) else {}
    given = inspect.signature(function_named(function)).parameters
    found |= dict.fromkeys(letter for name, letter in COUNTING.items() if name in given)
    return tuple(found)


def _class(function, name) -> Any:
    """The record that a docstring names, where it is one: refattn's, or one that the function's own module knows."""
    import refattn

    found = getattr(refattn, name, None) or getattr(
        inspect.getmodule(inspect.unwrap(function_named(function))), name, None
    )
    return found if isinstance(found, type) and hasattr(found, "_fields") else None


def tied(function: str, arguments: dict) -> dict[str, str]:
    """Letters that stand for others in a call, as those of keys do in self-attention.

    Examples
    --------
    >>> tied("multi_head_attention", {"x_kv": None})
    {'M': 'N', 'E_kv': 'E'}
    """
    found: dict[str, str] = {}
    for name, of in _ITSELF.items():
        if name in arguments and arguments[name] is None:
            own, other = (_named(function, x).shapes[0] for x in (name, of))
            found |= {a: b for a, b in zip(own, other, strict=True) if a != b}
    return found


def sizes_of(function: str, arguments: dict) -> dict[str, int]:
    """Letter -> size, of the arrays of a call.

    Examples
    --------
    >>> sizes_of("rms_norm", {"x": np.ones((3, 6)), "gamma": np.ones(6)})
    {'E': 6}
    >>> sizes_of("split_heads", {"x": np.ones((3, 6)), "heads": 2})
    {'H': 2, 'N': 3, 'D': 3}
    """
    return _laid_out(function, arguments)[1]


def leading(function: str, arguments: dict) -> int | None:
    """How many axes the first array that may have some has before its own; None where none may have any.

    Examples
    --------
    >>> leading("rms_norm", {"x": np.ones((3, 6)), "gamma": np.ones(6)})
    1
    """
    of = ((array.x.ndim - len(at.sizes)) for array, at in _laid_out(function, arguments)[0] if at.leading)
    return next(of, None)


def _laid_out(function, arguments) -> tuple[list[tuple[_Array, _Axes]], dict[str, int]]:
    """Every array with its axes, and what their letters are.

    Where a docstring gives several shapes, that one counts which fits what the others say and leaves the least open.
    """
    known, alias = _counts(function, arguments), tied(function, arguments)
    chosen: list[tuple[_Array, _Axes]] = []
    several = []
    for array in _arrays(function, arguments):
        choices = [_renamed(axes, alias) for axes in _choices(array.named, array.x)]
        if len(choices) > 1:
            several.append((array, choices))
        else:
            chosen.append((array, choices[0]))
    _solve(known, chosen)
    for array, choices in several:
        fitting = [axes for axes in choices if _fits(array.x, axes, known)] or choices[:1]
        chosen.append((array, min(reversed(fitting), key=lambda axes: len(_unknown(axes, known)))))
        _solve(known, chosen)
    return chosen, known


def _counts(function, arguments) -> dict[str, int]:
    """What arguments say of sizes that are not arrays."""
    found = {letter: arguments[name] for name, letter in COUNTING.items() if isinstance(arguments.get(name), int)}
    if "H" in found and "kv_heads" in inspect.signature(function_named(function)).parameters:
        found.setdefault("G", found["H"])
    return found


def _arrays(function, arguments) -> Iterator[_Array]:
    """The arrays of a call and of the records in it; what else holds arrays is left out."""
    for name, x in arguments.items():
        if isinstance(x, np.ndarray):
            yield _Array((name,), _named(function, name), x)
        elif hasattr(x, "_fields") and (fields := _fields(x)):
            yield from (_Array((name, field), fields[field], a) for field, a in x._asdict().items() if a is not None)


def _fields(record) -> dict[str, Named]:
    """The fields of a record, if all that it holds are arrays whose shapes are stated."""
    of: Any = type(record)
    fields = {x.name: x for x in stated(of, "Attributes") if x.shapes}
    held = {name: x for name, x in (members(record) or {}).items() if x is not None}
    return fields if all(isinstance(x, np.ndarray) and name in fields for name, x in held.items()) else {}


def _named(function, name) -> Named:
    found = next((x for x in stated(function_named(function), "Parameters") if x.name == name), None)
    if found is None or not found.shapes:
        raise NotMovable(f"{function}: no shape is stated for {name}")
    return found._replace(shapes=(("...", "E"),)) if _elementwise(function) else found


@cache
def _elementwise(function) -> bool:
    """Whether any shape is taken: then the last axis is E, for a kernel may take rows of some sizes only."""
    shapes = {shape for x in stated(function_named(function), "Parameters") for shape in x.shapes}
    return shapes == {("...",)}


def _choices(named: Named, value) -> list[_Axes]:
    """Whether an array may have leading axes, and its last axes; several where it may be one or the other."""
    found: dict[int, list[_Axes]] = {}
    for shape in named.shapes:
        letters = tuple(letter for letter in shape if letter != "...")
        if value.ndim == len(letters) or ("..." in shape and value.ndim > len(letters)):
            found.setdefault(len(shape), []).append(_Axes("..." in shape, tuple(map(size_of, letters))))
    if found:
        return found[max(found)]
    last: Shape = tuple(named.shapes[0])[-value.ndim :] if value.ndim else ()  # fewer axes, which broadcast
    return [_Axes(False, tuple(map(size_of, last)))]


def _renamed(axes: _Axes, alias: Mapping[str, str]) -> _Axes:
    return axes._replace(sizes=tuple(alias.get(s, s) if isinstance(s, str) else s for s in axes.sizes))


def _placed(x, axes) -> list[tuple[int, Size]]:
    """(axis, size) of the last axes."""
    first = x.ndim - len(axes.sizes)
    return [(first + n, size) for n, size in enumerate(axes.sizes) if size is not None]


def _solve(known: dict[str, int], chosen) -> None:
    """Add the letters that follow: first those that stand alone, which may be one where they broadcast."""
    compound, found = [], dict[str, int]()
    for array, axes in chosen:
        for axis, size in _placed(array.x, axes):
            if isinstance(size, str):
                found[size] = max(array.x.shape[axis], found.get(size, 0))
            else:
                compound.append((size, array.x.shape[axis]))
    for letter, size in found.items():
        known.setdefault(letter, size)
    while more := [answer for size, count in compound if (answer := solved(size, count, known))]:
        known |= dict(more)


def _unknown(axes, known) -> set[str]:
    return {letter for size in axes.sizes for letter in letters_in(size)} - known.keys()


def _fits(x, axes, known) -> bool:
    return all(
        _unknown(_Axes(False, (size,)), known) or value(size, known) == x.shape[axis] for axis, size in _placed(x, axes)
    )


# --- other sizes ----------------------------------------------------------------------------------------------------


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
    chosen, own = _laid_out(function, arguments)
    found = {array.path: _resized(array, at, own, sizes, axes, rng) for array, at in chosen}
    given = dict(arguments)
    for name, x in arguments.items():
        if (name,) in found:
            given[name] = found[name,]
        elif of := {path[1]: a for path, a in found.items() if path[0] == name}:
            given[name] = x._replace(**of)
        elif any(True for _ in arrays(x)):
            raise NotMovable(f"{function}: {name} holds arrays")
    if (of_subject := subjects().get(function)) and of_subject.follow:
        given |= of_subject.follow(given, own, {**own, **sizes})
    return _counted(function, given, sizes)


def _resized(array, at, own, sizes, axes, rng):
    x = array.x
    for axis, size in _placed(x, at):
        if isinstance(size, str):
            if size in sizes and (x.shape[axis] != 1 or own[size] == 1):
                x = as_many(x, axis, sizes[size], rng)
        elif not _unknown(_Axes(False, (size,)), own) and value(size, own) == x.shape[axis]:
            x = moved(x, axis, size, own, sizes, rng)
    if len(array.path) > 1 and x.ndim == 2 and not at.leading:
        x = _as_large(x, array.x.shape[0])
    if at.leading and axes is not None:
        x = _with_axes(x, len(at.sizes), axes if isinstance(axes, int) else len(axes))
        for axis, size in enumerate(axes if isinstance(axes, tuple) and not array.named.broadcasts else ()):
            x = as_many(x, axis, size, rng)
    return x


def _as_large(w, before):
    """Weights of which there are more rows than before, so that their products stay about as large: by powers of 2."""
    if not before or w.shape[0] <= before:
        return w
    return w * np.asarray(2.0 ** -round(math.log2(w.shape[0] / before) / 2), w.dtype)


def _counted(function, arguments, sizes) -> dict:
    """With the sizes that are arguments themselves."""
    found = dict(arguments)
    for name, letter in COUNTING.items():
        if letter in sizes and found.get(name) is not None:
            found[name] = sizes[letter]
    if "heads" in found and "kv_heads" in inspect.signature(function_named(function)).parameters and "G" in sizes:
        found["kv_heads"] = sizes["G"]
        if found["kv_heads"] == found["heads"]:
            del found["kv_heads"]  # what has no argument for groups takes as many as heads
    return found


def _with_axes(x, core, axes):
    lead = x.shape[: x.ndim - core]
    kept = (1,) * (axes - len(lead)) + lead[max(len(lead) - axes, 0) :]
    return np.reshape(x[(0,) * (len(lead) - axes)] if len(lead) > axes else x, (*kept, *x.shape[x.ndim - core :]))
