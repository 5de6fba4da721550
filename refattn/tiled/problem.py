"""The arguments of attention, checked once, and any tile of them: no array of N M numbers is made here."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from refattn import arguments, backend
from refattn.attention import check_shapes, checked_dropout, checked_scale, checked_softcap
from refattn.masks import Mask, positions_of, visible
from refattn.masks.data import with_data
from refattn.masks.reach import Interval, Reach

# Chosen by measurement (tests/benchmarks/speed.py): 4 MiB of float64 scores; float32 takes twice as many keys. Smaller
# tiles stay nearer to a core, but threads that wait for the interpreter cost more than that gains. Few queries (a step
# of decoding) take as many more keys.
Q_TILE, K_TILE = 512, 1024
ROOM = Q_TILE * K_TILE  # for the tiles of all heads that are stacked
MOST_SEEN = 8  # tiles of a mask that are kept: a window has one, but for those at its ends


_CORES = {"q": 2, "k": 2, "v": 2, "mask": 2, "bias": 2, "keep": 2, "sinks": 0, "q_positions": 1, "k_positions": 1}


@dataclass(frozen=True)
class Problem:
    """Attention with its options, as arrays that can be cut into tiles.

    Attributes
    ----------
    q, k, v, sinks : array (..., N, D), (..., M, D), (..., M, Dv), (...)
        k and v may have fewer heads than q.
    mask : rule, bool array or None
    bias, keep : array (..., N or 1, M or 1), function of positions, or None
    rate, scale, softcap : float
        A softcap of 0 is none.
    q_positions, k_positions : int array (..., N), (..., M)
    spaced, q_spaced : (int, int) or None
        The position of key 0 and the step from one key to the next, if that is the same everywhere; and of queries.
    lead : tuple
        The leading axes of the output and of lse.
    finite : bool
        Whether all values are.
    large : bool
        Whether a sum of values may overflow where their mean does not.
    scale_first : bool
        Whether the queries may be scaled before they meet the keys; else their products are, where that loses less.
    q_tile, k_tile : int
    seen : dict or None
        Tiles of a rule that decides by differences of positions, by their sizes and distance: one stands for all that
        lie so. None of another rule, and where positions are not spaced evenly.
    index : tuple
        Where the arrays have been taken from: one index of the first leading axes, or of all but the heads and a slice of
        the heads, which stay an axis.
    """

    xp: Any
    q: Any
    k: Any
    v: Any
    mask: Any
    bias: Any
    sinks: Any
    keep: Any
    rate: float
    scale: float
    softcap: float
    q_positions: Any
    k_positions: Any
    spaced: tuple[int, int] | None
    q_spaced: tuple[int, int] | None
    lead: tuple
    finite: bool
    large: bool
    scale_first: bool
    q_tile: int
    k_tile: int
    seen: dict | None
    index: tuple = ()

    n = property(lambda self: self.q.shape[-2])
    m = property(lambda self: self.k.shape[-2])

    # --- leading axes ---

    def indices(self) -> Iterator[tuple]:
        """The indices of the leading axes that are taken one after the other; the tiles of the rest are stacked.

        Small heads fill a tile together, large ones are worked on one by one. Heads that share keys and values are
        stacked with those that share them with them, so that nothing is repeated.
        """
        if 0 in self.lead:
            return iter(())
        looped = len(self.lead)
        size = max(1, min(self.q_tile, self.n) * min(self.k_tile, self.m))
        if self._grouped:
            return product(*map(range, self.lead[:-1]), self._heads_together(ROOM // size))
        while looped and size * self.lead[looped - 1] <= ROOM:
            looped -= 1
            size *= self.lead[looped]
        return product(*map(range, self.lead[:looped]))

    def _heads_together(self, most):
        """Slices of heads that share keys, of at most so many; or all heads, where one is enough."""
        heads = self.lead[-1]
        if most < 2:
            return range(heads)
        group = heads // self.k.shape[-3]
        return [
            slice(first, min(first + most, start + group))
            for start in range(0, heads, group)
            for first in range(start, start + group, most)
        ]

    @property
    def _grouped(self):
        return bool(self.lead) and self.k.ndim > 2 and self.k.shape[-3] not in (1, self.lead[-1])

    def entry(self, x, core, index=None):
        """Where in the leading axes of `x`, before its last `core` axes, an index of the output's leading axes lies.

        Head h of H reads entry h // (H / G) of an axis of G.
        """
        index = self.index if index is None else index
        own = x.shape[: x.ndim - core]
        skipped = len(self.lead) - len(own)
        place = (_scaled(i, own[n - skipped], self.lead[n]) for n, i in enumerate(index) if n >= skipped)
        return (*place, ...)

    def at(self, index: tuple) -> Problem:
        """The problem of one index of the first leading axes."""
        if not index:
            return self

        def pick(x, core):
            return x if x is None or callable(x) else x[self.entry(x, core, index)]

        arrays = {name: (getattr(self, name), core) for name, core in _CORES.items()}
        picked = {
            name: with_data(x, pick) if isinstance(x, Mask) else pick(x, core) for name, (x, core) in arrays.items()
        }
        return replace(self, **picked, index=index)

    # --- tiles ---

    def queries(self, rows):
        """The queries of a tile, scaled if they may be, with all leading axes of the output: so have all arrays made of them."""
        q = self.q[..., rows, :]
        return self.with_lead(self.scale * q if self.scale_first else q)

    def with_lead(self, q):
        """A tile with all leading axes of the output."""
        heads = [i.stop - i.start for i in self.index if isinstance(i, slice)]
        return self.xp.broadcast_to(q, (*heads, *self.lead[len(self.index) :], *q.shape[-2:]))

    def query_tiles(self) -> list[slice]:
        """The queries, cut into tiles."""
        return [slice(start, min(start + self.q_tile, self.n)) for start in range(0, self.n, self.q_tile)]

    def key_tiles(self, rows: slice) -> Iterator[tuple[slice, Any]]:
        """The tiles of keys that a tile of queries attends to, and who may: a bool array, or None where all may."""
        for keys, whole in self._spans(rows):
            some, allowed = (True, None) if whole else self._tile(rows, keys)
            if some:
                yield keys, allowed

    def _tile(self, rows, keys):
        """Whether any query of a tile may attend to any key of it, and who to whom: a bool array, or None where all may."""
        place = rows.stop - rows.start, keys.start - rows.start, keys.stop - rows.start
        if self.seen is not None and place in self.seen:
            return self.seen[place]
        allowed = self._allowed(rows, keys)
        some = bool(self.xp.any(allowed))
        found = some, None if some and bool(self.xp.all(allowed)) else allowed
        if self.seen is not None and keys.start and keys.stop < self.m and len(self.seen) < MOST_SEEN:
            self.seen[place] = found
        return found

    def all_key_tiles(self) -> list[slice]:
        """All keys, cut into tiles."""
        return [keys for keys, _ in self._cut(0, self.m, True)]

    def _spans(self, rows):
        """The tiles of keys that may hold something visible, and whether it is known that all of it is."""
        if not isinstance(self.mask, Mask):
            yield from self._cut(0, self.m, self.mask is None)
        elif self.spaced is not None:
            found = self._reach(rows)
            start, stop = _clipped(found.may, self.spaced, 0, self.m)
            first, last = _rounded(_clipped(found.must, self.spaced, start, stop), start, stop)
            bounded = not math.isinf(found.may.high - found.may.low)
            if self.seen is not None and bounded and stop - start <= self.k_tile and last - first < stop - start:
                first = last = start  # its mask has been seen, so that one tile costs less than its three parts
            yield from self._cut(start, first, False)
            yield from self._cut(first, last, True)
            yield from self._cut(last, stop, False)
        else:
            found = self._reach(rows)
            for keys, _ in self._cut(0, self.m, False):
                held = Interval(*_extent(self.xp, self.k_positions[..., keys]))
                if not (found.may & held).empty:
                    yield keys, found.must & held == held

    def _cut(self, start, stop, whole):
        for place in range(start, stop, self.k_tile):
            yield slice(place, min(place + self.k_tile, stop)), whole

    def _reach(self, rows) -> Reach:
        if self.q_spaced is None:
            return self.mask.reach(*_extent(self.xp, self.q_positions[..., rows]))
        first, step = self.q_spaced
        return self.mask.reach(first + step * rows.start, first + step * (rows.stop - 1))

    def _allowed(self, rows, keys):
        if isinstance(self.mask, Mask):
            allowed = self.mask.block(self.q_positions[..., rows], self.k_positions[..., keys], like=self.q)
            return self._own(allowed)
        return block(self.mask, rows, keys)

    def tile_of(self, x, rows, keys):
        """A tile of the bias or of dropout's draws, an array or a function of positions."""
        if not callable(x):
            return block(x, rows, keys)
        values = x(self.q_positions[..., rows, None], self.k_positions[..., None, keys])
        return self._own(values)

    def _own(self, values):
        """Of the values (..., n, m) of a rule or a function those that belong to this index."""
        heads = self.index[-1] if self.index else None
        if isinstance(heads, slice) and values.ndim > 2 and values.shape[-3] == heads.stop - heads.start:
            return values[(*self.entry(values, 2)[:-2], ...)]  # positions or data were of these heads alone
        return values[self.entry(values, 2)]


