"""Correct attention kernels, emulated in NumPy: the flash and the eager order, in every style that a profile leaves open."""

import math

import numpy as np

from refattn import masks
from tests.kernels.arithmetic import Arithmetic

LOG2E, LN2 = math.log2(math.e), math.log(2.0)
LAZY = 8.0  # a lazy kernel rescales only where its maximum grew by more than this power of 2 (FlashAttention 4)


def _prepare(machine, q, k, v, mask, bias, sinks, dropout, positions):
    """Inputs in the working type, everything broadcast to (..., N, M)."""
    number, operands = machine.number, machine.profile.operands
    allowed = masks.visible(mask, q.shape[-2], k.shape[-2], like=q, **positions)
    q, k, v = (machine.narrow(x, operands).astype(number) for x in (q, k, v))
    shape = (*np.broadcast_shapes(q.shape[:-2], k.shape[:-2]), q.shape[-2], k.shape[-2])
    allowed = np.broadcast_to(True if allowed is None else allowed, shape)
    bias = None if bias is None else np.broadcast_to(bias, shape).astype(number)
    sinks = None if sinks is None else np.asarray(sinks, dtype=number)[..., None, None]
    keep, rise = None, number(1.0)
    if dropout is not None:
        keep, rise = np.broadcast_to(dropout[0], shape), number(1.0) / number(1.0 - dropout[1])
    return q, k, v, allowed, bias, sinks, keep, rise


def flash(
    q, k, v, mask=None, *, precision,
    tile=64, tiles="forward", splits=1, merging="chain", sums="library", exponent="e", scaling="scores",
    division="end", maximum="exact", denominator="exact", gain=1.0, exp_error=0.0, seed=0,
    bias=None, scale=None, softcap=None, sinks=None, dropout=None, q_positions=None, k_positions=None,
):  # fmt: skip
    """Online softmax over key tiles, weights rounded before they multiply v.

    Parameters
    ----------
    tile, tiles : int, {"forward", "backward", "random"}
        Keys a tile, and in which order tiles are visited.
    splits, merging : int, {"chain", "tree", "outputs"}
        How many kernels share the keys, and how their states are merged: one after the other, in a random tree, or
        from finished outputs and their log-sum-exp.
    sums : str
        See `Arithmetic`.
    exponent : {"e", "2", "2 folded"}
        Exponentials to base e, to base 2 of scores times log2(e), or with log2(e) folded into the scale.
    scaling : {"scores", "query"}
        Where the scale is multiplied.
    division : {"end", "reciprocal", "tile"}
        One division at the end, a product with 1 over the denominator (and with dropout's factor), or an accumulator
        that is normalised after every tile (FlashAttention 1).
    maximum : {"exact", "lazy"}
        lazy: the accumulator is rescaled only where the maximum grew by a factor of 2^8.
    denominator : {"exact", "rounded"}
        Whether the weights are summed before or after they are rounded.
    gain : float
        Weights are stored multiplied by this power of 2 (float8 kernels use the format's range so).
    """
    machine = Arithmetic(precision, sums, exp_error, seed)
    number, weights = machine.number, machine.profile.weights
    positions = {"q_positions": q_positions, "k_positions": k_positions}
    q, k, v, allowed, bias, sinks, keep, rise = _prepare(machine, q, k, v, mask, bias, sinks, dropout, positions)
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    folded = exponent == "2 folded" and not softcap and bias is None
    base = "e" if exponent == "e" else "2"
    unit = number(1.0) if base == "e" else number(LN2)  # one unit of the exponent, in natural logarithms
    factor = number(scale * LOG2E) if folded else number(scale)
    if scaling == "query":
        q, factor = factor * q, number(1.0)
    late = division == "reciprocal"  # then dropout's factor comes with it

    def scores(part):
        s = factor * machine.product(q, np.swapaxes(k[..., part, :], -1, -2))
        if softcap:
            s = number(softcap) * machine.inexact(np.tanh(s / number(softcap)))
        if bias is not None:
            s = s + bias[..., part]
        if base == "2" and not folded:
            s = s * number(LOG2E)
        return np.where(allowed[..., part], s, number(-np.inf))

    def grown(old, s):
        new = np.maximum(old, s.max(axis=-1, keepdims=True))
        if maximum == "exact":
            return new
        return np.where(new - old > number(LAZY if base == "2" else LAZY * LN2), new, old)  # -inf: taken at once

    def power(x, top):
        return np.where(np.isneginf(x), number(0), machine.exp(x - _level(top), base)).astype(number)

    m_keys = k.shape[-2]
    starts = list(range(0, m_keys, tile))
    if tiles != "forward":
        starts = starts[::-1] if tiles == "backward" else list(machine.draw.permutation(starts))
    states = []
    with np.errstate(all="ignore"):
        for piece in (starts[n::splits] for n in range(splits)):
            top = np.full((*allowed.shape[:-1], 1), -np.inf, number)
            total = np.zeros_like(top)
            acc = np.zeros((*allowed.shape[:-1], v.shape[-1]), number)
            for start in piece:
                part = slice(start, min(start + tile, m_keys))
                s = scores(part)
                new = grown(top, s)
                w, shrink = number(gain) * power(s, new), power(top, new)
                stored = w
                if keep is not None:
                    stored = np.where(keep[..., part], w if late else w * rise, number(0))
                stored = machine.narrow(stored, weights)
                summed = machine.narrow(w, weights) if denominator == "rounded" else w
                if division == "tile":
                    acc = acc * total
                total = shrink * total + machine.sum(summed)
                acc = shrink * acc + machine.product(stored, v[..., part, :])
                if division == "tile":
                    acc = acc / _one(total)
                top = new
            states.append((top, total, acc * total if division == "tile" else acc))
        if merging == "outputs":
            states = [(np.log(l) + _level(m) * unit, o / _one(l)) for m, l, o in states]
            lse, out = _merged(states, lambda a, b: _merge_outputs(machine, a, b))
            total, top = np.where(np.isneginf(lse), number(0), number(1)), lse / unit
            lse, acc = lse[..., 0] - number(math.log(gain)), out
        else:
            top, total, acc = _merged(
                states, lambda a, b: _merge_states(power, a, b), machine.draw if merging == "tree" else None
            )
            lse = (np.log(total) + _level(top) * unit)[..., 0] - number(math.log(gain))
        if sinks is not None:
            sinks = sinks / unit + number(math.log2(gain) if base == "2" else math.log(gain))
            new = np.maximum(top, sinks)
            shrink = power(top, new)
            total, acc = shrink * total + power(sinks, new), shrink * acc
        if late:
            out = acc * (number(1) / _one(total) * (rise if keep is not None else number(1)))
        else:
            out = acc / _one(total)
    return machine.out(out), lse.astype(np.float64)


