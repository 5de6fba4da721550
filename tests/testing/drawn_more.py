"""Random calls of what is built on attention: tiles, parts and packs, decoding through a cache, gradients."""

from itertools import accumulate

import numpy as np

from refattn import masks
from refattn.feedforward import ACTIVATIONS
from refattn.gradients import ACTIVATION_VJPS
from tests.testing import drawn

# --- tiles, parts and packs -----------------------------------------------------------------------------------------


def _tile(d):
    return d.pick(1, 2, 3, 4, 5, 7, 8, 16, 64)


def _tiled(d):
    given = drawn.attention(d, grouped=d.chance(0.4))
    if d.chance(0.15):  # few keys are the exception there and the rule here
        n, m = d.size(2, 9), d.size(10, 40)
        given = {"q": d.normal(2, 3, n, 4), "k": d.normal(2, 3, m, 4), "v": d.normal(2, 3, m, 5)}
        given |= {"mask": d.pick(masks.causal(), masks.causal() & masks.window(d.size(1, 9), 0)), "return_lse": True}
    if d.chance(0.15) and "k_positions" not in given:
        given["dropout"] = (d.pick(masks.strided(3), masks.dilated(9, 9, 2), masks.window(5, 7)), 0.25)
    if d.chance(0.06):  # scores below any finite start of the maximum
        given["bias"] = np.full((given["q"].shape[-2], given["k"].shape[-2]), d.pick(-6e4, -9e4))
    if d.chance(0.5):
        given["q_tile"] = _tile(d)
    if d.chance(0.85):
        given["k_tile"] = _tile(d)
    return given


def _parted(d):
    given = {name: x for name, x in _tiled(d).items() if d.chance(0.5) or name not in ("q_tile", "k_tile")}
    m = given["k"].shape[-2]
    splits = sorted(d.integers(0, m, (d.size(1, 4),)).tolist()) if d.chance(0.5) else d.size(1, 6)
    given |= {"splits": splits, "tree": d.pick("balanced", "sequential")}
    if d.chance(0.1):  # what overflows where nothing is subtracted
        given["bias"] = np.full((given["q"].shape[-2], m), d.pick(200.0, -300.0))
    return given


def _packed(d):
    sequences, own = d.size(1, 5), d.chance(0.3)
    queries = [d.pick(0, d.size(1, 9), d.size(1, 9)) for _ in range(sequences)]
    keys = queries if own else [d.pick(0, d.size(1, 12), d.size(1, 12), d.size(1, 12)) for _ in range(sequences)]
    q_offsets, k_offsets = ([0, *accumulate(lengths)] for lengths in (queries, keys))
    n, m = q_offsets[-1] + d.pick(0, 0, d.size(1, 3)), k_offsets[-1] + d.pick(0, 0, d.size(1, 3))
    g, size = d.size(1, 3), d.size(2, 9)
    h = g * d.size(1, 2)
    lead = d.pick((), (2,))
    given = {
        "q": d.normal(*lead, h, n, size),
        "k": d.normal(*lead, g, m, size),
        "v": d.normal(*lead, g, m, d.size(1, 6)),
    }
    given |= {"q_offsets": q_offsets, "k_offsets": None if own else k_offsets, "return_lse": d.chance(0.5)}
    if own:
        given |= {"k": d.normal(*lead, g, n, size), "v": d.normal(*lead, g, n, 5)}
    rules = None, masks.causal(), masks.causal() & masks.window(d.size(1, 4), 0), masks.window(d.size(1, 3), 2)
    given["mask"] = d.pick(*rules)
    if d.chance(0.3):
        given["scale"] = float(d.pick(0.3, -0.4, 2.0))
    if d.chance(0.3):
        given["softcap"] = float(d.pick(0.7, 4.0))
    if d.chance(0.3):
        given["sinks"] = d.normal(h)
    if d.chance(0.5):
        given |= {"q_tile": _tile(d), "k_tile": _tile(d)}
    return given


def _moved(d):
    return {
        "n": d.size(1, 90), "m": d.size(1, 90), "d": d.size(2, 16), "fast_memory": d.size(64, 700),
        "order": d.pick("standard", "queries_outside", "keys_outside"),
    }  # fmt: skip


# --- gradients ------------------------------------------------------------------------------------------------------


