"""Properties of key/value caches: nobody can tell that they are there."""

from copy import deepcopy
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import refattn
from refattn import masks
from refattn.cache import (
    CacheError,
    CrossKVCache,
    HeldLatents,
    KVCache,
    LatentKVCache,
    PagedKVCache,
    PagePool,
    QuantizedKVCache,
    RollingKVCache,
    SinkKVCache,
    cache_nbytes,
    decode,
    dequantize,
    quantize,
    tree_positions,
)
from refattn.cache.base import nbytes_of
from refattn.cache.quantized import pack, unpack

B, H, G, T, D, DV = 2, 6, 3, 19, 4, 8
few = settings(max_examples=12)  # a trace is a few dozen calls, on three libraries
RNG = np.random.default_rng(7)
Q, K, V = RNG.normal(size=(B, H, T, D)), RNG.normal(size=(B, G, T, D)), RNG.normal(size=(B, G, T, DV))


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@st.composite
def splits(draw, total=T):
    cuts = draw(st.sets(st.integers(1, total - 1), max_size=total - 1))
    edges = [0, *sorted(cuts), total]
    return [b - a for a, b in pairwise(edges)]


def full(mask, q=Q):
    return refattn.grouped_query_attention(q, K, V, mask)


@pytest.mark.clause("CACHE-SPLIT", "CACHE-PAGED")
@few
@given(splits(), st.integers(1, 7))
def test_any_blocks_are_causal_attention(library, blocks, page_size):
    whole = full(masks.causal())
    close(library.call(decode, Q, K, V, blocks), whole)
    close(library.call(decode, Q, K, V, blocks, cache="paged", page_size=page_size), whole)


@pytest.mark.clause("CACHE-RING", "CACHE-BLOCK")
@few
@given(splits(), st.integers(1, T + 2))
def test_a_ring_is_a_window(library, blocks, window):
    got = library.call(decode, Q, K, V, blocks, cache="rolling", window=window)
    close(got, full(masks.causal() & masks.window(window - 1, 0)))


@pytest.mark.clause("CACHE-SINK")
@few
@given(splits(), st.integers(0, 5), st.integers(1, 9))
def test_sinks_and_recent_tokens_are_a_mask(library, blocks, first, recent):
    rule = masks.causal() & (masks.window(recent - 1, 0) | masks.padding(first))
    got = library.call(decode, Q, K, V, blocks, cache="sink", first=first, recent=recent, positions="absolute")
    close(got, full(rule))
    steps = library.call(decode, Q, K, V, [1] * T, cache="sink", first=first, recent=recent)
    close(steps, full(rule))  # without rotation, positions do not matter


@pytest.mark.clause("CACHE-SINK-POSITIONS")
def test_positions_of_the_cache_stay_below_its_size():
    cache = SinkKVCache(first=2, recent=3)
    for n in (1, 1, 4, 1, 2, 7, 1):
        cached = cache.append(K[..., :n, :], V[..., :n, :])
        assert cached.k_positions.tolist() == list(range(cached.keys.shape[-2]))
        assert cached.q_positions.tolist() == cached.k_positions.tolist()[-n:]
        assert cached.keys.shape[-2] <= 2 + max(3, n)


@pytest.mark.clause("CACHE-SINK-POSITIONS")
def test_a_sink_cache_that_is_not_full_is_full_attention():
    whole = decode(Q, K, V, [T], rope_base=100.0)
    for positions in ("cache", "absolute"):
        close(
            decode(Q, K, V, [5, 1, 13], cache="sink", first=4, recent=15, positions=positions, rope_base=100.0), whole
        )


@pytest.mark.clause("CACHE-ROPE")
@few
@given(splits())
def test_rotated_keys_know_their_place(library, blocks):
    at = np.arange(T)
    q, k = refattn.rope(Q, at, base=50.0, layout="half"), refattn.rope(K, at, base=50.0, layout="half")
    whole = refattn.grouped_query_attention(q, k, V, masks.causal())
    close(library.call(decode, Q, K, V, blocks, rope_base=50.0), whole)
    window = refattn.grouped_query_attention(q, k, V, masks.causal() & masks.window(3, 0))
    close(library.call(decode, Q, K, V, blocks, cache="rolling", window=4, rope_base=50.0), window)


