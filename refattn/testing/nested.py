"""Arguments and results as they come: arrays inside dictionaries, tuples, lists and sets of parameters. One walk for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

DEEPEST = 8  # nothing that is nested deeper is an argument


def mapped(change: Callable[[Any], Any], value: Any, *, lists: bool = True, depth: int = 0) -> Any:
    """The same structure with every leaf changed.

    Parameters
    ----------
    change : callable
        What a leaf becomes: whatever is no dictionary, tuple or list.
    value : object
    lists : bool
        Whether lists are walked into, or are leaves.

    Examples
    --------
    >>> mapped(lambda x: 2 * x, {"a": (1, [2])})
    {'a': (2, [4])}
    """
    walk = lambda x: mapped(change, x, lists=lists, depth=depth + 1)
    if depth > DEEPEST:
        return value
    if isinstance(value, dict):
        return {name: walk(x) for name, x in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(walk, value))
    if isinstance(value, tuple) or (lists and isinstance(value, list)):
        return type(value)(map(walk, value))
    return change(value)


def paths(value: Any, at: str = "", *, lists: bool = True, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """(where, leaf) in order: 'params.kv_norm', 'dropout.0'.

    Examples
    --------
    >>> list(paths({"a": (1, [2])}))
    [('a.0', 1), ('a.1.0', 2)]
    >>> list(paths({"a": (1, [2])}, lists=False))
    [('a.0', 1), ('a.1', [2])]
    """
    inside = members(value, lists=lists) if depth <= DEEPEST else None
    if inside is None:
        yield at, value
        return
    for name, x in inside.items():
        yield from paths(x, f"{at}.{name}" if at else str(name), lists=lists, depth=depth + 1)


def members(value: Any, *, lists: bool = True) -> dict[Any, Any] | None:
    """What a structure holds, by name or number; None for a leaf."""
    if isinstance(value, dict):
        return value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    if isinstance(value, tuple) or (lists and isinstance(value, list)):
        return dict(enumerate(value))
    return None


def leaves(value: Any) -> list[Any]:
    """Every leaf, in order.

    Examples
    --------
    >>> leaves({"a": (1, [2]), "b": None})
    [1, 2, None]
    """
    return [x for _, x in paths(value)]


def arrays(value: Any) -> list[tuple[str, np.ndarray]]:
    """(where, array) of every NumPy array."""
    return [(path, x) for path, x in paths(value) if isinstance(x, np.ndarray)]


def records(value: Any) -> Iterator[tuple]:
    """Every set of parameters (a NamedTuple) in a structure, itself included."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        yield value
    for x in (members(value) or {}).values():
        yield from records(x)
