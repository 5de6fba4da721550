"""Properties of attention: what must hold whatever the numbers are."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refattn import masks
from refattn.attention import Dropout, attention, attention_stages, attention_weights
from refattn.softmax import merge
from tests.strategies import floats_for, rng

sizes = st.integers(1, 6)


def qkv(seed, lead=(2, 3), n=4, m=5, d=3, dv=2, scale=1.0):
    shapes = ((*lead, n, d), (*lead, m, d), (*lead, m, dv))
    return tuple(floats_for(seed + number, shape, scale) for number, shape in enumerate(shapes))


def some_mask(seed, *shape):
    return np.random.default_rng(seed).random(shape) < 0.6


def close(a, b, scale=1.0):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * scale)


@pytest.mark.clause("ATTN-OUT", "ATTN-LSE", "ATTN-SCALE")
def test_two_keys_by_hand(library):
    q, k, v = np.array([[2.0]]), np.array([[0.0], [math.log(3.0)]]), np.array([[8.0], [4.0]])
    out, lse = library.call(attention, q, k, v, scale=0.5, return_lse=True)
    close(out, [[5.0]])  # weights 1/4 and 3/4
    close(lse, [math.log(4.0)])


@pytest.mark.clause("ATTN-SCALE")
@given(seed=rng, d=st.sampled_from([1, 2, 16]))
def test_the_default_scale_is_one_over_root_d(library, seed, d):
    q, k, v = qkv(seed, d=d)
    np.testing.assert_array_equal(
        library.call(attention, q, k, v), library.call(attention, q, k, v, scale=1.0 / math.sqrt(d))
    )


@pytest.mark.clause("ATTN-SCALE")
@given(seed=rng, scale=st.sampled_from([-2.0, -0.25, 0.5, 4.0]))
def test_the_scale_belongs_to_the_product_alone(library, seed, scale):
    q, k, v = qkv(seed)
    bias = floats_for(seed + 3, (4, 5))
    close(
        library.call(attention, q, k, v, bias=bias, scale=scale),
        library.call(attention, q * scale, k, v, bias=bias, scale=1.0),
    )


@pytest.mark.clause("ATTN-SCALE")
def test_scale_zero_is_the_mean(library):
    q, k, v = qkv(0)
    close(library.call(attention, q, k, v, scale=0.0), np.broadcast_to(v.mean(axis=-2, keepdims=True), (2, 3, 4, 2)))


@pytest.mark.clause("ATTN-OUT")
@given(seed=rng, n=sizes, m=sizes)
def test_outputs_lie_in_the_hull_of_the_values(library, seed, n, m):
    q, k, v = qkv(seed, n=n, m=m, scale=4.0)
    out = library.call(attention, q, k, v)
    assert (out <= v.max(axis=-2, keepdims=True) + 1e-12).all()
    assert (out >= v.min(axis=-2, keepdims=True) - 1e-12).all()
    close(library.call(attention, q, k, np.ones_like(v)), np.ones((2, 3, n, 2)))


@pytest.mark.clause("ATTN-OUT")
@given(seed=rng)
def test_keys_may_come_in_any_order(library, seed):
    q, k, v = qkv(seed)
    mask, bias = some_mask(seed, 4, 5), floats_for(seed, (4, 5))
    order = np.random.default_rng(seed).permutation(5)
    close(
        library.call(attention, q, k, v, mask, bias=bias),
        library.call(
            attention, q, k[..., order, :], v[..., order, :], mask[:, order].copy(), bias=bias[:, order].copy()
        ),
    )


@pytest.mark.clause("ATTN-OUT", "ATTN-LSE")
@given(seed=rng, cut=st.integers(0, 5))
def test_keys_may_be_split_anywhere_and_merged(library, seed, cut):
    q, k, v = qkv(seed, scale=2.0)
    mask = some_mask(seed, 2, 3, 4, 5)
    parts = [
        library.call(attention, q, k[..., part, :], v[..., part, :], mask[..., part].copy(), return_lse=True)
        for part in (slice(0, cut), slice(cut, 5))
    ]
    merged, whole = library.call(merge, *parts[0], *parts[1]), library.call(attention, q, k, v, mask, return_lse=True)
    close(merged[0], whole[0])
    close(merged[1], whole[1])


@pytest.mark.clause("ATTN-LSE")
@given(seed=rng, shift=st.sampled_from([1e3, -1e3, -6e4]))
def test_a_common_shift_of_a_row_moves_only_lse(library, seed, shift):
    q, k, v = qkv(seed)
    bias = np.zeros((4, 1))
    bias[2] = shift
    out, lse = library.call(attention, q, k, v, return_lse=True)
    shifted, moved = library.call(attention, q, k, v, bias=bias, return_lse=True)
    close(shifted, out, 1e3 + abs(shift))
    close(moved, lse + bias[:, 0], abs(shift))


@pytest.mark.clause("ATTN-ABSENT", "ATTN-MASK")
@given(seed=rng, poison=st.sampled_from([np.nan, np.inf, -np.inf, 1e300]))
def test_excluded_keys_have_no_influence(library, seed, poison):
    q, k, v = qkv(seed)
    mask = some_mask(seed, 4, 5)
    mask[:, 3] = False
    clean = library.call(attention, q, k, v, mask, return_lse=True)
    for which in ("k", "v", "both"):
        bad_k, bad_v = k.copy(), v.copy()
        if which != "v":
            bad_k[..., 3, :] = poison
        if which != "k":
            bad_v[..., 3, :] = poison
        dirty = library.call(attention, q, bad_k, bad_v, mask, return_lse=True)
        np.testing.assert_array_equal(dirty[0], clean[0])
        np.testing.assert_array_equal(dirty[1], clean[1])


@pytest.mark.clause("ATTN-ABSENT")
@given(seed=rng)
def test_a_key_excluded_for_one_query_poisons_only_the_others(library, seed):
    q, k, v = qkv(seed)
    mask = np.ones((4, 5), dtype=bool)
    mask[1, 3] = False
    clean = library.call(attention, q, k, v, mask)
    for value, seen in ((np.nan, np.isnan), (np.inf, np.isposinf), (-np.inf, np.isneginf)):
        bad = v.copy()
        bad[..., 3, 0] = value
        out = library.call(attention, q, k, bad, mask)
        np.testing.assert_array_equal(out[..., 1, :], clean[..., 1, :])
        assert seen(out[..., [0, 2, 3], 0]).all()
        np.testing.assert_array_equal(out[..., 1], clean[..., 1])


@pytest.mark.clause("ATTN-ABSENT")
def test_infinities_of_both_signs_are_nan(library):
    q, k, v = qkv(0, lead=())
    v[0, 0], v[1, 0] = np.inf, -np.inf
    out = library.call(attention, q, k, v)
    assert np.isnan(out[:, 0]).all()
    assert np.isfinite(out[:, 1]).all()


@pytest.mark.clause("ATTN-BIAS", "ATTN-ABSENT")
@given(seed=rng)
def test_a_bias_of_minus_infinity_is_a_mask(library, seed):
    q, k, v = qkv(seed)
    mask = some_mask(seed, 4, 5)
    k[..., 2, :], v[..., 2, :], mask[:, 2] = np.nan, np.nan, False
    for a, b in zip(
        library.call(attention, q, k, v, bias=np.where(mask, 0.0, -np.inf), return_lse=True),
        library.call(attention, q, k, v, mask, return_lse=True),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.clause("ATTN-EMPTY")
@given(seed=rng, n=st.integers(0, 3), m=st.integers(0, 3), sink=st.booleans())
def test_a_query_without_keys_is_zero_and_minus_infinity(library, seed, n, m, sink):
    q, k, v = qkv(seed, n=n, m=m)
    mask = some_mask(seed, n, m)
    mask[:1] = False
    options = {"sinks": floats_for(seed, (3,))} if sink else {}
    out, lse = library.call(attention, q, k, v, mask, return_lse=True, **options)
    empty = ~mask.any(axis=-1)
    assert out.shape == (2, 3, n, 2)
    assert (out[..., empty, :] == 0).all()
    assert np.isneginf(lse[..., empty]).all()
    assert np.isfinite(lse[..., ~empty]).all()
    assert (library.call(attention_weights, q, k, mask, **options)[..., empty, :] == 0).all()


@pytest.mark.clause("ATTN-MASK", "ATTN-ALIGN")
@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (1, 5), (5, 5)])
@pytest.mark.parametrize(
    "rule",
    [
        masks.causal(),
        masks.window(2, 1),
        masks.causal() & masks.window(1, 0),
        ~masks.causal(),
        masks.prefix(2),
        masks.block(2),
    ],
    ids=repr,
)
def test_values_that_are_unit_vectors_show_who_is_visible(library, rule, shape):
    n, m = shape
    q, k = floats_for(1, (n, 3)), floats_for(2, (m, 3))
    out = library.call(attention, q, k, np.eye(m), rule)
    np.testing.assert_array_equal(out > 0, rule.dense(n, m))


@pytest.mark.clause("ATTN-ALIGN")
@given(seed=rng, n=st.integers(1, 5))
def test_queries_are_the_last_positions(library, seed, n):
    q, k, v = qkv(seed, n=5)
    whole = library.call(attention, q, k, v, masks.causal())
    close(library.call(attention, q[..., 5 - n :, :], k, v, masks.causal()), whole[..., 5 - n :, :])


@pytest.mark.clause("ATTN-ALIGN")
@given(seed=rng)
def test_positions_say_otherwise(library, seed):
    q, k, v = qkv(seed)
    rule = masks.causal() & masks.window(3, 0)
    order = np.random.default_rng(seed).permutation(5)
    positions = {"q_positions": np.array([1001, 1002, 1003, 1004]), "k_positions": 1000 + order}
    shuffled = library.call(attention, q, k[..., order, :].copy(), v[..., order, :].copy(), rule, **positions)
    close(shuffled, library.call(attention, q, k, v, rule))


@pytest.mark.clause("ATTN-MASK")
@given(seed=rng, row=st.integers(0, 3))
def test_later_keys_never_change_an_earlier_causal_row(library, seed, row):
    q, k, v = qkv(seed, n=4, m=4)
    before = library.call(attention, q, k, v, masks.causal())
    k[..., row + 1 :, :], v[..., row + 1 :, :], q[..., row + 1 :, :] = np.nan, np.nan, np.nan
    after = library.call(attention, q, k, v, masks.causal())
    close(after[..., : row + 1, :], before[..., : row + 1, :])


@pytest.mark.clause("ATTN-SOFTCAP", "ATTN-ORDER")
@given(seed=rng, cap=st.sampled_from([0.5, 3.0, 50.0]))
def test_a_cap_bounds_the_scores_before_bias_and_mask(library, seed, cap):
    q, k, v = qkv(seed, scale=10.0)
    bias, mask = floats_for(seed, (4, 5)) * 100, some_mask(seed, 4, 5)
    stages = library.call(attention_stages, q, k, v, mask, bias=bias, softcap=cap)
    assert (np.abs(stages.softcap) <= cap).all()
    close(stages.softcap, cap * np.tanh(stages.scores / cap), cap)
    close(stages.bias, stages.softcap + bias, 1e3)
    assert np.isneginf(stages.mask[..., ~mask]).all()
    assert (stages.weights[..., ~mask] == 0).all()


@pytest.mark.clause("ATTN-SOFTCAP")
def test_a_cap_of_zero_or_none_is_none(library):
    q, k, v = qkv(3)
    plain = library.call(attention, q, k, v)
    np.testing.assert_array_equal(library.call(attention, q, k, v, softcap=0.0), plain)
    np.testing.assert_array_equal(library.call(attention, q, k, v, softcap=None), plain)


@pytest.mark.clause("ATTN-SINK", "ATTN-WEIGHTS")
@given(seed=rng)
def test_a_sink_is_one_more_key_whose_value_is_zero(library, seed):
    q, k, v = qkv(seed)
    sinks = floats_for(seed, (3,), scale=2.0)
    mask = some_mask(seed, 4, 5)
    mask[:, 0] = True
    out, lse = library.call(attention, q, k, v, mask, sinks=sinks, return_lse=True)
    plain, plain_lse = library.call(attention, q, k, v, mask, return_lse=True)
    np.testing.assert_array_equal(lse, plain_lse)
    # the same as a key of score `sink` with value 0, added by its bias
    bias = np.concatenate([np.zeros((3, 4, 5)), np.broadcast_to(sinks[:, None, None], (3, 4, 1))], axis=-1)
    wider = np.concatenate([mask, np.ones((4, 1), dtype=bool)], axis=-1)
    more_k, more_v = (np.concatenate([x, np.zeros_like(x[..., :1, :])], axis=-2) for x in (k, v))
    close(out, library.call(attention, q, more_k, more_v, wider, bias=bias))
    total = library.call(attention_weights, q, k, mask, sinks=sinks).sum(axis=-1)
    close(total, 1.0 / (1.0 + np.exp(sinks[:, None] - lse)))
    close(out, plain * total[..., None])


@pytest.mark.clause("ATTN-SINK")
def test_a_sink_of_minus_infinity_leaves_an_empty_row_zero(library):
    q, k, v = qkv(6)
    mask = np.zeros((4, 5), dtype=bool)
    out = library.call(attention, q, k, v, mask, sinks=np.array([-np.inf]))
    np.testing.assert_array_equal(out, np.zeros((2, 3, 4, 2)))


@pytest.mark.clause("ATTN-SINK")
@pytest.mark.parametrize(("sink", "share"), [(-np.inf, 1.0), (1e4, 0.0)])
def test_extreme_sinks(library, sink, share):
    q, k, v = qkv(5)
    out = library.call(attention, q, k, v, sinks=np.array([sink]))
    close(out, share * library.call(attention, q, k, v))


@pytest.mark.clause("ATTN-DROPOUT")
@given(seed=rng, rate=st.sampled_from([0.0, 0.125, 0.5]))
def test_dropout_rescales_what_it_keeps(library, seed, rate):
    q, k, v = qkv(seed)
    keep = some_mask(seed + 9, 2, 1, 4, 5)
    out, lse = library.call(attention, q, k, v, dropout=Dropout(keep, rate), return_lse=True)
    weights = library.call(attention_weights, q, k)
    close(out, np.where(keep, weights / (1 - rate), 0.0) @ v)
    np.testing.assert_array_equal(lse, library.call(attention, q, k, v, return_lse=True)[1])
    np.testing.assert_array_equal(library.call(attention, q, k, v, dropout=(keep, rate)), out)


@pytest.mark.clause("ATTN-DROPOUT", "ATTN-ABSENT")
def test_a_dropped_value_has_no_influence(library):
    q, k, v = qkv(7)
    keep = np.ones((4, 5), dtype=bool)
    keep[:, 2] = False
    clean = library.call(attention, q, k, v, dropout=(keep, 0.2))
    v[..., 2, :] = np.nan
    np.testing.assert_array_equal(library.call(attention, q, k, v, dropout=(keep, 0.2)), clean)


@pytest.mark.clause("ATTN-WEIGHTS")
@given(seed=rng)
def test_weights_multiply_the_values(library, seed):
    q, k, v = qkv(seed)
    mask = some_mask(seed, 3, 4, 5)
    weights = library.call(attention_weights, q, k, mask)
    close(weights @ v, library.call(attention, q, k, v, mask))
    close(weights.sum(axis=-1), np.broadcast_to(mask.any(axis=-1), (2, 3, 4)))


@pytest.mark.clause("ATTN-BROADCAST", "ATTN-VALUES")
@given(seed=rng, dv=st.integers(1, 4))
def test_leading_axes_broadcast_and_are_independent(library, seed, dv):
    q, k, v = floats_for(seed, (2, 1, 4, 3)), floats_for(seed + 1, (3, 5, 3)), floats_for(seed + 2, (2, 3, 5, dv))
    mask, bias, sinks = some_mask(seed, 2, 1, 1, 5), floats_for(seed, (3, 4, 1)), floats_for(seed, (3,))
    out, lse = library.call(attention, q, k, v, mask, bias=bias, sinks=sinks, return_lse=True)
    assert out.shape == (2, 3, 4, dv)
    assert lse.shape == (2, 3, 4)
    for b in range(2):
        for h in range(3):
            one, one_lse = library.call(
                attention,
                q[b, 0],
                k[h],
                v[b, h],
                mask[b, 0],
                bias=bias[h],
                sinks=sinks[h : h + 1].reshape(()),
                return_lse=True,
            )
            close(out[b, h], one)
            close(lse[b, h], one_lse)


@pytest.mark.clause("ATTN-BROADCAST")
def test_any_strides_give_the_same(library):
    q, k, v = qkv(11, lead=(2, 3), n=4, m=5, d=4, dv=4)
    plain = library.call(attention, q, k, v, masks.causal())
    packed = np.stack(
        [np.swapaxes(x, -2, -3) for x in (k, v)], axis=-2
    )  # (B, M, H, 2, D), as fused projections give it
    views = {
        "transposed": (np.swapaxes(np.ascontiguousarray(np.swapaxes(q, -1, -2)), -1, -2), k, v),
        "fused": (q, np.swapaxes(packed[..., 0, :], -2, -3), np.swapaxes(packed[..., 1, :], -2, -3)),
        "reversed twice": (q[..., ::-1, :][..., ::-1, :], k[::-1][::-1], v),
        "every second feature": (np.repeat(q, 2, axis=-1)[..., ::2], np.repeat(k, 2, axis=-1)[..., ::2], v),
    }
    for name, (a, b, c) in views.items():
        np.testing.assert_allclose(library.call(attention, a, b, c, masks.causal()), plain, rtol=1e-12, err_msg=name)
    step_back = library.call(attention, q, k[..., ::-1, :], v[..., ::-1, :])
    close(step_back, library.call(attention, q, k, v))
    same_key = np.broadcast_to(k[..., :1, :], k.shape)  # stride 0
    close(library.call(attention, q, same_key, v), library.call(attention, q, same_key.copy(), v))


def test_read_only_inputs_are_taken():
    q, k, v = qkv(12)
    plain = attention(q, k, v)
    for x in (q, k, v):
        x.flags.writeable = False
    np.testing.assert_array_equal(attention(q, k, v), plain)


@pytest.mark.parametrize(("dtype", "result"), [("float16", "float32"), ("float32", "float32"), ("float64", "float64")])
def test_dtypes(dtype, result):
    q, k, v = (x.astype(dtype) for x in qkv(13))
    out, lse = attention(q, k, v, masks.causal(), return_lse=True)
    assert out.dtype == lse.dtype == result
    wide = attention(*(x.astype(np.float64) for x in (q, k, v)), masks.causal())
    np.testing.assert_allclose(out, wide, rtol=2e-5, atol=2e-6)


def test_bfloat16_is_computed_in_float32():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    q, k, v = (x.astype(ml_dtypes.bfloat16) for x in qkv(14))
    out = attention(q, k, v)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, attention(*(x.astype(np.float32) for x in (q, k, v))))


@pytest.mark.clause("ATTN-ORDER")
def test_stages_end_in_the_result(library):
    q, k, v = qkv(15)
    options = {"bias": floats_for(1, (4, 5)), "sinks": floats_for(2, (3,)), "dropout": (some_mask(3, 4, 5), 0.25)}
    stages = library.call(attention_stages, q, k, v, masks.window(2, 1), **options)
    out, lse = library.call(attention, q, k, v, masks.window(2, 1), return_lse=True, **options)
    np.testing.assert_array_equal(stages.out, out)
    np.testing.assert_array_equal(stages.lse, lse)
    assert stages._fields == ("scores", "softcap", "bias", "mask", "weights", "dropout", "out", "lse")
    close(stages.scores, q @ np.swapaxes(k, -1, -2) / math.sqrt(3))


GOOD = dict(zip("qkv", qkv(16), strict=True))


@pytest.mark.clause("ATTN-REFUSE")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"q": [1.0]}, TypeError, "q is a list; it must be a NumPy or CuPy array"),
        ({"q": GOOD["q"].astype(int)}, TypeError, "q has dtype int64; it must be floating-point"),
        ({"k": GOOD["k"].astype(complex)}, TypeError, "k has dtype complex128; it must be floating-point"),
        ({"q": np.zeros(3)}, ValueError, r"q has shape \(3,\); it must be \(\.\.\., N, D\)"),
        ({"k": np.zeros((5, 4))}, ValueError, r"k has head size 4, q has 3: both are D in"),
        ({"v": np.zeros((4, 2))}, ValueError, "v has 4 keys, k has 5: both are M in"),
        ({"k": np.zeros((2, 5, 3))}, ValueError, r"leading axes .* do not broadcast: q \(2, 3\), k \(2,\)"),
        ({"k": np.zeros((2, 2, 5, 3))}, ValueError, r"v \(2, 3\)$"),
        ({"q": np.zeros((4, 3)), "k": np.zeros((2, 5, 3))}, ValueError, r"v \(2, 3\)$"),
        ({"k": np.zeros((5, 3)), "v": np.zeros((4, 5, 2))}, ValueError, r"v \(4,\)$"),
        (
            {"q": np.zeros((7, 3, 4, 3)), "k": np.zeros((5, 1, 5, 3)), "v": np.zeros((5, 1, 5, 2))},
            ValueError,
            r"v \(5, 1\)$",
        ),
        (
            {"q": np.zeros((4, 4, 3)), "k": np.zeros((2, 5, 3)), "v": np.zeros((2, 5, 2))},
            ValueError,
            "4 query heads over 2 key",
        ),
        ({"bias": np.zeros(6)}, ValueError, r"bias has shape \(6,\); .*: M differs"),
        (
            {"q": np.zeros((2, 6, 4, 3))},
            ValueError,
            "for 6 query heads over 3 key/value heads use grouped_query_attention",
        ),
        (
            {"mask": np.ones((4, 6), dtype=bool)},
            ValueError,
            r"mask has shape \(4, 6\); it must broadcast to .*: M differs",
        ),
        ({"mask": np.ones((3, 5), dtype=bool)}, ValueError, r"mask has shape \(3, 5\); .*: N differs"),
        ({"mask": np.ones((7, 1, 4, 5), dtype=bool)}, ValueError, r"leading axes do not broadcast: mask \(7, 1\)"),
        ({"mask": np.ones((4, 5))}, TypeError, "mask has dtype float64; a mask is boolean"),
        ({"mask": "causal"}, TypeError, "mask is a str; it must be a boolean array or a rule"),
        ({"bias": np.zeros((4, 6))}, ValueError, r"bias has shape \(4, 6\); .*: M differs"),
        ({"bias": np.zeros((7, 4, 5))}, ValueError, r"leading axes do not broadcast: bias \(7,\)"),
        ({"sinks": np.zeros(4)}, ValueError, r"leading axes do not broadcast: sinks \(4,\)"),
        ({"scale": "big"}, TypeError, "scale must be a real number, not 'big'"),
        ({"softcap": -1.0}, ValueError, "softcap is -1.0; it must be positive"),
        ({"dropout": 0.1}, TypeError, r"dropout must be a pair \(keep, rate\)"),
        ({"dropout": (np.ones((4, 5), dtype=bool), 1.0)}, ValueError, r"dropout rate is 1.0; it must be in \[0, 1\)"),
        ({"dropout": (np.ones((4, 5)), 0.5)}, TypeError, "keep has dtype float64; it must be bool"),
        (
            {"mask": masks.causal(), "q_positions": np.arange(5)},
            ValueError,
            r"q_positions has shape \(5,\); it must be .*N=4",
        ),
        ({"mask": masks.causal(), "k_positions": np.arange(5.0)}, TypeError, "k_positions has dtype float64"),
        ({"q": np.zeros((4, 0)), "k": np.zeros((5, 0)), "v": np.zeros((5, 2))}, ValueError, "D = 0"),
    ],
)
def test_wrong_input_is_named(change, error, message):
    with pytest.raises(error, match=message):
        attention(**{**GOOD, **change})


@pytest.mark.clause("ATTN-REFUSE")
def test_array_libraries_do_not_mix():
    xp = pytest.importorskip("array_api_strict")
    with pytest.raises(TypeError, match="k is an array of numpy, q of array_api_strict: all must be of one library"):
        attention(xp.asarray(GOOD["q"]), GOOD["k"], GOOD["v"])
    with pytest.raises(TypeError, match=r"mask is a numpy\.ndarray; it must be an array of array_api_strict"):
        attention(*(xp.asarray(x) for x in GOOD.values()), np.ones((4, 5), dtype=bool))
