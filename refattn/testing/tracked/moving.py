"""Making, moving and choosing: what passes errors on and adds none."""

from __future__ import annotations

import numpy as np

from refattn.testing.profiles import Profile
from refattn.testing.rounding import round_to
from refattn.testing.tracked.array import CONSTANT, MEMORY, ROW, Tracked, clean, place_of


def _mover(operation):
    """An operation that only moves numbers: their errors move along."""

    def move(self, x, *args, **kwargs):
        args = tuple(a.value if isinstance(a, Tracked) else a for a in args)
        return x.moved(lambda part: operation(part, *args, **kwargs))

    return move


class Moving:
    """The part of the array API that computes nothing."""

    profile: Profile

    reshape = _mover(np.reshape)
    broadcast_to = _mover(np.broadcast_to)
    matrix_transpose = _mover(np.matrix_transpose)
    permute_dims = _mover(np.transpose)
    moveaxis = _mover(np.moveaxis)
    squeeze = _mover(np.squeeze)
    expand_dims = _mover(np.expand_dims)
    flip = _mover(np.flip)
    roll = _mover(np.roll)
    take = _mover(np.take)
    take_along_axis = _mover(np.take_along_axis)
    repeat = _mover(np.repeat)
    tile = _mover(np.tile)

    def asarray(self, values, dtype=None, device=None, copy=None):
        """Constants: a kernel has them in the accumulator's format."""
        if isinstance(values, Tracked):
            return values.moved(np.copy) if copy else values
        return self._constant(np.asarray(values, dtype=dtype))

    def lift(self, x):
        """An operand that may be a Python number."""
        return x if isinstance(x, Tracked) else self._constant(np.asarray(x))

    def _constant(self, value):
        error = 0.0
        if value.dtype.kind == "f":
            value = value.astype(np.float64)
            error = constant_error(self.profile, value)
        return Tracked(self, value, error, place=CONSTANT)

    def arange(self, start, stop=None, step=1, dtype=None, device=None):
        """Integers."""
        return self._constant(np.arange(*((start,) if stop is None else (start, stop, step)), dtype=dtype))

    def empty(self, shape, dtype=np.float64, device=None):
        """Memory: what is written to it decides what it is."""
        return Tracked(self, np.zeros(shape, dtype=dtype), place=MEMORY, leaf=True)

    def zeros(self, shape, dtype=np.float64, device=None):
        """Exact zeros."""
        return Tracked(self, np.zeros(shape, dtype=dtype), place=CONSTANT)

    def ones(self, shape, dtype=np.float64, device=None):
        """Exact ones."""
        return Tracked(self, np.ones(shape, dtype=dtype), place=CONSTANT)

    def full(self, shape, fill_value, dtype=None, device=None):
        """A constant everywhere."""
        return self._constant(np.full(shape, fill_value, dtype=dtype))

    def zeros_like(self, x, dtype=None):
        """Exact zeros."""
        return self.zeros(x.shape, dtype or x.dtype)

    def ones_like(self, x, dtype=None):
        """Exact ones."""
        return self.ones(x.shape, dtype or x.dtype)

    def empty_like(self, x, dtype=None):
        """Zeros: nothing may depend on them."""
        return self.zeros(x.shape, dtype or x.dtype)

    def astype(self, x, dtype, copy=True):
        """Booleans and integers as numbers are exact; between floating-point dtypes nothing happens (both are wide)."""
        if x.value.dtype.kind == "f" and np.dtype(dtype).kind == "f":
            return x
        if x.value.dtype.kind == "f" and np.any(x.error):
            raise NotImplementedError("an inexact number turned into an integer has no error bound")
        value = x.value.astype(np.float64 if np.dtype(dtype).kind == "f" else dtype)
        error = np.broadcast_to(x.unsure, value.shape).astype(np.float64) if x.unsure is not None else 0.0
        return Tracked(self, value, error, place=CONSTANT)

    def concat(self, arrays, axis=0):
        """Moves numbers."""
        return self._joined(np.concatenate, arrays, axis)

    def stack(self, arrays, axis=0):
        """Moves numbers."""
        return self._joined(np.stack, arrays, axis)

    def _joined(self, join, arrays, axis):
        arrays = [self.lift(x) for x in arrays]
        value = join([x.value for x in arrays], axis=axis)
        if value.dtype.kind != "f":
            return Tracked(self, value)
        error = join([np.broadcast_to(0.0 if x.error is None else x.error, x.shape) for x in arrays], axis=axis)
        return Tracked(self, value, error, place=place_of(arrays), leaf=all(x.leaf for x in arrays))

    def searchsorted(self, x, values, side="left"):
        """On exact numbers."""
        return Tracked(self, np.searchsorted(x.value, values.value, side=side))

    def where(self, condition, a, b):
        """Either; where a kernel may choose the other, the difference is an error as well."""
        result_dtype = np.result_type(
            *(x.value.dtype if isinstance(x, Tracked) else np.asarray(x).dtype for x in (a, b))
        )
        a, b, given = self.lift(a), self.lift(b), (a, b)
        value = np.where(condition.value, a.value, b.value)
        if result_dtype.kind != "f":
            return Tracked(self, value)
        error_a, error_b = (0.0 if x.error is None else x.error for x in (a, b))
        error = np.where(condition.value, error_a, error_b)
        if condition.unsure is not None:
            both = np.maximum(error_a, error_b) + np.abs(a.value - b.value)
            error = np.where(condition.unsure, both, error)
        arrays = [x for x in given if isinstance(x, Tracked)]
        error = np.where(np.isfinite(value), error, 0.0)
        result = Tracked(self, value, error, place=place_of(arrays), leaf=all(x.leaf for x in arrays))
        if len(arrays) == 1 and condition.unsure is None:  # a constant in some places: what the array is, it stays
            only = arrays[0]
            result.peak_of, result.sums, result.shift = only.peak_of, only.sums, only.shift
            result.log_error = only.log_error
            if only.ratio is not None and only is given[0] and _is_zero(given[1]):
                r, keep = only.ratio, condition.value
                result.ratio = r._replace(factor=np.where(keep, r.factor, 0.0), own=np.where(keep, r.own, 0.0))
        return result

    def maximum(self, a, b):
        """The larger."""
        return self._chosen(np.maximum, a, b)

    def minimum(self, a, b):
        """The smaller."""
        return self._chosen(np.minimum, a, b)

    def _chosen(self, choose, a, b):
        a, b = self.lift(a), self.lift(b)
        value = choose(a.value, b.value)
        if value.dtype.kind != "f":
            return Tracked(self, value)
        error = clean(value, np.maximum(a.error, b.error))
        return Tracked(self, value, error, place=place_of([a, b]), peak_of=(a, b) if choose is np.maximum else ())

    def round(self, x):
        """The nearest integers, where no error can change which."""
        if np.any((np.abs(np.abs(x.value - np.floor(x.value)) - 0.5) <= x.error) & (x.error > 0)):
            raise NotImplementedError("a number so near to half-way that a kernel may round it either way has no bound")
        return Tracked(self, np.round(x.value), place=x.place)

    def clip(self, x, min=None, max=None):
        """Between two numbers."""
        return Tracked(self, np.clip(x.value, min, max), x.error, place=x.place)

    def max(self, x, axis=None, keepdims=False):
        """The largest: no farther off than the farthest of its candidates."""
        return self._extreme(np.max, x, axis, keepdims)

    def min(self, x, axis=None, keepdims=False):
        """The smallest."""
        return self._extreme(np.min, x, axis, keepdims)

    def _extreme(self, choose, x, axis, keepdims):
        value = choose(x.value, axis=axis, keepdims=keepdims)
        if x.error is None:
            return Tracked(self, value)
        error = np.max(x.error, axis=axis, keepdims=keepdims)
        return Tracked(self, value, error, place=ROW, peak_of=(x,) if choose is np.max else ())

    def compare(self, relation, a, b):
        """A relation, and where it is not sure because the two come closer than their errors."""
        value_a, value_b = (getattr(x, "value", x) for x in (a, b))
        if isinstance(a, Tracked) and a.log_error is not None and not isinstance(b, Tracked) and b == 0:
            return Tracked(self, relation(value_a, value_b))  # what is positive is not 0, however far it is off
        errors = [x.error for x in (a, b) if isinstance(x, Tracked) and x.error is not None]
        unsure = None
        if errors:
            with np.errstate(invalid="ignore"):
                close = np.abs(np.subtract(value_a, value_b)) <= sum(errors)
            close = close & (sum(errors) > 0)
            unsure = close if close.any() else None
        return Tracked(self, relation(value_a, value_b), unsure=unsure)

    def logical_and(self, a, b):
        """Both."""
        return self._logical(np.logical_and, a, b)

    def logical_or(self, a, b):
        """One of them."""
        return self._logical(np.logical_or, a, b)

    def logical_not(self, x):
        """The other."""
        return ~x

    def _logical(self, combine, a, b):
        unsure = [x.unsure for x in (a, b) if isinstance(x, Tracked) and x.unsure is not None]
        return Tracked(
            self,
            combine(getattr(a, "value", a), getattr(b, "value", b)),
            unsure=np.logical_or.reduce(np.broadcast_arrays(*unsure)) if unsure else None,
        )

    def all(self, x, axis=None, keepdims=False):
        """Every one."""
        return Tracked(self, np.all(x.value, axis=axis, keepdims=keepdims))

    def any(self, x, axis=None, keepdims=False):
        """At least one."""
        return Tracked(self, np.any(x.value, axis=axis, keepdims=keepdims))

    def isfinite(self, x):
        """Of exact values."""
        return Tracked(self, np.isfinite(x.value))

    def isnan(self, x):
        """Of exact values."""
        return Tracked(self, np.isnan(x.value))

    def isinf(self, x):
        """Of exact values."""
        return Tracked(self, np.isinf(x.value))


def _is_zero(x):
    return not isinstance(x, Tracked) and x == 0


def constant_error(profile, value):
    """Of numbers that Python computed in float64, by a dozen roundings or so, and that a kernel has in float32."""
    stored = round_to(value, "float32")
    error = np.where(stored == value, 0.0, 16 * 2.0**-53 * np.abs(value))
    return error if profile.out.name == "float64" else error + np.abs(value - stored)
