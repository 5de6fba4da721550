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
from refattn.testing.reference import named_arguments

LARGE = 2**18  # scores beyond which only one head is looked at
_CORE = {
    "q": 2, "k": 2, "v": 2, "mask": 2, "bias": 2, "sinks": 0, "q_positions": 1, "k_positions": 1, "d_out": 2, "d_lse": 1,
}  # fmt: skip
_NAMES = ("q", "k", "v", "mask")


def worst_head(judged, ratio) -> tuple[int, ...] | None:
    """The place of the head in which a result is farthest off; None where the problem is small, or has no heads.

    Parameters
    ----------
    judged : Judged
        Of attention or grouped-query attention; or the gradient of attention by q, k or v.
    ratio : array
        How far each element is off.
    """
    given, lead = arguments(judged), _lead(judged)
    if judged.function == "attention_vjp" and any(np.shape(given[name])[:-2] != lead for name in "qkv"):
        return None  # a gradient that is summed over heads
    if not lead or math.prod(lead) * given["q"].shape[-2] * given["k"].shape[-2] <= LARGE:
        return None
    return tuple(map(int, np.unravel_index(np.argmax(ratio), judged.got.shape)[: len(lead)]))


def _lead(judged):
    return judged.got.shape[: judged.got.ndim - (1 if judged.result == "lse" else 2)]


def of_head(judged, place):
    """The same judgement of one head.

    Parameters
    ----------
    judged : Judged
        Of attention or grouped-query attention; or the gradient of attention by q, k or v.
    place : tuple of int
        The head's indices on the leading axes, as `worst_head` gives them.
    """
    given = arguments(judged)
    k, lead, own = given["k"], _lead(judged), 1 if judged.result == "lse" else 2
    group = lead[-1] // k.shape[-3] if judged.function == "grouped_query_attention" else 1

    def cut(x, core, places=place):
        leading = np.ndim(x) - core
        chosen = tuple(
            slice(None) if size == 1 else slice(at, at + 1)
            for size, at in zip(np.shape(x)[:leading], places[len(places) - leading :], strict=True)
        )
        return np.asarray(x)[chosen]

    of_keys = (*place[:-1], place[-1] // group)
    small = {}
    for name, x in given.items():
        if x is None or (name not in _CORE and name != "dropout"):
            small[name] = x
        elif name == "dropout":
            small[name] = (cut(x[0], 2), x[1])
        elif isinstance(x, masks.Mask):
            small[name] = _rule(x, cut)
        else:
            small[name] = cut(x, _CORE[name], of_keys if name in ("k", "v") and group > 1 else place)
    arrays = {name: cut(getattr(judged, name), own) for name in ("got", "want", "limit")}
    return replace(judged, **arrays, args=(), kwargs=small)


def _rule(mask, cut):
    """A rule whose data are those of one head."""
    from refattn.testing.mechanisms.masks.variants import with_data
    from refattn.testing.variants import NotApplicable

    try:
        return with_data(mask, cut)
    except NotApplicable:  # it has no data with leading axes
        return mask


_ROWWISE = ("attention", "attention_weights", "grouped_query_attention", "tiled_attention", "split_attention")
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

    None where the function is not attention, whose rows do not depend on one another.

    Parameters
    ----------
    judged : Judged
    ratio : array
        How far each element is off.
    """
    if judged.function not in _ROWWISE or not judged.got.size:
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
    from refattn.testing.mechanisms.tiled.variants import as_arrays, repeated

    given = arguments(judged)
    q, k, v, mask = (given.pop(name, None) for name in _NAMES)
    k, v = repeated(q, k, np.eye(k.shape[-2]) if v is None else v)
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


def rows_of_all(judgements, ratio, count: int = 64) -> tuple[list, tuple | None]:
    """The results of a call for some rows of one head, as those of attention, and their place: for what costs much of
    every row.

    The same judgements and None where the problem is small or its rows depend on one another. Half of the rows are those that are
    farthest off in the first wrong result, the others lie evenly over all.
    """
    first = next(j for j in judgements if j.wrong)
    if first.function not in ("attention", "grouped_query_attention") or first.got.size <= count * count:
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