@st.composite
def traces(draw):
    """Blocks with tokens taken back in between, and which input token is at each place at the end."""
    blocks, there = [], []
    come = 0
    while come < T:
        if there and draw(st.booleans()):
            n = draw(st.integers(1, min(len(there), 4)))
            blocks.append(-n)
            del there[-n:]
        n = draw(st.integers(1, min(T - come, 5)))
        blocks.append(n)
        there += range(come, come + n)
        come += n
    return blocks, there


@pytest.mark.clause("CACHE-TRUNCATE")
@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"cache": "rolling", "window": 3},
        {"cache": "paged", "page_size": 3},
        {"cache": "sink", "first": 2, "recent": 4, "positions": "absolute"},
    ],
    ids=lambda s: s.get("cache", "contiguous"),
)
@few
@given(traces())
def test_tokens_taken_back_have_never_come(library, kind, trace):
    blocks, kept = trace
    got = library.call(decode, Q, K, V, blocks, rope_base=100.0, **kind)
    q, k, v = Q[:, :, kept], K[:, :, kept], V[:, :, kept]
    alone = decode(q, k, v, [len(kept)], rope_base=100.0, **kind)
    close(got[:, :, kept], alone)


def caches():
    pool = PagePool(40, 3, G, D, DV, like=K)
    return {
        "contiguous": KVCache(),
        "rolling": RollingKVCache(5, slack=2),
        "sink": SinkKVCache(2, 4, slack=2),
        "paged": PagedKVCache(pool, B),
        "quantized": QuantizedKVCache(8, 2, 4),
    }


def held(cache):
    """Everything that a cache would give to the next token's query, as a copy."""
    return [np.array(x) for x in deepcopy(cache).append(K[..., :1, :], V[..., :1, :])]


@pytest.mark.clause("CACHE-REORDER")
@pytest.mark.parametrize("name", caches())
def test_reordering_is_reordering_the_tokens(name):
    cache, other = caches()[name], caches()[name]
    indices = [1, 0] if name == "paged" else [1, 1]
    for n in (3, 1, 5):
        cache.append(K[..., :n, :], V[..., :n, :])
        other.append(K[indices][..., :n, :], V[indices][..., :n, :])
    cache.reorder(indices)
    keys, values, *_ = held(cache)
    wanted, wanted_values, *_ = held(other)
    close(keys[..., :-1, :], wanted[..., :-1, :])
    close(values[..., :-1, :], wanted_values[..., :-1, :])
    cache.reorder([0])
    assert cache.append(K[:1, :, :1], V[:1, :, :1]).keys.shape[0] == 1


@pytest.mark.clause("CACHE-MISUSE")
@pytest.mark.parametrize("name", caches())
@pytest.mark.parametrize(
    ("misuse", "says"),
    [
        (lambda c: c.append(K[:1, :, :1], V[:1, :, :1]), "the tokens before had"),
        (lambda c: c.append(K[..., :1, :3], V[..., :1, :]), "D = 4"),
        (lambda c: c.append(K[..., :2, :], V[..., :1, :]), "all but the last axis"),
        (lambda c: c.truncate(7), "only takes back"),
        (lambda c: c.reorder([0, 2]), "the batch has 2"),
        (lambda c: c.truncate(-1), "at least 0"),
        (lambda c: c.append(K[..., :1, :].astype(int), V[..., :1, :]), "floating-point"),
        (lambda c: c.append(K[0, 0, 0], V[0, 0, 0]), "N, D"),
    ],
    ids=["batch", "head_size", "lengths", "too_far", "indices", "negative", "integers", "rank"],
)
def test_misuse_is_refused_and_changes_nothing(name, misuse, says):
    cache = caches()[name]
    cache.append(K[..., :6, :], V[..., :6, :])
    before, size, length = held(cache), cache.nbytes, cache.length
    with pytest.raises((ValueError, TypeError), match=says):
        misuse(cache)
    assert (cache.nbytes, cache.length) == (size, length)
    for was, now in zip(before, held(cache), strict=True):
        assert np.array_equal(was, now)