def _with_cotangents(d, given):
    """The arguments of an attention with the cotangents of what it returns."""
    given = {name: x for name, x in given.items() if name != "return_lse"}
    rows = given["q"].shape[:-1]
    given = {"d_out": d.normal(*rows, given["v"].shape[-1]), **given}
    return given | ({"d_lse": d.normal(*rows)} if d.chance(0.4) else {})


def _attention_vjp(d, grouped=False):
    return _with_cotangents(d, drawn.attention(d, grouped))


def _tiled_vjp(d):
    return _with_cotangents(d, _tiled(d))


def _softmax_vjp(d):
    given = drawn._logits(d)
    given["d_out"] = d.normal(*given["x"].shape)
    if "where" in given and d.chance(0.5):
        given["d_out"][~given["where"]] = np.nan
    return given


def _logsumexp_vjp(d):
    given = drawn._logits(d)
    return {**given, "d_out": d.normal(*np.delete(given["x"].shape, given["axis"]))}


def _merge_vjp(d):
    given = drawn._parts(d)
    given["d_out"] = d.normal(*given["out_a"].shape)
    return given | ({"d_lse": d.normal(*given["lse_a"].shape)} if d.chance(0.6) else {})


def _like_x(draw):
    """A draw of a function of x with the cotangent of its result, which is as large."""
    return lambda d: _cotangent_of_x(d, draw(d))


def _cotangent_of_x(d, given):
    return {"d_out": d.normal(*given["x"].shape), **given}


def _line(d):
    given = drawn._line(d)
    given["x"][1, : d.size(1, 5)] = 0.0
    return given


def _linear_vjp(d):
    lead, e, f = d.pick((d.size(2, 4), d.size(2, 5)), (d.size(2, 3), 2, 3), (d.size(2, 7),)), d.size(2, 6), d.size(2, 6)
    given = {"d_out": d.normal(*lead, f), "x": d.normal(*lead, e), "w": d.normal(e, f)}
    return given | ({"b": d.normal(f)} if d.chance(0.6) else {})


def _feed_forward_vjp(d):
    return _cotangent_of_x(d, drawn._feed_forward(d)) | {"activation": str(d.pick(*_DIFFERENTIATED))}


_DIFFERENTIATED = sorted(set(ACTIVATIONS) & set(ACTIVATION_VJPS))


def _multi_head_vjp(d):
    given = drawn.multi_head(d)
    return {"d_out": d.normal(*given["x_q"].shape), **given}


def _chain(d):
    steps = [str(d.pick("silu", "softmax", "tanh", "gelu", "softplus", "sigmoid")) for _ in range(d.size(2, 7))]
    shape = d.size(1, 3), d.size(2, 6)
    return {"d_out": d.normal(*shape), "x": d.normal(*shape), "blocks": steps, "every": d.pick(None, 1, 2, 3, 9)}


# --- caches ---------------------------------------------------------------------------------------------------------


def _events(d, batch, *, drafts, beams):
    """Blocks for `decode` and how many tokens they bring; drafts are taken back, beams reorder the batch."""
    blocks: list = [d.pick(1, d.size(2, 11))]
    there = come = blocks[0]
    for _ in range(d.size(1, 7)):
        if drafts and there > 1 and d.chance(0.35):
            blocks.append(-d.size(1, min(there - 1, 4)))
            there += blocks[-1]
        elif beams and d.chance(0.3):
            blocks.append(d.integers(0, batch - 1, (batch,)).tolist())
        blocks.append(d.pick(1, 1, d.size(2, 6)))
        there, come = there + blocks[-1], come + blocks[-1]
    return blocks, come


