"""Sparsemax and entmax: what holds whatever the numbers are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import refattn
from refattn import entmax, entmax_vjp, softmax, sparsemax, sparsemax_vjp
from refattn.softmax import merge
from refattn.testing.bounds import bound
from tests.derivatives import assert_derivative, weighted
from tests.strategies import floats_for, rng

ALPHAS = (1.0, 1.125, 1.5, 1.75, 2.0, 3.0)
alphas = st.sampled_from(ALPHAS)


def threshold_of(p, x, alpha):
    """What the weights above 0 say that the threshold is."""
    return np.where(p > 0, (alpha - 1) * x - p ** (alpha - 1), np.nan)


@pytest.mark.clause("ENTMAX-NORMAL", "ENTMAX-ZERO")
@given(seed=rng, alpha=alphas, scale=st.sampled_from([0.1, 1.0, 10.0]))
def test_weights_sum_to_one_and_have_one_threshold(library, seed, alpha, scale):
    x = floats_for(seed, (3, 4, 9), scale=scale)
    p = library.call(entmax, x, alpha)
    np.testing.assert_allclose(p.sum(axis=-1), 1.0, rtol=1e-12)
    assert (p >= 0).all()
    if alpha > 1:
        tau = threshold_of(p, x, alpha)
        least, most = np.nanmin(tau, axis=-1, keepdims=True), np.nanmax(tau, axis=-1, keepdims=True)
        np.testing.assert_allclose(least, most, atol=1e-12 * max(1.0, scale))
        assert np.all((p > 0) | ((alpha - 1) * x <= least + 1e-12 * scale))


@pytest.mark.clause("ENTMAX-NORMAL")
@pytest.mark.parametrize("alpha", [4.0, 50.0])
def test_steep_roots_still_sum_to_one(library, alpha):
    """Beyond alpha 2 a weight at the threshold changes faster than floating-point numbers can follow."""
    p = library.call(entmax, floats_for(3, (200, 17), scale=0.1), alpha)
    np.testing.assert_allclose(p.sum(axis=-1), 1.0, rtol=1e-13)


@pytest.mark.clause("ENTMAX-NORMAL")
@given(seed=rng, alpha=alphas)
def test_they_are_the_best_weights(seed, alpha):
    """No other weights have a larger Σ p x + H(p), H Tsallis' entropy."""
    x = floats_for(seed, (6,))
    gain = lambda p: p @ x + (-np.sum(p * np.log(p, where=p > 0, out=np.zeros_like(p))) if alpha == 1
                              else np.sum(p - p**alpha) / (alpha * (alpha - 1)))  # fmt: skip
    best = entmax(x, alpha)
    for other in np.random.default_rng(seed).dirichlet(np.full(6, 0.5), size=40):
        for share in (1.0, 0.1, 1e-3):
            assert gain(best) >= gain(best + share * (other - best)) - 1e-13


@pytest.mark.clause("ENTMAX-NORMAL", "ENTMAX-TWO")
def test_golden_constants():
    row = np.array([1.0, 1.0, 0.2, -3.0])
    np.testing.assert_allclose(sparsemax(row), [0.5, 0.5, 0.0, 0.0])
    np.testing.assert_allclose(entmax(row), [0.4611, 0.4611, 0.0779, 0.0], atol=5e-5)
    np.testing.assert_allclose(sparsemax(np.array([1.0, -np.inf, 0.0])), [1.0, 0.0, 0.0])
    np.testing.assert_allclose(entmax(np.array([1.0, -np.inf, 0.0])), [0.8307, 0.0, 0.1693], atol=5e-5)


@pytest.mark.clause("ENTMAX-NORMAL", "ENTMAX-TWO")
@given(seed=rng, alpha=st.sampled_from([1.5, 2.0]), scale=st.sampled_from([0.01, 1.0, 30.0]))
def test_sorting_finds_what_bisection_finds(library, seed, alpha, scale):
    x = floats_for(seed, (5, 17), scale=scale)
    nearby = entmax(x, alpha * (1 + 1e-13))
    np.testing.assert_allclose(library.call(entmax, x, alpha), nearby, atol=1e-11)
    if alpha == 2.0:
        assert np.array_equal(library.call(sparsemax, x), library.call(entmax, x, 2.0))


@pytest.mark.clause("ENTMAX-ONE")
@given(seed=rng)
def test_alpha_one_is_softmax_and_what_lies_near_it_is_near(library, seed):
    x = floats_for(seed, (4, 7), scale=3.0)
    assert np.array_equal(library.call(entmax, x, 1), softmax(x))
    for off in (1e-4, 1e-8, 1e-12):
        np.testing.assert_allclose(library.call(entmax, x, 1 + off), softmax(x), atol=40 * off + 1e-13)


