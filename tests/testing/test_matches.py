"""assert_matches: what it accepts, what it refuses, and what it says at 2 a.m."""

import numpy as np
import pytest

import refattn
from refattn import masks
from refattn.testing import assert_matches, compare, oracle, to_numpy
from refattn.testing.rounding import round_to
from refattn.testing.variants import NotApplicable, variants
from tests.kernels import eager, flash


def qkv(seed=0, precision="bfloat16", n=9, m=33, d=16, dv=8, lead=(2, 3)):
    draw = np.random.default_rng(seed)
    return tuple(round_to(draw.normal(size=s), precision) for s in ((*lead, n, d), (*lead, m, d), (*lead, m, dv)))


def test_a_correct_kernel_matches_and_says_how_closely():
    q, k, v = qkv()
    (found,) = assert_matches(flash(q, k, v, precision="bfloat16")[0], refattn.attention, q, k, v, precision="bfloat16")
    assert found.verdict in ("within statistical", "within hard")
    assert 0 < found.hard <= 1
    assert "matches; the worst error is" in str(found)


def test_out_and_lse_are_compared_where_both_are_returned():
    q, k, v = qkv(precision="float32")
    both = flash(q, k, v, masks.causal(), precision="float32")
    found = assert_matches(both, refattn.attention, q, k, v, masks.causal(), return_lse=True)
    assert [c.result for c in found] == ["out", "lse"]
    with pytest.raises(AssertionError, match=r"(?s)attention \(lse\): .* this does: lse/base_2"):
        assert_matches((both[0], both[1] / np.log(2)), refattn.attention, q, k, v, masks.causal(), return_lse=True)
    with pytest.raises(ValueError, match="attention returns out, lse here, the given result has only out"):
        assert_matches(both[0], refattn.attention, q, k, v, masks.causal(), return_lse=True)


def test_a_wrong_convention_is_named_with_advice():
    q, k, v = qkv()
    wrong = flash(q, k, v, masks.causal(), precision="bfloat16", q_positions=np.arange(9))[0]
    with pytest.raises(AssertionError) as caught:
        assert_matches(wrong, refattn.attention, q, k, v, mask=masks.causal(), precision="bfloat16")
    message = str(caught.value)
    assert "elements lie outside the" in message
    assert "got " in message
    assert "Rounding does not explain it; this does: causal/top_left (clause ATTN-ALIGN)" in message
    assert "torch scaled_dot_product_attention(is_causal=True)" in message
    assert "pass q_positions=arange(N)" in message


def test_another_profile_is_named():
    q, k, v = qkv()
    q = round_to(6 * q, "bfloat16")
    with pytest.raises(AssertionError, match="Another precision explains it: bfloat16/eager"):
        assert_matches(eager(q, k, v, precision="bfloat16/eager")[0], refattn.attention, q, k, v, precision="bfloat16")


def test_the_tiers():
    q, k, v = qkv(n=16, m=4096, d=64, dv=64, lead=(2,))
    lost = flash(q, k[:, :-1], v[:, :-1], precision="bfloat16")[0]
    assert_matches(lost, refattn.attention, q, k, v, precision="bfloat16", tier="hard")
    with pytest.raises(AssertionError, match="statistical bound") as caught:
        assert_matches(lost, refattn.attention, q, k, v, precision="bfloat16")
    assert "keys/last_dropped" in str(caught.value)
    assert "The hard bound holds" in str(caught.value)
    with pytest.raises(ValueError, match="tier is 'soft'; it must be one of auto, hard, statistical"):
        assert_matches(lost, refattn.attention, q, k, v, tier="soft")


def test_special_values_come_before_numbers():
    q, k, v = qkv(precision="float32")
    out = refattn.attention(q, k, v)
    for value in (np.nan, np.inf):
        broken = out.copy()
        broken[1, 2, 3, 4] = value
        with pytest.raises(AssertionError, match=r"1 of 432 elements are NaN or infinite .*\[1, 2, 3, 4\]"):
            assert_matches(broken, refattn.attention, q, k, v)
    v[..., 0, 0] = np.nan
    assert_matches(refattn.attention(q, k, v), refattn.attention, q, k, v)
    with pytest.raises(AssertionError, match="NaN or infinite where the reference is not, or the reverse"):
        assert_matches(out, refattn.attention, q, k, v)


