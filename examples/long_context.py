"""Exact causal attention over 131,072 tokens on a laptop, forward and backward, and what memory it takes.

    python examples/long_context.py                 one head of size 64, float32: some minutes
    python examples/long_context.py --tokens 16384  fewer tokens: some seconds

The array of all scores would take 64 GiB. Here queries and keys pass by in tiles, and the backward pass computes the
weights again from the log-sum-exp. NumPy tells tracemalloc of every byte that it takes, so that the peak is exact.
"""

import argparse
import sys
import time
import tracemalloc

import numpy as np

from refattn import attention, tiled_attention, tiled_attention_vjp
from refattn.masks import causal

MIB = 2**20
SIZE = 64


def measured(name, call):
    """Run a call with progress; print its time and the most memory that it held beside what it was given and returns."""

    def progress(done, total):
        if sys.stderr.isatty():
            print(f"\r{name} {done:4} of {total} tiles of queries", end="", file=sys.stderr, flush=True)

    tracemalloc.start()
    started = time.perf_counter()
    results = call(progress)
    seconds, peak = time.perf_counter() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    peak -= sum(x.nbytes for x in results if x is not None)
    print("\r" if sys.stderr.isatty() else "", end="", file=sys.stderr)
    print(f"{name}: {seconds:.1f} s, at most {peak / MIB:.1f} MiB beside arguments and results")
    return results


def main():
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--tokens", type=int, default=131_072)
    tokens = arguments.parse_args().tokens
    draw = np.random.default_rng(0)
    q, k, v, d_out = (draw.normal(size=(tokens, SIZE)).astype(np.float32) for _ in range(4))
    scores = 4 * tokens**2 / 2**30
    print(f"{tokens:,} tokens, one head of {SIZE}, float32; all scores would take {scores:,.3g} GiB")

    out, lse = measured("forward", lambda p: tiled_attention(q, k, v, causal(), return_lse=True, progress=p))
    measured("backward", lambda p: tiled_attention_vjp(d_out, q, k, v, causal(), out=out, lse=lse, progress=p))
    last = slice(tokens - 3, tokens)  # three rows of the array that was never made
    exact = attention(*(x.astype(np.float64) for x in (q[last], k, v)), causal())
    print(f"the last three outputs differ by at most {np.max(np.abs(out[last] - exact)):.1e} from attention in float64")


if __name__ == "__main__":
    main()
