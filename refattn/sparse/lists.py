"""Attention over lists of keys: groups of queries, each with the blocks of keys that its queries attend to.

A list is data: who has made it, a layout of blocks, a selection or a hash, does not matter. A group of queries and its
keys, gathered, are a small attention of their own, so that all of them are one more leading axis of `tiled_attention`,
forward and backward; a chunk of them at a time, so that memory does not grow with their number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from refattn import backend
from refattn.gradients import AttentionGradients
from refattn.gradients.sums import checked_cotangent
from refattn.masks import Mask
from refattn.masks.data import with_data
from refattn.sparse.places import added, cells_of, numbers_at, places_of, rows_at
from refattn.tiled import tiled_attention, tiled_attention_vjp
from refattn.tiled.problem import problem_of

ROOM = 2**22  # numbers of keys, values and scores that are there at a time


class Lists(NamedTuple):
    """Which keys: the queries r·rows - before to (r + 1)·rows - before - 1, those that there are, attend to the blocks of list r.

    Attributes
    ----------
    blocks : int array (..., R, T)
        Block b holds the keys b·size to (b + 1)·size - 1, the last one those that are left; -1 is no block. R lists for
        N queries, R = ⌈(before + N) / rows⌉. A block that is listed twice counts twice. Leading axes broadcast with those of q; an
        axis of heads may be that of the queries or that of the keys.
    rows, size, before : int
    """

    blocks: Any
    rows: int = 1
    size: int = 1
    before: int = 0


@backend.ieee
def attend(q, k, v, lists: Lists, mask=None, *, return_lse=False, **options):
    """Attention of each group of queries to the keys of its list; the options are those of `attention`."""
    return_lse = backend.flag("return_lse", return_lse)
    of = Listed(q, k, v, lists, mask, options)
    out = backend.full(of.xp, (*of.lead, of.n, of.dv), 0.0, of.q)
    lse = backend.full(of.xp, (*of.lead, of.n), -math.inf, of.q)
    for groups in of.chunks():
        rows, arguments, _ = of.chunk(groups)
        of_rows, lse_of_rows = tiled_attention(**arguments, return_lse=True)
        out[..., rows, :], lse[..., rows] = of.in_a_row(of_rows, rows, 1), of.in_a_row(lse_of_rows, rows, 0)
    out, lse = (of.xp.reshape(x, (*of.output, *x.shape[len(of.lead) :])) for x in (out, lse))
    return (out, lse) if return_lse else out


@backend.ieee
def attend_vjp(d_out, q, k, v, lists: Lists, mask=None, *, d_lse=None, out=None, lse=None, **options):
    """The gradients of `attend`, as those of attention: a key has the sum over all lists that it stands in."""
    table = None if callable(options.get("bias")) else options.get("bias")
    xp, d_out, d_lse, out, lse, q, k, v, table, sinks = backend.floating(
        d_out=d_out, d_lse=d_lse, out=out, lse=lse, q=q, k=k, v=v, bias=table, sinks=options.get("sinks"),
        optional="d_lse out lse bias sinks",
    )  # fmt: skip
    of = Listed(q, k, v, lists, mask, options | {"sinks": sinks} | ({} if table is None else {"bias": table}))
    cotangents = {}  # and results, in the heads of the problem
    for name, x, core in (("d_out", d_out, 2), ("out", out, 2), ("d_lse", d_lse, 1), ("lse", lse, 1)):
        checked_cotangent(name, x, "its result", (*of.output, *(of.n, of.dv)[:core]))
        if x is not None:
            cotangents[name] = of.split(x, core), core - 1

    like = {"q": of.q, "k": of.k, "v": of.v, "bias": None if table is None else of.bias, "sinks": of.sinks}
    like |= {"scale": backend.full(xp, (), 0.0, q)}
    sums = {name: xp.zeros_like(x) for name, x in like.items() if x is not None}
    for groups in of.chunks():
        rows, arguments, places = of.chunk(groups)
        own = {name: of.by_group(x, rows, core) for name, (x, core) in cotangents.items()}
        own["d_out"] = xp.where(of.queries(rows)[1][..., None], own["d_out"], 0.0)  # a query that is none has no part
        found = tiled_attention_vjp(**own, **arguments)
        sums["q"][..., rows, :] = of.in_a_row(found.q, rows, 1)
        for name, place in places.items():
            sums[name] += added(xp, getattr(found, name), place, sums[name].shape)
        if sinks is not None:
            sums["sinks"] += found.sinks[..., 0]
        sums["scale"] += found.scale
    shapes = {"q": q.shape, "k": k.shape, "v": v.shape, "scale": ()}
    shapes |= {name: x.shape for name, x in (("bias", table), ("sinks", sinks)) if x is not None}
    empty = dict.fromkeys(AttentionGradients._fields)
    return AttentionGradients(**empty | {name: xp.reshape(sums[name], shape) for name, shape in shapes.items()})


class Listed:
    """The arguments of attention over lists, checked, and those of any chunk of lists.

    Where heads share keys, an axis of H heads is two, (G, H / G), in all arrays, and that of G heads is (G, 1).
    """

    def __init__(self, q, k, v, lists, mask, options):
        of = problem_of(q, k, v, mask, **options)
        self.xp, self.n, self.m, self.dv = of.xp, of.n, of.m, of.v.shape[-1]
        self.rows, self.size, self.before = lists.rows, lists.size, lists.before
        self.scalars, self.rate = {"scale": of.scale, "softcap": of.softcap}, of.rate
        blocks = _checked(of, lists)
        heads, kv_heads = (x.shape[-3] if x.ndim > 2 else 1 for x in (of.q, of.k))
        self.heads = (heads, kv_heads) if 1 < kv_heads < heads else None
        own = blocks.shape[:-2]
        per_head = (*own[:-1], heads) if self.heads and own[-1:] == (kv_heads,) else own
        self.output = backend.broadcast("leading axes", q_k_v=of.lead, lists=per_head)
        self.lead = (*self.output[:-1], kv_heads, heads // kv_heads) if self.heads else self.output
        self.q, self.k, self.v, self.blocks = (self.split(x, 2) for x in (of.q, of.k, of.v, blocks))
        self.widths = self._widths()
        self.i, self.j = self.split(of.q_positions, 1), self.split(of.k_positions, 1)
        self.sinks = self.split(of.sinks, 0)
        self.bias, self.keep = (x if callable(x) else self.split(x, 2) for x in (of.bias, of.keep))
        self.q_positions, self.mask = of.q_positions, of.mask
        if isinstance(mask, Mask):  # the data of a rule get the axis of the lists, in front of their own
            self.mask = with_data(mask, lambda x, own: self.xp.expand_dims(self.split(x, own), axis=-1 - own))

    def split(self, x, core):
        """An array whose axis of heads stands before its last `core` axes, with that axis in two."""
        if self.heads is None or x is None or x.ndim <= core:
            return x
        heads, kv_heads = self.heads
        *lead, own = x.shape[: x.ndim - core]
        two = (kv_heads, heads // kv_heads) if own == heads else (own, 1)
        return self.xp.reshape(x, (*lead, *two, *x.shape[x.ndim - core :]))

    def chunks(self) -> Iterator[slice]:
        """The lists, as many at a time as there is room for: each chunk is as wide as its longest list."""
        of_a_key = math.prod(self.lead) * self.size * (self.q.shape[-1] + self.dv + self.rows)  # numbers
        start, widest = 0, 1
        for stop, width in enumerate(self.widths if self.n else (), start=1):
            widest = max(widest, width)
            if stop - start > 1 and (stop - start) * widest * of_a_key > ROOM:
                yield slice(start, stop - 1)
                start, widest = stop - 1, max(1, width)
        if self.n and start < self.blocks.shape[-2]:
            yield slice(start, self.blocks.shape[-2])

    def _widths(self) -> list[int]:
        """Of each list how many places reach to its last block."""
        xp, blocks = self.xp, self.blocks
        if 0 in blocks.shape:
            return [0] * blocks.shape[-2]
        places = xp.where(blocks >= 0, backend.arange(xp, 1, blocks.shape[-1] + 1, blocks), 0)
        widths = xp.max(xp.max(places, axis=-1), axis=tuple(range(blocks.ndim - 2)))
        return [int(width) for width in widths]

    def chunk(self, groups: slice) -> tuple[slice, dict, dict]:
        """The queries of some lists, the arguments of their attention, and the places that keys, values, bias came from."""
        xp = self.xp
        rows = self.queries_of(groups)
        keys, held = self._keys(groups)  # (..., R, L)
        i, there = self.queries(rows)  # (R, rows)
        allowed = held[..., None, :] & there[..., None]  # (..., R, rows, L)
        if self.mask is not None:
            at = self.by_group(self.i, rows, 0)[..., None], self.positions_of(keys)[..., None, :]
            allowed = allowed & self.mask.admits(*at)
        places = {name: places_of(xp, getattr(self, name).shape[:-2], self.m, keys) for name in ("k", "v")}
        arguments = {name: rows_at(xp, getattr(self, name), place) for name, place in places.items()}
        tables = {}
        for name, table in (("bias", self.bias), ("keep", self.keep)):
            if callable(table):
                tables[name] = self._of_function(table, rows, keys)
            elif table is not None:
                place = cells_of(xp, table, i[..., None], keys[..., None, :])
                tables[name] = numbers_at(xp, table, place)
                places |= {"bias": place} if name == "bias" else {}
        arguments |= {"q": self.by_group(self.q, rows, 1), "mask": allowed, "bias": tables.get("bias"), **self.scalars}
        arguments["sinks"] = None if self.sinks is None else self.sinks[..., None]
        arguments["dropout"] = (tables["keep"], self.rate) if tables.get("keep") is not None else None
        return rows, arguments, places

    def by_group(self, x, rows, core):
        """Of an array (..., N) with `core` more axes the queries of some lists, (..., R, rows)."""
        i, _ = self.queries(rows)
        axis = x.ndim - 1 - core
        found = self.xp.take(x, self.xp.reshape(i, (-1,)), axis=axis)
        return self.xp.reshape(found, (*x.shape[:axis], *i.shape, *x.shape[axis + 1 :]))

    def in_a_row(self, x, rows, core):
        """Of an array (..., R, rows) with `core` more axes the queries that there are, (..., N)."""
        axis = x.ndim - 2 - core
        x = self.xp.reshape(x, (*x.shape[:axis], x.shape[axis] * self.rows, *x.shape[axis + 2 :]))
        skipped = (rows.start + self.before) % self.rows
        return x[(..., slice(skipped, skipped + rows.stop - rows.start), *[slice(None)] * core)]

    def queries_of(self, groups):
        """The queries of some lists in a row."""
        ends = (groups.start * self.rows - self.before, groups.stop * self.rows - self.before)
        return slice(*(min(max(end, 0), self.n) for end in ends))

    def queries(self, rows):
        """The queries of some lists, (R, rows), and whether they are there: the nearest stands for one that is not."""
        first, last = (rows.start + self.before) // self.rows, -(-(rows.stop + self.before) // self.rows)
        i = backend.arange(self.xp, first * self.rows - self.before, last * self.rows - self.before, self.blocks)
        i = self.xp.reshape(i, (last - first, self.rows))
        nearest = self.xp.where(i < 0, 0, self.xp.where(i < self.n, i, self.n - 1))
        return nearest, (i >= 0) & (i < self.n)

    def _keys(self, groups):
        """The keys of some lists, (..., R, L), and whether they are there: key 0 stands for those that are not."""
        xp, blocks = self.xp, self.blocks[..., groups, : max(self.widths[groups], default=0)][..., None]
        keys = blocks * self.size + backend.arange(xp, 0, self.size, blocks)
        held = (blocks >= 0) & (keys < self.m)
        shape = (*blocks.shape[:-2], blocks.shape[-2] * self.size)
        return xp.reshape(xp.where(held, keys, 0), shape), xp.reshape(held, shape)

    def positions_of(self, keys):
        """The positions of keys (..., R, L)."""
        return numbers_at(self.xp, self.j, places_of(self.xp, self.j.shape[:-1], self.m, keys))

    def _of_function(self, function, rows, keys):
        """The values (..., R, rows, L) of a function of positions, which knows of no lists: it gets (..., N, 1) and (..., N, L)."""
        xp = self.xp
        i, _ = self.queries(rows)
        j = self.positions_of(keys)
        if self.heads and j.ndim > 3:  # an axis of all heads again
            heads, kv_heads = self.heads
            two, one = ((kv_heads, heads // kv_heads), heads) if j.shape[-4:-2] != (1, 1) else ((1, 1), 1)
            j = xp.reshape(
                xp.broadcast_to(j, (*j.shape[:-4], *two, *j.shape[-2:])), (*j.shape[:-4], one, *j.shape[-2:])
            )
        lead, (lists, listed) = j.shape[:-2], j.shape[-2:]
        whole = (lists * self.rows, listed)
        j = xp.reshape(xp.broadcast_to(j[..., None, :], (*lead, lists, self.rows, listed)), (*lead, *whole))
        values = function(xp.take(self.q_positions, xp.reshape(i, (-1,)), axis=-1)[..., None], j)
        values = xp.broadcast_to(values, (*values.shape[:-2], *whole))
        return self.split(xp.reshape(values, (*values.shape[:-2], lists, self.rows, listed)), 3)


def _checked(of, lists):
    """The lists as integers; their number must be that of the groups of queries."""
    blocks = backend.integers(of.xp, of.q, lists=lists.blocks)
    backend.rank("lists", blocks, 2, "(..., R, T)")
    wanted = -(-(of.n + lists.before) // lists.rows)
    if blocks.shape[-2] != wanted:
        raise ValueError(
            f"there are {blocks.shape[-2]} lists of keys; {of.n} queries, {lists.rows} a list, need {wanted}"
        )
    return blocks[..., :0] if of.m == 0 else blocks
