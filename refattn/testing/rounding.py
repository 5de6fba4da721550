"""Number formats, and exact rounding to them.

Casting float64 through ml_dtypes rounds twice (first to float32), so the kit rounds by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refattn import backend


@dataclass(frozen=True)
class Format:
    """A binary floating-point format.

    Attributes
    ----------
    name : str
    precision : int
        Significant bits, the hidden one included.
    emin : int
        Exponent of the least normal number, 2**emin.
    largest : float
        The largest finite number.
    overflow : {"inf", "nan"}
        What a number beyond it becomes.
    """

    name: str
    precision: int
    emin: int
    largest: float
    overflow: str = "inf"

    @property
    def u(self) -> float:
        """Unit roundoff: rounding x moves it by at most u·|x|, where x is a normal number."""
        return 2.0**-self.precision

    @property
    def eta(self) -> float:
        """Half the least subnormal number: rounding moves a subnormal number by at most eta."""
        return 2.0 ** (self.emin - self.precision)


FORMATS = {
    f.name: f
    for f in (
        Format("float64", 53, -1022, float(np.finfo(np.float64).max)),
        Format("float32", 24, -126, float(np.finfo(np.float32).max)),
        Format("tf32", 11, -126, 2.0**128 - 2.0**117),
        Format("float16", 11, -14, 65504.0),
        Format("bfloat16", 8, -126, 2.0**128 - 2.0**120),
        Format("float8_e5m2", 3, -14, 57344.0),
        Format("float8_e4m3fn", 4, -6, 448.0, overflow="nan"),
    )
}

_NATIVE = ("float64", "float32", "float16")  # those that NumPy has


def format_named(fmt) -> Format:
    """A format by name; a Format is returned as it is."""
    return fmt if isinstance(fmt, Format) else FORMATS[backend.choice("fmt", fmt, tuple(FORMATS))]


def as_reals(name, x) -> np.ndarray:
    """Real numbers, an array or Python's, as float64."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array; it must be a plain one")
    try:
        values = np.asarray(x)
    except (ValueError, TypeError):
        raise ValueError(f"{name} must be a full array; its rows have different lengths") from None
    if values.dtype.kind not in "iuf" and not backend.dtype_name(values).startswith(("bfloat", "float")):
        raise TypeError(f"{name} is {backend.shown(x)}; it must hold real numbers")
    return values.astype(np.float64)


def round_to(x, fmt):
    """The nearest number of a format, ties to even.

    Parameters
    ----------
    x : float64 array (...)
    fmt : Format or str
        A format, or the name of one in `FORMATS`.

    Returns
    -------
    out : float64 array (...)
        Numbers that the format holds exactly; infinity or NaN where it overflows.

    Notes
    -----
    Exact: scaling by powers of two and `rint` lose nothing, and a cast rounds once. Clauses: BACKEND-ROUND.
    Source: Higham 2002, section 2.1.

    Examples
    --------
    >>> round_to(np.array([1.00390625, 65520.0]), "float16")
    array([1.00390625,        inf])
    >>> round_to(np.array([1.00390625]), "bfloat16")  # a tie: to even
    array([1.])
    """
    fmt = format_named(fmt)
    x = as_reals("x", x)
    if fmt.name in _NATIVE:  # NumPy's casts from float64 round once, ties to even, and overflow to infinity
        with np.errstate(all="ignore"):
            return x.astype(fmt.name).astype(np.float64)
    _, exponent = np.frexp(x)
    last = np.maximum(exponent - fmt.precision, fmt.emin - fmt.precision + 1)  # exponent of the last kept bit
    with np.errstate(invalid="ignore", over="ignore"):
        y = np.ldexp(np.rint(np.ldexp(x, -last)), last)
        beyond = np.copysign(np.inf, x) if fmt.overflow == "inf" else np.nan
        y = np.where(np.abs(y) > fmt.largest, beyond, y)
    return np.where(np.isnan(x), x, y)


def ulp(x, fmt):
    """The spacing of a format's numbers at x, for reports in units of the last place."""
    fmt = format_named(fmt)
    _, exponent = np.frexp(as_reals("x", x))
    return np.ldexp(1.0, np.maximum(exponent, fmt.emin + 1) - fmt.precision)
