"""The ground floor: which array library, which dtype, and how an error reads.

Every function of refattn asks this module for the array library of its inputs and then writes only what
NumPy 2, CuPy 14 and the array API standard share. There is no global switch, and no array moves between
host and device. Inputs may have any strides and are never written to. [BACKEND-STRIDE] [BACKEND-PURE]
"""

from __future__ import annotations

import functools
import importlib
import math
import numbers
import operator
import reprlib
import sys
from typing import Any

import numpy as np

Array = Any  # a NumPy or CuPy array (or any other that follows the array API standard)

# Narrow formats are exact in float32, in which they are computed and returned. [BACKEND-DTYPE]
_NARROW = ("float16", "bfloat16", "float8", "float6", "float4")

# Where each array library keeps erf, which the array API standard lacks.
SPECIAL = {"numpy": "scipy.special", "cupy": "cupyx.scipy.special"}

# Infinities and NaN are results here, defined by clauses, so they raise no warning.
ieee = np.errstate(all="ignore")


# Subclasses of NumPy's array that mean something else by its operators: a product, or entries that count for nothing.
_OTHER_MEANING = (np.ma.MaskedArray, np.matrix)


def plain(name, x):
    """Refuse an array whose operators mean something else, or that hides some of its entries."""
    if isinstance(x, _OTHER_MEANING):
        raise TypeError(
            f"{name} is a {_kind(x)}, whose operators are not those of an array; it must be a plain NumPy array"
            " (np.asarray makes one of it, and takes a masked entry for what it holds)"
        )


def _library(x, name="x"):
    plain(name, x)
    if isinstance(x, np.ndarray | np.generic):
        return np
    if type(x).__module__.partition(".")[0] == "cupy":
        return sys.modules["cupy"]
    if hasattr(x, "__array_namespace__"):
        return x.__array_namespace__()
    return None


def namespace(*arrays, **named):
    """The array library that all arguments share; None is passed over.

    Parameters
    ----------
    *arrays, **named : array or None
        Arguments of the caller; give them by name, so that an error can say which one is wrong.

    Returns
    -------
    module
        numpy, cupy, or another library that follows the array API standard.

    Raises
    ------
    TypeError
        An argument is no array, or two arguments come from different libraries.

    Notes
    -----
    Clauses: BACKEND-REFUSE.
    """
    first, xp = "", None
    labelled = [(f"argument {n}", x) for n, x in enumerate(arrays)] + list(named.items())
    for name, x in labelled:
        if x is None:
            continue
        library = _library(x, name)
        if library is None:
            raise TypeError(
                f"{name} is a {_kind(x)}; it must be a NumPy or CuPy array"
                " (refattn.testing.assert_matches takes arrays of any framework)"
            )
        if xp is None:
            first, xp = name, library
        elif library is not xp:
            raise TypeError(
                f"{name} is an array of {library.__name__}, {first} of {xp.__name__}: all must be of one library"
            )
    return np if xp is None else xp


def dtype_name(x) -> str:
    """The name of an array's dtype, without its library: 'float32', 'bfloat16', 'bool'."""
    return name_of(x.dtype)


def name_of(dtype) -> str:
    """The name of a dtype, without its library."""
    return _numpy_name(dtype) if isinstance(dtype, np.dtype) else str(getattr(dtype, "name", dtype)).rpartition(".")[2]


@functools.cache
def _numpy_name(dtype) -> str:
    return dtype.name  # put together anew whenever it is asked for


def array(name, x):
    """The library of an argument that must be an array."""
    if x is None:
        raise TypeError(f"{name} is None; it must be a NumPy or CuPy array")
    return namespace(**{name: x})


