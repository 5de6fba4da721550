"""A JAX kernel, judged. Copy this file, put your kernel in the place of `attention`, and run

pip install 'refattn[jax]' pytest hypothesis
pytest test_jax_kernel.py
"""

import datetime
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings

import refattn
from refattn.testing import assert_matches
from refattn.testing.allow import Allowance
from refattn.testing.strategies import attention_cases


@partial(jax.jit, static_argnames=["return_lse"])
def kernel(q, k, v, allowed=None, bias=None, scale=None, return_lse=False):
    """Grouped attention in the layout of jax, (B, N, H, D), with a boolean mask and a bias."""
    groups = q.shape[2] // k.shape[2]
    k, v = jnp.repeat(k, groups, axis=2), jnp.repeat(v, groups, axis=2)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = jnp.einsum("bnhd,bmhd->bhnm", q, k, precision="highest").astype(jnp.float32) * scale
    scores = scores if bias is None else scores + bias
    scores = scores if allowed is None else jnp.where(allowed, scores, -jnp.inf)
    largest = jnp.max(scores, axis=-1, keepdims=True, initial=-jnp.inf)
    base = jnp.where(largest == -jnp.inf, 0.0, largest)  # a row that may attend to nothing
    weights = jnp.exp(scores - base)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    weights = (weights / jnp.where(total == 0, 1.0, total)).astype(v.dtype)
    out = jnp.einsum("bhnm,bmhd->bnhd", weights, v, precision="highest")
    return (out, (jnp.log(total) + base)[..., 0]) if return_lse else out


def attention(q, k, v, mask=None, *, bias=None, scale=None, return_lse=False):
    """The kernel as the reference is called. What it has no argument for (softcap, sinks, ...) is skipped, not failed."""
    if k.shape[:3] != v.shape[:3] or q.shape[2] % k.shape[2]:
        raise ValueError(f"shapes do not fit: q {q.shape}, k {k.shape}, v {v.shape}")
    allowed = refattn.masks.visible(mask, q.shape[1], k.shape[1], like=q)  # a rule or an array, as an array
    return kernel(q, k, v, allowed, bias, scale, return_lse)


def test_one_result():
    """One call, one line: is the difference rounding?"""
    q, k, v = np.random.default_rng(0).normal(size=(3, 1, 17, 2, 32)).astype(np.float32)
    out = attention(q, k, v, refattn.masks.causal())
    swapped = (np.swapaxes(x, 1, 2) for x in (q, k, v))  # the reference takes (B, H, N, D)
    assert_matches(np.swapaxes(out, 1, 2), refattn.attention, *swapped, refattn.masks.causal())


def test_the_whole_specification(refattn_check):
    """Golden vectors, directed and random cases, in the kernel's own layout."""
    me, end = f"{__name__}:attention", datetime.date(2099, 1, 1)
    known = [  # what it breaks knowingly, with a reason and a date to look again
        Allowance(me, "attention", "values/multiplied_by_zero", "weight 0 times NaN is NaN; the cache holds none", end),
        Allowance(
            me, "attention", "bias/infinity_adds", "NaN plus -inf is NaN; biases of -inf come with clean keys", end
        ),
    ]
    refattn_check(attention, layout="bnhd", precision="float32/eager", allow=known)


@settings(deadline=None, max_examples=30)
@given(attention_cases(options=("mask", "bias"), numbers=("normal", "needle", "heavy"), largest=20))
def test_any_options(case):
    """Hypothesis looks for what breaks it, and shrinks it."""
    given = {name: np.swapaxes(x, 1, 2) if name in ("q", "k", "v") else x for name, x in case.arguments.items()}
    assert_matches(
        np.swapaxes(attention(**given), 1, 2), refattn.attention, **case.arguments, precision="float32/eager"
    )
