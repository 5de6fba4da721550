"""Longformer: what holds whatever the numbers are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refattn import masks
from refattn.attention import attention
from refattn.gradients import attention_vjp
from refattn.sparse import lists, longformer, longformer_attention, longformer_attention_vjp, window_attention
from tests.derivatives import assert_derivative, weighted
from tests.sparse.test_window import close, length, qkv, side
from tests.strategies import floats_for, rng

OWN = ("global_q", "global_k", "global_v")


def own(seed, q, k, v):
    return {name: floats_for(seed + n, x.shape) for n, (name, x) in enumerate(zip(OWN, (q, k, v), strict=True), 20)}


def some_tokens(seed, *lead, m, most=4):
    draw = np.random.default_rng(seed)
    return draw.integers(-1, m, (*lead, draw.integers(0, most)))


def table(tokens, positions):
    """Which positions are global, written out."""
    return np.any((tokens[..., None, :] == positions[:, None]) & (tokens[..., None, :] >= 0), axis=-1)


def by_kind(q, k, v, left, right, tokens, rule, of_global, **options):
    """The results of local and of global queries, each by dense attention; and which are which, (..., N, 1)."""
    n, m = q.shape[-2], k.shape[-2]
    rows, columns = table(tokens, np.arange(m - n, m))[..., None], table(tokens, np.arange(m))[..., None, :]
    further = rule.dense(n, m)
    near = (masks.window(left, right).dense(n, m) | columns) & further
    found = [attention(q, k, v, near, **options), attention(*of_global.values(), further, **options)]
    return [
        tuple(np.where(rows if x.ndim == q.ndim else rows[..., 0], y, x) for x, y in zip(*found, strict=True)),
        rows,
    ]


@pytest.mark.clause(
    "LONGFORMER-KEYS", "LONGFORMER-GLOBAL", "LONGFORMER-TOKENS", "LONGFORMER-MASK", "LONGFORMER-OPTIONS"
)
@pytest.mark.parametrize("rows", [1, 3, 128])
@given(seed=rng, n=length, m=length, left=side, right=side, lead=st.sampled_from([(), (2,), (2, 1), (2, 3)]))
def test_each_query_is_attention_over_its_keys(library, rows, seed, n, m, left, right, lead):
    q, k, v = qkv(seed, n, m, lead=(2, 3))
    tokens, rule = (
        some_tokens(seed, *(lead if len(lead) == 2 else ()), m=m),
        masks.causal() | masks.padding(max(1, m - 2)),
    )
    options = {
        "softcap": 2.0,
        "sinks": np.array([0.5, -1.0, 2.0]),
        "bias": floats_for(seed, (n, m)),
        "return_lse": True,
    }
    options |= {"dropout": (np.random.default_rng(seed).random((3, n, m)) < 0.7, 0.25)}
    of_global = own(seed, q, k, v)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(longformer, "ROWS", rows)
        got = library.call(longformer_attention, q, k, v, left, right, tokens, rule, **of_global, **options)
    close(got, by_kind(q, k, v, left, right, tokens, rule, of_global, **options)[0])


@pytest.mark.clause("LONGFORMER-GRADIENT", "LONGFORMER-ONCE")
@pytest.mark.parametrize("rows", [1, 3, 128])
@given(seed=rng, n=length, m=length, left=side, right=side, stored=st.booleans())
def test_gradients_are_those_of_a_mask_where_projections_are_shared(library, rows, seed, n, m, left, right, stored):
    q, k, v = qkv(seed, n, m)
    tokens, further = some_tokens(seed, m=m), masks.padding(max(1, m - 2), 1)
    rule = masks.window(left, right) | masks.global_tokens(tokens[tokens >= 0])
    options = {"softcap": 2.0, "sinks": np.array([0.5, -1.0]), "bias": floats_for(seed, (n, m))}
    given = {"q": q, "k": k, "v": v, "mask": further, "left": left, "right": right, "global_tokens": tokens, **options}
    cotangents = {"d_out": floats_for(seed + 5, (2, n, 3)), "d_lse": floats_for(seed + 6, (2, n))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(longformer, "ROWS", rows)
        if stored:
            cotangents |= dict(zip(("out", "lse"), longformer_attention(**given, return_lse=True), strict=True))
        got = library.call(longformer_attention_vjp, **given, **cotangents)
    cotangents = {name: cotangents[name] for name in ("d_out", "d_lse")}
    close(got[:6], attention_vjp(q=q, k=k, v=v, mask=rule & further, **options, **cotangents))
    assert got[6:] == (None, None, None)


@pytest.mark.clause("LONGFORMER-GRADIENT", "LONGFORMER-GLOBAL")
@given(seed=rng, stored=st.booleans())
def test_gradients_are_derivatives(seed, stored):
    """Query heads share keys, and each sequence has tokens of its own."""
    q, (_, k, v) = floats_for(seed, (2, 4, 5, 4)), qkv(seed + 1, 5, 7, lead=(2, 2))
    arguments = {"q": q, "k": k, "v": v, **own(seed, q, k, v), "bias": floats_for(seed, (5, 7))}
    arguments |= {"sinks": floats_for(seed + 2, (4,))}
    fixed = {"left": 1, "right": 1, "global_tokens": np.array([[[2, -1, 4]], [[6, 0, 6]]])}
    cotangents = floats_for(seed + 8, (2, 4, 5, 3)), floats_for(seed + 9, (2, 4, 5))
    value = lambda **x: weighted(longformer_attention(**x, **fixed, return_lse=True), cotangents)
    more = {}
    if stored:
        more = dict(zip(("out", "lse"), longformer_attention(**arguments, **fixed, return_lse=True), strict=True))
    found = longformer_attention_vjp(cotangents[0], **arguments, **fixed, **more, d_lse=cotangents[1])
    assert_derivative(value, arguments, {name: getattr(found, name) for name in arguments}, seed)


@pytest.mark.clause("LONGFORMER-KEYS", "LONGFORMER-GLOBAL", "LONGFORMER-TOKENS")
@given(seed=rng, n=length, left=side, right=side)
def test_without_global_tokens_it_is_a_window_and_with_all_it_is_attention(seed, n, left, right):
    q, k, v = qkv(seed, n, n)
    of_global = own(seed, q, k, v)
    for none in ([-1, -1], np.zeros(0, dtype=int)):
        got = longformer_attention(q, k, v, left, right, none, **of_global)
        close([got], [window_attention(q, k, v, left, right)])
    got = longformer_attention(q, k, v, left, right, np.arange(n), **of_global)
    close([got], [attention(*of_global.values())])
    close([longformer_attention(q, k, v, n, n, [0])], [attention(q, k, v)])


@pytest.mark.clause("LONGFORMER-KEYS", "LONGFORMER-ONCE")
def test_how_many_keys_a_query_has():
    weights = lambda n, tokens, **own: longformer_attention(
        np.zeros((n, 2)), np.zeros((9, 2)), np.eye(9), 2, 2, tokens, **own
    )
    found = weights(9, [0, 4, 4])
    assert (found > 0).sum(axis=-1).tolist() == [9, 5, 5, 6, 9, 6, 6, 6, 5]
    assert np.allclose(found.max(axis=-1) * (found > 0).sum(axis=-1), 1.0)  # once each: weights are equal
    np.testing.assert_array_equal(weights(4, [0, 4, 4]), found[5:])


@pytest.mark.clause("LONGFORMER-TOKENS")
@given(seed=rng)
def test_a_sequence_of_a_batch_is_that_sequence_alone(seed):
    q, k, v = qkv(seed, 7, 7, lead=(3, 2))
    tokens, of_global = np.array([[5, -1, -1], [-1, -1, -1], [3, 0, 1]]), own(seed, q, k, v)
    got = longformer_attention(q, k, v, 1, 1, tokens[:, None], **of_global)
    for b in range(3):
        each = {name: x[b] for name, x in of_global.items()}
        close([got[b]], [longformer_attention(q[b], k[b], v[b], 1, 1, tokens[b][tokens[b] >= 0], **each)])


@pytest.mark.clause("LONGFORMER-TOKENS")
@given(seed=rng)
def test_tokens_are_positions_wherever_those_stand(seed):
    q, k, v = qkv(seed, 6, 9)
    of_global, order = own(seed, q, k, v), np.random.default_rng(seed).permutation(9)
    plain = longformer_attention(q, k, v, 2, 1, [0, 5], **of_global)
    at = {"q_positions": np.arange(103, 109), "k_positions": np.arange(100, 109)}
    close([longformer_attention(q, k, v, 2, 1, [100, 105], **of_global, **at)], [plain])
    at |= {"k_positions": at["k_positions"][order]}
    moved = {name: x[:, order] if name != "global_q" else x for name, x in of_global.items()}
    close([longformer_attention(q, k[:, order], v[:, order], 2, 1, [100, 105], **moved, **at)], [plain])


@pytest.mark.clause("LONGFORMER-MASK")
def test_a_language_model_sees_nothing_of_what_follows(library):
    q, k, v = qkv(3, 12, 12)
    call = lambda *x: library.call(longformer_attention, *x[:3], 2, 0, [0, 4], masks.causal(), **x[3])
    of_global = own(4, q, k, v)
    clean = call(q, k, v, of_global)
    for x in (q, k, v, *of_global.values()):
        x[:, 7:] = np.nan
    np.testing.assert_array_equal(call(q, k, v, of_global)[:, :7], clean[:, :7])


@pytest.mark.clause("LONGFORMER-KEYS", "LONGFORMER-GLOBAL")
def test_what_a_query_does_not_use_has_no_influence(library):
    q, k, v = qkv(3, 12, 12)
    of_global, d_out = own(4, q, k, v), floats_for(9, (2, 12, 3))
    fixed = {"left": 1, "right": 1, "global_tokens": np.array([3])}
    clean = library.call(longformer_attention, q, k, v, **fixed, **of_global)
    gradients = library.call(longformer_attention_vjp, d_out, q, k, v, **fixed, **of_global)
    q[:, 3], of_global["global_q"][:, [0, 11]] = (
        np.nan,
        np.nan,
    )  # the local query of the global token, and others' global ones
    np.testing.assert_array_equal(library.call(longformer_attention, q, k, v, **fixed, **of_global), clean)
    again = library.call(longformer_attention_vjp, d_out, q, k, v, **fixed, **of_global)
    for a, b in zip(again, gradients, strict=True):
        np.testing.assert_array_equal(a, b)
    k[:, 8], v[:, 8] = np.nan, np.nan
    got = library.call(longformer_attention, q, k, v, **fixed, **of_global)
    np.testing.assert_array_equal(np.delete(got, [7, 8, 9], axis=1), np.delete(clean, [7, 8, 9], axis=1))
    assert np.isnan(got[:, [7, 8, 9]]).all()


@pytest.mark.clause("LONGFORMER-GRADIENT")
def test_stored_results_of_a_global_query_are_not_those_of_its_window():
    """Its scores, here of 1,000 in the window, are no exponents beside a log-sum-exp that belongs to other keys."""
    q, k, v = qkv(3, 12, 12)
    bias = np.where(np.arange(12)[:, None] == 3, 1000.0, 0.0)
    given = {"q": q, "k": k, "v": v, "left": 1, "right": 1, "global_tokens": [3], "bias": bias, **own(4, q, k, v)}
    out, lse = longformer_attention(**given, return_lse=True)
    d_out = floats_for(9, (2, 12, 3))
    stored = longformer_attention_vjp(d_out, **given, out=out, lse=lse)
    close([stored.k, stored.q], [getattr(longformer_attention_vjp(d_out, **given), name) for name in "kq"])


@pytest.mark.clause("LONGFORMER-COST")
def test_keys_are_gathered_as_wide_as_the_window(monkeypatch):
    q, k, v = qkv(2, 512, 512)
    seen, gathered = [], lists.Listed.chunk
    monkeypatch.setattr(longformer, "ROWS", 16)
    note = lambda of, groups: seen.append((found := gathered(of, groups))[1]["k"].shape) or found
    monkeypatch.setattr(lists.Listed, "chunk", note)
    tokens = np.array([0, 100, 300])
    close(
        [longformer_attention(q, k, v, 8, 8, tokens)],
        [attention(q, k, v, masks.window(8, 8) | masks.global_tokens(tokens))],
    )
    assert sum(np.prod(shape[1:-1]) for shape in seen) == 32 * (16 + 16 + 3)


@pytest.mark.clause("LONGFORMER-REFUSE")
def test_errors_name_what_is_wrong():
    q, k, v = qkv(1, 3, 5)
    with pytest.raises(ValueError, match="global_tokens holds -2; it must hold positions from 0, or -1 for none"):
        longformer_attention(q, k, v, 1, 1, [0, -2])
    with pytest.raises(TypeError, match="global_tokens has dtype float64; it must be an integer dtype"):
        longformer_attention(q, k, v, 1, 1, np.zeros(2))
    with pytest.raises(ValueError, match=r"global_tokens has shape \(\)"):
        longformer_attention(q, k, v, 1, 1, np.array(3))
    with pytest.raises(ValueError, match="leading axes"):
        longformer_attention(q, k, v, 1, 1, np.zeros((3, 1), dtype=int))
    with pytest.raises(ValueError, match=r"global_k has shape \(2, 3, 4\); it must be that of k, \(2, 5, 4\)"):
        longformer_attention(q, k, v, 1, 1, [0], global_k=q)
    with pytest.raises(ValueError, match="left is -1; it must be at least 0, or None"):
        longformer_attention(q, k, v, -1, 0, [0])
    with pytest.raises(TypeError, match=r"mask is an array \(5,\) of bool; it must be a rule"):
        longformer_attention(q, k, v, 1, 1, [0], np.ones(5, dtype=bool))
    with pytest.raises(ValueError, match="give both, or neither"):
        longformer_attention_vjp(v[:, :3], q, k, v, 1, 1, [0], out=v[:, :3])
