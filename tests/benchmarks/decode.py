"""What a step of decoding costs, against the number of tokens in the cache: O(N), and how much memory.

Each cache is filled with N tokens, then steps of one token are timed: append, then attend. The exponent is the slope
of time against N between the two largest sizes; 1 is linear, 0 constant.
"""

import math
import statistics
import time

import numpy as np

import refattn
from refattn.cache import KVCache, PagedKVCache, PagePool, QuantizedKVCache, RollingKVCache, SinkKVCache

HEADS, DIM = 8, 64
SIZES = (1024, 4096, 16384, 65536)


def caches(n):
    """Every kind of cache, empty."""
    return {
        "contiguous": KVCache(),
        "paged, 16 tokens a page": PagedKVCache(PagePool(-(-(n + 64) // 16), 16, HEADS, DIM)),
        "window of 1024": RollingKVCache(1024),
        "4 sinks and 1020 recent": SinkKVCache(4, 1020, positions="absolute"),
        "8 bits, 128 recent": QuantizedKVCache(8, 32, 128),
    }


def run(quick, seed):
    """Median time of a step and bytes held, by cache and size."""
    draw = np.random.default_rng(seed)
    sizes, steps = (SIZES[:2], 3) if quick else (SIZES, 15)
    found = {}
    for n in sizes:
        prompt = draw.normal(size=(2, 1, HEADS, n, DIM)).astype(np.float32)
        q, k, v = draw.normal(size=(3, 1, HEADS, 1, DIM)).astype(np.float32)
        for name, cache in caches(n).items():
            cache.append(*prompt)
            times = []
            for _ in range(steps):
                started = time.perf_counter()
                keys, values, k_positions, q_positions = cache.append(k, v)
                refattn.attention(q, keys, values, cache.mask, k_positions=k_positions, q_positions=q_positions)
                times.append(time.perf_counter() - started)
            found.setdefault(name, []).append(
                {"tokens": n, "ms": 1e3 * statistics.median(times), "bytes": cache.nbytes}
            )
    return {"heads": HEADS, "head_dim": DIM, "caches": found}


def show(results):
    """A table: a row for each cache and size."""
    lines = [f"{'cache':28}{'tokens':>9}{'ms a step':>12}{'MB held':>10}"]
    for name, rows in results["caches"].items():
        lines += [f"{name:28}{row['tokens']:>9,}{row['ms']:>12.3f}{row['bytes'] / 1e6:>10.2f}" for row in rows]
        lines.append(f"{'':28}exponent {exponent(rows):.2f}")
    return "\n".join(lines)


def exponent(rows):
    """The slope of time against tokens between the two largest sizes."""
    a, b = rows[-2:]
    return math.log(b["ms"] / a["ms"]) / math.log(b["tokens"] / a["tokens"])
