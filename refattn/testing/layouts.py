"""The same numbers laid out otherwise in memory: what a kernel that ignores strides reads wrongly."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

from refattn.testing.nested import mapped


def tokens_first(x):
    """(..., H, N, D) over memory in the order (..., N, H, D), as a transposed view of projections has it."""
    return np.swapaxes(np.ascontiguousarray(np.swapaxes(x, -3, -2)), -3, -2)


def spread(x):
    """Every second number of a row that is twice as long: the innermost stride is 2, NaN lies between."""
    wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), np.nan)
    wide[..., ::2] = x
    return wide[..., ::2]


def fused(*arrays):
    """Arrays of one shape as views of one array in which they lie side by side, as a fused projection gives them."""
    together = np.concatenate(arrays, axis=-1)
    size = arrays[0].shape[-1]
    return tuple(together[..., n * size : (n + 1) * size] for n in range(len(arrays)))


def expanded(x, count):
    """One head seen `count` times: the stride of its axis is 0."""
    return as_strided(x[..., :1, :, :], (*x.shape[:-3], count, *x.shape[-2:]), (*x.strides[:-3], 0, *x.strides[-2:]))


def in_dtype(x, dtype):
    """An array in another dtype with the strides that it had, counted in elements; gaps hold NaN.

    Examples
    --------
    >>> in_dtype(np.arange(6.0)[::2], "float32").strides
    (8,)
    """
    dtype = np.dtype(dtype)
    if x.flags.c_contiguous or not x.size:
        return x.astype(dtype)
    steps = [stride // x.itemsize for stride in x.strides]
    ends = [step * (size - 1) for step, size in zip(steps, x.shape, strict=True)]
    before = -sum(end for end in ends if end < 0)
    memory = np.full(before + sum(end for end in ends if end > 0) + 1, np.nan, dtype=dtype)
    view = as_strided(memory[before:], x.shape, [step * dtype.itemsize for step in steps])
    view[...] = x
    return view


def cast(value, dtype):
    """Floating-point arrays in an implementation's dtype; formats that NumPy lacks as float32, which holds them exactly."""
    held = dtype if dtype in ("float64", "float32", "float16") else "float32"
    return mapped(lambda x: in_dtype(x, held) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x, value)