def floating(*, optional="", **named):
    """Check floating-point arguments and bring them to the one dtype in which they are computed.

    Parameters
    ----------
    optional : str
        Which of them may be None, and then stay None: 'bias sinks'.
    **named : array or None
        Arguments by name.

    Returns
    -------
    tuple
        The array library, then the arguments in order: float64 if one of them is float64, else float32.
        Narrower formats become float32, which holds them exactly.

    Raises
    ------
    TypeError
        An argument is no array, not floating-point, or of another library than the rest.

    Notes
    -----
    Clauses: BACKEND-DTYPE, BACKEND-REFUSE.
    """
    may_be_none = optional.split()
    for name, x in named.items():
        if x is None and name not in may_be_none:
            array(name, x)
    xp = namespace(**named)
    wide = False
    for name, x in named.items():
        if x is None:
            continue
        kind = dtype_name(x)
        if kind not in ("float32", "float64") and not kind.startswith(_NARROW):
            hint = "; cast it first, for example with astype" if "int" in kind else ""
            raise TypeError(
                f"{name} has dtype {kind}; it must be floating-point (float32 or float64, or narrower){hint}"
            )
        wide = wide or kind == "float64"
    dtype = xp.float64 if wide else xp.float32
    return xp, *(None if x is None else cast(x, dtype) for x in named.values())


def boolean(xp, **named):
    """Check that arguments are boolean arrays of library `xp`; return the single one, or a tuple of them."""
    for name, x in named.items():
        if x is not None:
            _of_library(xp, name, x)
            if dtype_name(x) != "bool":
                raise TypeError(f"{name} has dtype {dtype_name(x)}; it must be bool (True takes part)")
    values = tuple(named.values())
    return values[0] if len(values) == 1 else values


def integers(xp, like, **named):
    """Integer arguments (arrays of library `xp`, Python integers or lists of them) as int64 arrays beside `like`."""
    results = [_numbers(xp, like, name, x, "int64", "integers", "an integer dtype") for name, x in named.items()]
    return results[0] if len(results) == 1 else tuple(results)


_MADE_OF = {  # the kinds of Python's numbers, as NumPy calls them, and the dtypes of arrays, by how their names begin
    "int64": ("iu", ("int", "uint")),
    "float64": ("iuf", ("int", "uint", "float", "bfloat")),
}


def _numbers(xp, like, name, x, dtype, what, wanted):
    """An argument that holds numbers, of an array or of Python, in one dtype beside `like`."""
    kinds, names = _MADE_OF[dtype]
    if _library(x, name) is None or isinstance(x, np.generic):
        values = _python_data(name, x, what, kinds)
        return asarray(xp, values.astype(dtype).tolist(), like, getattr(xp, dtype))
    _of_library(xp, name, x)
    if not dtype_name(x).startswith(names):
        raise TypeError(f"{name} has dtype {dtype_name(x)}; it must be {wanted}")
    _fits_int64(xp, name, x)
    return cast(x, getattr(xp, dtype))


def _fits_int64(xp, name, x):
    """Refuse integers that int64 cannot hold: an array of uint64 may have some, and Python's numbers may."""
    if dtype_name(x) == "uint64":
        most = int(xp.max(x)) if math.prod(x.shape) else 0
    elif dtype_name(x) == "object":  # what NumPy makes of integers beyond uint64
        most = max((abs(n) for n in x.flat if isinstance(n, int)), default=0)
    else:
        return
    if most >= 2**63:
        raise ValueError(f"{name} holds {shown(most)}; integers must be below 2**63")


def near(xp, **named):
    """Check that integer arrays hold nothing beyond 2**62, so that their sums and differences fit int64."""
    for name, x in named.items():
        if math.prod(x.shape) and not -(2**62) < int(xp.min(x)) <= int(xp.max(x)) < 2**62:
            raise ValueError(
                f"{name} reaches from {int(xp.min(x))} to {int(xp.max(x))}; it must stay within 2**62 of 0"
            )


def reals(xp, like, **named):
    """Integers and fractions (arrays of library `xp`, Python numbers or lists of them), finite, as float64 beside `like`."""
    results = []
    for name, x in named.items():
        x = _numbers(xp, like, name, x, "float64", "real numbers", "integer or floating-point")
        if not bool(xp.all(xp.isfinite(x))):
            raise ValueError(f"{name} holds NaN or an infinity; all must be finite")
        if bool(xp.any(xp.abs(x) >= 2.0**53)):
            raise ValueError(f"{name} reaches beyond 2**53, where float64 does not tell one integer from the next")
        results.append(x)
    return results[0] if len(results) == 1 else tuple(results)


