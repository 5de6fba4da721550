"""Precision profiles: what a kernel promises to round, and where.

A profile is part of a kernel's contract. Two correct kernels of different profiles differ by far more than one of
them differs from exact arithmetic, so a bound without a profile is either too wide or raises false alarms.
"""

from __future__ import annotations

from dataclasses import dataclass

from refattn import backend
from refattn.testing.rounding import FORMATS, Format


@dataclass(frozen=True)
class Profile:
    """Where a kernel rounds, and to what.

    Attributes
    ----------
    name : str
    out : Format
        The format of results.
    scores : Format or None
        The format in which q kᵀ is stored before softmax; None: it stays in the accumulator.
    weights : Format or None
        The format in which weights multiply the values; None: they stay in the accumulator's format.
    operands : Format or None
        A narrower format to which q, k and v are rounded before they are multiplied (tf32); None: they are used as given.
    order : {"flash", "eager"}
        flash: unnormalised weights multiply v, one division at the end. eager: scores are stored, softmax is
        normalised, then rounded, then multiplies v.
    u_acc : float
        Unit roundoff of accumulation. Tensor cores truncate, so it is 2^-23 where they may be used.
    u_exp : float
        Relative error of the exponential (and of tanh, erf, log, division).
    eta_acc : float
        Half the least number of the accumulator's format: what an underflow may lose.
    tile : int
        Keys a tile: sums are rescaled once a tile.
    prescale : float
        By what weights are multiplied before they are rounded, so that small ones do not vanish in a narrow format.
    """

    name: str
    out: Format
    scores: Format | None = None
    weights: Format | None = None
    operands: Format | None = None
    order: str = "flash"
    u_acc: float = 2.0**-23
    u_exp: float = 2.0**-22
    eta_acc: float = 2.0**-126  # flush to zero is allowed
    tile: int = 64
    prescale: float = 1.0

    @property
    def inputs(self) -> str:
        """The name of the format in which a kernel of this profile gets its arrays."""
        return (
            self.weights.name if self.weights is not None and self.weights.name.startswith("float8") else self.out.name
        )


_F = FORMATS

PROFILES = {
    p.name: p
    for p in (
        Profile("float64", _F["float64"], u_acc=2.0**-53, u_exp=2.0**-51, eta_acc=2.0**-1022),
        Profile("float32", _F["float32"], u_acc=2.0**-24),
        Profile("tf32", _F["float32"], operands=_F["tf32"], weights=_F["tf32"]),
        Profile("float16", _F["float16"], weights=_F["float16"]),
        Profile("bfloat16", _F["bfloat16"], weights=_F["bfloat16"]),
        Profile("float8", _F["bfloat16"], weights=_F["float8_e4m3fn"], u_acc=2.0**-13, prescale=256.0),
        Profile("float8/unscaled", _F["bfloat16"], weights=_F["float8_e4m3fn"], u_acc=2.0**-13),
        Profile("float16/eager", _F["float16"], scores=_F["float16"], weights=_F["float16"], order="eager"),
        Profile("bfloat16/eager", _F["bfloat16"], scores=_F["bfloat16"], weights=_F["bfloat16"], order="eager"),
        Profile("float32/eager", _F["float32"], order="eager", u_acc=2.0**-24),
        Profile("float64/eager", _F["float64"], order="eager", u_acc=2.0**-53, u_exp=2.0**-51, eta_acc=2.0**-1022),
    )
}


def profile(precision) -> Profile:
    """A profile by name; a Profile is returned as it is.

    Examples
    --------
    >>> profile("bfloat16").out.u == 2.0**-8
    True
    """
    if isinstance(precision, Profile):
        return precision
    if not isinstance(precision, str) or precision not in PROFILES:
        raise ValueError(
            f"precision is {backend.shown(precision)}; it must be a Profile or one of {', '.join(PROFILES)}"
        )
    return PROFILES[precision]
