"""Properties of the gradients of attention and of its heads."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import refattn
from refattn import (
    MultiHeadParams,
    PackedMultiHeadParams,
    attention,
    attention_vjp,
    grouped_query_attention,
    grouped_query_attention_vjp,
    masks,
    merge,
    merge_vjp,
    multi_head_attention,
    multi_head_attention_vjp,
    multi_query_attention_vjp,
    tiled_attention_vjp,
)
from refattn.heads import Rope
from refattn.testing.nested import arrays
from refattn.testing.vectors import results
from tests.derivatives import assert_derivative, weighted
from tests.strategies import floats_for, rng

SIZES = st.permutations([1, 2, 3, 4, 5]).map(lambda sizes: tuple(sizes[:4]))  # N, M, D, Dv


def close(a, b, tolerance=1e-12):
    size = np.max(np.abs(b), initial=1.0)
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * size)


def drawn(seed, sizes, lead=(), d_lse=True):
    """The arguments of `attention_vjp` for one head each."""
    n, m, d, dv = sizes
    shapes = {"d_out": (n, dv), "q": (n, d), "k": (m, d), "v": (m, dv)} | ({"d_lse": (n,)} if d_lse else {})
    return {name: floats_for([seed, i], (*lead, *shape)) for i, (name, shape) in enumerate(shapes.items())}


def options_for(seed, sizes, *lead):
    """A random choice of everything that attention can do."""
    n, m = sizes[:2]
    draw = np.random.default_rng(seed)
    everything = {
        "mask": draw.random((n, m)) < 0.6,
        "bias": draw.normal(size=(*lead, 1, m)),
        "scale": float(draw.normal()),
        "softcap": float(draw.uniform(1.0, 4.0)),
        "sinks": np.asarray(draw.normal(size=lead)),
        "dropout": (draw.random((*lead, n, m)) < 0.7, 0.3),
    }
    return {name: value for name, value in everything.items() if draw.random() < 0.6}


def loss(function, d_out, d_lse=None, **arguments):
    """The scalar whose derivative the gradients are."""
    out, lse = function(**arguments, return_lse=True)
    d_lse = None if d_lse is None else np.where(np.isneginf(lse), 0.0, d_lse)
    return weighted((out, lse), (d_out, d_lse))


# --- the derivative -------------------------------------------------------------------------------------------------


@pytest.mark.clause("GRAD-EXACT", "GRAD-SCALE", "GRAD-SOFTCAP", "GRAD-BIAS", "GRAD-SINK", "GRAD-LSE", "GRAD-DROPOUT")
@given(seed=rng, sizes=SIZES)
def test_gradients_are_derivatives(library, seed, sizes):
    arguments = drawn(seed, sizes, (2,)) | {"scale": 0.7} | options_for(seed, sizes, 2)
    found = results(attention_vjp, library.call(attention_vjp, **arguments))
    assert set(found) == {"q", "k", "v", "scale"} | ({"bias", "sinks"} & set(arguments))
    d_out, d_lse = arguments.pop("d_out"), arguments.pop("d_lse")
    assert_derivative(lambda **a: loss(attention, d_out, d_lse, **a), arguments, found, seed)


@pytest.mark.clause("GRAD-EXACT")
@given(seed=rng, sizes=SIZES)
def test_gradients_are_linear_in_the_cotangents(library, seed, sizes):
    arguments, options = drawn(seed, sizes), options_for(seed, sizes)
    other = drawn(seed + 1, sizes)
    inputs = {name: arguments[name] for name in "qkv"} | options
    first, second, both = (
        results(attention_vjp, library.call(attention_vjp, d_out, d_lse=d_lse, **inputs))
        for d_out, d_lse in (
            (arguments["d_out"], arguments["d_lse"]),
            (other["d_out"], other["d_lse"]),
            (2.0 * arguments["d_out"] - other["d_out"], 2.0 * arguments["d_lse"] - other["d_lse"]),
        )
    )
    for name in first:
        close(both[name], 2.0 * first[name] - second[name])


@pytest.mark.clause("GRAD-EXACT", "GRAD-SINK", "GRAD-LSE")
@given(seed=rng, sizes=SIZES)
def test_a_row_of_score_gradients_sums_to_what_the_sink_and_lse_leave(library, seed, sizes):
    arguments = drawn(seed, sizes)
    n, m = sizes[:2]
    bias = floats_for(seed, (n, m))
    plain = {name: x for name, x in arguments.items() if name != "d_lse"}
    close(library.call(attention_vjp, **plain, bias=bias).bias.sum(axis=-1), np.zeros(n))
    close(library.call(attention_vjp, **arguments, bias=bias).bias.sum(axis=-1), arguments["d_lse"])
    found = library.call(attention_vjp, **plain, bias=bias, sinks=np.array(0.5))
    close(found.bias.sum() + found.sinks, 0.0)


# --- scale, softcap, bias -------------------------------------------------------------------------------------------


@pytest.mark.clause("GRAD-SCALE")
@given(seed=rng, sizes=SIZES, scale=st.sampled_from([None, 0.3, -1.5, 0.0]))
def test_queries_keys_and_scale_enter_as_one_product(library, seed, sizes, scale):
    arguments = drawn(seed, sizes)
    found = library.call(attention_vjp, **arguments, scale=scale)
    used = sizes[2] ** -0.5 if scale is None else scale
    close(np.sum(found.q * arguments["q"]), used * found.scale)
    close(np.sum(found.k * arguments["k"]), used * found.scale)
    assert np.shape(found.scale) == ()
    if scale is None:
        for a, b in zip(found[:3], library.call(attention_vjp, **arguments, scale=used)[:3], strict=True):
            close(a, b)


@pytest.mark.clause("GRAD-SOFTCAP")
def test_a_cap_far_away_changes_nothing_and_a_near_one_stops_the_gradient(library):
    arguments = drawn(1, (3, 5, 2, 4))
    plain = library.call(attention_vjp, **arguments)
    for a, b in zip(library.call(attention_vjp, **arguments, softcap=1e7), plain, strict=True):
        assert a is b is None or np.allclose(a, b, atol=1e-10)
    big = arguments | {"q": 100.0 * arguments["q"], "k": np.abs(arguments["k"]) + 1.0}
    big["q"] = np.abs(big["q"]) + 50.0
    found = library.call(attention_vjp, **big, softcap=2.0)
    assert 0 < np.abs(found.q).max() < 1e-20  # small, and not rounded to 0
    assert np.abs(found.v).max() > 0.1


@pytest.mark.clause("GRAD-BIAS", "GRAD-BROADCAST")
@given(seed=rng, sizes=SIZES)
def test_the_gradient_of_a_broadcast_bias_is_the_sum_of_the_whole_one(library, seed, sizes):
    n, m = sizes[:2]
    arguments = drawn(seed, sizes, (2, 3)) | {"scale": 0.4, "softcap": 2.0}
    for shape in ((m,), (1, 1), (n, 1), (3, 1, m), (2, 1, n, m), ()):
        bias = np.asarray(floats_for(seed, shape))
        whole = np.broadcast_to(bias, (2, 3, n, m))
        narrow, wide = (library.call(attention_vjp, **arguments, bias=b).bias for b in (bias, whole.copy()))
        axes = [i for i, size in enumerate((1,) * (4 - len(shape)) + shape) if size == 1]
        close(narrow, wide.sum(axis=tuple(axes), keepdims=True).reshape(shape))


# --- who is seen ----------------------------------------------------------------------------------------------------


@pytest.mark.clause("GRAD-MASK")
@given(seed=rng, sizes=SIZES)
def test_a_rule_its_dense_form_and_a_bias_of_minus_infinity_are_one(library, seed, sizes):
    n, m = sizes[:2]
    rule = masks.causal() & masks.window(2, 0)
    arguments = drawn(seed, sizes)
    allowed = rule.dense(n, m)
    want = library.call(attention_vjp, **arguments, mask=rule)
    for other in ({"mask": allowed}, {"bias": np.where(allowed, 0.0, -np.inf)}):
        found = library.call(attention_vjp, **arguments, **other)
        for name in ("q", "k", "v", "scale"):
            np.testing.assert_array_equal(getattr(found, name), getattr(want, name))
    moved = library.call(
        attention_vjp, **arguments, mask=rule, q_positions=np.arange(m - n, m) + 7, k_positions=np.arange(m) + 7
    )
    np.testing.assert_array_equal(moved.k, want.k)


@pytest.mark.clause("GRAD-ABSENT", "GRAD-MASK")
@given(seed=rng, sizes=SIZES, poison=st.sampled_from([np.nan, np.inf, -np.inf, 1e300]))
def test_excluded_keys_have_gradient_0_and_change_no_bit(library, seed, sizes, poison):
    n, m = sizes[:2]
    arguments = drawn(seed, sizes) | options_for(seed, sizes)
    allowed = np.random.default_rng(seed).random((n, m)) < 0.6
    allowed[:, 0] = False
    arguments["mask"] = allowed
    clean = library.call(attention_vjp, **arguments)
    for name in ("k", "v"):
        spoilt = arguments[name].copy()
        spoilt[0] = poison
        found = library.call(attention_vjp, **{**arguments, name: spoilt})
        for a, b in zip(results(attention_vjp, found).values(), results(attention_vjp, clean).values(), strict=True):
            np.testing.assert_array_equal(a, b)
        assert not np.any(found.k[0])
        assert not np.any(found.v[0])
    if "bias" in arguments:
        spoilt = np.broadcast_to(arguments["bias"], (n, m)).copy()
        want = library.call(attention_vjp, **{**arguments, "bias": spoilt})
        spoilt = np.where(allowed, spoilt, poison)
        found = library.call(attention_vjp, **{**arguments, "bias": spoilt})
        np.testing.assert_array_equal(found.bias, want.bias)
        assert not np.any(found.bias[..., ~allowed])


@pytest.mark.clause("GRAD-EMPTY")
@given(seed=rng, sizes=SIZES, poison=st.sampled_from([np.nan, np.inf]))
def test_a_query_without_keys_gives_and_gets_nothing(library, seed, sizes, poison):
    n, m = sizes[:2]
    arguments, options = drawn(seed, sizes), options_for(seed, sizes)
    row = np.random.default_rng(seed).integers(n)
    allowed = np.ones((n, m), dtype=bool)
    allowed[row] = False
    spoilt = {name: x.copy() for name, x in arguments.items()}
    for name in ("d_out", "d_lse", "q"):
        spoilt[name][row] = poison
    found = library.call(attention_vjp, **spoilt, **{**options, "mask": allowed})
    assert not np.any(found.q[row])
    rest = {name: np.delete(x, row, axis=0) if name in ("d_out", "d_lse", "q") else x for name, x in arguments.items()}
    if "dropout" in options:
        options["dropout"] = (np.delete(options["dropout"][0], row, axis=0), options["dropout"][1])
    want = library.call(attention_vjp, **rest, **{**options, "mask": np.delete(allowed, row, axis=0)})
    for name, x in results(attention_vjp, want).items():
        got = getattr(found, name)
        close(np.delete(got, row, axis=0) if name == "q" else got, x)


@pytest.mark.clause("GRAD-EMPTY", "GRAD-EXACT")
def test_sizes_of_zero(library):
    for n, m, d, dv in ((0, 3, 2, 1), (3, 0, 2, 1), (3, 2, 0, 1), (3, 2, 2, 0)):
        arguments = drawn(0, (n, m, d, dv), (2,)) | {"scale": 1.0, "bias": np.zeros((n, m)), "sinks": np.zeros(2)}
        found = library.call(attention_vjp, **arguments)
        for name, x in results(attention_vjp, found).items():
            assert np.shape(x) == np.shape(arguments[name])
            assert np.isfinite(x).all()
        if not n or not m:
            assert not any(np.any(x) for x in results(attention_vjp, found).values())


@pytest.mark.clause("GRAD-ABSENT", "GRAD-EXACT")
def test_what_takes_part_and_is_not_finite_has_no_derivative(library):
    arguments = drawn(3, (3, 4, 2, 2))
    allowed = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 0, 1]], dtype=bool)
    arguments["v"][0] = np.nan
    found = library.call(attention_vjp, **arguments, mask=allowed)
    assert np.isnan(found.q[:2]).all()
    assert np.isfinite(found.q[2]).all()
    assert np.isnan(found.k[:3]).all()
    assert np.isfinite(found.k[3]).all()
    assert np.isfinite(found.v).all()
    arguments = drawn(3, (3, 4, 2, 2))
    arguments["k"][0] = np.inf  # behind a cap its score is finite and flat, but no derivative by q exists
    found = library.call(attention_vjp, **arguments, mask=allowed, softcap=2.0)
    assert np.isnan(found.q[:2]).all()
    assert np.isfinite(found.q[2]).all()
    arguments = drawn(3, (3, 4, 2, 2))
    arguments["d_out"][2] = np.inf
    found = library.call(attention_vjp, **arguments, mask=allowed)
    assert np.isfinite(found.v[[0, 2]]).all()
    assert np.isnan(found.v[[1, 3]]).all()
    assert np.isfinite(found.q[:2]).all()
    assert np.isnan(found.q[2]).all()


@pytest.mark.clause("GRAD-ABSENT")
@given(seed=rng, poison=st.sampled_from([np.nan, np.inf, -np.inf]), where=st.sampled_from(["q", "bias", "d_out"]))
@pytest.mark.parametrize("function", [attention_vjp, tiled_attention_vjp])
def test_a_query_that_is_not_finite_spoils_no_key_that_it_does_not_see(library, function, seed, poison, where):
    arguments = drawn(seed, (3, 5, 2, 2)) | {"bias": floats_for(seed, (3, 5)), "sinks": np.array(0.5)}
    allowed = np.random.default_rng(seed).random((3, 5)) < 0.5
    allowed[1, :2] = True, False
    arguments["mask"] = allowed
    without = {**arguments, "d_out": arguments["d_out"].copy(), "d_lse": arguments["d_lse"].copy()}
    without["d_out"][1] = without["d_lse"][1] = 0.0  # as if query 1 were not part of the loss
    want = library.call(function, **without)
    arguments[where][1] = poison
    found = library.call(function, **arguments)
    for name in ("k", "v"):
        close(getattr(found, name)[~allowed[1]], getattr(want, name)[~allowed[1]])
    close(found.q[::2], want.q[::2])
    assert not np.any(found.bias[~allowed])


# --- sink, log-sum-exp, dropout -------------------------------------------------------------------------------------


@pytest.mark.clause("GRAD-SINK")
@given(seed=rng, sizes=SIZES)
def test_a_sink_is_a_key_of_value_0_that_only_a_bias_reaches(library, seed, sizes):
    n, m, d, dv = sizes
    arguments = drawn(seed, sizes, d_lse=False)
    bias, sink = floats_for(seed, (n, m)), np.asarray(floats_for(seed, ()))
    found = library.call(attention_vjp, **arguments, bias=bias, sinks=sink, scale=0.8)
    wide = {
        **arguments,
        "k": np.concatenate([arguments["k"], np.zeros((1, d))]),
        "v": np.concatenate([arguments["v"], np.zeros((1, dv))]),
        "bias": np.concatenate([bias, np.broadcast_to(sink, (n, 1))], axis=1),
    }
    want = library.call(attention_vjp, **wide, scale=0.8)
    close(found.sinks, want.bias[:, -1].sum())
    close(found.bias, want.bias[:, :-1])
    close(found.q, want.q)
    close(found.k, want.k[:-1])
    close(found.v, want.v[:-1])


@pytest.mark.clause("GRAD-SINK")
def test_a_sink_at_either_end(library):
    arguments = drawn(5, (3, 4, 2, 2))
    plain = library.call(attention_vjp, **arguments)
    none = library.call(attention_vjp, **arguments, sinks=np.array(-np.inf))
    np.testing.assert_array_equal(none.q, plain.q)
    assert none.sinks == 0
    allowed = np.array([[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 1, 0]], dtype=bool)
    assert library.call(attention_vjp, **arguments, mask=allowed, sinks=np.array(-np.inf)).sinks == 0
    all_of_it = library.call(attention_vjp, **arguments, sinks=np.array(np.inf))
    assert not np.any(all_of_it.v)
    assert all_of_it.sinks == 0
    only_lse = library.call(attention_vjp, **arguments | {"d_out": 0.0 * arguments["d_out"]})
    close(all_of_it.q, only_lse.q)  # lse does not see the sink


@pytest.mark.clause("GRAD-LSE", "GRAD-MERGE")
@given(seed=rng, sizes=SIZES, cut=st.integers(0, 5))
def test_gradients_through_a_merge_of_two_parts_are_those_of_the_whole(library, seed, sizes, cut):
    arguments = drawn(seed, sizes)
    d_out, d_lse, q, k, v = (arguments[name] for name in ("d_out", "d_lse", "q", "k", "v"))
    n, m = sizes[:2]
    allowed = np.random.default_rng(seed).random((n, m)) < 0.6  # some parts are empty for some queries
    cut = min(cut, m)
    parts = [(k[:cut], v[:cut], allowed[:, :cut]), (k[cut:], v[cut:], allowed[:, cut:])]
    (out_a, lse_a), (out_b, lse_b) = (attention(q, *part, return_lse=True) for part in parts)
    out, _lse = merge(out_a, lse_a, out_b, lse_b)
    close(out, attention(q, k, v, allowed))
    merged = library.call(merge_vjp, d_out, out_a, lse_a, out_b, lse_b, d_lse=d_lse)
    first = library.call(attention_vjp, merged.out_a, q, *parts[0], d_lse=merged.lse_a)
    second = library.call(attention_vjp, merged.out_b, q, *parts[1], d_lse=merged.lse_b)
    want = library.call(attention_vjp, d_out, q, k, v, allowed, d_lse=d_lse)
    close(first.q + second.q, want.q)
    close(np.concatenate([first.k, second.k]), want.k)
    close(np.concatenate([first.v, second.v]), want.v)
    close(first.scale + second.scale, want.scale)


@pytest.mark.clause("GRAD-DROPOUT")
@given(seed=rng, sizes=SIZES, rate=st.sampled_from([0.0, 0.1, 0.75]))
def test_dropout_of_everything_or_nothing(library, seed, sizes, rate):
    n, m = sizes[:2]
    arguments = drawn(seed, sizes)
    found = library.call(attention_vjp, **arguments, dropout=(np.ones((n, m), dtype=bool), rate))
    want = library.call(attention_vjp, **arguments | {"d_out": arguments["d_out"] / (1.0 - rate)})
    for name in ("q", "k", "v", "scale"):
        close(getattr(found, name), getattr(want, name))
    found = library.call(attention_vjp, **arguments, dropout=(np.zeros((n, m), dtype=bool), rate))
    want = library.call(attention_vjp, **arguments | {"d_out": 0.0 * arguments["d_out"]})
    assert not np.any(found.v)
    close(found.q, want.q)  # lse is that of the weights before dropout


@pytest.mark.clause("GRAD-DROPOUT", "GRAD-ABSENT")
def test_a_dropped_value_may_hold_anything(library):
    arguments = drawn(2, (3, 4, 2, 2))
    keep = np.ones((3, 4), dtype=bool)
    keep[:, 1] = False
    want = library.call(attention_vjp, **arguments, dropout=(keep, 0.25))
    arguments["v"][1] = np.nan
    found = library.call(attention_vjp, **arguments, dropout=(keep, 0.25))
    np.testing.assert_array_equal(found.q, want.q)
    np.testing.assert_array_equal(found.v, want.v)


# --- broadcasting, groups, dtype, errors ----------------------------------------------------------------------------


@pytest.mark.clause("GRAD-BROADCAST")
@given(seed=rng, sizes=SIZES)
def test_gradients_of_what_was_broadcast_are_sums_over_the_copies(library, seed, sizes):
    n, m, d, dv = sizes
    shapes = {"q": (3, 1, n, d), "k": (1, 2, m, d), "v": (2, m, dv), "sinks": (2,), "bias": (3, 1, 1, m)}
    arguments = {name: floats_for([seed, i], shape) for i, (name, shape) in enumerate(shapes.items())}
    cotangents = {"d_out": floats_for(seed, (3, 2, n, dv)), "d_lse": floats_for(seed + 1, (3, 2, n))}
    found = results(attention_vjp, library.call(attention_vjp, **arguments, **cotangents))
    full = {"q": (n, d), "k": (m, d), "v": (m, dv), "bias": (n, m), "sinks": ()}
    wide = {name: np.broadcast_to(x, (3, 2, *full[name])).copy() for name, x in arguments.items()}
    want = results(attention_vjp, library.call(attention_vjp, **wide, **cotangents))
    for name, x in arguments.items():
        shape = (1,) * (want[name].ndim - x.ndim) + x.shape
        axes = tuple(i for i, size in enumerate(shape) if size == 1 and want[name].shape[i] > 1)
        close(found[name], want[name].sum(axis=axes, keepdims=True).reshape(x.shape))


@pytest.mark.clause("GRAD-LSE", "GRAD-BROADCAST")
@given(seed=rng, sizes=SIZES)
def test_lse_has_a_cotangent_for_each_of_several_values(library, seed, sizes):
    n, m, _, dv = sizes
    arguments = drawn(seed, sizes)
    several = {
        name: floats_for(seed, (4, *shape)) for name, shape in (("v", (m, dv)), ("d_out", (n, dv)), ("d_lse", (n,)))
    }
    found = library.call(attention_vjp, **arguments | several)
    each = [{name: x[i] for name, x in several.items()} for i in range(4)]
    parts = [library.call(attention_vjp, **arguments | own) for own in each]
    close(found.q, sum(part.q for part in parts))
    close(found.k, sum(part.k for part in parts))
    close(found.v, np.stack([part.v for part in parts]))


@pytest.mark.clause("GRAD-GROUP")
@given(seed=rng, sizes=SIZES, kv_heads=st.sampled_from([1, 2, 3]), group=st.sampled_from([1, 2, 3]))
def test_shared_keys_get_the_sum_over_their_query_heads(library, seed, sizes, kv_heads, group):
    _n, m, d, dv = sizes
    heads = kv_heads * group
    arguments = drawn(seed, sizes, (2, heads)) | options_for(seed, sizes, heads)
    arguments |= {"k": floats_for(seed, (2, kv_heads, m, d)), "v": floats_for(seed + 1, (2, kv_heads, m, dv))}
    found = library.call(grouped_query_attention_vjp, **arguments)
    copies = {name: np.repeat(arguments[name], group, axis=1) for name in ("k", "v")}
    want = library.call(attention_vjp, **arguments | copies)
    for name, x in results(attention_vjp, want).items():
        if name in ("k", "v"):
            x = x.reshape(2, kv_heads, group, *x.shape[2:]).sum(axis=2)
        close(getattr(found, name), x)
    if kv_heads == 1:
        flat = {name: arguments[name][0, 0] for name in ("k", "v")}
        one = library.call(multi_query_attention_vjp, **arguments | flat)
        many = library.call(grouped_query_attention_vjp, **arguments | {name: x[None] for name, x in flat.items()})
        close(one.k, many.k[0])
        close(one.v, many.v[0])
        assert one.k.shape == flat["k"].shape


@pytest.mark.clause("GRAD-GROUP", "GRAD-EXACT")
@given(seed=rng, sizes=SIZES)
def test_gradients_of_groups_are_derivatives(library, seed, sizes):
    _n, m, d, dv = sizes
    arguments = drawn(seed, sizes, (6,)) | {"scale": 0.6} | options_for(seed, sizes, 6)
    arguments |= {"k": floats_for(seed, (2, m, d)), "v": floats_for(seed + 1, (2, m, dv))}
    found = results(grouped_query_attention_vjp, library.call(grouped_query_attention_vjp, **arguments))
    d_out, d_lse = arguments.pop("d_out"), arguments.pop("d_lse")
    assert_derivative(lambda **a: loss(grouped_query_attention, d_out, d_lse, **a), arguments, found, seed)


@pytest.mark.clause("GRAD-EXACT")
def test_gradients_have_the_dtype_of_the_inputs(library):
    arguments = drawn(4, (3, 4, 2, 2), (2,)) | {"bias": np.zeros(4), "sinks": np.zeros(2)}
    want = results(attention_vjp, library.call(attention_vjp, **arguments))
    for dtype in library.dtypes:
        narrow = {name: x.astype(dtype) for name, x in arguments.items()}
        for name, x in results(attention_vjp, library.call(attention_vjp, **narrow, softcap=3.0, scale=0.5)).items():
            assert x.dtype == (np.float64 if dtype == "float64" else np.float32), name
    narrow = {name: x.astype(np.float32) for name, x in arguments.items()}
    for name, x in results(attention_vjp, library.call(attention_vjp, **narrow)).items():
        close(x, want[name], 1e-5)


@pytest.mark.clause("GRAD-REFUSE")
def test_cotangents_of_other_shapes_are_refused(library):
    arguments = drawn(0, (3, 4, 2, 5), (2,))
    with pytest.raises(ValueError, match=r"d_out has shape \(2, 3, 2\); it must have the shape of out, \(2, 3, 5\)"):
        library.call(attention_vjp, **arguments | {"d_out": np.zeros((2, 3, 2))})
    with pytest.raises(ValueError, match=r"d_lse has shape \(2, 1\); it must have the shape of lse, \(2, 3\)"):
        library.call(attention_vjp, **arguments | {"d_lse": np.zeros((2, 1))})
    with pytest.raises(ValueError, match=r"d_out has shape \(3, 5\)"):
        library.call(attention_vjp, **arguments | {"d_out": np.zeros((3, 5))})  # nothing is broadcast silently
    with pytest.raises(TypeError, match="d_out has dtype int64"):
        library.call(attention_vjp, **arguments | {"d_out": np.zeros((2, 3, 5), dtype=np.int64)})
    with pytest.raises(ValueError, match="D = 0"):
        library.call(attention_vjp, **drawn(0, (3, 4, 0, 5)))
    grouped = drawn(0, (3, 4, 2, 5), (6,)) | {"k": np.zeros((2, 4, 2)), "v": np.zeros((2, 4, 5))}
    with pytest.raises(ValueError, match=r"d_out has shape \(2, 3, 5\); it must be \(..., H, N, Dv\) with H=6"):
        library.call(grouped_query_attention_vjp, **grouped | {"d_out": np.zeros((2, 3, 5))})
    with pytest.raises(ValueError, match=r"d_lse has shape \(3,\); it must be \(..., H, N\) with H=6"):
        library.call(grouped_query_attention_vjp, **grouped | {"d_lse": np.zeros(3)})
    with pytest.raises(ValueError, match="a multiple of G"):
        library.call(grouped_query_attention_vjp, **grouped | {"k": np.zeros((4, 4, 2)), "v": np.zeros((4, 4, 5))})


# --- multi-head attention -------------------------------------------------------------------------------------------


def weights_for(seed, e=4, e_kv=4, h=4, g=2, d=2, dv=3, out=5, **others):
    shapes = {"w_q": (e, h * d), "w_k": (e_kv, g * d), "w_v": (e_kv, g * dv), "w_o": (h * dv, out)}
    shapes |= {"b_q": (h * d,), "b_k": (g * d,), "b_v": (g * dv,), "b_o": (out,)} | others
    return MultiHeadParams(**{name: floats_for([seed, i], shape) for i, (name, shape) in enumerate(shapes.items())})


MHA_OPTIONS = {
    "plain": {},
    "rope": {"rope": Rope(layout="half", rotary_dim=2)},
    "causal": {"mask": masks.causal(), "rope": functools.partial(refattn.rope, base=100.0)},
    "everything": {
        "mask": masks.window(2, 1),
        "bias": np.linspace(-1.0, 1.0, 4)[:, None, None],
        "sinks": np.linspace(0.0, 2.0, 4),
        "softcap": 3.0,
        "rope": refattn.rope,
        "q_positions": np.array([2, 5, 3]),
        "k_positions": np.array([4, 1, 3, 2, 6]),
    },
}


@pytest.mark.clause("GRAD-MHA", "GRAD-LINEAR", "GRAD-ROPE", "GRAD-RMSNORM")
@pytest.mark.parametrize("gains", [{}, {"q_norm": (2,), "k_norm": (2,)}, {"q_norm": (8,), "k_norm": (4,)}])
@pytest.mark.parametrize("kind", MHA_OPTIONS)
def test_gradients_of_cross_attention_are_derivatives(library, kind, gains):
    arguments = {
        "x_q": floats_for(1, (2, 3, 4)),
        "x_kv": floats_for(2, (5, 3)),
        "params": weights_for(3, e_kv=3, **gains),
        "scale": 0.8,
        **MHA_OPTIONS[kind],
    }
    d_out = floats_for(4, (2, 3, 5))
    found = results(
        multi_head_attention_vjp, library.call(multi_head_attention_vjp, d_out, **arguments, heads=4, kv_heads=2)
    )
    fields = {f"params.{name}" for name, x in arguments["params"]._asdict().items() if x is not None}
    assert set(found) == {"x_q", "x_kv", "scale", *fields} | ({"bias", "sinks"} & set(arguments))

    def value(**arguments):
        return np.sum(d_out * multi_head_attention(**arguments, heads=4, kv_heads=2))

    assert_derivative(value, arguments, found, 5)


@pytest.mark.clause("GRAD-MHA")
@pytest.mark.parametrize("kind", ["plain", "causal"])
def test_self_attention_gets_what_both_sequences_of_cross_attention_get(library, kind):
    x, d_out, params = floats_for(1, (2, 5, 4)), floats_for(4, (2, 5, 5)), weights_for(3)
    call = functools.partial(library.call, multi_head_attention_vjp, d_out, x)
    own = call(None, params, heads=4, kv_heads=2, **MHA_OPTIONS[kind])
    cross = call(x, params, heads=4, kv_heads=2, **MHA_OPTIONS[kind])
    assert own.x_kv is None
    close(own.x_q, cross.x_q + cross.x_kv)
    for (_, a), (_, b) in zip(arrays(own.params), arrays(cross.params), strict=True):
        close(a, b)


@pytest.mark.clause("GRAD-MHA")
@pytest.mark.parametrize("bias", [True, False])
def test_packed_weights_have_packed_gradients(library, bias):
    p, x, d_out = weights_for(3), floats_for(1, (2, 5, 4)), floats_for(4, (2, 5, 5))
    p = p if bias else p._replace(b_q=None, b_k=None, b_v=None)
    packed = PackedMultiHeadParams(
        np.concatenate([p.w_q, p.w_k, p.w_v], axis=1),
        p.w_o,
        np.concatenate([p.b_q, p.b_k, p.b_v]) if bias else None,
        p.b_o,
    )
    found = library.call(multi_head_attention_vjp, d_out, x, None, packed, heads=4, kv_heads=2)
    want = library.call(multi_head_attention_vjp, d_out, x, None, p, heads=4, kv_heads=2)
    np.testing.assert_array_equal(found.x_q, want.x_q)
    unpacked = found.params.unpack(4, 2)
    for name, x in arrays(want.params):
        np.testing.assert_array_equal(getattr(unpacked, name), x)


@pytest.mark.clause("GRAD-MHA", "GRAD-REFUSE")
def test_a_rotation_of_ones_own_needs_its_vjp(library):
    p, x, d_out = weights_for(3), floats_for(1, (2, 5, 4)), floats_for(4, (2, 5, 5))
    call = functools.partial(library.call, multi_head_attention_vjp, d_out, x, None, p, heads=4, kv_heads=2)

    def double(x, positions):
        return 2.0 * x

    with pytest.raises(ValueError, match=r"rope is .*double.*, none of refattn's: give .* rope_vjp"):
        call(rope=double)
    with pytest.raises(ValueError, match="none of refattn's"):
        call(rope=functools.partial(double))
    alone = call(rope=double, rope_vjp=lambda d_out, x, positions: 2.0 * d_out)
    named = call(rope=double, rope_vjp=lambda d_out, x, positions: (2.0 * d_out,))
    np.testing.assert_array_equal(alone.x_q, named.x_q)
    doubled = p._replace(w_q=2.0 * p.w_q, b_q=2.0 * p.b_q, w_k=2.0 * p.w_k, b_k=2.0 * p.b_k)
    close(alone.x_q, library.call(multi_head_attention_vjp, d_out, x, None, doubled, heads=4, kv_heads=2).x_q)
    with pytest.raises(
        ValueError, match=r"d_out has shape \(2, 5, 4\); it must have the shape of the result, \(2, 5, 5\)"
    ):
        library.call(multi_head_attention_vjp, x, x, None, p, heads=4, kv_heads=2)
    with pytest.raises(TypeError, match="params is a tuple"):
        library.call(multi_head_attention_vjp, d_out, x, None, (1,), heads=4)