def _one(total):
    """A denominator that is safe to divide by: an empty row has nothing above it."""
    return np.where(total == 0, total.dtype.type(1), total)


def _level(top):
    return np.where(np.isneginf(top), top.dtype.type(0), top)


def _merged(states, merge, draw=None):
    """All states as one: in a chain, or in a random tree."""
    while len(states) > 1:
        n = 0 if draw is None else int(draw.integers(len(states) - 1))
        states[n : n + 2] = [merge(states[n], states[n + 1])]
    return states[0]


def _merge_states(power, a, b):
    (ma, la, oa), (mb, lb, ob) = a, b
    new = np.maximum(ma, mb)
    pa, pb = power(ma, new), power(mb, new)
    return new, pa * la + pb * lb, pa * oa + pb * ob


def _merge_outputs(machine, a, b):
    (la, oa), (lb, ob) = a, b
    new = _level(np.maximum(la, lb))
    pa, pb = machine.exp(la - new), machine.exp(lb - new)
    total = pa + pb
    return np.log(total) + new, oa * (pa / _one(total)) + ob * (pb / _one(total))


def eager(
    q, k, v, mask=None, *, precision, sums="library", exponent="e", division="end", exp_error=0.0, seed=0,
    bias=None, scale=None, softcap=None, sinks=None, dropout=None, q_positions=None, k_positions=None,
):  # fmt: skip
    """Every stage stored in the profile's format: scores, scaled scores, normalised weights, output."""
    machine = Arithmetic(precision, sums, exp_error, seed)
    number, chosen = machine.number, machine.profile
    positions = {"q_positions": q_positions, "k_positions": k_positions}
    q, k, v, allowed, bias, sinks, keep, rise = _prepare(machine, q, k, v, mask, bias, sinks, dropout, positions)
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale

    def store(x):
        return machine.narrow(x, chosen.scores)

    def power(x):
        return machine.exp(x) if exponent == "e" else machine.exp(x * number(LOG2E), "2")

    with np.errstate(all="ignore"):
        s = store(number(scale) * store(machine.product(q, np.swapaxes(k, -1, -2))))
        if softcap:
            s = store(number(softcap) * store(machine.inexact(np.tanh(store(s / number(softcap))))))
        if bias is not None:
            s = store(s + bias)
        s = np.where(allowed, s, number(-np.inf))
        top = _level(s.max(axis=-1, keepdims=True, initial=-np.inf))
        w = power(s - top)
        total = machine.sum(w)
        lse = (np.log(total) + top)[..., 0]
        if sinks is not None:  # the sink joins, and may be the new maximum
            joint = np.maximum(top, sinks)
            w = power(s - joint)
            total = machine.sum(w) + power(sinks - joint)
        total = _one(total)
        p = machine.narrow(w * (number(1) / total) if division == "reciprocal" else w / total, chosen.weights)
        if keep is not None:
            p = machine.narrow(np.where(keep, p * rise, number(0)), chosen.weights)
        out = machine.product(p, v)
    return machine.out(out), lse.astype(np.float64)
