"""A paged cache: a pool of pages, block tables, pages shared by reference count and copied when written to."""

from __future__ import annotations

import numpy as np

from refattn import arguments, backend
from refattn.cache.base import Cache, Cached, CacheError, bits


class PagePool:
    """Memory in pages of `page_size` tokens, which caches share.

    Parameters
    ----------
    pages, page_size : int
    kv_heads, head_dim : int
    value_dim : int, optional
        Default `head_dim`.
    like : array, optional
        An array of the library, device and dtype in which keys and values are kept; default NumPy float32.

    Attributes
    ----------
    references : list of int
        For each page, how many block tables name it; 0 is free.

    Notes
    -----
    Clauses: CACHE-PAGED, CACHE-SHARED. Source: Kwon et al. 2023 (PagedAttention), sections 4.1 to 4.4.

    Examples
    --------
    >>> pool = PagePool(pages=4, page_size=16, kv_heads=2, head_dim=8)
    >>> pool.free, pool.page_nbytes
    (4, 2048)
    """

    def __init__(self, pages, page_size, kv_heads, head_dim, value_dim=None, *, like=None):
        like = np.empty(0, dtype=np.float32) if like is None else like
        xp, _ = backend.floating(like=like)
        self.pages = backend.integer("pages", pages, least=1)
        self.page_size = backend.integer("page_size", page_size, least=1)
        heads, d = backend.integer("kv_heads", kv_heads, least=1), backend.integer("head_dim", head_dim, least=0)
        dv = d if value_dim is None else backend.integer("value_dim", value_dim, least=0)
        size = self.pages * (self.page_size * heads * (d + dv) * bits(like) // 8 + 100)
        arguments.room(size, pages=self.pages, page_size=self.page_size, kv_heads=heads, head_dim=d, value_dim=dv)
        self.keys = backend.empty(xp, (self.pages, heads, self.page_size, d), like)
        self.values = backend.empty(xp, (self.pages, heads, self.page_size, dv), like)
        self.references = [0] * self.pages
        self._free = list(range(self.pages - 1, -1, -1))

    @property
    def free(self) -> int:
        """How many pages are free."""
        return len(self._free)

    @property
    def page_nbytes(self) -> int:
        """Bytes of one page, keys and values."""
        return (self.keys.size + self.values.size) * bits(self.keys) // 8 // self.pages

    @property
    def nbytes(self) -> int:
        """Bytes of the pages in use, a shared page once."""
        return (self.pages - self.free) * self.page_nbytes

    def take(self) -> int:
        """A free page, with one reference."""
        if not self._free:
            raise CacheError(f"the pool has no free page: all {self.pages} pages are in use")
        page = self._free.pop()
        self.references[page] = 1
        return page

    def _page(self, page):
        page = backend.integer("page", page, least=0)
        if page >= self.pages or not self.references[page]:
            raise CacheError(f"page is {page}; the pool has pages 0 to {self.pages - 1}, and it must be one in use")
        return page

    def release(self, page):
        """One reference less; at none the page is free."""
        page = self._page(page)
        self.references[page] -= 1
        if self.references[page] == 0:
            self._free.append(page)

    def copy(self, page) -> int:
        """A page of one's own instead of a shared one."""
        page = self._page(page)
        own = self.take()
        self.keys[own, ...] = self.keys[page, ...]
        self.values[own, ...] = self.values[page, ...]
        self.release(page)
        return own


class PagedKVCache(Cache):
    """A batch of sequences of one length, each a block table into a pool that other caches use as well.

    Parameters
    ----------
    pool : PagePool
    batch : int, default 1

    Attributes
    ----------
    tables : list of list of int
        For each sequence its pages in order: token t is in page tables[b][t // page_size], at t % page_size.

    Notes
    -----
    `fork` shares all pages, and a page that is shared is copied before it is written to. Memory is rounded up to whole
    pages. Clauses: CACHE-PAGED, CACHE-SHARED, CACHE-SPLIT, CACHE-MISUSE.
    Source: Kwon et al. 2023 (PagedAttention), sections 4.1 to 4.4.

    Examples
    --------
    >>> import numpy as np
    >>> pool = PagePool(pages=4, page_size=2, kv_heads=1, head_dim=3)
    >>> prompt = PagedKVCache(pool)
    >>> cached = prompt.append(*np.ones((2, 1, 1, 3, 3), dtype=np.float32))
    >>> other = prompt.fork()
    >>> cached = other.append(*np.ones((2, 1, 1, 1, 3), dtype=np.float32))
    >>> prompt.tables, other.tables, pool.free
    ([[0, 1]], [[0, 2]], 1)
    """

    def __init__(self, pool, batch=1):
        super().__init__()
        if not isinstance(pool, PagePool):
            raise TypeError(f"pool is {backend.shown(pool)}; it must be a PagePool")
        self.pool = pool
        batch = backend.integer("batch", batch, least=1)
        arguments.room(100 * batch, batch=batch)
        self.tables: list[list[int]] = [[] for _ in range(batch)]
        self._like, self._dtypes = pool.keys, (pool.keys.dtype, pool.values.dtype)
        self._released = False
        self._fix_shapes()

    def _fix_shapes(self):
        _, heads, _, d = self.pool.keys.shape
        self._shapes = ((len(self.tables), heads), d, self.pool.values.shape[-1])

    def append(self, k, v) -> Cached:
        """Add tokens, k (B, G, N, D) and v (B, G, N, Dv); returns all keys and values so far, gathered from the pages."""
        self._usable()
        xp, _, n = self._checked(k, v)
        size, start = self.pool.page_size, self.length
        shared = self._shared_tails() if n and start % size else []
        wanted = -(-(start + n) // size) - -(-start // size)
        needed = wanted * len(self.tables) + len(shared)
        if needed > self.pool.free:
            raise CacheError(f"{needed} more pages are needed, the pool has {self.pool.free} free of {self.pool.pages}")
        for b in shared:
            self.tables[b][-1] = self.pool.copy(self.tables[b][-1])
        for b, table in enumerate(self.tables):
            table.extend(self.pool.take() for _ in range(wanted))
            self._write(table, k[b, ...], v[b, ...], n)
        self.length += n
        return Cached(
            self._read(xp, self.pool.keys), self._read(xp, self.pool.values),
            self._positions(0, self.length), self._positions(start, self.length),
        )  # fmt: skip

    def _shared_tails(self):
        """The sequences whose last page somebody else names as well; of those who share it, one may keep it."""
        left = {table[-1]: self.pool.references[table[-1]] for table in self.tables}
        copies = []
        for b, table in enumerate(self.tables):
            if left[table[-1]] > 1:
                left[table[-1]] -= 1
                copies.append(b)
        return copies

    def _write(self, table, k, v, n):
        size, done = self.pool.page_size, 0
        while done < n:
            page, slot = divmod(self.length + done, size)
            count = min(size - slot, n - done)
            self.pool.keys[table[page], :, slot : slot + count, :] = k[:, done : done + count, :]
            self.pool.values[table[page], :, slot : slot + count, :] = v[:, done : done + count, :]
            done += count

    def _read(self, xp, pages):
        """Only the pages that the tables name, and of the last one only the tokens that were written."""
        used = -(-self.length // self.pool.page_size)
        flat = [page for table in self.tables for page in table[:used]]
        found = xp.take(pages, backend.asarray(xp, flat, pages, xp.int64), axis=0)  # (B·pages, G, size, D)
        _, heads, size, width = pages.shape
        found = xp.reshape(found, (len(self.tables), used, heads, size, width))
        found = xp.permute_dims(found, (0, 2, 1, 3, 4))
        return xp.reshape(found, (len(self.tables), heads, used * size, width))[:, :, : self.length, :]

    def truncate(self, length):
        """Take back the tokens from position `length` on; pages that nobody names any more become free."""
        self._usable()
        self.length = self._back_to(length)
        used = -(-self.length // self.pool.page_size)
        for table in self.tables:
            for page in table[used:]:
                self.pool.release(page)
            del table[used:]

    def reorder(self, indices):
        """Rows of the batch anew: nothing is copied, pages are shared."""
        self._usable()
        _, indices = self._rows_of_batch(indices)
        tables = [list(self.tables[int(indices[b])]) for b in range(indices.shape[0])]
        self._exchange(tables)

    def _exchange(self, tables):
        for table in tables:
            for page in table:
                self.pool.references[page] += 1
        for table in self.tables:
            for page in table:
                self.pool.release(page)
        self.tables = tables
        self._fix_shapes()

    def fork(self) -> PagedKVCache:
        """Another cache of the same tokens, which shares every page until one of the two writes to it."""
        self._usable()
        other = PagedKVCache(self.pool, len(self.tables))
        other._exchange([list(table) for table in self.tables])
        other.length = self.length
        return other

    def release(self):
        """Give the pages back. The cache cannot be used any more."""
        self._usable()
        self._exchange([])
        self.length, self._released = 0, True

    def _usable(self):
        if self._released:
            raise CacheError("the cache has been released; its pages may be somebody else's")

    @property
    def nbytes(self):
        """Bytes of the pages that the tables name, a page that several name once."""
        return len({page for table in self.tables for page in table}) * self.pool.page_nbytes