@pytest.mark.clause("CACHE-MISUSE")
def test_what_each_cache_alone_refuses():
    with pytest.raises(CacheError, match="exceed the capacity of 4"):
        KVCache(capacity=4).append(K[..., :5, :], V[..., :5, :])
    ring = RollingKVCache(3)
    ring.append(K[..., :9, :], V[..., :9, :])
    ring.truncate(8)
    with pytest.raises(CacheError, match="the ring holds positions 6 to 7 only"):
        ring.truncate(6)
    sinks = SinkKVCache(1, 3)
    sinks.append(K[..., :9, :], V[..., :9, :])
    with pytest.raises(CacheError, match="the ring holds"):
        sinks.truncate(2)
    assert sinks.length == 9
    codes = QuantizedKVCache(4, 2, 4)
    codes.append(K[..., :9, :], V[..., :9, :])
    with pytest.raises(CacheError, match="tokens up to 8 are quantised"):
        codes.truncate(7)
    codes.truncate(8)
    with pytest.raises(ValueError, match="multiple of group"):
        QuantizedKVCache(4, 3, 4)
    with pytest.raises(ValueError, match="Dv = 8; it must be a multiple of group"):
        QuantizedKVCache(4, 3, 3).append(K, V)
    with pytest.raises(CacheError, match="does not grow"):
        CrossKVCache(K, V).append(K, V)
    with pytest.raises(CacheError, match="does not shrink"):
        CrossKVCache(K, V).truncate(1)
    with pytest.raises(CacheError, match="empty"):
        KVCache().reorder([0])
    flat = KVCache()
    flat.append(K[0, 0], V[0, 0])
    with pytest.raises(CacheError, match="no batch axis"):
        flat.reorder([0])


@pytest.mark.clause("CACHE-MISUSE")
def test_a_pool_that_is_full_refuses_before_anything_is_written():
    pool = PagePool(pages=3, page_size=2, kv_heads=G, head_dim=D, value_dim=DV, like=K)
    first = PagedKVCache(pool)
    first.append(K[:1, :, :5], V[:1, :, :5])
    second = first.fork()
    with pytest.raises(CacheError, match="1 more pages are needed, the pool has 0 free of 3"):
        second.append(K[:1, :, :1], V[:1, :, :1])  # its last page is shared, and would have to be copied
    assert (first.tables, second.tables) == ([[0, 1, 2]], [[0, 1, 2]])
    first.release()
    with pytest.raises(CacheError, match="has been released"):
        first.release()
    with pytest.raises(CacheError, match="has been released"):
        first.append(K[:1, :, :1], V[:1, :, :1])
    second.append(K[:1, :, 5:6], V[:1, :, 5:6])  # now it is alone
    assert second.tables == [[0, 1, 2]]
    second.release()
    assert (pool.free, pool.references, pool.nbytes) == (3, [0, 0, 0], 0)
    with pytest.raises(TypeError, match="k has dtype float32, the tokens before have float64; cast it first"):
        PagedKVCache(pool).append(K[:1].astype(np.float32), V[:1].astype(np.float32))


@pytest.mark.clause("CACHE-SHARED")
def test_shared_pages_are_copied_before_they_are_written_to():
    pool = PagePool(pages=12, page_size=4, kv_heads=G, head_dim=D, value_dim=DV, like=K)
    prompt = PagedKVCache(pool)
    prompt.append(K[:1, :, :6], V[:1, :, :6])
    forks = [prompt.fork() for _ in range(3)]
    assert pool.free == 10
    for n, fork in enumerate(forks):
        fork.append(K[:1, :, 7 + n : 9 + n], V[:1, :, 7 + n : 9 + n])
    assert pool.free == 7  # one copy of the page that was half full each; the full page is shared
    assert pool.references[prompt.tables[0][0]] == 4
    for n, fork in enumerate(forks):
        keys = fork.append(K[:1, :, 18:], V[:1, :, 18:]).keys
        close(keys, np.concatenate([K[:1, :, :6], K[:1, :, 7 + n : 9 + n], K[:1, :, 18:]], axis=2))
    close(prompt.append(K[:1, :, 6:7], V[:1, :, 6:7]).values, V[:1, :, :7])
    for cache in (prompt, *forks):
        cache.release()
    assert pool.free == 12


