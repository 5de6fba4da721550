"""Chunked attention: what holds whatever the numbers are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refattn import masks
from refattn.attention import attention
from refattn.gradients import attention_vjp
from refattn.sparse import chunked_attention, chunked_attention_vjp
from tests.sparse.test_window import close, length, qkv
from tests.strategies import floats_for, rng


@pytest.mark.clause("CHUNK-KEYS", "CHUNK-POSITIONS")
@pytest.mark.parametrize(("n", "sizes"), [(7, [1, 2, 3, 1, 2, 3, 1]), (3, [2, 3, 1]), (9, [0, 0, 1, 2, 3, 1, 2, 3, 1])])
def test_rows_have_as_many_keys_as_counted_by_hand(n, sizes):
    weights = chunked_attention(np.zeros((n, 2)), np.zeros((7, 2)), np.eye(7), 3)
    assert (weights > 0).sum(axis=-1).tolist() == sizes


@pytest.mark.clause("CHUNK-KEYS", "CHUNK-OPTIONS", "CHUNK-GRADIENT")
@given(seed=rng, n=length, m=length, size=st.sampled_from([1, 2, 3, 5, 64]))
def test_it_is_attention_under_its_mask_forward_and_backward(library, seed, n, m, size):
    q, k, v = qkv(seed, n, m)
    options = {"softcap": 2.0, "sinks": np.array([0.5, -1.0]), "bias": floats_for(seed, (n, m))}
    rule, further = masks.chunked(size), masks.padding(max(1, m - 2), 1)
    got = library.call(chunked_attention, q, k, v, size, further, **options, return_lse=True)
    close(got, library.call(attention, q, k, v, rule & further, **options, return_lse=True))
    options |= {"d_out": floats_for(seed + 5, (2, n, 3)), "d_lse": floats_for(seed + 6, (2, n))}
    got = library.call(chunked_attention_vjp, q=q, k=k, v=v, size=size, mask=further, **options)
    close(got, library.call(attention_vjp, q=q, k=k, v=v, mask=rule & further, **options))


@pytest.mark.clause("CHUNK-KEYS")
@given(seed=rng, n=length)
def test_one_chunk_is_causal_and_chunks_of_one_are_the_values(seed, n):
    q, k, v = qkv(seed, n, n)
    close([chunked_attention(q, k, v, n)], [attention(q, k, v, masks.causal())])
    close([chunked_attention(q, k, v, 1)], [v])


@pytest.mark.clause("CHUNK-KEYS", "CHUNK-POSITIONS")
@given(seed=rng, n=length, size=st.integers(1, 5), start=st.integers(-9, 9))
def test_each_chunk_is_a_causal_attention_of_its_own(seed, n, size, start):
    q, k, v = qkv(seed, n, n)
    at = np.arange(n) + start
    got = chunked_attention(q, k, v, size, q_positions=at, k_positions=at)
    for chunk in np.unique(at // size):
        own = at // size == chunk
        close([got[:, own]], [attention(q[:, own], k[:, own], v[:, own], masks.causal())])


@pytest.mark.clause("CHUNK-COST")
def test_chunks_longer_and_shorter_than_tiles():
    q, k, v = qkv(2, 700, 711)
    for size in (16, 128, 300):
        close([chunked_attention(q, k, v, size)], [attention(q, k, v, masks.chunked(size))])


@pytest.mark.clause("CHUNK-REFUSE")
def test_errors_name_what_is_wrong():
    q, k, v = qkv(1, 3, 5)
    with pytest.raises(ValueError, match="size is 0; it must be at least 1"):
        chunked_attention(q, k, v, 0)
    with pytest.raises(TypeError, match="size must be an integer, not None"):
        chunked_attention(q, k, v, None)
    with pytest.raises(TypeError, match=r"mask is an array \(5,\) of bool; it must be a rule"):
        chunked_attention(q, k, v, 2, np.ones(5, dtype=bool))
