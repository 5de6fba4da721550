"""One head of a large problem, so that a diagnosis takes seconds and not hours.

Two hundred variants of a batch of 64 heads would take an hour and ten times the memory of the kernel. A mistake shows in
the head that is farthest off, unless it is one that mixes batch entries or heads; those are found on smaller inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from refattn import masks
from refattn.testing.docstrings import Shape, stated
from refattn.testing.equals import bounded_as, call_as, equal
from refattn.testing.names import function_named
from refattn.testing.reference import named_arguments
from refattn.testing.registry import NotApplicable

LARGE = 2**18  # scores beyond which only one head is looked at
_NAMES = ("q", "k", "v", "mask")
_HEADS = ("...", "H", "G")  # what stands before the axes of one head


def has_heads(judgements) -> bool:
    """Whether a head can be judged alone: in what equals attention, and in its gradients by q, k and v."""
    function, gradients = judgements[0].function, {j.result for j in judgements} <= {"q", "k", "v"}
    return equal(function, "attention") or (gradients and equal(function, "attention_vjp"))


def worst_head(judged, ratio) -> tuple[int, ...] | None:
    """The place of the head in which a result is farthest off; None where the problem is small, or has no heads.

    Parameters
    ----------
    judged : Judged
        One that `has_heads`.
    ratio : array
        How far each element is off.
    """
    lead, of_attention = _lead(judged), as_attention(judged)
    given = as_gradient(judged) if of_attention is None else of_attention
    if given is None or (of_attention is None and any(np.shape(given[name])[:-2] != lead for name in "qkv")):
        return None  # a gradient that is summed over heads
    if not lead or math.prod(lead) * given["q"].shape[-2] * given["k"].shape[-2] <= LARGE:
        return None
    return tuple(map(int, np.unravel_index(np.argmax(ratio), judged.got.shape)[: len(lead)]))


def _lead(judged):
    return judged.got.shape[: judged.got.ndim - (1 if judged.result == "lse" else 2)]


def of_head(judged, place):
    """The same judgement of one head; None where an argument does not say which part of it belongs to a head.

    Parameters
    ----------
    judged : Judged
        One that `has_heads`.
    place : tuple of int
        The head's indices on the leading axes, as `worst_head` gives them.
    """
    given, lead, own = arguments(judged), _lead(judged), 1 if judged.result == "lse" else 2
    shapes = {x.name: x.shape for x in stated(function_named(judged.function), "Parameters")}
    some_with_heads = any("H" in shape for shape in shapes.values() if shape)

    def cut(x, core, places=place):
        leading = np.ndim(x) - core
        chosen = tuple(
            slice(None) if size == 1 else slice(at, at + 1)
            for size, at in zip(np.shape(x)[:leading], places[len(places) - leading :], strict=True)
        )
        return np.asarray(x)[chosen]

    def place_in(x, shape: Shape, core):
        """Where the head stands in an array whose heads serve groups, or that has no axis of heads."""
        if "G" in shape:
            return (*place[:-1], place[-1] * np.shape(x)[-core - 1] // lead[-1])
        return place[:-1] if some_with_heads and "H" not in shape else place

    small = {}
    for name, x in given.items():
        shape = shapes.get(name)
        if isinstance(x, masks.Mask):
            small[name] = _rule(x, cut)
        elif name == "dropout" and x is not None and not callable(x[0]):
            small[name] = (cut(x[0], 2), x[1])
        elif callable(x) or (name == "dropout" and x is not None) or (shape is None and np.ndim(x)):
            return None
        elif x is None or shape is None:
            small[name] = x
        else:
            core = sum(axis not in _HEADS for axis in shape)
            small[name] = cut(x, core, place_in(x, shape, core))
    arrays = {name: cut(getattr(judged, name), own) for name in ("got", "want", "limit")}
    return replace(judged, **arrays, args=(), kwargs=small)


def _rule(mask, cut):
    """A rule whose data are those of one head."""
    from refattn.testing.mechanisms.masks.variants import with_data

    try:
        return with_data(mask, cut)
    except NotApplicable:  # it has no data with leading axes
        return mask


_POSITIONS = ("q_positions", "k_positions")


class Rows(NamedTuple):
    """Some rows of one head of a result of attention, and the arguments that make them: a mask is an array here."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    seen: np.ndarray
    options: dict
    got: np.ndarray
    want: np.ndarray
    limit: np.ndarray
    whole: np.ndarray  # the mask for all rows and heads
    place: tuple  # of the head, and of the rows in it
    cut: Callable  # from an array with the two last axes of scores to its part for these rows


