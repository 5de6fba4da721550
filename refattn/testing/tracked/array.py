"""Arrays that carry how wrong they may be, and where a kernel would have them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

# Where an array is: in memory, in the accumulator's registers, or inside a kernel that reduces over rows, either as
# the reduced row ("row") or as something of the row's length that was combined with it ("inside"). What is made of
# constants and indices alone ("constant": angles, distances) is computed wide, whatever the profile stores.
MEMORY, REGISTERS, INSIDE, ROW, CONSTANT = "memory", "registers", "inside", "row", "constant"


class Ratio(NamedTuple):
    """Weights w/Σw, times a factor: what moves with the sum, and what does not.

    Attributes
    ----------
    moved : array (..., M)
        p|θ|: the error of each weight before the division, over the sum.
    factor : array (..., M), (..., 1) or 1.0
        What the weights have been multiplied by since (dropout, a sink's share).
    common : array (..., 1) or 0.0
        Relative error that all weights of a row share: that of the sum's own rounding.
    own : array (..., M)
        Further error of each weight for itself.
    """

    moved: np.ndarray
    factor: Any
    common: Any
    own: Any


class Tracked:
    """An array of exact values with an error bound, in a `Namespace`. Booleans and integers carry no error."""

    def __init__(
        self, xp, value, error=0.0, *, place=REGISTERS, leaf=False, peak_of=(), shift=None, sums=None, ratio=None,
        log_error=None, unsure=None,
    ):  # fmt: skip
        self.xp, self.value, self.place, self.leaf = xp, np.asarray(value), place, leaf
        self.error = np.broadcast_to(error, self.value.shape) if self.value.dtype.kind == "f" else None
        self.peak_of = peak_of  # the arrays whose maximum this is
        self.shift = shift  # the maximum that was subtracted before exp
        self.carried: Any = None  # of a difference: the maximum that it was taken from, and the error beside that one's
        self.sums = sums  # the array whose sum this is
        self.ratio: Ratio | None = ratio
        self.log_error = log_error  # of positive numbers: how far their logarithm is off
        self.unsure = unsure  # for booleans: where a correct kernel may decide otherwise

    dtype = property(lambda self: self.value.dtype)
    shape = property(lambda self: self.value.shape)
    ndim = property(lambda self: self.value.ndim)
    size = property(lambda self: self.value.size)
    device = "cpu"

    def __array_namespace__(self, api_version=None):
        """The namespace in which the array was made."""
        return self.xp

    def __bool__(self):
        return bool(self.value)

    def __int__(self):
        return int(self.value)

    __index__ = __int__

    def __float__(self):
        return float(self.value)

    def __getitem__(self, key):
        key = tuple(k.value if isinstance(k, Tracked) else k for k in key) if isinstance(key, tuple) else key
        return self.moved(lambda x: x[key.value if isinstance(key, Tracked) else key])

    def __setitem__(self, key, new):
        """Written to memory: numbers with their errors."""
        self.value[key] = new.value
        if self.error is not None:
            if not self.error.flags.writeable:
                self.error = np.array(self.error)
            self.error[key] = new.error
        if not new.leaf:
            self.leaf, self.place = False, new.place

    def moved(self, move):
        """The same numbers elsewhere."""
        error = None if self.error is None else move(self.error)
        unsure = None if self.unsure is None else move(np.broadcast_to(self.unsure, self.shape))
        return Tracked(self.xp, move(self.value), error, place=self.place, leaf=self.leaf, unsure=unsure)

    def __neg__(self):
        return Tracked(self.xp, -self.value, self.error, place=self.place, leaf=self.leaf)

    def __invert__(self):
        return Tracked(self.xp, ~self.value, unsure=self.unsure)

    def __add__(self, other):
        return self.xp.add(self, other)

    __radd__ = __add__

    def __sub__(self, other):
        return self.xp.subtract(self, other)

    def __rsub__(self, other):
        return self.xp.subtract(other, self)

    def __mul__(self, other):
        return self.xp.multiply(self, other)

    __rmul__ = __mul__

    def __truediv__(self, other):
        return self.xp.divide(self, other)

    def __rtruediv__(self, other):
        return self.xp.divide(other, self)

    def __pow__(self, power):
        return self.xp.pow(self, power)

    def __matmul__(self, other):
        return self.xp.matmul(self, other)

    def __and__(self, other):
        return self.xp.logical_and(self, other)

    def __or__(self, other):
        return self.xp.logical_or(self, other)

    __rand__, __ror__ = __and__, __or__

    def __mod__(self, other):
        return self._integer(np.mod, other)

    def __floordiv__(self, other):
        return self._integer(np.floor_divide, other)

    def _integer(self, operation, other):
        if self.value.dtype.kind == "f":
            raise NotImplementedError("remainders of inexact numbers have no error bound")
        return Tracked(self.xp, operation(self.value, getattr(other, "value", other)))

    def __eq__(self, other):
        return self.xp.compare(np.equal, self, other)

    def __ne__(self, other):
        return self.xp.compare(np.not_equal, self, other)

    def __lt__(self, other):
        return self.xp.compare(np.less, self, other)

    def __le__(self, other):
        return self.xp.compare(np.less_equal, self, other)

    def __gt__(self, other):
        return self.xp.compare(np.greater, self, other)

    def __ge__(self, other):
        return self.xp.compare(np.greater_equal, self, other)

    __hash__ = object.__hash__  # arrays are told apart by identity


def clean(value, error):
    """NaN among errors is no bound; where the exact value is no number there is nothing to be off from."""
    return np.where(np.isfinite(value), np.where(np.isnan(error), np.inf, error), 0.0)


def rounded(value, error, fmt):
    """The error of a number that is stored in a format; an exact zero stays one."""
    added = np.maximum(fmt.u * (np.abs(value) + error), fmt.eta)
    return clean(value, error + np.where((value == 0) & (np.asarray(error) == 0), 0.0, added))


def finite(x):
    return np.where(np.isfinite(x), x, 0.0)


def place_of(arrays):
    """Where something put together from arrays is."""
    places = {x.place for x in arrays if x.error is not None}
    return next((place for place in (INSIDE, REGISTERS, ROW, MEMORY) if place in places), CONSTANT)
