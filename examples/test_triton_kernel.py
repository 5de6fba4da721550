"""A Triton kernel, judged, on a GPU or without one. Copy this file, put your kernel in the place of `kernel`, and run

pip install 'refattn[torch]' triton pytest
pytest test_triton_kernel.py                       # on a GPU
TRITON_INTERPRET=1 pytest test_triton_kernel.py    # anywhere, through Triton's interpreter
"""

import os

import pytest
import torch
import triton
import triton.language as tl

import refattn
from refattn.testing import assert_matches

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not (INTERPRETED or torch.cuda.is_available()):
    pytest.skip("no GPU: set TRITON_INTERPRET=1 to run in Triton's interpreter", allow_module_level=True)
DEVICE = "cpu" if INTERPRETED else "cuda"


@triton.jit
def kernel(q, k, v, out, n, m, d, dv, scale, causal: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
           D: tl.constexpr, DV: tl.constexpr):  # fmt: skip
    """One tile of queries of one head; contiguous (heads, n, d), (heads, m, d), (heads, m, dv)."""
    head = tl.program_id(1)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    features, columns = tl.arange(0, D), tl.arange(0, DV)
    q_at = q + head * n * d + rows[:, None] * d + features
    queries = tl.load(q_at, mask=(rows[:, None] < n) & (features < d), other=0.0)
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    sums = tl.zeros([ROWS, DV], tl.float32)
    for start in range(0, m, KEYS):
        keys = start + tl.arange(0, KEYS)
        k_at = k + head * m * d + keys[None, :] * d + features[:, None]
        v_at = v + head * m * dv + keys[:, None] * dv + columns
        k_tile = tl.load(k_at, mask=(keys[None, :] < m) & (features[:, None] < d), other=0.0)
        v_tile = tl.load(v_at, mask=(keys[:, None] < m) & (columns < dv), other=0.0)
        scores = tl.dot(queries, k_tile, input_precision="ieee") * scale
        allowed = (keys < m)[None, :] & (rows < n)[:, None]
        if causal:  # the queries are the last n of m positions
            allowed = allowed & (keys[None, :] <= rows[:, None] + m - n)
        scores = tl.where(allowed, scores, float("-inf"))
        new = tl.maximum(largest, tl.max(scores, axis=1))
        base = tl.where(new == float("-inf"), 0.0, new)  # a row that has seen nothing yet
        weights = tl.exp(scores - base[:, None])
        shrink = tl.exp(largest - base)
        total = total * shrink + tl.sum(weights, axis=1)
        sums = sums * shrink[:, None] + tl.dot(weights.to(v_tile.dtype), v_tile, input_precision="ieee")
        largest = new
    result = sums / tl.where(total == 0.0, 1.0, total)[:, None]
    out_at = out + head * n * dv + rows[:, None] * dv + columns
    tl.store(out_at, result.to(out.dtype.element_ty), mask=(rows[:, None] < n) & (columns < dv))


def flash(q, k, v, causal=False, scale=None):
    """Attention over (B, H, N, D) tensors."""
    if k.shape[:-1] != v.shape[:-1] or q.shape[-1] != k.shape[-1] or q.shape[:2] != k.shape[:2]:
        raise ValueError(f"shapes do not fit: q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}")
    (n, d), (m, dv) = q.shape[-2:], v.shape[-2:]
    heads, tile = q.shape[0] * q.shape[1], 16
    out = torch.zeros(*q.shape[:-1], dv, dtype=q.dtype, device=q.device)
    scale = d**-0.5 if scale is None else scale
    wide = [max(16, triton.next_power_of_2(size)) for size in (d, dv)]
    if out.numel():
        x = [t.contiguous() for t in (q, k, v)]
        kernel[(triton.cdiv(n, tile), heads)](*x, out, n, m, d, dv, float(scale), causal, tile, tile, *wide)
    return out


def attention(dtype):
    """`flash` as the reference is called. What it has no argument for, or cannot do, is skipped and not failed."""

    def call(q, k, v, mask=None, *, scale=None):
        causal = getattr(mask, "name", None) == "causal"  # a rule has a name, an array has none
        if mask is not None and not causal:
            raise NotImplementedError("masks other than causal()")
        return flash(*(torch.tensor(x, dtype=dtype, device=DEVICE) for x in (q, k, v)), causal=causal, scale=scale)

    return call


def test_one_result():
    """One call, one line: is the difference rounding?"""
    q, k, v = (torch.randn(1, 2, n, 32, dtype=torch.float16, device=DEVICE) for n in (5, 37, 37))
    out = flash(q, k, v, causal=True)
    assert_matches(out, refattn.attention, q, k, v, mask=refattn.masks.causal(), precision="float16")


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_whole_specification(precision, refattn_check):
    """Golden vectors, directed and random cases; the longest take minutes in the interpreter."""
    effort = {"effort": "smoke"} if INTERPRETED else {}
    refattn_check(attention(getattr(torch, precision)), precision=precision, **effort)
