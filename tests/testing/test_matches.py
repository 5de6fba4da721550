"""assert_matches: what it accepts, what it refuses, and what it says at 2 a.m."""

import numpy as np
import pytest

import refattn
from refattn import masks
from refattn.testing import assert_matches, compare, oracle, to_numpy
from refattn.testing.rounding import round_to
from refattn.testing.variants import variants
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
    with pytest.raises(ValueError, match="tier is 'soft'; it must be one of 'auto', 'hard', 'statistical'"):
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
    with pytest.raises(AssertionError, match=r"no known variant does\.$"):  # a name millions of bounds away is no hint
        assert_matches(np.sin(refattn.attention(q, k, v) * 7) + 3, refattn.attention, q, k, v, scale=0.3)
    limit = compare(refattn.attention(q, k, v), refattn.attention, q, k, v)[0].error_bound
    near = refattn.attention(q, k, v, scale=1 / 16) + 6 * limit  # not that, but close to it
    with pytest.raises(AssertionError, match=r"no known variant does; the nearest is scale/\w+ at \d"):
        assert_matches(near, refattn.attention, q, k, v, tier="hard")


def test_truth_values_and_integers_are_compared_exactly():
    wrong = masks.causal().dense(3, 5, q_positions=np.arange(3))
    with pytest.raises(AssertionError, match=r"Mask.dense: 6 of 15 elements differ \(at \[0, 1\]: got 0, want 1\)"):
        assert_matches(wrong, "Mask.dense", masks.causal(), 3, 5)
    assert_matches(masks.causal().dense(3, 5), "Mask.dense", masks.causal(), 3, 5)


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


@pytest.mark.parametrize(
    ("actual", "function", "options", "error", "says"),
    [
        (np.ones(3, dtype=complex), refattn.silu, {}, TypeError, "its out, has dtype complex128; it must hold real"),
        (
            (np.ones(3),),
            refattn.silu,
            {},
            ValueError,
            r"returns a tuple of 1; it must be one array$",
        ),
        (np.ones(3), None, {}, TypeError, "function is None; it must be a function of refattn"),
        (np.ones(3), np.sum, {}, TypeError, "function is the function sum; it must be a function of refattn"),
        (np.ones(3), lambda x: x, {}, ValueError, "which is no function of refattn"),
        (np.ones(3), refattn.silu, {"preset": ["onnx"]}, TypeError, "preset is .*; it must be the name of one"),
    ],
)
def test_what_cannot_be_compared_is_named(actual, function, options, error, says):
    with pytest.raises(error, match=says):
        compare(actual, function, np.ones(3), **options)


def test_the_oracle_computes_in_float64():
    q, k, v = (x.astype(np.float16) for x in qkv(precision="float16"))
    out = oracle(refattn.attention, q, k, v)
    assert out.dtype == np.float64
    np.testing.assert_array_equal(out, refattn.attention(*(x.astype(np.float64) for x in (q, k, v))))


def test_two_conventions_at_once_are_named():
    q, k, v = qkv(precision="float32")
    wrong = refattn.attention(q, k, v, masks.causal(), q_positions=np.arange(9), scale=1 / 16)
    (found,) = compare(wrong, refattn.attention, q, k, v, masks.causal())
    assert set(found.explanations[0].name.split(" + ")) == {"causal/top_left", "scale/twice"}  # D = 16
    assert "And: " in str(found)


def test_two_conventions_at_once_are_named_among_groups():
    q, k, v = qkv(precision="float32", lead=(2, 2))
    q = np.concatenate([q, q[:, ::-1]], axis=1)  # 4 heads over 2
    tiled = np.tile(k, (1, 2, 1, 1)), np.tile(v, (1, 2, 1, 1))
    wrong = refattn.attention(q, *tiled, masks.causal(), q_positions=np.arange(9))
    (found,) = compare(wrong, "grouped_query_attention", q, k, v, masks.causal())
    assert set(found.explanations[0].name.split(" + ")) == {"gqa/tiled", "causal/top_left"}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fmt", ["bfloat16", "float16"])
