"""Properties of packed sequences: each as if it were alone."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refattn import grouped_query_attention, masks
from refattn.attention import attention
from refattn.tiled import packed_attention
from tests.strategies import floats_for, rng

lengths = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), max_size=5)
RULES = [
    None,
    masks.causal(),
    masks.causal() & masks.window(2, 0),
    masks.window(1, 1),
    masks.chunked(2),
    masks.prefix(2),
]


def offsets(counts):
    return [0, *np.cumsum(counts).tolist()]


def packed(seed, counts, tail=0, heads=2, kv_heads=2, d=3, dv=2):
    q_total, k_total = (sum(c) + tail for c in zip(*counts, strict=True)) if counts else (tail, tail)
    shapes = ((heads, q_total, d), (kv_heads, k_total, d), (kv_heads, k_total, dv))
    return tuple(floats_for(seed + number, shape) for number, shape in enumerate(shapes))


@pytest.mark.clause("PACKED-ALONE", "PACKED-POSITIONS", "PACKED-EMPTY", "PACKED-TAIL")
@given(
    seed=rng, counts=lengths, tail=st.integers(0, 2), rule=st.sampled_from(RULES), tile=st.sampled_from([1, 3, None])
)
def test_every_sequence_is_alone(library, seed, counts, tail, rule, tile):
    q, k, v = packed(seed, counts, tail)
    q_offsets, k_offsets = offsets([n for n, _ in counts]), offsets([m for _, m in counts])
    options = {"softcap": 5.0, "scale": 0.75, "sinks": floats_for(seed, (2,)), "return_lse": True}
    out, lse = library.call(packed_attention, q, k, v, q_offsets, k_offsets, rule, q_tile=tile, k_tile=tile, **options)
    assert out.shape == (2, q.shape[1], 2)
    for (a, b), (c, d) in zip(pairwise(q_offsets), pairwise(k_offsets), strict=True):
        alone, level = library.call(attention, q[:, a:b], k[:, c:d], v[:, c:d], rule, **options)
        np.testing.assert_allclose(out[:, a:b], alone, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(lse[:, a:b], level, rtol=1e-12, atol=1e-12)
    assert (out[:, q_offsets[-1] :] == 0).all()
    assert np.isneginf(lse[:, q_offsets[-1] :]).all()


@pytest.mark.clause("PACKED-ALONE", "PACKED-TAIL")
@given(seed=rng, counts=lengths, poison=st.sampled_from([np.nan, np.inf]))
def test_other_sequences_have_no_influence(library, seed, counts, poison):
    q, k, v = packed(seed, counts, tail=2)
    ends = offsets([n for n, _ in counts]), offsets([m for _, m in counts])
    clean = library.call(packed_attention, q, k, v, *ends, masks.causal())
    chosen = np.random.default_rng(seed).integers(max(1, len(counts)))
    own, theirs = (slice(*e[chosen : chosen + 2]) if counts else slice(0, 0) for e in ends)
    keep = np.zeros(k.shape[1], dtype=bool)
    keep[theirs] = True
    k[:, ~keep] = v[:, ~keep] = poison
    dirty = library.call(packed_attention, q, k, v, *ends, masks.causal())
    np.testing.assert_array_equal(dirty[:, own], clean[:, own])
    assert (dirty[:, ends[0][-1] :] == 0).all()


@pytest.mark.clause("PACKED-ALONE")
def test_the_same_as_documents_in_one_row(library):
    """For self-attention: the packed pack and the mask of documents say the same."""
    q, k, v = packed(3, [(4, 4), (1, 1), (3, 3)], heads=4, kv_heads=2)
    rule = masks.causal() & masks.documents([0] * 4 + [1] + [2] * 3)
    np.testing.assert_allclose(
        library.call(packed_attention, q, k, v, [0, 4, 5, 8], None, masks.causal()),
        library.call(grouped_query_attention, q, k, v, rule),
        rtol=1e-12,
    )


@pytest.mark.clause("PACKED-POSITIONS")
def test_a_bias_takes_positions_within_the_sequence():
    q, k, v = packed(4, [(2, 5), (3, 3)])
    out = packed_attention(q, k, v, [0, 2, 5], [0, 5, 8], bias=lambda i, j: -0.5 * np.abs(i - j))
    for a, b, c, d in ((0, 2, 0, 5), (2, 5, 5, 8)):
        n, m = b - a, d - c
        bias = -0.5 * np.abs(np.arange(m - n, m)[:, None] - np.arange(m))
        np.testing.assert_allclose(out[:, a:b], attention(q[:, a:b], k[:, c:d], v[:, c:d], bias=bias), rtol=1e-12)


def test_offsets_may_be_arrays(library):
    q, k, v = packed(5, [(2, 3), (4, 2)])
    want = library.call(packed_attention, q, k, v, [0, 2, 6], [0, 3, 5])
    for dtype in ("int32", "int64"):
        got = library.call(
            packed_attention, q, k, v, np.array([0, 2, 6], dtype=dtype), np.array([0, 3, 5], dtype=dtype)
        )
        np.testing.assert_array_equal(got, want)


@pytest.mark.clause("PACKED-REFUSE")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"q_offsets": [1, 3]}, ValueError, r"q_offsets is \[1, 3\]; it must begin with 0"),
        ({"q_offsets": [0, 4, 3]}, ValueError, "ascend"),
        ({"q_offsets": [0, 8]}, ValueError, "end at T = 6"),
        ({"k_offsets": [0, 9]}, ValueError, "end at S = 7"),
        ({"k_offsets": [0, 3, 7]}, ValueError, "k_offsets has 3 numbers, q_offsets has 2"),
        ({"q_offsets": []}, ValueError, r"q_offsets has shape \(0,\)"),
        ({"q_offsets": 6}, ValueError, r"q_offsets has shape \(\)"),
        ({"q_offsets": [0.0, 6.0]}, TypeError, "q_offsets must hold integers"),
        ({"mask": np.ones((6, 7), dtype=bool)}, TypeError, "mask is a ndarray; it must be a rule"),
        ({"bias": np.zeros((6, 7))}, TypeError, "bias is a ndarray; it must be a function"),
        ({"v": np.zeros((2, 6, 2))}, ValueError, "v has 6 keys, k has 7"),
        ({"q": np.zeros(3)}, ValueError, r"q has shape \(3,\)"),
    ],
)
def test_wrong_offsets_are_named(change, error, message):
    q, k, v = packed(6, [(6, 7)])
    good = {"q": q, "k": k, "v": v, "q_offsets": [0, 6], "k_offsets": [0, 7]}
    with pytest.raises(error, match=message):
        packed_attention(**{**good, **change})