def few_rows(judged, ratio, count: int = 12) -> Rows | None:
    """A few of the rows that are wrong, in the head that is farthest off: what is enough to try many variants on.

    None where the function does not equal attention, whose rows do not depend on one another.

    Parameters
    ----------
    judged : Judged
    ratio : array
        How far each element is off.
    """
    if not judged.got.size or as_attention(judged) is None:
        return None
    lead = _lead(judged)
    place = np.unravel_index(np.argmax(ratio), judged.got.shape)[: len(lead)]
    wrong = ratio[place] if judged.result == "lse" else ratio[place].max(axis=-1)
    worst = np.argsort(-wrong, kind="stable")[: np.count_nonzero(wrong > 1)]
    rows = np.unique(np.concatenate([worst[: count // 2], np.sort(worst)[:: max(len(worst) // (count // 2), 1)]]))
    return _rows(judged, place, rows)


def _rows(judged, place, rows) -> Rows:
    """Some rows of a head."""
    from refattn.testing.mechanisms.tiled.tiles import dense
    from refattn.testing.mechanisms.tiled.variants import as_arrays

    given = as_attention(judged) or {}
    q, k, v, mask = (given.pop(name, None) for name in _NAMES)
    n, m = q.shape[-2], k.shape[-2]
    lead = _lead(judged)

    def head(x, *core):
        return np.broadcast_to(x, (*lead, *core))[place]

    cut = lambda x: head(x, n, m)[rows]
    whole = dense(mask, n, m, *(given.get(name) for name in _POSITIONS))
    options = as_arrays(q, k, **{name: x for name, x in given.items() if name in _OPTIONS})
    options = {name: x for name, x in options.items() if x is not None and name not in _POSITIONS}
    if "bias" in options:
        options["bias"] = cut(options["bias"])
    if "dropout" in options:
        options["dropout"] = (cut(options["dropout"][0]), options["dropout"][1])
    if "sinks" in options:
        options["sinks"] = head(options["sinks"])
    options["return_lse"] = judged.result == "lse"
    own = (*place, rows)
    return Rows(
        head(q, *q.shape[-2:])[rows], head(k, *k.shape[-2:]), head(v, *v.shape[-2:]), cut(whole),
        options, judged.got[own], judged.want[own], judged.limit[own], whole, own, cut,
    )  # fmt: skip


def arguments(judged) -> dict:
    """The arguments of a judged call by name."""
    return named_arguments(judged.function, judged.args, judged.kwargs)


def as_attention(judged) -> dict | None:
    """The arguments with which attention gives what was judged; None where the record knows of none."""
    return _as(judged, "attention")


def as_gradient(judged) -> dict | None:
    """Those with which `attention_vjp` does."""
    return _as(judged, "attention_vjp")


def _as(judged, other):
    if not equal(judged.function, other):
        return None
    found = call_as(judged.function, other, judged.args, judged.kwargs)
    return None if found is None else found.arguments


def rows_of_all(judgements, ratio, count: int = 64) -> tuple[list, tuple | None]:
    """The results of a call for some rows of one head, as those of attention, and their place: for what costs much of
    every row.

    The same judgements and None where the problem is small or its rows depend on one another. Half of the rows are those that are
    farthest off in the first wrong result, the others lie evenly over all.
    """
    first = next(j for j in judgements if j.wrong)
    alike = bounded_as(first.function, "attention") and as_attention(first) is not None
    if not alike or first.got.size <= count * count:
        return judgements, None
    lead = _lead(first)
    place = np.unravel_index(np.argmax(ratio), first.got.shape)[: len(lead)]
    wrong = ratio[place] if first.result == "lse" else ratio[place].max(axis=-1)
    n = len(wrong)
    rows = np.union1d(np.argsort(-wrong, kind="stable")[: count // 2], np.arange(0, n, max(2 * n // count, 1)))
    found = []
    for judged in judgements:
        part = _rows(judged, place, rows)
        call = {"q": part.q, "k": part.k, "v": part.v, "mask": part.seen, **part.options}
        call["return_lse"] = len(judgements) > 1
        found.append(
            replace(judged, function="attention", got=part.got, want=part.want, limit=part.limit, args=(), kwargs=call)
        )
    return found, (*place, rows)


_OPTIONS = (*_POSITIONS, "bias", "scale", "softcap", "sinks", "dropout")
