"""Mixture of block attention: what holds whatever the numbers are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refattn import masks
from refattn.attention import attention
from refattn.gradients import attention_vjp
from refattn.sparse import chunked_attention, moba_attention, moba_attention_vjp, moba_blocks
from tests.benchmarks.memory import peak
from tests.sparse.test_window import close, length, qkv
from tests.strategies import floats_for, rng

size, kept = st.integers(1, 5), st.integers(1, 4)


def keys_of(blocks, size, n, m):
    """Which keys (..., N, M) blocks hold that are not behind their query, written out."""
    found = np.zeros((*blocks.shape[:-1], m), dtype=bool)
    for index in np.ndindex(*blocks.shape[:-1]):
        place = m - n + index[-1]
        for b in blocks[index]:
            if b >= 0:
                found[index][b * size : min((b + 1) * size, place + 1)] = True
    return found


@pytest.mark.clause("MOBA-KEYS", "MOBA-MASK", "MOBA-OPTIONS", "MOBA-GRADIENT")
@given(seed=rng, n=length, m=length, size=size, kept=kept)
def test_it_is_attention_to_the_chosen_blocks_forward_and_backward(library, seed, n, m, size, kept):
    q, k, v = qkv(seed, n, m)
    rule = masks.padding(max(1, m - 2))
    options = {"softcap": 2.0, "sinks": np.array([0.5, -1.0]), "bias": floats_for(seed, (n, m))}
    blocks = library.call(moba_blocks, q, k, size, kept)
    allowed = keys_of(np.asarray(blocks), size, n, m) & rule.dense(n, m)
    got = library.call(moba_attention, q, k, v, size, kept, rule, **options, return_lse=True)
    close(got, attention(q, k, v, allowed, **options, return_lse=True))
    options |= {"d_out": floats_for(seed + 5, (2, n, 3)), "d_lse": floats_for(seed + 6, (2, n))}
    got = library.call(moba_attention_vjp, q=q, k=k, v=v, size=size, kept=kept, mask=rule, **options)
    close(got, attention_vjp(q=q, k=k, v=v, mask=allowed, **options))


@pytest.mark.clause("MOBA-CHOICE", "MOBA-OWN", "MOBA-PAST")
@given(seed=rng, n=length, m=length, size=size, kept=kept)
def test_no_past_block_that_is_left_out_suits_better(seed, n, m, size, kept):
    q, k, _ = qkv(seed, n, m, lead=())
    for i, row in enumerate(moba_blocks(q, k, size, kept)):
        own = (m - n + i) // size
        chosen = [b for b in row.tolist() if b >= 0]
        assert row.tolist() == chosen + [-1] * (len(row) - len(chosen))  # none are behind
        assert chosen == sorted(set(chosen))
        assert len(chosen) == (min(kept, own + 1) if own >= 0 else 0)
        products = {b: q[i] @ k[b * size : (b + 1) * size].mean(axis=0) for b in range(own)}
        assert not chosen or chosen[-1] == own
        least = min((products[b] for b in chosen[:-1]), default=np.inf)
        assert all(products[b] <= least for b in products if b not in chosen) or kept == 1


@pytest.mark.clause("MOBA-OWN", "MOBA-KEYS")
@given(seed=rng, n=length, size=size)
def test_one_block_is_chunks_and_all_blocks_are_causal_attention(seed, n, size):
    q, k, v = qkv(seed, n, n)
    close([moba_attention(q, k, v, size, 1)], [chunked_attention(q, k, v, size)])
    close([moba_attention(q, k, v, size, n)], [attention(q, k, v, masks.causal())])


@pytest.mark.clause("MOBA-TIES")
def test_of_equal_means_the_first_are_chosen(library):
    q, k = np.ones((8, 1)), np.array([[1.0], [1.0], [0.0], [2.0], [2.0], [0.0], [1.0], [1.0]])
    found = np.asarray(library.call(moba_blocks, q, k, 2, 3))
    np.testing.assert_array_equal(found[[1, 3, 5, 7]], [[0, -1, -1], [0, 1, -1], [0, 1, 2], [0, 1, 3]])


@pytest.mark.clause("MOBA-PAST")
@given(seed=rng, n=length, size=size, kept=kept)
def test_what_is_behind_a_query_changes_nothing(seed, n, size, kept):
    q, k, v = qkv(seed, n, n)
    out = moba_attention(q, k, v, size, kept)
    at = n // 2
    k[:, at + 1 :], v[:, at + 1 :], q[:, at + 1 :] = np.nan, np.nan, np.nan
    np.testing.assert_array_equal(moba_attention(q, k, v, size, kept)[:, : at + 1], out[:, : at + 1])


@pytest.mark.clause("MOBA-KEYS")
def test_a_block_that_is_not_chosen_may_hold_nan_in_its_values():
    q, k, v = np.ones((6, 1)), np.array([[1.0], [1.0], [3.0], [3.0], [0.0], [0.0]]), np.ones((6, 2))
    v[:2] = np.nan
    assert np.isfinite(moba_attention(q, k, v, 2, 2)[4:]).all()
    k[1] = np.nan  # a product that is NaN shows: its block is chosen
    np.testing.assert_array_equal(moba_blocks(q, k, 2, 2)[4:], [[0, 2], [0, 2]])


@pytest.mark.clause("MOBA-HEADS")
def test_heads_share_keys_and_choose_for_themselves(library):
    q, (_, k, v) = floats_for(5, (2, 4, 7, 4)), qkv(6, 7, 10, lead=(2, 2))
    got = library.call(moba_attention, q, k, v, 3, 2)
    for h in range(4):
        close([got[:, h]], [moba_attention(q[:, h], k[:, h // 2], v[:, h // 2], 3, 2)])
    blocks = moba_blocks(q, k, 3, 2)
    assert (blocks[:, 0] != blocks[:, 1]).any()  # the heads of a group differ


@pytest.mark.clause("MOBA-KEYS", "MOBA-OWN")
@given(seed=rng, m=length, size=size, kept=kept)
def test_a_step_of_decoding_is_the_last_row(seed, m, size, kept):
    q, k, v = qkv(seed, m, m)
    close([moba_attention(q[:, -1:], k, v, size, kept)], [moba_attention(q, k, v, size, kept)[:, -1:]])


@pytest.mark.clause("MOBA-COST")
def test_memory_is_not_that_of_all_pairs():
    q, k, v = (x.astype(np.float32) for x in qkv(1, 16384, 16384, lead=(), d=8, dv=8))
    held, _ = peak(lambda: (moba_attention(q, k, v, 128, 2),))
    assert held < 16384**2 * 4 / 8


@pytest.mark.clause("MOBA-REFUSE")
def test_errors_name_what_is_wrong():
    q, k, v = qkv(1, 3, 5)
    with pytest.raises(ValueError, match="kept is 0; it must be at least 1"):
        moba_attention(q, k, v, 2, 0)
    with pytest.raises(ValueError, match="size is 0; it must be at least 1"):
        moba_blocks(q, k, 0, 1)
    with pytest.raises(TypeError, match="k_positions is given; blocks and what is past are counted in places"):
        moba_attention(q, k, v, 2, 1, k_positions=np.arange(5))
    with pytest.raises(TypeError, match=r"mask is an array \(5,\) of bool; it must be a rule"):
        moba_attention_vjp(v, q, k, v, 2, 1, np.ones(5, dtype=bool))
