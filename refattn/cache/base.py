"""What all caches share: the shape of what they return, the checks of what they get, and rows that grow."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

from refattn import backend, masks


class CacheError(ValueError):
    """A cache cannot do what was asked; it is as it was before."""


class Cached(NamedTuple):
    """What the queries of the tokens just appended may attend to, under the cache's mask.

    Attributes
    ----------
    keys : array (..., M, D)
    values : array (..., M, Dv)
        May be views of the cache's own memory: valid until the cache changes, and not to be written to. NumPy's cannot be.
    k_positions : int array (M,)
    q_positions : int array (N,)
        Positions of the new tokens: keyword arguments of `attention`, as `k_positions` is.
    """

    keys: Any
    values: Any
    k_positions: Any
    q_positions: Any


class Cache:
    """The interface: append, truncate, reorder, length, nbytes, mask.

    Attributes
    ----------
    length : int
        Tokens that have been appended and not been taken back.
    mask : Mask
        Which of the returned keys a query may attend to, by position.
    """

    names = ("k", "v")
    mask: Any = masks.causal()

    def __init__(self):
        self.length = 0
        self._shapes: Any = None  # leading axes and widths, fixed by the first tokens
        self._like = None
        self._dtypes: Any = None  # of keys and of values

    def append(self, k, v) -> Cached:
        """Add tokens; returns what their queries may attend to.

        Parameters
        ----------
        k : array (..., N, D)
        v : array (..., N, Dv)

        Returns
        -------
        Cached

        Raises
        ------
        CacheError
            The shapes are not those of the tokens before, or there is no room. The cache is unchanged.
        TypeError
            The dtypes or the array library are not those of the tokens before. The cache is unchanged.
        """
        raise NotImplementedError

    def truncate(self, length):
        """Take back the tokens from position `length` on, as if they had never been appended.

        Raises
        ------
        CacheError
            There are not so many tokens, or what would be needed again is lost. The cache is unchanged.
        """
        raise NotImplementedError

    def reorder(self, indices):
        """Rows of the batch axis (the first) anew, as beam search needs it: row b becomes what row indices[b] was.

        Parameters
        ----------
        indices : int array (B,)

        Raises
        ------
        CacheError
            An index is no row of the batch. The cache is unchanged.
        """
        xp, indices = self._rows_of_batch(indices)
        self._take(xp, indices)
        (_, *lead), *widths = self._shapes
        self._shapes = ((indices.shape[0], *lead), *widths)

    def _take(self, xp, indices):
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """Bytes that the tokens held take up."""
        raise NotImplementedError

    def _checked(self, k, v):
        """New tokens, which must look like those before: the array library, both arrays and how many tokens."""
        return checked_tokens(self.names, k, v, self._shapes, self._like, self._dtypes)

    def _begin(self, shapes, k, v):
        """The first tokens fix what all later ones look like."""
        self._shapes, self._like, self._dtypes = shapes, k, (k.dtype, v.dtype)

    @contextlib.contextmanager
    def unless_refused(self):
        """What is appended within stays only if nothing is raised. [CACHE-MISUSE]"""
        length, looks = self.length, (self._shapes, self._like, self._dtypes)
        try:
            yield
        except BaseException:
            self.truncate(length)
            self._shapes, self._like, self._dtypes = looks
            raise

    def _rows_of_batch(self, indices):
        """Batch indices, checked."""
        if self._shapes is None:
            raise CacheError("the cache is empty: there is no batch to reorder")
        lead = self._shapes[0]
        if not lead:
            raise CacheError("the cache has no batch axis to reorder: its tokens were (N, D)")
        xp = backend.namespace(like=self._like)
        indices = backend.integers(xp, self._like, indices=indices)
        if indices.ndim != 1:
            raise ValueError(f"indices has shape {tuple(indices.shape)}; it must be (B,)")
        if indices.shape[0] and not 0 <= int(xp.min(indices)) <= int(xp.max(indices)) < lead[0]:
            raise CacheError(
                f"indices reach from {int(xp.min(indices))} to {int(xp.max(indices))}; the batch has {lead[0]} rows"
            )
        return xp, indices

    def _back_to(self, length) -> int:
        length = backend.integer("length", length, least=0)
        if length > self.length:
            raise CacheError(f"length is {length}; the cache has {self.length} tokens, and truncation only takes back")
        return length

    def _positions(self, start, stop):
        return backend.arange(backend.namespace(like=self._like), start, stop, self._like)


def checked_tokens(names, k, v, shapes=None, like=None, dtypes=None):
    """New tokens, which must look like those before, if there are: the array library, their shapes, how many they are."""
    a, b = names
    for name, x in ((a, k), (b, v)):
        backend.array(name, x)
    xp = backend.namespace(**{a: k, b: v}, **{} if like is None else {"the tokens before": like})
    for name, x in ((a, k), (b, v)):
        backend.rank(name, x, 2, "(..., N, D)")
        if "float" not in backend.dtype_name(x):
            raise TypeError(f"{name} has dtype {backend.dtype_name(x)}; it must be floating-point")
    for name, x, dtype in zip(names, (k, v), dtypes or (), strict=False):
        if x.dtype != dtype:
            raise TypeError(
                f"{name} has dtype {backend.dtype_name(x)}, the tokens before have {backend.name_of(dtype)}; cast it first"
            )
    if k.shape[:-1] != v.shape[:-1]:
        raise CacheError(f"{b} has shape {tuple(v.shape)}, {a} has {tuple(k.shape)}: all but the last axis must agree")
    found = (tuple(k.shape[:-2]), k.shape[-1], v.shape[-1])
    if shapes is not None and found != shapes:
        lead, d, dv = shapes
        raise CacheError(
            f"{a} has shape {tuple(k.shape)} and {b} {tuple(v.shape)}; the tokens before had"
            f" (..., N, D) with leading axes {lead}, D = {d} and Dv = {dv}"
        )
    return xp, found, k.shape[-2]


class Rows:
    """Rows along the last axis but one, in memory that doubles when it is full: appending costs O(1) a row."""

    def __init__(self, like):
        self._memory = like[..., :0, :]
        self.count = 0

    def make_room(self, n):
        """Memory for n rows more; after it `append` cannot fail."""
        room = self._memory.shape[-2]
        if self.count + n > room:
            xp, (*lead, _, width) = backend.namespace(rows=self._memory), self._memory.shape
            larger = backend.empty(xp, (*lead, max(self.count + n, 2 * room), width), self._memory)
            larger[..., : self.count, :] = self._held()
            self._memory = larger

    def append(self, rows):
        """Add rows at the end."""
        n = rows.shape[-2]
        self.make_room(n)
        self._memory[..., self.count : self.count + n, :] = rows
        self.count += n

    def view(self):
        """The rows held, without a copy, and not to be written to."""
        return backend.read_only(self._held())

    def _held(self):
        return self._memory[..., : self.count, :]

    def truncate(self, count):
        """Forget the rows from `count` on."""
        self.count = min(self.count, count)

    def keep(self, places):
        """Some of the rows, in order."""
        xp = backend.namespace(rows=self._memory)
        places = backend.integers(xp, self._memory, places=places)
        self._memory = xp.take(self.view(), places, axis=-2)
        self.count = places.shape[0]

    def take(self, xp, indices):
        """Other rows of the first axis."""
        self._memory = xp.take(self.view(), indices, axis=0)

    @property
    def nbytes(self):
        """Bytes of the rows held."""
        return nbytes_of(self.view())


def nbytes_of(x) -> int:
    """Bytes of an array's numbers."""
    return x.size * bits(x) // 8


def bits(x) -> int:
    """Bits of one number of an array."""
    return int("".join(c for c in backend.dtype_name(x).partition("_")[0] if c.isdigit()))