def problem_of(
    q, k, v, mask=None, *, bias=None, scale=None, softcap=None, sinks=None, dropout=None, q_positions=None,
    k_positions=None, q_tile=None, k_tile=None,
) -> Problem:  # fmt: skip
    """Check the arguments as `attention` does, and see what the leading axes of the results are."""
    keep, rate = checked_dropout(dropout)
    keep = keep.admits if isinstance(keep, Mask) else keep
    rule = arguments.function("bias", bias, "i", "j") if callable(bias) else None
    if callable(keep) and not isinstance(dropout[0], Mask):
        arguments.function("dropout keep", keep, "i", "j")
    xp, q, k, v, table, sinks = backend.floating(
        q=q, k=k, v=v, bias=None if rule else bias, sinks=sinks, optional="bias sinks"
    )
    one_k, one_v = _one_of_each_group(q, k, v)
    n, m, qkv_lead = check_shapes(q, one_k, one_v, table, sinks)
    i, j = positions_of(n, m, q_positions, k_positions, like=q)
    if not isinstance(mask, Mask):
        mask = visible(mask, n, m, like=q)
    if not callable(keep):
        backend.boolean(xp, **{"dropout keep": keep})

    # Of rules and functions the first row and the first column: their leading axes, and whether they take the positions.
    of_mask = _leads_of(mask.admits if isinstance(mask, Mask) else mask, i, j, "mask")
    of_bias, of_keep = _leads_of(rule or table, i, j, "bias"), _leads_of(keep, i, j, "dropout")
    backend.broadcast("leading axes", mask=of_mask, q_k_v=qkv_lead)
    backend.broadcast("leading axes", bias=of_bias, q_k_v=qkv_lead)
    of_scores = backend.broadcast("leading axes", q=q.shape[:-2], k=one_k.shape[:-2], mask=of_mask, bias=of_bias)
    if keep is not None and not callable(keep):
        backend.fits_scores("dropout keep", keep, n, m)
        backend.broadcast("leading axes", weights=of_scores, keep=keep.shape[:-2])
    of_sinks = () if sinks is None else sinks.shape
    spaced = (0, 1) if k_positions is None else _spaced(xp, j)
    q_spaced = (m - n, 1) if q_positions is None else _spaced(xp, i)
    even = None not in (spaced, q_spaced) and spaced[1] == q_spaced[1]
    scale, (finite, large) = checked_scale(scale, q.shape[-1]), _sizes_of_values(xp, v)
    lead = backend.broadcast("leading axes", scores=of_scores, q_k_v=qkv_lead, dropout=of_keep, sinks=of_sinks)
    return Problem(
        xp, q, k, v,
        mask=_matrix(xp, mask), bias=rule or _matrix(xp, table), sinks=sinks, keep=_matrix(xp, keep), rate=rate,
        scale=scale, softcap=checked_softcap(softcap),
        q_positions=i, k_positions=j, spaced=spaced, q_spaced=q_spaced, lead=lead,
        finite=finite, large=large, scale_first=_may_scale_first(xp, q, scale),
        q_tile=Q_TILE if q_tile is None else backend.integer("q_tile", q_tile, least=1),
        k_tile=_keys_at_once(xp, q) if k_tile is None else backend.integer("k_tile", k_tile, least=1),
        seen={} if even and isinstance(mask, Mask) and mask.relative else None,
    )  # fmt: skip


