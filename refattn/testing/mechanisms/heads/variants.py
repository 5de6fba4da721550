"""Variants of heads: other orders of heads and features, and other ways to and from the projections."""

from __future__ import annotations

import math

import numpy as np

from refattn.heads import (
    MultiHeadParams,
    PackedMultiHeadParams,
    grouped_query_attention,
    multi_head_attention,
    split_heads,
)
from refattn.norms import rms_norm
from refattn.testing.mechanisms.attention.variants import evaluate
from refattn.testing.registry import NotApplicable, variant


def _needs(*conditions):
    if not all(conditions):
        raise NotApplicable


# --- features and heads ---------------------------------------------------------------------------------------------


def _features_first(width, heads):
    """Which feature stands where if a width is read as (D, H) instead of (H, D)."""
    return np.arange(width).reshape(-1, heads).T.reshape(-1)


_FEATURES_FIRST = ["magicleap/SuperGluePretrainedNetwork (MultiHeadedAttention)"]
_FEATURES_FIRST_ADVICE = "permute the columns of w_q, w_k and w_v and the rows of w_o"


@variant("heads/features_first", "HEADS-SPLIT", "split_heads", seen=_FEATURES_FIRST, advice=_FEATURES_FIRST_ADVICE)
def split_features_first(x, heads):
    """The width is read as (D, H): head h has every H-th feature."""
    return split_heads(x[..., _features_first(x.shape[-1], heads)], heads)


@variant("heads/features_first", "HEADS-MERGE", "merge_heads", seen=_FEATURES_FIRST, advice=_FEATURES_FIRST_ADVICE)
def merge_features_first(x):
    """The width is written as (D, H): neighbours are the same feature of different heads."""
    x = np.moveaxis(x, -3, -1)
    return x.reshape(*x.shape[:-2], -1)


@variant(
    "heads/features_first", "HEADS-SPLIT", "multi_head_attention", seen=_FEATURES_FIRST, advice=_FEATURES_FIRST_ADVICE
)
def project_features_first(x_q, x_kv, params, *, heads, kv_heads=None, **options):
    """The widths are read and written as (D, H): head h has every H-th feature."""
    kv_heads = kv_heads or heads
    p = _unpacked(params, heads, kv_heads)
    _needs(p.q_norm is None, p.k_norm is None, p.w_q.shape[1] > heads > 1 or p.w_o.shape[0] > heads > 1)
    changed = {}
    for name, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
        order = _features_first(getattr(p, f"w_{name}").shape[1], count)
        changed[f"w_{name}"] = getattr(p, f"w_{name}")[:, order]
        changed[f"b_{name}"] = None if getattr(p, f"b_{name}") is None else getattr(p, f"b_{name}")[order]
    p = p._replace(**changed, w_o=p.w_o[_features_first(p.w_o.shape[0], heads)])
    return multi_head_attention(x_q, x_kv, p, heads=heads, kv_heads=kv_heads, **options)