@pytest.mark.clause("ENTMAX-NORMAL", "ENTMAX-ZERO")
@given(seed=rng)
def test_a_larger_alpha_keeps_no_more(seed):
    x = floats_for(seed, (50, 8), scale=0.7)
    kept = [np.sum(entmax(x, alpha) > 0, axis=-1) for alpha in (1.0, 1.2, 1.5, 2.0, 3.0, 20.0)]
    assert (np.diff(kept, axis=0) <= 0).all()


@pytest.mark.clause("ENTMAX-ZERO")
@pytest.mark.parametrize("alpha", ALPHAS)
def test_equal_entries_share(library, alpha):
    p = library.call(entmax, np.array([[2.0, 2.0, 2.0, -60.0], [0.5] * 4]), alpha)
    np.testing.assert_allclose(p, [[1 / 3] * 3 + [0.0], [0.25] * 4], rtol=1e-12, atol=1e-20)
    assert alpha == 1 or p[0, 3] == 0.0


@pytest.mark.clause("ENTMAX-SHIFT")
@given(seed=rng, alpha=alphas, shift=st.sampled_from([2.0**12, -(2.0**12), 2.0**30]))
def test_a_constant_changes_nothing(library, seed, alpha, shift):
    x = np.round(floats_for(seed, (3, 6)) * 64) / 64
    assert np.array_equal(library.call(entmax, x + shift, alpha), entmax(x, alpha))


@pytest.mark.clause("ENTMAX-ABSENT", "ENTMAX-EMPTY")
@given(seed=rng, alpha=alphas, held=st.sampled_from([np.nan, np.inf, -np.inf, 1e300]))
def test_what_is_absent_has_no_influence(library, seed, alpha, held):
    x, where = floats_for(seed, (4, 7)), np.random.default_rng(seed).random((4, 7)) < 0.5
    where[1] = False
    p = library.call(entmax, np.where(where, x, held), alpha, where=where)
    assert not p[~where].any()
    for row, seen, own in zip(x, where, p, strict=True):
        if seen.any():
            np.testing.assert_allclose(own[seen], entmax(row[seen], alpha), rtol=1e-12, atol=1e-14)
    assert np.array_equal(p, library.call(entmax, np.where(where, x, -np.inf), alpha))


@pytest.mark.clause("ENTMAX-EMPTY", "ENTMAX-ABSENT")
@pytest.mark.parametrize("alpha", ALPHAS)
def test_rows_of_nothing_and_what_is_no_number(library, alpha):
    assert library.call(entmax, np.zeros((3, 0)), alpha).shape == (3, 0)
    assert library.call(entmax, np.zeros((0, 3)), alpha).shape == (0, 3)
    assert not library.call(entmax, np.full((2, 3), -np.inf), alpha).any()
    for held in (np.nan, np.inf):
        assert np.isnan(library.call(entmax, np.array([0.0, held, 1.0]), alpha)).all()
    low = np.array([-3e38, 1.0, -3e38], dtype=np.float32)
    assert np.array_equal(library.call(entmax, low, alpha), [0.0, 1.0, 0.0])


@pytest.mark.clause("ENTMAX-NORMAL")
@pytest.mark.parametrize("alpha", [1.0, 1.25, 1.5, 2.0])
def test_any_axis_and_a_mask_that_is_larger(library, alpha):
    x, where = floats_for(1, (3, 4, 5)), np.random.default_rng(2).random((2, 1, 1, 5)) < 0.7
    for axis in (0, 1, -1):
        got = library.call(entmax, x, alpha, axis)
        np.testing.assert_array_equal(got, np.moveaxis(entmax(np.moveaxis(x, axis, -1), alpha), -1, axis))
    got = library.call(entmax, x, alpha, -1, where)
    assert got.shape == (2, 3, 4, 5)
    np.testing.assert_array_equal(got[1], entmax(x, alpha, -1, where[1]))


@pytest.mark.clause("ENTMAX-GRADIENT")
@given(seed=rng, alpha=alphas, axis=st.sampled_from([0, -1]))
def test_gradients_are_derivatives(seed, alpha, axis):
    x, d_out = floats_for(seed, (4, 5)), floats_for(seed + 1, (4, 5))
    p = entmax(x, alpha, axis)
    if np.any((p > 0) & (p < 1e-3)) or (alpha > 1 and np.any(_from_threshold(p, x, alpha, axis) < 1e-3)):
        return  # near the threshold a difference meets the kink
    value = lambda x: weighted(entmax(x, alpha, axis), d_out)
    assert_derivative(value, {"x": x}, {"x": entmax_vjp(d_out, x, alpha, axis).x}, seed)


def _from_threshold(p, x, alpha, axis):
    """How far each logit lies from the threshold."""
    largest = np.max(p, axis=axis, keepdims=True) ** (alpha - 1)
    return np.abs((alpha - 1) * (x - np.max(x, axis=axis, keepdims=True)) + largest)


