"""LongNet's dilated attention: what holds whatever the numbers are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refattn import masks
from refattn.attention import attention
from refattn.gradients import attention_vjp
from refattn.sparse import chunked_attention, longnet_attention, longnet_attention_vjp
from tests.sparse.test_window import close, length, qkv
from tests.strategies import floats_for, rng

branches = st.lists(
    st.tuples(st.sampled_from([1, 2, 3, 4, 6, 7, 40]), st.integers(1, 5)).flatmap(
        lambda x: st.tuples(st.just(x[0]), st.just(x[1]), st.integers(0, x[1] - 1))
    ),
    min_size=1,
    max_size=3,
)


def table(n, m, segments, dilations, offsets, causal):
    """In how many branches each pair meets, one segment after the other, each from a list of its positions."""
    found = np.zeros((n, m))
    for width, step, offset in zip(segments, dilations, offsets, strict=True):
        for start in range((m - n) // width * width, m, width):
            own = range(start + offset, start + width, step)
            for i in own:
                for j in own:
                    if 0 <= i - (m - n) < n and 0 <= j < m and (j <= i or not causal):
                        found[i - (m - n), j] += 1
    return found


def arguments(branches, causal=False):
    segments, dilations, offsets = (list(x) for x in zip(*branches, strict=True))
    return {"segments": segments, "dilations": dilations, "offsets": offsets, "causal": causal}


@pytest.mark.clause(
    "LONGNET-BRANCH", "LONGNET-SEGMENT", "LONGNET-MULTISET", "LONGNET-NONE", "LONGNET-OPTIONS", "LONGNET-GRADIENT"
)
@given(seed=rng, n=length, m=length, branches=branches, causal=st.booleans())
def test_it_is_attention_over_a_multiset_forward_and_backward(library, seed, n, m, branches, causal):
    q, k, v = qkv(seed, n, m)
    own, further = arguments(branches, causal), masks.padding(max(1, m - 2), 1)
    count = table(n, m, **own) * further.dense(n, m)
    options = {"softcap": 2.0, "sinks": np.array([0.5, -1.0])}
    bias = floats_for(seed, (n, m))
    same = {"mask": count > 0, "bias": bias + np.log(np.maximum(count, 1.0)), **options}
    got = library.call(longnet_attention, q=q, k=k, v=v, mask=further, bias=bias, **own, **options, return_lse=True)
    close(got, attention(q, k, v, **same, return_lse=True))
    cotangents = {"d_out": floats_for(seed + 5, (2, n, 3)), "d_lse": floats_for(seed + 6, (2, n))}
    got = library.call(longnet_attention_vjp, q=q, k=k, v=v, mask=further, bias=bias, **own, **options, **cotangents)
    close(got, attention_vjp(q=q, k=k, v=v, **same, **cotangents))


@pytest.mark.clause("LONGNET-BRANCH", "LONGNET-SEGMENT")
@given(seed=rng, n=length, m=length, size=st.integers(1, 9))
def test_where_it_is_something_simpler(seed, n, m, size):
    """One branch without steps is blocks or chunks, and with a segment for all dense attention."""
    q, k, v = qkv(seed, n, m)
    one = {"dilations": [1], "offsets": [0]}
    close([longnet_attention(q, k, v, [size], **one)], [attention(q, k, v, masks.block(size))])
    close([longnet_attention(q, k, v, [size], **one, causal=True)], [chunked_attention(q, k, v, size)])
    if n <= m:
        close([longnet_attention(q, k, v, [m], **one)], [attention(q, k, v)])
    twice = longnet_attention(q, k, v, [size] * 2, [1] * 2, offsets=[0] * 2, return_lse=True)
    out, lse = longnet_attention(q, k, v, [size], **one, return_lse=True)
    close(twice, (out, lse + np.log(2)))


@pytest.mark.clause("LONGNET-SEGMENT")
@given(seed=rng, n=length, branches=branches, causal=st.booleans(), start=st.integers(-9, 9))
def test_positions_count_and_not_places(seed, n, branches, causal, start):
    """A sequence may begin anywhere, and keys may stand in any order."""
    q, k, v = qkv(seed, n, n)
    own, at, order = arguments(branches, causal), np.arange(n) + start, np.random.default_rng(seed).permutation(n)
    got = longnet_attention(q, k, v, **own, q_positions=at, k_positions=at)
    moved = {"q_positions": at, "k_positions": at[order]}
    close([longnet_attention(q, k[:, order], v[:, order], **own, **moved)], [got])
    if start >= 0:
        before = floats_for(seed, (2, start, 4)), floats_for(seed, (2, start, 3))
        k, v = (np.concatenate(x, axis=1) for x in zip(before, (k, v), strict=True))
        rule = masks.padding(n, start)
        close([longnet_attention(q, k, v, mask=rule, **own)], [got])


@pytest.mark.clause("LONGNET-OFFSETS", "LONGNET-GRADIENT")
@pytest.mark.parametrize(
    ("offsets", "as_list"),
    [
        ("paper", [[0, 0, 0, 0], [0, 1, 0, 1], [0, 1, 2, 0]]),
        ("code", [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]),
        ([0, [1, 0, 0, 1], 2], [[0, 0, 0, 0], [1, 0, 0, 1], [2, 2, 2, 2]]),
    ],
)
def test_every_head_has_offsets_of_its_own(library, offsets, as_list):
    """Four heads over two of the keys, dilations 1, 2 and 3: the rules counted by hand."""
    q, (_, k, v) = floats_for(5, (2, 4, 6, 4)), qkv(6, 1, 9, lead=(2, 2))
    own = {"segments": [2, 4, 9], "dilations": [1, 2, 3]}
    got = library.call(longnet_attention, q, k, v, **own, offsets=offsets)
    d_out, d_k = floats_for(7, (2, 4, 6, 3)), np.zeros(k.shape)
    found = library.call(longnet_attention_vjp, d_out, q, k, v, **own, offsets=offsets)
    for h in range(4):
        args, one = (q[:, h], k[:, h // 2], v[:, h // 2]), own | {"offsets": [x[h] for x in as_list]}
        close([got[:, h]], [longnet_attention(*args, **one)])
        gradients = longnet_attention_vjp(d_out[:, h], *args, **one)
        d_k[:, h // 2] += gradients.k
        close([found.q[:, h]], [gradients.q])
    close([found.k], [d_k])


@pytest.mark.clause("LONGNET-NONE", "LONGNET-MULTISET")
def test_a_branch_whose_log_sum_exp_is_zero_takes_part():
    x, v = np.zeros((4, 2)), np.array([[1.0], [3.0], [5.0], [9.0]])
    out, lse = longnet_attention(x, x, v, [1, 2], [1, 2], offsets=[0, 1], return_lse=True)
    close([out[:, 0], lse], [[1.0, 3.0, 5.0, 9.0], np.log([1.0, 2.0, 1.0, 2.0])])
    out, lse = longnet_attention(x, x, v, [4], [2], offsets=[1], return_lse=True)
    close([out[:, 0], lse], [[0.0, 6.0, 0.0, 6.0], [-np.inf, np.log(2), -np.inf, np.log(2)]])


@pytest.mark.clause("LONGNET-COST")
def test_many_tiles_are_the_same_as_one():
    q, k, v = qkv(4, 700, 731)
    own = arguments([(64, 1, 0), (256, 4, 3), (150, 7, 2)], causal=True)
    count = table(700, 731, **own)
    close([longnet_attention(q, k, v, **own)], [attention(q, k, v, count > 0, bias=np.log(np.maximum(count, 1.0)))])


@pytest.mark.clause("LONGNET-REFUSE")
def test_errors_name_what_is_wrong():
    q, k, v = qkv(1, 3, 5)
    with pytest.raises(ValueError, match="segments is 0; it must be at least 1"):
        longnet_attention(q, k, v, [0], [1], offsets=[0])
    with pytest.raises(ValueError, match="dilations is 0; it must be at least 1"):
        longnet_attention(q, k, v, [2], [0], offsets=[0])
    with pytest.raises(ValueError, match="offsets holds 2 for a dilation of 2; it must be 0 to 1"):
        longnet_attention(q, k, v, [4], [2], offsets=[2])
    with pytest.raises(ValueError, match=r"offsets has shape \(3,\); it must be a number for each of 2 heads"):
        longnet_attention(q, k, v, [4], [2], offsets=[[0, 1, 0]])
    with pytest.raises(ValueError, match=r"dilations is .*; it must be a list, as long as segments"):
        longnet_attention(q, k, v, [4, 8], [1], offsets=[0, 0])
    with pytest.raises(ValueError, match="segments is 4; it must be a list"):
        longnet_attention(q, k, v, 4, [1], offsets=[0])
    with pytest.raises(ValueError, match="offsets is 'heads'; it must be one of 'paper', 'code'"):
        longnet_attention(q, k, v, [4], [1], offsets="heads")
    with pytest.raises(TypeError, match=r"mask is an array \(5,\) of bool; it must be a rule"):
        longnet_attention(q, k, v, [4], [1], np.ones(5, dtype=bool), offsets=[0])
