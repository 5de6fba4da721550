"""A correct kernel of multi-head latent attention in plain NumPy: float32, with operands rounded as a profile says.

It shares no step with the reference: rotations are by complex numbers, heads go one by one, softmax in blocks of keys.
"""

import math

import numpy as np

from refattn import masks
from refattn.heads import Rope
from refattn.positions import rope_frequencies
from refattn.testing.nested import mapped
from refattn.testing.rounding import round_to
from tests.kernels.attention import flash

F32 = np.float32


def turned(x, positions, rope):
    """Pairs of features as complex numbers, times unit numbers; x is (..., N, Dr)."""
    width = x.shape[-1] if rope.rotary_dim is None else rope.rotary_dim
    if not width:
        return x
    theta, factor = 1.0 / float(rope.base) ** (np.arange(0, width, 2) / width), 1.0
    if rope.scaling is not None:
        theta, factor = rope_frequencies(width, base=rope.base, scaling=rope.scaling)
    unit = (factor * np.exp(1j * np.asarray(positions)[..., None] * theta)).astype(np.complex64)
    first, second = (slice(0, width, 2), slice(1, width, 2))
    if rope.layout == "half":
        first, second = slice(0, width // 2), slice(width // 2, width)
    product = (x[..., first] + 1j * x[..., second]).astype(np.complex64) * unit
    out = x.copy()
    out[..., first], out[..., second] = product.real, product.imag
    return out


def normed(x, gain, eps):
    return x * (F32(1) / np.sqrt(np.mean(x * x, axis=-1, keepdims=True, dtype=F32) + F32(eps))) * gain


def wide(x):
    return mapped(lambda part: part.astype(F32) if isinstance(part, np.ndarray) and part.dtype.kind == "f" else part, x)


def kernel(fmt="float32", form=None):
    """The kernel for a format of inputs, weights and results; `form` overrides what `absorbed` asks for."""

    def narrow(x):
        return round_to(x, fmt).astype(F32)

    def latents_of(x, params, *, positions, rope=Rope(), eps=1e-6):
        x, p = wide(x), wide(params)
        down, r = x @ p.w_dkv, p.kv_norm.shape[0]
        return narrow(normed(down[..., :r], p.kv_norm, eps)), narrow(turned(down[..., r:], positions, rope))

    def multi_head_latent_attention(
        x, params, *, heads, mask=None, rope=Rope(), positions=None, eps=1e-6, scale=None, absorbed=False, cache=None,
    ):  # fmt: skip
        x, p, cache = wide(x), wide(params), wide(cache)
        before, n = 0 if cache is None else cache.length, x.shape[-2]
        at = before + np.arange(n) if positions is None else positions
        c, shared = latents_of(x, p, positions=at, rope=rope, eps=eps)
        where = {"q_positions": at, "k_positions": at}
        if cache is not None:
            c, shared = (np.concatenate(both, axis=-2) for both in ((cache.latents, c), (cache.rope_keys, shared)))
            where = {"q_positions": before + np.arange(n), "k_positions": np.arange(before + n)}
            mask = masks.causal() if mask is None else mask
        seen = masks.visible(mask, n, before + n, like=x, **where)
        seen = np.broadcast_to(True if seen is None else seen, (*x.shape[:-1], before + n))
        c, shared = (
            np.where(seen.any(-2)[..., None], part, F32(0)) for part in (c, shared)
        )  # unseen, it holds nothing
        inner = x if p.w_dq is None else narrow(normed(x @ p.w_dq, p.q_norm, eps))
        dr, size, up = shared.shape[-1], p.w_q.shape[1] // heads, p.w_ukv.shape[1] // heads
        options = {"precision": fmt, "tile": 16, "scale": 1 / math.sqrt(size) if scale is None else scale}
        outs = []
        for h in range(heads):
            q = inner @ p.w_q[:, h * size : (h + 1) * size]
            plain, q_r = narrow(q[..., : size - dr]), narrow(turned(q[..., size - dr :], at, rope))
            w_k, w_v = np.split(p.w_ukv[:, h * up : (h + 1) * up], [size - dr], axis=1)
            below = absorbed if form is None else form == "absorbed"
            plain, k, v = (narrow(plain @ w_k.T), c, c) if below else (plain, narrow(c @ w_k), narrow(c @ w_v))
            q, k = np.concatenate([plain, q_r], axis=-1), np.concatenate([k, shared], axis=-1)
            out = flash(q, k, v, seen, **options)[0].astype(F32)
            outs.append(narrow(out @ w_v) if below else out)
        return narrow(np.concatenate(outs, axis=-1) @ p.w_o)

    return {"latent.latents_of": latents_of, "latent.multi_head_latent_attention": multi_head_latent_attention}