@variant("heads/no_transpose", "HEADS-SPLIT", "split_heads", seen=["reczoo/FuxiCTR#30"])
def split_no_transpose(x, heads):
    """Reshaped to (..., H, N, D) without a transpose: a head mixes tokens."""
    *lead, n, width = x.shape
    return x.reshape(*lead, heads, n, width // heads)


@variant(
    "heads/no_transpose",
    "HEADS-MERGE",
    "merge_heads",
    seen=["jsbaan/transformer-from-scratch#6", "ajhalthor/Transformer-Neural-Network#4"],
)
def merge_no_transpose(x):
    """Reshaped to (..., N, H·D) without a transpose: a token holds pieces of other tokens."""
    *lead, heads, n, size = x.shape
    return x.reshape(*lead, n, heads * size)


@variant(
    "heads/no_transpose",
    "HEADS-MERGE",
    "multi_head_attention",
    seen=["jsbaan/transformer-from-scratch#6", "ajhalthor/Transformer-Neural-Network#4"],
)
def project_no_transpose(x_q, x_kv, params, *, heads, kv_heads=None, **options):
    """The heads are merged by a reshape without a transpose: a token holds pieces of other tokens."""
    p = _unpacked(params, heads, kv_heads)
    merged = p._replace(w_o=np.eye(p.w_o.shape[0]), b_o=None)
    out = split_heads(multi_head_attention(x_q, x_kv, merged, heads=heads, kv_heads=kv_heads, **options), heads)
    out = merge_no_transpose(np.ascontiguousarray(out)) @ p.w_o
    return out if p.b_o is None else out + p.b_o


@variant(
    "heads/bshd_as_bhsd",
    "HEADS-GROUP",
    "grouped_query_attention",
    seen=["facebookresearch/xformers#677", "jax-ml/jax#35916"],
    advice="move the head axis before the token axis",
)
def bshd_as_bhsd(q, k, v, mask=None, **options):
    """The axes of tokens and heads are confused: each token attends over its own heads."""
    options = {name: value for name, value in options.items() if value is not None and value is not False}
    _needs(q.shape[-2] == k.shape[-2], mask is None, not (set(options) - {"scale", "softcap"}))
    swapped = (np.swapaxes(x, -3, -2) for x in (q, k, v))
    return np.swapaxes(evaluate(*swapped, **options), -3, -2)


# --- groups ---------------------------------------------------------------------------------------------------------


def _regrouped(which):
    """Grouped-query attention in which query head h reads key/value head which(h, H, G)."""

    def call(q, k, v, mask=None, **options):
        heads, kv_heads = q.shape[-3], k.shape[-3]
        _needs(1 < kv_heads < heads)
        read = [which(h, heads, kv_heads) for h in range(heads)]
        return evaluate(q, np.take(k, read, axis=-3), np.take(v, read, axis=-3), mask, **options)

    return call


_TILED = ["onnx/onnx#7274", "ekzhang/jax-js#180", "XunhaoLai/native-sparse-attention-triton (gqa_interleave)"]


@variant("gqa/tiled", "HEADS-GROUP", "grouped_query_attention", seen=_TILED, advice="permute the query heads")
def gqa_tiled(*args, **kwargs):
    """Query head h reads key/value head h mod G: keys are tiled instead of repeated."""
    return _regrouped(lambda h, heads, kv_heads: h % kv_heads)(*args, **kwargs)


@variant("gqa/tiled", "HEADS-GROUP", "multi_head_attention", seen=_TILED, advice="permute the query heads")
def project_tiled(x_q, x_kv, params, *, heads, kv_heads=None, **options):
    """Query head h reads key/value head h mod G: keys are tiled instead of repeated."""
    _needs(kv_heads is not None, 1 < (kv_heads or heads) < heads)
    p = _unpacked(params, heads, kv_heads)
    _needs(p.k_norm is None or p.k_norm.shape[0] * kv_heads == p.w_k.shape[1])
    times = heads // kv_heads
    changed = {
        name: np.tile(getattr(p, name), times) for name in ("w_k", "w_v", "b_k", "b_v") if getattr(p, name) is not None
    }
    return multi_head_attention(x_q, x_kv, p._replace(**changed), heads=heads, **options)


@variant(
    "gqa/group_is_kv_heads",
    "HEADS-GROUP",
    "grouped_query_attention",
    seen=["XunhaoLai/native-sparse-attention-triton#27 (in its backward)"],
)
def gqa_group_is_kv_heads(q, k, v, mask=None, **options):
    """The head index is divided by the number of key/value heads instead of the size of a group."""
    _needs(k.shape[-3] ** 2 != q.shape[-3])
    return _regrouped(lambda h, heads, kv_heads: min(h // kv_heads, kv_heads - 1))(q, k, v, mask, **options)


@variant("gqa/repeat_sequence_axis", "HEADS-GROUP", "grouped_query_attention", seen=["PrimeIntellect-ai/prime-rl#2681"])
def gqa_repeat_sequence_axis(q, k, v, mask=None, **options):
    """Keys and values are repeated along the axis of tokens and then viewed as H heads of M tokens."""
    heads, kv_heads, m = q.shape[-3], k.shape[-3], k.shape[-2]
    _needs(1 < kv_heads < heads, m > 1)
    k, v = (np.repeat(x, heads // kv_heads, axis=-2).reshape(*x.shape[:-3], heads, m, x.shape[-1]) for x in (k, v))
    return evaluate(q, k, v, mask, **options)


@variant("gqa/sinks_by_group", "HEADS-OPTIONS", "grouped_query_attention", seen=["pie-project/pie#272"])
def gqa_sinks_by_group(q, k, v, mask=None, *, sinks=None, **options):
    """Sinks, which are already one a query head, are repeated for the group: head h gets that of h // (H / G)."""
    heads, kv_heads = q.shape[-3], k.shape[-3]
    _needs(sinks is not None, kv_heads < heads)
    _needs(np.ndim(sinks) > 0 and sinks.shape[-1] == heads)
    sinks = np.repeat(sinks, heads // kv_heads, axis=-1)[..., :heads]
    return grouped_query_attention(q, k, v, mask, sinks=sinks, **options)


@variant("gqa/mask_on_groups", "HEADS-OPTIONS", "grouped_query_attention", seen=["ml-explore/mlx-lm#1903"])
def gqa_mask_on_groups(q, k, v, mask=None, **options):
    """A mask (B, 1, N, M) meets scores (B, G, H/G, N, M) as they are, so that its batch axis lies on the groups."""
    _needs(_per_sequence(mask), q.ndim == 4, 1 < k.shape[-3] < q.shape[-3])
    _needs(mask.shape[0] == k.shape[-3])
    return grouped_query_attention(q, k, v, np.repeat(mask[:, 0], q.shape[-3] // k.shape[-3], axis=0), **options)


# --- masks ----------------------------------------------------------------------------------------------------------


def _per_sequence(mask):
    """Whether a mask is an array (B, 1, N, M) with several sequences."""
    return isinstance(mask, np.ndarray) and mask.ndim == 4 and mask.shape[1] == 1 and mask.shape[0] > 1


def _tiled_over_heads(mask, heads):
    """What entry b·H + h of the folded axis gets if the B masks are tiled H times: mask (b·H + h) mod B."""
    count = mask.shape[0]
    return mask[np.arange(count * heads) % count, 0].reshape(count, heads, *mask.shape[-2:])


_TILED_MASK = ["lsdefine/attention-is-all-you-need-keras#36", "lucidrains/graph-transformer-pytorch#2"]


@variant("mask/tiled_over_heads", "HEADS-OPTIONS", "grouped_query_attention", seen=_TILED_MASK)
def gqa_mask_tiled_over_heads(q, k, v, mask=None, **options):
    """Batch and heads are folded into one axis and masks tiled instead of repeated, so that sequences swap masks."""
    _needs(_per_sequence(mask), q.ndim == 4)
    return grouped_query_attention(q, k, v, _tiled_over_heads(mask, q.shape[1]), **options)


@variant("mask/tiled_over_heads", "MHA-OPTIONS", "multi_head_attention", seen=_TILED_MASK)
def project_mask_tiled_over_heads(x_q, x_kv, params, *, heads, mask=None, **options):
    """Batch and heads are folded into one axis and masks tiled instead of repeated, so that sequences swap masks."""
    _needs(_per_sequence(mask), x_q.ndim == 3)
    return multi_head_attention(x_q, x_kv, params, heads=heads, mask=_tiled_over_heads(mask, heads), **options)


@variant("mask/over_heads", "MHA-OPTIONS", "multi_head_attention", advice="pass mask[:, None]")
def project_mask_over_heads(x_q, x_kv, params, *, heads, mask=None, **options):
    """A mask for each sequence is given without an axis for heads: where B = H it lies on the heads."""
    _needs(_per_sequence(mask))
    _needs(mask.shape[0] == heads)
    return multi_head_attention(x_q, x_kv, params, heads=heads, mask=mask[:, 0], **options)


@variant(
    "mask/polarity",
    "MHA-OPTIONS",
    "multi_head_attention",
    seen=["torch.nn.MultiheadAttention", "pytorch/pytorch#170415"],
    advice="pass ~mask",
)
def project_mask_polarity(x_q, x_kv, params, *, mask=None, **options):
    """True means masked out."""
    _needs(mask is not None)
    return multi_head_attention(x_q, x_kv, params, mask=~mask, **options)


# --- projections ----------------------------------------------------------------------------------------------------


def _unpacked(params, heads, kv_heads):
    return params.unpack(heads, kv_heads) if isinstance(params, PackedMultiHeadParams) else MultiHeadParams(*params)


@variant(
    "mha/packed_by_group",
    "MHA-PACKED",
    "multi_head_attention",
    seen=["GPT-NeoX", "BLOOM", "Falcon", "Megatron-LM", "vllm-project/vllm#53114", "Lightning-AI/litgpt#1013"],
    advice="reorder the columns of w_qkv to all queries, all keys, all values",
)
def packed_by_group(x_q, x_kv, params, *, heads, kv_heads=None, **options):
    """Packed columns are read group by group: the queries of a group, its key, its value."""
    _needs(isinstance(params, PackedMultiHeadParams))
    kv_heads = kv_heads or heads
    _needs(kv_heads > 1)
    p = params.unpack(heads, kv_heads)
    sizes = [x.shape[1] // kv_heads for x in (p.w_q, p.w_k, p.w_v)]
    start = np.cumsum([0, *sizes])
    columns = np.arange(params.w_qkv.shape[1]).reshape(kv_heads, -1)
    order = np.concatenate([columns[:, start[n] : start[n + 1]].reshape(-1) for n in range(3)])
    bias = None if params.b_qkv is None else params.b_qkv[order]
    read = params._replace(w_qkv=params.w_qkv[:, order], b_qkv=bias)
    return multi_head_attention(x_q, x_kv, read, heads=heads, kv_heads=kv_heads, **options)


@variant(
    "mha/scale_from_width",
    "MHA-OPTIONS",
    "multi_head_attention",
    seen=["aladdinpersson/Machine-Learning-Collection (transformer_from_scratch)"],
    advice="pass scale=1/√(H·D)",
)
def scale_from_width(x_q, x_kv, params, *, heads, kv_heads=None, scale=None, **options):
    """The scale is 1/√(H·D), from the width of all heads instead of one, whatever was given."""
    width = _unpacked(params, heads, kv_heads).w_q.shape[1]
    return multi_head_attention(
        x_q, x_kv, params, heads=heads, kv_heads=kv_heads, scale=1.0 / math.sqrt(width), **options
    )


@variant("mha/output_bias_dropped", "MHA-PROJECT", "multi_head_attention")
def output_bias_dropped(x_q, x_kv, params, **options):
    """The bias of the output projection is left out."""
    _needs(params.b_o is not None)
    return multi_head_attention(x_q, x_kv, params._replace(b_o=None), **options)


@variant("mha/input_biases_dropped", "MHA-PROJECT", "multi_head_attention")
def input_biases_dropped(x_q, x_kv, params, *, heads, kv_heads=None, **options):
    """The biases of queries, keys and values are left out."""
    p = _unpacked(params, heads, kv_heads)
    _needs(p.b_q is not None or p.b_k is not None or p.b_v is not None)
    p = p._replace(b_q=None, b_k=None, b_v=None)
    return multi_head_attention(x_q, x_kv, p, heads=heads, kv_heads=kv_heads, **options)


@variant("mha/second_sequence_ignored", "MHA-CROSS", "multi_head_attention")
def second_sequence_ignored(x_q, x_kv, params, *, mask=None, bias=None, dropout=None, k_positions=None, **options):
    """Keys and values come from the first sequence although a second one is given."""
    _needs(x_kv is not None, mask is None, bias is None, dropout is None)
    _needs(x_kv.shape[-1] == x_q.shape[-1])
    return multi_head_attention(x_q, None, params, **options)


# --- norm and rotation ----------------------------------------------------------------------------------------------


@variant("mha/no_qk_norm", "MHA-QKNORM", "multi_head_attention", seen=["vllm-project/vllm-metal#659"])
def no_qk_norm(x_q, x_kv, params, **options):
    """The gains are there and the norm is skipped."""
    _needs(params.q_norm is not None or params.k_norm is not None)
    options.pop("qk_norm_eps", None)
    return multi_head_attention(x_q, x_kv, params._replace(q_norm=None, k_norm=None), **options)


@variant(
    "mha/qk_norm_over_width", "MHA-QKNORM", "multi_head_attention", seen=["OLMo 2 (with gains of the whole width)"]
)
def qk_norm_over_width(x_q, x_kv, params, *, heads, kv_heads=None, **options):
    """With gains of one head's size, the mean square is taken over all heads together."""
    kv_heads = kv_heads or heads
    p = _unpacked(params, heads, kv_heads)
    wide = {}
    for name, gain, width, count in (
        ("q_norm", p.q_norm, p.w_q.shape[1], heads),
        ("k_norm", p.k_norm, p.w_k.shape[1], kv_heads),
    ):
        if gain is not None and gain.shape[0] != width:
            wide[name] = np.tile(gain, count)
    _needs(wide)
    return multi_head_attention(x_q, x_kv, p._replace(**wide), heads=heads, kv_heads=kv_heads, **options)


def _after_projection(change):
    """Multi-head attention without norms in which `change(x, gain, rotate)` prepares queries and keys as heads."""

    def call(x_q, x_kv, params, *, rope=None, qk_norm_eps=1e-6, **options):
        _needs(params.q_norm is not None or params.k_norm is not None)
        gains = iter((params.q_norm, params.k_norm))  # rope is called for the queries, then for the keys

        def prepare(x, positions):
            rotate = (lambda y: y) if rope is None else (lambda y: rope(y, positions))
            return change(x, next(gains), rotate, qk_norm_eps)

        return multi_head_attention(x_q, x_kv, params._replace(q_norm=None, k_norm=None), rope=prepare, **options)

    return call


@variant("mha/qk_norm_by_head", "MHA-QKNORM", "multi_head_attention", seen=["vllm-project/vllm-metal#691"])
def qk_norm_by_head(*args, **kwargs):
    """With gains of the whole width, the mean square is taken over each head by itself."""

    def change(x, gain, rotate, eps):
        if gain is None:
            return rotate(x)
        heads, _, size = x.shape[-3:]
        _needs(heads > 1, gain.shape[0] == heads * size)
        return rotate(rms_norm(x, np.ones(size), eps=eps) * gain.reshape(heads, 1, size))

    return _after_projection(change)(*args, **kwargs)


@variant("mha/qk_norm_before_bias", "MHA-QKNORM", "multi_head_attention")
def qk_norm_before_bias(x_q, x_kv, params, *, heads, kv_heads=None, qk_norm_eps=1e-6, rope=None, **options):
    """The projection is normalised before its bias is added."""
    p = _unpacked(params, heads, kv_heads)
    _needs(p.q_norm is not None, p.k_norm is not None, p.b_q is not None, p.b_k is not None)
    _needs(p.q_norm.shape[0] * heads == p.w_q.shape[1], p.k_norm.shape[0] * (kv_heads or heads) == p.w_k.shape[1])
    parts = iter(((p.q_norm, p.b_q, heads), (p.k_norm, p.b_k, kv_heads or heads)))

    def prepare(x, positions):
        gain, bias, count = next(parts)
        x = rms_norm(x, gain, eps=qk_norm_eps) + bias.reshape(count, 1, -1)
        return x if rope is None else rope(x, positions)

    p = p._replace(q_norm=None, k_norm=None, b_q=None, b_k=None)
    return multi_head_attention(x_q, x_kv, p, heads=heads, kv_heads=kv_heads, rope=prepare, **options)


@variant(
    "mha/rope_before_norm",
    "MHA-ROPE",
    "multi_head_attention",
    seen=[
        "transformers hunyuan_v1_dense",
        "vllm-project/vllm-metal#660",
        "karpathy/nanochat#743 (without gains the same)",
    ],
)
def rope_before_norm(*args, **kwargs):
    """Queries and keys are rotated before they are normalised, so that the gains meet rotated features."""
    _needs(kwargs.get("rope") is not None)

    def change(x, gain, rotate, eps):
        if gain is None:
            return rotate(x)
        _needs(gain.shape[0] == x.shape[-1])
        return rms_norm(rotate(x), gain, eps=eps)

    return _after_projection(change)(*args, **kwargs)


def _rotating(change):
    """Multi-head attention whose rotation is `change(rope, x, positions)`."""

    def call(x_q, x_kv, params, *, rope=None, **options):
        _needs(rope is not None)
        return multi_head_attention(x_q, x_kv, params, rope=lambda x, positions: change(rope, x, positions), **options)

    return call


@variant("mha/rope_ignored", "MHA-ROPE", "multi_head_attention")
def rope_ignored(*args, **kwargs):
    """Queries and keys are not rotated."""
    return _rotating(lambda rope, x, positions: x)(*args, **kwargs)


@variant("mha/rope_counts_from_zero", "MHA-ROPE", "multi_head_attention", seen=["unslothai/unsloth#4078"])
def rope_counts_from_zero(*args, **kwargs):
    """Every sequence is rotated as if it began at position 0, queries and keys alike."""
    return _rotating(lambda rope, x, positions: rope(x, np.arange(x.shape[-2])))(*args, **kwargs)


@variant("mha/rope_over_heads", "MHA-ROPE", "multi_head_attention", seen=["mlfoundations/open_lm#4"])
def rope_over_heads(*args, **kwargs):
    """The rotation takes the axis of heads for that of tokens: head h is rotated by position h."""

    def change(rope, x, positions):
        return np.swapaxes(rope(np.swapaxes(x, -3, -2), np.arange(x.shape[-3])), -3, -2)

    return _rotating(change)(*args, **kwargs)


@variant("mha/positions_ignored", "MHA-OPTIONS", "multi_head_attention", seen=["Lightning-AI/litgpt#2182"])
def project_positions_ignored(x_q, x_kv, params, *, q_positions=None, k_positions=None, **options):
    """Positions that were given are ignored: keys count from 0, queries are the last."""
    _needs(q_positions is not None or k_positions is not None)
    return multi_head_attention(x_q, x_kv, params, **options)
