"""Speed: attention over tiles beside torch's two CPU kernels, with its causal and its backward cost.

All in one process with all cores on either side, B = 1, H = 8, N = M = 4096, D = 64, in rounds that take turns. torch's
MATH backend makes the array of all scores as `attention` does; FLASH_ATTENTION is its fused CPU kernel. Without torch
those lines are missing, without threadpoolctl (the extra `fast`) tiles are worked on one after the other.
"Products alone" are the matrix products of every tile and nothing else: what is built on NumPy's cannot go below.
"""

from __future__ import annotations

import contextlib
import importlib.util
import statistics
import time

import numpy as np

import refattn
from refattn import masks
from refattn.tiled import workspace
from refattn.tiled.forward import raw_scores
from refattn.tiled.problem import problem_of

ROUNDS = 7


def run(quick, seed):
    """Seconds of everything, and the ratios that count."""
    size = 512 if quick else 4096
    found = {"rounds": 2 if quick else ROUNDS, "size": size, "heads": 8, "head_size": 64, "dtypes": {}}
    found["threads"] = importlib.util.find_spec("threadpoolctl") is not None
    for dtype in ("float32", "float64"):
        draw = np.random.default_rng(seed)
        q, k, v, d_out = (draw.normal(size=(1, 8, size, 64)).astype(dtype) for _ in range(4))
        out, lse = refattn.tiled_attention(q, k, v, return_lse=True)
        calls = {
            "tiled": lambda x=(q, k, v): refattn.tiled_attention(*x),
            "tiled, one tile after the other": lambda x=(q, k, v): _plain(*x),
            "products alone": lambda x=(q, k, v): _products(*x),
            "tiled, causal": lambda x=(q, k, v): refattn.tiled_attention(*x, masks.causal()),
            "tiled, backward": lambda x=(d_out, q, k, v), y=(out, lse): refattn.tiled_attention_vjp(
                *x, out=y[0], lse=y[1]
            ),
            **_torch(q, k, v),
        }
        seconds = _in_turns(calls, found["rounds"])
        found["dtypes"][dtype] = {"seconds": seconds, "ratios": _ratios(seconds)}
    return found


def show(results):
    """The ratios, then the seconds behind them."""
    lines = []
    for dtype, found in results["dtypes"].items():
        lines += [f"{dtype}, B=1 H=8 N=M={results['size']} D=64, medians of {results['rounds']}:"]
        lines += [f"  {name:44} {ratio:6.2f}x" for name, ratio in found["ratios"].items()]
        lines += [f"  {name:44} {1e3 * value:8.1f} ms" for name, value in found["seconds"].items()]
    return "\n".join(lines)


def _in_turns(calls, rounds):
    """Medians of calls that take turns, so that whatever else the machine does meets all of them."""
    times = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(measured[1:]) for name, measured in times.items()}


def _ratios(seconds):
    pairs = {
        "tiled / torch MATH": ("tiled", "torch MATH"),
        "tiled / torch FLASH": ("tiled", "torch FLASH"),
        "one tile after the other / torch MATH": ("tiled, one tile after the other", "torch MATH"),
        "one tile after the other / torch FLASH": ("tiled, one tile after the other", "torch FLASH"),
        "products alone / torch FLASH": ("products alone", "torch FLASH"),
        "causal / full": ("tiled, causal", "tiled"),
        "backward / forward": ("tiled, backward", "tiled"),
    }
    return {name: seconds[a] / seconds[b] for name, (a, b) in pairs.items() if b in seconds}


def _plain(q, k, v):
    """Without threads of our own."""
    control, workspace._thread_control = workspace._thread_control, lambda: None
    try:
        return refattn.tiled_attention(q, k, v)
    finally:
        workspace._thread_control = control


def _products(q, k, v):
    """The two matrix products of every tile, on the same threads, and nothing else: what NumPy cannot go below."""
    problem = problem_of(q, k, v)

    def work(task, own):
        part, rows = problem.at(task[0]), task[1]
        for keys, _ in part.key_tiles(rows):
            np.matmul(raw_scores(part, part.q[rows], keys, own), part.v[keys])

    workspace.run(np, [(index, rows) for index in problem.indices() for rows in problem.query_tiles()], work)


def _torch(q, k, v):
    try:
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel
    except ImportError:
        return {}
    torch.set_num_threads(workspace._cores())
    tensors = [torch.from_numpy(x) for x in (q, k, v)]

    def call(backend):
        with contextlib.ExitStack() as stack:
            stack.enter_context(sdpa_kernel(backend))
            stack.enter_context(torch.inference_mode())
            return torch.nn.functional.scaled_dot_product_attention(*tensors)

    return {
        "torch MATH": lambda: call(SDPBackend.MATH),
        "torch FLASH": lambda: call(SDPBackend.FLASH_ATTENTION),
    }
