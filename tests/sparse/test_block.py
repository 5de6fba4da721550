"""Block-sparse attention: what holds whatever the numbers are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refattn import masks
from refattn.attention import attention
from refattn.gradients import attention_vjp
from refattn.sparse import block_attention, block_attention_vjp, chunked_attention, lists
from tests.sparse.test_window import close, length, qkv
from tests.strategies import floats_for, rng


def some_layout(seed, *lead, m, size):
    blocks = -(-m // size)
    return np.random.default_rng(seed).random((*lead, blocks, blocks)) < 0.5


def table(layout, size, n, m):
    """The layout for single places, written out."""
    found = np.zeros((*layout.shape[:-2], n, m), dtype=bool)
    for i in range(n):
        for j in range(m):
            place = m - n + i
            found[..., i, j] = layout[..., place // size, j // size] if place >= 0 else False
    return found


@pytest.mark.clause("BLOCK-KEYS", "BLOCK-ALIGN", "BLOCK-LAST", "BLOCK-MASK", "BLOCK-OPTIONS", "BLOCK-GRADIENT")
@given(seed=rng, n=length, m=length, size=st.integers(1, 5), heads=st.sampled_from([(), (2,)]))
def test_it_is_attention_under_its_mask_forward_and_backward(library, seed, n, m, size, heads):
    q, k, v = qkv(seed, n, m)
    layout, rule = some_layout(seed, *heads, m=m, size=size), masks.causal() & masks.padding(max(1, m - 2))
    options = {"softcap": 2.0, "sinks": np.array([0.5, -1.0]), "bias": floats_for(seed, (n, m))}
    allowed = table(layout, size, n, m) & rule.dense(n, m)
    got = library.call(block_attention, q, k, v, layout, size, rule, **options, return_lse=True)
    close(got, attention(q, k, v, allowed, **options, return_lse=True))
    options |= {"d_out": floats_for(seed + 5, (2, n, 3)), "d_lse": floats_for(seed + 6, (2, n))}
    got = library.call(block_attention_vjp, q=q, k=k, v=v, layout=layout, size=size, mask=rule, **options)
    close(got, attention_vjp(q=q, k=k, v=v, mask=allowed, **options))


@pytest.mark.clause("BLOCK-KEYS", "BLOCK-MASK")
@given(seed=rng, n=length, size=st.integers(1, 20))
def test_full_and_diagonal_layouts(seed, n, size):
    q, k, v = qkv(seed, n, n)
    blocks = -(-n // size)
    close([block_attention(q, k, v, np.ones((blocks, blocks), dtype=bool), size)], [attention(q, k, v)])
    diagonal = np.eye(blocks, dtype=bool)
    close([block_attention(q, k, v, diagonal, size, masks.causal())], [chunked_attention(q, k, v, size)])
    close([block_attention(q, k, v, diagonal, size)], [attention(q, k, v, masks.block(size))])


@pytest.mark.clause("BLOCK-KEYS", "BLOCK-LAST")
@given(seed=rng, m=length, size=st.sampled_from([2, 4]))
def test_a_finer_layout_of_the_same_pairs_is_the_same(seed, m, size):
    q, k, v = qkv(seed, m, m)
    layout = some_layout(seed, m=m, size=size)
    fine = np.repeat(np.repeat(layout, 2, axis=0), 2, axis=1)[: -(-m // (size // 2)), : -(-m // (size // 2))]
    close([block_attention(q, k, v, layout, size)], [block_attention(q, k, v, fine, size // 2)])


@pytest.mark.clause("BLOCK-HEADS")
def test_heads_may_share_keys_and_have_layouts_of_their_own(library):
    q, (_, k, v) = floats_for(5, (2, 4, 7, 4)), qkv(6, 7, 10, lead=(2, 2))
    layout = some_layout(7, 4, m=10, size=3)
    got = library.call(block_attention, q, k, v, layout, 3)
    for h in range(4):
        close([got[:, h]], [block_attention(q[:, h], k[:, h // 2], v[:, h // 2], layout[h], 3)])


@pytest.mark.clause("BLOCK-COST")
def test_one_long_row_does_not_make_the_others_long(monkeypatch):
    """Rows of all blocks, as of global tokens: the others are gathered as wide as they are."""
    q, k, v = qkv(2, 64, 64)
    layout = np.eye(16, dtype=bool)
    layout[[0, 9]] = True
    seen = []
    gathered = lists.Listed.chunk
    monkeypatch.setattr(lists, "ROOM", 2**12)
    monkeypatch.setattr(
        lists.Listed, "chunk", lambda of, groups: seen.append((found := gathered(of, groups))[1]["k"].shape) or found
    )
    close([block_attention(q, k, v, layout, 4)], [attention(q, k, v, table(layout, 4, 64, 64))])
    assert sum(np.prod(shape[:-1]) for shape in seen) < 64 * 16  # a quarter of all


@pytest.mark.clause("BLOCK-REFUSE")
def test_errors_name_what_is_wrong():
    q, k, v = qkv(1, 3, 5)
    with pytest.raises(ValueError, match="layout has 2 x 2 blocks; 5 keys are 3 blocks of 2"):
        block_attention(q, k, v, np.ones((2, 2), dtype=bool), 2)
    with pytest.raises(TypeError, match="layout has dtype int64; it must be bool"):
        block_attention(q, k, v, np.ones((3, 3), dtype=np.int64), 2)
    with pytest.raises(ValueError, match="size is 0; it must be at least 1"):
        block_attention(q, k, v, np.ones((3, 3), dtype=bool), 0)
    with pytest.raises(ValueError, match="leading axes"):
        block_attention(q, k, v, np.ones((4, 3, 3), dtype=bool), 2)
    with pytest.raises(TypeError, match=r"mask is an array \(5,\) of bool; it must be a rule"):
        block_attention(q, k, v, np.ones((3, 3), dtype=bool), 2, np.ones(5, dtype=bool))
