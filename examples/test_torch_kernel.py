"""A PyTorch kernel, judged. Copy this file, put your kernel in the place of `flash`, and run

pip install 'refattn[torch]' pytest hypothesis
pytest test_torch_kernel.py
"""

import pytest
import torch
from hypothesis import given, settings

import refattn
from refattn.testing import assert_matches
from refattn.testing.strategies import attention_cases


def flash(q, k, v, causal=False, scale=None, tile=16):
    """Attention over (B, H, N, D) tensors, a tile of keys at a time; the queries are the last N of M positions."""
    if k.shape[:-1] != v.shape[:-1] or q.shape[-1] != k.shape[-1] or q.shape[:2] != k.shape[:2]:
        raise ValueError(f"shapes do not fit: q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}")
    n, m = q.shape[-2], k.shape[-2]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    largest = torch.full((*q.shape[:-1], 1), -torch.inf)
    total = torch.zeros_like(largest)
    out = torch.zeros(*q.shape[:-1], v.shape[-1])
    rows = torch.arange(m - n, m)[:, None]
    for start in range(0, m, tile):
        some = slice(start, min(start + tile, m))
        scores = q.float() @ k[..., some, :].float().mT * scale
        hidden = (torch.arange(some.start, some.stop) > rows) & causal
        scores = scores.masked_fill(hidden, -torch.inf)
        new = torch.maximum(largest, scores.amax(-1, keepdim=True))
        base = torch.where(new == -torch.inf, 0.0, new)  # a row that has seen nothing yet
        weights, shrink = torch.exp(scores - base), torch.exp(largest - base)
        total = total * shrink + weights.sum(-1, keepdim=True)
        out = out * shrink + mixed(weights.to(v.dtype).float(), v[..., some, :].float(), hidden)  # of the narrow format
        largest = new
    return (out / torch.where(total == 0, 1.0, total)).to(q.dtype)


def mixed(weights, v, hidden):
    """weights @ v, to which hidden values add nothing, whatever they hold: 0 times NaN is NaN."""
    finite = torch.isfinite(v)
    clean = weights @ torch.where(finite, v, 0.0)
    sees = (~hidden).float() @ (~finite).float() > 0
    return torch.where(sees, weights @ v, clean)


def test_one_result():
    """One call, one line: is the difference rounding?"""
    q, k, v = (torch.randn(2, 3, n, 32, dtype=torch.bfloat16) for n in (5, 37, 37))
    out = flash(q, k, v, causal=True)
    assert_matches(out, refattn.attention, q, k, v, mask=refattn.masks.causal(), precision="bfloat16")


def attention(dtype):
    """`flash` as the reference is called. What it has no argument for, or cannot do, is skipped and not failed."""

    def call(q, k, v, mask=None, *, scale=None):
        causal = getattr(mask, "name", None) == "causal"  # a rule has a name, an array has none
        if mask is not None and not causal:
            raise NotImplementedError("masks other than causal()")
        return flash(*(torch.tensor(x, dtype=dtype) for x in (q, k, v)), causal=causal, scale=scale)

    return call


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_the_whole_specification(precision, refattn_check):
    """Golden vectors, directed and random cases."""
    refattn_check(attention(getattr(torch, precision)), precision=precision)


@settings(deadline=None)
@given(attention_cases(dtype="bfloat16", options=(), empty=False))
def test_any_sizes(case):
    """Hypothesis looks for sizes and numbers that break it, and shrinks what it finds."""
    q, k, v = (torch.tensor(x, dtype=torch.bfloat16) for x in case.arguments.values())
    assert_matches(flash(q, k, v), refattn.attention, q, k, v, precision="bfloat16")
