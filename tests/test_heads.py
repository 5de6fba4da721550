"""Properties of heads: split and merged, grouped, and with their projections."""

import functools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import refattn
from refattn import masks
from refattn.attention import attention
from refattn.heads import (
    MultiHeadParams,
    PackedMultiHeadParams,
    Rope,
    grouped_query_attention,
    merge_heads,
    multi_head_attention,
    multi_query_attention,
    split_heads,
)
from refattn.norms import rms_norm
from tests.strategies import floats_for, rng

few = st.integers(1, 3)
optional = st.booleans()


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


# --- split and merged -----------------------------------------------------------------------------------------------


@pytest.mark.clause("HEADS-SPLIT", "HEADS-MERGE")
def test_integers_by_hand(library):
    x = np.arange(12.0).reshape(2, 6)  # two tokens of three heads of two features
    heads = np.array([[[0.0, 1.0], [6.0, 7.0]], [[2.0, 3.0], [8.0, 9.0]], [[4.0, 5.0], [10.0, 11.0]]])
    np.testing.assert_array_equal(library.call(split_heads, x, 3), heads)
    np.testing.assert_array_equal(library.call(merge_heads, heads), x)


@pytest.mark.clause("HEADS-SPLIT", "HEADS-MERGE")
@given(lead=st.lists(st.integers(0, 3), max_size=2), n=st.integers(0, 4), heads=few, d=st.integers(0, 3), seed=rng)
def test_every_feature_goes_to_its_head_and_back(library, lead, n, heads, d, seed):
    x = floats_for(seed, (*lead, n, heads * d))
    split = library.call(split_heads, x, heads)
    assert split.shape == (*lead, heads, n, d)
    for h in range(heads):
        np.testing.assert_array_equal(split[..., h, :, :], x[..., h * d : (h + 1) * d])
    np.testing.assert_array_equal(library.call(merge_heads, split), x)


# --- grouped queries ------------------------------------------------------------------------------------------------


def grouped(seed, b=2, h=6, g=2, n=3, m=5, d=4, dv=3):
    return (
        floats_for(seed, (b, h, n, d)),
        floats_for(seed + 1, (b, g, m, d)),
        floats_for(seed + 2, (b, g, m, dv)),
    )


def head_by_head(q, k, v, mask=None, bias=None, sinks=None, keep=None, rate=0.0, **options):
    """The definition: each query head alone over its key/value head. Arguments have a head axis of their own."""

    def of(x, h, core):
        if x is None or x.ndim <= core:
            return x
        return np.take(x, h if x.shape[-core - 1] > 1 else 0, axis=-core - 1)

    results = []
    for h in range(q.shape[-3]):
        g = h // (q.shape[-3] // k.shape[-3])
        drop = None if keep is None else (of(keep, h, 2), rate)
        results.append(
            attention(
                q[..., h, :, :], k[..., g, :, :], v[..., g, :, :], of(mask, h, 2), bias=of(bias, h, 2),
                sinks=of(sinks, h, 0), dropout=drop, return_lse=True, **options,
            )
        )  # fmt: skip
    out, lse = zip(*results, strict=True)
    return np.stack(out, axis=-3), np.stack(lse, axis=-2)


@pytest.mark.clause("HEADS-GROUP", "HEADS-OPTIONS")
@given(g=few, r=few, b=few, n=few, seed=rng, data=st.data())
def test_each_head_alone_over_its_keys(library, g, r, b, n, seed, data):
    h, m = g * r, 4
    q, k, v = grouped(seed, b, h, g, n, m)
    draw = np.random.default_rng(seed)

    def table(make):
        """None, or an array whose head axis is H, 1 or missing."""
        shape = data.draw(st.sampled_from([None, (n, m), (1, n, m), (h, n, m), (h, 1, m), (b, h, n, m), (b, 1, n, m)]))
        return None if shape is None else make(shape)

    options = {
        "mask": table(lambda shape: draw.random(shape) < 0.7),
        "bias": table(lambda shape: draw.normal(size=shape)),
        "sinks": data.draw(st.sampled_from([None, draw.normal(size=h), draw.normal(size=(b, h)), draw.normal(size=1)])),
        "softcap": data.draw(st.sampled_from([None, 2.0])),
        "scale": data.draw(st.sampled_from([None, 0.5])),
    }
    keep = table(lambda shape: draw.random(shape) < 0.7)
    want = head_by_head(q, k, v, **options, keep=keep, rate=0.25)
    dropout = None if keep is None else (keep, 0.25)
    out, lse = library.call(grouped_query_attention, q, k, v, **options, dropout=dropout, return_lse=True)
    close(out, want[0])
    close(lse, want[1])


