"""How kernel projects decide today whether an attention kernel is right: each rule as its tests state it.

A rule sees what its project's test sees: the kernel's output, the project's own reference, and where the rule wants
one, a baseline in the same dtype. Left out everywhere: gradients; a reference's row of a query that may attend to nothing
is zero, as ours (some of the references return NaN there and their tests avoid such rows).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from refattn import masks
from refattn.testing.rounding import FORMATS, round_to


class Judged:
    """One problem, with every reference that some rule compares with."""

    def __init__(self, function, arguments, fmt, exact, alibi=False):
        self.function, self.arguments, self.fmt, self.exact, self.alibi = function, arguments, fmt, exact, alibi

    @cached_property
    def rounded(self):
        """Computed in float32 or better, returned in the dtype."""
        return round_to(self.exact, self.fmt)

    @cached_property
    def scaled_keys(self):
        """The same dtype throughout, the scale on k (flash-attn's attention_ref with upcast=False, reorder_ops=True)."""
        return same_dtype(self.function, self.arguments, self.fmt, "k")

    @cached_property
    def scaled_queries(self):
        """The same dtype throughout, the scale on q (MLX's primitives)."""
        return same_dtype(self.function, self.arguments, self.fmt, "q")

    @cached_property
    def scaled_scores(self):
        """The same dtype throughout, the scale on the scores (Triton's tutorial, jax.nn, PyTorch's math path)."""
        return same_dtype(self.function, self.arguments, self.fmt, "scores")

    @cached_property
    def products_in_dtype(self):
        """q kᵀ in the dtype, then float32 up to the weights (vLLM's ref_masked_attention)."""
        return same_dtype(self.function, self.arguments, self.fmt, "float32")


def same_dtype(function, arguments, fmt, scaled):
    """Plain attention that stores every step in one format."""
    a = dict(arguments)
    q, k, v = (np.asarray(a[x], dtype=np.float64) for x in "qkv")
    if function == "grouped_query_attention":
        k, v = (np.repeat(x, q.shape[-3] // k.shape[-3], axis=-3) for x in (k, v))

    def store(x):
        return round_to(x, fmt)

    later = (lambda x: x) if scaled == "float32" else store
    scale = 1.0 / math.sqrt(q.shape[-1]) if a.get("scale") is None else a["scale"]
    with np.errstate(all="ignore"):
        if scaled == "k":
            k = store(k * scale)
        if scaled == "q":
            q = store(q * store(scale))
        s = store(q @ np.swapaxes(k, -1, -2))
        if scaled in ("scores", "float32"):
            s = later(s * scale)
        if a.get("softcap"):
            s = later(later(np.tanh(later(s / a["softcap"]))) * a["softcap"])
        if a.get("bias") is not None:
            s = later(s + a["bias"])
        allowed = masks.visible(
            a.get("mask"), q.shape[-2], k.shape[-2], like=q,
            q_positions=a.get("q_positions"), k_positions=a.get("k_positions"),
        )  # fmt: skip
        s = s if allowed is None else np.where(allowed, s, -np.inf)
        top = np.max(s, axis=-1, keepdims=True, initial=-np.inf)
        sinks = None if a.get("sinks") is None else np.asarray(a["sinks"], dtype=np.float64)[..., None, None]
        top = top if sinks is None else np.maximum(top, sinks)
        top = np.where(np.isneginf(top), 0.0, top)
        w = np.exp(s - top)
        total = w.sum(axis=-1, keepdims=True) + (0.0 if sinks is None else np.exp(sinks - top))
        p = store(w / np.where(total == 0, 1.0, total))
        if a.get("dropout") is not None:
            keep, rate = a["dropout"]
            p = store(np.where(keep, p / (1.0 - rate), 0.0))
        hidden = np.isneginf(s).all(axis=-2)[..., None]  # what no query may see (poison in it) is out of all tests
        return store(p @ np.where(hidden & ~np.isfinite(v), 0.0, v))


@dataclass(frozen=True)
class Rule:
    """One project's rule for one dtype.

    Attributes
    ----------
    name, project, path : str
        path: where it stands.
    dtype : str
        The format of inputs and output.
    states : str
        The rule in a line.
    passes : callable
        (out, judged) -> bool.
    inputs : str
        Whose inputs go with it: a name in `tests.benchmarks.inputs.PROJECTS`.
    simplified : str
        What is left out or different here.
    """

    name: str
    project: str
    path: str
    dtype: str
    states: str
    passes: Callable[[np.ndarray, Judged], bool]
    inputs: str
    simplified: str = ""


def _largest(x):
    return np.max(np.abs(x), initial=0.0)  # NaN stays NaN, and every comparison with it fails, as in torch


def allclose(rtol, atol, reference="rounded", slack=lambda n: 1):
    """|out - ref| ≤ atol + rtol |ref| everywhere; NaN fails, equal infinities pass."""

    def passes(out, judged):
        ref = getattr(judged, reference)
        close = np.abs(out - ref) <= (atol + rtol * np.abs(ref)) * slack(ref.size)
        return bool(np.all(close | (out == ref)))

    return passes


def _flash_attention_2(out, judged):
    factor, floor = (8, 2e-4) if judged.alibi else (2, 0.0)
    allowed = factor * _largest(judged.scaled_keys - judged.rounded) + floor
    return bool(_largest(out - judged.rounded) <= allowed)


def _flash_attention_3(out, judged):
    ref, fmt = judged.rounded, judged.fmt
    three = round_to(np.float64(0.3), fmt)
    again = round_to(round_to(ref + three, fmt) - three, fmt)
    factor = 3 if judged.arguments.get("softcap") else 2
    return bool(_largest(out - ref) <= factor * _largest(judged.scaled_keys - ref) + 2 * _largest(again - ref))


def _pytorch(a, r, factor=4):
    def passes(out, judged):
        ref, low = judged.exact, judged.scaled_scores
        with np.errstate(all="ignore"):
            relative = np.abs((ref - low) / ref)
        relative = float(np.max(np.where(np.isnan(relative), r, relative), initial=0.0))
        relative = r if relative > 1e30 else relative
        atol, rtol = factor * max(float(_largest(ref - low)), a), factor * max(relative, r)
        return bool(np.all((np.abs(out - ref) <= atol + rtol * np.abs(ref)) | (out == ref)))

    return passes


def _fla(ratio, lenient=False):
    def passes(out, judged):
        ref = judged.rounded
        if not np.isfinite(out).all():
            return False
        largest = _largest(ref - out)
        error = math.sqrt(np.mean((ref - out) ** 2)) / (math.sqrt(np.mean(ref**2)) + 1e-8) if out.size else 0.0
        if largest <= 1e-6 or (lenient and (error < 0.01 or largest <= 0.3)):
            return True
        return bool(error < ratio)

    return passes


def _not_all_zero(inner):
    def passes(out, judged):
        return inner(out, judged) and bool(np.any(out != 0))

    return passes


def _mlx(a):
    def passes(out, judged):
        ref = judged.scaled_queries
        return bool(np.all(np.abs(out - ref) - a * np.abs(ref) <= a))

    return passes


def _llm_c(tolerance, epsilon):
    def passes(out, judged):  # a mismatch is what is larger: NaN never is
        return not bool(np.any(np.abs(judged.exact - out) > tolerance + epsilon * np.abs(judged.exact)))

    return passes


_FA2 = "tests/test_flash_attn.py"
_FA3 = "hopper/test_flash_attn.py, tests/cute/test_flash_attn.py"
_TORCH = "test/test_transformers.py"
_XFORMERS = "xformers/ops/fmha/common.py, now mslk/attention/fmha/common.py"
_ORT = "onnxruntime/test/python/transformers/test_onnx_attention/common.py"

RULES = (
    *(
        Rule(
            f"flash-attn 2 {dtype}", "Dao-AILab/flash-attention", _FA2, dtype,
            "max|out - ref| ≤ 2 max|same dtype - ref| (8 max ... + 2e-4 with ALiBi)", _flash_attention_2, "flash-attn 2",
        )
        for dtype in ("float16", "bfloat16")
    ),
    Rule(
        "flash-attn 3 bfloat16", "Dao-AILab/flash-attention", _FA3, "bfloat16",
        "max|out - ref| ≤ r max|same dtype - ref| + 2 max|ref + 0.3 - 0.3 - ref|, r = 2 (3 with softcap)",
        _flash_attention_3, "flash-attn 3",
    ),
    *(
        Rule(
            f"PyTorch SDPA {dtype}", "pytorch/pytorch", _TORCH, dtype,
            f"allclose, atol = 4 max(max|ref - same dtype|, {a:g}), rtol likewise from {r:g}",
            _pytorch(a, r), "PyTorch", "one factor, 4, of those its versions had for the output (1 to 8)",
        )
        for dtype, a, r in (("float16", 1e-3, 1e-3), ("bfloat16", 1e-3, 1.6e-2), ("float32", 1e-5, 1.3e-6))
    ),
    *(
        Rule(
            f"torch.testing {dtype}", "pytorch/pytorch", "torch/testing/_comparison.py", dtype,
            f"assert_close with its defaults: rtol {r:g}, atol {a:g}", allclose(r, a), "PyTorch",
            "no inputs of its own: PyTorch's",
        )
        for dtype, r, a in (("float16", 1e-3, 1e-5), ("bfloat16", 1.6e-2, 1e-5), ("float32", 1.3e-6, 1e-5))
    ),
    *(
        Rule(
            f"xformers {dtype}", "facebookresearch/xformers", _XFORMERS, dtype,
            f"allclose, rtol {r:g}, atol {a:g}", allclose(r, a), "xformers", "inputs taken to be normal",
        )
        for dtype, a, r in (("float32", 3e-4, 2e-5), ("float16", 4e-3, 4e-4), ("bfloat16", 2e-2, 5e-3))
    ),
    *(
        Rule(
            f"FlashInfer {dtype} {t:g}", "flashinfer-ai/flashinfer", "tests/attention/", dtype,
            f"assert_close, rtol {t:g}, atol {t:g}", allclose(t, t), "FlashInfer", "reference in float32",
        )
        for dtype, t in (("float16", 1e-3), ("bfloat16", 1e-2), ("bfloat16", 5e-2))
    ),
    *(
        Rule(
            f"vLLM {dtype}", "vllm-project/vllm", "tests/kernels/attention/test_attention.py", dtype,
            "assert_close, atol 1e-3, rtol 1e-5", allclose(1e-5, 1e-3, "products_in_dtype"), "vLLM",
        )
        for dtype in ("float16", "bfloat16")
    ),
    Rule(
        "fla float16", "fla-org/flash-linear-attention", "fla/utils, tests/ops/test_attn.py", "float16",
        "RMS(out - ref) / RMS(ref) < 0.005, or max|out - ref| ≤ 1e-6", _fla(0.005), "fla",
    ),
    Rule(
        "fla float16, in CI", "fla-org/flash-linear-attention", "fla/utils, FLA_CI_ENV", "float16",
        "the same, but where the ratio is below 0.01 or max|out - ref| ≤ 0.3 it only warns", _fla(0.005, lenient=True),
        "fla",
    ),
    Rule(
        "Triton tutorial 06", "triton-lang/triton", "python/tutorials/06-fused-attention.py", "float16",
        "allclose, atol 1e-2, rtol 0", allclose(0.0, 1e-2, "scaled_scores"), "Triton",
    ),
    *(
        Rule(
            f"JAX check_close {dtype}", "jax-ml/jax", "jax/_src/public_test_util.py", dtype,
            f"allclose, rtol = atol = {t:g} times the size of the array",
            allclose(t, t, "scaled_scores", slack=lambda n: n), "JAX",
        )
        for dtype, t in (("bfloat16", 1e-2), ("float32", 1e-6))
    ),
    Rule(
        "JAX nn bfloat16", "jax-ml/jax", "tests/nn_test.py", "bfloat16",
        "allclose, rtol 1e-2, atol 1e-2", allclose(1e-2, 1e-2, "scaled_scores"), "JAX",
    ),
    Rule(
        "Pallas decode float16", "jax-ml/jax", "tests/pallas/gpu_attention_test.py", "float16",
        "allclose, atol 0.05 (rtol 1e-7)", allclose(1e-7, 0.05), "Pallas",
    ),
    Rule(
        "ONNX node tests", "onnx/onnx", "onnx/backend/test/case/node/attention.py", "float32",
        "allclose, rtol 1e-3, atol 1e-7", allclose(1e-3, 1e-7, "scaled_scores"), "ONNX",
    ),
    *(
        Rule(
            f"ONNX Runtime {dtype}", "microsoft/onnxruntime", _ORT, dtype,
            f"allclose, rtol {r:g}, atol {a:g}, and not all zero", _not_all_zero(allclose(r, a)),
            "ONNX Runtime",
        )
        for dtype, r, a in (("float16", 5e-3, 5e-3), ("float32", 5e-3, 5e-3), ("bfloat16", 5e-2, 1e-2))
    ),
    *(
        Rule(
            f"MLX {dtype}", "ml-explore/mlx", "python/tests/test_fast_sdpa.py", dtype,
            f"|out - ref| - {a:g} |ref| ≤ {a:g}", _mlx(a), "MLX",
        )
        for dtype, a in (("float32", 1e-5), ("float16", 3e-4), ("bfloat16", 5e-3))
    ),
    *(
        Rule(
            f"llm.c {dtype}", "karpathy/llm.c", "dev/cuda/common.h, validate_result", dtype,
            f"no |ref - out| > {t:g} + {e:g} |ref|", _llm_c(t, e), "llm.c",
        )
        for dtype, t, e in (("float32", 1e-4, 2.0**-23), ("bfloat16", 1e-2, 0.079))
    ),
)  # fmt: skip

assert all(rule.dtype in FORMATS for rule in RULES)