@pytest.mark.clause("CACHE-SHARED", "CACHE-REORDER")
@given(st.lists(st.lists(st.integers(0, B - 1), min_size=B, max_size=B), min_size=1, max_size=6))
def test_beams_share_pages_and_never_each_others_words(orders):
    blocks, come = [], 0
    for order in orders:
        blocks += [2, order]
        come += 2
    blocks.append(T - come)
    plain = decode(Q, K, V, blocks)
    close(decode(Q, K, V, blocks, cache="paged", page_size=3), plain)
    close(decode(Q, K, V, blocks, cache="rolling", window=T), plain)


@pytest.mark.clause("CACHE-PAGED", "CACHE-UNUSED")
def test_pages_may_hold_anything_beside_the_tokens():
    pool = PagePool(pages=9, page_size=4, kv_heads=G, head_dim=D, value_dim=DV, like=K)
    pool.keys[...] = np.nan
    pool.values[...] = np.inf
    taken = [pool.take() for _ in range(9)]
    for page in (taken[3], taken[7], taken[0], taken[5]):
        pool.release(page)
    cache = PagedKVCache(pool)
    cached = cache.append(K[:1, :, :7], V[:1, :, :7])
    assert cache.tables != [[0, 1]]
    close(cached.keys, K[:1, :, :7])
    close(cached.values, V[:1, :, :7])


@pytest.mark.clause("CACHE-UNUSED")
def test_a_ring_never_gives_what_was_not_written():
    ring = RollingKVCache(5)
    ring.append(K[..., :1, :], V[..., :1, :])
    ring._keys[..., 1:, :] = np.nan
    assert np.isfinite(ring.append(K[..., :1, :], V[..., :1, :]).keys).all()


@pytest.mark.clause("CACHE-CROSS")
def test_a_memory_is_the_same_at_every_step(library):
    whole = refattn.grouped_query_attention(Q, K[:, :, :7], V[:, :, :7])
    close(library.call(decode, Q, K[:, :, :7], V[:, :, :7], [4, 1, 14], cache="cross"), whole)
    memory = CrossKVCache(K, V)
    memory.reorder([1, 0])
    close(memory.read(2).keys, K[::-1])
    assert memory.nbytes == K.nbytes + V.nbytes


# --- codes ------------------------------------------------------------------------------------------------------------


@pytest.mark.clause("CACHE-QUANTIZED", "CACHE-QUANTIZED-ERROR")
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_codes_are_within_half_a_level(library, bits, axis):
    x = np.random.default_rng(bits).normal(size=(6, 12, 18)) * 10.0
    codes, scale, zero = library.call(quantize, x, bits=bits, group=6, axis=axis)
    assert codes.dtype == np.uint8
    assert codes.max() <= 2**bits - 1
    back = library.call(dequantize, codes, scale, zero, axis=axis)
    assert (np.abs(back - x) <= np.repeat(scale, 6, axis=axis) * 0.5000001).all()
    for extreme in (np.min, np.max):  # the least and the greatest number of a group are levels
        grouped = [np.moveaxis(t, axis, -1).reshape(-1, 6) for t in (x, back)]
        close(extreme(grouped[0], axis=-1), extreme(grouped[1], axis=-1))


@pytest.mark.clause("CACHE-QUANTIZED-ERROR")
def test_a_constant_group_is_exact(library):
    x = np.repeat([[3.7, -1e-30, 0.0]], 4, axis=0)
    close(library.call(dequantize, *quantize(x, bits=4, group=4, axis=0), axis=0), x)


def test_codes_of_four_bits_share_a_byte(library):
    codes = np.random.default_rng(0).integers(0, 16, size=(3, 4, 7)).astype(np.uint8)
    packed = library.call(pack, codes)
    assert packed.shape == (3, 4, 4)
    np.testing.assert_array_equal(library.call(unpack, packed, 7), codes)