def _decode(d):
    cache = str(
        d.pick("contiguous", "rolling", "rolling", "rolling", "sink", "sink", "paged", "paged", "quantized", "cross")
    )
    b, g = d.size(1, 3), d.size(1, 2)
    h, size = g * d.size(1, 2), 2 * d.size(1, 4)
    drafts = d.chance(0.5) and cache in ("contiguous", "rolling", "paged")
    blocks, tokens = _events(d, b, drafts=drafts, beams=b > 1 and cache != "cross" and d.chance(0.5))
    memory = d.size(1, 9) if cache == "cross" else tokens
    group = d.size(1, 3)
    if cache == "quantized":
        size = group * d.pick(2, 4) if d.chance(0.8) else size
    width = group * d.size(1, 3) if cache == "quantized" else d.size(1, 6)
    given = {
        "q": d.normal(b, h, tokens, size, scale=d.pick(1, 2)), "k": d.normal(b, g, memory, size),
        "v": d.normal(b, g, memory, width), "blocks": blocks, "cache": cache,
        **{
            "rolling": {"window": d.size(1, 7)},
            "sink": {"first": d.size(0, 3), "recent": d.size(1, 6), "positions": d.pick("cache", "absolute")},
            "paged": {"page_size": d.size(1, 5)},
            "quantized": {"bits": d.pick(4, 8), "group": group, "residual": group * d.size(1, 3)},
        }.get(cache, {}),
    }  # fmt: skip
    if cache != "cross" and d.chance(0.75):
        given |= {"rope_base": float(d.pick(10.0, 100.0, 10000.0))}
        given |= {"layout": d.pick("half", "interleaved")} if size % 2 == 0 else {}
    if d.chance(0.25):
        given["scale"] = float(d.pick(0.3, 1.0))
    if d.chance(0.25):
        given["softcap"] = float(d.pick(0.7, 4.0))
    if d.chance(0.25):
        given["sinks"] = d.normal(h)
    return given


def _quantize(d):
    axis, group = d.pick(-1, -2, 1), d.size(1, 5)
    shape = [d.size(1, 3), d.size(2, 6), d.size(2, 6)]
    shape[axis] = group * d.size(1, 4)
    return {"x": d.normal(*shape, scale=d.pick(1.0, 30.0)), "bits": d.pick(4, 8), "group": group, "axis": axis}


def _dequantize(d):
    groups, group, n = d.size(1, 3), d.size(1, 4), d.size(1, 5)
    given = {"codes": d.integers(0, 15, (n, groups * group)), "scale": np.abs(d.normal(n, groups))}
    return {**given, "zero": d.normal(n, groups)}


def _bytes(d):
    given = {"tokens": d.size(1, 300), "layers": d.size(1, 4), "kv_heads": d.size(1, 4), "head_dim": 4 * d.size(1, 9)}
    given |= {"value_dim": 4 * d.size(1, 9)} if d.chance(0.6) else {}
    kinds: tuple[dict, ...] = (
        {},
        {"page_size": d.size(1, 9)},
        {"window": d.size(1, 400)},
        {"bits": 4, "group": 4, "residual": 16},
    )
    return given | d.pick(*kinds)


def _tree(d):
    return {"parents": [-1, *(d.size(-1, j - 1) for j in range(1, d.size(2, 9)))], "prefix": d.size(0, 9)}


DRAWN_MORE = {
    "tiled_attention": _tiled,
    "split_attention": _parted,
    "packed_attention": _packed,
    "attention_io": _moved,
    "attention_vjp": _attention_vjp,
    "grouped_query_attention_vjp": lambda d: _attention_vjp(d, grouped=True),
    "tiled_attention_vjp": _tiled_vjp,
    "multi_head_attention_vjp": _multi_head_vjp,
    "softmax_vjp": _softmax_vjp,
    "logsumexp_vjp": _logsumexp_vjp,
    "merge_vjp": _merge_vjp,
    "layer_norm_vjp": _like_x(drawn._normed(True)),
    "rms_norm_vjp": _like_x(drawn._normed(False)),
    "rope_vjp": _like_x(drawn._rope),
    "gradients.rotate_vjp": _like_x(drawn._rotate),
    "gradients.linear_vjp": _linear_vjp,
    "feed_forward_vjp": _feed_forward_vjp,
    "gated_feed_forward_vjp": _like_x(drawn._gated),
    "gradients.checkpoint_vjp": _chain,
    "gelu_vjp": lambda d: {**_cotangent_of_x(d, _line(d)), "approximate": d.pick(None, "tanh")},
    **dict.fromkeys(
        (f"{name}_vjp" for name in ("relu", "quick_gelu", "silu", "squared_relu", "softplus", "sigmoid", "tanh")),
        _like_x(_line),
    ),
    "cache.decode": _decode,
    "cache.quantize": _quantize,
    "cache.dequantize": _dequantize,
    "cache.cache_nbytes": _bytes,
    "cache.tree_positions": _tree,
}
