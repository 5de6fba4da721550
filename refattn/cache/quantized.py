"""A quantised cache: old keys in codes per channel, old values in codes per token, the newest tokens as they came."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from refattn import backend
from refattn.cache.base import Cache, Cached, CacheError, Rows, nbytes_of


class Quantized(NamedTuple):
    """Codes with the scale and the zero of each group.

    Attributes
    ----------
    codes : uint8 array (..., D)
        0 to 2^bits - 1, of the shape of what was quantised.
    scale, zero : array (..., D/group)
        Along the axis one number for each group: a code c stands for c · scale + zero.
    """

    codes: Any
    scale: Any
    zero: Any


@backend.ieee
def quantize(x, *, bits, group, axis=-1):
    r"""Asymmetric quantisation in groups along an axis.

    .. math:: c = \mathrm{round}\left( (x - \min) / s \right), \qquad s = (\max - \min) / (2^{b} - 1)

    Parameters
    ----------
    x : array (..., D)
        For another axis of any shape.
    bits : {4, 8}
        Bits of a code.
    group : int
        Entries that share a scale and a zero; must divide the length of the axis.
    axis : int, default -1

    Returns
    -------
    Quantized

    Raises
    ------
    TypeError, ValueError
        `x` is not floating-point, or not finite everywhere; `group` does not divide the axis.

    Notes
    -----
    Halves round to even. A group whose entries are all equal has scale 0 and is exact. The error is at most half a
    scale. Time O(size of x). Clauses: CACHE-QUANTIZED, CACHE-QUANTIZED-ERROR.
    Source: Liu et al. 2024 (KIVI), section 2; halves and constant groups are not defined there.

    Examples
    --------
    >>> import numpy as np
    >>> quantize(np.array([0.0, 1.0, 7.0, 15.0]), bits=4, group=4).codes.tolist()
    [0, 1, 7, 15]
    """
    xp, x = backend.floating(x=x)
    bits = backend.one_of_integers("bits", bits, (4, 8))
    axis = backend.axis(axis, x)
    grouped = _grouped(xp, x, group, axis, "x")
    _refuse_what_has_no_code(xp, x=x)
    least, most = (f(grouped, axis=axis + 1, keepdims=True) for f in (xp.min, xp.max))
    steps = float(2**bits - 1)
    codes, scale = _coded(xp, grouped, least, most, steps)
    fits = xp.isfinite(most - least)
    if not bool(xp.all(fits)):  # half the numbers have differences that do not overflow
        codes_of_half, half = _coded(xp, grouped / 2.0, least / 2.0, most / 2.0, steps)
        codes, scale = xp.where(fits, codes, codes_of_half), xp.where(fits, scale, 2.0 * half)
    codes, zero = xp.reshape(backend.cast(codes, xp.uint8), x.shape), least
    return Quantized(codes, xp.squeeze(scale, axis=axis + 1), xp.squeeze(zero, axis=axis + 1))


@backend.ieee
def dequantize(codes, scale, zero, *, axis=-1):
    """The numbers that codes stand for: c · scale + zero.

    Parameters
    ----------
    codes : uint8 array (..., D)
    scale, zero : array (..., D/group)
        As `quantize` returns them.
    axis : int, default -1
        The axis along which entries were grouped.

    Returns
    -------
    out : array (..., D)
        Of the shape of the codes.

    Notes
    -----
    Clauses: CACHE-QUANTIZED. Source: Liu et al. 2024 (KIVI), section 2.

    Examples
    --------
    >>> import numpy as np
    >>> dequantize(np.array([0, 15], dtype=np.uint8), np.array([2.0]), np.array([-1.0])).tolist()
    [-1.0, 29.0]
    """
    xp, scale, zero = backend.floating(scale=scale, zero=zero)
    backend.array("codes", codes)
    codes = backend.integers(xp, scale, codes=codes)
    axis = backend.axis(axis, codes, "codes")
    if scale.ndim != codes.ndim or any(
        size != other for n, (size, other) in enumerate(zip(scale.shape, codes.shape, strict=True)) if n != axis
    ):
        raise ValueError(
            f"scale has shape {tuple(scale.shape)}, codes {tuple(codes.shape)}: they may differ along axis {axis} alone"
        )
    groups = scale.shape[axis]
    if tuple(zero.shape) != tuple(scale.shape) or (groups == 0) != (codes.shape[axis] == 0):
        raise ValueError(
            f"scale has shape {tuple(scale.shape)} and zero {tuple(zero.shape)}: they must agree, and fit codes"
        )
    grouped = _grouped(xp, backend.cast(codes, scale.dtype), codes.shape[axis] // max(groups, 1) or 1, axis, "codes")
    if grouped.shape[axis] != groups:
        raise ValueError(
            f"codes has {codes.shape[axis]} entries along axis {axis}, scale has {groups} groups: they must divide"
        )
    scale, zero = xp.expand_dims(scale, axis=axis + 1), xp.expand_dims(zero, axis=axis + 1)
    x = grouped * scale + zero
    if not bool(xp.all(xp.isfinite(x))):  # a step towards zero that overflows; and rounded up, the last may by itself
        largest = float(np.finfo(backend.dtype_name(x)).max)
        halves = grouped * (scale / 2.0) + zero / 2.0
        halves = xp.minimum(
            xp.maximum(halves, xp.full_like(halves, -largest / 2.0)), xp.full_like(halves, largest / 2.0)
        )
        x = xp.where(xp.isfinite(x) | ~xp.isfinite(scale + zero), x, 2.0 * halves)
    return xp.reshape(x, codes.shape)


def _refuse_what_has_no_code(xp, **named):
    for name, x in named.items():
        if not bool(xp.all(xp.isfinite(x))):
            raise ValueError(f"{name} holds NaN or an infinity, for which there is no code; all must be finite")


def _coded(xp, x, least, most, steps):
    """Codes and their scale, the step from one to the next."""
    scale = (most - least) / steps
    limits = np.finfo(backend.dtype_name(scale))
    lost = (scale < float(limits.smallest_normal)) & (scale * steps < most - least)
    if bool(xp.any(lost)):  # of numbers so small a step that is rounded down does not reach the last code
        scale = xp.where(lost, scale + float(limits.smallest_subnormal), scale)
    return xp.round((x - least) / xp.where(scale == 0, 1.0, scale)), scale


def _grouped(xp, x, group, axis, name):
    """One axis as (groups, group)."""
    group = backend.integer("group", group, least=1)
    length = x.shape[axis]
    if length % group:
        raise ValueError(f"group is {group}; it must divide the {length} entries of axis {axis} of {name}")
    return xp.reshape(x, (*x.shape[:axis], length // group, group, *x.shape[axis + 1 :]))


class QuantizedKVCache(Cache):
    """Keys quantised per channel and values per token, with the newest tokens in full precision (KIVI).

    Parameters
    ----------
    bits : {4, 8}
    group : int
        Keys: consecutive tokens of one channel that share a scale. Values: channels of one token.
    residual : int
        A multiple of `group`. Keys are quantised `residual` at a time, as soon as so many are there in full
        precision; of the values the newest `residual` stay in full precision.

    Notes
    -----
    append returns the old tokens as their codes stand for them, and the block as it came; then the block is quantised as
    far as it is old enough. So what is held depends on the tokens alone, not on the blocks in which they came.
    Two codes of 4 bits share a byte. Clauses: CACHE-QUANTIZED, CACHE-QUANTIZED-ERROR, CACHE-RESIDUAL, CACHE-BYTES.
    Source: Liu et al. 2024 (KIVI), section 3 and algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> cache = QuantizedKVCache(bits=4, group=2, residual=4)
    >>> cached = cache.append(np.ones((1, 9, 2)), np.ones((1, 9, 2)))
    >>> cache.quantized_keys, cache.quantized_values
    (8, 5)
    """

    def __init__(self, bits=4, group=32, residual=128):
        super().__init__()
        self.bits = backend.one_of_integers("bits", bits, (4, 8))
        self.group = backend.integer("group", group, least=1)
        self.residual = backend.integer("residual", residual, least=1)
        if self.residual % self.group:
            raise ValueError(f"residual is {residual}; it must be a multiple of group, which is {group}")

    quantized_keys = property(
        lambda self: self.length - self.length % self.residual, doc="Tokens whose keys are codes."
    )
    quantized_values = property(lambda self: max(self.length - self.residual, 0), doc="Tokens whose values are codes.")

    def append(self, k, v) -> Cached:
        """Add tokens; returns the old ones as their codes stand for them, the newest as they came."""
        xp, shapes, n = self._checked(k, v)
        dtypes = k.dtype, v.dtype
        xp, k, v = backend.floating(k=k, v=v)
        _refuse_what_has_no_code(xp, k=k, v=v)
        if v.shape[-1] % self.group:
            raise ValueError(f"v has Dv = {v.shape[-1]}; it must be a multiple of group, which is {self.group}")
        if self._shapes is None:
            self._begin(shapes, k, v)
            self._dtypes = dtypes  # of what comes; what is kept may be wider
            self._keys, self._values = _Codes(k, self.bits, -2), _Codes(v, self.bits, -1)
            self._new_keys, self._new_values = k[..., :0, :], v[..., :0, :]
        old = self._keys.numbers(), self._values.numbers()
        self._new_keys = xp.concat([self._new_keys, k], axis=-2)
        self._new_values = xp.concat([self._new_values, v], axis=-2)
        cached = Cached(
            xp.concat([old[0], self._new_keys], axis=-2),
            xp.concat([old[1], self._new_values], axis=-2),
            self._positions(0, self.length + n),
            self._positions(self.length, self.length + n),
        )
        self.length += n
        self._new_keys = self._flush(self._keys, self._new_keys, self.quantized_keys)
        self._new_values = self._flush(self._values, self._new_values, self.quantized_values)
        return cached

    def _flush(self, codes, new, quantized):
        """Turn the oldest of the new rows into codes, until so many are; returns the rest."""
        due = quantized - codes.count
        if due <= 0:
            return new
        codes.append(quantize(new[..., :due, :], bits=self.bits, group=self.group, axis=codes.axis))
        return backend.namespace(new).asarray(new[..., due:, :], copy=True)

    def truncate(self, length):
        """Take back the tokens from position `length` on, if none of those left would have to be full precision again."""
        length = self._back_to(length)
        if self._shapes is not None and length < max(self._keys.count, self._values.count):
            raise CacheError(
                f"length is {length}; tokens up to {max(self._keys.count, self._values.count)} are quantised,"
                " and cannot be taken back"
            )
        if self._shapes is not None:
            self._new_keys = self._new_keys[..., : length - self._keys.count, :]
            self._new_values = self._new_values[..., : length - self._values.count, :]
        self.length = length

    def _take(self, xp, indices):
        for codes in (self._keys, self._values):
            codes.take(xp, indices)
        self._new_keys = xp.take(self._new_keys, indices, axis=0)
        self._new_values = xp.take(self._new_values, indices, axis=0)

    @property
    def nbytes(self):
        """Bytes of codes, scales, zeros and of the newest tokens."""

        if self._shapes is None:
            return 0
        new = nbytes_of(self._new_keys) + nbytes_of(self._new_values)
        return self._keys.nbytes + self._values.nbytes + new


class _Codes:
    """Growing rows of codes, packed, with their scales and zeros; grouped along `axis`: tokens (-2) or channels (-1)."""

    def __init__(self, like, bits, axis):
        self.bits, self.axis, self.count, self.width = bits, axis, 0, like.shape[-1]
        self._none = like[..., :0, :]
        self._rows: tuple[Rows, ...] = ()

    def append(self, quantized: Quantized):
        codes, scale, zero = quantized
        parts = (pack(codes) if self.bits == 4 else codes, scale, zero)
        self._rows = self._rows or tuple(Rows(part) for part in parts)
        for rows, part in zip(self._rows, parts, strict=True):
            rows.append(part)
        self.count += codes.shape[-2]

    def numbers(self):
        """What the codes stand for."""
        if not self._rows:
            return self._none
        codes, scale, zero = (rows.view() for rows in self._rows)
        return dequantize(unpack(codes, self.width) if self.bits == 4 else codes, scale, zero, axis=self.axis)

    def take(self, xp, indices):
        """Other rows of the batch axis."""
        self._none = xp.take(self._none, indices, axis=0)
        for rows in self._rows:
            rows.take(xp, indices)

    @property
    def nbytes(self):
        """Bytes of codes, scales and zeros."""
        return sum(rows.nbytes for rows in self._rows)


def pack(codes):
    """Two codes of 4 bits in a byte, the first in the low half; an odd one out has a byte to itself."""
    xp = backend.namespace(codes=codes)
    low, high = codes[..., 0::2], codes[..., 1::2]
    packed = xp.asarray(low, copy=True)
    packed[..., : high.shape[-1]] = low[..., : high.shape[-1]] + high * 16
    return packed


def unpack(packed, width):
    """`width` codes from bytes that hold two each."""
    xp = backend.namespace(packed=packed)
    both = xp.stack([packed % 16, packed // 16], axis=-1)
    return xp.reshape(both, (*packed.shape[:-1], 2 * packed.shape[-1]))[..., :width]
