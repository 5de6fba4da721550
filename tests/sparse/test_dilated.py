"""Dilated window: what holds whatever the numbers are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refattn import masks
from refattn.attention import attention
from refattn.gradients import attention_vjp
from refattn.sparse import dilated_attention, dilated_attention_vjp, window_attention
from tests.sparse.test_window import close, length, qkv, side
from tests.strategies import floats_for, rng

step = st.integers(1, 5)


@pytest.mark.clause("DILATED-KEYS", "DILATED-STEP")
def test_keys_counted_by_hand():
    weights = dilated_attention(np.zeros((2, 2)), np.zeros((9, 2)), np.eye(9), 2, 1, 3)
    assert [np.flatnonzero(row).tolist() for row in weights] == [[1, 4, 7], [2, 5, 8]]
    weights = dilated_attention(np.zeros((1, 2)), np.zeros((9, 2)), np.eye(9), None, 0, 4)
    assert np.flatnonzero(weights).tolist() == [0, 4, 8]


@pytest.mark.clause("DILATED-KEYS", "DILATED-OPTIONS", "DILATED-GRADIENT")
@given(seed=rng, n=length, m=length, left=side, right=side, dilation=step)
def test_it_is_attention_under_its_mask_forward_and_backward(library, seed, n, m, left, right, dilation):
    q, k, v = qkv(seed, n, m)
    options = {"softcap": 2.0, "sinks": np.array([0.5, -1.0]), "bias": floats_for(seed, (n, m))}
    rule, further = masks.dilated(left, right, dilation), masks.padding(max(1, m - 2), 1)
    own = {"left": left, "right": right, "dilation": dilation, "mask": further}
    got = library.call(dilated_attention, q=q, k=k, v=v, **own, **options, return_lse=True)
    close(got, library.call(attention, q, k, v, rule & further, **options, return_lse=True))
    options |= {"d_out": floats_for(seed + 5, (2, n, 3)), "d_lse": floats_for(seed + 6, (2, n))}
    got = library.call(dilated_attention_vjp, q=q, k=k, v=v, **own, **options)
    close(got, library.call(attention_vjp, q=q, k=k, v=v, mask=rule & further, **options))


@pytest.mark.clause("DILATED-STEP", "DILATED-KEYS")
@given(seed=rng, n=length, left=side, right=side)
def test_a_step_of_one_is_a_window_and_one_beyond_the_length_the_values(seed, n, left, right):
    q, k, v = qkv(seed, n, n)
    close([dilated_attention(q, k, v, left, right, 1)], [window_attention(q, k, v, left, right)])
    close([dilated_attention(q, k, v, left, right, n)], [v])


@pytest.mark.clause("DILATED-STEP")
@given(seed=rng, n=length, dilation=step, start=st.integers(-9, 9))
def test_remainders_never_meet(seed, n, dilation, start):
    """Nor do they where positions start elsewhere, or keys stand in another order."""
    q, k, v = qkv(seed, n, n)
    at = np.arange(n) + start
    got = dilated_attention(q, k, v, 2, 1, dilation, q_positions=at, k_positions=at)
    for remainder in np.unique(at % dilation):
        own = at % dilation == remainder
        close([got[:, own]], [window_attention(q[:, own], k[:, own], v[:, own], 2, 1)])
    order = np.random.default_rng(seed).permutation(n)
    moved = {"q_positions": at, "k_positions": at[order]}
    close([dilated_attention(q, k[:, order], v[:, order], 2, 1, dilation, **moved)], [got])


@pytest.mark.clause("DILATED-HEADS", "DILATED-GRADIENT")
@given(seed=rng, dilations=st.lists(step, min_size=4, max_size=4))
def test_every_head_may_have_its_own(library, seed, dilations):
    """With keys that heads share, and options that differ by head."""
    q, (_, k, v) = floats_for(seed, (2, 4, 6, 4)), qkv(seed + 1, 1, 9, lead=(2, 2))
    rule = masks.padding(np.array([[9, 8, 7, 6], [3, 9, 5, 4]]))
    options = {"sinks": floats_for(seed, (4,)), "bias": floats_for(seed, (4, 1, 9))}
    got = library.call(dilated_attention, q, k, v, 2, 1, np.array(dilations), rule, **options)
    d_out, d_k = floats_for(seed + 5, (2, 4, 6, 3)), np.zeros(k.shape)
    found = library.call(dilated_attention_vjp, d_out, q, k, v, 2, 1, np.array(dilations), rule, **options)
    for h, r in enumerate(dilations):
        allowed = masks.dilated(2, 1, r).dense(6, 9) & rule.dense(6, 9)[:, h]
        own = {"mask": allowed, "sinks": options["sinks"][h], "bias": options["bias"][h]}
        args = q[:, h], k[:, h // 2], v[:, h // 2]
        close([got[:, h]], [attention(*args, **own)])
        one = attention_vjp(d_out[:, h], *args, **own)
        d_k[:, h // 2] += one.k
        close([found.q[:, h], found.bias[h], found.sinks[h]], [one.q, one.bias, one.sinks])
    close([found.k], [d_k])


@pytest.mark.clause("DILATED-COST")
def test_many_tiles_are_the_same_as_one():
    q, k, v = qkv(4, 700, 731)
    for dilation in (2, 7, 64):
        rule = masks.dilated(40, 3, dilation)
        close([dilated_attention(q, k, v, 40, 3, dilation)], [attention(q, k, v, rule)])


@pytest.mark.clause("DILATED-REFUSE")
def test_errors_name_what_is_wrong():
    q, k, v = qkv(1, 3, 5)
    with pytest.raises(ValueError, match="dilation is 0; it must be at least 1"):
        dilated_attention(q, k, v, 1, 0, 0)
    with pytest.raises(ValueError, match=r"dilation has shape \(3,\); it must be a number for each of 2 heads"):
        dilated_attention(q, k, v, 1, 0, [1, 2, 3])
    with pytest.raises(ValueError, match="it must be one number, as there are no heads"):
        dilated_attention(q[0], k[0], v[0], 1, 0, [1])
    with pytest.raises(ValueError, match="left is -1; it must be at least 0"):
        dilated_attention(q, k, v, -1, 0, 2)
    with pytest.raises(TypeError, match=r"mask is an array \(5,\) of bool; it must be a rule"):
        dilated_attention(q, k, v, 1, 0, 2, np.ones(5, dtype=bool))
