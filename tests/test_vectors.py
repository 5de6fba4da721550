"""The array code gives what the golden vectors say, on every library and in every dtype."""

import numpy as np
import pytest

from refattn.testing import vectors
from refattn.testing.bounds import bound
from refattn.testing.profiles import profile

ALL = [case for mechanism in vectors.mechanisms() for case in vectors.load(mechanism)]
CASES = [case for case in ALL if not case.function.startswith("testing.")]
LIMITS: dict = {}  # of each case and precision, computed once


def in_dtype(value, dtype):
    if isinstance(value, np.ndarray):
        return value.astype(dtype) if value.dtype == np.float64 else value
    if isinstance(value, tuple):
        items = [in_dtype(item, dtype) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value


def flat(values):
    for value in values:
        if isinstance(value, tuple):
            yield from flat(value)
        else:
            yield value


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.mechanism}:{case.id}")
def test_golden_vector(case, library):
    for dtype in library.dtypes:
        if all(fits(value, dtype) for value in flat(case.arguments.values())):
            check(case, dtype, library)


def fits(value, dtype):
    """Whether a dtype holds an array's numbers; wide cases have some that float16 does not."""
    with np.errstate(over="ignore"):
        narrow = in_dtype(value, dtype)
    return not isinstance(value, np.ndarray) or np.array_equal(np.isfinite(narrow), np.isfinite(value))


def check(case, dtype, library):
    function = vectors.function_named(case.function)
    arguments = {name: in_dtype(value, dtype) for name, value in case.arguments.items()}
    if case.refuses:
        with pytest.raises((TypeError, ValueError)):
            library.call(function, **arguments)
        return
    got = vectors.results(library.call(function, **arguments))
    assert got.keys() >= case.expect.keys()
    takes_floats = any(getattr(value, "dtype", None) == dtype for value in flat(arguments.values()))
    for name, want in case.expect.items():
        result = np.asarray(got[name])
        assert result.shape == want.shape, name
        if want.dtype == np.float64:
            if takes_floats:  # else there is no dtype to follow, and the result is float64
                assert result.dtype == (np.float64 if dtype == "float64" else np.float32), name
            assert_close(result, want, limits(case, result.dtype.name)[name].hard)
        else:
            np.testing.assert_array_equal(result, want)


@pytest.mark.parametrize("case", [case for case in ALL if case not in CASES], ids=lambda case: case.id)
def test_golden_vector_of_the_kit(case):
    """The testing kit runs in NumPy float64, and is exact."""
    got = vectors.results(vectors.function_named(case.function)(**case.arguments))
    for name, want in case.expect.items():
        np.testing.assert_array_equal(got[name], want)


def limits(case, precision):
    if (case.id, precision) not in LIMITS:
        with np.errstate(all="ignore"):
            LIMITS[case.id, precision] = bound(case.function, profile(precision), **case.arguments)
    return LIMITS[case.id, precision]


def assert_close(result, want, limit):
    """Special values agree exactly; finite ones within the error bound, the golden value being rounded itself."""
    for special in (np.isnan, np.isposinf, np.isneginf):
        np.testing.assert_array_equal(special(result), special(want))
    finite = np.isfinite(want)
    error = np.abs(result.astype(np.float64)[finite] - want[finite])
    assert (error <= np.broadcast_to(limit, want.shape)[finite] + np.spacing(np.abs(want[finite])) / 2).all()
