"""Exact rounding to formats, against every library that rounds to them."""

import ml_dtypes
import numpy as np
import pytest

from refattn.testing.reference import from_bits
from refattn.testing.rounding import FORMATS, round_to, ulp

NARROW = {
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float32": np.float32,
}


def random_floats(count=200_000):
    bits = np.random.default_rng(0).integers(0, 2**32, count, dtype=np.uint32)
    with np.errstate(invalid="ignore"):  # signalling NaN
        return bits.view(np.float32).astype(np.float64)


@pytest.mark.clause("BACKEND-ROUND")
@pytest.mark.parametrize("name", NARROW)
def test_every_float32_rounds_as_the_library_that_has_the_format(name):
    x = random_floats()
    with np.errstate(all="ignore"):
        want = x.astype(np.float32).astype(NARROW[name]).astype(np.float64)
    got = round_to(x, name)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(got[~np.isnan(want)], want[~np.isnan(want)])


@pytest.mark.clause("BACKEND-ROUND")
def test_float16_midpoints_and_their_neighbours():
    every = np.arange(65536, dtype=np.uint16).view(np.float16)
    grid = np.unique(every[np.isfinite(every)].astype(np.float64))
    middle = (grid[:-1] + grid[1:]) / 2
    x = np.concatenate([middle, np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf)])
    np.testing.assert_array_equal(round_to(x, "float16"), x.astype(np.float16).astype(np.float64))


@pytest.mark.clause("BACKEND-ROUND")
def test_it_rounds_once_where_casting_through_float32_rounds_twice():
    just_above_a_tie = np.array([1.0 + 2.0**-8 + 2.0**-40])
    assert round_to(just_above_a_tie, "bfloat16") == 1.0 + 2.0**-7
    assert just_above_a_tie.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64) == 1.0


@pytest.mark.parametrize("name", FORMATS)
def test_rounding_twice_is_rounding_once_and_moves_by_less_than_u(name):
    x = np.random.default_rng(1).normal(size=1000)
    once, f = round_to(x, name), FORMATS[name]
    np.testing.assert_array_equal(round_to(once, name), once)
    assert (np.abs(once - x) <= np.maximum(f.u * np.abs(x), f.eta)).all()
    assert (np.abs(once - x) <= ulp(x, name) / 2).all()
    np.testing.assert_array_equal(round_to(-x, name), -once)


@pytest.mark.parametrize("name", FORMATS)
def test_the_numbers_of_a_format_end_where_it_says(name):
    f = FORMATS[name]
    info = (ml_dtypes.finfo if name in NARROW else np.finfo)(NARROW.get(name, "float32" if name == "tf32" else name))
    known = float(info.max), float(info.smallest_normal), float(info.eps)
    if name == "tf32":  # float32 with the digits of float16
        known = (2 - 2.0**-10) * 2.0**127, known[1], 2.0**-10
    assert (f.largest, 2.0**f.emin, 2.0 ** (1 - f.precision)) == known
    if name != "float64":
        step = float(ulp(f.largest, name))
        assert round_to(np.array(f.largest), name) == f.largest
        assert round_to(np.array(f.largest + step / 4), name) == f.largest
        beyond = round_to(np.array(f.largest + step), name)
        assert np.isnan(beyond) if f.overflow == "nan" else np.isposinf(beyond)


@pytest.mark.parametrize(
    ("name", "bits"),
    [("bfloat16", np.uint16), ("float16", np.uint16), ("float8_e5m2", np.uint8), ("float8_e4m3fn", np.uint8)],
)
def test_bits_of_every_number_of_a_format(name, bits):
    every = np.arange(2 ** (8 * np.dtype(bits).itemsize), dtype=np.uint32).astype(bits)
    with np.errstate(invalid="ignore"):  # signalling NaN
        want = every.view(NARROW[name]).astype(np.float64)
    np.testing.assert_array_equal(from_bits(every, name), want)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_has_bits_of_one_width(name):
    holds = []
    for width in (8, 16, 32, 64):
        for kind in ("uint", "int"):
            try:
                assert from_bits(np.zeros(2, dtype=f"{kind}{width}"), name).tolist() == [0.0, 0.0]
                holds.append(f"{kind}{width}")
            except TypeError:
                pass
    widths = {"float64": 64, "float32": 32, "tf32": None}
    width = widths.get(name, 8 if name.startswith("float8") else 16)
    assert holds == ([f"uint{width}"] if width else [])


def test_bits_of_the_wrong_width_are_refused():
    with pytest.raises(TypeError, match="bits has dtype int64, which cannot hold the bits of bfloat16"):
        from_bits(np.array([1]), "bfloat16")
