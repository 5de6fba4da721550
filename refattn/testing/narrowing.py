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

LARGE = 2**22  # scores beyond which only one head is looked at
_CORE = {"q": 2, "k": 2, "v": 2, "mask": 2, "bias": 2, "sinks": 0, "q_positions": 1, "k_positions": 1}
_NAMES = ("q", "k", "v", "mask")


def worst_head(judged, ratio) -> tuple[int, ...] | None:
    """The place of the head in which a result is farthest off; None where the problem is small, or has no heads.

    Parameters
    ----------
    judged : Judged
        Of attention or grouped-query attention.
    ratio : array
        How far each element is off.
    """
    given = {**dict(zip(_NAMES, judged.args, strict=False)), **judged.kwargs}
    lead = _lead(judged)
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
        Of attention or grouped-query attention.
    place : tuple of int
        The head's indices on the leading axes, as `worst_head` gives them.
    """
    given = {**dict(zip(_NAMES, judged.args, strict=False)), **judged.kwargs}
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
    from refattn.testing.variants import NotApplicable
    from refattn.testing.variants.masks import with_data

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
    from refattn.testing.variants.tiled import as_arrays, repeated
    from refattn.testing.variants.tiles import dense

    if judged.function not in _ROWWISE or not judged.got.size:
        return None
    given = {**dict(zip(_NAMES, judged.args, strict=False)), **judged.kwargs}
    if judged.function == "attention_weights":
        given = {
            "v": np.eye(np.shape(given["k"])[-2]),
            **dict(zip(("q", "k", "mask"), judged.args, strict=False)),
            **given,
        }
    q, k, v, mask = (given.pop(name, None) for name in _NAMES)
    k, v = repeated(q, k, v)
    n, m = q.shape[-2], k.shape[-2]
    own = 1 if judged.result == "lse" else 2
    lead = judged.got.shape[: judged.got.ndim - own]
    place = np.unravel_index(np.argmax(ratio), judged.got.shape)[: len(lead)]
    wrong = ratio[place] if own == 1 else ratio[place].max(axis=-1)
    worst = np.argsort(-wrong, kind="stable")[: np.count_nonzero(wrong > 1)]
    rows = np.unique(np.concatenate([worst[: count // 2], np.sort(worst)[:: max(len(worst) // (count // 2), 1)]]))

    def head(x, *core):
        return np.broadcast_to(x, (*lead, *core))[place]

    cut = lambda x: head(x, n, m)[rows]
    positions = [given.get(name) for name in _POSITIONS]
    options = as_arrays(q, k, **{name: x for name, x in given.items() if name in _OPTIONS})
    options = {name: x for name, x in options.items() if x is not None and name not in _POSITIONS}
    if "bias" in options:
        options["bias"] = cut(options["bias"])
    if "dropout" in options:
        options["dropout"] = (cut(options["dropout"][0]), options["dropout"][1])
    if "sinks" in options:
        options["sinks"] = head(options["sinks"])
    options["return_lse"] = judged.result == "lse"
    return Rows(
        head(q, *q.shape[-2:])[rows], head(k, *k.shape[-2:]), head(v, *v.shape[-2:]), cut(dense(mask, n, m, *positions)),
        options, *(x[place][rows] for x in (judged.got, judged.want, judged.limit)), cut,
    )  # fmt: skip


_OPTIONS = (*_POSITIONS, "bias", "scale", "softcap", "sinks", "dropout")
