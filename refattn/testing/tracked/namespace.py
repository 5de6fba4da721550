"""The array API on tracked arrays, in the arithmetic of one precision profile."""

from __future__ import annotations

import math

import numpy as np

from refattn import backend
from refattn.testing.profiles import Profile
from refattn.testing.rounding import FORMATS, round_to
from refattn.testing.roundoff import gamma
from refattn.testing.tracked.array import (
    CONSTANT,
    INSIDE,
    MEMORY,
    REGISTERS,
    ROW,
    Ratio,
    Tracked,
    clean,
    finite,
    rounded,
)
from refattn.testing.tracked.moving import Moving

_CHUNK = 2_000_000  # numbers in the largest temporary
_MARGIN = 8  # roundings of a sum beyond its terms: merges of partial sums, a rescaling or two


class Namespace(Moving):
    """The array API on `Tracked` arrays, as far as the reference uses it, in the arithmetic of one profile."""

    __name__ = __name__  # where `backend.special` looks for erf
    float64, float32, int64, bool = np.dtype("float64"), np.dtype("float32"), np.dtype("int64"), np.dtype("bool")
    uint8 = np.dtype("uint8")
    inf, nan, pi, newaxis = math.inf, math.nan, math.pi, None

    def __init__(self, profile: Profile):
        self.profile = profile
        self.u = min(profile.u_acc, 2.0**-23)  # off the matrix units, whose accumulators may be narrower
        if profile.u_acc >= 2.0**-11:
            self.u = profile.u_acc  # each single operation is rounded to a narrow format
        self.eta = profile.eta_acc
        fmt = FORMATS["float16" if self.u > 2.0**-20 else "float32"]
        self.held = None if profile.out.name == "float64" else fmt  # float64's exact results are not known here

    def _result(self, value, error, *operands, round_it=True, **origin):
        """The result of a step: rounded in the accumulator, and stored where the profile stores steps."""
        value = np.asarray(value)
        if round_it:
            error = error + self._rounding(value, error)
        place = REGISTERS
        if self.profile.scores is not None:
            place = _place_of_step(operands)
            if place == MEMORY:
                error = rounded(value, error, self.profile.scores)
        return Tracked(self, value, clean(value, error), place=place, **origin)

    def _rounding(self, value, error):
        """What one rounding in the accumulator adds to an error; what it holds exactly is not rounded."""
        held = self.held is not None and round_to(value, self.held) == value
        exact = (np.asarray(error) == 0) & (held | (value == 0))
        return np.where(exact, 0.0, self.u * (np.abs(value) + error) + self.eta)

    def _leaving(self, *operands):
        """Operands of a step; what leaves a row's kernel, or was computed from indices, is stored before it meets another."""
        lifted = [self.lift(x) for x in operands]
        if self.profile.scores is None or not any(x.place in (MEMORY, REGISTERS) for x in lifted):
            return lifted
        fmt = self.profile.scores
        return [self._stored(x, fmt) if x.place == INSIDE or _computed(x) else x for x in lifted]

    def _stored(self, x, fmt):
        result = Tracked(self, x.value, rounded(x.value, x.error, fmt), place=MEMORY)
        if x.ratio is not None:
            own = rounded(x.value, x.ratio.own, fmt)
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
        result = self._result(first.value - second.value, error, first, second, shift=b if shifted else None)
        if isinstance(a, Tracked) and a.peak_of and first is a:
            result.carried = a, result.error - a.error
        return result

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
                result.ratio = self._scaled(weights, other.value, other.error, result)
        return result

    def _scaled(self, weights, factor, error, result):
        """The ratio of weights times a factor; a factor that a row shares errs for all of the row alike."""
        r = weights.ratio
        own, common = r.own * np.abs(factor), r.common
        if factor.ndim == 0 or factor.shape[-1] == 1:
            common = common + np.where(error > 0, error / np.abs(factor), 0.0)
        else:
            own = own + np.abs(weights.value) * error
        own = own + self._rounding(result.value, own)
        if result.place == MEMORY:
            own = rounded(result.value, own, self.profile.scores)
        return r._replace(factor=r.factor * factor, own=clean(result.value, own), common=common)

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
            result.ratio = self._scaled(first, 1.0 / second.value, second.error / second.value**2, result)
        if summed:
            moved = clean(value, first.error / np.abs(second.value))
            common = gamma(first.shape[-1] + _MARGIN + 1, self.u)
            own = self._rounding(value, moved)
            result.ratio = Ratio(moved, 1.0, common, own)
            together = np.sum(moved, axis=-1, keepdims=True)
            error = np.where(together < 1, (moved + value * together) / (1.0 - np.minimum(together, 0.999)), np.inf)
            error = np.minimum(error + common * value, 1.0) + own
            result.error = np.minimum(result.error, clean(value, error))
            if self.profile.scores is not None:  # softmax ends here
                result = self._stored(result, self.profile.scores)
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
        error = clean(value, error) if count > 0 else 0.0
        last = keepdims and axes in ((-1,), (x.ndim - 1,))
        log_error = None
        if x.log_error is not None:
            log_error = np.max(x.log_error, axis=axis, keepdims=keepdims, initial=0.0) + gamma(count + _MARGIN, self.u)
        return Tracked(self, value, error, place=ROW, sums=x if last else None, shift=x.shift, log_error=log_error)

    def mean(self, x, axis=None, keepdims=False):
        """A sum over a count."""
        axes = tuple(range(x.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        return self.divide(self.sum(x, axis=axis, keepdims=keepdims), float(math.prod(x.shape[n] for n in axes)))

    def matmul(self, a, b):
        """A product of matrices: operands rounded as the profile rounds them, a sum in any order."""
        p, t = self.profile, a.shape[-1]
        (a_error, a_ratio), (b_error, _) = self._operand(a), self._operand(b)
        value = np.matmul(a.value, b.value)
        x, y = finite(np.abs(a.value)), finite(np.abs(b.value))
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
            error, place = rounded(value, error, p.scores), MEMORY
        return Tracked(self, value, clean(value, error), place=place)

    def _operand(self, x):
        """The errors of what enters a matrix product."""
        p, error, ratio = self.profile, x.error, x.ratio
        fmt = p.operands if x.leaf else p.weights if x.place != MEMORY or p.weights is not p.scores else None
        if fmt is None:
            return error, ratio
        if ratio is not None:
            ratio = ratio._replace(own=rounded(x.value, ratio.own, fmt))
        return rounded(x.value, error, fmt), ratio

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
        log_error = np.where(value > 0, relative, 0.0)
        return self._result(value, error, x, round_it=False, shift=x.shift, log_error=log_error)

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
        if x.log_error is not None:
            error = np.minimum(error, x.log_error)
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
        return self._bounded(x, backend.special(np, "erf")(x.value), slope, 1.0)

    def erfc(self, x):
        """Complement of the error function."""
        slope = 2.0 / math.sqrt(math.pi) * np.exp(-(np.maximum(np.abs(x.value) - x.error, 0.0) ** 2))
        return self._bounded(x, backend.special(np, "erfc")(x.value), slope, 2.0)

    def ndtr(self, x):
        """The normal distribution function, as 1 + erf or erfc would give it."""
        slope = np.exp(-(np.maximum(np.abs(x.value) - x.error, 0.0) ** 2) / 2) / math.sqrt(2 * math.pi)
        return self._bounded(x, backend.special(np, "ndtr")(x.value), slope, 1.0, absolute=self.profile.u_exp)

    def sin(self, x):
        """Sine."""
        return self._bounded(x, np.sin(x.value), 1.0, 1.0, absolute=self.profile.u_exp)

    def cos(self, x):
        """Cosine."""
        return self._bounded(x, np.cos(x.value), 1.0, 1.0, absolute=self.profile.u_exp)

    def _bounded(self, x, value, slope, largest, absolute=0.0):
        error = np.minimum(x.error * slope, 2.0 * largest) + self.profile.u_exp * np.abs(value) + absolute
        error = np.where(np.isfinite(x.value), error, 0.0)  # limits are exact
        return self._result(value, error, x, round_it=False)


backend.SPECIAL[__name__] = __name__


def erf(x):
    """`Namespace.erf`."""
    return x.xp.erf(x)


def erfc(x):
    """`Namespace.erfc`."""
    return x.xp.erfc(x)


def ndtr(x):
    """`Namespace.ndtr`."""
    return x.xp.ndtr(x)


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
    """The error of a term; of a maximum that comes back after it was subtracted, none, and of what it carries the rest."""
    if other.shift is not None and x.carried is not None and other.shift is x.carried[0]:
        return x.carried[1]
    return 0.0 if other.shift is not None and other.shift is x else x.error


def _computed(x):
    """Whether a constant had to be computed: its numbers are not exact."""
    return x.place == CONSTANT and x.ndim > 0 and x.error is not None and bool(np.any(x.error))


def _place_of_step(operands):
    """Where a step's result is, if steps are stored: in memory, unless the step is inside a row's kernel."""
    places = {x.place for x in operands} - {CONSTANT}
    if places <= {ROW}:
        return ROW if places else CONSTANT
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
    heads = math.prod(lead)

    def flat(x, rows, width):
        return np.broadcast_to(x, (*lead, rows, width)).reshape(heads, rows, width)

    moved, factor, present = (flat(x, n, m) for x in (ratio.moved, ratio.factor, (weights != 0) | (ratio.moved > 0)))
    values, centre = flat(finite(v), m, columns), flat(finite(out), n, columns)
    result = np.zeros_like(centre)
    step = max(1, _CHUNK // max(m * columns, 1))
    for h in range(heads):
        for start in range(0, n, step):
            rows = slice(start, start + step)
            away = np.abs(factor[h, rows, :, None] * values[h] - centre[h, rows, None, :])
            shift = np.einsum("rm,rmc->rc", moved[h, rows], away)
            together = np.sum(moved[h, rows], axis=-1, keepdims=True)
            farthest = np.max(np.where(present[h, rows, :, None], away, 0.0), axis=1, initial=0.0)
            shift = np.where(together < 1, shift / (1.0 - np.minimum(together, 0.999)), np.inf)
            result[h, rows] = np.minimum(shift, farthest)
    return result.reshape(out.shape)