@pytest.mark.clause("HEADS-GROUP")
def test_integers_of_groups_by_hand(library):
    q = np.zeros((6, 1, 2))  # equal weights: the output is the mean of the values
    v = np.array([[[1.0], [3.0]], [[10.0], [30.0]]])
    out = library.call(grouped_query_attention, q, np.zeros((2, 2, 2)), v)
    np.testing.assert_array_equal(out[:, 0, 0], [2.0, 2.0, 2.0, 20.0, 20.0, 20.0])


@pytest.mark.clause("HEADS-GROUP")
@given(g=few, r=few, seed=rng)
def test_permuting_key_heads_moves_their_groups(library, g, r, seed):
    q, k, v = grouped(seed, h=g * r, g=g)
    order = np.random.default_rng(seed).permutation(g)
    moved = (order[:, None] * r + np.arange(r)).reshape(-1)
    out = library.call(grouped_query_attention, q, k, v, masks.causal())
    permuted = library.call(grouped_query_attention, q[:, moved], k[:, order], v[:, order], masks.causal())
    close(permuted, out[:, moved])


@pytest.mark.clause("HEADS-GROUP", "HEADS-MQA")
@given(h=few, seed=rng)
def test_all_heads_and_one_head(library, h, seed):
    q, k, v = grouped(seed, h=h, g=h)
    close(library.call(grouped_query_attention, q, k, v), attention(q, k, v))
    one = k[:, :1], v[:, :1]
    want = attention(q, *one)
    close(library.call(grouped_query_attention, q, *one), want)
    close(library.call(multi_query_attention, q, k[:, 0], v[:, 0]), want)
    out, lse = library.call(
        multi_query_attention, q, k[:, 0], v[:, 0], masks.causal(), sinks=q[0, :, 0, 0], return_lse=True
    )
    want = attention(q, *one, masks.causal(), sinks=q[0, :, 0, 0], return_lse=True)
    close(out, want[0])
    close(lse, want[1])


