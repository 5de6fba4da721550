"""A whole sequence through a cache, block by block: what a decoding loop computes."""

from __future__ import annotations

from refattn import arguments, backend
from refattn.cache.base import CacheError
from refattn.cache.contiguous import CrossKVCache, KVCache
from refattn.cache.paged import PagedKVCache, PagePool
from refattn.cache.quantized import QuantizedKVCache
from refattn.cache.rolling import RollingKVCache, SinkKVCache
from refattn.heads import grouped_query_attention
from refattn.positions import rope

CACHES = ("contiguous", "rolling", "sink", "paged", "quantized", "cross")
_OPTIONS = {  # which options of `decode` go with which cache
    "rolling": ("window",),
    "sink": ("first", "recent", "positions"),
    "paged": ("page_size",),
    "quantized": ("bits", "group", "residual"),
}


def decode(
    q, k, v, blocks, *, cache="contiguous", window=None, first=None, recent=None, positions=None, page_size=None,
    bits=None, group=None, residual=None, rope_base=None, layout=None, **options,
):  # fmt: skip
    """Causal attention through a cache: tokens come in blocks, and may be taken back.

    Parameters
    ----------
    q : array (B, H, T, D)
        One query for each token that comes, also for those that are taken back later.
    k, v : array (B, G, T, D) or (B, G, M, D), (B, G, T, Dv) or (B, G, M, Dv)
        Their keys, before rotation, and values; or a memory of M tokens, for the cache "cross".
    blocks : sequence of int, or of lists of int
        n > 0: the next n tokens come and their queries attend. n < 0: the last -n tokens are taken back (the drafts
        that a verifier rejected). A list of B indices reorders the batch, as beam search does: sequence b goes on from
        what sequence indices[b] was. The positive ones add up to T.
    cache : {"contiguous", "rolling", "sink", "paged", "quantized", "cross"}
        Which cache keeps keys and values. cross: k and v are a memory, which every query sees whole.
    window : int
        Of a rolling cache (`RollingKVCache`), which keeps as much slack as the blocks take back.
    first, recent, positions : int, int, {"cache", "absolute"}
        Of a cache with sinks (`SinkKVCache`); positions by default "cache".
    page_size : int
        Of a paged cache (`PagedKVCache`).
    bits, group, residual : int
        Of a quantised cache (`QuantizedKVCache`).
    rope_base : float, optional
        Rotate queries and keys by their positions, with this base. Keys are cached rotated, but in a cache whose
        positions are those of the cache, which rotates them when they are read.
    layout : {"half", "interleaved"}, default "half"
        Of the rotation; goes with `rope_base`.
    scale, softcap, sinks
        As for `grouped_query_attention`.

    Returns
    -------
    out : array (B, H, T, Dv)
        What each token's query saw when the token came.

    Raises
    ------
    TypeError, ValueError
        Shapes do not agree; the blocks do not add up to T, or take back what is not there or is lost; an option of
        another cache is given.

    Notes
    -----
    A step costs O(M) and not O(M²). Clauses: CACHE-SPLIT, CACHE-TRUNCATE, CACHE-REORDER, CACHE-CROSS, CACHE-UNUSED, CACHE-RING, CACHE-BLOCK, CACHE-SINK,
    CACHE-SINK-POSITIONS, CACHE-PAGED, CACHE-RESIDUAL, CACHE-ROPE.
    Source: Pope et al. 2022, section 2, and the sources of the caches.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(1, 1, 4, 2))
    >>> whole, steps = decode(x, x, x, [4]), decode(x, x, x, [1, 1, 1, 1])
    >>> bool(np.allclose(whole, steps))
    True
    """
    xp, q, k, v = backend.floating(q=q, k=k, v=v)
    backend.choice("cache", cache, CACHES)
    given = {
        "window": window, "first": first, "recent": recent, "positions": positions, "page_size": page_size,
        "bits": bits, "group": group, "residual": residual,
    }  # fmt: skip
    for kind, names in _OPTIONS.items():
        if kind != cache:
            arguments.unused(f"cache={kind!r}", **{name: given[name] for name in names})
    _check_numbers(cache, {name: given[name] for name in _OPTIONS.get(cache, ())})
    positions = "cache" if positions is None else positions
    if rope_base is not None:
        rope_base = backend.number("rope_base", rope_base, positive=True)
    else:
        arguments.unused("rope_base", layout=layout)
    layout = "half" if layout is None else layout
    for name in options.keys() - {"scale", "softcap", "sinks"}:
        raise TypeError(f"decode has no option {name!r}; it passes on scale, softcap and sinks")
    blocks = _events(q, k, v, blocks, cache)
    for name, x in (("q", q), ("k", k)):
        if rope_base is not None and x.shape[-1] % 2:
            raise ValueError(
                f"{name} has head size {x.shape[-1]}; with rope_base it must be even, for pairs are rotated"
            )
    slack = _taken_back(blocks)
    plan = {
        "contiguous": lambda: KVCache(),
        "rolling": lambda: RollingKVCache(window, slack=slack),
        "sink": lambda: SinkKVCache(first, recent, positions, slack=slack),
        "paged": lambda: _paged(k, v, page_size),
        "quantized": lambda: QuantizedKVCache(bits, group, residual),
        "cross": lambda: CrossKVCache(k, v),
    }
    held = plan[cache]()
    rotated_when_read = cache == "sink" and positions == "cache"

    def rotated(x, where):
        return x if rope_base is None else rope(x, where, base=rope_base, layout=layout)

    outputs, start = [], 0
    for n in blocks:
        if not isinstance(n, int):
            held.reorder(n)
            continue
        if n < 0:
            if cache == "cross":
                raise CacheError(f"blocks take back {-n} tokens, and the memory of cross-attention does not shrink")
            if -n > held.length:
                raise CacheError(f"blocks take back {-n} tokens; {held.length} are there")
            held.truncate(held.length + n)
            continue
        rows = slice(start, start + n)
        start += n
        if cache == "cross":
            keys, values, k_positions, q_positions = held.read(n)
        else:
            new = k[..., rows, :]
            if not rotated_when_read:
                new = rotated(new, backend.arange(xp, held.length, held.length + n, k))
            keys, values, k_positions, q_positions = held.append(new, v[..., rows, :])
        outputs.append(
            grouped_query_attention(
                rotated(q[..., rows, :], q_positions),
                rotated(keys, k_positions) if rotated_when_read else keys,
                values, held.mask, k_positions=k_positions, q_positions=q_positions, **options,
            )
        )  # fmt: skip
    if not outputs:
        return backend.empty(xp, (*q.shape[:-1], v.shape[-1]), q)
    return xp.concat(outputs, axis=-2)