def _python_data(name, x, what, kinds):
    """Python numbers, or nested lists of them, as a NumPy array: they live on no device."""
    if not isinstance(x, list | tuple | range | numbers.Number | np.generic):
        raise TypeError(f"{name} must hold {what}, not {shown(x)}: an array, a list, or a single one")
    try:
        values = np.asarray(x)
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise ValueError(f"{name} must be a full array; its rows have different lengths") from None
    _fits_int64(np, name, values)
    if values.dtype.kind not in kinds and (values.size or not isinstance(x, list | tuple)):
        _fits_int64(np, name, np.asarray(x, dtype=object))  # [5, 2**63] is float64 to NumPy
        raise TypeError(f"{name} must hold {what}, not {values.dtype.name} ({shown(x)})")
    return values


def _of_library(xp, name, x):
    if _library(x, name) is not xp:
        raise TypeError(f"{name} is a {_kind(x)}; it must be an array of {xp.__name__}, as the other arguments are")


def _kind(x):
    module = type(x).__module__
    return type(x).__name__ if module == "builtins" else f"{module}.{type(x).__name__}"


def cast(x, dtype):
    """`x` in another dtype; the same array if it has that dtype already."""
    if x.dtype == dtype:
        return x
    xp = _library(x)
    return xp.astype(x, dtype) if hasattr(xp, "astype") else x.astype(dtype)


def _beside(xp, like):
    """Keywords that create an array on the device of `like` (CuPy takes the current device instead)."""
    return {} if xp.__name__.startswith("cupy") else {"device": like.device}


def asarray(xp, values, like, dtype):
    """Python numbers or nested lists as an array on the device of `like`."""
    return xp.asarray(values, dtype=dtype, **_beside(xp, like))


def empty(xp, shape, like):
    """Memory of the dtype and on the device of `like`, to be written to before it is read."""
    return xp.empty(shape, dtype=like.dtype, **_beside(xp, like))


def read_only(x):
    """A view that cannot be written to, where the library has such a thing: NumPy has."""
    if isinstance(x, np.ndarray):
        x = x.view()
        x.flags.writeable = False
    return x


def arange(xp, start, stop, like):
    """The integers from `start` up to `stop`, as int64 on the device of `like`."""
    return xp.arange(start, stop, dtype=xp.int64, **_beside(xp, like))


def full(xp, shape, value, like):
    """An array of one number, of the dtype and on the device of `like`."""
    return xp.full(shape, value, dtype=like.dtype, **_beside(xp, like))


def stable_argsort(xp, x):
    """The order of the last axis, of equals the first first: CuPy sorts so always, and knows no word for it."""
    return xp.argsort(x, axis=-1, **({} if xp.__name__.startswith("cupy") else {"stable": True}))


def largest(xp, x, count):
    """The places (..., count) of the largest numbers of the last axis, in ascending order; of equals the first are taken.

    NumPy and CuPy find the least of them without sorting, a fifth of the time; the array API standard has only sorting.
    """
    if xp.__name__ not in ("numpy", "cupy") or 0 in (count, *x.shape):
        return xp.sort(stable_argsort(xp, -x)[..., :count], axis=-1)
    least = xp.partition(x, x.shape[-1] - count, axis=-1)[..., x.shape[-1] - count, None]
    above, equal = x > least, x == least
    taken = above | (equal & (xp.cumsum(equal, axis=-1) <= count - xp.sum(above, axis=-1, keepdims=True)))
    return xp.reshape(xp.nonzero(taken)[-1], (*x.shape[:-1], count))


def running_sums(xp, x):
    """The sums of the first 1, 2, ... numbers of the last axis, under the name that a library has for them."""
    return xp.cumsum(x, axis=-1) if xp.__name__ in ("numpy", "cupy") else xp.cumulative_sum(x, axis=-1)


def special(xp, name):
    """A special function that the array API standard lacks, from the library's own collection."""
    return getattr(importlib.import_module(SPECIAL[xp.__name__]), name)


def summed_rows(xp, x, places, count):
    """The sums (count, D) of the rows of x (L, D) that belong to one place each, of which there are `count`.

    NumPy and CuPy multiply by a sparse matrix of ones, which is ten times as fast as adding at indices; the array API
    standard has neither.
    """
    home = {"numpy": "scipy.sparse", "cupy": "cupyx.scipy.sparse"}.get(xp.__name__)
    if home and 0 not in (count, *x.shape):
        ones, ends = xp.ones(x.shape[0], dtype=x.dtype), xp.arange(x.shape[0] + 1)
        of_rows = importlib.import_module(home).csc_matrix((ones, places, ends), shape=(count, x.shape[0]))
        return of_rows @ x
    out = full(xp, (count, x.shape[1]), 0.0, x)
    for n in range(x.shape[0]):
        out[int(places[n]), :] = out[int(places[n]), :] + x[n, :]
    return out


