"""A bound moves on purpose only: a factor that is a little too large passes every correct kernel, and many a wrong one.

python tests/testing/test_bounds_pinned.py      writes bounds_pinned.json anew; its diff says which bounds have moved
"""

import json
from pathlib import Path

import numpy as np
import pytest

from refattn import FeedForwardParams, GatedFeedForwardParams, masks
from refattn.testing.bounds import bound
from refattn.testing.equals import bounded_as
from refattn.testing.inputs import Draw, Seeded
from refattn.testing.subject import load, subjects

PINNED = Path(__file__).with_name("bounds_pinned.json")
PRECISIONS = ("float32", "tf32", "bfloat16", "float8", "float16/eager")
ACTIVATIONS = ("gelu", "quick_gelu", "relu", "sigmoid", "silu", "softplus", "squared_relu", "tanh")
N, M, D, DV, E, F = 4, 70, 6, 2, 4, 5  # more keys than a tile of 64


def _calls():
    """(function, arguments): ordinary numbers, then what underflows, then each option by itself."""
    draw = np.random.default_rng(7)
    normal = lambda *shape: draw.normal(size=shape)
    q, k, v = normal(3, 2, N, D), normal(3, 2, M, D), normal(3, 2, M, DV)
    qkv, small = {"q": q, "k": k, "v": v}, {"q": q, "k": k, "v": 2.0**-110 * v}
    sharp, flat = ({"q": factor * q, "k": k, "v": v} for factor in (40, 1e-3))
    hidden = {"q": q, "k": k, "v": np.where(np.arange(M)[:, None] == 3, np.inf, v)}
    strange = {"q": np.where(np.arange(D) == 1, np.inf, q), "k": k, "v": v}
    bias, draws = normal(2, N, M), draw.random((3, 2, N, M)) > 0.3
    bias[..., 5] = -np.inf
    options = [{}, {"bias": bias}, {"softcap": 2.0}, {"sinks": normal(2)}, {"scale": 3.0}, {"mask": masks.causal()}]
    dropped = [{"dropout": (draws, 0.25)}, {"dropout": (draws, 0.25), "bias": bias, "sinks": normal(2)}]
    yield from (("attention", {**qkv, **o, "return_lse": True}) for o in (*options, *dropped))
    signs = np.where(np.arange(D) % 2, 1.0, -1.0)  # scores of 0 with large errors
    opposed = {"q": np.full_like(q, 1e5), "k": signs * np.ones_like(k), "v": v, "softcap": 0.5}
    one, none = {name: x[0, 0] for name, x in qkv.items()}, {"q": q, "k": k[..., :0, :], "v": v[..., :0, :]}
    for x in (
        small,
        sharp,
        {**sharp, "q": 1e5 * q},
        *({**sharp, "q": size * q} for size in (4e5, 1e6)),  # errors of scores of about 1
        {**sharp, "softcap": 0.5},
        flat,
        hidden,
        strange,
        opposed,
        one,
        none,
    ):
        yield "attention", {**x, "return_lse": True}
        yield "attention", {**x, "mask": masks.causal(), "return_lse": True}
    yield from (("attention_weights", {"q": q, "k": k, **o}) for o in (*options, *dropped))
    shared = {"q": q, "k": k[:, :1], "v": v[:, :1]}
    yield from (("grouped_query_attention", {**shared, **o}) for o in options)
    yield from (("tiled_attention", {**qkv, **o, "k_tile": 16}) for o in options)
    yield "split_attention", {**qkv, "splits": 3}
    d_out = {"d_out": normal(3, 2, N, DV)}
    yield from (("attention_vjp", {**d_out, **qkv, **o}) for o in (*options, *dropped))
    yield from (("grouped_query_attention_vjp", {**d_out, **shared, **o}) for o in options)
    yield from (("tiled_attention_vjp", {**d_out, **qkv, **o}) for o in options)

    three = {name: x[0] for name, x in qkv.items()}
    yield "packed_attention", {**three, "q_offsets": [0, 2, N], "k_offsets": [0, 30, 60], "return_lse": True}

    x, seen = normal(3, 7) * np.array([1, 8, 60])[:, None], draw.random((3, 7)) > 0.3
    x[0, 2] = -np.inf
    for where in (None, seen):
        for axis in (-1, 0):
            yield "softmax", {"x": x, "where": where, "axis": axis}
            yield "logsumexp", {"x": x, "where": where, "axis": axis}
    sums = np.array([1.0, -2.0, -np.inf])
    yield "merge", {"out_a": normal(3, 2), "lse_a": normal(3), "out_b": normal(3, 2), "lse_b": sums}

    wide = np.concatenate([normal(20), [0.0, 1e-30, -1e-30, 30.0, -30.0, 90.0, -90.0]])
    yield from ((name, {"x": wide}) for name in ACTIVATIONS)
    yield "gelu", {"x": wide, "approximate": "tanh"}
    rows = normal(2, N, E)
    plain = FeedForwardParams(normal(E, F), normal(F), normal(F, E), normal(E))
    gated = GatedFeedForwardParams(normal(E, F), normal(E, F), normal(F, E))
    for name in (*ACTIVATIONS, "gelu_tanh", "identity"):
        yield "feed_forward", {"x": rows, "params": plain, "activation": name}
        yield "gated_feed_forward", {"x": rows, "params": gated, "activation": name}

        yield "feed_forward", {"x": 1e-38 * rows, "params": plain._replace(b_in=None, b_out=None), "activation": name}

    gain, offset = normal(E), normal(E)
    for x in (rows, 1e-4 * rows, 50 + rows):
        yield "layer_norm", {"x": x, "gamma": gain, "beta": offset}
        yield "layer_norm", {"x": x, "gamma": gain}
        yield "rms_norm", {"x": x, "gamma": gain}
        yield "rms_norm", {"x": x, "gamma": gain, "unit_offset": True}
    yield "layer_norm", {"x": rows, "gamma": normal(N), "axis": -2}

    turned = {"x": normal(2, N, 6), "positions": np.array([0, 3, 40, 5000])}
    yield from (("rope", {**turned, "layout": layout}) for layout in ("interleaved", "half"))
    yield "rope", {**turned, "rotary_dim": 4}
    yield "rope", {**turned, "positions": np.array([0, 7, 1_000_000, 30_000_000])}
    lists = {"indices": np.array([[0, 3, 3, 69], [5, -1, 2, 5], [1, 2, 3, 4], [-1, -1, 9, -1]]), "repeats": "count"}
    for name in sorted(name for name, of in subjects().items() if name.startswith(("sparse.", "entmax")) and of.bound):
        yield from ((name, Draw(Seeded(7, number), "bfloat16").call(subjects()[name])) for number in range(3))
    yield from (("sparse.gather_attention_vjp", {**d_out, **qkv, **lists, **o}) for o in options[:4])
    yield "alibi_slopes", {"heads": 12}
    angles = normal(N, 3)
    for layout in ("interleaved", "half"):
        yield "positions.rotate", {"x": turned["x"], "cos": np.cos(angles), "sin": np.sin(angles), "layout": layout}
    pair = {"cos": np.cos(angles[:, :1]), "sin": np.sin(angles[:, :1])}
    yield "positions.rotate", {"x": turned["x"][..., :2], **pair, "layout": "half"}


