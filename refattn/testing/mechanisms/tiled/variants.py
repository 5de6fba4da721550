"""Variants of tiled, split and packed attention: one plain evaluation of each, with steps that can be replaced."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from refattn import masks
from refattn.attention import attention, attention_stages
from refattn.gradients import attention_vjp, grouped_query_attention_vjp
from refattn.softmax import merge
from refattn.testing.mechanisms.masks.variants import replaced
from refattn.testing.registry import NotApplicable, variant
from refattn.tiled import attention_io
from refattn.tiled.io_model import IOCounts
from refattn.tiled.problem import K_TILE, Q_TILE

_LN2 = math.log(2.0)


def _needs(*conditions):
    if not all(conditions):
        raise NotApplicable


def repeated(q, k, v):
    """k and v with a head for each query head."""
    if min(q.ndim, k.ndim) > 2 and k.shape[-3] not in (1, q.shape[-3]):
        k, v = (np.repeat(x, q.shape[-3] // k.shape[-3], axis=-3) for x in (k, v))
    return k, v


def as_arrays(q, k, *, bias=None, dropout=None, q_positions=None, k_positions=None, **options):
    """The options of `attention`, with functions of positions and rules as arrays."""
    i, j = masks.positions_of(q.shape[-2], k.shape[-2], q_positions, k_positions, like=q)

    def table(x):
        x = x.admits if isinstance(x, masks.Mask) else x
        return x(i[..., :, None], j[..., None, :]) if callable(x) else x

    if dropout is not None:
        options["dropout"] = (table(dropout[0]), dropout[1])
    if bias is not None:
        options["bias"] = np.asarray(table(bias), dtype=np.float64)
    return {"q_positions": q_positions, "k_positions": k_positions, **options}


# --- tiles ----------------------------------------------------------------------------------------------------------


def online(
    q, k, v, mask=None, *, sinks=None, dropout=None, return_lse=False, q_tile=None, k_tile=None,
    start=-math.inf, guard=True, rescale_sum=np.multiply, rescale_out=np.multiply, cut=lambda keys, tile: keys,
    after_tile=lambda out, total: out, seen=lambda stages, q_tile, k_tile: stages.mask, **options,
):  # fmt: skip
    """Online softmax over tiles of keys in float64; without replacements it is the reference on finite values."""
    k, v = repeated(q, k, v)
    options = as_arrays(q, k, dropout=dropout, **options)
    keep, rate = options.pop("dropout", (True, 0.0))
    q_tile, k_tile, m = q_tile or Q_TILE, k_tile or K_TILE, k.shape[-2]
    with np.errstate(all="ignore"):
        s = seen(attention_stages(q, k, v, mask, **options), q_tile, k_tile)
        keep = np.broadcast_to(keep, np.broadcast_shapes(s.shape, np.shape(keep)))
        values = np.where(np.isfinite(v), v, 0.0)
        peak, total = np.full((*s.shape[:-1], 1), start), np.zeros((*s.shape[:-1], 1))
        out = np.zeros(v.shape[-1])
        for first in range(0, m, k_tile):
            keys = cut(np.arange(first, min(first + k_tile, m)), k_tile)
            part = s[..., keys]
            higher = np.maximum(peak, part.max(axis=-1, keepdims=True, initial=-math.inf))
            shift = np.where(np.isneginf(higher), 0.0, higher) if guard else higher
            p, shrink = np.exp(part - shift), np.exp(peak - shift)
            total = rescale_sum(total, shrink) + p.sum(axis=-1, keepdims=True)
            out = rescale_out(out, shrink) + np.where(keep[..., keys], p, 0.0) @ values[..., keys, :]
            out, peak = after_tile(out, total), higher
        lse = np.log(total) + np.where(np.isneginf(peak), 0.0, peak)
        out = out / np.where(total == 0, 1.0, total) / (1.0 - rate)
        if sinks is not None:
            out = out * _share(lse, np.asarray(sinks)[..., None, None])
    return (out, lse[..., 0]) if return_lse else out


def _share(lse, sinks):
    return np.where(np.isneginf(lse), 0.0, 1.0 / (1.0 + np.exp(sinks - lse)))


def _kept(sums, shrink):
    """What was summed up, not rescaled."""
    return sums * np.ones_like(shrink)


def _lost(sums, shrink):
    """What was summed up before, forgotten."""
    return np.zeros_like(sums * shrink)


def _variant(name, clause, meaning, seen=(), **steps):
    """A variant of tiled attention that replaces steps of the evaluation."""

    def call(*args, **options):
        return online(*args, **{**options, **steps})

    call.__doc__ = meaning
    variant(name, clause, "tiled_attention", seen=seen)(call)


_variant(
    "tile/rescale_missing", "TILED-RESCALE",
    "Neither sum is rescaled when a tile raises the maximum.",
    rescale_sum=_kept, rescale_out=_kept,
)  # fmt: skip
_variant(
    "tile/output_not_rescaled", "TILED-RESCALE",
    "The sum of values is not rescaled when a tile raises the maximum, the sum of weights is.",
    rescale_out=_kept,
)  # fmt: skip
_variant(
    "tile/sum_not_rescaled", "TILED-RESCALE",
    "The sum of weights is not rescaled when a tile raises the maximum, the sum of values is.",
    rescale_sum=_kept,
)  # fmt: skip
_variant(
    "tile/sum_of_last", "TILED-RESCALE",
    "The sum of weights is that of the last tile alone.",
    rescale_sum=_lost,
)  # fmt: skip
_variant(
    "tile/divided_each_time", "TILED-RESCALE",
    "The output is divided by the sum after every tile, as FlashAttention 1 does, and not multiplied back.",
    after_tile=lambda out, total: out / np.where(total == 0, 1.0, total),
)  # fmt: skip
_variant(
    "tile/peak_from_zero", "TILED-RESCALE",
    "The running maximum starts at 0: rows whose scores all lie far below come out as zeros.",
    seen=["bytedance/lightseq#74"], start=0.0,
)  # fmt: skip
_variant(
    "tile/peak_from_minus_5e4", "TILED-RESCALE",
    "The running maximum starts at -5e4: scores far below are lost.",
    seen=["flashinfer-ai/flashinfer#4401", "flashinfer-ai/flashinfer#4452"], start=-5e4,
)  # fmt: skip
_variant(
    "tile/no_guard", "TILED-RESCALE",
    "A row that has seen no key yet computes -infinity minus -infinity: NaN.",
    guard=False,
)  # fmt: skip
_variant(
    "tile/last_dropped", "TILED-EQUAL",
    "Keys that do not fill a tile are left out.",
    cut=lambda keys, tile: keys if len(keys) == tile else keys[:0],
)  # fmt: skip
_variant(
    "tile/overlap", "TILED-EQUAL",
    "The last tile is moved back to be full: the keys in which it overlaps the one before count twice.",
    cut=lambda keys, tile: np.arange(max(keys[-1] + 1 - tile, 0), keys[-1] + 1),
)  # fmt: skip


def _tiles(s, q_tile, k_tile):
    """For every pair the first and last query and the first and last key of its tile, and how far queries are on."""
    n, m = s.shape[-2:]
    i, j = np.arange(n)[:, None] // q_tile * q_tile, np.arange(m) // k_tile * k_tile
    return i, np.minimum(i + q_tile, n) - 1, j, np.minimum(j + k_tile, m) - 1, m - n


@variant("tile/skipped_from_top_left", "TILED-SKIP", "tiled_attention", seen=["gittensor-ai-lab/sparkinfer#3"])
def skipped_from_top_left(q, k, v, mask=None, **options):
    """Causal tiles are skipped as if query i sat at position i: with a cache, later keys are never reached."""
    _needs(isinstance(mask, masks.Mask), options.get("q_positions") is None, q.shape[-2] != k.shape[-2])
    replaced(mask, "causal", masks.causal)

    def seen(stages, q_tile, k_tile):
        _, last_query, first_key, _, _ = _tiles(stages.mask, q_tile, k_tile)
        return np.where(first_key > last_query, -np.inf, stages.mask)

    return online(q, k, v, mask, seen=seen, **options)


@variant("tile/diagonal_taken_as_full", "TILED-SKIP", "tiled_attention", seen=["pytorch/pytorch#141126"])
def diagonal_taken_as_full(q, k, v, mask=None, **options):
    """A tile that the causal mask cuts is taken without the mask if its last query may attend to all of it."""
    _needs(isinstance(mask, masks.Mask), options.get("q_positions") is None)
    replaced(mask, "causal", masks.causal)

    def seen(stages, q_tile, k_tile):
        _, last_query, _, last_key, offset = _tiles(stages.mask, q_tile, k_tile)
        return np.where(last_key <= last_query + offset, stages.bias, stages.mask)

    return online(q, k, v, mask, seen=seen, **options)


@variant("tile/skipped_by_first_row", "TILED-SKIP", "tiled_attention")
def skipped_by_first_row(q, k, v, mask=None, **options):
    """A tile is skipped where its first query may attend to nothing in it."""
    _needs(mask is not None)

    def seen(stages, q_tile, k_tile):
        visible = ~np.isneginf(stages.mask)
        starts = np.arange(0, visible.shape[-1], k_tile)
        any_key = np.logical_or.reduceat(visible, starts, axis=-1)[..., ::q_tile, :]
        kept = np.repeat(np.repeat(any_key, q_tile, axis=-2), k_tile, axis=-1)
        return np.where(kept[..., : visible.shape[-2], : visible.shape[-1]], stages.mask, -np.inf)

    _needs(q.shape[-2], k.shape[-2])
    return online(q, k, v, mask, seen=seen, **options)


@variant("tile/positions_from_tile", "TILED-FUNCTION", "tiled_attention")
def positions_from_tile(q, k, v, mask=None, *, dropout=None, k_tile=None, **options):
    """A function of positions is asked with positions that count anew in every tile of keys."""
    _needs(dropout is not None, isinstance((dropout or (None,))[0], masks.Mask), options.get("k_positions") is None)
    tile = k_tile or K_TILE
    i, j = masks.positions_of(q.shape[-2], k.shape[-2], like=q)
    keep = dropout[0].block(i, j % tile)
    return online(q, k, v, mask, dropout=(keep, dropout[1]), k_tile=k_tile, **options)


@variant("tile/interleaved_groups", "TILED-GROUP", "tiled_attention", seen=["onnx/onnx#7274"])
def interleaved_groups(q, k, v, mask=None, **options):
    """Query head h reads key/value head h modulo G."""
    _needs(min(q.ndim, k.ndim) > 2)
    heads, kv_heads = q.shape[-3], k.shape[-3]
    _needs(kv_heads not in (1, heads))
    k, v = (np.take(x, np.arange(heads) % kv_heads, axis=-3) for x in (k, v))
    return online(q, k, v, mask, **options)


# --- parts ------------------------------------------------------------------------------------------------------------


def _edges(splits, m):
    return [0, *splits, m] if isinstance(splits, list | tuple) else [m * n // splits for n in range(splits + 1)]


def _cut(x, start, stop):
    return x if x is None or np.ndim(x) == 0 or x.shape[-1] == 1 else x[..., start:stop]


def in_parts(
    q, k, v, mask=None, *, splits, tree=None, sinks=None, return_lse=False, q_tile=None, k_tile=None,
    q_positions=None, k_positions=None, merged=merge, part=lambda out, lse: (out, lse), sink_in_parts=False,
    number_of_parts=lambda n: n, positions=lambda own: own, **options,
):  # fmt: skip
    """Attention over parts and their merge in float64, one after the other; without replacements the reference."""
    k, v = repeated(q, k, v)
    options = as_arrays(q, k, q_positions=q_positions, k_positions=k_positions, **options)
    i, j = masks.positions_of(q.shape[-2], k.shape[-2], options.pop("q_positions"), options.pop("k_positions"), like=q)
    found = []
    with np.errstate(all="ignore"):
        for start, stop in pairwise(_edges(splits, k.shape[-2])):
            own = {name: _cut(x, start, stop) if name == "bias" else x for name, x in options.items()}
            if "dropout" in own:
                own["dropout"] = (_cut(own["dropout"][0], start, stop), own["dropout"][1])
            visible = mask
            if isinstance(mask, masks.Mask):
                visible = mask.block(i, positions(j[..., start:stop]))
            elif mask is not None:
                visible = _cut(mask, start, stop)
            inside = {"sinks": sinks} if sink_in_parts else {}
            out, lse = attention(
                q, k[..., start:stop, :], v[..., start:stop, :], visible, return_lse=True, **own, **inside
            )
            found.append(part(out, lse))
        found = found[: number_of_parts(len(found))]
        out, lse = found[0]
        for other in found[1:]:
            out, lse = merged(out, lse, *other)
        if sinks is not None and not sink_in_parts:
            out = out * _share(lse[..., None], np.asarray(sinks)[..., None, None])
    return (out, lse) if return_lse else out


def _split_variant(name, clause, meaning, seen=(), needs=lambda options: True, **steps):
    def call(*args, **options):
        _needs(needs(options))
        return in_parts(*args, **{**options, **steps})

    call.__doc__ = meaning
    variant(name, clause, "split_attention", seen=seen)(call)


def _mean(out_a, lse_a, out_b, lse_b):
    return (out_a + out_b) / 2, np.logaddexp(lse_a, lse_b)


def _base_2(out_a, lse_a, out_b, lse_b):
    out, lse = merge(out_a, lse_a / _LN2, out_b, lse_b / _LN2)
    return out, lse * _LN2


def _unguarded(out_a, lse_a, out_b, lse_b):
    peak = np.maximum(lse_a, lse_b)
    a, b = np.exp(lse_a - peak), np.exp(lse_b - peak)
    return (a[..., None] * out_a + b[..., None] * out_b) / (a + b)[..., None], np.log(a + b) + peak


def _unshifted(out_a, lse_a, out_b, lse_b):
    a, b = (np.exp(x.astype(np.float32)).astype(np.float64) for x in (lse_a, lse_b))
    return (a[..., None] * out_a + b[..., None] * out_b) / (a + b)[..., None], np.log(a + b)


_split_variant(
    "split/averaged", "SPLIT-MERGE",
    "The outputs of two parts are averaged, whatever their log-sum-exps.",
    merged=_mean,
)  # fmt: skip
_split_variant(
    "split/lse_base_2", "SPLIT-MERGE",
    "Parts give their log-sum-exp to base 2 and are merged as if it were natural.",
    seen=["sgl-project/sglang#35045", "meta-pytorch/attention-gym#205"], merged=_base_2,
)  # fmt: skip
_split_variant(
    "split/two_empties_nan", "SPLIT-MERGE",
    "Two parts without keys merge to NaN: -infinity minus -infinity.",
    seen=["flashinfer-ai/flashinfer#4051", "flashinfer-ai/flashinfer#5262"], merged=_unguarded,
)  # fmt: skip
_split_variant(
    "split/empty_part_plus_infinity", "SPLIT-MERGE",
    "A part without keys has log-sum-exp +infinity and takes all the weight.",
    seen=["Dao-AILab/flash-attention#978"], part=lambda out, lse: (out, np.where(np.isneginf(lse), np.inf, lse)),
)  # fmt: skip
_split_variant(
    "split/empty_part_finite", "SPLIT-MERGE",
    "A part without keys has log-sum-exp 0 and takes weight.",
    part=lambda out, lse: (out, np.where(np.isneginf(lse), 0.0, lse)),
)  # fmt: skip
_split_variant(
    "split/merge_without_shift", "SPLIT-MERGE",
    "Parts are merged by the exponentials of their log-sum-exps, which overflow.",
    merged=_unshifted,
)  # fmt: skip
_split_variant(
    "split/last_part_lost", "SPLIT-MERGE",
    "The last part is not merged.",
    number_of_parts=lambda n: max(1, n - 1),
)  # fmt: skip
_split_variant(
    "split/lse_of_last_merge", "SPLIT-TREE",
    "After a merge the log-sum-exp is that of the newer part alone, so that a third part is weighed wrongly.",
    merged=lambda out_a, lse_a, out_b, lse_b: (merge(out_a, lse_a, out_b, lse_b)[0], lse_b),
)  # fmt: skip
_split_variant(
    "split/positions_count_anew", "SPLIT-MERGE",
    "Every part takes its first key to be at position 0.",
    positions=lambda own: np.arange(own.shape[-1]),
)  # fmt: skip
_split_variant(
    "split/sink_in_every_part", "SPLIT-SINK",
    "The sink enters in every part.",
    sink_in_parts=True, needs=lambda options: options.get("sinks") is not None,
)  # fmt: skip


# --- packed sequences -------------------------------------------------------------------------------------------------


def one_by_one(
    q, k, v, q_offsets, k_offsets=None, mask=None, *, bias=None, return_lse=False, q_tile=None, k_tile=None,
    lengths=lambda spans: spans, visible=lambda mask, n, m, start, first: masks.visible(mask, n, m, like=np.empty(0)),
    alone=attention, **options,
):  # fmt: skip
    """Every sequence for itself in float64; without replacements it is the reference."""
    k, v = repeated(q, k, v)
    _needs(bias is None)
    k_offsets = q_offsets if k_offsets is None else k_offsets
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    out, lse = np.zeros((*lead, q.shape[-2], v.shape[-1])), np.full((*lead, q.shape[-2]), -np.inf)
    for (start, stop), (first, last) in lengths(list(zip(pairwise(q_offsets), pairwise(k_offsets), strict=True))):
        own, seen = slice(start, stop), slice(first, last)
        allowed = visible(mask, stop - start, len(k[..., seen, 0].T), start, first) if mask is not None else None
        with np.errstate(all="ignore"):
            out[..., own, :], lse[..., own] = alone(
                q[..., own, :], k[..., seen, :], v[..., seen, :], allowed, return_lse=True, **options
            )
    return (out, lse) if return_lse else out


def _packed_variant(name, clause, meaning, seen=(), needs=lambda options: True, **steps):
    def call(*args, **options):
        _needs(needs(options))
        return one_by_one(*args, **{**options, **steps})

    call.__doc__ = meaning
    variant(name, clause, "packed_attention", seen=seen)(call)


def _first_only(spans):
    (_, stop), (_, last) = spans[0]
    return [((0, stop), (0, last)), ((stop, spans[-1][0][1]), (last, spans[-1][1][1]))]


def _longest(spans):
    """Every sequence reads as many keys as the longest has."""
    longest = max(last - first for _, (first, last) in spans)
    return [(own, (first, first + longest)) for own, (first, _) in spans]


def _one_key_late(spans):
    return [(own, (min(first + 1, last), last + 1)) for own, (first, last) in spans]


def _nan_if_empty(*args, **options):
    out, lse = attention(*args, **options)
    return np.where(np.isneginf(lse)[..., None], np.nan, out), np.where(np.isneginf(lse), np.nan, lse)


def _at(shift):
    """The mask with queries and keys at other positions."""

    def visible(mask, n, m, start, first):
        i, j = shift(n, m, start, first)
        return mask.block(i, j)

    return visible


_packed_variant(
    "packed/offsets_ignored", "PACKED-ALONE",
    "The offsets are ignored: all tokens are one sequence.",
    seen=["Tencent-Hunyuan/HunyuanVideo#310", "fla-org/flash-linear-attention#842"],
    lengths=lambda spans: [((0, spans[-1][0][1]), (0, spans[-1][1][1]))],
)  # fmt: skip
_packed_variant(
    "packed/first_boundary_only", "PACKED-ALONE",
    "Only the first boundary counts: the rest is one sequence.",
    seen=["Tencent-Hunyuan/HunyuanVideo#310"], lengths=_first_only,
)  # fmt: skip
_packed_variant(
    "packed/longest_for_all", "PACKED-ALONE",
    "Every sequence reads as many keys as the longest has, those of the next ones.",
    lengths=_longest,
)  # fmt: skip
_packed_variant(
    "packed/one_key_late", "PACKED-ALONE",
    "The offsets of the keys are off by one.",
    lengths=_one_key_late,
)  # fmt: skip
_packed_variant(
    "packed/last_sequence_lost", "PACKED-ALONE",
    "As many sequences as there are offsets, less two.",
    lengths=lambda spans: spans[:-1],
)  # fmt: skip
_packed_variant(
    "packed/positions_continue", "PACKED-POSITIONS",
    "Positions count on through the pack, queries and keys each for themselves.",
    visible=_at(lambda n, m, start, first: (np.arange(start, start + n), np.arange(first, first + m))),
)  # fmt: skip
_packed_variant(
    "packed/top_left", "PACKED-POSITIONS",
    "Query i of a sequence sits at its position i: causality starts at the top left.",
    seen=["FlashAttention 2.0 (varlen)"],
    visible=_at(lambda n, m, start, first: (np.arange(n), np.arange(m))),
)  # fmt: skip
_packed_variant(
    "packed/empty_is_nan", "PACKED-EMPTY",
    "Queries of a sequence without keys come out as NaN.",
    seen=["pytorch/pytorch#81077"], alone=_nan_if_empty,
)  # fmt: skip


@variant("packed/tail_joins_the_last", "PACKED-TAIL", "packed_attention", seen=["Dao-AILab/flash-attention#1661"])
def tail_joins_the_last(q, k, v, q_offsets, k_offsets=None, mask=None, **options):
    """Tokens beyond the last offset belong to the last sequence."""
    k_offsets = q_offsets if k_offsets is None else k_offsets
    _needs(len(q_offsets) > 1)
    return one_by_one(
        q, k, v, [*q_offsets[:-1], q.shape[-2]], [*k_offsets[:-1], k.shape[-2]], mask, **options
    )  # fmt: skip


@variant("packed/offsets_of_queries_for_keys", "PACKED-ALONE", "packed_attention")
def offsets_of_queries_for_keys(q, k, v, q_offsets, k_offsets=None, mask=None, **options):
    """The offsets of the queries are used for the keys too."""
    _needs(k_offsets is not None)
    return one_by_one(q, k, v, q_offsets, q_offsets, mask, **options)


# --- gradients --------------------------------------------------------------------------------------------------------


def gradients(d_out, q, k, v, mask=None, *, out=None, lse=None, q_tile=None, k_tile=None, **options):
    """The gradients from all weights at once."""
    grouped = min(q.ndim, k.ndim) > 2 and k.shape[-3] not in (1, q.shape[-3])
    options = as_arrays(q, k, **options)
    with np.errstate(all="ignore"):
        return (grouped_query_attention_vjp if grouped else attention_vjp)(d_out, q, k, v, mask, **options)


def _rows_only(rows, d_out, d_lse):
    """Cotangents that are 0 but for some queries: keys and values then get what these give."""
    chosen = np.zeros(d_out.shape[-2], dtype=bool)
    chosen[rows] = True
    return np.where(chosen[:, None], d_out, 0.0), None if d_lse is None else np.where(chosen, d_lse, 0.0)


def _last(count, tile):
    """The entries of the last tile, of more than one."""
    start = (count - 1) // tile * tile
    _needs(start > 0)
    return slice(start, count)


@variant("gradient/keys_from_last_tile", "TILED-GRADIENT", "tiled_attention_vjp")
def keys_from_last_tile(d_out, q, k, v, mask=None, *, d_lse=None, q_tile=None, **options):
    """The gradients of keys and values hold what the last tile of queries gives: every tile overwrites them."""
    found = gradients(d_out, q, k, v, mask, d_lse=d_lse, **options)
    d_out, d_lse = _rows_only(_last(q.shape[-2], q_tile or Q_TILE), d_out, d_lse)
    part = gradients(d_out, q, k, v, mask, d_lse=d_lse, **options)
    return found._replace(k=part.k, v=part.v)


@variant("gradient/queries_from_last_tile", "TILED-GRADIENT", "tiled_attention_vjp")
def queries_from_last_tile(d_out, q, k, v, mask=None, *, k_tile=None, bias=None, **options):
    """The gradient of the queries holds what the last tile of keys gives: every tile overwrites it."""
    _needs(options.get("softcap") is None)
    keys = _last(k.shape[-2], k_tile or K_TILE)
    whole, _ = repeated(q, k, v)
    pairs = np.zeros((*np.broadcast_shapes(q.shape[:-2], whole.shape[:-2]), q.shape[-2], k.shape[-2]))
    d_s = gradients(d_out, q, k, v, mask, bias=pairs if bias is None else pairs + bias, **options).bias
    scale = 1.0 / math.sqrt(q.shape[-1]) if options.get("scale") is None else options["scale"]
    found = gradients(d_out, q, k, v, mask, bias=bias, **options)
    d_q = scale * d_s[..., keys] @ whole[..., keys, :]
    _needs(d_q.shape == q.shape)
    return found._replace(q=d_q)


@variant("gradient/tail_of_keys_lost", "TILED-GRADIENT", "tiled_attention_vjp", seen=["Dao-AILab/flash-attention#2896"])
def tail_of_keys_lost(d_out, q, k, v, mask=None, *, k_tile=None, **options):
    """Keys and values that do not fill a tile have gradient 0."""
    m, tile = k.shape[-2], k_tile or K_TILE
    _needs(m % tile)
    found = gradients(d_out, q, k, v, mask, **options)
    full = (np.arange(m) < m - m % tile)[:, None]
    return found._replace(k=np.where(full, found.k, 0.0), v=np.where(full, found.v, 0.0))


@variant("gradient/group_not_summed", "TILED-GRADIENT", "tiled_attention_vjp")
def group_not_summed(d_out, q, k, v, mask=None, **options):
    """Keys and values get the gradient of the last query head that reads them, not of all."""
    _needs(min(q.ndim, k.ndim) > 2, options.get("d_lse") is None)
    heads, kv_heads = q.shape[-3], k.shape[-3]
    _needs(kv_heads < heads)
    found = gradients(d_out, q, k, v, mask, **options)
    chosen = (np.arange(heads) % (heads // kv_heads) == heads // kv_heads - 1)[:, None, None]
    part = gradients(np.where(chosen, d_out, 0.0), q, k, v, mask, **options)
    return found._replace(k=part.k, v=part.v)


@variant("gradient/delta_without_share", "TILED-GRADIENT", "tiled_attention_vjp")
def delta_without_share(d_out, q, k, v, mask=None, *, sinks=None, **options):
    """The scores' gradient leaves out what all keys of a row share, the product of output and its cotangent."""
    _needs(sinks is None)
    options = as_arrays(q, k, **options)
    plain = options.get("d_lse")
    own_k, own_v = repeated(q, k, v)
    out = attention(q, own_k, own_v, mask, **{n: x for n, x in options.items() if n not in _ONLY_BACKWARD})
    delta = np.sum(d_out * out, axis=-1)
    _needs(delta.shape == out.shape[:-1])
    return gradients(d_out, q, k, v, mask, **{**options, "d_lse": delta if plain is None else plain + delta})


