"""The arithmetic that kernels are made of: narrow formats, sums in any order, products, exponentials."""

import numpy as np

from refattn.testing.profiles import profile
from refattn.testing.rounding import round_to

SUMS = ("library", "forward", "backward", "pairwise", "random", "fused", "truncated")
_CHUNK = 4_000_000  # numbers in the largest temporary


class Arithmetic:
    """What one kernel computes with: its profile's formats, and how it happens to add.

    library: as NumPy and its BLAS do. forward, backward, random: one after the other. pairwise: a tree of halves.
    fused: products are not rounded before they are added. truncated: blocks of eight exact products, cut to the
    accumulator's width, as matrix units do; only where the profile's accumulator allows that. `exp_error` in units
    of the profile's u_exp makes every exponential as wrong as a fast instruction may be, to a random side.
    """

    def __init__(self, precision, sums="library", exp_error=0.0, seed=0):
        self.profile = profile(precision)
        self.number = np.float64 if self.profile.out.name == "float64" else np.float32
        self.sums, self.exp_error = sums, exp_error
        self.draw = np.random.default_rng(seed)

    def narrow(self, x, fmt):
        """Rounded to a format of the profile (None: not at all), in the working type."""
        return x if fmt is None else round_to(x, fmt).astype(self.number)

    def out(self, x):
        """The result in the profile's output format."""
        return round_to(x, self.profile.out)

    def sum(self, x, axis=-1):
        """Σ over an axis, which stays as an axis of length 1."""
        x = np.moveaxis(x, axis, -1)
        if self.sums in ("library", "fused", "truncated"):  # vector units do not truncate
            total = x.sum(axis=-1, keepdims=True, dtype=self.number)
        elif self.sums == "pairwise":
            total = _pairwise(x)
        else:
            total = _in_order(self._ordered(x))
        return np.moveaxis(total, -1, axis)

    def product(self, a, b):
        """The matrix product a (..., R, K) b (..., K, C)."""
        if self.sums == "library" or a.shape[-1] == 0:
            return a @ b
        if self.sums == "fused":
            return self._fused(a, b)
        rows = max(1, _CHUNK // max(1, b.size))
        pieces = [self._rows(a[..., n : n + rows, :], b) for n in range(0, a.shape[-2], rows)]
        return np.concatenate(pieces, axis=-2) if pieces else a @ b

    def _rows(self, a, b):
        if self.sums == "truncated":
            return self._truncated(a, b)
        products = np.swapaxes(a[..., :, :, None] * b[..., None, :, :], -1, -2)  # (..., R, C, K)
        total = _pairwise(products) if self.sums == "pairwise" else _in_order(self._ordered(products))
        return total[..., 0]

    def _ordered(self, x):
        if self.sums == "backward":
            return x[..., ::-1]
        return x[..., self.draw.permutation(x.shape[-1])] if self.sums == "random" else x

    def _fused(self, a, b):
        total = np.zeros(np.broadcast_shapes(a.shape[:-1] + (1,), b.shape[:-2] + (1, b.shape[-1])), self.number)
        for n in range(a.shape[-1]):
            exact = a[..., :, n, None].astype(np.float64) * b[..., None, n, :].astype(np.float64)
            total = (total.astype(np.float64) + exact).astype(self.number)
        return total

    def _truncated(self, a, b, block=8):
        total = 0.0
        for n in range(0, a.shape[-1], block):
            part = slice(n, n + block)
            exact = a[..., :, part].astype(np.float64) @ b[..., part, :].astype(np.float64)
            total = _cut(total + exact, bits=int(1 - np.log2(self.profile.u_acc)))
        return total.astype(self.number)

    def exp(self, x, base="e"):
        """e or 2 to the power of x."""
        y = (np.exp if base == "e" else np.exp2)(x)
        return np.where(x == 0, y, self.inexact(y))  # of 0 it is exactly 1 everywhere

    def inexact(self, y):
        """A special function's value, as wrong as `exp_error` says."""
        if not self.exp_error:
            return y
        wrong = self.draw.choice([-1.0, 1.0], size=y.shape) * (self.exp_error * self.profile.u_exp)
        return (y * (1.0 + wrong)).astype(self.number)


def _in_order(x):
    if x.shape[-1] == 0:
        return np.zeros((*x.shape[:-1], 1), x.dtype)
    return np.add.accumulate(x, axis=-1, dtype=x.dtype)[..., -1:]


def _pairwise(x):
    if x.shape[-1] == 0:
        return np.zeros((*x.shape[:-1], 1), x.dtype)
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        rest = x[..., 2 * half :]
        x = np.concatenate([x[..., :half] + x[..., half : 2 * half], rest], axis=-1)
    return x


def _cut(x, bits):
    """Truncated to so many significant bits: off by less than 2^(1 - bits) of its size."""
    fraction, exponent = np.frexp(x)
    return np.ldexp(np.trunc(np.ldexp(fraction, bits)), exponent - bits)
