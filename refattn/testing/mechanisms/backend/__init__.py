"""Rounding, and what every function does with arrays and libraries."""

from __future__ import annotations

import numpy as np

from refattn.testing.rounding import round_to
from refattn.testing.roundoff import Bound
from refattn.testing.subject import Subject


def numbers(draw):
    """Numbers around 1, and far smaller ones, to be rounded to a narrow format."""
    scale = draw.pick(2.0**-3, 1.0, 300.0, 2.0**-20)
    return {"x": draw.rng.normal(size=40) * scale, "fmt": draw.pick("bfloat16", "float16", "float32")}


def exactly(profile, x, fmt):
    """Rounding is exact: nothing else is right."""
    value = round_to(x, fmt)
    return {"out": Bound(value, np.zeros_like(value))}


def ties(draw, effort):
    """Numbers half-way between two of a narrow format, of both signs, those of any format that is asked for."""
    for fmt in ("float8_e4m3fn", "float8_e5m2"):
        yield f"ties_{fmt}", ("BACKEND-ROUND",), {"x": np.arange(-64.0, 65.0) / 4, "fmt": fmt}


ROUND_TO = Subject(round_to, numbers, "BACKEND-ROUND", ties, bound=exactly)