def test_a_right_kernel_of_another_profile_is_told_so(fmt, seed):
    """Whatever it is: an eager kernel judged as a flash one, and narrow kernels judged by float32's bound."""
    draw = np.random.default_rng(seed)
    q, k, v = qkv(seed, fmt, n=int(draw.integers(3, 20)), m=int(draw.integers(30, 200)), d=32, dv=16)
    q = round_to(6 * q, fmt)
    for out, judged_by in (
        (eager(q, k, v, precision=f"{fmt}/eager")[0], fmt),
        (eager(q, k, v, precision=f"{fmt}/eager")[0], "float32"),
        (flash(q, k, v, precision=fmt)[0], "float32"),
    ):
        (found,) = compare(out, refattn.attention, q, k, v, precision=judged_by, tier="hard")
        if not found.ok:
            assert found.explanations[0].variant is None, str(found)
            assert found.explanations[0].name.startswith(fmt), str(found)


def test_a_message_says_where():
    q, k, v = qkv(precision="float32")
    out = refattn.attention(q, k, v)
    out[1, 2, 3:5] += 0.25
    with pytest.raises(AssertionError, match=r"Only in axis 0: 1 of 2; heads 2 of 3; queries 3-4 of 9\."):
        assert_matches(out, refattn.attention, q, k, v)


def test_a_wrong_shape_is_explained_where_a_variant_gives_it():
    q, k, v = qkv(precision="float32")
    out = np.concatenate([refattn.attention(q, k, v), np.zeros((2, 3, 9, 8))], axis=-1)
    with pytest.raises(
        AssertionError, match=r"(?s)must have .*This gives that shape and its numbers: values/size_of_keys"
    ):
        assert_matches(out, refattn.attention, q, k, v)


def test_nothing_passes_that_other_comparators_let_through():
    """NaN where none should be, the wrong infinity, one wrong element among many, a small relative error everywhere."""
    q, k, v = qkv(precision="float32", n=16, m=64, d=16, dv=16)
    out, lse = refattn.attention(q, k, v, return_lse=True)
    nan = np.where(np.arange(out.size).reshape(out.shape) == 77, np.nan, out)
    assert not (np.abs(nan - out) > 1e-3).any()  # as a comparator does that asks only whether something is too far
    one = out.copy()
    one[0, 0, 0, 0] += 1e-3
    assert np.corrcoef(one.ravel(), out.ravel())[0, 1] > 0.9999
    assert np.mean(np.abs(one - out)) < 1e-6
    for wrong in (nan, one, out * (1 + 2e-5), out + 2e-5 * np.abs(out).max(), np.where(nan != nan, np.inf, out)):
        assert not compare(wrong, refattn.attention, q, k, v, explain=False)[0].ok
    empty = np.zeros((16, 64), dtype=bool)
    zero = np.zeros_like(out)
    assert compare((zero, np.full_like(lse, -np.inf)), refattn.attention, q, k, v, empty, return_lse=True)[1].ok
    for value in (np.inf, np.nan, -5e4):
        assert not compare((zero, np.full_like(lse, value)), refattn.attention, q, k, v, empty, return_lse=True)[1].ok


def test_a_command_that_runs_it_again_is_shown():
    from dataclasses import replace

    q, k, v = qkv(precision="float32")
    (found,) = compare(refattn.attention(q, k, v, scale=0.1), refattn.attention, q, k, v)
    assert str(replace(found, replay="refattn replay x --impl y")).endswith("\nReplay: refattn replay x --impl y")


