"""The inputs of the golden vectors; definition.py says what comes out."""

from ..exact import inf, nan, tensor
from ..vectors import Case, grid


def ties(p, exponents):
    """Halfway between neighbours of precision p, and just beside, at several exponents."""
    numbers = []
    for e in exponents:
        for k in (2 ** (p - 1), 2 ** (p - 1) + 1, 2**p - 1):
            half = (k + 0.5) * 2.0 ** (e - p + 1)
            numbers += [half, -half, half * (1 + 2.0**-50), half * (1 - 2.0**-50)]
    return numbers


def rounding(number, fmt, extra, p, exponents):
    return Case(
        f"round_to.{fmt}.{number:04}",
        "testing.round_to",
        {"x": tensor([*ties(p, exponents), *extra, 0.0, inf, -inf, nan]), "fmt": fmt},
        clauses=["BACKEND-ROUND"],
        flags=["TiesToEven", "Subnormal"],
        wide=True,
        catches=["round_to/away_from_zero", "round_to/truncates"],
    )


CASES = [
    rounding(
        1, "float32", [1e-45, 2.0**-149 * 0.5, 2.0**-150 * 1.5, 3.4028235677973366e38, 3.5e38], 24, [0, -126, -130, 60]
    ),
    rounding(1, "bfloat16", [3.3961775292304204e38, 3.39e38, 2.0**-134, 2.0**-133 * 1.5], 8, [0, -126, -130, 90]),
    rounding(1, "float16", [65519.0, 65520.0, 2.0**-25, 2.0**-24 * 1.5], 11, [0, -14, -17, 15]),
    rounding(1, "tf32", [1.0009765625, 2.0**-137], 11, [0, -126, 100]),
    rounding(1, "float8_e5m2", [61439.0, 61440.0, 2.0**-17, 2.0**-16 * 1.5], 3, [0, -14, -15, 14]),
    rounding(1, "float8_e4m3fn", [464.0, 464.5, 2.0**-10, 2.0**-9 * 1.5], 4, [0, -6, -8, 7]),
    Case(
        "backend.dtype.0001",
        "softmax",
        {"x": grid("dtype", (2, 3))},
        clauses=["BACKEND-DTYPE", "BACKEND-PURE", "BACKEND-STRIDE"],
        flags=["Basic"],
        comment="Run it in every dtype, with inputs watched, and through strided views.",
        catches=["softmax/not_divided", "softmax/minimum"],
    ),
    Case(
        "backend.refuse.0001",
        "softmax",
        {"x": tensor([1, 2, 3], dtype="int64")},
        clauses=["BACKEND-REFUSE"],
        flags=["WrongInput"],
        comment="Integers are no scores.",
        refuses=True,
    ),
]