_ONLY_BACKWARD = ("d_lse", "out", "lse", "q_tile", "k_tile")


# --- what is moved ----------------------------------------------------------------------------------------------------


def _counted(name, clause, meaning, order, count):
    def call(n, m, d, fast_memory, *, order="queries_outside", _only=order):
        _needs(order == _only)
        return count(attention_io(n, m, d, fast_memory, order=order), n, m, d, fast_memory)

    call.__doc__ = meaning
    variant(name, clause, "attention_io")(call)


_counted(
    "io/weights_stay", "IO-STANDARD",
    "Scores are written and read, weights are not: softmax in place of memory.",
    "standard", lambda c, n, m, d, s: c._replace(loads=c.loads - n * m, stores=c.stores - n * m),
)  # fmt: skip
_counted(
    "io/output_stays", "IO-KEYS-OUTSIDE",
    "The output is written once, although it comes and goes with every tile of keys.",
    "keys_outside", lambda c, n, m, d, s: c._replace(stores=n * (d + 2)),
)  # fmt: skip
_counted(
    "io/keys_once", "IO-QUERIES-OUTSIDE",
    "Keys and values are read once, whatever the number of tiles of queries.",
    "queries_outside", lambda c, n, m, d, s: c._replace(loads=n * d + 2 * m * d),
)  # fmt: skip
_counted(
    "io/tiles_rounded_down", "IO-TILES",
    "The fast memory is divided by 4D and rounded down.",
    "queries_outside",
    lambda c, n, m, d, s: IOCounts(
        n * d + -(-n // min(s // (4 * d), d)) * 2 * m * d, c.stores, min(s // (4 * d), d), s // (4 * d)
    ),
)  # fmt: skip