def tree_positions(parents, prefix=0):
    """Positions of a tree of drafts: prefix + depth, so that siblings share one.

    Parameters
    ----------
    parents : list of int
        Node t's parent, a smaller index, or -1 for a root, as for `masks.tree`.
    prefix : int, default 0
        How many tokens come before the tree.

    Returns
    -------
    out : list of int

    Notes
    -----
    The mask goes by place (`masks.tree`), rotation by these. Clauses: CACHE-TREE.
    Source: Miao et al. 2024 (SpecInfer), section 4.2.

    Examples
    --------
    >>> tree_positions([-1, 0, 0, 1], prefix=10)
    [10, 11, 11, 12]
    """
    depths: list[int] = []
    prefix = backend.integer("prefix", prefix, least=0)
    for node, parent in enumerate(arguments.listed("parents", parents, "integers")):
        parent = backend.integer("parents", parent)
        if not -1 <= parent < node:
            raise ValueError(f"parents has {parent} at node {node}; a parent is a smaller index, or -1")
        depths.append(0 if parent == -1 else depths[parent] + 1)
    return [prefix + depth for depth in depths]


def _events(q, k, v, blocks, cache):
    """Blocks and reorderings, checked against the shapes."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 4:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; it must be (B, H, T, D)")
        if name != "q" and cache != "cross" and x.shape[-2] != q.shape[-2]:
            raise ValueError(f"{name} has {x.shape[-2]} tokens, q has {q.shape[-2]}: all are T")
        if x.shape[1] == 0:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; it must have at least one head: (B, H, T, D)")
        if x.shape[0] != q.shape[0]:
            raise ValueError(f"{name} has {x.shape[0]} sequences, q has {q.shape[0]}: all are B")
    events: list = []
    for n in arguments.listed("blocks", blocks, "numbers of tokens, and of indices of the batch"):
        if isinstance(n, list | tuple):
            indices = [backend.integer("blocks", index) for index in n]
            if len(indices) != q.shape[0] or not all(0 <= index < q.shape[0] for index in indices):
                raise ValueError(
                    f"blocks reorder the batch by {backend.shown(indices)}; there must be B = {q.shape[0]} indices below B"
                )
            events.append(indices)
        else:
            events.append(backend.integer("blocks", n))
    come = sum(max(n, 0) for n in events if isinstance(n, int))
    if come != q.shape[-2]:
        raise ValueError(f"blocks {backend.shown(events)} bring {come} tokens; q has T = {q.shape[-2]}")
    return events


def _check_numbers(cache, given):
    """The options of a cache, of which all but the positions are integers and must be given."""
    for name, value in given.items():
        if name != "positions":
            if value is None:
                raise ValueError(f"{name} is None; it must be given with cache={cache!r}")
            backend.integer(name, value)


def _taken_back(blocks):
    """How far the sequence ever falls back behind the longest that it was: what a ring must keep beyond its window."""
    length = longest = most = 0
    for n in blocks:
        if isinstance(n, int):
            length += n
            longest = max(longest, length)
            most = max(most, longest - length)
    return most


def _paged(k, v, page_size):
    batch, heads, tokens, d = k.shape
    page_size = backend.integer("page_size", page_size, least=1)
    if batch == 0:
        raise ValueError(f"k has shape {tuple(k.shape)}; with cache='paged' there must be at least one sequence, B")
    pool = PagePool(batch * (-(-tokens // page_size) + 1), page_size, heads, d, v.shape[-1], like=k)
    return PagedKVCache(pool, batch)