@pytest.mark.clause("CACHE-RESIDUAL")
@given(splits())
def test_what_is_in_codes_depends_on_the_tokens_alone(blocks):
    one, many = QuantizedKVCache(4, 2, 4), QuantizedKVCache(4, 2, 4)
    one.append(K, V)
    start = 0
    for n in blocks:
        many.append(K[..., start : start + n, :], V[..., start : start + n, :])
        start += n
    for a, b in zip(held(one), held(many), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (one.quantized_keys, one.quantized_values) == (16, 15)


@pytest.mark.clause("CACHE-RESIDUAL")
def test_the_newest_tokens_and_the_block_are_as_they_came():
    cache = QuantizedKVCache(4, 4, 4)
    keys, values, *_ = cache.append(K, V)
    assert np.array_equal(keys, K)
    assert np.array_equal(values, V)
    keys, values, *_ = cache.append(K[..., :1, :], V[..., :1, :])
    assert np.array_equal(keys[..., 16:19, :], K[..., 16:, :])
    assert not np.isclose(keys[..., :16, :], K[..., :16, :]).all()
    assert np.array_equal(values[..., 15:19, :], V[..., 15:, :])
    assert not np.isclose(values[..., 14, :], V[..., 14, :]).all()
    close(decode(Q, K, V, [T], cache="quantized", bits=4, group=4, residual=4), full(masks.causal()))


def test_more_bits_are_nearer():
    whole = full(masks.causal())
    errors = [
        np.abs(decode(Q, K, V, [1] * T, cache="quantized", bits=bits, group=4, residual=4) - whole).max()
        for bits in (4, 8)
    ]
    assert errors[1] < errors[0] / 8
    assert errors[0] < 0.5


NARROW_K, NARROW_V = K.astype(np.float32), V.astype(np.float32)
LIKE_POOL = {"paged": lambda: PagedKVCache(PagePool(40, 3, G, D, DV, like=NARROW_K), B)}


@pytest.mark.clause("CACHE-MISUSE")
@pytest.mark.parametrize("name", [*caches(), "latent"])
@pytest.mark.parametrize("room", [True, False])
def test_other_dtypes_are_refused_and_change_nothing(name, room):
    """A wider number would be cut silently, a narrower one would make what is held look better than it is."""
    make = {**caches(), "latent": LatentKVCache, "paged": None}[name] or LIKE_POOL[name]
    make = make if callable(make) else lambda: caches()[name]
    cache, untouched = make(), make()
    a, b = cache.names
    for each in (cache, untouched):
        for n in (4, 1) if room else (4,):
            each.append(NARROW_K[..., :n, :], NARROW_V[..., :n, :])
    for k, v, wrong in ((K, V, a), (NARROW_K, V, b), (NARROW_K.astype(np.float16), NARROW_V, a)):
        with pytest.raises(
            TypeError, match=f"^{wrong} has dtype float.., the tokens before have float32; cast it first"
        ):
            cache.append(k[..., :1, :], v[..., :1, :])
        assert (cache.length, cache.nbytes) == (untouched.length, untouched.nbytes)
    new = NARROW_K[..., 7:9, :], NARROW_V[..., 7:9, :]
    for x, y in zip(cache.append(*new), untouched.append(*new), strict=True):
        np.testing.assert_array_equal(x, y)
        assert x.dtype == y.dtype


@pytest.mark.clause("MLA-CACHE")
def test_held_latents_are_as_a_cache_gives_them():
    """Appending to the snapshot is appending to a cache that got the same before, and the snapshot stays as it was."""
    draw, cache = np.random.default_rng(0), LatentKVCache()
    before, new = ([draw.normal(size=(2, n, width)) for width in (9, 4)] for n in (5, 3))
    snapshot = HeldLatents(*before)
    cache.append(*before)
    assert (cache.length, str(cache.mask)) == (snapshot.length, str(snapshot.mask))
    for _ in range(2):
        for mine, theirs in zip(snapshot.append(*new), cache.append(*new), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        cache.truncate(5)
    assert snapshot.length == 5


@pytest.mark.clause("CACHE-MISUSE")
def test_held_latents_take_only_what_goes_on_from_them():
    held_latents = HeldLatents(np.zeros((5, 2)), np.zeros((5, 3)))
    one = np.zeros((1, 2)), np.zeros((1, 3))
    assert held_latents.append(*one).latents.shape == (6, 2)
    wider = HeldLatents(*(x.astype(np.float16) for x in held_latents)).append(*(x + 1e-9 for x in one))
    assert float(wider.latents[-1, 0]) == 1e-9  # nothing is cut
    for latents, keys, message in (
        (one[0], np.zeros((2, 3)), "all but the last axis must agree"),
        (one[1], one[1], r"the tokens before had .* D = 2 and Dv = 3"),
    ):
        with pytest.raises((TypeError, CacheError), match=message):
            held_latents.append(latents, keys)
    with pytest.raises(CacheError, match="held rope_keys has shape"):
        HeldLatents(np.zeros((5, 2)), np.zeros((4, 3))).append(*one)


@pytest.mark.clause("CACHE-MISUSE")
def test_tokens_of_another_array_library_are_refused():
    import array_api_strict

    cache = KVCache()
    cache.append(K, V)
    with pytest.raises(TypeError, match=r"the tokens before is an array of numpy, k of array_api_strict"):
        cache.append(*(array_api_strict.asarray(x) for x in (K, V)))
    assert cache.length == T


def test_what_a_cache_returns_cannot_be_written_to():
    """A writer would change what later queries see."""
    for returned in (KVCache().append(K, V), CrossKVCache(K, V).read(), LatentKVCache().append(K, V)):
        for x in returned[:2]:
            with pytest.raises(ValueError, match="read-only"):
                x[...] = 0.0


@pytest.mark.clause("CACHE-CROSS")
def test_a_memory_is_not_the_callers_array():
    k, v = K.copy(), V.copy()
    cache = CrossKVCache(k, v)
    k[...] = v[...] = 0.0
    np.testing.assert_array_equal(cache.read().keys, K)
    np.testing.assert_array_equal(cache.read().values, V)


@pytest.mark.clause("CACHE-MISUSE", "CACHE-SHARED")
def test_a_page_is_released_once():
    pool = PagePool(2, 2, 1, 2)
    page = pool.take()
    pool.release(page)
    for wrong in (page, 1, 2, 99):
        with pytest.raises(CacheError, match=f"page is {wrong}; .* it must be one in use"):
            pool.release(wrong)
    assert (pool.free, pool.references) == (2, [0, 0])
    assert {pool.take(), pool.take()} == {0, 1}
    with pytest.raises(CacheError, match="no free page: all 2 pages are in use"):
        pool.take()


@pytest.mark.clause("CACHE-MISUSE")
def test_nothing_can_be_kept_of_an_empty_cache():
    cache = KVCache()
    cache.keep([])
    with pytest.raises(CacheError, match="below the 0 tokens"):
        cache.keep([0])
    assert cache.append(K, V).keys.shape == K.shape


@pytest.mark.clause("CACHE-QUANTIZED", "CACHE-QUANTIZED-ERROR")
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_codes_at_the_ends_of_the_range(library, bits, dtype):
    """Differences that overflow, steps below the smallest normal number, and groups beside them that are ordinary."""
    limits = np.finfo(dtype)
    large, tiny = float(limits.max), float(limits.smallest_subnormal)
    x = np.array(
        [[-large, large, large / 3, 0.0], [-large, -large / 3, 1.0, large / 2], [tiny, 0.0, 0.0, 0.0],
         [0.0, 300 * tiny, 299 * tiny, 7 * tiny], [1.0, 2.0, 4.0, 3.5], [large] * 4, [-3 * tiny] * 4], dtype
    )  # fmt: skip
    codes, scale, zero = library.call(quantize, x, bits=bits, group=4)
    assert np.isfinite(scale).all()
    again = library.call(dequantize, codes, scale, zero)
    assert np.isfinite(again).all()
    step = scale.astype(float)
    off = np.abs(again.astype(float) / 4 - x.astype(float) / 4) * 4
    rounding = 4 * float(limits.eps) * np.abs(x.astype(float)).max(axis=-1, keepdims=True)
    assert (off <= step / 2 + rounding).all()
    np.testing.assert_array_equal(again[5:], x[5:])
    assert codes[0, :2].tolist() == [0, 2**bits - 1]


@pytest.mark.clause("CACHE-QUANTIZED", "CACHE-MISUSE")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_has_no_code_is_refused(library, bad):
    x = np.array([1.0, bad])
    with pytest.raises(ValueError, match="x holds NaN or an infinity, for which there is no code"):
        library.call(quantize, x, bits=4, group=2)
    cache, spoiled = QuantizedKVCache(4, 2, 4), V.copy()
    cache.append(K, V)
    spoiled[0, 1, 3, 2] = bad
    before = held(cache)
    with pytest.raises(ValueError, match="v holds NaN or an infinity"):
        cache.append(K, spoiled)
    for a, b in zip(held(cache), before, strict=True):
        np.testing.assert_array_equal(a, b)


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.clause("CACHE-BYTES")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 4, 7, 19])
def test_bytes_by_formula_are_bytes_held(dtype, n):
    k, v = K[0, :, :n].astype(dtype), V[0, :, :n].astype(dtype)
    sizes = {"kv_heads": G, "head_dim": D, "value_dim": DV, "itemsize": dtype().itemsize}

    def filled(cache, *tokens):
        cache.append(*tokens)
        return cache.nbytes

    assert filled(KVCache(), k, v) == cache_nbytes(n, **sizes) == k.nbytes + v.nbytes
    assert filled(RollingKVCache(5), k, v) == cache_nbytes(n, window=5, **sizes)
    assert filled(SinkKVCache(2, 4), k, v) == cache_nbytes(n, first=2, recent=4, **sizes)
    pool = PagePool(20, 3, G, D, DV, like=k)
    assert filled(PagedKVCache(pool), k[None], v[None]) == cache_nbytes(n, page_size=3, **sizes) == pool.nbytes
    latents = filled(LatentKVCache(), k[0], v[0])
    assert latents == cache_nbytes(n, latent_dim=D, rope_dim=DV, itemsize=dtype().itemsize)
    assert cache_nbytes(n, latent_dim=D) == cache_nbytes(n, latent_dim=D, rope_dim=0) == n * D * 2  # no part is rotated
    if dtype is not np.float16:  # codes come with float32 scales at least
        for bits in (4, 8):
            coded = filled(QuantizedKVCache(bits, 2, 4), k, v)
            assert coded == cache_nbytes(n, bits=bits, group=2, residual=4, **sizes)


