"""Strided attention of the Sparse Transformer: what holds whatever the numbers are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refattn import masks
from refattn.attention import attention
from refattn.gradients import attention_vjp
from refattn.sparse import dilated_attention, strided_attention, strided_attention_vjp, window_attention
from refattn.sparse.strided import PARTS
from tests.sparse.test_window import close, length, qkv
from tests.strategies import floats_for, rng

stride = st.sampled_from([1, 2, 3, 5, 6, 40])
part = st.sampled_from(PARTS)


def table(n, m, stride, part="merged"):
    """Which pairs a part has, from the paper's sets."""
    found = np.zeros((n, m), dtype=bool)
    for row in range(n):
        i = m - n + row
        local = set(range(max(0, i - stride), i + 1))
        far = set(range(i, -1, -stride))
        for j in {"local": local, "strided": far, "merged": local | far}[part]:
            found[row, j] = True
    return found


def seen(n, m, stride, **options):
    weights = strided_attention(np.zeros((n, 2)), np.zeros((m, 2)), np.eye(m), stride, **options)
    return weights > 0


@pytest.mark.clause("STRIDED-LOCAL", "STRIDED-FAR", "STRIDED-MERGED")
@given(n=st.integers(1, 40), m=st.integers(1, 40), stride=stride, part=part)
def test_its_keys_are_those_of_the_paper(n, m, stride, part):
    assert (seen(n, m, stride, part=part) == table(n, m, stride, part)).all()


