"""The inputs that each project tests its kernels with: distributions, shapes and options of its own test files.

Heads and batches are fewer and the longest sequences shorter than there (what a rule lets pass does not depend on how
many heads repeat it); head sizes, ratios of heads, distributions and options are theirs. Layout (B, H, N, D).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from refattn import masks
from refattn.testing.inputs import cases
from refattn.testing.rounding import round_to
from refattn.testing.vectors import load

FUNCTIONS = ("attention", "grouped_query_attention")
Problem = tuple[str, dict[str, Any]]  # a name, and arguments of attention or grouped_query_attention


class Draw:
    """Random numbers rounded to the dtype of a rule."""

    def __init__(self, seed, fmt):
        self.rng, self.fmt = np.random.default_rng(seed), fmt

    def normal(self, *shape, scale=1.0):
        return round_to(self.rng.normal(size=shape) * scale, self.fmt)

    def uniform(self, *shape, low=0.0, high=1.0):
        return round_to(self.rng.uniform(low, high, size=shape), self.fmt)

    def randn(self, heads, kv_heads, n, m, d, scale=1.0):
        """Normal q, k and v for so many heads."""
        q, k, v = ((1, heads, n, d), (1, kv_heads, m, d), (1, kv_heads, m, d))
        return {"q": self.normal(*q, scale=scale), "k": self.normal(*k, scale=scale), "v": self.normal(*v, scale=scale)}

    def rand(self, heads, kv_heads, n, m, d, low=0.0, high=1.0):
        """The same, uniform."""
        q, k, v = ((1, heads, n, d), (1, kv_heads, m, d), (1, kv_heads, m, d))
        return {name: self.uniform(*s, low=low, high=high) for name, s in zip("qkv", (q, k, v), strict=True)}


def alibi(draw, heads, n, m):
    """A bias that falls with the distance, by a random slope a head (flash-attn's tests draw 0.3 rand)."""
    distance = np.abs(np.arange(n)[:, None] + m - n - np.arange(m))
    return round_to(-0.3 * draw.rng.random((1, heads, 1, 1)) * distance, "float32")


def flash_attn_2(draw: Draw) -> Iterator[Problem]:
    yield "one", draw.randn(2, 2, 1, 1, 64)
    yield "one key", draw.randn(2, 2, 239, 1, 64)
    yield "causal", {**draw.randn(2, 2, 113, 203, 64), "mask": masks.causal()}
    yield "causal, square", {**draw.randn(2, 2, 128, 128, 32), "mask": masks.causal()}
    yield "causal, more queries", {**draw.randn(2, 2, 256, 128, 59), "mask": masks.causal()}
    yield "grouped", draw.randn(4, 2, 64, 128, 64)
    yield "multi-query, local", {**draw.randn(3, 1, 108, 256, 40), "mask": masks.window(70, 33)}
    yield "local, square", {**draw.randn(2, 2, 128, 128, 40), "mask": masks.window(20, 7)}
    for n, m in ((113, 203), (128, 128)):
        yield f"{n} x {m}, ALiBi", {**draw.randn(2, 2, n, m, 64), "bias": alibi(draw, 2, n, m), "mask": masks.causal()}
        capped = draw.randn(2, 2, n, m, 64)
        capped = {**capped, "q": round_to(capped["q"] * 50.0, draw.fmt), "softcap": 50.0}
        yield f"{n} x {m}, softcap", {**capped, "mask": masks.causal()}
    keep = draw.rng.random((1, 2, 128, 217)) >= 0.17
    yield "dropout", {**draw.randn(2, 2, 128, 217, 64), "dropout": (keep, 0.17)}
    yield "causal, long", {**draw.randn(1, 1, 64, 1024, 64), "mask": masks.causal()}


def flash_attn_3(draw: Draw) -> Iterator[Problem]:
    yield "one", draw.randn(2, 2, 1, 1, 64)
    yield "one key", draw.randn(2, 2, 239, 1, 64)
    yield "causal", {**draw.randn(2, 2, 113, 203, 128), "mask": masks.causal()}
    yield "causal, square", {**draw.randn(2, 2, 128, 128, 64), "mask": masks.causal()}
    yield "causal, more queries", {**draw.randn(2, 2, 256, 128, 64), "mask": masks.causal()}
    yield "grouped, causal", {**draw.randn(4, 2, 128, 217, 64), "mask": masks.causal()}
    yield "local", {**draw.randn(2, 2, 64, 512, 64), "mask": masks.window(140, 66)}
    yield "local, square", {**draw.randn(2, 2, 128, 128, 64), "mask": masks.window(20, 7)}
    yield "multi-query", draw.randn(3, 1, 64, 128, 64)
    for n, m in ((128, 217), (128, 128)):
        capped = draw.randn(2, 2, n, m, 64)
        yield f"{n} x {m}, softcap", {**capped, "q": round_to(capped["q"] * 15.0 / 4, draw.fmt), "softcap": 15.0}
        yield f"{n} x {m}, sinks", {**draw.randn(2, 2, n, m, 64), "sinks": draw.normal(2), "mask": masks.causal()}
    yield "sinks", {**draw.randn(2, 2, 64, 128, 64), "sinks": draw.normal(2)}
    yield "causal, long", {**draw.randn(1, 1, 127, 1024, 64), "mask": masks.causal()}


def pytorch(draw: Draw) -> Iterator[Problem]:
    for heads, n, m, d in ((2, 4, 8, 8), (2, 64, 128, 64), (1, 256, 256, 128), (1, 143, 408, 203)):
        yield f"{n} x {m}", draw.rand(heads, heads, n, m, d)
    yield "causal", {**draw.rand(2, 2, 128, 128, 64), "mask": masks.causal()}
    yield "causal, small", {**draw.rand(2, 2, 4, 4, 8), "mask": masks.causal()}
    yield "scale 1/D", {**draw.rand(2, 2, 64, 128, 64), "scale": 1 / 64}
    yield "bias", {**draw.rand(2, 2, 64, 152, 64), "bias": draw.uniform(1, 2, 64, 152)}
    yield "mask", {**draw.rand(2, 2, 64, 152, 64), "mask": draw.rng.random((1, 2, 64, 152)) < 0.5}
    yield "dropout", {**draw.rand(2, 2, 64, 256, 64), "dropout": (draw.rng.random((1, 2, 64, 256)) >= 0.22, 0.22)}
    yield "long", draw.rand(1, 1, 64, 1024, 64)


def xformers(draw: Draw) -> Iterator[Problem]:
    yield "plain", draw.randn(2, 2, 128, 257, 64)
    yield "few", draw.randn(2, 2, 1, 32, 32)
    yield "bias", {**draw.randn(2, 2, 96, 200, 32), "bias": draw.normal(1, 2, 96, 200)}
    yield "causal", {**draw.randn(2, 2, 160, 160, 128), "mask": masks.causal()}
    yield "local", {**draw.randn(2, 2, 160, 160, 64), "mask": masks.causal() & masks.window(40, 0)}
    lengths = np.array([[47], [200]])
    padding = {"mask": masks.padding(lengths).dense(33, 200)}
    yield "padding", {**{x: np.repeat(y, 2, axis=0) for x, y in draw.randn(2, 2, 33, 200, 64).items()}, **padding}
    yield "documents", {**draw.randn(1, 1, 160, 160, 64), "mask": masks.documents(np.repeat([0, 1, 2], [50, 70, 40]))}
    yield "grouped", draw.randn(6, 2, 64, 128, 64)


def flashinfer(draw: Draw) -> Iterator[Problem]:
    yield "decode", draw.randn(4, 1, 1, 2048, 128)
    yield "decode, grouped", draw.randn(8, 2, 1, 127, 128)
    yield "prefill, causal", {**draw.randn(4, 2, 37, 577, 128), "mask": masks.causal()}
    yield "prefill", draw.randn(2, 2, 37, 97, 64)
    yield "softcap", {**draw.randn(2, 2, 37, 97, 128), "softcap": 30.0}
    yield "window", {**draw.randn(2, 2, 37, 211, 128), "mask": masks.causal() & masks.window(33, 0)}
    yield "custom mask", {**draw.randn(2, 2, 37, 97, 64), "mask": draw.rng.random((1, 1, 37, 97)) < 0.5}
    yield "sinks", {**draw.randn(2, 2, 64, 256, 64), "sinks": round_to(draw.rng.random(2) * 5, "float32")}
    yield "ALiBi", {**draw.randn(2, 2, 17, 54, 128), "bias": alibi(draw, 2, 17, 54)}


def vllm(draw: Draw) -> Iterator[Problem]:
    for d in (64, 128):
        edge = d**-0.5
        for m in (2048, 541, 16):
            problem = draw.rand(8, 2, 1, m, d, low=-edge, high=edge)
            yield f"decode {m}, D {d}", problem
            slopes = draw.rng.normal(size=(1, 8, 1, 1))
            yield f"decode {m}, D {d}, ALiBi", {**problem, "bias": round_to(slopes * (np.arange(m) - m + 1), "float32")}
    yield "prefill", {**draw.rand(2, 2, 128, 128, 64, low=-(64**-0.5), high=64**-0.5), "mask": masks.causal()}


def fla(draw: Draw) -> Iterator[Problem]:
    for heads, kv_heads, n, d, scale in ((1, 1, 63, 64, 1.0), (2, 2, 111, 100, 1.0), (4, 1, 256, 60, 0.1)):
        yield f"{n}, scale {scale}", {**draw.randn(heads, kv_heads, n, n, d), "mask": masks.causal(), "scale": scale}
    yield "grouped", {**draw.randn(4, 1, 128, 128, 128), "mask": masks.causal()}
    yield "window", {**draw.randn(2, 2, 111, 111, 100), "mask": masks.causal() & masks.window(31, 0)}
    yield "sinks", {**draw.randn(2, 2, 111, 111, 100), "mask": masks.causal(), "sinks": draw.normal(2)}
    parts = masks.causal() & masks.documents(np.repeat([0, 1, 2], [15, 94, 62]))
    yield "documents", {**draw.randn(2, 2, 171, 171, 64), "mask": parts}


def triton(draw: Draw) -> Iterator[Problem]:
    for n, d, causal in ((512, 64, True), (256, 128, True), (256, 64, False)):
        mask = {"mask": masks.causal()} if causal else {}
        yield f"{n}, D {d}", {**draw.randn(1, 1, n, n, d, scale=0.5), "scale": 0.5, **mask}


def jax_nn(draw: Draw) -> Iterator[Problem]:
    yield "plain", draw.randn(4, 4, 128, 128, 32)
    yield "causal", {**draw.randn(4, 4, 128, 128, 32), "mask": masks.causal()}
    yield "grouped", draw.randn(4, 2, 128, 128, 32)
    yield "bias", {**draw.randn(4, 4, 128, 128, 32), "bias": draw.normal(1, 4, 128, 128)}
    yield "mask", {**draw.randn(4, 4, 128, 128, 32), "mask": draw.rng.random((1, 4, 128, 128)) < 0.5}
    yield "window", {**draw.randn(4, 4, 128, 128, 32), "mask": masks.causal() & masks.window(7, 0)}
    yield "scale", {**draw.randn(4, 4, 128, 128, 32), "scale": 0.3}


def pallas(draw: Draw) -> Iterator[Problem]:
    yield "multi-query", draw.randn(8, 1, 1, 1024, 64)
    yield "grouped", draw.randn(8, 2, 1, 1024, 64)


def onnx(draw: Draw) -> Iterator[Problem]:
    yield "plain", draw.rand(3, 3, 4, 6, 8)
    yield "causal", {**draw.rand(3, 3, 4, 4, 8), "mask": masks.causal()}
    yield "grouped", draw.rand(9, 3, 4, 6, 8)
    yield "bias", {**draw.rand(3, 3, 4, 6, 8), "bias": draw.uniform(4, 6)}
    yield "mask", {**draw.rand(3, 3, 4, 6, 8), "mask": draw.rng.random((4, 6)) < 0.5}
    yield "scale", {**draw.rand(3, 3, 4, 6, 8), "scale": 1e-2}
    yield "softcap", {**draw.rand(3, 3, 4, 6, 8), "softcap": 2.0}
    yield "values", {**draw.rand(3, 3, 4, 6, 8), "v": draw.uniform(1, 3, 6, 10)}


def onnx_runtime(draw: Draw) -> Iterator[Problem]:
    yield "causal", {**draw.randn(2, 2, 240, 240, 128, scale=0.2), "mask": masks.causal()}
    yield "grouped, causal", {**draw.randn(4, 1, 160, 160, 64, scale=0.2), "mask": masks.causal()}
    yield "decode", draw.randn(8, 2, 1, 2049, 128, scale=0.2)
    yield "softcap", {**draw.randn(4, 4, 128, 128, 128, scale=0.2), "softcap": 50.0}
    padded = draw.randn(4, 4, 64, 200, 128, scale=0.2)
    mask = np.arange(200) < 150
    padded = {**padded, **{x: np.where(mask[:, None], padded[x], 0.0) for x in "kv"}}  # their padding is zeros
    yield "padding", {**padded, "mask": np.broadcast_to(mask, (1, 1, 64, 200)).copy()}
    yield "bias", {**draw.randn(4, 4, 64, 128, 128, scale=0.2), "bias": draw.normal(64, 128)}


def mlx(draw: Draw) -> Iterator[Problem]:
    def problem(heads, kv_heads, n, m, d):
        given = draw.randn(heads, kv_heads, n, m, d, scale=0.5)
        return {**given, "v": draw.normal(1, kv_heads, m, d, scale=d**-0.5)}

    yield "square", problem(4, 4, 128, 128, 64)
    yield "grouped", problem(8, 2, 64, 129, 64)
    yield "causal", {**problem(4, 4, 64, 128, 128), "mask": masks.causal()}
    yield "additive", {**problem(4, 4, 128, 128, 64), "bias": draw.normal(1, 4, 128, 128, scale=0.5)}
    yield "mask", {**problem(4, 4, 128, 128, 80), "mask": draw.rng.random((1, 4, 128, 128)) < 0.5}


def llm_c(draw: Draw) -> Iterator[Problem]:
    yield "causal", {**draw.rand(1, 1, 512, 512, 64, low=-1.0), "mask": masks.causal()}


PROJECTS: dict[str, Callable[[Draw], Iterator[Problem]]] = {
    "flash-attn 2": flash_attn_2,
    "flash-attn 3": flash_attn_3,
    "PyTorch": pytorch,
    "xformers": xformers,
    "FlashInfer": flashinfer,
    "vLLM": vllm,
    "fla": fla,
    "Triton": triton,
    "JAX": jax_nn,
    "Pallas": pallas,
    "ONNX": onnx,
    "ONNX Runtime": onnx_runtime,
    "MLX": mlx,
    "llm.c": llm_c,
}


def problems(project: str, fmt: str, seed: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """A project's own inputs in one dtype: (name, reference function, arguments)."""
    for name, arguments in PROJECTS[project](Draw([seed, len(project)], fmt)):
        same = arguments["q"].shape[-3] == arguments["k"].shape[-3]
        yield name, "attention" if same else "grouped_query_attention", arguments


def ours(fmt: str, seed: int, effort: str = "standard") -> Iterator[tuple[str, str, dict[str, Any]]]:
    """What `refattn check` uses: golden vectors and directed recipes, as far as the format holds them exactly."""
    for case in (*load("attention"), *load("heads")):
        if case.function in FUNCTIONS and not case.refuses and _exact(case.arguments, fmt):
            yield case.id, case.function, dict(case.arguments)
    for function in FUNCTIONS:
        for name, _, arguments in cases(function, fmt=fmt, effort=effort, seed=seed):
            yield f"{function}.{name}", function, arguments


def _exact(arguments, fmt):
    floats = [x for x in arguments.values() if isinstance(x, np.ndarray) and x.dtype.kind == "f"]
    return all(np.array_equal(round_to(x, fmt), x, equal_nan=True) for x in floats)
