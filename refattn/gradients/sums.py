"""Sums and checks that every vector-Jacobian product shares."""

import math
from typing import Any, NamedTuple

from refattn import backend


class InputGradient(NamedTuple):
    """The gradient of a function of one array.

    Attributes
    ----------
    x : array (...)
        Of the shape of that array.
    """

    x: Any


def checked_cotangent(name, cotangent, of, shape):
    """Check that a cotangent has the shape of the result that it belongs to."""
    if cotangent is not None and tuple(cotangent.shape) != tuple(shape):
        raise ValueError(f"{name} has shape {tuple(cotangent.shape)}; it must have the shape of {of}, {tuple(shape)}")


def summed_to(xp, x, shape):
    """`x` summed over the axes along which an array of this shape was broadcast. [GRAD-BROADCAST]"""
    shape = tuple(shape)
    extra = x.ndim - len(shape)
    axes = (*range(extra), *(extra + n for n, size in enumerate(shape) if size == 1 and x.shape[extra + n] != 1))
    return xp.reshape(xp.sum(x, axis=axes) if axes else x, shape)


def product_of_present(xp, weights, present, x):
    """weights @ x, in which an absent pair multiplies nothing, NaN and infinity included. [GRAD-ABSENT]

    Where a present pair meets NaN or infinity there is no derivative: NaN.
    """
    finite = xp.isfinite(x)
    if bool(xp.all(finite)):
        return xp.matmul(weights, x)
    out = xp.matmul(weights, xp.where(finite, x, 0.0))
    met = xp.matmul(backend.cast(present, x.dtype), backend.cast(~finite, x.dtype)) > 0
    return xp.where(met, math.nan, out)
