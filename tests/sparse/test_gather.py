"""Attention to given keys: what holds whatever the numbers are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refattn import masks
from refattn.attention import attention
from refattn.gradients import attention_vjp
from refattn.sparse import gather_attention, gather_attention_vjp, lists, window_attention
from tests.derivatives import assert_derivative, weighted
from tests.strategies import floats_for, rng

N, M = 5, 7


def qkv(seed, n=N, m=M, lead=(2, 3), d=4, dv=3):
    return tuple(floats_for(seed + x, (*lead, *shape)) for x, shape in enumerate(((n, d), (m, d), (m, dv))))


def some_lists(seed, *lead, t=4, n=N, m=M):
    return np.random.default_rng(seed).integers(-1, m, (*lead, n, t))


def counted(indices, m=M):
    return (indices[..., None] == np.arange(m)).sum(axis=-2)


def close(got, wanted):
    for a, b in zip(got, wanted, strict=True):
        if a is not None or b is not None:
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.clause("GATHER-KEYS", "GATHER-EMPTY", "GATHER-REPEATS", "GATHER-AXES")
@given(seed=rng, lead=st.sampled_from([(), (1,), (3,), (2, 1), (2, 3)]), t=st.integers(0, 6))
def test_it_is_attention_over_a_set_or_a_multiset(library, seed, lead, t):
    q, k, v = qkv(seed)
    indices = some_lists(seed, *lead, t=t)
    count = counted(indices)
    as_set = library.call(gather_attention, q, k, v, indices, repeats="once", return_lse=True)
    close(as_set, attention(q, k, v, count > 0, return_lse=True))
    as_multiset = library.call(gather_attention, q, k, v, indices, repeats="count", return_lse=True)
    bias = np.log(np.maximum(count, 1.0))
    close(as_multiset, attention(q, k, v, count > 0, bias=bias, return_lse=True))


@pytest.mark.clause("GATHER-KEYS", "GATHER-EMPTY")
@given(seed=rng)
def test_the_order_of_a_list_and_empty_places_make_no_difference(seed):
    q, k, v = qkv(seed)
    indices = np.argsort(floats_for(seed, (N, M)), axis=-1)[:, :4]
    moved = np.concatenate([np.full((N, 1), -1), indices[:, ::-1], np.full((N, 2), -1)], axis=-1)
    close([gather_attention(q, k, v, moved)], [gather_attention(q, k, v, indices)])


@pytest.mark.clause("GATHER-KEYS")
def test_all_keys_are_dense_attention_and_one_is_its_value():
    q, k, v = qkv(1)
    everything = np.broadcast_to(np.arange(M), (N, M))
    close([gather_attention(q, k, v, everything)], [attention(q, k, v)])
    close([gather_attention(q, k, v, np.full((N, 1), 3))], [np.broadcast_to(v[..., 3:4, :], (2, 3, N, 3))])


@pytest.mark.clause("GATHER-AXES")
@pytest.mark.parametrize("heads", [(), (1,), (4,)])
def test_query_heads_may_share_keys(library, heads):
    q, (_, k, v) = floats_for(5, (2, 4, N, 4)), qkv(6, lead=(2, 2))
    indices = some_lists(7, *heads)
    got = library.call(gather_attention, q, k, v, indices, repeats="once")
    own = np.broadcast_to(indices, (4, N, 4))
    for h in range(4):
        close([got[:, h]], [gather_attention(q[:, h], k[:, h // 2], v[:, h // 2], own[h], repeats="once")])


@pytest.mark.clause("GATHER-OPTIONS")
@given(seed=rng, form=st.sampled_from([(M,), (N, 1), (3, N, M), (2, 1, 1, M)]))
def test_every_option_is_that_of_attention(library, seed, form):
    q, k, v = qkv(seed)
    indices, rule = some_lists(seed), masks.causal() & masks.padding(np.array([[6], [4]]))
    options = {
        "bias": floats_for(seed, form), "softcap": 2.0, "scale": -0.4, "sinks": floats_for(seed, (3,)),
        "dropout": (np.random.default_rng(seed).random((3, N, M)) < 0.7, 0.25), "return_lse": True,
    }  # fmt: skip
    got = library.call(gather_attention, q, k, v, indices, rule, repeats="once", **options)
    close(got, attention(q, k, v, rule.dense(N, M) & (counted(indices) > 0), **options))


@pytest.mark.clause("GATHER-OPTIONS")
def test_bias_and_draws_may_be_functions_of_positions():
    q, k, v = qkv(3)
    slopes, indices = np.array([0.5, 1.0, 2.0])[:, None, None], some_lists(4, 3)
    at = {"q_positions": np.arange(N) + 20, "k_positions": np.arange(M)[::-1] + 17}
    distance = np.abs(at["q_positions"][:, None] - at["k_positions"])
    keep = masks.window(4, 2)
    got = gather_attention(
        q, k, v, indices, repeats="once", bias=lambda i, j: -slopes * abs(i - j), dropout=(keep, 0.5), **at
    )
    drawn = (keep.dense(N, M, **at), 0.5)
    close([got], [attention(q, k, v, counted(indices) > 0, bias=-slopes * distance, dropout=drawn)])


@pytest.mark.clause("GATHER-GRADIENT", "GATHER-REPEATS")
@given(seed=rng, repeats=st.sampled_from(["once", "count"]), form=st.sampled_from([None, (M,), (3, N, M)]))
def test_gradients_are_those_of_attention(library, seed, repeats, form):
    q, k, v = qkv(seed)
    indices = some_lists(seed, 3)
    count = counted(indices)
    options = {"softcap": 2.0, "sinks": floats_for(seed, (3,)), "d_lse": floats_for(seed + 8, (2, 3, N))}
    options |= {"d_out": floats_for(seed + 9, (2, 3, N, 3))}
    more = np.log(np.maximum(count, 1.0)) if repeats == "count" else 0.0
    bias = {} if form is None else {"bias": floats_for(seed, form)}
    got = library.call(gather_attention_vjp, q=q, k=k, v=v, indices=indices, repeats=repeats, **options, **bias)
    wanted = attention_vjp(
        q=q, k=k, v=v, mask=count > 0, bias=more + bias.get("bias", 0.0) + np.zeros((3, N, M)), **options
    )
    own = wanted.bias if form == (3, N, M) else wanted.bias.sum(axis=(0, 1))
    close(got, wanted._replace(bias=None if form is None else own))


@pytest.mark.clause("GATHER-GRADIENT")
@given(seed=rng)
def test_gradients_are_derivatives(seed):
    q, k, v = qkv(seed, lead=(4,))
    arguments = {"q": q, "k": k[::2], "v": v[::2], "bias": floats_for(seed, (N, M)), "sinks": floats_for(seed, (4,))}
    own = {"indices": some_lists(seed), "repeats": "count"}
    d_out, d_lse = (
        floats_for(seed + 8, (4, N, 3)),
        np.where(some_lists(seed).max(axis=-1) < 0, 0.0, floats_for(seed + 9, (4, N))),
    )
    value = lambda **x: weighted(gather_attention(**x, **own, return_lse=True), (d_out, d_lse))
    found = gather_attention_vjp(d_out, **arguments, **own, d_lse=d_lse)
    assert_derivative(value, arguments, {name: getattr(found, name) for name in arguments}, seed)


@pytest.mark.clause("GATHER-COST")
@pytest.mark.parametrize("rows", [1, 3, 8])
@pytest.mark.parametrize("size", [1, 4, 5])
def test_lists_of_blocks_in_chunks(monkeypatch, rows, size):
    """What other mechanisms build on: a list for several queries, blocks of several keys; any chunks give the same."""
    q, k, v = qkv(2, n=37, m=43)
    blocks = np.random.default_rng(3).integers(-1, -(-43 // size), (3, -(-37 // rows), 3))
    given = lists.Lists(blocks, rows, size)
    count = np.repeat((blocks[..., None] == np.arange(-(-43 // size))).sum(axis=-2), size, axis=-1)[..., :43]
    count = np.repeat(count, rows, axis=-2)[:, :37]
    bias, d_out = np.log(np.maximum(count, 1.0)), floats_for(9, (2, 3, 37, 3))
    wanted, gradients = (f(*x, q, k, v, count > 0, bias=bias) for f, x in ((attention, ()), (attention_vjp, (d_out,))))
    for room in (1, 2**14, 2**22):
        monkeypatch.setattr(lists, "ROOM", room)
        close([lists.attend(q, k, v, given)], [wanted])
        close(lists.attend_vjp(d_out, q, k, v, given), gradients._replace(bias=None))


@pytest.mark.clause("GATHER-KEYS")
def test_a_window_as_lists_is_the_window():
    q, k, v = qkv(8, n=20, m=23)
    keys = np.arange(20)[:, None] + 3 + np.arange(-4, 2)
    close([gather_attention(q, k, v, np.where(keys < 23, keys, -1))], [window_attention(q, k, v, 4, 1)])


@pytest.mark.clause("GATHER-REFUSE", "GATHER-REPEATS")
def test_errors_name_what_is_wrong():
    q, k, v = qkv(1)
    with pytest.raises(ValueError, match='indices name a key twice for one query; give repeats="once" or'):
        gather_attention(q, k, v, np.full((N, 2), 3))
    for wrong in (np.full((N, 2), 7), np.full((N, 2), -2)):
        with pytest.raises(ValueError, match=r"they must be keys, 0 to 6, or -1 for none"):
            gather_attention(q, k, v, wrong)
    with pytest.raises(TypeError, match="indices has dtype float64; it must be an integer dtype"):
        gather_attention(q, k, v, np.zeros((N, 2)))
    with pytest.raises(ValueError, match=r"indices has 4 lists, q has 5 queries: both are N in \(\.\.\., N, T\)"):
        gather_attention(q, k, v, np.zeros((4, 1), dtype=int))
    with pytest.raises(ValueError, match="leading axes"):
        gather_attention(q, k, v, np.zeros((4, N, 1), dtype=int))
    with pytest.raises(ValueError, match="repeats is 'twice'; it must be one of 'refuse', 'once', 'count'"):
        gather_attention(q, k, v, some_lists(1), repeats="twice")
    with pytest.raises(TypeError, match=r"mask is an array \(5, 7\) of bool; it must be a rule of refattn\.masks"):
        gather_attention(q, k, v, some_lists(1), np.ones((N, M), dtype=bool), repeats="once")


@pytest.mark.clause("GATHER-AXES", "GATHER-GRADIENT")
@given(seed=rng, heads=st.sampled_from([(), (1,), (2,), (4,), (2, 1), (2, 2), (2, 4)]))
def test_lists_may_be_those_of_query_heads_or_of_the_keys(seed, heads):
    """With rules that have data of heads, functions that differ by head, and two query heads a key head."""
    q, (_, k, v) = floats_for(seed, (2, 4, N, 4)), qkv(seed + 1, lead=(2, 2))
    blocks = some_lists(seed, *heads, t=2, n=3, m=4)
    count = np.repeat(np.repeat(counted(blocks, 4), 2, axis=-1)[..., :M], 2, axis=-2)[..., :N, :]
    count = np.repeat(count, 2, axis=-3) if heads[-1:] == (2,) else count
    rule, slopes = masks.padding(np.array([[6, 4, 7, 5], [3, 2, 1, 7]])) & masks.causal(), np.arange(4.0)[:, None, None]
    distance = np.abs(np.arange(M - N, M)[:, None] - np.arange(M))
    bias = np.log(np.maximum(count, 1.0)) - slopes * distance
    k_all, v_all = (np.repeat(x, 2, axis=1) for x in (k, v))
    given = {"q": q, "k": k, "v": v, "lists": lists.Lists(blocks, 2, 2), "mask": rule}
    dense = {"q": q, "k": k_all, "v": v_all, "mask": rule.dense(N, M) & (count > 0), "bias": bias}
    by = lambda i, j: -slopes * abs(i - j)
    close(lists.attend(**given, bias=by, return_lse=True), attention(**dense, return_lse=True))
    d_out = floats_for(seed + 9, (2, 4, N, 3))
    wanted = attention_vjp(d_out, **dense)
    by_group = {name: getattr(wanted, name).reshape(2, 2, 2, M, -1).sum(axis=2) for name in "kv"}
    close(lists.attend_vjp(d_out, **given, bias=by), wanted._replace(bias=None, **by_group))