# --- scalars: every function takes the same ones ---------------------------------------------------------------------


def shown(value) -> str:
    """A value as an error shows it: short, whatever it is."""
    if isinstance(value, int) and abs(value) >= 2**128:
        return f"an integer of {value.bit_length()} bits"
    if hasattr(value, "dtype") and isinstance(getattr(value, "shape", None), tuple) and value.shape:
        return f"an array {tuple(value.shape)} of {dtype_name(value)}"
    if callable(value) and hasattr(value, "__qualname__"):
        return (
            f"the function {value.__qualname__}" if not isinstance(value, type) else f"the class {value.__qualname__}"
        )
    return reprlib.repr(value)


def number(name, value, *, positive=False, least=None) -> float:
    """A real scalar argument as a Python float, so that it never widens a float32 array.

    It is a Python or NumPy number, or an array without axes that holds one. Not taken are True and False, strings, and
    what is not finite.
    """
    if not _is_real(value):
        raise TypeError(f"{name} must be a real number, not {shown(value)}")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise ValueError(f"{name} is {shown(value)}; it must be finite")
    if positive and not result > 0:
        raise ValueError(f"{name} is {result}; it must be positive")
    if least is not None and result < least:
        raise ValueError(f"{name} is {result}; it must be at least {least}")
    return result


def _is_real(value):
    if type(value) in (float, int):
        return True
    if hasattr(value, "dtype"):
        return getattr(value, "shape", None) == () and dtype_name(value).startswith(("float", "bfloat", "int", "uint"))
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def integer(name, value, *, least=None, most=2**63 - 1) -> int:
    """An integer scalar argument as a Python int: of Python, of NumPy, or an array without axes; True is none."""
    try:
        if isinstance(value, bool):
            raise TypeError
        result = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {shown(value)}") from None
    if least is not None and result < least:
        raise ValueError(f"{name} is {shown(result)}; it must be at least {least}")
    if abs(result) > most:
        raise ValueError(f"{name} is {shown(result)}; it must be at most {most}")
    return result


def flag(name, value) -> bool:
    """An argument that is True or False, and nothing that only counts as one of them."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, not {shown(value)}")
    return bool(value)


def axis(value, x, name="x") -> int:
    """An axis of an array, as an index from 0."""
    result = integer("axis", value)
    if x.ndim == 0:
        raise ValueError(f"axis is {result}; {name} has shape (), which has no axis")
    if not -x.ndim <= result < x.ndim:
        raise ValueError(
            f"axis is {result}; {name} has shape {tuple(x.shape)}, so it must be from {-x.ndim} to {x.ndim - 1}"
        )
    return result % x.ndim


def choice(name, value, allowed):
    """An argument that must be one of a few words or numbers, or None where that is among them."""
    if not any(
        value is x or (isinstance(value, type(x)) and not isinstance(value, bool) and value == x) for x in allowed
    ):
        raise ValueError(f"{name} is {shown(value)}; it must be one of {', '.join(map(repr, allowed))}")
    return value


def one_of_integers(name, value, allowed) -> int:
    """An integer argument that must be one of a few."""
    return choice(name, integer(name, value), allowed)


def rank(name, x, least, shape):
    """Check that an array has at least `least` axes; `shape` is how the caller's docstring writes its shape."""
    if x.ndim < least:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; it must be {shape}")


def broadcast(shape_text, **shapes):
    """The common shape of several arguments' axes, or an error that names them."""
    try:
        return np.broadcast_shapes(*shapes.values())
    except ValueError:
        listed = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
        raise ValueError(f"the {shape_text} do not broadcast: {listed}") from None


def fits_scores(name, x, n, m):
    """Refuse what goes with the scores, entry by entry, and has other numbers of queries or keys."""
    for axis, size, letter in ((-1, m, "M"), (-2, n, "N")):
        if x.ndim >= -axis and x.shape[axis] not in (1, size):
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}; it must broadcast to (..., N={n}, M={m}): {letter} differs"
            )
