"""Sliding window: what holds whatever the numbers are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refattn import masks
from refattn.attention import attention
from refattn.cache import RollingKVCache
from refattn.gradients import attention_vjp
from refattn.sparse import window_attention, window_attention_vjp, window_sides
from tests.strategies import floats_for, rng

side = st.sampled_from([None, 0, 1, 2, 5, 40])
length = st.integers(1, 13)


def qkv(seed, n, m, lead=(2,), d=4, dv=3):
    return tuple(
        floats_for(seed + x, (*lead, rows, width)) for x, (rows, width) in enumerate(((n, d), (m, d), (m, dv)))
    )


def close(got, wanted):
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def keys_seen(n, m, left, right, **options):
    """How many keys each query sees: equal scores, and values that tell keys apart."""
    weights = window_attention(np.zeros((n, 2)), np.zeros((m, 2)), np.eye(m), left, right, **options)
    return (weights > 0).sum(axis=-1)


@pytest.mark.clause("WINDOW-KEYS", "WINDOW-ALIGN", "WINDOW-ENDS")
@pytest.mark.parametrize(
    ("left", "right", "sizes"),
    [(2, 0, [1, 2, 3, 3, 3, 3, 3]), (3, 3, [4, 5, 6, 7, 6, 5, 4]), (2, 2, [3, 4, 5, 5, 5, 4, 3]), (0, 0, [1] * 7)],
)
def test_rows_have_as_many_keys_as_counted_by_hand(left, right, sizes):
    assert keys_seen(7, 7, left, right).tolist() == sizes
    assert keys_seen(3, 7, left, right).tolist() == sizes[-3:]
    assert keys_seen(9, 7, left, right)[2:].tolist() == sizes


@pytest.mark.clause("WINDOW-KEYS", "WINDOW-OPTIONS", "WINDOW-GRADIENT")
@given(seed=rng, n=length, m=length, left=side, right=side)
def test_it_is_attention_under_its_mask_forward_and_backward(library, seed, n, m, left, right):
    q, k, v = qkv(seed, n, m)
    options = {"softcap": 2.0, "sinks": np.array([0.5, -1.0]), "bias": floats_for(seed, (n, m))}
    rule, further = masks.window(left, right), masks.padding(max(1, m - 2), 1)
    got = library.call(window_attention, q, k, v, left, right, further, **options, return_lse=True)
    close(got, library.call(attention, q, k, v, rule & further, **options, return_lse=True))
    cotangents = {"d_out": floats_for(seed + 5, v.shape[:-2] + (n, 3)), "d_lse": floats_for(seed + 6, (2, n))}
    got = library.call(
        window_attention_vjp, q=q, k=k, v=v, left=left, right=right, mask=further, **options, **cotangents
    )
    close(got, library.call(attention_vjp, q=q, k=k, v=v, mask=rule & further, **options, **cotangents))


@pytest.mark.clause("WINDOW-KEYS")
@given(seed=rng, n=length)
def test_at_the_stated_sides_it_is_dense_causal_or_the_values(seed, n):
    q, k, v = qkv(seed, n, n)
    close([window_attention(q, k, v, None, None)], [attention(q, k, v)])
    close([window_attention(q, k, v, n, n)], [attention(q, k, v)])
    close([window_attention(q, k, v, n - 1, 0)], [attention(q, k, v, masks.causal())])
    close([window_attention(q, k, v, 0, 0)], [v])


@pytest.mark.clause("WINDOW-KEYS", "WINDOW-ENDS")
@given(seed=rng, n=length, left=st.integers(0, 5), right=st.integers(0, 5), before=st.integers(0, 4))
def test_turned_round_and_moved(seed, n, left, right, before):
    """Time reversed exchanges the sides; the same sequence amid others that a mask hides gives the same."""
    q, k, v = qkv(seed, n, n)
    out = window_attention(q, k, v, left, right)
    turned = window_attention(*(x[:, ::-1] for x in (q, k, v)), right, left)
    close([turned[:, ::-1]], [out])
    more = [np.pad(x, ((0, 0), (before, 3), (0, 0)), constant_values=9.0) for x in (q, k, v)]
    amid = window_attention(*more, left, right, masks.padding(n, before))
    close([amid[:, before : before + n]], [out])


@pytest.mark.clause("WINDOW-KEYS", "WINDOW-ALIGN")
@given(seed=rng, blocks=st.lists(st.integers(1, 5), min_size=1, max_size=8), window=st.integers(1, 6))
def test_a_ring_of_the_last_keys_gives_what_all_keys_give(seed, blocks, window):
    n = sum(blocks)
    q, k, v = qkv(seed, n, n)
    whole = window_attention(q, k, v, window - 1, 0)
    cache, start = RollingKVCache(window), 0
    for size in blocks:
        new = slice(start, start + size)
        held = cache.append(k[:, new], v[:, new])
        order = np.random.default_rng(seed).permutation(held.keys.shape[-2])  # as slots of a ring may hold them
        at = {"q_positions": held.q_positions, "k_positions": held.k_positions[order]}
        got = window_attention(q[:, new], held.keys[:, order], held.values[:, order], window - 1, 0, **at)
        close([got], [whole[:, new]])
        start += size


@pytest.mark.clause("WINDOW-LOCAL")
def test_nothing_outside_is_read(library):
    q, k, v = qkv(3, 40, 40)
    clean = library.call(window_attention, q, k, v, 3, 2)
    for x in (k, v):
        x[:, 20] = np.nan
    got = library.call(window_attention, q, k, v, 3, 2)
    seen = np.arange(18, 24)  # the queries whose window holds key 20
    np.testing.assert_array_equal(np.delete(got, seen, axis=1), np.delete(clean, seen, axis=1))
    assert np.isnan(got[:, seen]).all()


@pytest.mark.clause("WINDOW-COST")
@pytest.mark.parametrize("n", [257, 1000])
def test_many_tiles_are_the_same_as_one(n):
    q, k, v = qkv(4, n, n + 30)
    for left, right in ((16, 0), (100, 31), (700, 5)):
        close([window_attention(q, k, v, left, right)], [attention(q, k, v, masks.window(left, right))])


@pytest.mark.clause("WINDOW-SIDES")
def test_six_meanings_of_one_number():
    """Keys that a query amid the others sees, where a window 'of 6' is meant."""
    counts = {
        "tokens": 6,
        "before": 7,
        "each_side": 13,
        "both_sides": 7,
        "each_side_exclusive": 11,
        "both_sides_exact": 6,
    }
    for meaning, keys in counts.items():
        left, right = window_sides(6, meaning)
        assert keys_seen(40, 40, left, right)[20] == keys
        assert (right == 0) == (meaning in ("tokens", "before"))


@pytest.mark.clause("WINDOW-REFUSE")
def test_errors_name_what_is_wrong():
    q, k, v = qkv(1, 3, 5)
    with pytest.raises(ValueError, match="left is -1; it must be at least 0, or None"):
        window_attention(q, k, v, -1, 0)
    with pytest.raises(TypeError, match=r"right must be an integer, not 0\.5"):
        window_attention(q, k, v, 1, 0.5)
    with pytest.raises(TypeError, match=r"mask is an array \(3, 5\) of bool; it must be a rule of refattn.masks"):
        window_attention(q, k, v, 1, 0, np.ones((3, 5), dtype=bool))
    with pytest.raises(ValueError, match="v has 4 keys, k has 5"):
        window_attention(q, k, v[:, 1:], 1, 0)
    with pytest.raises(ValueError, match="meaning is 'all'; it must be one of 'tokens', 'before'"):
        window_sides(4, "all")
    with pytest.raises(ValueError, match="size is 0; it must be at least 1"):
        window_sides(0, "tokens")