@pytest.mark.clause("HEADS-OPTIONS")
@given(seed=rng)
def test_rules_and_positions_that_differ_by_head(library, seed):
    q, k, v = grouped(seed, b=1, h=4, g=2)
    draw = np.random.default_rng(seed)
    lengths = draw.integers(0, 6, size=4)
    positions = draw.integers(0, 6, size=(4, 3))
    out = library.call(
        grouped_query_attention, q, k, v, masks.causal() & masks.padding(lengths.tolist()), q_positions=positions
    )
    for h in range(4):
        rule = masks.causal() & masks.padding(int(lengths[h]))
        close(out[:, h], attention(q[:, h], k[:, h // 2], v[:, h // 2], rule, q_positions=positions[h]))


@pytest.mark.clause("HEADS-GROUP")
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_poison_in_an_excluded_key_stays_out_of_every_head_of_its_group(library, poison):
    q, k, v = grouped(3)
    mask = np.ones((3, 5), dtype=bool)
    mask[:, 2] = False
    want = library.call(grouped_query_attention, q, k, v, mask)
    k[:, 0, 2], v[:, 0, 2] = poison, poison
    np.testing.assert_array_equal(library.call(grouped_query_attention, q, k, v, mask), want)


@pytest.mark.clause("HEADS-GROUP")
def test_nothing_to_attend_to(library):
    q, k, v = grouped(5)
    out, lse = library.call(grouped_query_attention, q, k[:, :, :0], v[:, :, :0], return_lse=True)
    assert out.shape == (2, 6, 3, 3)
    assert not out.any()
    np.testing.assert_array_equal(lse, np.full((2, 6, 3), -np.inf))
    assert library.call(grouped_query_attention, q[:, :, :0], k, v).shape == (2, 6, 0, 3)
    assert library.call(grouped_query_attention, q[:0], k[:0], v[:0]).shape == (0, 6, 3, 3)


@pytest.mark.clause("HEADS-GROUP")
def test_any_strides(library):
    q, k, v = grouped(7)
    want = grouped_query_attention(q, k, v, masks.causal())
    views = [
        np.moveaxis(np.ascontiguousarray(np.moveaxis(x, -3, -2)), -3, -2) for x in (q, k, v)
    ]  # (B, N, H, D) in memory
    views[1] = np.ascontiguousarray(views[1][..., ::-1])[..., ::-1]
    for x in views:
        x.flags.writeable = False
    close(library.call(grouped_query_attention, *views, masks.causal()), want)


@pytest.mark.clause("HEADS-GROUP")
def test_keys_and_values_are_not_repeated_in_memory():
    h, m, d = 32, 2048, 64
    q, k, v = np.ones((h, 1, d)), np.ones((2, m, d)), np.ones((2, m, d))
    tracemalloc.start()
    grouped_query_attention(q, k, v)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < h / 2 * k.nbytes / 3  # one of them repeated would be H/G times k; scores are H·M numbers


@pytest.mark.clause("HEADS-RATIO", "HEADS-OPTIONS", "HEADS-MQA")
def test_errors_of_heads_say_what_was_wrong():
    q, k, v = grouped(0)
    with pytest.raises(TypeError, match="x has dtype int64"):
        split_heads(np.zeros((2, 4), dtype=np.int64), 2)
    with pytest.raises(ValueError, match="x has 5 features; they are H·D, a multiple of 2"):
        split_heads(np.zeros((2, 5)), 2)
    with pytest.raises(ValueError, match="heads is 0; it must be at least 1"):
        split_heads(np.zeros((2, 4)), 0)
    with pytest.raises(TypeError, match=r"heads must be an integer, not 2\.0"):
        split_heads(np.zeros((2, 4)), 2.0)
    with pytest.raises(ValueError, match=r"x has shape \(4,\); it must be \(..., N, H·D\)"):
        split_heads(np.zeros(4), 2)
    with pytest.raises(ValueError, match=r"x has shape \(2, 4\); it must be \(..., H, N, D\)"):
        merge_heads(np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"q has 5 heads, k has 2: H in .* must be a multiple of G"):
        grouped_query_attention(q[:, :5], k, v)
    with pytest.raises(ValueError, match="q has 6 heads, k has 0"):
        grouped_query_attention(q, k[:, :0], v[:, :0])
    with pytest.raises(ValueError, match="v has 1 heads, k has 2: both are G"):
        grouped_query_attention(q, k, v[:, :1])
    with pytest.raises(ValueError, match=r"k has shape \(5, 4\); it must be \(..., G, M, D\)"):
        grouped_query_attention(q[0], k[0, 0], v[0, 0])
    with pytest.raises(ValueError, match=r"axes before the heads do not broadcast: q \(2,\), k \(3,\), v \(3,\)"):
        grouped_query_attention(q, np.zeros((3, 2, 5, 4)), np.zeros((3, 2, 5, 3)))
    with pytest.raises(ValueError, match="k has head size 3, q has 4"):
        grouped_query_attention(q, k[..., :3], v)
    with pytest.raises(ValueError, match="v has 4 keys, k has 5"):
        grouped_query_attention(q, k, v[:, :, :4])
    with pytest.raises(ValueError, match=r"sinks has shape \(2,\); it must broadcast to \(..., H\), where H=6"):
        grouped_query_attention(q, k, v, sinks=np.zeros(2))
    with pytest.raises(
        ValueError, match=r"bias has shape \(2, 3, 5\); it must broadcast to \(..., H, N, M\), where H=6"
    ):
        grouped_query_attention(q, k, v, bias=np.zeros((2, 3, 5)))
    with pytest.raises(
        ValueError, match=r"mask has shape \(2, 3, 5\); it must broadcast to \(..., H, N, M\), where H=6"
    ):
        grouped_query_attention(q, k, v, np.ones((2, 3, 5), dtype=bool))
    with pytest.raises(
        ValueError, match=r"keep has shape \(2, 3, 5\); it must broadcast to \(..., H, N, M\), where H=6"
    ):
        grouped_query_attention(q, k, v, dropout=(np.ones((2, 3, 5), dtype=bool), 0.5))
    with pytest.raises(ValueError, match=r"mask has shape \(2, 1, 3, 1, 3\).* must broadcast to \(..., N=3, M=5\)"):
        grouped_query_attention(q, k, v, np.ones((2, 1, 3, 1, 3), dtype=bool))
    with pytest.raises(ValueError, match=r"bias has shape \(6, 3, 4\); it must broadcast to \(..., N=3, M=5\)"):
        grouped_query_attention(q, k, v, bias=np.zeros((6, 3, 4)))
    with pytest.raises(ValueError, match=r"leading axes do not broadcast: mask \(3, 1\), q_k_v \(2, 6\)"):
        grouped_query_attention(q, k, v, np.ones((3, 1, 3, 5), dtype=bool))
    with pytest.raises(ValueError, match=r"keep has shape \(6, 3, 4\); it must broadcast to \(..., N=3, M=5\): M"):
        grouped_query_attention(q, k, v, dropout=(np.ones((6, 3, 4), dtype=bool), 0.5))
    with pytest.raises(TypeError, match="keep has dtype float64; it must be bool"):
        grouped_query_attention(q, k, v, dropout=(np.ones((3, 5)), 0.5))
    with pytest.raises(ValueError, match=r"k has shape \(2, 1, 5, 4\), q has \(2, 6, 3, 4\).* without a head axis"):
        multi_query_attention(q, k[:, :1], v[:, :1])
    with pytest.raises(ValueError, match=r"v has shape \(2, 1, 5, 3\)"):
        multi_query_attention(q, k[:, 0], v[:, :1])


# --- with projections -----------------------------------------------------------------------------------------------


def weights(seed, e=5, e_kv=None, h=4, g=2, d=3, dv=2, out=7, biases="qkvo", q_norm=None, k_norm=None):
    shapes = {"q": (e, h * d), "k": (e_kv or e, g * d), "v": (e_kv or e, g * dv), "o": (h * dv, out)}
    w = {f"w_{name}": floats_for(seed + n, shape) / 2 for n, (name, shape) in enumerate(shapes.items())}
    b = {f"b_{name}": floats_for(seed + 9 + n, (shapes[name][1],)) for n, name in enumerate(biases)}
    return MultiHeadParams(**w, **b, q_norm=q_norm, k_norm=k_norm)


def by_heads(x_q, x_kv, p, h, g, prepare_q=lambda q: q, prepare_k=lambda k: k, mask=None, **options):
    """The sum over heads of their own columns and rows of the weights, in plain NumPy."""
    d, dv = p.w_q.shape[1] // h, p.w_v.shape[1] // g

    def columns(x, w, b, n, size):
        part = slice(n * size, (n + 1) * size)
        return x @ w[:, part] + (0.0 if b is None else b[part])

    out = 0.0 if p.b_o is None else p.b_o
    for n in range(h):
        q, k = prepare_q(columns(x_q, p.w_q, p.b_q, n, d)), prepare_k(columns(x_kv, p.w_k, p.b_k, n // (h // g), d))
        v = columns(x_kv, p.w_v, p.b_v, n // (h // g), dv)
        out = out + attention(q, k, v, mask, **options) @ p.w_o[n * dv : (n + 1) * dv]
    return out


@pytest.mark.clause("MHA-PROJECT", "MHA-CROSS", "MHA-OPTIONS")
@given(
    g=few,
    r=few,
    biases=st.sampled_from(["", "o", "qkv", "qkvo", "k"]),
    cross=optional,
    scale=st.sampled_from([None, 0.3]),
    seed=rng,
)
def test_sum_over_heads(library, g, r, biases, cross, scale, seed):
    h = g * r
    x_q, x_kv = floats_for(seed, (2, 3, 5)), floats_for(seed + 1, (2, 4, 6)) if cross else None
    p = weights(seed, h=h, g=g, e_kv=6 if cross else 5, biases=biases)
    mask = masks.causal() & masks.window(2, 0)
    got = library.call(multi_head_attention, x_q, x_kv, p, heads=h, kv_heads=g, mask=mask, scale=scale, softcap=4.0)
    close(got, by_heads(x_q, x_q if x_kv is None else x_kv, p, h, g, mask=mask, scale=scale, softcap=4.0))
    if g == h:
        again = library.call(multi_head_attention, x_q, x_kv, p, heads=h, mask=mask, scale=scale, softcap=4.0)
        np.testing.assert_array_equal(again, got)


@pytest.mark.clause("MHA-PROJECT")
def test_integers_of_projections_by_hand(library):
    x = np.array([[1.0, 0.0], [0.0, 1.0]])
    # Queries 0: equal weights. Values: head 0 is 2 x_0 + 1, head 1 is 4 x_1 + 3; means 2 and 5.
    p = MultiHeadParams(
        w_q=np.zeros((2, 2)),
        w_k=np.ones((2, 2)),
        w_v=np.array([[2.0, 0.0], [0.0, 4.0]]),
        w_o=np.array([[1.0, 0.0, 10.0], [0.0, 1.0, 100.0]]),
        b_v=np.array([1.0, 3.0]),
        b_o=np.array([0.0, 0.0, 1000.0]),
    )
    got = library.call(multi_head_attention, x, None, p, heads=2)
    np.testing.assert_array_equal(got, [[2.0, 5.0, 1520.0]] * 2)


@pytest.mark.clause("MHA-PROJECT")
@given(seed=rng)
def test_permuting_heads_with_their_weights_changes_nothing(library, seed):
    x, p, order = floats_for(seed, (3, 5)), weights(seed, h=3, g=3), np.random.default_rng(seed).permutation(3)

    def moved(w, axis):
        return np.concatenate([np.split(w, 3, axis=axis)[n] for n in order], axis=axis)

    changed = {name: moved(getattr(p, name), -1) for name in ("w_q", "w_k", "w_v", "b_q", "b_k", "b_v")}
    changed["w_o"] = moved(p.w_o, 0)
    close(
        library.call(multi_head_attention, x, None, p._replace(**changed), heads=3),
        library.call(multi_head_attention, x, None, p, heads=3),
    )


@pytest.mark.clause("MHA-PACKED")
@given(g=few, r=few, d=few, dv=few, bias=optional, cross=optional, seed=rng)
def test_packed_weights_are_queries_then_keys_then_values(library, g, r, d, dv, bias, cross, seed):
    h = g * r
    p = weights(
        seed, h=h, g=g, d=d, dv=dv, biases="qkvo" if bias else "o", q_norm=np.full(d, 1.5), k_norm=np.full(d, 0.5)
    )
    packed = PackedMultiHeadParams(
        np.concatenate([p.w_q, p.w_k, p.w_v], axis=1),
        p.w_o,
        np.concatenate([p.b_q, p.b_k, p.b_v]) if bias else None,
        p.b_o,
        p.q_norm,
        p.k_norm,
    )
    for name, want, got in zip(p._fields, p, packed.unpack(h, g), strict=True):
        np.testing.assert_array_equal(want, got, err_msg=name)
    x_q, x_kv = floats_for(seed, (2, 3, 5)), floats_for(seed, (2, 4, 5)) if cross else None
    np.testing.assert_array_equal(
        library.call(multi_head_attention, x_q, x_kv, packed, heads=h, kv_heads=g),
        library.call(multi_head_attention, x_q, x_kv, p, heads=h, kv_heads=g),
    )


@pytest.mark.clause("MHA-PACKED")
def test_unpacking_copies_nothing():
    packed = PackedMultiHeadParams(np.zeros((4, 12)), np.zeros((8, 3)), np.zeros(12))
    p = packed.unpack(heads=4, kv_heads=1)
    assert all(np.shares_memory(w, packed.w_qkv) for w in (p.w_q, p.w_k, p.w_v))
    assert np.shares_memory(p.b_v, packed.b_qkv)


@pytest.mark.clause("MHA-CROSS")
@given(seed=rng)
def test_queries_from_the_first_sequence_keys_and_values_from_the_second(library, seed):
    x_q, x_kv, p = floats_for(seed, (2, 3, 5)), floats_for(seed + 1, (2, 4, 5)), weights(seed)
    out = library.call(multi_head_attention, x_q, x_kv, p, heads=4, kv_heads=2)
    moved = x_q.copy()
    moved[:, 1] += 1.0
    changed = (library.call(multi_head_attention, moved, x_kv, p, heads=4, kv_heads=2) != out).any(axis=(0, 2))
    np.testing.assert_array_equal(changed, [False, True, False])
    order = [2, 0, 3, 1]
    close(library.call(multi_head_attention, x_q, x_kv[:, order], p, heads=4, kv_heads=2), out)
    np.testing.assert_array_equal(
        library.call(multi_head_attention, x_q, None, p, heads=4, kv_heads=2),
        library.call(multi_head_attention, x_q, x_q, p, heads=4, kv_heads=2),
    )


@pytest.mark.clause("MHA-QKNORM")
@given(seed=rng)
def test_the_norm_of_each_head(library, seed):
    d, gains = 3, np.abs(floats_for(seed, (2, 3))) + 0.5
    x, p = floats_for(seed, (2, 4, 5)), weights(seed, q_norm=gains[0], k_norm=gains[1])
    got = library.call(multi_head_attention, x, None, p, heads=4, kv_heads=2, qk_norm_eps=0.25)

    def normed(gain):
        return lambda y: y / np.sqrt((y**2).mean(axis=-1, keepdims=True) + 0.25) * gain

    assert gains.shape[1] == d
    close(got, by_heads(x, x, p, 4, 2, normed(gains[0]), normed(gains[1])))
    only_q = library.call(multi_head_attention, x, None, p._replace(k_norm=None), heads=4, kv_heads=2, qk_norm_eps=0.25)
    close(only_q, by_heads(x, x, p, 4, 2, normed(gains[0])))


@pytest.mark.clause("MHA-QKNORM")
@given(seed=rng)
def test_the_norm_of_the_whole_width(library, seed):
    x = floats_for(seed, (2, 4, 5))
    p = weights(seed, q_norm=floats_for(seed + 3, (12,)), k_norm=floats_for(seed + 4, (6,)))
    got = library.call(multi_head_attention, x, None, p, heads=4, kv_heads=2)
    q = split_heads(rms_norm(x @ p.w_q + p.b_q, p.q_norm), 4)
    k = split_heads(rms_norm(x @ p.w_k + p.b_k, p.k_norm), 2)
    out = grouped_query_attention(q, k, split_heads(x @ p.w_v + p.b_v, 2))
    close(got, merge_heads(out) @ p.w_o + p.b_o)


@pytest.mark.clause("MHA-QKNORM")
def test_scaling_one_head_is_undone_by_its_own_norm_only(library):
    x, p = floats_for(1, (4, 5)), weights(1, biases="", q_norm=np.ones(3), k_norm=np.ones(3))
    scaled = p._replace(w_q=np.concatenate([p.w_q[:, :3] * 16.0, p.w_q[:, 3:]], axis=1))
    options = {"heads": 4, "kv_heads": 2, "qk_norm_eps": 1e-30}
    close(
        library.call(multi_head_attention, x, None, scaled, **options),
        library.call(multi_head_attention, x, None, p, **options),
    )
    wide = {"q_norm": np.ones(12), "k_norm": np.ones(6)}
    a, b = (library.call(multi_head_attention, x, None, w._replace(**wide), **options) for w in (p, scaled))
    assert np.abs(a - b).max() > 1e-3


@pytest.mark.clause("MHA-ROPE")
@given(seed=rng, layout=st.sampled_from(["half", "interleaved"]))
def test_rotation_comes_after_the_norm_and_before_the_scores(library, seed, layout):
    gains = np.abs(floats_for(seed, (2, 4))) + 0.5
    x, p = floats_for(seed, (2, 5, 5)), weights(seed, d=4, q_norm=gains[0], k_norm=gains[1])
    rope = functools.partial(refattn.rope, layout=layout)
    positions = np.arange(5)
    want = by_heads(
        x, x, p, 4, 2, lambda q: rope(rms_norm(q, gains[0]), positions),
        lambda k: rope(rms_norm(k, gains[1]), positions), mask=masks.causal(),
    )  # fmt: skip
    close(library.call(multi_head_attention, x, None, p, heads=4, kv_heads=2, mask=masks.causal(), rope=rope), want)
    named = Rope(layout=layout)
    close(library.call(multi_head_attention, x, None, p, heads=4, kv_heads=2, mask=masks.causal(), rope=named), want)


@pytest.mark.clause("MHA-ROPE")
def test_options_of_rope_reach_it(library):
    x, p = floats_for(2, (3, 5)), weights(2, d=6)
    options = {"base": 50.0, "layout": "half", "rotary_dim": 4}
    np.testing.assert_array_equal(
        library.call(multi_head_attention, x, None, p, heads=4, kv_heads=2, rope=Rope(**options)),
        library.call(
            multi_head_attention, x, None, p, heads=4, kv_heads=2, rope=functools.partial(refattn.rope, **options)
        ),
    )


@pytest.mark.clause("MHA-ROPE")
@given(seed=rng, shift=st.integers(-50, 5000))
def test_only_differences_of_positions_matter(library, seed, shift):
    x, p = floats_for(seed, (2, 4, 5)), weights(seed, d=4)
    at = {"q_positions": np.arange(4) + shift, "k_positions": np.arange(4) + shift}
    plain = library.call(multi_head_attention, x, None, p, heads=4, kv_heads=2, rope=Rope())
    moved = library.call(multi_head_attention, x, None, p, heads=4, kv_heads=2, rope=Rope(), **at)
    np.testing.assert_allclose(moved, plain, rtol=1e-9, atol=1e-9)
    still = library.call(multi_head_attention, x, None, p, heads=4, kv_heads=2)
    assert np.abs(plain - still).max() > 1e-6


@pytest.mark.clause("MHA-ROPE")
def test_values_are_not_rotated(library):
    x, p = floats_for(4, (1, 5)), weights(4, d=4, dv=4)
    at = {"q_positions": np.array([7]), "k_positions": np.array([7])}
    np.testing.assert_array_equal(
        library.call(multi_head_attention, x, None, p, heads=4, kv_heads=2, rope=Rope(), **at),
        library.call(multi_head_attention, x, None, p, heads=4, kv_heads=2),
    )


@pytest.mark.clause("MHA-ROPE", "MHA-OPTIONS")
@given(seed=rng, n=st.integers(1, 5))
def test_the_last_queries_see_what_they_see_in_the_whole_sequence(library, seed, n):
    x, p = floats_for(seed, (2, 5, 5)), weights(seed, d=4)
    options = {"heads": 4, "kv_heads": 2, "mask": masks.causal(), "rope": Rope(layout="half")}
    whole = library.call(multi_head_attention, x, None, p, **options)
    close(library.call(multi_head_attention, x[:, 5 - n :], x, p, **options), whole[:, 5 - n :])


@pytest.mark.clause("MHA-OPTIONS", "MHA-ROPE")
@given(seed=rng)
def test_positions_belong_to_sequences(library, seed):
    x_q, x_kv, p = floats_for(seed, (3, 2, 5)), floats_for(seed + 1, (3, 4, 5)), weights(seed, d=4)
    draw = np.random.default_rng(seed)
    q_positions, k_positions = draw.integers(0, 30, size=(3, 2)), draw.integers(0, 20, size=(3, 4))
    options = {"heads": 4, "kv_heads": 2, "mask": masks.causal(), "rope": Rope()}
    out = library.call(multi_head_attention, x_q, x_kv, p, q_positions=q_positions, k_positions=k_positions, **options)
    for b in range(3):
        i, j = q_positions[b], k_positions[b]
        want = by_heads(
            x_q[b], x_kv[b], p, 4, 2, lambda q, i=i: refattn.rope(q, i), lambda k, j=j: refattn.rope(k, j),
            mask=masks.causal(), q_positions=i, k_positions=j,
        )  # fmt: skip
        close(out[b], want)
        alone = {"q_positions": i.tolist(), "k_positions": j}
        close(library.call(multi_head_attention, x_q[b], x_kv[b], p, **alone, **options), want)


@pytest.mark.clause("MHA-OPTIONS")
@given(seed=rng)
def test_masks_biases_sinks_and_draws_for_each_sequence_and_head(library, seed):
    x_q, x_kv, p = floats_for(seed, (2, 3, 5)), floats_for(seed + 1, (2, 4, 5)), weights(seed)
    draw = np.random.default_rng(seed)
    mask, keep = draw.random((2, 1, 3, 4)) < 0.7, draw.random((2, 4, 3, 4)) < 0.7
    bias, sinks = draw.normal(size=(4, 1, 4)), draw.normal(size=4)
    got = library.call(
        multi_head_attention, x_q, x_kv, p, heads=4, kv_heads=2, mask=mask, bias=bias, sinks=sinks, dropout=(keep, 0.5)
    )
    q, k, v = (
        split_heads(x @ w + b, n)
        for x, w, b, n in ((x_q, p.w_q, p.b_q, 4), (x_kv, p.w_k, p.b_k, 2), (x_kv, p.w_v, p.b_v, 2))
    )
    out, _ = head_by_head(q, k, v, mask=mask, bias=bias, sinks=sinks, keep=keep, rate=0.5)
    close(got, merge_heads(out) @ p.w_o + p.b_o)


@pytest.mark.clause("MHA-OPTIONS", "MHA-PROJECT")
def test_a_token_without_keys_gets_the_output_bias(library):
    x, p = floats_for(6, (2, 3, 5)), weights(6)
    mask = np.array([[True, True, False], [False, False, False], [True, False, True]])
    out = library.call(multi_head_attention, x, None, p, heads=4, kv_heads=2, mask=mask)
    np.testing.assert_array_equal(out[:, 1], np.broadcast_to(p.b_o, (2, 7)))
    empty = library.call(multi_head_attention, x, x[:, :0], p, heads=4, kv_heads=2)
    np.testing.assert_array_equal(empty, np.broadcast_to(p.b_o, (2, 3, 7)))
    rotated = library.call(
        multi_head_attention, x[:, :0], x, p._replace(b_q=None), heads=4, kv_heads=2, mask=masks.causal()
    )
    assert rotated.shape == (2, 0, 7)


@pytest.mark.clause("MHA-PROJECT")
def test_one_float64_argument_makes_all_of_it_float64():
    x, p = floats_for(8, (3, 5)).astype(np.float32), weights(8)
    single = MultiHeadParams(*(None if w is None else w.astype(np.float32) for w in p))
    assert multi_head_attention(x, None, single, heads=4, kv_heads=2).dtype == np.float32
    assert multi_head_attention(x, None, single._replace(b_o=p.b_o), heads=4, kv_heads=2).dtype == np.float64


@pytest.mark.clause("MHA-REFUSE", "HEADS-RATIO")
def test_errors_of_projections_say_what_was_wrong():
    x, p = floats_for(0, (2, 3, 5)), weights(0)
    call = functools.partial(multi_head_attention, heads=4, kv_heads=2)

    def refuses(message, x_q=x, x_kv=None, error=ValueError, **changed):
        with pytest.raises(error, match=message):
            call(x_q, x_kv, p._replace(**changed))

    refuses("w_q has 5 rows, x_q has 4 features: both are E", x[..., :4])
    refuses("w_k has 5 rows, x_kv has 4 features: both are E_kv", x, x[..., :4])
    refuses("w_v has 4 rows, x_kv has 5 features", w_v=p.w_v[:4])
    refuses("w_q has 10 columns; they are H·D, a multiple of 4", w_q=p.w_q[:, :10])
    refuses("w_k has 5 columns; they are G·D, a multiple of 2", w_k=p.w_k[:, :5])
    refuses("w_k has 4 columns for G=2, w_q has 12 for H=4: their head sizes 2 and 3 are both D", w_k=p.w_k[:, :4])
    refuses("w_v has 3 columns; they are G·Dv, a multiple of 2", w_v=p.w_v[:, :3])
    refuses("w_o has 7 rows; it must have H·Dv = 4·2 = 8", w_o=p.w_o[:7])
    refuses(r"w_o has shape \(8,\); it must be \(H·Dv, E_out\)", w_o=p.w_o[:, 0])
    refuses(r"b_k has shape \(12,\); it must be \(6,\), the columns of w_k", b_k=p.b_q)
    refuses(r"b_o has shape \(\); it must be \(7,\)", b_o=np.float64(0.0))
    refuses(r"q_norm has shape \(6,\); it must be \(D,\) = \(3,\) or \(H·D,\) = \(12,\)", q_norm=np.ones(6))
    refuses(r"k_norm has shape \(12,\); it must be \(D,\) = \(3,\) or \(G·D,\) = \(6,\)", k_norm=np.ones(12))
    refuses(r"x_q has shape \(5,\); it must be \(..., N, E\)", x[0, 0])
    refuses("w_q is a list; it must be a NumPy or CuPy array", error=TypeError, w_q=[1.0])
    refuses("x_q is a list; it must be a NumPy or CuPy array", [1.0], error=TypeError)
    with pytest.raises(TypeError, match="params is a dict; it must be MultiHeadParams or PackedMultiHeadParams"):
        call(x, None, p._asdict())
    with pytest.raises(ValueError, match="heads is 4, kv_heads is 3: H must be a multiple of G"):
        multi_head_attention(x, None, p, heads=4, kv_heads=3)
    with pytest.raises(ValueError, match="kv_heads is 0; it must be at least 1"):
        multi_head_attention(x, None, p, heads=4, kv_heads=0)
    with pytest.raises(ValueError, match=r"q_positions has shape \(4,\); it must be \(..., N=3\)"):
        call(x, None, p, q_positions=np.arange(4))
    with pytest.raises(ValueError, match=r"k_positions has shape \(3,\); it must be \(..., M=2\)"):
        call(x, x[:, :2], p, k_positions=np.arange(3))
    with pytest.raises(
        ValueError, match=r"mask has shape \(2, 3, 3\); it must broadcast to \(..., H, N, M\), where H=4"
    ):
        call(x, None, p, mask=np.ones((2, 3, 3), dtype=bool))
    packed = PackedMultiHeadParams(np.zeros((5, 22)), np.zeros((8, 7)), np.zeros(22))
    assert call(x, None, packed).shape == (2, 3, 7)
    with pytest.raises(ValueError, match="w_qkv has 21 columns; with H=4, G=2 and Dv=2"):
        call(x, None, packed._replace(w_qkv=np.zeros((5, 21))))
    with pytest.raises(ValueError, match="w_qkv has 3 columns; with H=4, G=2 and Dv=2"):
        call(x, None, packed._replace(w_qkv=np.zeros((5, 3))))
    with pytest.raises(ValueError, match="w_o has 7 rows; they are H·Dv, a multiple of 4"):
        call(x, None, packed._replace(w_o=np.zeros((7, 7))))
    with pytest.raises(ValueError, match=r"b_qkv has shape \(12,\); it must be \(22,\)"):
        call(x, None, packed._replace(b_qkv=np.zeros(12)))
    with pytest.raises(TypeError, match="w_qkv is a list"):
        call(x, None, packed._replace(w_qkv=[1.0]))


@pytest.mark.clause("MHA-PACKED", "MHA-REFUSE")
def test_packed_heads_of_size_one_and_none():
    one = PackedMultiHeadParams(np.arange(6.0).reshape(1, 6), np.ones((2, 3)))
    params = one.unpack(2, 2)  # H·D + G·D + G·Dv = 2 + 2 + 2
    np.testing.assert_array_equal(params.w_q, [[0.0, 1.0]])
    np.testing.assert_array_equal(params.w_k, [[2.0, 3.0]])
    np.testing.assert_array_equal(params.w_v, [[4.0, 5.0]])
    with pytest.raises(ValueError, match="w_qkv has 2 columns; with H=2, G=2 and Dv=1"):
        PackedMultiHeadParams(np.zeros((1, 2)), np.ones((2, 3))).unpack(2, 2)


@pytest.mark.clause("MHA-REFUSE")
def test_no_heads_at_all_are_refused():
    eye = np.eye(2)
    with pytest.raises(ValueError, match="heads is 0; it must be at least 1"):
        multi_head_attention(eye, None, MultiHeadParams(eye, eye, eye, eye), heads=0)


@pytest.mark.clause("HEADS-OPTIONS")
def test_dropout_draws_that_are_no_array_are_refused():
    x = np.zeros((2, 3, 4))
    with pytest.raises(TypeError, match="keep is a list; it must be an array of numpy"):
        grouped_query_attention(x, x, x, dropout=([[True] * 3] * 3, 0.5))