@pytest.mark.parametrize("function", ["attention", "grouped_query_attention"])
@pytest.mark.parametrize("mask", [masks.causal() & masks.padding(np.array([[20], [33]])), None])
def test_of_a_large_problem_one_head_is_explained(monkeypatch, function, mask):
    from refattn.testing import diagnosis, narrowing

    monkeypatch.setattr(narrowing, "LARGE", 100)
    draw = np.random.default_rng(0)
    q, k, v = qkv(precision="float32", lead=(2, 2))
    q = np.concatenate([q, -q], axis=1) if function == "grouped_query_attention" else q
    heads = q.shape[1]
    given = {"mask": mask, "bias": draw.normal(size=(heads, 1, 33)), "sinks": draw.normal(size=heads), "return_lse": True,
             "dropout": (draw.random((2, 1, 9, 33)) < 0.7, 0.25)}  # fmt: skip
    seen = []
    monkeypatch.setattr(diagnosis, "_candidates", lambda judgements, *rest: seen.append(judgements[0]) or [])
    wrong = variants_of(function)["bias/negated"].call(q, k, v, **given)
    compare(wrong, function, q, k, v, **given)
    assert [j.got.shape for j in seen][:1] == [(1, 1, 9, 8)]
    monkeypatch.undo()
    monkeypatch.setattr(narrowing, "LARGE", 100)
    found = compare(wrong, function, q, k, v, **given)
    assert [c.explanations[0].name for c in found] == ["bias/negated", "bias/negated"]


def variants_of(function):
    return {v.name: v for v in variants(function)}


def test_gradients_may_be_a_tuple_a_list_or_a_tuple_with_names_of_its_own():
    import collections

    draw = np.random.default_rng(5)
    q, k, v = draw.normal(size=(3, 2, 4, 8))
    bias = draw.normal(size=(4, 4))
    given = (v, q, k, v)
    g = refattn.attention_vjp(*given, bias=bias)
    own = collections.namedtuple("own", "dq dk dv dbias")
    for right in (
        g, (g.q, g.k, g.v, g.bias), [g.q, g.k, g.v, g.bias, g.scale], (g.q, g.k, g.v, g.bias, None, None),
        own(g.q, g.k, g.v, g.bias), {"q": g.q},
    ):  # fmt: skip
        assert_matches(right, refattn.attention_vjp, *given, bias=bias, precision="float64")
    plain = refattn.attention_vjp(*given)
    assert_matches((plain.q, plain.k, plain.v, None, None), refattn.attention_vjp, *given, precision="float64")
    for wrong in ((g.k, g.q, g.v, g.bias), own(g.q, g.k, g.q, g.bias)):
        with pytest.raises(AssertionError, match="lie outside"):
            assert_matches(wrong, refattn.attention_vjp, *given, bias=bias, precision="float64")
    with pytest.raises(AssertionError, match=r"attention_vjp \(bias\): None is returned for this gradient"):
        assert_matches((g.q, g.k, g.v, None), refattn.attention_vjp, *given, bias=bias, precision="float64")
    with pytest.raises(ValueError, match="returns q, k, v, bias, scale here, the given result has only q, k, v"):
        assert_matches((g.q, g.k, g.v), refattn.attention_vjp, *given, bias=bias, precision="float64")
    for many in ((*g, g.q), (g.q, g.k, g.v, g.bias, g.sinks, g.q, g.q)):
        with pytest.raises(ValueError, match="results, the reference 5: q, k, v, bias, scale"):
            assert_matches(many, refattn.attention_vjp, *given, bias=bias, precision="float64")


def test_gradients_of_parameters_are_named_through():
    draw = np.random.default_rng(6)
    x, w_in, w_out = draw.normal(size=(3, 4)), draw.normal(size=(4, 6)), draw.normal(size=(6, 4))
    params = refattn.FeedForwardParams(w_in, None, w_out, None)
    g = refattn.feed_forward_vjp(x, x, params)
    call = (refattn.feed_forward_vjp, x, x, params)
    for right in (g, (g.x, g.params), (g.x, tuple(part for part in g.params if part is not None))):
        assert_matches(right, *call, precision="float64")
    with pytest.raises(AssertionError, match=r"\(params.w_out\): None is returned"):
        assert_matches((g.x, None), *call, precision="float64")