@pytest.mark.clause("CACHE-BYTES")
def test_sinks_are_counted_only_where_they_are_kept():
    assert cache_nbytes(9, head_dim=D, recent=4) == cache_nbytes(9, head_dim=D, recent=4, first=0) == 4 * 2 * D * 2


@pytest.mark.clause("CACHE-BYTES")
@pytest.mark.parametrize(
    ("wrong", "least"),
    [
        ({"tokens": -1}, 0),
        ({"layers": 0}, 1),
        ({"kv_heads": 0}, 1),
        ({"itemsize": 0}, 1),
        ({"head_dim": -1}, 0),
        ({"value_dim": -1}, 0),
        ({"window": 0}, 1),
        ({"recent": 0}, 1),
        ({"first": -1, "recent": 4}, 0),
        ({"page_size": 0}, 1),
        ({"group": 0, "bits": 4}, 1),
        ({"residual": -1, "group": 1, "bits": 4}, 0),
        ({"latent_dim": 0, "head_dim": None}, 1),
        ({"rope_dim": -1, "latent_dim": 4, "head_dim": None}, 0),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else "",
)
def test_sizes_that_no_cache_has_are_refused(wrong, least):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be at least {least}"):
        cache_nbytes(**{"tokens": 8, "head_dim": 4, **wrong})
    cache_nbytes(**{"tokens": 8, "head_dim": 4, **wrong, name: least})


def test_bytes_of_formats():
    assert nbytes_of(np.zeros(6, dtype=np.uint8)) == 6
    assert nbytes_of(np.zeros(6, dtype=np.float16)) == 12
    with pytest.raises(ValueError, match="head_dim must be given"):
        cache_nbytes(3)
    with pytest.raises(ValueError, match="group must be given"):
        cache_nbytes(3, head_dim=4, bits=4)


def test_appending_does_not_copy_what_is_held():
    cache, copies = KVCache(), 0
    memory = None
    for _ in range(1024):
        cache.append(K[0, 0, :1], V[0, 0, :1])
        copies += cache._keys._memory is not memory
        memory = cache._keys._memory
    assert copies <= 11


def test_caches_keep_the_dtype_that_they_get():
    cached = KVCache().append(K.astype(np.float16), V.astype(np.float16))
    assert cached.keys.dtype == np.float16


@pytest.mark.clause("CACHE-SPLIT")
def test_tiled_attention_takes_what_a_cache_gives():
    cache = KVCache()
    cache.append(K[:, :, :10], V[:, :, :10])
    keys, values, k_positions, q_positions = cache.append(K[:, :, 10:], V[:, :, 10:])
    got = refattn.tiled_attention(
        Q[:, :, 10:], keys, values, cache.mask, q_tile=4, k_tile=3, k_positions=k_positions, q_positions=q_positions
    )
    close(got, full(masks.causal())[:, :, 10:])


@pytest.mark.clause("CACHE-TREE", "CACHE-TRUNCATE")
def test_a_tree_of_drafts_is_each_of_its_paths_decoded_by_itself():
    parents, prefix = [-1, 0, 0, 1, 2, 2, 5], 6
    draft = RNG.normal(size=(3, 1, 2, len(parents), D))
    q, k, v = draft
    places = np.array(tree_positions(parents, prefix))
    cache = KVCache()
    first = (K[:1, :2, :prefix], V[:1, :2, :prefix, :D])
    cache.append(refattn.rope(first[0], np.arange(prefix)), first[1])
    keys, values, k_at, q_at = cache.append(refattn.rope(k, places), v)
    rule = masks.tree(parents, prefix)
    out = refattn.attention(refattn.rope(q, places), keys, values, rule, k_positions=k_at, q_positions=q_at)
    for leaf in (3, 4, 6):
        path = [leaf]
        while parents[path[0]] != -1:
            path.insert(0, parents[path[0]])
        alone = KVCache()
        alone.append(refattn.rope(first[0], np.arange(prefix)), first[1])
        for depth, node in enumerate(path):
            at = np.array([prefix + depth])
            one = (..., slice(node, node + 1), slice(None))
            seen, mixed, *_ = alone.append(refattn.rope(k[one], at), v[one])
            close(out[one], refattn.attention(refattn.rope(q[one], at), seen, mixed))
        accepted = deepcopy(cache)
        accepted.keep([*range(prefix), *(prefix + node for node in path)])
        a, b = (c.append(k[..., :1, :], v[..., :1, :]) for c in (accepted, alone))
        for x, y in zip(a, b, strict=True):
            close(x, y)
    for wrong in ([13], [0, 13], [0, 1, 13], [0, 0], [1, 0]):
        with pytest.raises(CacheError, match="must increase and be below the 13 tokens"):
            cache.keep(wrong)
    with pytest.raises(ValueError, match="a parent is a smaller index"):
        tree_positions([0])


def test_wrong_traces_are_refused():
    with pytest.raises(ValueError, match="bring 3 tokens; q has T = 19"):
        decode(Q, K, V, [3])
    with pytest.raises(CacheError, match="take back 4 tokens; 3 are there"):
        decode(Q, K, V, [3, -4, 16])
    with pytest.raises(ValueError, match="there must be B = 2"):
        decode(Q, K, V, [3, [0], 16])
    with pytest.raises(ValueError, match="v has 1 sequences"):
        decode(Q, K, V[:1], [T])
    with pytest.raises(ValueError, match="k has 18 tokens"):
        decode(Q, K[:, :, 1:], V, [T])
    with pytest.raises(ValueError, match="q has shape"):
        decode(Q[0], K, V, [T])
    with pytest.raises(ValueError, match="cache is 'ring'"):
        decode(Q, K, V, [T], cache="ring")
    assert decode(Q[:, :, :0], K[:, :, :0], V[:, :, :0], []).shape == (B, H, 0, DV)