def test_overflow_of_the_output_format_is_no_mistake():
    q, k = np.zeros((1, 1, 2)), np.zeros((1, 3, 2))
    v = np.full((1, 3, 1), 65504.0)
    out = np.array([[[np.inf]]])
    assert_matches(out, refattn.attention, q, k, v, precision="float16")
    with pytest.raises(AssertionError):
        assert_matches(out, refattn.attention, q, k, v / 2, precision="float16")


def test_shapes():
    q, k, v = qkv()
    with pytest.raises(AssertionError, match=r"the result has shape \(2, 3, 9, 7\), it must have \(2, 3, 9, 8\)"):
        assert_matches(refattn.attention(q, k, v)[..., :7], refattn.attention, q, k, v)


def test_an_unknown_mistake_is_called_unknown():
    q, k, v = qkv(precision="float32")
    with pytest.raises(AssertionError, match=r"no known variant does; the nearest is \S+ at"):
        assert_matches(np.sin(refattn.attention(q, k, v) * 7) + 3, refattn.attention, q, k, v, scale=0.3)


def test_a_function_without_a_bound_is_refused():
    with pytest.raises(NotImplementedError, match="no error bound has been derived for alibi_slopes"):
        assert_matches(np.zeros(3), "alibi_slopes", 3)


class Foreign:
    """An array of a framework that speaks only the array protocol."""

    def __init__(self, x):
        self.x = x

    def __array__(self, dtype=None, copy=None):
        return self.x


def test_arrays_of_other_frameworks():
    np.testing.assert_array_equal(to_numpy(Foreign(np.array([1.5], dtype=np.float32))), [1.5])
    ml_dtypes = pytest.importorskip("ml_dtypes")
    narrow = np.array([1.5, -2.0]).astype(ml_dtypes.bfloat16)
    assert to_numpy(narrow).dtype == np.float64
    np.testing.assert_array_equal(to_numpy(narrow), [1.5, -2.0])
    with pytest.raises(TypeError, match="is no array"):
        to_numpy("q")
    xp = pytest.importorskip("array_api_strict")
    np.testing.assert_array_equal(to_numpy(xp.asarray([1.0, 2.0])), [1.0, 2.0])


def test_the_oracle_computes_in_float64():
    q, k, v = (x.astype(np.float16) for x in qkv(precision="float16"))
    out = oracle(refattn.attention, q, k, v)
    assert out.dtype == np.float64
    np.testing.assert_array_equal(out, refattn.attention(*(x.astype(np.float64) for x in (q, k, v))))


def arguments_for(function, seed):
    """Arguments that exercise every variant of attention."""
    draw = np.random.default_rng(seed)
    q, k, v = qkv(seed, "float32", n=5, m=9, d=8, dv=3)
    mask = draw.random((2, 1, 5, 9)) < 0.6
    return [
        {"q": q, "k": k, "v": v, "mask": masks.causal() & masks.window(3, 0), "return_lse": True},
        {"q": q, "k": k, "v": v, "mask": masks.window(2, 1), "scale": 0.3, "return_lse": True},
        {"q": q, "k": k, "v": v, "mask": mask, "bias": draw.normal(size=(5, 9)), "softcap": 1.5, "return_lse": True},
        {
            "q": q,
            "k": k,
            "v": v,
            "sinks": draw.normal(size=3),
            "dropout": (draw.random((5, 9)) < 0.7, 0.25),
            "return_lse": True,
        },
    ]


@pytest.mark.parametrize("seed", range(2))
def test_the_output_of_a_variant_is_explained_by_that_variant(seed):
    """Right one first, or one that these inputs cannot tell from it."""
    named = total = 0
    for arguments in arguments_for("attention", seed):
        for v in variants("attention"):
            try:
                out, lse = v.call(**arguments)
            except NotApplicable:
                continue
            wrong = [c for c in compare((out, lse), "attention", precision="float32", **arguments) if not c.ok]
            if not wrong:
                continue  # these inputs do not show it
            total += 1
            fitting = {e.name for e in wrong[0].explanations if e.fit <= 2.0}
            named += v.name in fitting
    assert total >= 40
    assert named == total
