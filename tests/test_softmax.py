"""Properties of softmax, log-sum-exp and merge."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refattn.softmax import logsumexp, merge, softmax
from tests.strategies import floats_for, rng

rows = st.tuples(st.integers(1, 5), st.integers(1, 7))


def close(a, b, scale=1.0):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * scale)


@pytest.mark.clause("SOFTMAX-NORMAL", "LSE-NATURAL")
def test_integers_by_hand(library):
    x = np.log(np.array([[1.0, 2.0, 5.0]]))
    close(library.call(softmax, x), [[0.125, 0.25, 0.625]])
    close(library.call(logsumexp, x), [np.log(8.0)])


@pytest.mark.clause("SOFTMAX-NORMAL")
@given(shape=rows, seed=rng)
def test_rows_sum_to_one(library, shape, seed):
    x = floats_for(seed, shape, scale=10.0)
    close(library.call(softmax, x).sum(axis=-1), np.ones(shape[0]))


@pytest.mark.clause("SOFTMAX-NORMAL", "LSE-NATURAL")
@given(shape=rows, seed=rng)
def test_weights_are_exponentials_relative_to_logsumexp(library, shape, seed):
    x = floats_for(seed, shape, scale=10.0)
    close(library.call(softmax, x), np.exp(x - library.call(logsumexp, x)[:, None]))


@pytest.mark.clause("SOFTMAX-SHIFT", "LSE-SHIFT")
@given(shape=rows, seed=rng, shift=st.sampled_from([1e5, -1e5, 3e4, -6e4]))
def test_a_common_shift_moves_only_logsumexp(library, shape, seed, shift):
    x = np.round(floats_for(seed, shape, scale=8.0) * 8) / 8  # so that x + shift is exact
    close(library.call(softmax, x + shift), library.call(softmax, x))
    close(library.call(logsumexp, x + shift), library.call(logsumexp, x) + shift, abs(shift))


@pytest.mark.clause("SOFTMAX-ABSENT")
@given(shape=rows, seed=rng, poison=st.sampled_from([np.nan, np.inf, -np.inf, 1e300]))
def test_absent_entries_have_no_influence(library, shape, seed, poison):
    x = floats_for(seed, shape)
    where = np.random.default_rng(seed).random(shape) < 0.6
    poisoned = np.where(where, x, poison)
    for function in (softmax, logsumexp):
        np.testing.assert_array_equal(
            library.call(function, poisoned, where=where), library.call(function, x, where=where)
        )
    assert not library.call(softmax, poisoned, where=where)[~where].any()


@pytest.mark.clause("SOFTMAX-ABSENT")
def test_minus_infinity_is_absent(library):
    x = np.array([[1.0, -np.inf, 2.0]])
    np.testing.assert_array_equal(library.call(softmax, x)[:, [0, 2]], library.call(softmax, x[:, [0, 2]]))


@pytest.mark.clause("SOFTMAX-EMPTY", "LSE-EMPTY")
@pytest.mark.parametrize("x", [np.full((2, 3), -np.inf), np.zeros((2, 0))], ids=["all -inf", "length 0"])
def test_nothing_present_is_zero_and_minus_infinity(library, x):
    np.testing.assert_array_equal(library.call(softmax, x), np.zeros_like(x))
    np.testing.assert_array_equal(library.call(logsumexp, x), [-np.inf, -np.inf])


@pytest.mark.clause("MERGE-UNION")
def test_merge_keeps_leading_axes(library):
    out, lse = floats_for(0, (2, 3, 4, 5)), floats_for(1, (2, 3, 4))
    merged, level = library.call(merge, out, lse, out, lse)
    close(merged, out)
    close(level, lse + np.log(2))


@given(seed=rng, axis=st.integers(-3, 2))
@pytest.mark.clause("SOFTMAX-NORMAL", "LSE-NATURAL")
def test_any_axis(library, seed, axis):
    x = floats_for(seed, (2, 3, 5))
    moved = np.moveaxis(x, axis, -1)
    close(np.moveaxis(library.call(softmax, x, axis=axis), axis, -1), library.call(softmax, moved))
    close(library.call(logsumexp, x, axis=axis), library.call(logsumexp, moved))


def parts(seed, count):
    """Outputs and log-sum-exps over `count` disjoint sets of keys, and over their union, by the plain formula."""
    draw = np.random.default_rng(seed)
    scores = [draw.normal(size=(3, draw.integers(1, 5))) * 4 for _ in range(count)]
    values = [draw.normal(size=(s.shape[1], 2)) for s in scores]
    each = [(softmax(s) @ v, logsumexp(s)) for s, v in zip(scores, values, strict=True)]
    s, v = np.concatenate(scores, axis=1), np.concatenate(values, axis=0)
    return each, (softmax(s) @ v, logsumexp(s))


@pytest.mark.clause("MERGE-UNION", "MERGE-ORDER")
@given(seed=rng)
def test_merging_parts_in_any_tree_gives_the_union(library, seed):
    (a, b, c), (out, lse) = parts(seed, 3)
    for merged in (
        library.call(merge, *library.call(merge, *a, *b), *c),
        library.call(merge, *a, *library.call(merge, *b, *c)),
        library.call(merge, *library.call(merge, *c, *a), *b),
    ):
        close(merged[0], out)
        close(merged[1], lse)


@pytest.mark.clause("MERGE-IDENTITY")
@given(seed=rng, garbage=st.sampled_from([0.0, np.nan, np.inf]))
def test_an_empty_part_is_the_identity(library, seed, garbage):
    (a,), _ = parts(seed, 1)
    empty = np.full_like(a[0], garbage), np.full(3, -np.inf)
    for merged in (library.call(merge, *a, *empty), library.call(merge, *empty, *a)):
        np.testing.assert_array_equal(merged[0], a[0])
        np.testing.assert_array_equal(merged[1], a[1])
    both = library.call(merge, *empty, *empty)
    np.testing.assert_array_equal(both[0], np.zeros_like(a[0]))
    np.testing.assert_array_equal(both[1], np.full(3, -np.inf))


def test_errors_say_what_was_wrong():
    x = np.zeros((2, 3))
    with pytest.raises(TypeError, match="x has dtype int64; it must be floating-point"):
        softmax(np.zeros(3, dtype=np.int64))
    with pytest.raises(TypeError, match="x is a list; it must be a NumPy or CuPy array"):
        softmax([1.0])
    with pytest.raises(TypeError, match="where has dtype float64; it must be bool"):
        softmax(x, where=x)
    with pytest.raises(ValueError, match=r"do not broadcast: x \(2, 3\), where \(4,\)"):
        softmax(x, where=np.ones(4, dtype=bool))
    with pytest.raises(ValueError, match=r"lse_b has shape \(3,\), out_b has shape \(2, 3\)"):
        merge(x, np.zeros(2), x, np.zeros(3))
    with pytest.raises(ValueError, match="out_b has 2 columns, out_a has 3: both are Dv"):
        merge(x, np.zeros(2), x[:, :2], np.zeros(2))
    three = np.zeros((2, 4, 3))
    with pytest.raises(ValueError, match=r"lse_a has shape \(2, 3\), out_a has shape \(2, 4, 3\)"):
        merge(three, np.zeros((2, 3)), three, np.zeros((2, 4)))
    with pytest.raises(ValueError, match="out_b has 2 columns, out_a has 3"):
        merge(three, np.zeros((2, 4)), three[..., :2], np.zeros((2, 4)))
    with pytest.raises(ValueError, match="axis"):
        softmax(x, axis=2)
