"""The inputs of the golden vectors; definition.py says what comes out."""

from ..exact import inf, nan, tensor
from ..vectors import call, case, grid, integers


def ties(p, exponents):
    """Halfway between neighbours of precision p, and just beside, at several exponents."""
    numbers = []
    for e in exponents:
        for k in (2 ** (p - 1), 2 ** (p - 1) + 1, 2**p - 1):
            half = (k + 0.5) * 2.0 ** (e - p + 1)
            numbers += [half, -half, half * (1 + 2.0**-50), half * (1 - 2.0**-50)]
    return numbers


def rounding(fmt, extra, p, exponents):
    return case(
        f"round_to.{fmt}.0001: BACKEND-ROUND; TiesToEven Subnormal",
        call("testing.round_to", x=tensor([*ties(p, exponents), *extra, 0.0, inf, -inf, nan]), fmt=fmt),
        "round_to/away_from_zero round_to/truncates",
        wide=True,
    )


CASES = [
    rounding(
        "float32", [1e-45, 2.0**-149 * 0.5, 2.0**-150 * 1.5, 3.4028235677973366e38, 3.5e38], 24, [0, -126, -130, 60]
    ),
    rounding("bfloat16", [3.3961775292304204e38, 3.39e38, 2.0**-134, 2.0**-133 * 1.5], 8, [0, -126, -130, 90]),
    rounding("float16", [65519.0, 65520.0, 2.0**-25, 2.0**-24 * 1.5], 11, [0, -14, -17, 15]),
    rounding("tf32", [1.0009765625, 2.0**-137], 11, [0, -126, 100]),
    rounding("float8_e5m2", [61439.0, 61440.0, 2.0**-17, 2.0**-16 * 1.5], 3, [0, -14, -15, 14]),
    rounding("float8_e4m3fn", [464.0, 464.5, 2.0**-10, 2.0**-9 * 1.5], 4, [0, -6, -8, 7]),
    case(
        "backend.dtype.0001: BACKEND-DTYPE BACKEND-PURE BACKEND-STRIDE; Basic",
        call("softmax", x=grid("dtype", (2, 3))),
        "softmax/not_divided softmax/minimum",
        comment="Run it in every dtype, with inputs watched, and through strided views.",
    ),
    case(
        "backend.refuse.0001: BACKEND-REFUSE; WrongInput",
        call("softmax", x=integers(1, 2, 3)),
        comment="Integers are no scores.",
    ),
]
