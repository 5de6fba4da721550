"""Caches that keep every token: keys and values, the latents of MLA, the memory of cross-attention."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

from refattn import arguments, backend, masks
from refattn.cache.base import Cache, Cached, CacheError, Rows, checked_tokens, nbytes_of


class KVCache(Cache):
    """Keys and values of every token, in memory that doubles when it is full.

    Parameters
    ----------
    capacity : int, optional
        The most tokens it may hold; None: as many as come.

    Notes
    -----
    append costs O(N) amortised and no copy of what is held; nbytes is M(D + Dv) numbers for each leading index.
    Clauses: CACHE-SPLIT, CACHE-TRUNCATE, CACHE-REORDER, CACHE-MISUSE, CACHE-BYTES.
    Source: Pope et al. 2022 (Efficiently Scaling Transformer Inference), section 2.

    Examples
    --------
    >>> import numpy as np
    >>> cache = KVCache()
    >>> cached = cache.append(np.ones((3, 2)), np.ones((3, 2)))
    >>> cached = cache.append(np.ones((1, 2)), np.ones((1, 2)))
    >>> cached.keys.shape, cached.q_positions.tolist(), cache.nbytes
    ((4, 2), [3], 128)
    """

    def __init__(self, capacity=None):
        super().__init__()
        self.capacity = None if capacity is None else backend.integer("capacity", capacity, least=0)

    def append(self, k, v) -> Cached:
        """Add tokens; returns all keys and values so far."""
        _, shapes, n = self._checked(k, v)
        if self.capacity is not None and self.length + n > self.capacity:
            raise CacheError(f"{n} tokens on top of {self.length} exceed the capacity of {self.capacity}")
        if self._shapes is None:
            self._begin(shapes, k, v)
            self._keys, self._values = Rows(k), Rows(v)
        self._values.make_room(n)
        self._keys.append(k)
        self._values.append(v)
        self.length += n
        return Cached(
            self._keys.view(),
            self._values.view(),
            self._positions(0, self.length),
            self._positions(self.length - n, self.length),
        )

    def truncate(self, length):
        """Take back the tokens from position `length` on."""
        self.length = self._back_to(length)
        if self._shapes is not None:
            self._keys.truncate(length)
            self._values.truncate(length)

    def keep(self, places):
        """Keep only some tokens, in order: after a tree of drafts was verified, those before it and the accepted path.

        Parameters
        ----------
        places : sequence of int
            Increasing, each below `length`. The token at places[n] becomes that of position n; its key stays as it is,
            so it must have been rotated by the position that it is given now (`tree_positions`).

        Raises
        ------
        CacheError
            A place is not below `length`, or they do not increase. The cache is unchanged.
        """
        places = [backend.integer("places", place, least=0) for place in arguments.listed("places", places, "places")]
        if any(b <= a for a, b in pairwise(places)) or (places and places[-1] >= self.length):
            raise CacheError(f"places {places} must increase and be below the {self.length} tokens that are there")
        if self._shapes is not None:
            self._keys.keep(places)
            self._values.keep(places)
        self.length = len(places)

    def _take(self, xp, indices):
        self._keys.take(xp, indices)
        self._values.take(xp, indices)

    @property
    def nbytes(self):
        """Bytes that the tokens held take up."""
        return 0 if self._shapes is None else self._keys.nbytes + self._values.nbytes


class CachedLatents(NamedTuple):
    """What an MLA layer attends to: one latent and one rotated key for each token, shared by all heads."""

    latents: Any
    rope_keys: Any
    k_positions: Any
    q_positions: Any


class LatentKVCache(KVCache):
    """The cache of multi-head latent attention: a latent (after its norm) and a rotary key (after rotation) a token.

    Notes
    -----
    (R + Dr) numbers a token instead of 2HD. Clauses: MLA-CACHE, CACHE-SPLIT, CACHE-BYTES.
    Source: DeepSeek-AI 2024 (DeepSeek-V2), section 2.1.

    Examples
    --------
    >>> import numpy as np
    >>> LatentKVCache().append(np.ones((1, 5, 8)), np.ones((1, 5, 2))).latents.shape
    (1, 5, 8)
    """

    names = ("latents", "rope_keys")

    def append(self, latents, rope_keys):
        """Add tokens: latents (..., N, R) and rotated keys (..., N, Dr); returns all so far."""
        return CachedLatents(*super().append(latents, rope_keys))


class HeldLatents(NamedTuple):
    """A cache of multi-head latent attention that stays as it is: `append` only returns what new tokens attend to.

    For a step that is computed more than once, as by two implementations that are compared.

    Attributes
    ----------
    latents : array (..., M, R)
    rope_keys : array (..., M, Dr)

    Notes
    -----
    Clauses: MLA-CACHE. Source: DeepSeek-AI 2024 (DeepSeek-V2), section 2.1.

    Examples
    --------
    >>> import numpy as np
    >>> held = HeldLatents(np.ones((5, 8)), np.ones((5, 2)))
    >>> held.append(np.ones((1, 8)), np.ones((1, 2))).latents.shape, held.length
    ((6, 8), 5)
    """

    latents: Any
    rope_keys: Any

    @property
    def mask(self) -> masks.Mask:
        """The rule that belongs to a cache."""
        return masks.causal()

    @property
    def length(self) -> int:
        """M, the tokens before."""
        return self.latents.shape[-2]

    def append(self, latents, rope_keys):
        """What the new tokens attend to, as `LatentKVCache.append` gives it."""
        held = {"held latents": self.latents, "held rope_keys": self.rope_keys}
        _, shapes, _ = checked_tokens(held, *held.values())
        checked_tokens(("latents", "rope_keys"), latents, rope_keys, shapes, self.latents)
        # Nothing is cut here, as it would be in memory of one dtype: all become the widest.
        xp, *before, latents, rope_keys = backend.floating(**held, latents=latents, rope_keys=rope_keys)
        end = self.length + latents.shape[-2]
        return CachedLatents(
            xp.concat([before[0], latents], axis=-2),
            xp.concat([before[1], rope_keys], axis=-2),
            backend.arange(xp, 0, end, latents),
            backend.arange(xp, self.length, end, latents),
        )


class CrossKVCache(Cache):
    """Keys and values of a memory that is computed once and read at every step.

    Parameters
    ----------
    k : array (..., M, D)
    v : array (..., M, Dv)

    Notes
    -----
    What a step attends to does not depend on the step; there is no causal mask. Clauses: CACHE-CROSS, CACHE-REORDER.
    Source: Vaswani et al. 2017, section 3.2.3.

    Examples
    --------
    >>> import numpy as np
    >>> cache = CrossKVCache(np.ones((3, 2)), np.ones((3, 2)))
    >>> cache.read().keys.shape
    (3, 2)
    """

    mask = masks.everything()

    def __init__(self, k, v):
        super().__init__()
        xp, shapes, self.length = self._checked(k, v)
        self._begin(shapes, k, v)
        self._keys, self._values = (xp.asarray(x, copy=True) for x in (k, v))  # the caller may write to his own

    def read(self, queries=1) -> Cached:
        """What `queries` queries attend to, at any step."""
        queries = backend.integer("queries", queries, least=0)
        arguments.room(64 * queries, queries=queries)
        keys, values = backend.read_only(self._keys), backend.read_only(self._values)
        return Cached(keys, values, self._positions(0, self.length), self._positions(0, queries))

    def append(self, k, v):
        """A memory does not grow."""
        raise CacheError("the memory of cross-attention does not grow; read() gives it")

    def truncate(self, length):
        """A memory does not shrink."""
        raise CacheError(f"length is {backend.shown(length)}, but the memory of cross-attention does not shrink")

    def _take(self, xp, indices):
        self._keys, self._values = xp.take(self._keys, indices, axis=0), xp.take(self._values, indices, axis=0)

    @property
    def nbytes(self):
        """Bytes of the memory."""
        return nbytes_of(self._keys) + nbytes_of(self._values)
