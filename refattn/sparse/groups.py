"""Attention in groups: queries gathered from anywhere, and the keys that all of them attend to. A query may be in several.

What a hash or a clustering makes are such groups, of equal size. One of them is a small attention of its own, so that all
are one more leading axis of `tiled_attention`, some of them at a time, so that what is gathered does not grow with their
number. What becomes of a query that is in several groups, the mechanism says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from refattn import backend
from refattn.masks import Mask
from refattn.masks.data import with_data
from refattn.sparse.lists import ROOM
from refattn.sparse.places import added, cells_of, numbers_at, places_of, rows_at
from refattn.tiled import tiled_attention, tiled_attention_vjp
from refattn.tiled.problem import problem_of


class Groups(NamedTuple):
    """Which queries and which keys.

    Attributes
    ----------
    rows, keys : int array (..., R, W), (..., R, T)
        Of each of R groups the places of its queries and of its keys; -1 is none. A key that stands twice counts twice.
        Leading axes broadcast with those of q.
    own : bool array (..., N), optional
        Which queries attend to the key at their own place, if not all do.
    """

    rows: Any
    keys: Any
    own: Any = None


@backend.ieee
def attend(q, k, v, groups: Groups, mask=None, **options):
    """Attention of each group: outputs (..., R, W, Dv) and their log-sum-exp (..., R, W); 0 and -infinity where is no query."""
    of = Grouped(q, k, v, groups, mask, options)
    out = backend.full(of.xp, (*of.lead, *of.rows.shape[-2:], of.v.shape[-1]), 0.0, of.q)
    lse = backend.full(of.xp, (*of.lead, *of.rows.shape[-2:]), -math.inf, of.q)
    for some in of.chunks():
        out[..., some, :, :], lse[..., some, :] = tiled_attention(**of.arguments(some)[0], return_lse=True)
    return out, lse


@backend.ieee
def attend_vjp(d_out, q, k, v, groups: Groups, mask=None, *, d_lse=None, out=None, lse=None, **options) -> dict:
    """The gradients of the sum of what cotangents of each query, (..., N, Dv) and (..., N), make of all groups that it is in.

    With `out` and `lse`, those of each query over all its groups together, its weights are those among all keys that it
    has anywhere: e^(score - lse), so that its groups are merged.
    """
    of = Grouped(q, k, v, groups, mask, options)
    inputs = {"q": of.q, "k": of.k, "v": of.v, "sinks": of.sinks, "bias": None if callable(of.bias) else of.bias}
    sums = {name: of.xp.zeros_like(x) for name, x in inputs.items() if x is not None}
    sums |= {"scale": backend.full(of.xp, (), 0.0, of.q)}
    for some in of.chunks():
        given, places = of.arguments(some)
        i, there = of.places(of.rows[..., some, :])
        own = {"d_out": of.xp.where(there[..., None], rows_at(of.xp, d_out, of.each(d_out, i, 2)), 0.0)}
        if d_lse is not None:
            own["d_lse"] = of.xp.where(there, numbers_at(of.xp, d_lse, of.each(d_lse, i, 1)), 0.0)
        if lse is not None:
            own |= of.relative_to(given, lse, i) | {"out": rows_at(of.xp, out, of.each(out, i, 2))}
        found = tiled_attention_vjp(**given | own)
        for name, place in places.items():
            sums[name] += added(of.xp, getattr(found, name), place, sums[name].shape)
        if of.sinks is not None:
            sums["sinks"] += found.sinks[..., 0]
        sums["scale"] += found.scale
    return sums


def lead_of(q, k, v, groups: Groups, mask=None, **options):
    """The leading axes of the result, and its number of queries."""
    return (*Grouped(q, k, v, groups, mask, options).lead, q.shape[-2])


def sees(q, k, v, groups: Groups, mask=None, **options):
    """Whether each query of a group, (..., R, W), has a key there: one that neither a mask nor a bias excludes."""
    of = Grouped(q, k, v, groups, mask, options)
    found = []
    for some in of.chunks():
        i, j, at, allowed = of.pairs(some)
        bias, _ = of.table(of.bias, i, j, at)
        found.append(of.xp.any(allowed if bias is None else allowed & (bias != -math.inf), axis=-1))
    return of.xp.concat(found, axis=-2) if found else of.rows >= 0


class Grouped:
    """The arguments of attention in groups, checked, and those of some groups."""

    def __init__(self, q, k, v, groups, mask, options):
        of = problem_of(q, k, v, mask, **options)
        self.xp, self.q, self.k, self.v, self.sinks = of.xp, of.q, of.k, of.v, of.sinks
        self.lead = backend.broadcast(
            "leading axes", q_k_v=of.lead, rows=groups.rows.shape[:-2], keys=groups.keys.shape[:-2]
        )
        self.rows, self.keys = (self.xp.broadcast_to(x, (*self.lead, *x.shape[-2:])) for x in groups[:2])
        self.own, self.scalars, self.rate = groups.own, {"scale": of.scale, "softcap": of.softcap}, of.rate
        self.i, self.j, self.bias, self.keep, self.mask = of.q_positions, of.k_positions, of.bias, of.keep, of.mask
        if isinstance(mask, Mask):  # the data of a rule get the axis of the groups, in front of their own
            self.mask = with_data(mask, lambda x, own: self.xp.expand_dims(x, axis=-1 - own))

    def chunks(self) -> Iterator[slice]:
        """The groups, as many at a time as there is room for."""
        (count, w), t = self.rows.shape[-2:], self.keys.shape[-1]
        numbers = math.prod(self.lead) * (w * t + (w + t) * (self.q.shape[-1] + self.v.shape[-1]))
        some = max(1, ROOM // max(1, numbers))
        for start in range(0, count, some):
            yield slice(start, min(start + some, count))

    def places(self, x):
        """Places, and whether they are any: 0 stands for one that is none."""
        return self.xp.where(x < 0, 0, x), x >= 0

    def each(self, x, inside, core):
        """Where the entries `inside` of each leading index lie in an array: head h of H reads h // (H / G) of G."""
        own = x.shape[: x.ndim - core]
        shared = self.lead[-1] // own[-1] if own and own[-1] > 0 else 1
        return places_of(self.xp, own, x.shape[x.ndim - core], inside, shared=shared)

    def pairs(self, some: slice):
        """Places and positions of the queries (..., R, W) and keys (..., R, T) of some groups, and who attends to whom."""
        xp = self.xp
        (i, queries), (j, keys) = self.places(self.rows[..., some, :]), self.places(self.keys[..., some, :])
        at = [numbers_at(xp, x, self.each(x, place, 1)) for x, place in ((self.i, i), (self.j, j))]
        allowed = queries[..., :, None] & keys[..., None, :]  # (..., R, W, T)
        if self.own is not None:
            own = numbers_at(xp, self.own, self.each(self.own, i, 1))
            allowed = allowed & (own[..., :, None] | (i[..., :, None] != j[..., None, :]))
        if self.mask is not None:
            allowed = allowed & self.mask.admits(at[0][..., :, None], at[1][..., None, :])
        return i, j, at, allowed

    def table(self, table, i, j, at):
        """What a table or a function of positions has for each pair, and where in the table it stands."""
        if table is None:
            return None, None
        if callable(table):
            return self._of_function(table, *at), None
        place = cells_of(self.xp, table, i[..., :, None], j[..., None, :])
        return numbers_at(self.xp, table, place), place

    def arguments(self, some: slice) -> tuple[dict, dict]:
        """Those of tiled attention for some groups, and the places that its arrays came from."""
        i, j, at, allowed = self.pairs(some)
        places = {name: self.each(getattr(self, name), place, 2) for name, place in (("q", i), ("k", j), ("v", j))}
        given = {name: rows_at(self.xp, getattr(self, name), place) for name, place in places.items()}
        (bias, place), (keep, _) = (self.table(x, i, j, at) for x in (self.bias, self.keep))
        given |= {"mask": allowed, "bias": bias, **self.scalars}
        given["sinks"] = None if self.sinks is None else self.sinks[..., None]
        given["dropout"] = None if keep is None else (keep, self.rate)
        return given, places if place is None else places | {"bias": place}

    def relative_to(self, given, lse, i) -> dict:
        """A bias that makes lse 0, so that no digits of it are lost, and that lse."""
        lse = numbers_at(self.xp, lse, self.each(lse, i, 1))
        none = lse == -math.inf
        shift = self.xp.where(none, 0.0, -lse)[..., None]
        bias = shift if given["bias"] is None else given["bias"] + shift
        return {"bias": bias, "lse": self.xp.where(none, lse, 0.0)}

    def _of_function(self, function, i, j):
        """The values (..., R, W, T) of a function of positions, which knows of no groups: it gets (..., N, 1) and (..., N, M)."""
        xp, (groups, w), t = self.xp, i.shape[-2:], j.shape[-1]
        j = xp.broadcast_to(j[..., None, :], (*j.shape[:-1], w, t))
        values = function(xp.reshape(i, (*i.shape[:-2], groups * w, 1)), xp.reshape(j, (*j.shape[:-3], groups * w, t)))
        values = xp.broadcast_to(values, (*values.shape[:-2], groups * w, t))
        return xp.reshape(values, (*values.shape[:-2], groups, w, t))
