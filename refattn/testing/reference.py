"""The oracle: any reference function on inputs cast up to float64, from arrays of any framework."""

from __future__ import annotations

import functools
import inspect
import os
import types

import numpy as np

from refattn import backend
from refattn.masks import Mask
from refattn.testing.names import function_named
from refattn.testing.nested import mapped, paths
from refattn.testing.rounding import format_named


def to_numpy(x) -> np.ndarray:
    """Any framework's array as a NumPy array; narrow floating-point formats as float64, which holds them exactly.

    Parameters
    ----------
    x : array
        NumPy, CuPy, torch (any device), jax, mlx, or anything with `__array__` or `__dlpack__`; or a plain number.

    Returns
    -------
    array
        float64 for floating-point input, else the dtype that it had.

    Raises
    ------
    TypeError
        It is no array, or its dtype does not cross: pass its bits through `from_bits`.

    Examples
    --------
    >>> to_numpy(np.array([1.5], dtype=np.float16))
    array([1.5])
    """
    backend.plain("x", x)
    if isinstance(x, type | types.ModuleType):
        raise TypeError(f"x, {backend.shown(x)}, is no array")
    family = type(x).__module__.partition(".")[0]
    if family == "torch":
        x = x.detach().cpu()
        x = (x.double() if x.is_floating_point() else x).numpy()  # torch widens bfloat16 and float8 exactly
    elif family == "cupy":
        x = x.get()
    elif family == "mlx" and "float" in str(x.dtype):
        import mlx.core as mx

        x = np.array(x.astype(mx.float32))  # mlx exports no bfloat16
    elif not isinstance(x, np.ndarray | np.generic | int | float):
        if not (hasattr(x, "__array__") or hasattr(x, "__dlpack__")):
            raise TypeError(
                f"x, a {type(x).__module__}.{type(x).__name__}, is no array: it has neither __array__ nor __dlpack__"
            )
        try:
            x = np.asarray(x) if hasattr(x, "__array__") else np.from_dlpack(x)
        except (BufferError, RuntimeError) as error:
            raise TypeError(
                f"this {type(x).__module__} array cannot be exported ({error});"
                " pass its bits: from_bits(x viewed as unsigned integers, 'bfloat16')"
            ) from None
    x = np.asarray(x)
    wide = x.dtype.kind == "f" or x.dtype.name.startswith(("bfloat", "float"))
    return x.astype(np.float64) if wide else x


def from_bits(bits, fmt: str) -> np.ndarray:
    """Numbers of a narrow format from their bits.

    Parameters
    ----------
    bits : array of unsigned integers
        uint16 for bfloat16 and float16, uint8 for the float8 formats.
    fmt : str
        A name in `refattn.testing.rounding.FORMATS`.

    Returns
    -------
    float64 array

    Examples
    --------
    >>> from_bits(np.array([0x3FC0], dtype=np.uint16), "bfloat16")
    array([1.5])
    """
    f = format_named(fmt)
    try:
        bits = to_numpy(bits)
    except TypeError as error:
        raise TypeError(f"bits: {error}") from None
    width = 8 * bits.dtype.itemsize
    exponent_bits = width - f.precision
    if bits.dtype.kind != "u" or f.emin != 2 - 2 ** max(exponent_bits - 1, 1):
        raise TypeError(f"bits has dtype {bits.dtype.name}, which cannot hold the bits of {f.name}")
    bits = bits.astype(np.int64)
    fraction = bits & (2 ** (f.precision - 1) - 1)
    exponent = (bits >> (f.precision - 1)) & (2**exponent_bits - 1)
    significand = np.where(exponent == 0, fraction, fraction + 2 ** (f.precision - 1)).astype(np.float64)
    with np.errstate(over="ignore"):  # where the exponent says infinity or NaN
        value = np.ldexp(significand, np.maximum(exponent, 1) - 1 + f.emin - f.precision + 1)
    top = exponent == 2**exponent_bits - 1
    if f.overflow == "inf":
        value = np.where(top, np.where(fraction == 0, np.inf, np.nan), value)
    else:  # no infinities: only the all-ones pattern is NaN
        value = np.where(top & (fraction == 2 ** (f.precision - 1) - 1), np.nan, value)
    return np.where((bits >> (width - 1)) & 1 == 1, -value, value)


def in_float64(arguments):
    """Arguments with every array as NumPy, floating-point ones in float64; masks, tuples and scalars kept."""
    return mapped(_in_float64, arguments)


def call_in_float64(function: str, args, kwargs):
    """The arguments of a call in float64; what is no plain array is refused by the argument's name."""
    for where, x in paths(named_arguments(function, args, kwargs)):
        backend.plain(where, x)
    return in_float64(args), in_float64(kwargs)


def _in_float64(x):
    is_array = hasattr(x, "dtype") and not isinstance(x, Mask) and not callable(getattr(x, "shape", len))
    return to_numpy(x) if is_array else x


@functools.cache
def parameters_of(function: str) -> tuple[inspect.Parameter, ...]:
    """The parameters of a reference function."""
    return tuple(inspect.signature(function_named(function)).parameters.values())


def required_arguments(function: str) -> list[str]:
    """The arguments that a reference function cannot do without."""
    return [p.name for p in parameters_of(function) if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]


def named_arguments(function: str, args, kwargs) -> dict:
    """The arguments of a call of a reference function by name, those that it only passes on among them."""
    return {**dict(zip((p.name for p in parameters_of(function)), args, strict=False)), **kwargs}


def oracle(function, *args, **kwargs):
    """A reference function on its inputs cast up to float64.

    Parameters
    ----------
    function : callable or str
        A function of refattn.
    *args, **kwargs
        Its arguments, as arrays of any framework.

    Returns
    -------
    NumPy float64, as the function returns it

    Examples
    --------
    >>> import refattn
    >>> oracle(refattn.softmax, np.zeros(4, dtype=np.float16))
    array([0.25, 0.25, 0.25, 0.25])
    """
    if isinstance(function, str):
        args, kwargs = call_in_float64(function, args, kwargs)
        return function_named(function)(*args, **kwargs)
    return function(*in_float64(args), **in_float64(kwargs))


def tf32_switches() -> dict[str, str]:
    """Environment variables that silently turn float32 products on a GPU into TF32, as they are set."""
    return {
        name: os.environ[name]
        for name in ("CUPY_TF32", "NVIDIA_TF32_OVERRIDE")
        if os.environ.get(name) not in (None, "0")
    }
