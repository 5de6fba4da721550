"""Variants of the gradients of norms and softmax whose kernels take a row a block at a time, and get its end wrong."""

from __future__ import annotations

import numpy as np

from refattn.gradients import InputGradient, layer_norm_vjp, rms_norm_vjp
from refattn.softmax import softmax
from refattn.testing.mechanisms.gradients.pieces import norm_by_x
from refattn.testing.registry import NotApplicable, family
from refattn.testing.steps import with_steps
from refattn.testing.tails import EXAMPLE, UNIT, count, mean_of_whole, sizes, whole


def _family(name, clause, function):
    return family(name, clause, function, example=EXAMPLE, values=sizes, unit=UNIT)


@_family("gradient/tail_dropped", "GRAD-LAYERNORM", "layer_norm_vjp")
def layer_norm_tail_dropped(block):
    """Every mean is that of the whole blocks; what fills none is left out."""
    return with_steps(layer_norm_vjp, mean_over=mean_of_whole(block))


@_family("gradient/tail_dropped", "GRAD-RMSNORM", "rms_norm_vjp")
def rms_norm_tail_dropped(block):
    """Every mean is that of the whole blocks; what fills none is left out."""
    return with_steps(rms_norm_vjp, mean_over=mean_of_whole(block))


def _by_x(block, *given, **of):
    """The gradient of a norm by x, whose sums lack what fills no block."""
    over = lambda x, axes: np.sum(whole(x, axes, block)[0], axis=axes, keepdims=True) / count(x.shape, axes)
    return norm_by_x(*given, square=True, over=over, **of)


@_family("gradient/tail_unsummed", "GRAD-LAYERNORM", "layer_norm_vjp")
def layer_norm_tail_unsummed(block):
    """The sums of the backward pass leave out what fills no block; those of the forward pass are right."""

    def call(d_out, x, gamma, beta=None, *, eps=1e-5, axis=-1):
        found = layer_norm_vjp(d_out, x, gamma, beta, eps=eps, axis=axis)
        return found._replace(x=_by_x(block, d_out, x, gamma, eps, axis, centre=True, mean=True))

    return call


@_family("gradient/tail_unsummed", "GRAD-RMSNORM", "rms_norm_vjp")
def rms_norm_tail_unsummed(block):
    """The sum of the backward pass leaves out what fills no block; that of the forward pass is right."""

    def call(d_out, x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
        found = rms_norm_vjp(d_out, x, gamma, eps=eps, axis=axis, unit_offset=unit_offset)
        offset = float(unit_offset)
        return found._replace(x=_by_x(block, d_out, x, gamma, eps, axis, centre=False, mean=False, offset=offset))

    return call


@_family("gradient/tail_unsummed", "GRAD-SOFTMAX", "softmax_vjp")
def softmax_tail_unsummed(block):
    """The sum of weights times cotangents leaves out what fills no block; the weights are right."""

    def call(d_out, x, axis=-1, where=None):
        p = softmax(x, axis=axis, where=where)
        if p.shape != x.shape:
            raise NotApplicable
        left, _ = whole(np.where(p > 0, p * d_out, 0.0), (axis % x.ndim,), block)
        return InputGradient(np.where(p > 0, p * (d_out - np.sum(left, axis=axis, keepdims=True)), 0.0))

    return call
