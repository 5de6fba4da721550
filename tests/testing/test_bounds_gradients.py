"""A correct backward kernel in bfloat16 stays inside the bound of the gradients, whichever way it goes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refattn.testing.bounds import bound
from refattn.testing.profiles import profile
from refattn.testing.rounding import round_to
from tests.strategies import rng

F = np.float32


def bf16(x):
    return round_to(x, "bfloat16").astype(F)


def flash(d_out, q, k, v, allowed, bias, d_lse, order):
    """The backward pass of FlashAttention: float32 inside, bfloat16 into matrix products and out; keys in any order."""
    scale = F(1.0 / math.sqrt(q.shape[-1]))
    with np.errstate(all="ignore"):
        s = scale * (q @ np.swapaxes(k, -1, -2)) + bias
        s = np.where(allowed, s, F(-np.inf))
        top = s.max(axis=-1, keepdims=True)
        w = np.exp(s - top)
        total = w.sum(axis=-1, keepdims=True, dtype=F)
        out = bf16((bf16(w) @ v) / total)  # as the forward pass stored it
        lse = np.log(total) + top
        p = np.exp(s - lse)
        delta = np.sum(d_out * out, axis=-1, keepdims=True, dtype=F)
        d_s = p * (d_out @ np.swapaxes(v, -1, -2) - delta + d_lse[..., None])
    d_q, d_k = np.zeros(q.shape, F), np.zeros(k.shape, F)
    for part in order:
        d_q = d_q + bf16(d_s[..., part]) @ k[..., part, :]
        d_k[..., part, :] = np.swapaxes(bf16(d_s[..., part]), -1, -2) @ q
    d_v = np.swapaxes(bf16(p), -1, -2) @ d_out
    return {"q": bf16(scale * d_q), "k": bf16(scale * d_k), "v": bf16(d_v), "bias": bf16(d_s)}


def eager(d_out, q, k, v, allowed, bias, d_lse, order):
    """Every stage stored in bfloat16, as automatic differentiation of separate operations does it."""
    scale = bf16(1.0 / math.sqrt(q.shape[-1]))
    with np.errstate(all="ignore"):
        s = bf16(bf16(scale * bf16(q @ np.swapaxes(k, -1, -2))) + bias)
        s = np.where(allowed, s, F(-np.inf))
        w = np.exp(s - s.max(axis=-1, keepdims=True))
        p = bf16(w / w.sum(axis=-1, keepdims=True, dtype=F))
        d_p = bf16(d_out @ np.swapaxes(v, -1, -2))
        d_s = bf16(p * (d_p - np.sum(p * d_p, axis=-1, keepdims=True, dtype=F)))
        d_s = bf16(d_s + bf16(p * d_lse[..., None]))
    d_v = bf16(np.swapaxes(p, -1, -2) @ d_out)
    d_q, d_k = bf16(scale * bf16(d_s @ k)), bf16(scale * bf16(np.swapaxes(d_s, -1, -2) @ q))
    return {"q": d_q, "k": d_k, "v": d_v, "bias": d_s}


def used(kernel, precision, seed, n, m, *, offset, shift, masked):
    """The largest share of the bound that a kernel uses."""
    draw = np.random.default_rng(seed)
    d, dv = 2 * int(draw.integers(1, 20)), int(draw.integers(1, 40))
    q, k = bf16(draw.normal(size=(2, n, d)) * 2), bf16(draw.normal(size=(2, m, d)))
    v, d_out = bf16(draw.normal(size=(2, m, dv)) + offset), bf16(draw.normal(size=(2, n, dv)))
    bias, d_lse = bf16(draw.normal(size=(2, n, m)) + shift), bf16(draw.normal(size=(2, n)))
    allowed = draw.random((2, n, m)) < (0.6 if masked else 2.0)
    allowed[..., 0] = True
    order = np.array_split(draw.permutation(m), max(m // 5, 1))
    found = kernel(d_out, q, k, v, allowed, bias, d_lse, order)
    q, k, v, d_out, bias, d_lse = (x.astype(np.float64) for x in (q, k, v, d_out, bias, d_lse))
    limits = bound("attention_vjp", profile(precision), d_out, q, k, v, allowed, bias=bias, d_lse=d_lse)
    shares = {}
    for name, x in found.items():
        error, hard = np.abs(x - limits[name].value), limits[name].hard
        assert np.isfinite(hard).all()
        shares[name] = float(np.max(np.where(error == 0, 0.0, error / np.where(hard > 0, hard, 1e-300)), initial=0.0))
    return shares


@pytest.mark.clause("GRAD-EXACT")
@pytest.mark.parametrize("kernel, precision", [(flash, "bfloat16"), (eager, "bfloat16/eager")])
@given(
    seed=rng,
    sizes=st.tuples(st.integers(1, 20), st.integers(1, 70)),
    offset=st.sampled_from([0.0, 30.0]),
    shift=st.sampled_from([0.0, 3000.0, -30000.0]),
    masked=st.booleans(),
)
@settings(max_examples=60)
def test_a_correct_kernel_is_inside(kernel, precision, seed, sizes, offset, shift, masked):
    shares = used(kernel, precision, seed, *sizes, offset=offset, shift=shift, masked=masked)
    assert max(shares.values()) <= 1.0, shares


@pytest.mark.clause("GRAD-EXACT")
def test_the_bound_is_not_far_off():
    """On plain inputs a kernel uses a sizeable part of it: the worst of 20 draws."""
    shares = [used(flash, "bfloat16", seed, 13, 37, offset=0.0, shift=0.0, masked=True) for seed in range(20)]
    for name in ("q", "k", "v", "bias"):
        assert max(share[name] for share in shares) > 0.1, name