@pytest.mark.clause("STRIDED-MERGED")
@given(n=st.integers(1, 40), stride=st.integers(1, 40))
def test_the_number_of_keys_of_a_merged_head(n, stride):
    i = np.arange(n)
    assert (seen(n, n, stride).sum(axis=-1) == np.minimum(i, stride) + 1 + np.maximum(0, i // stride - 1)).all()


@pytest.mark.clause("STRIDED-LOCAL", "STRIDED-FAR")
@given(n=st.integers(1, 40), stride=st.integers(1, 9))
def test_two_steps_reach_every_earlier_position(n, stride):
    """In either order of the layers."""
    local, far = (seen(n, n, stride, part=x).astype(int) for x in ("local", "strided"))
    for two in (far @ local, local @ far):
        assert ((two > 0) == np.tri(n, dtype=bool)).all()


@pytest.mark.clause("STRIDED-MERGED", "STRIDED-OPTIONS", "STRIDED-GRADIENT")
@given(seed=rng, n=length, m=length, stride=stride, part=part)
def test_it_is_attention_under_its_mask_forward_and_backward(library, seed, n, m, stride, part):
    q, k, v = qkv(seed, n, m)
    options = {"softcap": 2.0, "sinks": np.array([0.5, -1.0]), "bias": floats_for(seed, (n, m))}
    further = masks.padding(max(1, m - 2), 1)
    allowed = table(n, m, stride, part) & further.dense(n, m)
    own = {"stride": stride, "part": part, "mask": further}
    got = library.call(strided_attention, q=q, k=k, v=v, **own, **options, return_lse=True)
    close(got, attention(q, k, v, allowed, **options, return_lse=True))
    options |= {"d_out": floats_for(seed + 5, (2, n, 3)), "d_lse": floats_for(seed + 6, (2, n))}
    got = library.call(strided_attention_vjp, q=q, k=k, v=v, **own, **options)
    close(got, attention_vjp(q=q, k=k, v=v, mask=allowed, **options))


@pytest.mark.clause("STRIDED-LOCAL", "STRIDED-FAR")
@given(seed=rng, n=length, m=length, stride=stride)
def test_each_part_is_a_window(seed, n, m, stride):
    """The local set a plain one, the strided set a dilated one; beyond the length and at 1 each is causal attention."""
    q, k, v = qkv(seed, n, m)
    close([strided_attention(q, k, v, stride, part="local")], [window_attention(q, k, v, stride, 0)])
    close([strided_attention(q, k, v, stride, part="strided")], [dilated_attention(q, k, v, None, 0, stride)])
    causal = attention(q, k, v, masks.causal())
    for own in ({"stride": m}, {"stride": m, "part": "local"}, {"stride": 1}, {"stride": 1, "part": "strided"}):
        close([strided_attention(q, k, v, **own)], [causal])


@pytest.mark.clause("STRIDED-FAR", "STRIDED-MERGED")
@given(seed=rng, n=length, stride=stride, part=part, start=st.integers(-9, 9))
def test_positions_count_and_not_places(seed, n, stride, part, start):
    """A sequence may begin anywhere, and keys may stand in any order."""
    q, k, v = qkv(seed, n, n)
    at = np.arange(n) + start
    got = strided_attention(q, k, v, stride, part=part, q_positions=at, k_positions=at)
    close([got], [strided_attention(q, k, v, stride, part=part)])
    order = np.random.default_rng(seed).permutation(n)
    moved = {"q_positions": at, "k_positions": at[order]}
    close([strided_attention(q, k[:, order], v[:, order], stride, part=part, **moved)], [got])


@pytest.mark.clause("STRIDED-PART", "STRIDED-GRADIENT")
@given(seed=rng, parts=st.lists(part, min_size=4, max_size=4))
def test_every_head_may_have_its_own_part(library, seed, parts):
    """With keys that heads share, and options that differ by head."""
    q, (_, k, v) = floats_for(seed, (2, 4, 6, 4)), qkv(seed + 1, 1, 9, lead=(2, 2))
    rule = masks.padding(np.array([[9, 8, 7, 6], [3, 9, 5, 4]]))
    options = {"sinks": floats_for(seed, (4,)), "bias": floats_for(seed, (4, 1, 9))}
    got = library.call(strided_attention, q, k, v, 2, rule, part=parts, **options)
    d_out, d_k = floats_for(seed + 5, (2, 4, 6, 3)), np.zeros(k.shape)
    found = library.call(strided_attention_vjp, d_out, q, k, v, 2, rule, part=parts, **options)
    for h, name in enumerate(parts):
        allowed = table(6, 9, 2, name) & rule.dense(6, 9)[:, h]
        own = {"mask": allowed, "sinks": options["sinks"][h], "bias": options["bias"][h]}
        args = q[:, h], k[:, h // 2], v[:, h // 2]
        close([got[:, h]], [attention(*args, **own)])
        one = attention_vjp(d_out[:, h], *args, **own)
        d_k[:, h // 2] += one.k
        close([found.q[:, h], found.bias[h], found.sinks[h]], [one.q, one.bias, one.sinks])
    close([found.k], [d_k])


@pytest.mark.clause("STRIDED-MERGED", "STRIDED-GRADIENT")
def test_scores_far_from_zero_lose_nothing_in_the_merge():
    """Log-sum-exps of millions have no digits for the shares; what is merged is what they are made of."""
    q, k, v = qkv(3, 30, 30)
    q, k, far = np.round(4 * q) / 4, np.round(4 * k) / 4, {"bias": np.full((30, 30), 2.0**22)}  # exact scores
    close([strided_attention(q, k, v, 5, **far)], [attention(q, k, v, table(30, 30, 5), **far)])
    d_out, d_lse = floats_for(8, (2, 30, 3)), floats_for(9, (2, 30))
    for options in (far, far | {"sinks": np.array([2.0**22 + 1, -1.0])}):
        wanted = attention_vjp(d_out, q, k, v, table(30, 30, 5), d_lse=d_lse, **options)
        stored = dict(zip(("out", "lse"), strided_attention(q, k, v, 5, **options, return_lse=True), strict=True))
        for results in ({}, stored):
            got = strided_attention_vjp(d_out, q, k, v, 5, d_lse=d_lse, **options, **results)
            close([x for x in got if x is not None], [x for x in wanted if x is not None])


@pytest.mark.clause("STRIDED-COST")
def test_many_tiles_are_the_same_as_one():
    q, k, v = qkv(4, 700, 731)
    for size in (3, 27, 200):
        close([strided_attention(q, k, v, size)], [attention(q, k, v, masks.strided(size))])


# What the mask functions of openai/sparse_attention admit: 'local' and 'strided' with local_attn_ctx = 3, 8 positions.
LOCAL = ["10000000", "11000000", "11100000", "01110000", "00111000", "00011100", "00001110", "00000111"]
STRIDED = ["10000000", "01000000", "00100000", "10010000", "01001000", "00100100", "10010010", "01001001"]


@pytest.mark.clause("STRIDED-LOCAL", "STRIDED-FAR", "STRIDED-MERGED")
def test_the_released_code_beside_the_paper():
    """The strided layer is the same, the local one has a key fewer, and the union does not tell."""
    local, far = (np.array([[c == "1" for c in row] for row in rows]) for rows in (LOCAL, STRIDED))
    assert (seen(8, 8, 3, part="strided") == far).all()
    assert (seen(8, 8, 3, part="local") == (local | np.eye(8, k=-3, dtype=bool))).all()
    assert (seen(8, 8, 3) == (local | far)).all()


@pytest.mark.clause("STRIDED-REFUSE")
def test_errors_name_what_is_wrong():
    q, k, v = qkv(1, 3, 5)
    with pytest.raises(ValueError, match="stride is 0; it must be at least 1"):
        strided_attention(q, k, v, 0)
    with pytest.raises(ValueError, match="part is 'far'; it must be one of 'merged', 'local', 'strided'"):
        strided_attention(q, k, v, 2, part="far")
    with pytest.raises(ValueError, match=r"it must be a name, or a list of 2, one for each head: merged, local, strid"):
        strided_attention(q, k, v, 2, part=["local"])
    with pytest.raises(ValueError, match=r"part is .*; it must be one name: merged"):
        strided_attention(q[0], k[0], v[0], 2, part=["local"])
    with pytest.raises(TypeError, match=r"mask is an array \(5,\) of bool; it must be a rule"):
        strided_attention(q, k, v, 2, np.ones(5, dtype=bool))
    with pytest.raises(ValueError, match="give both, or neither"):
        strided_attention_vjp(np.zeros((2, 3, 3)), q, k, v, 2, lse=np.zeros((2, 3)))
