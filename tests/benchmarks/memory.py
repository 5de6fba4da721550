"""Memory: what exact causal attention holds beside its arguments and results, against the number of tokens.

One head of size 64, float32, N queries and N keys. NumPy tells tracemalloc of every byte that it takes, so that the
peak is exact. The exponent is the slope of bytes against N between the two largest sizes; 2 is quadratic, 0 constant.
"""

import math
import tracemalloc

import numpy as np

from refattn import attention, attention_vjp, tiled_attention, tiled_attention_vjp
from refattn.masks import causal

SIZE = 64
DENSE = (1024, 2048, 4096, 8192)
TILED = (4096, 16384, 65536, 131072)


def run(quick, seed):
    """Peak bytes by function and number of tokens."""
    draw = np.random.default_rng(seed)
    largest = 4096 if quick else max(TILED)
    q, k, v, d_out = (draw.normal(size=(largest, SIZE)).astype(np.float32) for _ in range(4))
    rows = {}
    for sizes, forward, backward in ((DENSE, attention, attention_vjp), (TILED, tiled_attention, tiled_attention_vjp)):
        for n in (n for n in sizes if n <= largest):
            x, own = (q[:n], k[:n], v[:n]), d_out[:n]
            held, (out, lse) = peak(lambda x=x, f=forward: f(*x, causal(), return_lse=True))
            rows.setdefault(forward.__name__, []).append({"tokens": n, "bytes": held})
            known = {"out": out, "lse": lse} if backward is tiled_attention_vjp else {}
            held, _ = peak(lambda x=x, d=own, f=backward, known=known: f(d, *x, causal(), **known))
            rows.setdefault(backward.__name__, []).append({"tokens": n, "bytes": held})
    return {"head_dim": SIZE, "functions": rows}


def peak(call):
    """The most bytes held during a call beside its results, and the results."""
    tracemalloc.start()
    results = call()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most - sum(x.nbytes for x in results if x is not None), results


def show(results):
    """A table: a row for each function and size."""
    lines = [f"{'function':24}{'tokens':>9}{'MiB held':>12}"]
    for name, rows in results["functions"].items():
        lines += [f"{name:24}{row['tokens']:>9,}{row['bytes'] / 2**20:>12.1f}" for row in rows]
        if len(rows) > 1:
            lines.append(f"{'':24}exponent {exponent(rows):.2f}")
    return "\n".join(lines)


def exponent(rows):
    """The slope of bytes against tokens between the two largest sizes."""
    a, b = rows[-2:]
    return math.log(b["bytes"] / a["bytes"]) / math.log(b["tokens"] / a["tokens"])
