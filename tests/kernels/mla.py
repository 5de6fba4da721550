"""A correct kernel of multi-head latent attention in plain NumPy: float32, with operands rounded as a profile says.

It shares no step with the reference: rotations are by complex numbers, heads go one by one, softmax in blocks of keys.
"""

import math

import numpy as np

from refattn import masks
from refattn.heads import Rope
from refattn.positions import rope_frequencies
from refattn.testing.rounding import round_to

F32 = np.float32


def turned(x, positions, rope):
    """Pairs of features as complex numbers, times unit numbers; x is (..., N, Dr)."""
    width = x.shape[-1] if rope.rotary_dim is None else rope.rotary_dim
    if not width:
        return x
    theta, factor = 1.0 / float(rope.base) ** (np.arange(0, width, 2) / width), 1.0
    if rope.scaling is not None:
        theta, factor = rope_frequencies(width, base=rope.base, scaling=rope.scaling)
    angle = np.asarray(positions)[..., None] * theta
    unit = (factor * np.exp(1j * angle)).astype(np.complex64)
    first, second = (slice(0, width, 2), slice(1, width, 2))
    if rope.layout == "half":
        first, second = slice(0, width // 2), slice(width // 2, width)
    product = (x[..., first] + 1j * x[..., second]).astype(np.complex64) * unit
    out = x.copy()
    out[..., first], out[..., second] = product.real, product.imag
    return out


def normed(x, gain, eps):
    return x * (F32(1) / np.sqrt(np.mean(x * x, axis=-1, keepdims=True, dtype=F32) + F32(eps))) * gain


def kernel(fmt="float32", form=None):
    """The kernel for a format of inputs, weights and results; `form` overrides what `absorbed` asks for."""

    def narrow(x):
        return x if fmt == "float32" else round_to(x, fmt).astype(F32)

    def latents(x, p, positions, rope, eps):
        down = x @ p.w_dkv
        r = p.kv_norm.shape[0]
        return narrow(normed(down[..., :r], p.kv_norm, eps)), narrow(turned(down[..., r:], positions, rope))

    def wide(x):
        return type(x)(*map(wide, x)) if isinstance(x, tuple) else None if x is None else x.astype(F32)

    def latents_of(x, params, *, positions, rope=Rope(), eps=1e-6):
        return latents(wide(x), wide(params), positions, rope, eps)

    def softmax_mix(scores, seen, values, block=16):
        """Running maxima over blocks of keys; weights are rounded before they are summed into the output."""
        shape = scores.shape[:-1]
        top, total = np.full(shape, -np.inf, F32), np.zeros(shape, F32)
        mixed = np.zeros((*shape, values.shape[-1]), F32)
        for start in range(0, scores.shape[-1], block):
            part = slice(start, start + block)
            s = np.where(seen[..., part], scores[..., part], -np.inf).astype(F32)
            new = np.maximum(top, s.max(-1, initial=-np.inf))
            finite = np.where(np.isfinite(new), new, 0).astype(F32)
            old, w = np.exp(top - finite), np.exp(s - finite[..., None])
            v = np.where(seen[..., part].any(tuple(range(seen.ndim - 1)))[:, None], values[..., part, :], 0)
            own = seen[..., part].any(-2)  # what no query of a sequence sees holds nothing
            v = np.where(own[..., None], v, 0).astype(F32)
            mixed = mixed * old[..., None] + narrow(w) @ v
            total, top = total * old + w.sum(-1, dtype=F32), new
        return mixed / np.where(total == 0, 1, total)[..., None].astype(F32)

    def multi_head_latent_attention(
        x, params, *, heads, mask=None, rope=Rope(), positions=None, eps=1e-6, scale=None, absorbed=False, cache=None,
    ):  # fmt: skip
        x, p, cache = wide(x), wide(params), wide(cache)
        n = x.shape[-2]
        before = 0 if cache is None else cache.length
        at = before + np.arange(n) if positions is None else positions
        c, shared = latents(x, p, at, rope, eps)
        q_at = k_at = at
        if cache is not None:
            c, shared = (np.concatenate(both, axis=-2) for both in ((cache.latents, c), (cache.rope_keys, shared)))
            q_at, k_at = before + np.arange(n), np.arange(before + n)
            mask = masks.causal() if mask is None else mask
        m = before + n
        if mask is None:
            seen = np.ones((n, m), bool)
        else:
            seen = mask.dense(n, m, q_positions=q_at, k_positions=k_at) if isinstance(mask, masks.Mask) else mask
        seen = np.broadcast_to(seen, (*x.shape[:-2], n, m))
        dr = shared.shape[-1]
        inner = x if p.w_dq is None else narrow(normed(x @ p.w_dq, p.q_norm, eps))
        size = p.w_q.shape[1] // heads
        dn, up = size - dr, p.w_ukv.shape[1] // heads
        tau = F32(1 / math.sqrt(size) if scale is None else scale)
        outs = []
        for h in range(heads):
            q = inner @ p.w_q[:, h * size : (h + 1) * size]
            plain, qr = narrow(q[..., :dn]), narrow(turned(q[..., dn:], at, rope))
            w_k, w_v = p.w_ukv[:, h * up : h * up + dn], p.w_ukv[:, h * up + dn : (h + 1) * up]
            by_position = qr @ np.swapaxes(shared, -1, -2)
            if absorbed if form is None else form == "absorbed":
                scores = narrow(plain @ w_k.T) @ np.swapaxes(c, -1, -2)
                out = narrow(softmax_mix(tau * (scores + by_position), seen, c)) @ w_v
            else:
                scores = plain @ np.swapaxes(narrow(c @ w_k), -1, -2)
                out = softmax_mix(tau * (scores + by_position), seen, narrow(c @ w_v))
            outs.append(narrow(out))
        return narrow(np.concatenate(outs, axis=-1) @ p.w_o)

    return {"latent.latents_of": latents_of, "latent.multi_head_latent_attention": multi_head_latent_attention}