def _keys_at_once(xp, q):
    return K_TILE * (64 // xp.finfo(q.dtype).bits) * max(1, Q_TILE // max(1, q.shape[-2]))


def _sizes_of_values(xp, v):
    """Whether all values are finite, and whether the sum of those that are may overflow."""
    if not math.prod(v.shape):
        return True, False
    largest = float(xp.max(xp.abs(v)))
    finite = math.isfinite(largest)
    if not finite:
        largest = float(xp.max(xp.where(xp.isfinite(v), xp.abs(v), 0.0)))
    return finite, largest > float(xp.finfo(v.dtype).max) / (2 * v.shape[-2])


def _may_scale_first(xp, q, scale):
    """Whether no query leaves the range of normal numbers when it is scaled."""
    if scale == 0 or not math.prod(q.shape):
        return True
    size, limits = abs(scale) * xp.abs(q), xp.finfo(q.dtype)
    normal = (q == 0) | ((size >= float(limits.smallest_normal)) & (size <= float(limits.max)))
    return bool(xp.all(normal))


def _one_of_each_group(q, k, v):
    """k and v, with one head where several query heads share each of them."""
    if min(q.ndim, k.ndim, v.ndim) < 3:
        return k, v
    heads, kv_heads = q.shape[-3], k.shape[-3]
    if heads == 0 or kv_heads in (0, 1, heads) or heads % kv_heads or v.shape[-3] != kv_heads:
        return k, v
    return k[..., :1, :, :], v[..., :1, :, :]


def _leads_of(x, i, j, name):
    """The leading axes of a mask, a bias or dropout's draws."""
    if x is None:
        return ()
    if not callable(x):
        return x.shape[:-2]
    i, j = i[..., :, None], j[..., None, :]
    column, row = x(i, j[..., : min(1, j.shape[-1])]), x(i[..., : min(1, i.shape[-2]), :], j)
    whole = i.shape[-2], j.shape[-1]
    for values in (column, row):
        shape = getattr(values, "shape", ())
        if len(shape) < 2 or any(size not in (1, n) for size, n in zip(shape[-2:], whole, strict=True)):
            raise ValueError(
                f"the function given for {name} returns {backend.shown(values)}; it must return (..., N, M)"
            )
        kind = backend.dtype_name(values)
        if not (kind.startswith(("float", "bfloat")) if name == "bias" else kind == "bool"):
            wanted = "floating-point numbers" if name == "bias" else "truth values"
            raise TypeError(f"the function given for {name} returns {kind}; it must return {wanted}")
    return np.broadcast_shapes(column.shape[:-2], row.shape[:-2])


def _scaled(i, size, of):
    """The place in an axis of `size`, each of whose entries stands for of / size, of an index or a slice."""
    if isinstance(i, slice):
        return slice(i.start * size // of, -(-i.stop * size // of))
    return i * size // of


def _is_rule(x):
    return callable(x) or isinstance(x, Mask)


def _matrix(xp, x):
    """A table with at least the axes (N, M), which may be 1."""
    while x is not None and not _is_rule(x) and x.ndim < 2:
        x = xp.expand_dims(x, axis=0)
    return x


def block(x, rows, keys):
    """Some rows and columns of a table whose axes may be 1."""
    every = slice(None)
    return x[..., every if x.shape[-2] == 1 else rows, every if x.shape[-1] == 1 else keys]


def _extent(xp, positions):
    """The least and the greatest of some positions."""
    return int(xp.min(positions)), int(xp.max(positions))


def _spaced(xp, positions):
    """The first of some positions and the step between them, if it is one step, upwards."""
    if positions.ndim > 1 or not positions.shape[0]:
        return None
    step = int(positions[1] - positions[0]) if positions.shape[0] > 1 else 1
    even = step > 0 and bool(xp.all(positions[1:] - positions[:-1] == step))
    return (int(positions[0]), step) if even else None


def _rounded(keys, start, stop):
    """Keys that all may be attended to, from and up to multiples of 64: a tile of one key costs what one of many does."""
    first, last = keys
    first = first if first == start else min(-(-first // 64) * 64, last)
    return first, last if last == stop else max(last // 64 * 64, first)


def _clipped(interval, spaced, start, stop):
    """The keys from start up to stop whose positions lie in an interval."""
    first, step = spaced
    if interval.empty:
        return start, start
    low = start if interval.low == -math.inf else max(-((first - interval.low) // step), start)
    high = stop if interval.high == math.inf else min((interval.high - first) // step + 1, stop)
    return (int(low), int(high)) if low < high else (start, start)
