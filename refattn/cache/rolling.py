"""Caches that forget: a ring of the last tokens, and a ring behind attention sinks."""

from __future__ import annotations

import math

from refattn import arguments, backend, masks
from refattn.cache.base import Cache, Cached, CacheError, bits, nbytes_of
from refattn.cache.contiguous import KVCache


class RollingKVCache(Cache):
    """A ring of the last tokens, for attention with a sliding window.

    Parameters
    ----------
    window : int
        How many keys a query sees, itself included: `masks.window(window - 1, 0)`.
    slack : int, default 0
        How many tokens more it keeps, so that up to slack + 1 tokens can be taken back after the ring has wrapped.

    Notes
    -----
    The token at position p lies in slot p mod (window + slack). A block of tokens is returned behind the old ones
    before it overwrites them, since its first queries still see them. append costs O(window + N), memory is constant.
    Clauses: CACHE-RING, CACHE-BLOCK, CACHE-TRUNCATE, CACHE-MISUSE. Source: Jiang et al. 2023 (Mistral 7B), section 2.

    Examples
    --------
    >>> import numpy as np
    >>> cache = RollingKVCache(window=3)
    >>> cached = cache.append(np.ones((5, 2)), np.ones((5, 2)))
    >>> cache.append(np.ones((1, 2)), np.ones((1, 2))).k_positions.tolist()
    [3, 4, 5]
    """

    def __init__(self, window, slack=0):
        super().__init__()
        self.window = backend.integer("window", window, least=1)
        self.slots = self.window + backend.integer("slack", slack, least=0)
        self.mask = masks.causal() & masks.window(self.window - 1, 0)
        self._name = "window"  # as the caller knows it
        self._oldest = 0  # the first position that the ring still holds

    def append(self, k, v) -> Cached:
        """Add tokens; returns the window before them, and them."""
        xp, shapes, n = self._checked(k, v)
        if self._shapes is None:
            self._begin(shapes, k, v)
            lead, d, dv = shapes
            arguments.room(
                math.prod(lead) * self.slots * (d + dv) * bits(k) // 8,
                **{self._name: self.window, "slack": self.slots - self.window},
            )
            self._keys = backend.empty(xp, (*lead, self.slots, d), k)
            self._values = backend.empty(xp, (*lead, self.slots, dv), v)
        first = max(self._oldest, self.length - self.window + 1)
        cached = Cached(
            xp.concat([self._read(xp, self._keys, first), k], axis=-2),
            xp.concat([self._read(xp, self._values, first), v], axis=-2),
            self._positions(first, self.length + n),
            self._positions(self.length, self.length + n),
        )
        self._write(k, v, n)
        return cached

    def _read(self, xp, ring, first):
        """The tokens from a position on, in order."""
        slots = self._positions(first, self.length) % self.slots
        return xp.take(ring, slots, axis=-2)

    def _write(self, k, v, n):
        kept = min(n, self.slots)
        start = (self.length + n - kept) % self.slots  # the slot of the first token that stays
        ahead = min(kept, self.slots - start)  # tokens that fit before the ring begins again
        for ring, new in ((self._keys, k), (self._values, v)):
            new = new[..., n - kept :, :]
            ring[..., start : start + ahead, :] = new[..., :ahead, :]
            ring[..., : kept - ahead, :] = new[..., ahead:, :]
        self.length += n
        self._oldest = max(self._oldest, self.length - self.slots)

    def truncate(self, length):
        """Take back the tokens from position `length` on, if the ring still holds the window before them."""
        length = self._back_to(length)
        needed = max(0, length - self.window + 1)
        if length < self.length and needed < self._oldest:
            raise CacheError(
                f"length is {length}: its window begins at position {needed}, but the ring holds positions"
                f" {self._oldest} to {self.length - 1} only; a larger slack keeps more"
            )
        self.length = length

    def _take(self, xp, indices):
        self._keys, self._values = xp.take(self._keys, indices, axis=0), xp.take(self._values, indices, axis=0)

    @property
    def nbytes(self):
        """Bytes that the tokens held take up."""
        if self._shapes is None:
            return 0
        held = self.length - self._oldest
        return (nbytes_of(self._keys) + nbytes_of(self._values)) * held // self.slots