@pytest.mark.clause("ENTMAX-GRADIENT")
@given(seed=rng, alpha=alphas)
def test_gradients_by_the_library_and_what_they_sum_to(library, seed, alpha):
    x, d_out = floats_for(seed, (3, 4, 6)), floats_for(seed + 1, (3, 4, 6))
    found = library.call(entmax_vjp, d_out, x, alpha).x
    p = entmax(x, alpha)
    assert not found[p == 0].any()
    size = np.max(np.where(p > 0, p, 1.0) ** min(0.0, 2 - alpha)) * np.max(np.abs(d_out))
    np.testing.assert_allclose(found.sum(axis=-1), 0.0, atol=1e-11 * size)
    if alpha == 2:
        count = np.sum(p > 0, axis=-1, keepdims=True)
        mean = np.sum(np.where(p > 0, d_out, 0.0), axis=-1, keepdims=True) / count
        np.testing.assert_allclose(found, np.where(p > 0, d_out - mean, 0.0), atol=1e-12)
        np.testing.assert_array_equal(library.call(sparsemax_vjp, d_out, x).x, found)
    stale = np.where(p > 0, d_out, np.nan)
    np.testing.assert_array_equal(library.call(entmax_vjp, stale, x, alpha).x, found)


@pytest.mark.clause("ENTMAX-GRADIENT")
def test_gradients_are_summed_over_what_a_mask_adds(library):
    x, where, d_out = floats_for(1, (5,)), np.random.default_rng(2).random((4, 5)) < 0.7, floats_for(3, (4, 5))
    found = library.call(entmax_vjp, d_out, x, where=where).x
    wide = np.broadcast_to(x, (4, 5))
    np.testing.assert_allclose(found, entmax_vjp(d_out, wide, where=where).x.sum(axis=0), rtol=1e-12)


@pytest.mark.clause("ENTMAX-NORMAL")
@pytest.mark.parametrize("alpha", [1.5, 2.0])
def test_parts_of_a_row_cannot_be_merged(alpha):
    """What is easily believed of softmax does not hold here: no numbers of the parts say how they share the weight."""
    x, v = floats_for(5, (8,)), floats_for(6, (8, 2))
    parts = [entmax(half, alpha) @ own for half, own in zip(np.split(x, 2), np.split(v, 2), strict=True)]
    sums = [refattn.logsumexp(half)[None] for half in np.split(x, 2)]
    merged, _ = merge(parts[0][None], sums[0], parts[1][None], sums[1])
    assert np.max(np.abs(merged[0] - entmax(x, alpha) @ v)) > 1e-3


@pytest.mark.parametrize("alpha", [1.125, 1.5, 1.75, 2.0, 3.0])
@given(seed=rng, scale=st.sampled_from([0.05, 1.0, 8.0]))
def test_ways_to_compute_it_in_float32_stay_within_the_bound(alpha, seed, scale):
    """By sorting, by bisection of the threshold, and what numbers beside it give: no correct way is accused."""
    x = np.asarray(floats_for(seed, (6, 33), scale=scale), dtype=np.float32)
    found = bound("entmax", "float32", x, alpha=alpha)["out"]
    level = np.float32(alpha - 1) * (x - x.max(axis=-1, keepdims=True))
    low, high = np.full((6, 1), -1.0, np.float32), np.zeros((6, 1), np.float32)
    power = lambda tau: np.maximum(level - tau, np.float32(0)) ** np.float32(1 / (alpha - 1))
    for _ in range(40):
        tau = (low + high) / 2
        low, high = (np.where(power(tau).sum(axis=-1, keepdims=True) >= 1, a, b) for a, b in ((tau, low), (high, tau)))
    for p in (entmax(x, alpha), power(low), power(low) / power(low).sum(axis=-1, keepdims=True)):
        assert np.all(np.abs(p - found.value) <= found.hard)
    wider = entmax(x.astype(np.float64) * 1.001, alpha)
    assert np.any(np.abs(wider - found.value) > found.hard) or np.max(np.abs(wider - found.value)) < 1e-4


@pytest.mark.clause("ENTMAX-REFUSE")
def test_errors_name_what_is_wrong():
    x = np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"alpha is 0\.5; it must be at least 1"):
        entmax(x, 0.5)
    with pytest.raises(TypeError, match="alpha must be a real number"):
        entmax(x, "1.5")
    with pytest.raises(TypeError, match="x has dtype int64; it must be floating-point"):
        sparsemax(np.zeros(3, dtype=int))
    with pytest.raises(TypeError, match="where has dtype float64; it must be bool"):
        entmax(x, where=x)
    with pytest.raises(ValueError, match="axis is 2"):
        sparsemax(x, axis=2)
    with pytest.raises(ValueError, match=r"d_out has shape \(3,\); it must have the shape of entmax\(x\), \(2, 3\)"):
        entmax_vjp(np.zeros(3), x)
