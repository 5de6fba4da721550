"""Variants of LayerNorm and RMSNorm whose kernels take a row a block at a time, and get the end of it wrong."""

from __future__ import annotations

import numpy as np

from refattn.norms import layer_norm, rms_norm
from refattn.testing.mechanisms.norms.variants import affine, axes_of
from refattn.testing.registry import family
from refattn.testing.steps import with_steps
from refattn.testing.tails import EXAMPLE, UNIT, count, lacking, mean_of_whole, sizes, whole


def _family(name, clause, function):
    return family(name, clause, function, example=EXAMPLE, values=sizes, unit=UNIT)


@_family("norm/tail_dropped", "LAYERNORM-OUT", "layer_norm")
def layer_norm_tail_dropped(block):
    """Mean and variance are those of the whole blocks; what fills none is left out."""
    return with_steps(layer_norm, mean_over=mean_of_whole(block))


@_family("norm/tail_dropped", "RMSNORM-OUT", "rms_norm")
def rms_norm_tail_dropped(block):
    """The mean square is that of the whole blocks; what fills none is left out."""
    return with_steps(rms_norm, mean_over=mean_of_whole(block))


def _layer_norm(mean, variance):
    """LayerNorm by another mean of x and another variance, of what deviates from it: either takes its axes, too."""

    def call(x, gamma, beta=None, *, eps=1e-5, axis=-1):
        axes = axes_of(axis, x)
        m = mean(x, axes)
        return affine((x - m) / np.sqrt(variance(x - m, m, axes) + eps), gamma, beta, axes)

    return call


def _rms_norm(mean):
    """RMSNorm by another mean of the squares."""

    def call(x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
        axes = axes_of(axis, x)
        gamma = 1.0 + gamma if gamma is not None and unit_offset else gamma
        return affine(x / np.sqrt(mean(x * x, axes) + eps), gamma, None, axes)

    return call


def _unsummed(block):
    """The sum over whole blocks, divided by the number of all entries."""
    return lambda x, axes: np.sum(whole(x, axes, block)[0], axis=axes, keepdims=True) / count(x.shape, axes)


@_family("norm/tail_unsummed", "LAYERNORM-OUT", "layer_norm")
def layer_norm_tail_unsummed(block):
    """The sums for mean and variance leave out what fills no block, and are divided by the number of all entries."""
    mean = _unsummed(block)
    return _layer_norm(mean, lambda centred, m, axes: mean(centred**2, axes))


@_family("norm/tail_unsummed", "RMSNORM-OUT", "rms_norm")
def rms_norm_tail_unsummed(block):
    """The sum of squares leaves out what fills no block, and is divided by the number of all entries."""
    return _rms_norm(_unsummed(block))


def _padded(block):
    """The sum, divided by the number of entries with those that fill the last block."""
    return lambda x, axes: np.sum(x, axis=axes, keepdims=True) / (count(x.shape, axes) + lacking(x.shape, axes, block))


@_family("norm/tail_zeros", "LAYERNORM-OUT", "layer_norm")
def layer_norm_tail_zeros(block):
    """Zeros fill the last block, and count as entries: in mean, variance and number."""
    mean = _padded(block)

    def variance(centred, m, axes):
        n, more = count(centred.shape, axes), lacking(centred.shape, axes, block)
        return mean(centred**2, axes) + m**2 * (more / (n + more))

    return _layer_norm(mean, variance)


@_family("norm/tail_zeros", "RMSNORM-OUT", "rms_norm")
def rms_norm_tail_zeros(block):
    """Zeros fill the last block, and count as entries."""
    return _rms_norm(_padded(block))


@_family("norm/tail_deviates", "LAYERNORM-VARIANCE", "layer_norm")
def layer_norm_tail_deviates(block):
    """Zeros fill the last block: they do not count, but how they deviate from the mean goes into the variance."""

    def variance(centred, m, axes):
        return np.mean(centred**2, axis=axes, keepdims=True) + m**2 * (
            lacking(centred.shape, axes, block) / count(centred.shape, axes)
        )

    return _layer_norm(lambda x, axes: np.mean(x, axis=axes, keepdims=True), variance)
