"""Tiles, parts and their gradients where numbers are extreme: scores, biases and values that only a careful order survives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refattn import attention_stages, attention_weights, grouped_query_attention, merge
from refattn.attention import attention
from refattn.gradients import attention_vjp, grouped_query_attention_vjp, merge_vjp
from refattn.tiled import packed_attention, split_attention, tiled_attention, tiled_attention_vjp
from tests.strategies import floats_for, rng

N, M, D, DV = 5, 9, 4, 3
MODES = [
    "large scores",
    "large bias",
    "least bias",
    "infinite bias",
    "all dropped",
    "large values",
    "large both",
    "nan",
]


def problem(seed, mode, dtype, infinite_values=True):
    """Arguments with every option, and something extreme in them."""
    draw = np.random.default_rng(seed)
    least = float(np.finfo(dtype).min)
    q, k = draw.normal(size=(2, 3, N, D)), draw.normal(size=(2, 3, M, D))
    v = draw.normal(size=(2, 3, M, DV))
    bias, keep = draw.normal(size=(3, N, M)), draw.random((2, 1, N, M)) < 0.5
    bias[:, draw.integers(N), draw.integers(M)] = -np.inf
    sinks = draw.normal(size=3)
    if mode == "large scores":  # whole numbers, of which every order makes the same scores, and many are equal
        q, k, bias = np.round(q) * 2.0 ** draw.integers(4, 20), np.round(k), np.where(np.isinf(bias), bias, 0.0)
    elif mode == "large bias":
        bias = bias + 10.0 ** draw.integers(2, 12, (3, N, 1)) * draw.choice([-1, 1], (3, N, 1))
        sinks = bias[:, 0, 0].copy()
    elif mode == "least bias":
        bias[:, draw.random(N) < 0.5] = least
        sinks = np.where(draw.random(3) < 0.5, least, sinks)
    elif mode == "infinite bias":
        bias[draw.integers(3), draw.integers(N), draw.integers(M)] = np.inf
        keep[:, :, draw.integers(N)] = False
    elif mode == "all dropped":
        keep[:, :, draw.integers(N)] = False
    elif mode == "large values":
        v = v * (-least / 10)
    elif mode == "large both":  # the scale makes the scores small again
        size = np.sqrt(-least) * 4
        q, k = q * size, k * size
    elif mode == "nan":
        k[0, 1, draw.integers(M)] = np.nan
    if seed % 3 == 0 and infinite_values:
        v[draw.integers(2), draw.integers(3), draw.integers(M), 0] = np.inf
    options = {
        "bias": bias,
        "scale": 1e-3 / -least if mode == "large both" else [None, 0.25, -2.0, 0.0][draw.integers(4)],
        "softcap": 20.0 if seed % 5 == 0 else None,
        "sinks": sinks if draw.integers(2) else None,
        "dropout": (keep, 0.25) if mode == "all dropped" or draw.integers(2) else None,
    }
    mask = draw.random((N, M)) < 0.8
    arrays = [x.astype(dtype) for x in (q, k, v)]
    return arrays, mask, {n: x.astype(dtype) if isinstance(x, np.ndarray) else x for n, x in options.items()}


def agree(got, want, dtype, sizes=()):
    """The same infinities and NaN, and the rest to rounding, relative to the largest element or to a size that is given."""
    names = getattr(want, "_fields", ("out", "lse"))
    for name, x, y in zip(names, got, want, strict=True):
        if y is None:
            assert x is None
            continue
        np.testing.assert_array_equal(np.isnan(x), np.isnan(y), err_msg=name)
        np.testing.assert_array_equal(np.where(np.isinf(x), x, 0), np.where(np.isinf(y), y, 0), err_msg=name)
        x, y = (np.where(np.isfinite(y), a, 0).astype(float) for a in (x, y))
        size = max(float(np.max(np.abs(y), initial=0.0)), dict(sizes).get(name, 0.0), 1e-300)
        error = np.max(np.abs(x / size - y / size), initial=0.0)
        assert error <= (2e-5 if dtype == "float32" else 1e-11), (name, error)


drawn = given(seed=rng, tile=st.sampled_from([1, 2, 4, 16]), dtype=st.sampled_from(["float32", "float64"]))


@pytest.mark.clause("TILED-EQUAL", "SPLIT-MERGE")
@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=12)
@drawn
def test_tiles_and_parts_are_attention(mode, seed, tile, dtype):
    arrays, mask, options = problem(seed, mode, dtype)
    want = attention(*arrays, mask, return_lse=True, **options)
    agree(tiled_attention(*arrays, mask, q_tile=tile, k_tile=tile, return_lse=True, **options), want, dtype)
    agree(split_attention(*arrays, mask, splits=min(tile, 4), k_tile=3, return_lse=True, **options), want, dtype)


@pytest.mark.clause("TILED-GRADIENT")
@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=12)
@drawn
def test_gradients_over_tiles_are_those_of_attention(mode, seed, tile, dtype):
    (q, k, v), mask, options = problem(seed, mode, dtype, infinite_values=False)
    out, lse = attention(q, k, v, mask, return_lse=True, **options)
    d_out = (floats_for(seed, out.shape) * 1e-3).astype(dtype)
    cotangents = {"d_lse": floats_for(seed + 1, lse.shape).astype(dtype)} if seed % 2 else {}
    known = {"out": out, "lse": lse} if seed % 3 else {}
    got = tiled_attention_vjp(d_out, q, k, v, mask, q_tile=tile, k_tile=tile, **cotangents, **known, **options)
    want = attention_vjp(d_out, q, k, v, mask, **cotangents, **options)
    along, largest = (float(np.max(np.abs(x), where=np.isfinite(x), initial=0.0)) for x in (want.q, q))
    scale = abs(options["scale"] or 0.5)
    sizes = {"scale": along * (largest / scale)}  # a sum of which much cancels
    if mode == "large scores":  # and there d_s itself is what is left of much
        sizes["scale"] = float(np.max(np.abs(q)) * np.max(np.abs(k)) * (np.max(np.abs(d_out)) + len(cotangents)))
    agree(got, want, dtype, sizes)


# --- where only the maximum and the sum together say enough ----------------------------------------------------------


@pytest.mark.clause("TILED-GRADIENT")
@pytest.mark.parametrize(
    ("dtype", "level"), [("float32", 1e9), ("float32", -1e9), ("float64", 1e17), ("float64", None)]
)
@pytest.mark.parametrize("given_out", [True, False])
def test_weights_of_a_row_of_huge_scores_add_up(library, dtype, level, given_out):
    """A padded row as it is often built: the same finite bias everywhere."""
    level = float(np.finfo(dtype).min) if level is None else level
    q, k, v = np.zeros((1, 2), dtype), np.zeros((100, 2), dtype), floats_for(1, (100, 3)).astype(dtype)
    bias, d_out = np.full((1, 100), level, dtype), np.ones((1, 3), dtype)
    known = {}
    if given_out:
        known["out"], known["lse"] = library.call(tiled_attention, q, k, v, bias=bias, return_lse=True)
    found = library.call(tiled_attention_vjp, d_out, q, k, v, bias=bias, k_tile=7, **known)
    np.testing.assert_allclose(found.v, np.full((100, 3), 0.01), rtol=1e-6)
    np.testing.assert_allclose(found.bias, 0.01 * (v - v.mean(axis=0)).sum(axis=1)[None], rtol=0, atol=1e-7)


@pytest.mark.clause("SPLIT-MERGE")
@pytest.mark.parametrize("level", [1e9, -1e9, float(np.finfo(np.float32).min)])
def test_parts_of_different_sizes_keep_their_weight(library, level):
    q, k, bias = np.zeros((1, 1), np.float32), np.zeros((8, 1), np.float32), np.full((1, 8), level, np.float32)
    v = np.array([[0.0]] * 7 + [[8.0]], np.float32)
    for splits in ([7], [1, 2, 7]):
        np.testing.assert_array_equal(library.call(split_attention, q, k, v, bias=bias, splits=splits), [[1.0]])


@pytest.mark.clause("ATTN-SINK", "GRAD-SINK", "SPLIT-SINK", "TILED-GRADIENT")
@pytest.mark.parametrize("level", [1e9, -1e9, 0.0])
def test_a_sink_counts_as_one_key_at_any_level(library, level):
    q, k, v = np.zeros((1, 1), np.float32), np.zeros((3, 1), np.float32), np.ones((3, 1), np.float32)
    options = {"bias": np.full((1, 3), level, np.float32), "sinks": np.array(level, np.float32)}
    for call, more in (attention, {}), (tiled_attention, {"k_tile": 2}), (split_attention, {"splits": 2}):
        np.testing.assert_allclose(library.call(call, q, k, v, **options, **more), [[0.75]], rtol=1e-6)
    np.testing.assert_allclose(library.call(attention_weights, q, k, **options), [[0.25] * 3], rtol=1e-6)
    for call in (attention_vjp, tiled_attention_vjp):  # the derivative of 3 / (3 + e^z) by z
        found = library.call(call, np.ones((1, 1), np.float32), q, k, v, **options)
        np.testing.assert_allclose(found.sinks, -0.1875, rtol=1e-6)
        np.testing.assert_allclose(found.v, [[0.25]] * 3, rtol=1e-6)


@pytest.mark.clause("GRAD-MERGE", "MERGE-UNION")
@pytest.mark.parametrize("lse", [1e9, -1e9, float(np.finfo(np.float32).max)])
def test_merged_halves_have_half_the_gradient(library, lse):
    level, out = np.array([lse], np.float32), np.array([[1.0]], np.float32)
    merged, together = library.call(merge, out, level, 3 * out, level)
    np.testing.assert_array_equal(merged, [[2.0]])
    np.testing.assert_array_equal(together, level)  # ln 2 more, which is lost
    found = library.call(merge_vjp, out, out, level, 3 * out, level)
    np.testing.assert_array_equal([found.out_a, found.out_b], [[[0.5]], [[0.5]]])
    np.testing.assert_array_equal([found.lse_a, found.lse_b], [[-0.5], [0.5]])


@pytest.mark.clause("MERGE-UNION")
def test_parts_with_infinities_merge_as_attention_says(library):
    """A score of +infinity makes the row undefined, and its log-sum-exp infinite; a tiny weight of infinity is infinite."""
    one, low, inf = np.array([[1.0]]), np.array([-1e5]), np.array([np.inf])
    out, lse = library.call(merge, one, inf, one, low)
    assert np.isnan(out).all()
    assert lse == np.inf
    np.testing.assert_array_equal(library.call(merge, one * np.inf, low, one, low + 1e5)[0], one * np.inf)
    large = np.array([[np.finfo(float).max]])
    np.testing.assert_array_equal(library.call(merge, large, low, large, low)[0], large)


@pytest.mark.clause("TILED-EQUAL", "SPLIT-MERGE", "TILED-GRADIENT")
def test_an_undefined_row_of_which_dropout_leaves_nothing_is_zero(library):
    q, k, v = floats_for(1, (2, 2)), floats_for(2, (5, 2)), floats_for(3, (5, 1))
    bias = np.zeros((2, 5))
    bias[:, 3] = np.inf
    keep = np.array([[False] * 5, [True] + [False] * 4])
    options = {"bias": bias, "dropout": (keep, 0.5), "sinks": np.array(1.0)}
    for call, more in (attention, {}), (tiled_attention, {"k_tile": 2}), (split_attention, {"splits": 3}):
        out, lse = library.call(call, q, k, v, return_lse=True, **options, **more)
        np.testing.assert_array_equal(out, [[0.0], [np.nan]])
        np.testing.assert_array_equal(lse, [np.inf, np.inf])


# --- scores that are finite though q · k is not ----------------------------------------------------------------------

BAND = np.full((1, 16), 5e18, np.float32)  # q · k is 4e38, a quarter of it is in range
BAND_KEYS = np.concatenate([BAND, BAND / 2])


def in_band(call, *before, **options):
    q, k, v = BAND[None], BAND_KEYS[None], np.array([[[1.0], [2.0]]], np.float32)
    return call(*before, q, k, v, **options)


@pytest.mark.clause("ATTN-SCALE", "TILED-EQUAL", "SPLIT-MERGE", "PACKED-ALONE", "HEADS-GROUP")
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_scores_in_range_are_found_where_products_overflow(library, sign):
    scores = np.float32(4e38 / 4 * sign) * np.array([[[1.0, 0.5]]], np.float32)
    want = [[[1.0 if sign > 0 else 2.0]]], [[scores.max()]]
    calls = {
        attention: {}, grouped_query_attention: {}, tiled_attention: {"k_tile": 1}, split_attention: {"splits": 2},
    }  # fmt: skip
    for call, more in calls.items():
        found = in_band(
            lambda *a, call=call, more=more: library.call(call, *a, scale=sign / 4, return_lse=True, **more)
        )
        np.testing.assert_allclose(found[0], want[0])
        np.testing.assert_allclose(found[1], want[1], rtol=1e-6)
    packed = in_band(lambda *a: library.call(packed_attention, *a, [0, 1], [0, 2], scale=sign / 4))
    np.testing.assert_allclose(packed, want[0])
    np.testing.assert_allclose(in_band(attention_stages, scale=sign / 4).scores, scores, rtol=1e-6)
    assert (in_band(lambda q, k, v: attention_weights(q, k, scale=0.0)) == 0.5).all()
    for call in (attention_vjp, tiled_attention_vjp, grouped_query_attention_vjp):
        gradients = in_band(call, np.ones((1, 1, 1), np.float32), scale=0.0)
        np.testing.assert_allclose(gradients.v, [[[0.5], [0.5]]])
        np.testing.assert_array_equal(gradients.q, np.zeros((1, 1, 16)))


@pytest.mark.clause("GRAD-SCALE", "TILED-GRADIENT")
@pytest.mark.parametrize("call", [attention_vjp, tiled_attention_vjp, grouped_query_attention_vjp])
def test_gradients_in_range_are_found_where_products_overflow(library, call):
    """d_s = 1/4 (3e37 - (-3e37)) beside keys of 100 and a scale of 1e-3."""
    q, k = np.zeros((1, 1, 1), np.float32), np.array([[[100.0], [-100.0]]], np.float32)
    v, d_out = np.array([[[3e37], [-3e37]]], np.float32), np.ones((1, 1, 1), np.float32)
    found = library.call(call, d_out, q, k, v, scale=1e-3)
    np.testing.assert_allclose(found.q, [[[3e36]]], rtol=1e-5)
    found = library.call(call, d_out, q + np.float32(100.0), 0 * k, v, scale=1e-3)
    np.testing.assert_allclose(found.k, [[[1.5e36], [-1.5e36]]], rtol=1e-5)


@pytest.mark.clause("TILED-EQUAL")
@pytest.mark.parametrize(("scale", "q", "k"), [(1e10, 1e30, 1e-38), (1e-3, 3e-38, 1e38), (2.0, 1e-30, 1e30)])
def test_a_scale_does_not_push_queries_out_of_range(library, scale, q, k):
    q, k, v = np.array([[q]], np.float32), np.array([[k], [0.0]], np.float32), np.array([[1.0], [0.0]], np.float32)
    want = library.call(attention, q, k, v, scale=scale)
    np.testing.assert_allclose(library.call(tiled_attention, q, k, v, scale=scale), want, rtol=1e-6)
    found = library.call(tiled_attention_vjp, np.ones((1, 1), np.float32), q, k, v, scale=scale)
    for x, y in zip(
        found[:3], library.call(attention_vjp, np.ones((1, 1), np.float32), q, k, v, scale=scale)[:3], strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=1e-5)


@pytest.mark.clause("TILED-EQUAL")
def test_a_mean_of_values_is_found_where_their_sum_overflows(library):
    v = np.full((7, 1), 3e38, np.float32) * np.array([[1], [1], [1], [1], [1], [1], [-1]], np.float32)
    q, k = np.zeros((1, 1), np.float32), np.zeros((7, 1), np.float32)
    for call, more in (attention, {}), (tiled_attention, {"k_tile": 3}), (split_attention, {"splits": 3}):
        np.testing.assert_allclose(library.call(call, q, k, v, **more), [[3e38 * 5 / 7]], rtol=1e-6)


def test_a_caller_who_raises_at_every_overflow_gets_the_results():
    q, k, v = np.array([[1e200], [1.0]]), np.array([[1e200], [-1e200]]), np.array([[1e200], [1e200]])
    options = {"sinks": np.array(-1000.0)}
    with np.errstate(all="raise"):
        attention(q, k, v, **options)
        tiled_attention(q, k, v, q_tile=1, k_tile=1, **options)
        split_attention(q, k, v, splits=2, **options)
        packed_attention(q, k, v, [0, 1, 2], **options)
        tiled_attention_vjp(np.ones((2, 1)), q, k, v, q_tile=1, k_tile=1, **options)
        attention_vjp(np.ones((2, 1)), q, k, v, **options)
