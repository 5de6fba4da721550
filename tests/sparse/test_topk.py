"""Attention to the best keys: what holds whatever the numbers are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refattn import masks
from refattn.attention import attention, attention_stages
from refattn.gradients import attention_vjp
from refattn.sparse import gather_attention, topk, topk_attention, topk_attention_vjp
from refattn.testing.bounds import bound
from refattn.testing.mechanisms.attention.bounds import score_bound
from refattn.testing.profiles import profile
from tests.benchmarks.memory import peak
from tests.derivatives import assert_derivative, weighted
from tests.strategies import floats_for, rng

N, M = 5, 7


def qkv(seed, n=N, m=M, lead=(2, 3), d=4, dv=3):
    return tuple(floats_for(seed + x, (*lead, *shape)) for x, shape in enumerate(((n, d), (m, d), (m, dv))))


def kept_of(r, kept):
    """One key after the other: the first of the largest that are left."""
    chosen, r = np.zeros(r.shape, dtype=bool), np.where(np.isnan(r), -np.inf, r).copy()
    for _ in range(min(kept, r.shape[-1])):
        best = np.argmax(r, axis=-1)[..., None]
        there = np.take_along_axis(r, best, axis=-1) > -np.inf
        np.put_along_axis(chosen, best, there | np.take_along_axis(chosen, best, axis=-1), axis=-1)
        np.put_along_axis(r, best, -np.inf, axis=-1)
    return chosen


def close(got, wanted):
    for a, b in zip(got, wanted, strict=True):
        if a is not None or b is not None:
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.clause("TOPK-KEYS", "TOPK-ORDER", "TOPK-MASK", "TOPK-WEIGHTS", "TOPK-OPTIONS", "TOPK-HEADS")
@given(seed=rng, kept=st.sampled_from([1, 2, 4, 7, 9]), size=st.sampled_from([(1, 1), (5, 7), (9, 2), (3, 33)]))
def test_it_is_attention_under_the_choice(library, seed, kept, size):
    q, k, v = qkv(seed, *size)
    mask = np.random.default_rng(seed).random((2, 1, *size)) < 0.7
    options = {
        "bias": floats_for(seed, size), "softcap": 2.0, "scale": -0.4, "sinks": floats_for(seed, (3,)),
        "dropout": (np.random.default_rng(seed).random(size) < 0.7, 0.25), "return_lse": True,
    }  # fmt: skip
    got = library.call(topk_attention, q, k, v, kept, mask, **options)
    s = attention_stages(q, k, v, mask, **{x: options[x] for x in ("bias", "softcap", "scale")}).mask
    close(got, attention(q, k, v, kept_of(s, kept), **options))


@pytest.mark.clause("TOPK-TIES", "TOPK-FEWER", "TOPK-SCORES", "TOPK-MASK")
@given(seed=rng, kept=st.integers(1, 9), lead=st.sampled_from([(), (1,), (3,), (2, 1), (2, 3)]))
def test_given_scores_decide_and_of_equals_the_first(library, seed, kept, lead):
    q, k, v = qkv(seed)
    scores = np.random.default_rng(seed).choice([-np.inf, -1.0, 0.0, 2.0], (*lead, N, M))
    bias = np.where(np.random.default_rng(seed).random((N, M)) < 0.2, -np.inf, 0.5)
    r = np.where(masks.causal().dense(N, M) & ~np.isneginf(bias), scores, -np.inf)
    got = library.call(topk_attention, q, k, v, kept, masks.causal(), scores=scores, bias=bias, return_lse=True)
    close(got, attention(q, k, v, kept_of(r, kept), bias=bias, return_lse=True))


@pytest.mark.clause("TOPK-TIES")
@given(seed=rng, kept=st.integers(1, 9))
def test_equal_scores_of_integers(library, seed, kept):
    draw = np.random.default_rng(seed)
    q, k = (draw.integers(-2, 3, (3, n, 4)).astype(float) for n in (N, M))
    v = floats_for(seed, (3, M, 2))
    wanted = attention(q, k, v, kept_of(q @ np.swapaxes(k, -1, -2), kept), scale=1.0)
    for kind in ("float64", "float32"):
        got = library.call(topk_attention, *(x.astype(kind) for x in (q, k, v)), kept, scale=1.0)
        np.testing.assert_allclose(got, wanted, rtol=1e-5 if kind == "float32" else 1e-12, atol=1e-5)


@pytest.mark.clause("TOPK-KEYS")
def test_all_keys_are_dense_attention_and_one_is_its_value():
    q, k, v = qkv(1)
    for kept in (M, M + 3, 10**9):
        close(topk_attention(q, k, v, kept, return_lse=True), attention(q, k, v, return_lse=True))
    best = np.argmax(q @ np.swapaxes(k, -1, -2), axis=-1)
    close([topk_attention(q, k, v, 1)], [np.take_along_axis(v, best[..., None], axis=-2)])
    close([topk_attention(q, k, v, 1)], [gather_attention(q, k, v, best[..., None])])


@pytest.mark.clause("TOPK-FEWER")
def test_without_keys():
    q, k, v = qkv(1)
    out, lse = topk_attention(q, k[..., :0, :], v[..., :0, :], 3, return_lse=True)
    assert not out.any()
    assert np.isneginf(lse).all()
    assert topk_attention(q[..., :0, :], k, v, 3).shape == (2, 3, 0, 3)
    assert topk_attention(q[:0], k[:0], v[:0], 3).shape == (0, 3, N, 3)


@pytest.mark.clause("TOPK-KEYS", "TOPK-MASK")
@given(seed=rng, held=st.sampled_from([np.nan, np.inf, 1e300]))
def test_what_is_not_kept_has_no_influence(seed, held):
    """Masked keys, whatever they hold; values of keys that are not kept; and lower scores of these."""
    q, k, v = qkv(seed)
    mask = np.random.default_rng(seed).random(M) < 0.6
    out = topk_attention(q, k, v, 2, mask)
    stale_k, stale_v = (np.where(mask[:, None], x, held) for x in (k, v))
    assert np.array_equal(topk_attention(q, stale_k, stale_v, 2, mask), out)
    dropped = ~kept_of(np.where(mask, q @ np.swapaxes(k, -1, -2), -np.inf), 2).any(axis=-2)
    assert np.array_equal(topk_attention(q, k, np.where(dropped[..., None], held, v), 2, mask), out)
    with np.errstate(invalid="ignore"):
        shown = topk_attention(q, np.where(np.arange(M)[:, None] == 3, np.nan, k), v, 2)
    assert np.isnan(shown).all()  # a NaN among keys that are admitted is not hidden by the choice


@pytest.mark.clause("TOPK-MASK")
@given(seed=rng)
def test_no_query_depends_on_later_keys(seed):
    q, k, v = qkv(seed, 6, 6)
    out = topk_attention(q, k, v, 2, masks.causal())
    for x in (k, v):
        x[..., 4:, :] = floats_for(seed + 7, (2, 3, 2, x.shape[-1]), scale=9.0)
    assert np.array_equal(topk_attention(q, k, v, 2, masks.causal())[..., :4, :], out[..., :4, :])


@pytest.mark.clause("TOPK-HEADS", "TOPK-SCORES")
@pytest.mark.parametrize("lead", [(), (4,), (1,), (2, 1), (3, 1, 4)])
def test_query_heads_may_share_keys(library, lead):
    q, (_, k, v), lead = floats_for(5, (2, 4, N, 4)), qkv(6, lead=(2, 2)), lead if len(lead) < 3 else lead[1:]
    for scores in (None, floats_for(7, (*lead, N, M))):
        got = library.call(topk_attention, q, k, v, 3, scores=scores)
        whole = None if scores is None else np.broadcast_to(scores, (2, 4, N, M))
        for h in range(4):
            own = None if scores is None else whole[:, h]
            close([got[:, h]], [topk_attention(q[:, h], k[:, h // 2], v[:, h // 2], 3, scores=own)])


@pytest.mark.clause("TOPK-OPTIONS")
def test_bias_may_be_a_function_and_positions_any():
    q, k, v = qkv(3)
    at = {"q_positions": np.arange(N) + 20, "k_positions": np.arange(M)[::-1] + 17}
    distance, rule = np.abs(at["q_positions"][:, None] - at["k_positions"]), masks.window(4, 2)
    got = topk_attention(q, k, v, 2, rule, bias=lambda i, j: -0.5 * abs(i - j), **at)
    seen = rule.dense(N, M, **at)
    s = attention_stages(q, k, v, seen, bias=-0.5 * distance).mask
    close([got], [attention(q, k, v, kept_of(s, 2), bias=-0.5 * distance)])


@pytest.mark.clause("TOPK-GRADIENT")
@given(seed=rng, kept=st.integers(1, 8), own=st.booleans())
def test_gradients_are_those_of_attention(library, seed, kept, own):
    q, k, v = qkv(seed)
    mask = np.random.default_rng(seed).random((N, M)) < 0.7
    options = {"softcap": 2.0, "sinks": floats_for(seed, (3,)), "bias": floats_for(seed, (3, N, M))}
    s = attention_stages(q, k, v, mask, **{x: options[x] for x in ("softcap", "bias")}).mask
    scores = None if own else floats_for(seed + 5, (3, N, M))
    r = s if own else np.where(mask, scores, -np.inf)
    options |= {"d_out": floats_for(seed + 9, (2, 3, N, 3)), "d_lse": floats_for(seed + 8, (2, 3, N))}
    got = library.call(topk_attention_vjp, q=q, k=k, v=v, kept=kept, mask=mask, scores=scores, **options)
    close(got, attention_vjp(q=q, k=k, v=v, mask=kept_of(r, kept), **options))


@pytest.mark.clause("TOPK-GRADIENT")
@given(seed=rng)
def test_gradients_are_derivatives(seed):
    q, k, v = qkv(seed, lead=(4,))
    arguments = {"q": q, "k": k[::2], "v": v[::2], "sinks": floats_for(seed, (4,))}
    own = {"kept": 3, "scores": floats_for(seed + 5, (N, M))}
    d_out, d_lse = floats_for(seed + 8, (4, N, 3)), floats_for(seed + 9, (4, N))
    value = lambda **x: weighted(topk_attention(**x, **own, return_lse=True), (d_out, d_lse))
    found = topk_attention_vjp(d_out, **arguments, **own, d_lse=d_lse)
    assert_derivative(value, arguments, {name: getattr(found, name) for name in arguments}, seed)


@pytest.mark.clause("TOPK-COST")
def test_chunks_of_any_size_and_no_array_of_all_pairs(monkeypatch):
    q, k, v = (floats_for(x, (1024, 8)).astype(np.float32) for x in range(3))
    out = topk_attention(q, k, v, 4)
    monkeypatch.setattr(topk, "ROOM", 2**15)
    assert np.array_equal(topk_attention(q, k, v, 4), out)
    held, _ = peak(lambda: (topk_attention(q, k, v, 4),))
    assert held < 1024 * 1024 * 4, held
    assert peak(lambda: topk_attention_vjp(out, q, k, v, 4))[0] < 1024 * 1024 * 4


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@given(seed=rng, kept=st.integers(1, 8), sinks=st.booleans())
def test_any_choice_that_rounding_allows_lies_within_the_bound(precision, seed, kept, sinks):
    """A kernel that computes scores, rounds them, and chooses by what it has, is not accused; one key off is."""
    q, k, v = (np.round(x * 4) / 4 for x in qkv(seed, 9, 12, (2,)))  # many scores that are equal, or nearly
    options = {"return_lse": True} | ({"sinks": floats_for(seed, (2,))} if sinks else {})
    s, error, _ = score_bound(profile(precision), q, k)
    computed = s + error * np.random.default_rng(seed).uniform(-0.999, 0.999, s.shape)
    out, lse = attention(q, k, v, kept_of(computed, kept), **options)
    found = bound("sparse.topk_attention", precision, q, k, v, kept, **options)
    for name, x in (("out", out), ("lse", lse)):
        assert np.all(np.abs(x - found[name].value) <= found[name].hard), name
    if kept < 8 and precision == "float32":
        off, _ = attention(q, k, v, kept_of(s, kept + 1), **options)
        assert np.any(np.abs(off - found["out"].value) > found["out"].hard)


@pytest.mark.clause("TOPK-REFUSE")
def test_errors_name_what_is_wrong():
    q, k, v = qkv(1)
    with pytest.raises(ValueError, match="kept is 0; it must be at least 1"):
        topk_attention(q, k, v, 0)
    with pytest.raises(TypeError, match="kept must be an integer"):
        topk_attention(q, k, v, 2.5)
    with pytest.raises(ValueError, match=r"scores has shape \(4, 7\); it must broadcast to \(\.\.\., N=5, M=7\)"):
        topk_attention(q, k, v, 2, scores=np.zeros((4, M)))
    with pytest.raises(ValueError, match=r"the leading axes do not broadcast: .*scores \(2,\)"):
        topk_attention(q, k, v, 2, scores=np.zeros((2, N, M)))
    with pytest.raises(TypeError, match="scores has dtype int64; it must be floating-point"):
        topk_attention(q, k, v, 2, scores=np.zeros((N, M), dtype=int))
    with pytest.raises(TypeError, match="mask has dtype float64; a mask is boolean"):
        topk_attention(q, k, v, 2, np.zeros((N, M)))