def measured():
    """By function and precision, the mean logarithm of each tier of each result, and of how many elements."""
    found = {}
    for function, arguments in _calls():
        for precision in PRECISIONS:
            for result, limits in bound(function, precision, **arguments).items():
                for tier in ("hard", "statistical"):
                    if (limit := getattr(limits, tier)) is not None:
                        key = f"{function} {result}, {precision}, {tier}"
                        found.setdefault(key, []).append(np.ravel(limit))
    return {key: _mean(np.concatenate(limits)) for key, limits in found.items()}


def _mean(limits):
    counted = limits[(limits > 0) & np.isfinite(limits)]
    return [counted.size, round(float(np.mean(np.log2(counted))) if counted.size else 0.0, 9)]


def test_no_bound_moves_unnoticed():
    was, now = json.loads(PINNED.read_text()), measured()
    moved = {key: (was.get(key), now.get(key)) for key in was.keys() | now.keys() if not _same(was, now, key)}
    assert not moved


def _same(was, now, key):
    return key in was and key in now and now[key] == pytest.approx(was[key], abs=2e-8)


def test_every_bound_that_was_derived_by_hand_is_pinned():
    load()
    derived = {name for name, subject in subjects().items() if subject.bound}
    pinned = {function for function, _ in _calls()}
    assert pinned >= derived - {"testing.round_to"}  # which is exact
    assert all(bounded_as(function, "attention") for function in pinned - derived)


if __name__ == "__main__":
    lines = (f" {json.dumps(key)}: {json.dumps(value)}" for key, value in measured().items())
    PINNED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
