"""Sparse: time and memory of every sparse mechanism against the number of tokens, and beside dense attention.

One head of size 64, float32, N queries and N keys. Exponents are slopes of a line through log time and log memory over all
sizes: 1 is linear, 2 quadratic. Memory is what a call holds at most beside its arguments and results. Rounds take turns.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from refattn import attention, sparse
from tests.benchmarks.memory import peak

SIZE = 64
SIZES = (4096, 16384, 65536)
ROUNDS = 5
BESIDE_DENSE = 16384
ALL_SCORES = ("topk",)  # whose time is that of all scores: measured up to BESIDE_DENSE

# Each mechanism: the function, its gradients, what is said of the call, and its arguments beside q, k and v.
CALLS = {
    "window": (
        sparse.window_attention,
        sparse.window_attention_vjp,
        "left=255, right=0",
        lambda n, draw: {"left": 255, "right": 0},
    ),
    "chunked": (sparse.chunked_attention, sparse.chunked_attention_vjp, "size=256", lambda n, draw: {"size": 256}),
    "dilated": (
        sparse.dilated_attention,
        sparse.dilated_attention_vjp,
        "left=255, right=0, dilation=4",
        lambda n, draw: {"left": 255, "right": 0, "dilation": 4},
    ),
    "block": (
        sparse.block_attention,
        sparse.block_attention_vjp,
        "size=64, three blocks beside one another and two at random",
        lambda n, draw: {"layout": layout(n // 64, draw), "size": 64},
    ),
    "fixed": (
        sparse.fixed_attention,
        sparse.fixed_attention_vjp,
        "stride=√N, summary=1",
        lambda n, draw: {"stride": round(n**0.5)},
    ),
    "bigbird": (
        sparse.bigbird_attention,
        sparse.bigbird_attention_vjp,
        "size=64, three blocks at random",
        lambda n, draw: {"size": 64, "random_blocks": sparse.bigbird_blocks(draw, n // 64, 3)},
    ),
    "longformer": (
        sparse.longformer_attention,
        sparse.longformer_attention_vjp,
        "left=256, right=256, 16 global tokens at random",
        lambda n, draw: {"left": 256, "right": 256, "global_tokens": draw.choice(n, 16, replace=False)},
    ),
    "moba": (
        sparse.moba_attention,
        sparse.moba_attention_vjp,
        "size=64, kept=3",
        lambda n, draw: {"size": 64, "kept": 3},
    ),
    "gather": (
        sparse.gather_attention,
        sparse.gather_attention_vjp,
        "64 keys a query, at random",
        lambda n, draw: {"indices": np.sort(draw.integers(0, n, (n, 64)), axis=-1), "repeats": "count"},
    ),
    "longnet": (
        sparse.longnet_attention,
        sparse.longnet_attention_vjp,
        "segments=256, 1024, 4096, dilations=1, 4, 16",
        lambda n, draw: {"segments": [256, 1024, 4096], "dilations": [1, 4, 16], "offsets": [0, 0, 0]},
    ),
    "strided": (
        sparse.strided_attention,
        sparse.strided_attention_vjp,
        "stride=√N",
        lambda n, draw: {"stride": round(n**0.5)},
    ),
    "lsh": (
        lambda q, k, v, **own: sparse.lsh_attention(q, v, **own),
        lambda d_out, q, k, v, **own: sparse.lsh_attention_vjp(d_out, q, v, **own),
        "chunk=64, two rounds of random buckets",
        lambda n, draw: {"buckets": draw.integers(0, n // 32, (2, n)), "chunk": 64},
    ),
    "topk": (sparse.topk_attention, sparse.topk_attention_vjp, "kept=64, of all keys", lambda n, draw: {"kept": 64}),
    "routing": (
        sparse.routing_attention,
        sparse.routing_attention_vjp,
        "clusters of 128, as many as make N tokens",
        lambda n, draw: {"members": draw.permutation(n).reshape(-1, 128)},
    ),
}


def layout(blocks, draw):
    """The block of each row, its neighbours, and two at random."""
    rows = np.arange(blocks)
    found = abs(rows[:, None] - rows) <= 1
    found[rows[:, None], draw.integers(0, blocks, (blocks, 2))] = True
    return found


def arguments(name, n, draw):
    """The functions of a mechanism, and a call of each for N tokens."""
    forward, backward, _, own = CALLS[name]
    q, k, v, d_out = (draw.normal(size=(n, SIZE)).astype(np.float32) for _ in range(4))
    given = own(n, draw)
    results = {}
    if name != "routing":  # a mean of softmaxes has no lse
        results = dict(zip(("out", "lse"), forward(q, k, v, **given, return_lse=True), strict=True))
    return (lambda: forward(q, k, v, **given)), (lambda: backward(d_out, q, k, v, **given, **results))


def held(name, n, draw):
    """Bytes that a call holds beside its results, forward and backward."""
    forward, backward = arguments(name, n, draw)
    return peak(lambda: (forward(),))[0], peak(backward)[0]


def run(quick, seed):
    """Seconds and bytes by mechanism and number of tokens, and seconds of dense attention."""
    sizes, rounds = ((1024, 2048), 2) if quick else (SIZES, ROUNDS)
    draw = np.random.default_rng(seed)
    found = {name: [] for name in CALLS}
    for n in sizes:
        calls = {name: arguments(name, n, draw) for name in CALLS if n <= BESIDE_DENSE or name not in ALL_SCORES}
        times = {name: ([], []) for name in calls}
        for _ in range(rounds + 1):
            for name, both in calls.items():
                for call, own in zip(both, times[name], strict=True):
                    started = time.perf_counter()
                    call()
                    own.append(time.perf_counter() - started)
        for name in calls:
            forward, backward = (statistics.median(own[1:]) for own in times[name])
            bytes_ = dict(zip(("bytes", "backward_bytes"), held(name, n, draw), strict=True))
            found[name].append(
                {"call": CALLS[name][2], "tokens": n, "seconds": forward, "backward_seconds": backward, **bytes_}
            )
    beside = sizes[-1] if quick else BESIDE_DENSE
    q, k, v = (draw.normal(size=(beside, SIZE)).astype(np.float32) for _ in range(3))
    started = time.perf_counter()
    attention(q, k, v)
    dense = time.perf_counter() - started
    return {"rounds": rounds, "head_dim": SIZE, "mechanisms": found, "dense": {"tokens": beside, "seconds": dense}}


def exponent(rows, field):
    """The slope of log of a field against log of the tokens."""
    x, y = (np.log([row[name] for row in rows]) for name in ("tokens", field))
    return float(np.polyfit(x, y, 1)[0])


def show(results):
    """A table: a row for each mechanism and size, and its exponents."""
    dense = results["dense"]
    lines = [f"{'mechanism':12}{'tokens':>9}{'ms':>10}{'ms back':>10}{'MiB':>9}{'MiB back':>10}"]
    for name, rows in results["mechanisms"].items():
        for row in rows:
            times = (1e3 * row[field] for field in ("seconds", "backward_seconds"))
            memory = (row[field] / 2**20 for field in ("bytes", "backward_bytes"))
            lines.append("{:12}{:>9,}{:>10.1f}{:>10.1f}{:>9.1f}{:>10.1f}".format(name, row["tokens"], *times, *memory))
            if row["tokens"] == dense["tokens"]:
                lines.append(f"{'':12}{dense['seconds'] / row['seconds']:.0f}x as fast as dense attention")
        slopes = (exponent(rows, f) for f in ("seconds", "backward_seconds", "bytes", "backward_bytes"))
        lines.append("{:12}exponents {:.2f}, {:.2f} of time, {:.2f}, {:.2f} of memory".format("", *slopes))
    return "\n".join(lines)
