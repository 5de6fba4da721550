"""Correct kernels of several precision profiles, emulated in NumPy float32: what the bounds must never accuse."""

import math

import numpy as np

from refattn import masks
from refattn.testing.profiles import profile
from refattn.testing.rounding import round_to


def _narrow(x, fmt, working):
    return x if fmt is None else round_to(x, fmt).astype(working)


def _prepare(chosen, q, k, v, mask, sinks, dropout, positions):
    working = np.float64 if chosen.out.name == "float64" else np.float32
    allowed = masks.visible(mask, q.shape[-2], k.shape[-2], like=q, **positions)
    q, k, v = (_narrow(x, chosen.operands, working).astype(working) for x in (q, k, v))
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2])
    allowed = np.broadcast_to(True if allowed is None else allowed, (*lead, q.shape[-2], k.shape[-2]))
    factor = None
    if dropout is not None:
        factor = np.where(dropout[0], working(1.0) / working(1.0 - dropout[1]), working(0.0)).astype(working)
        factor = np.broadcast_to(factor, allowed.shape)
    sinks = None if sinks is None else np.asarray(sinks, dtype=working)[..., None, None]
    return working, q, k, v, allowed, factor, sinks


def flash(
    q, k, v, mask=None, *, precision, tile=64, reverse=False, splits=1,
    bias=None, scale=None, softcap=None, sinks=None, dropout=None, q_positions=None, k_positions=None,
):  # fmt: skip
    """Online softmax over key tiles, weights rounded before they multiply v, one division at the end."""
    chosen = profile(precision)
    positions = {"q_positions": q_positions, "k_positions": k_positions}
    working, q, k, v, allowed, factor, sinks = _prepare(chosen, q, k, v, mask, sinks, dropout, positions)
    scale = working(1.0 / math.sqrt(q.shape[-1]) if scale is None else scale)
    m_keys = k.shape[-2]
    bias = None if bias is None else np.broadcast_to(bias, allowed.shape).astype(working)
    starts = list(range(0, m_keys, tile))
    pieces = [starts[n::splits] for n in range(splits)]
    states = []
    with np.errstate(all="ignore"):
        for piece in pieces:
            shape = allowed.shape[:-1]
            top = np.full((*shape, 1), -np.inf, working)
            total = np.zeros((*shape, 1), working)
            acc = np.zeros((*shape, v.shape[-1]), working)
            for start in piece[::-1] if reverse else piece:
                part = slice(start, min(start + tile, m_keys))
                s = scale * (q @ np.swapaxes(k[..., part, :], -1, -2))
                if softcap:
                    s = working(softcap) * np.tanh(s / working(softcap))
                if bias is not None:
                    s = s + bias[..., part]
                s = np.where(allowed[..., part], s, working(-np.inf))
                new = np.maximum(top, s.max(axis=-1, keepdims=True))
                safe = np.where(np.isneginf(new), working(0), new)
                w = np.exp(s - safe)
                shrink = np.exp(np.where(np.isneginf(top), -np.inf, top - safe)).astype(working)
                total = shrink * total + w.sum(axis=-1, keepdims=True, dtype=working)
                if factor is not None:
                    w = w * factor[..., part]
                acc = shrink * acc + _narrow(w, chosen.weights, working) @ v[..., part, :]
                top = new
            states.append((top, total, acc))
        while len(states) > 1:
            (ma, la, oa), (mb, lb, ob) = states.pop(0), states.pop(0)
            new = np.maximum(ma, mb)
            safe = np.where(np.isneginf(new), working(0), new)
            a = np.exp(np.where(np.isneginf(ma), -np.inf, ma - safe)).astype(working)
            b = np.exp(np.where(np.isneginf(mb), -np.inf, mb - safe)).astype(working)
            states.append((new, a * la + b * lb, a * oa + b * ob))
        top, total, acc = states[0]
        lse = (np.log(total) + np.where(np.isneginf(top), working(0), top))[..., 0]
        denominator = total
        if sinks is not None:
            new = np.maximum(top, sinks)
            safe = np.where(np.isneginf(new), working(0), new)
            shrink = np.exp(np.where(np.isneginf(top), -np.inf, top - safe)).astype(working)
            denominator, acc = shrink * total + np.exp(sinks - safe), shrink * acc
        out = acc / np.where(denominator == 0, working(1), denominator)
    return round_to(out, chosen.out), lse.astype(np.float64)


def eager(
    q, k, v, mask=None, *, precision, bias=None, scale=None, softcap=None, sinks=None, dropout=None,
    q_positions=None, k_positions=None,
):  # fmt: skip
    """Every stage stored in the profile's format: scores, scaled scores, normalised weights, output."""
    chosen = profile(precision)
    positions = {"q_positions": q_positions, "k_positions": k_positions}
    working, q, k, v, allowed, factor, sinks = _prepare(chosen, q, k, v, mask, sinks, dropout, positions)
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale

    def store(x):
        return _narrow(x, chosen.scores, working)

    with np.errstate(all="ignore"):
        s = store(working(scale) * store(q @ np.swapaxes(k, -1, -2)))
        if softcap:
            s = store(working(softcap) * store(np.tanh(store(s / working(softcap)))))
        if bias is not None:
            s = store(s + bias.astype(working))
        s = np.where(allowed, s, working(-np.inf))
        top = s.max(axis=-1, keepdims=True, initial=-np.inf)
        top = np.where(np.isneginf(top), working(0), top)
        w = np.exp(s - top)
        total = w.sum(axis=-1, keepdims=True, dtype=working)
        lse = (np.log(total) + top)[..., 0]
        if sinks is not None:  # the sink joins, and may be the new maximum
            joint = np.maximum(top, sinks)
            w = np.exp(s - joint)
            total = w.sum(axis=-1, keepdims=True, dtype=working) + np.exp(sinks - joint)
        p = _narrow(w / np.where(total == 0, working(1), total), chosen.weights, working)
        if factor is not None:
            p = _narrow(p * factor, chosen.weights, working)
        out = p @ v
    return round_to(out, chosen.out), lse.astype(np.float64)
