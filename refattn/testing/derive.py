"""What goes wrong in one function goes wrong in those that are built on it: their variants, derived.

A rule of masks that is read wrongly makes attention wrong; attention that is wrong makes its weights, grouped-query
attention and multi-head attention wrong. A derived variant bears the name of the one that it comes from.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from refattn import heads, masks
from refattn.testing.mechanisms.attention.variants import combined, evaluate
from refattn.testing.variants import NotApplicable, Variant


def of_mask(v: Variant) -> Variant:
    """A variant of `Mask.dense` as one of attention."""
    dense = v.call

    def call(q, k, v, mask=None, *, q_positions=None, k_positions=None, **options):
        if not isinstance(mask, masks.Mask):
            raise NotApplicable
        changed = dense(mask, q.shape[-2], k.shape[-2], q_positions=q_positions, k_positions=k_positions)
        return evaluate(q, k, v, changed, **options)

    return replace(v, function="attention", call=call)


def pair(first: Variant, second: Variant) -> Variant:
    """Two variants of attention at once."""
    return replace(
        first,
        name=f"{first.name} + {second.name}",
        call=combined(first.call, second.call),
        meaning=f"{first.meaning} And: {second.meaning}",
        seen=(),
        advice="; ".join(filter(None, (first.advice, second.advice))),
    )


def weights(v: Variant) -> Variant:
    """A variant of attention as one of `attention_weights`: the output for values that tell every key apart."""
    attend = v.call

    def call(q, k, mask=None, **options):
        return attend(q, k, np.eye(k.shape[-2]), mask, **options)

    return replace(v, function="attention_weights", call=call)


def grouped(v: Variant) -> Variant:
    """A variant of attention as one of grouped-query attention: every query head has its own copy of keys and values."""
    attend = v.call

    def call(q, k, v, mask=None, **options):
        group = q.shape[-3] // k.shape[-3]
        return attend(q, np.repeat(k, group, axis=-3), np.repeat(v, group, axis=-3), mask, **options)

    return replace(v, function="grouped_query_attention", call=call)


def tiled(v: Variant) -> Variant:
    """A variant of attention as one of attention over tiles: functions of positions become arrays, heads are repeated."""
    attend = v.call

    def call(q, k, v, mask=None, *, q_tile=None, k_tile=None, **options):
        from refattn.testing.mechanisms.tiled.variants import as_arrays, repeated

        return attend(q, *repeated(q, k, v), mask, **_given(as_arrays(q, k, **options)))

    return replace(v, function="tiled_attention", call=call)


def split(v: Variant) -> Variant:
    """A variant of tiled attention as one of attention over parts of the keys."""
    if v.name.startswith("tile/"):
        return replace(v, function="split_attention", call=_not_applicable)
    attend = v.call

    def call(q, k, v, mask=None, *, splits, tree=None, **options):
        return attend(q, k, v, mask, **options)

    return replace(v, function="split_attention", call=call)


def tiled_vjp(v: Variant) -> Variant:
    """A variant of the gradients of attention as one of the gradients over tiles, where no heads are shared."""
    vjp = v.call

    def call(d_out, q, k, v, mask=None, *, out=None, lse=None, q_tile=None, k_tile=None, **options):
        from refattn.testing.mechanisms.tiled.variants import as_arrays

        if min(q.ndim, k.ndim) > 2 and k.shape[-3] not in (1, q.shape[-3]):
            raise NotApplicable
        return vjp(d_out, q, k, v, mask, **_given(as_arrays(q, k, **options)))

    return replace(v, function="tiled_attention_vjp", call=call)


def _given(options):
    return {name: value for name, value in options.items() if value is not None}


def _not_applicable(*args, **options):
    raise NotApplicable


def projected(v: Variant) -> Variant:
    """A variant of grouped-query attention as one of multi-head attention: between right projections."""
    attend = v.call

    def call(x_q, x_kv, params, *, heads: int, kv_heads=None, rope=None, qk_norm_eps=1e-6, **options):
        q, k, v, out = _projections(x_q, x_kv, params, heads, kv_heads, rope, qk_norm_eps, options)
        attended = attend(q, k, v, options.pop("mask", None), **options)
        if attended.shape[-1] != v.shape[-1]:  # it cannot be projected
            raise NotApplicable
        return out(attended)

    return replace(v, function="multi_head_attention", call=call)


def _projections(x_q, x_kv, params, query_heads, kv_heads, rope, eps, options):
    """Queries, keys and values as multi-head attention makes them, and what it does with the output."""
    kv_heads = kv_heads or query_heads
    if isinstance(params, heads.PackedMultiHeadParams):
        params = params.unpack(query_heads, kv_heads)
    x_kv = x_q if x_kv is None else x_kv
    n, m = x_q.shape[-2], x_kv.shape[-2]
    q = heads.normalised_heads(_linear(x_q, params.w_q, params.b_q), query_heads, params.q_norm, eps)
    k = heads.normalised_heads(_linear(x_kv, params.w_k, params.b_k), kv_heads, params.k_norm, eps)
    v = heads.split_heads(_linear(x_kv, params.w_v, params.b_v), kv_heads)
    for name, count, letter in (("q_positions", n, "N"), ("k_positions", m, "M")):
        if options.get(name) is not None:
            options[name] = heads._positions(np, name, options[name], count, letter, x_q)
    if rope is not None:
        given_q, given_k = options.get("q_positions"), options.get("k_positions")
        q = rope(q, np.arange(m - n, m) if given_q is None else given_q)
        k = rope(k, np.arange(m) if given_k is None else given_k)
    return q, k, v, lambda out: _linear(heads.merge_heads(out), params.w_o, params.b_o)


def _linear(x, w, b):
    return x @ w if b is None else x @ w + b
