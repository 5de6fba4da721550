"""The data that rules carry: integers for each sequence, head or position, with leading axes of their own. [MASK-DATA]"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from refattn import backend
from refattn.masks.registry import data_axes


def is_array(x):
    return hasattr(x, "dtype") and hasattr(x, "shape") and not isinstance(x, np.generic)


def check_data(name, values, *, axes=0, least=None, below_own_index=False):
    """The shape of a rule's data, which must be integers; checked when the rule is made, not when it is used."""
    like = values if is_array(values) else np.empty(0)
    xp = backend.namespace(**{name: like})
    values = backend.integers(xp, like, **{name: values})
    backend.near(xp, **{name: values})
    if values.ndim < axes:
        raise ValueError(f"{name} is a single number; it must be a list, or an array of at least one axis")
    if least is not None and bool(xp.any(values < least)):
        raise ValueError(f"{name} holds a number below {least}")
    if below_own_index and not bool(xp.all(values < backend.arange(xp, 0, values.shape[-1], like))):
        raise ValueError(f"{name} must be smaller than the node's own index, or -1 for a root")
    return tuple(values.shape)


def per_pair(i, j, axes=0, **data):
    """A rule's data beside positions: int64 arrays (..., 1, 1), before the last `axes` axes of the data's own."""
    xp = backend.namespace(i)
    arrays = {name: backend.integers(xp, i, **{name: x}) for name, x in data.items()}
    leads = {name: x.shape[: x.ndim - axes] for name, x in arrays.items()}
    backend.broadcast("leading axes", **leads, q_positions=i.shape[:-2], k_positions=j.shape[:-2])
    return [x[(..., None, None, *[slice(None)] * axes)] for x in arrays.values()]


def lookup(xp, name, table, positions, whose):
    """table[..., position] for positions (..., N, M), with leading axes that broadcast."""
    length = table.shape[-1]
    if bool(xp.any((positions < 0) | (positions >= length))):
        raise ValueError(
            f"{name} covers positions 0 to {length - 1}, but a {whose} lies outside;"
            " give q_positions and k_positions, or data for every position"
        )
    pairs = tuple(positions.shape[-2:])
    lead = backend.broadcast("leading axes", **{name: table.shape[:-1], "positions": positions.shape[:-2]})
    positions = xp.reshape(positions, (*positions.shape[:-2], pairs[0] * pairs[1]))
    table = xp.broadcast_to(table, (*lead, length))
    positions = xp.broadcast_to(positions, (*lead, pairs[0] * pairs[1]))
    return xp.reshape(xp.take_along_axis(table, positions, axis=-1), (*lead, *pairs))


def extremes(data):
    """The least and the greatest of a rule's numbers."""
    if not hasattr(data, "dtype"):
        numbers = data if isinstance(data, list | tuple) else [data]
        flat = [extremes(x) if isinstance(x, list | tuple) else (x, x) for x in numbers]
        return min((low for low, _ in flat), default=0), max((high for _, high in flat), default=0)
    xp = backend.namespace(data)
    return (int(xp.min(data)), int(xp.max(data))) if math.prod(data.shape) else (0, 0)


def with_data(mask, pick: Callable):
    """The mask with pick(data, axes of its own) in place of arrays that have leading axes: one sequence's instead of all."""

    def picked(rule):
        given, axes = rule.arguments, data_axes(rule.name)
        changed = {x: pick(given[x], own) for x, own in axes.items() if getattr(given.get(x), "ndim", 0) > own}
        return rule.with_arguments(**changed) if changed else rule

    return mask.rewritten(picked)
