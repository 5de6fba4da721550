"""Fixed attention of the Sparse Transformer: what holds whatever the numbers are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refattn import masks
from refattn.attention import attention
from refattn.gradients import attention_vjp
from refattn.sparse import block_attention, chunked_attention, fixed_attention, fixed_attention_vjp
from refattn.sparse.fixed import PARTS
from tests.sparse.test_window import close, length, qkv
from tests.strategies import floats_for, rng

part = st.sampled_from(PARTS)


@st.composite
def sizes(draw):
    """A stride, a summary and a sub-block within it."""
    stride, summary = draw(st.sampled_from([(1, 1), (2, 1), (4, 1), (5, 2), (6, 2), (6, 3), (7, 7), (40, 3)]))
    return {"stride": stride, "summary": summary, "sub_block": draw(st.integers(0, min(3, stride // summary - 1)))}


def table(n, m, stride, summary=1, sub_block=0, part="merged"):
    """Which pairs a part has, from the paper's sets."""
    found = np.zeros((n, m), dtype=bool)
    places = range(stride - (sub_block + 1) * summary, stride - sub_block * summary)
    for row in range(n):
        i = m - n + row
        local = {j for j in range(m) if j <= i and j // stride == i // stride}
        far = {j for j in range(m) if j <= i and j % stride in places}
        for j in {"local": local, "summary": far, "merged": local | far}[part]:
            found[row, j] = True
    return found


def seen(n, m, stride, summary=1, **options):
    weights = fixed_attention(np.zeros((n, 2)), np.zeros((m, 2)), np.eye(m), stride, summary, **options)
    return weights > 0


@pytest.mark.clause("FIXED-LOCAL", "FIXED-SUMMARY", "FIXED-MERGED")
def test_keys_counted_by_hand():
    keys = seen(10, 10, 4)
    assert [np.flatnonzero(keys[i]).tolist() for i in (3, 6, 9)] == [[0, 1, 2, 3], [3, 4, 5, 6], [3, 7, 8, 9]]


@pytest.mark.clause("FIXED-LOCAL", "FIXED-SUMMARY", "FIXED-MERGED", "FIXED-SUB-BLOCK")
@given(n=st.integers(1, 40), m=st.integers(1, 40), own=sizes(), part=part)
def test_its_keys_are_those_of_the_paper(n, m, own, part):
    assert (seen(n, m, **own, part=part) == table(n, m, **own, part=part)).all()


@pytest.mark.clause("FIXED-MERGED", "FIXED-OPTIONS", "FIXED-GRADIENT")
@given(seed=rng, n=length, m=length, own=sizes(), part=part)
def test_it_is_attention_under_its_mask_forward_and_backward(library, seed, n, m, own, part):
    q, k, v = qkv(seed, n, m)
    options = {"softcap": 2.0, "sinks": np.array([0.5, -1.0]), "bias": floats_for(seed, (n, m))}
    further = masks.padding(max(1, m - 2), 1)
    allowed = table(n, m, **own, part=part) & further.dense(n, m)
    own = {**own, "part": part, "mask": further}
    got = library.call(fixed_attention, q=q, k=k, v=v, **own, **options, return_lse=True)
    close(got, attention(q, k, v, allowed, **options, return_lse=True))
    options |= {"d_out": floats_for(seed + 5, (2, n, 3)), "d_lse": floats_for(seed + 6, (2, n))}
    got = library.call(fixed_attention_vjp, q=q, k=k, v=v, **own, **options)
    close(got, attention_vjp(q=q, k=k, v=v, mask=allowed, **options))


@pytest.mark.clause("FIXED-LOCAL", "FIXED-SUMMARY", "FIXED-MERGED")
@given(seed=rng, n=length, m=length, stride=st.integers(1, 9))
def test_where_it_is_something_simpler(seed, n, m, stride):
    """The rule of masks; chunks; and causal attention with a block for all, or where all positions are summaries."""
    q, k, v = qkv(seed, n, m)
    close([fixed_attention(q, k, v, stride)], [attention(q, k, v, masks.fixed(stride))])
    close([fixed_attention(q, k, v, stride, part="local")], [chunked_attention(q, k, v, stride)])
    causal = attention(q, k, v, masks.causal())
    for own in ({"stride": m}, {"stride": stride, "summary": stride}):
        close([fixed_attention(q, k, v, **own)], [causal])
    close([fixed_attention(q, k, v, stride, stride, part="summary")], [causal])


@pytest.mark.clause("FIXED-LOCAL", "FIXED-SUMMARY")
@given(seed=rng, n=length, own=sizes(), part=part, start=st.integers(-3, 3))
def test_blocks_are_of_positions_and_not_of_places(seed, n, own, part, start):
    """Moved by whole blocks nothing changes, whatever the order of the keys; queries may be any."""
    q, k, v = qkv(seed, n, n)
    at = np.arange(n) + start * own["stride"]
    got = fixed_attention(q, k, v, **own, part=part, q_positions=at, k_positions=at)
    close([got], [fixed_attention(q, k, v, **own, part=part)])
    order = np.random.default_rng(seed).permutation(n)
    moved = {"q_positions": at, "k_positions": at[order]}
    close([fixed_attention(q, k[:, order], v[:, order], **own, part=part, **moved)], [got])
    close(
        [fixed_attention(q[:, order], k, v, **own, part=part, q_positions=at[order], k_positions=at)], [got[:, order]]
    )


@pytest.mark.clause("FIXED-PART", "FIXED-SUB-BLOCK", "FIXED-GRADIENT")
@given(
    seed=rng, parts=st.lists(part, min_size=4, max_size=4), blocks=st.lists(st.integers(0, 1), min_size=4, max_size=4)
)
def test_every_head_may_have_its_own(library, seed, parts, blocks):
    """With keys that heads share, and options that differ by head."""
    q, (_, k, v) = floats_for(seed, (2, 4, 6, 4)), qkv(seed + 1, 1, 9, lead=(2, 2))
    rule = masks.padding(np.array([[9, 8, 7, 6], [3, 9, 5, 4]]))
    options = {"sinks": floats_for(seed, (4,)), "bias": floats_for(seed, (4, 1, 9))}
    own = {"part": parts, "sub_block": np.array(blocks)}
    got = library.call(fixed_attention, q, k, v, 4, 2, rule, **own, **options)
    d_out, d_k = floats_for(seed + 5, (2, 4, 6, 3)), np.zeros(k.shape)
    found = library.call(fixed_attention_vjp, d_out, q, k, v, 4, 2, rule, **own, **options)
    for h, (name, block) in enumerate(zip(parts, blocks, strict=True)):
        allowed = table(6, 9, 4, 2, block, name) & rule.dense(6, 9)[:, h]
        options_of_head = {"mask": allowed, "sinks": options["sinks"][h], "bias": options["bias"][h]}
        args = q[:, h], k[:, h // 2], v[:, h // 2]
        close([got[:, h]], [attention(*args, **options_of_head)])
        one = attention_vjp(d_out[:, h], *args, **options_of_head)
        d_k[:, h // 2] += one.k
        close([found.q[:, h], found.bias[h], found.sinks[h]], [one.q, one.bias, one.sinks])
    close([found.k], [d_k])


@pytest.mark.clause("FIXED-COST")
def test_many_tiles_are_the_same_as_one():
    q, k, v = qkv(4, 700, 731)
    for stride, summary in ((27, 1), (27, 3), (200, 8)):
        close([fixed_attention(q, k, v, stride, summary)], [attention(q, k, v, masks.fixed(stride, summary))])


# The layouts that get_blocksparse_obj of openai/sparse_attention makes for 'fixed': blocks of queries by blocks of keys,
# for a stride of 4 blocks. Two heads with num_verts=2 and vertsize=1; one with num_verts=1 and vertsize=2.
OF_TWO_HEADS = [
    "1000000000 1100000000 1110000000 1111000000 0001100000 0001110000 0001111000 0001111100 0001000110 0001000111",
    "1000000000 1100000000 1110000000 1111000000 0010100000 0010110000 0010111000 0010111100 0010001010 0010001011",
]
OF_WIDE_SUMMARIES = ["100000000 110000000 111000000 111100000 001110000 001111000 001111100 001111110 001100111"]


@pytest.mark.clause("FIXED-MERGED", "FIXED-SUB-BLOCK", "FIXED-SUMMARY")
@pytest.mark.parametrize(("rows", "wide"), [(OF_TWO_HEADS, 1), (OF_WIDE_SUMMARIES, 2)])
@pytest.mark.parametrize("size", [1, 3])
def test_layouts_of_the_released_code(rows, wide, size):
    """Strides and summaries of whole blocks, and causal in the blocks of the diagonal."""
    layout = np.array([[[c == "1" for c in row] for row in head.split()] for head in rows])
    heads, blocks = layout.shape[:2]
    q, k, v = qkv(5, blocks * size, blocks * size, lead=(heads,))
    got = fixed_attention(q, k, v, 4 * size, wide * size, sub_block=np.arange(heads))
    close([got], [block_attention(q, k, v, layout, size, masks.causal())])


@pytest.mark.clause("FIXED-REFUSE")
def test_errors_name_what_is_wrong():
    q, k, v = qkv(1, 3, 5)
    with pytest.raises(ValueError, match="stride is 0; it must be at least 1"):
        fixed_attention(q, k, v, 0)
    with pytest.raises(ValueError, match=r"summary is 4; it must be at most stride \(3\)"):
        fixed_attention(q, k, v, 3, 4)
    with pytest.raises(
        ValueError, match="sub_block is 2; it must be from 0 to 1: blocks of 5 hold 2 times 2 positions"
    ):
        fixed_attention(q, k, v, 5, 2, sub_block=2)
    with pytest.raises(ValueError, match=r"sub_block has shape \(3,\); it must be a number for each of 2 heads"):
        fixed_attention(q, k, v, 5, 1, sub_block=[0, 1, 2])
    with pytest.raises(ValueError, match="part is 'strided'; it must be one of 'merged', 'local', 'summary'"):
        fixed_attention(q, k, v, 2, part="strided")
    with pytest.raises(
        ValueError, match="it must be a name, or a list of 2, one for each head: merged, local, summary"
    ):
        fixed_attention(q, k, v, 2, part=["local"])
    with pytest.raises(TypeError, match=r"mask is an array \(5,\) of bool; it must be a rule"):
        fixed_attention(q, k, v, 2, mask=np.ones(5, dtype=bool))
