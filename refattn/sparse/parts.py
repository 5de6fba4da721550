"""Attention in parts: some queries of some heads attend to some of their keys by a rule, and no query is in two parts.

Where which keys a query sees is regular but not near, as every third of them, parts are slices with steps, in which it is
near: nothing is gathered, and each part is `tiled_attention` on views. A part may have lists of keys instead of a rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from refattn import backend
from refattn.gradients import AttentionGradients
from refattn.gradients.sums import checked_cotangent
from refattn.masks import Mask
from refattn.masks.data import with_data
from refattn.sparse.lists import Lists
from refattn.sparse.lists import attend as attend_lists
from refattn.sparse.lists import attend_vjp as attend_lists_vjp
from refattn.sparse.rules import by_rule
from refattn.tiled import tiled_attention, tiled_attention_vjp
from refattn.tiled.problem import Problem, problem_of

EVERY = slice(None)


class Part(NamedTuple):
    """Queries and keys, and the rule between them, which is one of their positions.

    Attributes
    ----------
    head : int or None
        None is all heads.
    rows, keys : slice
    rule : Mask
    width : int or None
        At most so many keys of the part in a row does the rule admit to a query; None is any number.
    lists : Lists, optional
        What there is instead of a rule: lists of keys for the queries of the part.
    """

    head: int | None
    rows: slice
    keys: slice
    rule: Mask
    width: int | None
    lists: Lists | None = None

    def of(self, x, lead, *core):
        """Where this part lies in an array with some of the leading axes `lead`, and slices of its other axes."""
        if self.head is None or x.ndim == len(core):
            return (..., *core)
        heads = x.shape[x.ndim - len(core) - 1]
        own = self.head * heads // lead[-1]
        return (..., slice(own, own + 1), *core)


# The last axes of every argument, by what they count.
_AXES = {
    "q": "nd", "k": "md", "v": "md", "bias": "nm", "keep": "nm", "q_positions": "n", "k_positions": "m", "sinks": "",
    "d_out": "nd", "out": "nd", "d_lse": "n", "lse": "n",
}  # fmt: skip


@backend.ieee
def attend(q, k, v, parts: Callable[[Problem], Iterable[Part]], mask=None, *, return_lse=False, **options):
    """Attention in the parts that a function makes of the arguments; queries in none have output 0 and lse -infinity."""
    return_lse = backend.flag("return_lse", return_lse)
    of = problem_of(q, k, v, mask, **options)
    out = backend.full(of.xp, (*of.lead, of.n, of.v.shape[-1]), 0.0, of.q)
    lse = backend.full(of.xp, (*of.lead, of.n), -math.inf, of.q)
    for part in parts(of):
        attention = tiled_attention if part.lists is None else attend_lists
        found = attention(**_arguments(of, part), return_lse=True)
        out[part.of(out, of.lead, part.rows, EVERY)], lse[part.of(lse, of.lead, part.rows)] = found
    return (out, lse) if return_lse else out


@backend.ieee
def attend_vjp(d_out, q, k, v, parts, mask=None, *, d_lse=None, out=None, lse=None, **options):
    """The gradients of `attend`, as those of attention: sums over the parts."""
    table = None if callable(options.get("bias")) else options.get("bias")
    xp, d_out, d_lse, out, lse, q, k, v, table, sinks = backend.floating(
        d_out=d_out, d_lse=d_lse, out=out, lse=lse, q=q, k=k, v=v, bias=table, sinks=options.get("sinks"),
        optional="d_lse out lse bias sinks",
    )  # fmt: skip
    of = problem_of(q, k, v, mask, **options | {"sinks": sinks} | ({} if table is None else {"bias": table}))
    more = {"d_out": d_out, "out": out, "d_lse": d_lse, "lse": lse}
    for name, x in more.items():
        checked_cotangent(name, x, "its result", (*of.lead, of.n, of.v.shape[-1])[: len(of.lead) + len(_AXES[name])])
    differentiated = {"q": of.q, "k": of.k, "v": of.v, "bias": None if table is None else of.bias, "sinks": sinks}
    sums = {name: xp.zeros_like(x) for name, x in differentiated.items() if x is not None}
    scale = backend.full(xp, (), 0.0, q)
    for part in parts(of):
        gradients = tiled_attention_vjp if part.lists is None else attend_lists_vjp
        found = gradients(**_arguments(of, part, **more))
        for name, x in sums.items():
            place = part.of(x, of.lead, *_slices(part, name, x))
            x[place] = x[place] + getattr(found, name)
        scale = scale + found.scale
    if table is not None:
        sums["bias"] = xp.reshape(sums["bias"], table.shape)
    return AttentionGradients(**dict.fromkeys(AttentionGradients._fields) | sums | {"scale": scale})


def _slices(part, name, x):
    """Those of a part along the last axes of an argument; an axis of 1 of a table stands for all."""
    own = [{"n": part.rows, "m": part.keys, "d": EVERY}[axis] for axis in _AXES[name]]
    one = [name in ("bias", "keep") and size == 1 for size in x.shape[x.ndim - len(own) :]]
    return [EVERY if each else part for each, part in zip(one, own, strict=True)]


def _arguments(of: Problem, part: Part, **more) -> dict:
    """Those of tiled attention for a part; `more` are cotangents and results."""

    def cut(x, *core):
        return x[part.of(x, of.lead, *core)]

    def own(function):
        return lambda i, j: cut(function(i, j), EVERY, EVERY)

    given: dict[str, Any] = {name: getattr(of, name) for name in _AXES if hasattr(of, name)} | more
    for name, x in given.items():
        if x is not None:
            given[name] = own(x) if callable(x) else cut(x, *_slices(part, name, x))
    keep, further = given.pop("keep"), of.mask
    if further is not None and part.head is not None:
        further = with_data(further, lambda x, axes: cut(x, *[EVERY] * axes))
    given["dropout"] = None if keep is None else (keep, of.rate)
    own_keys = by_rule(part.rule, further, part.width, given)
    if part.lists is not None:
        own_keys = {**given, "lists": part.lists, "mask": further}
    return own_keys | {"scale": of.scale, "softcap": of.softcap}
