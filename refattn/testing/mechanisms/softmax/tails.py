"""Variants of softmax and log-sum-exp whose kernels take a row a block at a time, and get the end of it wrong."""

from __future__ import annotations

import numpy as np

from refattn.softmax import logsumexp, shifted_exp, softmax
from refattn.testing.registry import family
from refattn.testing.steps import with_steps
from refattn.testing.tails import EXAMPLE, UNIT, lacking, sizes, whole


def _family(name, clause, function):
    return family(name, clause, function, example=EXAMPLE, values=sizes, unit=UNIT)


def _dropped(block):
    def shifted(xp, x, axis):
        weights, _, peak = shifted_exp(xp, x, axis)
        left, _ = whole(weights, (axis % x.ndim,), block)
        return weights, np.sum(left, axis=axis, keepdims=True), peak

    return shifted


def _zeros(block):
    def shifted(xp, x, axis):
        weights, total, peak = shifted_exp(xp, x, axis)
        more = lacking(x.shape, (axis % x.ndim,), block)
        top = np.maximum(peak, 0.0)
        lower = np.where(peak == top, 1.0, np.exp(peak - top))
        return weights * lower, total * lower + more * np.exp(-top), top

    return shifted


@_family("softmax/tail_dropped", "SOFTMAX-NORMAL", "softmax")
def softmax_tail_dropped(block):
    """The sum leaves out what fills no block."""
    return with_steps(softmax, shifted_exp=_dropped(block))


@_family("softmax/tail_zeros", "SOFTMAX-NORMAL", "softmax")
def softmax_tail_zeros(block):
    """Logits of 0 fill the last block, and take part in the sum."""
    return with_steps(softmax, shifted_exp=_zeros(block))


@_family("lse/tail_dropped", "LSE-NATURAL", "logsumexp")
def lse_tail_dropped(block):
    """The sum leaves out what fills no block."""
    return with_steps(logsumexp, shifted_exp=_dropped(block))


@_family("lse/tail_zeros", "LSE-NATURAL", "logsumexp")
def lse_tail_zeros(block):
    """Logits of 0 fill the last block, and take part in the sum."""
    return with_steps(logsumexp, shifted_exp=_zeros(block))
