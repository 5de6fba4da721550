"""Properties of the gradients over tiles: those of attention, whatever the tiles and whoever computes the rest."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refattn import masks
from refattn.attention import attention
from refattn.gradients import attention_vjp, grouped_query_attention_vjp
from refattn.tiled import problem, tiled_attention, tiled_attention_vjp
from refattn.tiled.problem import K_TILE, Q_TILE, problem_of
from tests.strategies import floats_for, rng
from tests.test_tiled import M, N, options_for, qkv, some_mask, tiles

RULES = [
    None,
    masks.causal(),
    masks.causal() & masks.window(3, 0),
    masks.padding(np.array([[11], [4]])),
    ~masks.causal(),
]
RULES_OF_HEADS = [
    lambda heads: masks.causal(),
    lambda heads: masks.padding(np.array([[4], [11]])) | masks.window(2, 0),
    lambda heads: masks.padding(np.array([[11, 4, 0, 7, 8, 9][:heads]])) & masks.causal(),
    lambda heads: ~masks.documents(np.arange(11 * heads).reshape(heads, 11) // 4),
]


def same(a, b):
    """Every field to 1e-10, relative to its largest element."""
    assert a._fields == b._fields
    for name, x, y in zip(a._fields, a, b, strict=True):
        assert (x is None) == (y is None), name
        if x is not None:
            assert x.shape == y.shape, name
            size = max(1.0, np.max(np.abs(y), initial=0.0))
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-10 * size, err_msg=name)


@pytest.mark.clause("TILED-GRADIENT")
@given(
    seed=rng, q_tile=tiles, k_tile=tiles, rule=st.sampled_from(RULES), given_out=st.booleans(), with_lse=st.booleans()
)
def test_any_tiles_give_the_gradients_of_attention(library, seed, q_tile, k_tile, rule, given_out, with_lse):
    q, k, v = qkv(seed)
    options = options_for(seed)
    d_out = floats_for(seed, (2, 3, N, 3))
    extra = {"d_lse": floats_for(seed + 1, (2, 3, N))} if with_lse else {}
    known = {}
    if given_out:
        known = dict(
            zip(("out", "lse"), library.call(tiled_attention, q, k, v, rule, return_lse=True, **options), strict=True)
        )
    got = library.call(
        tiled_attention_vjp, d_out, q, k, v, rule, q_tile=q_tile, k_tile=k_tile, **known, **extra, **options
    )
    same(got, library.call(attention_vjp, d_out, q, k, v, rule, **extra, **options))


@pytest.mark.clause("TILED-GRADIENT", "TILED-GROUP")
@settings(max_examples=15)  # many small tiles are slow on the strict library
@given(seed=rng, kv_heads=st.sampled_from([1, 2, 3, 6]), q_tile=tiles, k_tile=tiles)
def test_gradients_of_shared_heads_add_up(library, seed, kv_heads, q_tile, k_tile):
    q, d_out = floats_for(seed, (2, 6, N, 4)), floats_for(seed + 3, (2, 6, N, 3))
    k, v = floats_for(seed + 1, (2, kv_heads, M, 4)), floats_for(seed + 2, (2, kv_heads, M, 3))
    options = {"bias": floats_for(seed, (6, 1, M)), "sinks": floats_for(seed, (6,)), "softcap": 3.0}
    got = library.call(tiled_attention_vjp, d_out, q, k, v, masks.causal(), q_tile=q_tile, k_tile=k_tile, **options)
    same(got, library.call(grouped_query_attention_vjp, d_out, q, k, v, masks.causal(), **options))


@pytest.mark.clause("TILED-EQUAL", "TILED-FUNCTION", "TILED-GROUP", "TILED-GRADIENT")
@pytest.mark.parametrize(
    ("heads", "kv_heads", "stacked", "tasks"), [(6, 2, 1, 12), (6, 2, 2, 8), (6, 3, 6, 6), (4, 2, 4, 4)]
)
@pytest.mark.parametrize("rule", RULES_OF_HEADS, ids=["causal", "sequences", "heads", "documents"])
@pytest.mark.parametrize("of_heads", ["tables", "positions", "functions"])
def test_heads_that_share_keys_keep_what_is_their_own(monkeypatch, heads, kv_heads, stacked, tasks, rule, of_heads):
    """Mask, bias, draws, sinks and positions of each head, where heads are taken one by one, in pairs, or by groups."""
    q, d_out, d_lse = floats_for(1, (2, heads, N, 4)), floats_for(2, (2, heads, N, 3)), floats_for(3, (2, heads, N))
    k, v = floats_for(4, (2, kv_heads, M, 4)), floats_for(5, (2, kv_heads, M, 3))
    each = np.arange(heads)[:, None, None]
    functions = {
        "bias": lambda i, j: -0.1 * (1 + each) * abs(i - j),
        "dropout": (lambda i, j: (5 * i + 3 * j + each) % 4 != 0, 0.25),
    }
    i, j = np.arange(M - N, M)[:, None], np.arange(M)
    tables = {"bias": functions["bias"](i, j), "dropout": (functions["dropout"][0](i, j), 0.25)}
    positions = {"q_positions": np.minimum(np.arange(N) + np.arange(heads)[:, None], M - 1)}
    tiled = {"tables": tables, "positions": positions, "functions": functions}[of_heads]
    dense = positions if of_heads == "positions" else tables
    shared = {"sinks": floats_for(6, (2, heads)), "scale": 0.7}
    rule = rule(heads)
    k_of_each, v_of_each = (np.repeat(x, heads // kv_heads, axis=1) for x in (k, v))
    monkeypatch.setattr(problem, "ROOM", stacked * 12)
    sizes = {"q_tile": 3, "k_tile": 4}
    assert len(list(problem_of(q, k, v, **sizes).indices())) == tasks

    want = attention(q, k_of_each, v_of_each, rule, return_lse=True, **dense, **shared)
    got = tiled_attention(q, k, v, rule, return_lse=True, **tiled, **sizes, **shared)
    for x, y in zip(got, want, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-13)
    want = attention_vjp(d_out, q, k_of_each, v_of_each, rule, d_lse=d_lse, **dense, **shared)
    got = tiled_attention_vjp(d_out, q, k, v, rule, d_lse=d_lse, **tiled, **sizes, **shared)
    d_k, d_v = (x.reshape(2, kv_heads, -1, *x.shape[2:]).sum(axis=2) for x in (want.k, want.v))
    same(got, want._replace(k=d_k, v=d_v, bias=None if of_heads == "functions" else want.bias))


@pytest.mark.clause("TILED-GRADIENT")
@given(seed=rng, q_tile=tiles, k_tile=tiles)
def test_gradients_of_what_was_broadcast_add_up(library, seed, q_tile, k_tile):
    """q, k, v and sinks have each their own leading axes; the results have all of them."""
    q, k, v = floats_for(seed, (1, N, 4)), floats_for(seed + 1, (3, M, 4)), floats_for(seed + 2, (2, 1, M, 2))
    options = {
        "bias": floats_for(seed, (N, 1)),
        "sinks": floats_for(seed, (5, 1, 1)),
        "d_lse": floats_for(seed, (5, 2, 3, N)),
    }
    d_out = floats_for(seed + 3, (5, 2, 3, N, 2))
    got = library.call(tiled_attention_vjp, d_out, q, k, v, masks.causal(), q_tile=q_tile, k_tile=k_tile, **options)
    same(got, library.call(attention_vjp, d_out, q, k, v, masks.causal(), **options))


@pytest.mark.clause("TILED-GRADIENT")
@pytest.mark.parametrize("given_out", [True, False])
@pytest.mark.parametrize("bias", [(2, 1, 1, K_TILE + 1), (3, 1, 1), None])
def test_large_heads_are_taken_one_by_one(bias, given_out):
    """With full tiles the leading axes are looped over; what adds up over some of them does so in order."""
    q, k, v = qkv(5, n=Q_TILE + 1, m=K_TILE + 1, d=2, dv=1)
    d_out, d_lse = floats_for(1, (2, 3, Q_TILE + 1, 1)), floats_for(2, (2, 3, Q_TILE + 1))
    rule = masks.causal() & masks.padding(np.array([[700], [K_TILE]]))
    options = {"sinks": floats_for(3, (3,)), "bias": None if bias is None else floats_for(4, bias)}
    assert len(list(problem_of(q, k, v, rule).indices())) == 6
    known = {}
    if given_out:
        known = dict(zip(("out", "lse"), tiled_attention(q, k, v, rule, return_lse=True, **options), strict=True))
    got = tiled_attention_vjp(d_out, q, k, v, rule, d_lse=d_lse, **known, **options)
    same(got, attention_vjp(d_out, q, k, v, rule, d_lse=d_lse, **options))


@pytest.mark.clause("TILED-GRADIENT")
def test_functions_of_positions_have_no_gradient():
    q, k, v = qkv(5)
    d_out = floats_for(1, (2, 3, N, 3))
    i, j = np.arange(M - N, M)[:, None], np.arange(M)
    got = tiled_attention_vjp(d_out, q, k, v, bias=lambda i, j: 0.5 * (i - j), dropout=(masks.block(3), 0.25), k_tile=4)
    want = attention_vjp(d_out, q, k, v, bias=0.5 * (i - j), dropout=(masks.block(3).dense(N, M), 0.25))
    assert got.bias is None
    same(got, want._replace(bias=None))


@pytest.mark.clause("TILED-GRADIENT")
@given(
    seed=rng, q_tile=tiles, k_tile=tiles, poison=st.sampled_from([np.nan, np.inf, -np.inf, 1e300]), cap=st.booleans()
)
def test_what_a_query_cannot_see_has_no_influence(library, seed, q_tile, k_tile, poison, cap):
    """A poisoned key that nobody sees, and a poisoned query that sees nobody, cotangents included."""
    q, k, v = qkv(seed)
    d_out, d_lse = floats_for(seed, (2, 3, N, 3)), floats_for(seed + 1, (2, 3, N))
    mask = some_mask(seed, N, M)
    mask[:, 3] = mask[2] = False
    mask[4] = True
    mask[4, 3] = False
    options = {"bias": floats_for(seed, (N, M)), "softcap": 2.0 if cap else None, "q_tile": q_tile, "k_tile": k_tile}
    clean = library.call(tiled_attention_vjp, d_out, q, k, v, mask, d_lse=d_lse, **options)
    k[..., 3, :] = v[..., 3, :] = q[..., 2, :] = d_out[..., 2, :] = d_lse[..., 2] = poison
    dirty = library.call(tiled_attention_vjp, d_out, q, k, v, mask, d_lse=d_lse, **options)
    same(dirty, clean)
    assert (dirty.k[..., 3, :] == 0).all()
    assert (dirty.v[..., 3, :] == 0).all()
    assert (dirty.q[..., 2, :] == 0).all()


@pytest.mark.clause("TILED-GRADIENT")
@given(seed=rng, k_tile=tiles)
def test_nan_reaches_only_gradients_of_those_who_meet_it(library, seed, k_tile):
    q, k, v = qkv(seed, lead=())
    d_out = floats_for(seed, (N, 3))
    mask = some_mask(seed, N, M)
    mask[:, 3] = False
    mask[1, [3, 5]] = True
    clean = library.call(tiled_attention_vjp, d_out, q, k, v, mask, k_tile=k_tile)
    k[3] = np.nan
    dirty = library.call(tiled_attention_vjp, d_out, q, k, v, mask, k_tile=k_tile)
    others = np.arange(N) != 1
    np.testing.assert_array_equal(dirty.q[others], clean.q[others])
    assert np.isnan(dirty.q[1]).all()
    unseen = ~mask[1]
    np.testing.assert_allclose(dirty.k[unseen], clean.k[unseen], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dirty.v[unseen], clean.v[unseen], rtol=1e-12, atol=1e-12)


@pytest.mark.clause("TILED-GRADIENT")
@given(seed=rng)
def test_finite_differences(seed):
    q, k, v = qkv(seed, lead=(), n=3, m=5)
    d_out, d_lse = floats_for(seed, (3, 3)), floats_for(seed + 1, (3,))
    options = {"bias": floats_for(seed, (3, 5)), "softcap": 3.0, "sinks": np.array(0.25)}

    def loss(step, name, direction):
        moved = {"q": q, "k": k, "v": v, "scale": 0.5, **options}
        moved[name] = moved[name] + step * direction
        out, lse = tiled_attention(mask=masks.causal(), return_lse=True, k_tile=2, **moved)
        return np.sum(d_out * out) + np.sum(d_lse * np.where(np.isneginf(lse), 0.0, lse))

    found = tiled_attention_vjp(d_out, q, k, v, masks.causal(), d_lse=d_lse, scale=0.5, q_tile=2, k_tile=2, **options)
    step = 1e-5
    for name in found._fields:
        direction = floats_for(seed + 7, np.shape(options.get(name, {"q": q, "k": k, "v": v}.get(name, 0.0))))
        slope = (loss(step, name, direction) - loss(-step, name, direction)) / (2 * step)
        assert math.isclose(np.sum(getattr(found, name) * direction), slope, rel_tol=1e-6, abs_tol=1e-6), name


@pytest.mark.clause("TILED-GRADIENT")
@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0)])
def test_nothing(library, n, m):
    q, k, v = qkv(1, n=n, m=m)
    found = library.call(tiled_attention_vjp, np.zeros((2, 3, n, 3)), q, k, v, masks.causal(), sinks=np.zeros(3))
    assert [x.shape for x in found[:3]] == [q.shape, k.shape, v.shape]
    assert all((x == 0).all() for x in found if x is not None)


@pytest.mark.clause("TILED-MEMORY")
def test_memory_does_not_grow_with_queries_times_keys():
    q, k, v = (x.astype(np.float32) for x in qkv(1, lead=(), n=5000, m=5000, d=8, dv=8))
    tile = 500
    tracemalloc.start()
    try:
        found = tiled_attention_vjp(np.ones_like(v), q, k, v, masks.causal(), q_tile=tile, k_tile=tile)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= sum(x.nbytes for x in found[:3]) + 40 * tile * tile + 64 * 5000 + 1_000_000  # N M floats are 100 MB


def test_the_same_arguments_give_the_same_bits():
    q, k, v = qkv(2, n=1200, m=1200, d=8)
    d_out = floats_for(1, v.shape)
    first = tiled_attention_vjp(d_out, q, k, v, masks.causal(), sinks=np.zeros(3))
    for _ in range(3):
        again = tiled_attention_vjp(d_out, q, k, v, masks.causal(), sinks=np.zeros(3))
        for a, b in zip(again, first, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.clause("TILED-REFUSE")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"d_out": np.zeros((N, 3))}, ValueError, r"d_out has shape \(7, 3\); it must have the shape of the output"),
        ({"d_lse": np.zeros(N)}, ValueError, r"d_lse has shape \(7,\); it must have the shape of lse, \(2, 3, 7\)"),
        ({"out": np.zeros((2, 3, N, 3))}, ValueError, "give both, or neither"),
        ({"lse": np.zeros((2, 3, N))}, ValueError, "give both, or neither"),
        ({"out": np.zeros(N), "lse": np.zeros((2, 3, N))}, ValueError, "out has shape"),
        ({"d_out": [1.0]}, TypeError, "d_out is a list"),
        ({"q_tile": -1}, ValueError, "q_tile is -1"),
        ({"softcap": -1.0}, ValueError, "softcap is -1.0"),
    ],
)
def test_wrong_input_is_named(change, error, message):
    q, k, v = qkv(3)
    good = {"d_out": np.zeros((2, 3, N, 3)), "q": q, "k": k, "v": v}
    with pytest.raises(error, match=message):
        tiled_attention_vjp(**{**good, **change})