class SinkKVCache(Cache):
    """The first tokens and the last ones: a window that never loses the attention sinks (StreamingLLM).

    Parameters
    ----------
    first : int
        How many tokens at the beginning are kept for ever.
    recent : int
        How many of the last tokens are kept, the query's own included.
    positions : {"cache", "absolute"}
        cache: keys are numbered by their place in the cache, 0 to first + recent - 1, as StreamingLLM does, which
        caches keys before rotation and rotates them by that number. absolute: by their place in the text.
    slack : int, default 0
        As for `RollingKVCache`.

    Notes
    -----
    With "cache" a block of N tokens attends to the first tokens, the last max(recent - N, 0) before the block, and
    itself: room is made before the block comes. With "absolute" every query of the block sees exactly the first
    tokens and the last `recent` up to itself, as if the tokens had come one at a time. Both are full attention while
    no more than first + recent tokens have come. Clauses: CACHE-SINK, CACHE-SINK-POSITIONS, CACHE-TRUNCATE.
    Source: Xiao et al. 2024 (StreamingLLM), section 3.2, and its code's kv_cache.py.

    Examples
    --------
    >>> import numpy as np
    >>> cache = SinkKVCache(first=1, recent=2, positions="absolute")
    >>> cached = cache.append(np.ones((6, 2)), np.ones((6, 2)))
    >>> cache.append(np.ones((1, 2)), np.ones((1, 2))).k_positions.tolist()
    [0, 5, 6]
    """

    def __init__(self, first, recent, positions="cache", slack=0):
        super().__init__()
        self.first = backend.integer("first", first, least=0)
        self.recent = backend.integer("recent", recent, least=1)
        self.positions = backend.choice("positions", positions, ("cache", "absolute"))
        self._sinks = KVCache(capacity=self.first)
        self._ring = RollingKVCache(self.recent, slack)
        self._ring._name = "recent"
        self.mask = masks.causal()
        if positions == "absolute":
            self.mask = masks.causal() & (masks.window(self.recent - 1, 0) | masks.padding(self.first))

    def append(self, k, v) -> Cached:
        """Add tokens; returns the first tokens, the last before them, and them."""
        xp, shapes, n = self._checked(k, v)
        if self._shapes is None:
            self._begin(shapes, k, v)
        own = min(max(self.first - self.length, 0), n)  # tokens that are themselves among the first
        sinks = self._sinks.append(k[..., :own, :], v[..., :own, :])
        ring = self._ring.append(k[..., own:, :], v[..., own:, :])
        self.length += n
        spare = 0  # tokens of the ring that make room for the block
        if self.positions == "cache":
            before = ring.keys.shape[-2] - (n - own)
            spare = max(before - max(self.recent - (n - own), 0), 0)
        keys = xp.concat([sinks.keys, ring.keys[..., spare:, :]], axis=-2)
        values = xp.concat([sinks.values, ring.values[..., spare:, :]], axis=-2)
        if self.positions == "cache":
            count = keys.shape[-2]
            return Cached(keys, values, self._positions(0, count), self._positions(count - n, count))
        places = xp.concat([sinks.k_positions, ring.k_positions[spare:] + self.first])
        return Cached(keys, values, places, self._positions(self.length - n, self.length))

    def truncate(self, length):
        """Take back the tokens from position `length` on, if the ring still holds what comes before them."""
        length = self._back_to(length)
        if self._shapes is not None:
            self._ring.truncate(max(length - self.first, 0))
            self._sinks.truncate(min(length, self.first))
        self.length = length

    def _take(self, xp, indices):
        self._sinks.reorder(indices)
        self._ring.reorder(indices)

    @property
    def nbytes(self):
        """Bytes that the tokens held take up."""
        return self._sinks.nbytes + self._ring.nbytes
