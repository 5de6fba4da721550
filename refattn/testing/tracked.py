"""Error bounds without hand derivation: arrays that carry how wrong they may be.

A `Tracked` array holds exact values and, element by element, how far from them a correct kernel of a precision profile
can be. It follows the array API, so that the reference functions themselves run on it: every operation passes the
errors of its operands on and adds its own rounding. What is rounded, and when:

- a step of arithmetic rounds once, in the accumulator's format; exp, log, tanh, erf, sin, cos and sqrt err by u_exp;
- a sum of n terms errs by γ_n, in whatever order a kernel adds; constants are rounded;
- what enters a matrix product is rounded to the format of weights, unless it was read from memory;
- where a profile stores scores (eager order), every step's result is stored in that format; a step that reduces over
  a row (softmax, a norm) is one kernel, whose inside stays in the accumulator until it meets another argument;
- results are rounded to the profile's output format.

Two dependencies between operands are followed, since attention would be hopeless without them. The maximum that a
softmax subtracts cancels, whatever its error. And weights that are divided by their own sum err together: errors θ of
the weights move Σ p v by Σ p θ (v - o) / (1 + Σ p θ), not by Σ p |θ| |v| (docs/bounds.md derives it).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import scipy.special

from refattn import backend, masks
from refattn.testing.bounds import Bound, gamma
from refattn.testing.profiles import Profile
from refattn.testing.rounding import FORMATS, round_to
from refattn.testing.variants.masks import rewrite
from refattn.testing.vectors import function_named, results

_CHUNK = 2_000_000  # numbers in the largest temporary
_MARGIN = 8  # roundings of a sum beyond its terms: merges of partial sums, a rescaling or two

# Where an array is: in memory, in the accumulator's registers, or inside a kernel that reduces over rows, either as
# the reduced row ("row") or as something of the row's length that was combined with it ("inside").
MEMORY, REGISTERS, INSIDE, ROW = "memory", "registers", "inside", "row"


def automatic_bound(function: str, profile: Profile, /, *args, **kwargs) -> dict[str, Bound]:
    """The results of any reference function with their hard bounds, from its own code.

    The bound holds for a kernel that takes the reference's steps, each sum in any order.

    Parameters
    ----------
    function : str
        'attention', 'positions.rotate'.
    profile : Profile
    *args, **kwargs
        The reference function's arguments (NumPy).

    Examples
    --------
    >>> from refattn.testing.profiles import profile
    >>> found = automatic_bound("softmax", profile("float32"), np.zeros(4))["out"]
    >>> float(found.value[0]), bool(found.hard[0] < 1e-6)
    (0.25, True)
    """
    xp = Namespace(profile)
    with np.errstate(all="ignore"):
        returned = function_named(function)(
            *(_tracked(xp, x) for x in args), **{name: _tracked(xp, x) for name, x in kwargs.items()}
        )
        return {name: _bound(profile, name, x) for name, x in _flat(results(returned)).items()}


def _flat(found):
    """Parameter sets among the results (gradients of them) field by field: 'params.w_in'."""
    flat: dict[str, Any] = {}
    for name, x in found.items():
        if hasattr(x, "_asdict"):
            flat |= {f"{name}.{key}": value for key, value in _flat(results(x)).items()}
        else:
            flat[name] = x
    return flat


def _bound(profile, name, x):
    if not isinstance(x, Tracked):
        return Bound(np.asarray(x), np.zeros(np.shape(x)))
    if x.value.dtype.kind != "f":
        return Bound(x.value, np.zeros(x.shape))
    fmt = FORMATS["float32"] if name == "lse" and profile.out.precision < 24 else profile.out
    done = x.place == MEMORY and (x.leaf or profile.scores is fmt)
    return Bound(x.value, x.error if done else _rounded(x.value, x.error, fmt))


def _tracked(xp, x):
    """An argument with every array in it tracked and free of error, rules and parameter sets included."""
    if isinstance(x, np.ndarray | np.generic):
        x = np.asarray(x)
        return Tracked(xp, x.astype(np.float64) if x.dtype.kind == "f" else x, place=MEMORY, leaf=True)
    if isinstance(x, tuple | list):
        items = [_tracked(xp, item) for item in x]
        return type(x)(*items) if hasattr(x, "_fields") else type(x)(items)
    if isinstance(x, masks.Mask) and any(isinstance(value, np.ndarray) for value in x._data()):
        return rewrite(
            x, lambda rule: getattr(masks, rule.name)(**{k: _tracked(xp, v) for k, v in rule.arguments.items()})
        )
    return x


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
        unsure=None,
    ):  # fmt: skip
        self.xp, self.value, self.place, self.leaf = xp, np.asarray(value), place, leaf
        self.error = np.broadcast_to(error, self.value.shape) if self.value.dtype.kind == "f" else None
        self.peak_of = peak_of  # the arrays whose maximum this is
        self.shift = shift  # the maximum that was subtracted before exp
        self.sums = sums  # the array whose sum this is
        self.ratio: Ratio | None = ratio
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
        return self._moved(lambda x: x[key.value if isinstance(key, Tracked) else key])

    def _moved(self, move):
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


class Namespace:
    """The array API on `Tracked` arrays, as far as the reference uses it, in the arithmetic of one profile."""

    __name__ = "refattn.testing.tracked"
    float64, float32, int64, bool = np.dtype("float64"), np.dtype("float32"), np.dtype("int64"), np.dtype("bool")
    inf, nan, pi, newaxis = math.inf, math.nan, math.pi, None

    def __init__(self, profile: Profile):
        self.profile = profile
        self.u = min(profile.u_acc, 2.0**-23)  # off the matrix units, whose accumulators may be narrower
        if profile.u_acc >= 2.0**-11:
            self.u = profile.u_acc  # each single operation is rounded to a narrow format
        self.eta = profile.eta_acc

    # --- making arrays ---

    def asarray(self, values, dtype=None, device=None):
        """Constants: a kernel has them in the accumulator's format."""
        if isinstance(values, Tracked):
            return values
        return self._constant(np.asarray(values, dtype=dtype))

    def _constant(self, value):
        error = 0.0
        if value.dtype.kind == "f":
            value = value.astype(np.float64)
            if self.profile.out.name != "float64":
                error = np.abs(value - round_to(value, "float32"))
        return Tracked(self, value, error, place=MEMORY)

    def arange(self, start, stop=None, step=1, dtype=None, device=None):
        """Integers."""
        return self._constant(np.arange(*((start,) if stop is None else (start, stop, step)), dtype=dtype))

    def zeros(self, shape, dtype=np.float64, device=None):
        """Exact zeros."""
        return Tracked(self, np.zeros(shape, dtype=dtype), place=MEMORY)

    def ones(self, shape, dtype=np.float64, device=None):
        """Exact ones."""
        return Tracked(self, np.ones(shape, dtype=dtype), place=MEMORY)

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
        if x.value.dtype.kind == "f":
            raise NotImplementedError("an inexact number turned into an integer has no error bound")
        value = x.value.astype(np.float64 if np.dtype(dtype).kind == "f" else dtype)
        error = np.broadcast_to(x.unsure, value.shape).astype(np.float64) if x.unsure is not None else 0.0
        return Tracked(self, value, error, place=x.place)

    # --- moving numbers ---

    def reshape(self, x, shape):
        """Moves numbers."""
        return x._moved(lambda part: np.reshape(part, shape))

    def broadcast_to(self, x, shape):
        """Moves numbers."""
        return x._moved(lambda part: np.broadcast_to(part, shape))

    def matrix_transpose(self, x):
        """Moves numbers."""
        return x._moved(lambda part: np.swapaxes(part, -1, -2))

    def permute_dims(self, x, axes):
        """Moves numbers."""
        return x._moved(lambda part: np.transpose(part, axes))

    def moveaxis(self, x, source, destination):
        """Moves numbers."""
        return x._moved(lambda part: np.moveaxis(part, source, destination))

    def squeeze(self, x, axis):
        """Moves numbers."""
        return x._moved(lambda part: np.squeeze(part, axis=axis))

    def expand_dims(self, x, axis=0):
        """Moves numbers."""
        return x._moved(lambda part: np.expand_dims(part, axis))

    def flip(self, x, axis=None):
        """Moves numbers."""
        return x._moved(lambda part: np.flip(part, axis=axis))

    def roll(self, x, shift, axis=None):
        """Moves numbers."""
        return x._moved(lambda part: np.roll(part, shift, axis=axis))

    def take(self, x, indices, axis=None):
        """Moves numbers."""
        return x._moved(lambda part: np.take(part, indices.value, axis=axis))

    def take_along_axis(self, x, indices, axis=-1):
        """Moves numbers."""
        return x._moved(lambda part: np.take_along_axis(part, indices.value, axis=axis))

    def repeat(self, x, repeats, axis=None):
        """Moves numbers."""
        return x._moved(lambda part: np.repeat(part, repeats, axis=axis))

    def tile(self, x, repetitions):
        """Moves numbers."""
        return x._moved(lambda part: np.tile(part, repetitions))

    def concat(self, arrays, axis=0):
        """Moves numbers."""
        return self._joined(np.concatenate, arrays, axis)

    def stack(self, arrays, axis=0):
        """Moves numbers."""
        return self._joined(np.stack, arrays, axis)

    def _joined(self, join, arrays, axis):
        arrays = [self._lift(x) for x in arrays]
        value = join([x.value for x in arrays], axis=axis)
        if value.dtype.kind != "f":
            return Tracked(self, value)
        error = join([np.broadcast_to(0.0 if x.error is None else x.error, x.shape) for x in arrays], axis=axis)
        return Tracked(self, value, error, place=_place(arrays), leaf=all(x.leaf for x in arrays))

    def searchsorted(self, x, values, side="left"):
        """On exact numbers."""
        return Tracked(self, np.searchsorted(x.value, values.value, side=side))

    # --- choosing ---

    def where(self, condition, a, b):
        """Either; where a kernel may choose the other, the difference is an error as well."""
        result_dtype = np.result_type(
            *(x.value.dtype if isinstance(x, Tracked) else np.asarray(x).dtype for x in (a, b))
        )
        a, b, given = self._lift(a), self._lift(b), (a, b)
        value = np.where(condition.value, a.value, b.value)
        if result_dtype.kind != "f":
            return Tracked(self, value)
        error_a, error_b = (0.0 if x.error is None else x.error for x in (a, b))
        error = np.where(condition.value, error_a, error_b)
        if condition.unsure is not None:
            both = np.maximum(error_a, error_b) + np.abs(a.value - b.value)
            error = np.where(condition.unsure, both, error)
        arrays = [x for x in given if isinstance(x, Tracked)]
        result = Tracked(self, value, error, place=_place(arrays), leaf=all(x.leaf for x in arrays))
        if len(arrays) == 1 and condition.unsure is None:  # a constant in some places: what the array is, it stays
            only = arrays[0]
            result.peak_of, result.sums, result.shift = only.peak_of, only.sums, only.shift
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
        a, b = self._lift(a), self._lift(b)
        value = choose(a.value, b.value)
        if value.dtype.kind != "f":
            return Tracked(self, value)
        error = _clean(value, np.maximum(a.error, b.error))
        return Tracked(self, value, error, place=_place([a, b]), peak_of=(a, b) if choose is np.maximum else ())

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

    # --- arithmetic ---

    def _lift(self, x):
        return x if isinstance(x, Tracked) else self._constant(np.asarray(x))

    def _result(self, value, error, *operands, round_it=True, **origin):
        """The result of a step: rounded in the accumulator, and stored where the profile stores steps."""
        value = np.asarray(value)
        if round_it:
            error = error + self._rounding(value, error)
        place = REGISTERS
        if self.profile.scores is not None:
            place = _place_of_step(operands)
            if place == MEMORY:
                error = _rounded(value, error, self.profile.scores)
        return Tracked(self, value, _clean(value, error), place=place, **origin)

    def _rounding(self, value, error):
        """What one rounding in the accumulator adds to an error; an exact zero stays one."""
        return np.where((value == 0) & (np.asarray(error) == 0), 0.0, self.u * (np.abs(value) + error) + self.eta)

    def _leaving(self, *operands):
        """Operands of a step; what leaves the inside of a row's kernel to meet another argument is stored first."""
        arrays = [x for x in operands if isinstance(x, Tracked)]
        lifted = [self._lift(x) for x in operands]
        mixed = any(x.place == INSIDE for x in arrays) and any(x.place in (MEMORY, REGISTERS) for x in arrays)
        if self.profile.scores is None or not mixed:
            return lifted
        return [self._stored(x, self.profile.scores) if x.place == INSIDE else x for x in lifted]

    def _stored(self, x, fmt):
        result = Tracked(self, x.value, _rounded(x.value, x.error, fmt), place=MEMORY)
        if x.ratio is not None:
            own = _rounded(x.value, x.ratio.own, fmt)
            result.ratio = x.ratio._replace(own=own)
        return result

    def _exact(self, operation, a, b):
        a, b = (getattr(x, "value", x) for x in (a, b))
        return Tracked(self, operation(a, b))

    def add(self, a, b):
        """Sum of two."""
        if _integers(a, b):
            return self._exact(np.add, a, b)
        first, second = self._leaving(a, b)
        value = first.value + second.value
        error = _zero_if_shifted(first, second) + _zero_if_shifted(second, first)
        return self._result(value, error, first, second)

    def subtract(self, a, b):
        """Difference; the error of a maximum cancels where it is subtracted from what it is the maximum of."""
        if _integers(a, b):
            return self._exact(np.subtract, a, b)
        shifted = isinstance(a, Tracked) and isinstance(b, Tracked) and any(x is a for x in b.peak_of)
        first, second = self._leaving(a, b)
        error = first.error + (0.0 if shifted else second.error)
        return self._result(first.value - second.value, error, first, second, shift=b if shifted else None)

    def multiply(self, a, b):
        """Product of two."""
        if _integers(a, b):
            return self._exact(np.multiply, a, b)
        first, second = self._leaving(a, b)
        value = first.value * second.value
        error = _product_error(first.value, first.error, second.value, second.error)
        result = self._result(value, error, first, second)
        for weights, other in ((first, second), (second, first)):
            if weights.ratio is not None and value.shape == weights.shape:
                result.ratio = self._scaled(weights, other.value, other.error, value)
        return result

    def _scaled(self, weights, factor, error, value):
        """The ratio of weights times a factor; a factor that a row shares errs for all of the row alike."""
        r = weights.ratio
        own, common = r.own * np.abs(factor), r.common
        if factor.ndim == 0 or factor.shape[-1] == 1:
            common = common + np.where(error > 0, error / np.abs(factor), 0.0)
        else:
            own = own + np.abs(weights.value) * error
        own = own + self._rounding(value, own)
        return r._replace(factor=r.factor * factor, own=_clean(value, own), common=common)

    def divide(self, a, b):
        """Quotient; weights over their own sum become a ratio."""
        summed = isinstance(b, Tracked) and isinstance(a, Tracked) and b.sums is a
        first, second = self._leaving(a, b)
        value = first.value / second.value
        left = np.abs(second.value) - second.error
        error = np.where(left > 0, (first.error + np.abs(value) * second.error) / np.maximum(left, 1e-300), np.inf)
        error = np.where((first.error == 0) & (second.error == 0), 0.0, error)
        result = self._result(value, error, first, second)
        if first.ratio is not None and value.shape == first.shape:
            result.ratio = self._scaled(first, 1.0 / second.value, second.error / second.value**2, value)
        if summed:
            moved = _clean(value, first.error / np.abs(second.value))
            common = gamma(first.shape[-1] + _MARGIN + 1, self.u)
            own = self._rounding(value, moved)
            result.ratio = Ratio(moved, 1.0, common, own)
            together = np.sum(moved, axis=-1, keepdims=True)
            error = np.where(together < 1, (moved + value * together) / (1.0 - np.minimum(together, 0.999)), np.inf)
            error = np.minimum(error + common * value, 1.0) + own
            result.error = np.minimum(result.error, _clean(value, error))
        return result

    def pow(self, x, power):
        """A product for squares, exp of a logarithm otherwise."""
        if power == 2:
            return self.multiply(x, x)
        value = x.value**power
        relative = np.abs(power) * np.where(x.error > 0, x.error / np.maximum(np.abs(x.value) - x.error, 1e-300), 0.0)
        own = self.profile.u_exp + np.abs(power * np.log(np.abs(x.value))) * self.u
        return self._result(value, np.abs(value) * (np.expm1(np.minimum(relative, 700.0)) + own), x, round_it=False)

    def square(self, x):
        """x²."""
        return self.multiply(x, x)

    def abs(self, x):
        """Magnitude."""
        return Tracked(self, np.abs(x.value), x.error, place=x.place, leaf=x.leaf)

    def sign(self, x):
        """Of numbers whose sign is sure."""
        unsure = (np.abs(x.value) <= x.error) & (x.error > 0)
        return Tracked(self, np.sign(x.value), np.where(unsure, 2.0, 0.0), place=x.place)

    def sum(self, x, axis=None, keepdims=False, dtype=None):
        """A sum in any order."""
        if x.error is None:
            return Tracked(self, np.sum(x.value, axis=axis, keepdims=keepdims))
        axes = tuple(range(x.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        count = math.prod(x.shape[n] for n in axes)
        value = np.sum(x.value, axis=axis, keepdims=keepdims)
        passed = np.sum(x.error, axis=axis, keepdims=keepdims)
        size = np.sum(np.abs(x.value), axis=axis, keepdims=keepdims)
        error = (
            passed
            + gamma(count + _MARGIN, self.u) * (size + passed)
            + np.where(size + passed > 0, count * self.eta, 0.0)
        )
        error = _clean(value, error) if count > 0 else 0.0
        last = keepdims and axes in ((-1,), (x.ndim - 1,))
        return Tracked(self, value, error, place=ROW, sums=x if last else None, shift=x.shift)

    def mean(self, x, axis=None, keepdims=False):
        """A sum over a count."""
        axes = tuple(range(x.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        return self.divide(self.sum(x, axis=axis, keepdims=keepdims), float(math.prod(x.shape[n] for n in axes)))

    def matmul(self, a, b):
        """A product of matrices: operands rounded as the profile rounds them, a sum in any order."""
        p, t = self.profile, a.shape[-1]
        (a_error, a_ratio), (b_error, _) = self._operand(a), self._operand(b)
        value = np.matmul(a.value, b.value)
        x, y = _finite(np.abs(a.value)), _finite(np.abs(b.value))
        own = a_error if a_ratio is None else a_ratio.own
        passed = (
            _maybe(own, y) + _maybe(x, b_error) + (_maybe(own, b_error) if np.any(own) and np.any(b_error) else 0.0)
        )
        size = np.matmul(x, y)
        error = passed + gamma(t + _MARGIN, p.u_acc) * (size + passed) + np.where(size + passed > 0, t * self.eta, 0.0)
        if a_ratio is not None:
            error = error + a_ratio.common * np.abs(value) + _centred(a.value, a_ratio, b.value, value)
        place = REGISTERS
        if p.scores is not None:
            error, place = _rounded(value, error, p.scores), MEMORY
        return Tracked(self, value, _clean(value, error), place=place)

    def _operand(self, x):
        """The errors of what enters a matrix product."""
        p, error, ratio = self.profile, x.error, x.ratio
        fmt = p.operands if x.leaf else p.weights if x.place != MEMORY or p.weights is not p.scores else None
        if fmt is None:
            return error, ratio
        if ratio is not None:
            ratio = ratio._replace(own=_rounded(x.value, ratio.own, fmt))
        return _rounded(x.value, error, fmt), ratio

    # --- functions ---

    def exp(self, x):
        """e^x, or a power of 2; after a maximum was subtracted, also rescaled whenever a running maximum grew."""
        value = np.exp(x.value)
        relative = x.error + 3 * self.u * np.abs(x.value)
        times = np.ones(())
        if x.shift is not None and x.ndim and self.profile.order == "flash":
            times = 1.0 + _records(x.value)
        relative = relative + times * (self.profile.u_exp + 2 * self.u)
        error = np.where(value > 0, value * np.expm1(np.minimum(relative, 700.0)) + self.eta, 0.0)
        return self._result(value, error, x, round_it=False, shift=x.shift)

    def expm1(self, x):
        """e^x - 1."""
        value = np.expm1(x.value)
        error = (value + 1.0) * np.expm1(np.minimum(x.error, 700.0)) + self.profile.u_exp * np.abs(value)
        return self._result(value, error, x, round_it=False)

    def log(self, x):
        """Natural logarithm."""
        value = np.log(x.value)
        relative = np.where(x.error > 0, x.error / np.abs(x.value), 0.0)
        error = np.where(relative < 1, -np.log1p(-np.minimum(relative, 0.999999)), np.inf)
        error = error + self.profile.u_exp * (1.0 + np.abs(value))
        return self._result(value, error, x, round_it=False, shift=x.shift)

    def log1p(self, x):
        """ln(1 + x)."""
        value = np.log1p(x.value)
        left = 1.0 + x.value - x.error
        error = np.where(left > 0, x.error / np.maximum(left, 1e-300), np.inf) + self.profile.u_exp * np.abs(value)
        return self._result(value, error + self.u, x, round_it=False)

    def sqrt(self, x):
        """Square root."""
        value = np.sqrt(x.value)
        below = np.sqrt(np.maximum(x.value - x.error, 0.0))
        return self._result(value, np.maximum(np.sqrt(x.value + x.error) - value, value - below), x)

    def tanh(self, x):
        """Hyperbolic tangent."""
        value = np.tanh(x.value)
        slope = 1.0 / np.cosh(np.minimum(np.maximum(np.abs(x.value) - x.error, 0.0), 300.0)) ** 2
        return self._bounded(x, value, slope, 1.0)

    def erf(self, x):
        """Error function."""
        slope = 2.0 / math.sqrt(math.pi) * np.exp(-(np.maximum(np.abs(x.value) - x.error, 0.0) ** 2))
        return self._bounded(x, scipy.special.erf(x.value), slope, 1.0)

    def erfc(self, x):
        """Complement of the error function."""
        slope = 2.0 / math.sqrt(math.pi) * np.exp(-(np.maximum(np.abs(x.value) - x.error, 0.0) ** 2))
        return self._bounded(x, scipy.special.erfc(x.value), slope, 2.0)

    def ndtr(self, x):
        """The normal distribution function, as 1 + erf or erfc would give it."""
        slope = np.exp(-(np.maximum(np.abs(x.value) - x.error, 0.0) ** 2) / 2) / math.sqrt(2 * math.pi)
        return self._bounded(x, scipy.special.ndtr(x.value), slope, 1.0, absolute=self.profile.u_exp)

    def sin(self, x):
        """Sine."""
        return self._bounded(x, np.sin(x.value), 1.0, 1.0, absolute=self.profile.u_exp)

    def cos(self, x):
        """Cosine."""
        return self._bounded(x, np.cos(x.value), 1.0, 1.0, absolute=self.profile.u_exp)

    def _bounded(self, x, value, slope, largest, absolute=0.0):
        error = np.minimum(x.error * slope, 2.0 * largest) + self.profile.u_exp * np.abs(value) + absolute
        return self._result(value, error, x, round_it=False)


backend.SPECIAL[Namespace.__name__] = Namespace.__name__


def erf(x):
    """`Namespace.erf`, where `backend.special` looks for it."""
    return x.xp.erf(x)


def erfc(x):
    """`Namespace.erfc`."""
    return x.xp.erfc(x)


def ndtr(x):
    """`Namespace.ndtr`."""
    return x.xp.ndtr(x)


# --- pieces ---------------------------------------------------------------------------------------------------------


def _clean(value, error):
    """NaN among errors is no bound; where the exact value is no number there is nothing to be off from."""
    return np.where(np.isfinite(value), np.where(np.isnan(error), np.inf, error), 0.0)


def _rounded(value, error, fmt):
    """The error of a number that is stored in a format; an exact zero stays one."""
    added = np.maximum(fmt.u * (np.abs(value) + error), fmt.eta)
    return _clean(value, error + np.where((value == 0) & (np.asarray(error) == 0), 0.0, added))


def _finite(x):
    return np.where(np.isfinite(x), x, 0.0)


def _is_zero(x):
    return not isinstance(x, Tracked) and x == 0


def _integers(*operands):
    """Whether a step is one of exact integers or booleans."""
    return all(
        x.value.dtype.kind != "f" if isinstance(x, Tracked) else isinstance(x, int | np.integer) for x in operands
    )


def _maybe(a, b):
    """A matrix product of magnitudes; 0.0 if one of them is."""
    return np.matmul(a, b) if np.any(a) and np.any(b) else 0.0


def _product_error(a, e, b, f):
    with np.errstate(invalid="ignore"):
        passed = [np.where(x == 0, 0.0, np.abs(y) * x) for x, y in ((e, b), (f, a))]
        return passed[0] + passed[1] + np.where((e == 0) | (f == 0), 0.0, e * f)


def _zero_if_shifted(x, other):
    """The error of a term; of a maximum that comes back after it was subtracted, none."""
    return 0.0 if other.shift is not None and other.shift is x else x.error


def _place(arrays):
    """Where something put together from arrays is."""
    places = {x.place for x in arrays if x.error is not None}
    return next((place for place in (INSIDE, REGISTERS, ROW, MEMORY) if place in places), MEMORY)


def _place_of_step(operands):
    """Where a step's result is, if steps are stored: in memory, unless the step is inside a row's kernel."""
    places = {x.place for x in operands if not (x.place == MEMORY and not x.leaf and x.ndim == 0)}
    if not places or places == {ROW}:
        return ROW if places else MEMORY
    if INSIDE in places and not places & {MEMORY, REGISTERS}:
        return INSIDE
    return INSIDE if ROW in places and INSIDE not in places else MEMORY


def _records(x):
    """How often the running maximum of a row grows after its first entry, either way round."""
    with np.errstate(invalid="ignore"):
        counts = []
        for row in (x, x[..., ::-1]):
            running = np.maximum.accumulate(row, axis=-1)
            counts.append(np.sum(running[..., 1:] > running[..., :-1], axis=-1, keepdims=True))
    return np.maximum(*counts)


def _centred(weights, ratio: Ratio, v, out):
    """Σ p|θ||f v - o| / (1 - Σ p|θ|), at most the farthest of the values from o: weights are positive."""
    lead = out.shape[:-2]
    (n, m), columns = weights.shape[-2:], out.shape[-1]
    moved = np.broadcast_to(ratio.moved, (*lead, n, m)).reshape(-1, n, m)
    factor = np.broadcast_to(ratio.factor, (*lead, n, m)).reshape(-1, n, m)
    present = np.broadcast_to(weights != 0, (*lead, n, m)).reshape(-1, n, m)
    values = np.broadcast_to(_finite(v), (*lead, m, columns)).reshape(-1, m, columns)
    centre = _finite(out).reshape(-1, n, columns)
    result = np.zeros_like(centre)
    step = max(1, _CHUNK // max(m * columns, 1))
    for h in range(len(moved)):
        for start in range(0, n, step):
            rows = slice(start, start + step)
            away = np.abs(factor[h, rows, :, None] * values[h] - centre[h, rows, None, :])
            shift = np.einsum("rm,rmc->rc", moved[h, rows], away)
            together = np.sum(moved[h, rows], axis=-1, keepdims=True)
            farthest = np.max(np.where(present[h, rows, :, None], away, 0.0), axis=1, initial=0.0)
            shift = np.where(together < 1, shift / (1.0 - np.minimum(together, 0.999)), np.inf)
            result[h, rows] = np.minimum(shift, farthest)
    return result.reshape(out.shape)
