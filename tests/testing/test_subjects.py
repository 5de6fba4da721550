"""What is true of every mechanism, asked of every subject that is found. It names none."""

from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from refattn.testing import inputs, layouts, vectors
from refattn.testing.bounds import bound
from refattn.testing.layouts import cast
from refattn.testing.nested import arrays, leaves, mapped
from refattn.testing.profiles import profile
from refattn.testing.registry import VARIANTS
from refattn.testing.rounding import round_to
from refattn.testing.strategies import calls
from refattn.testing.subject import mechanisms, subject, subjects
from refattn.testing.variants import variants
from refattn.testing.vectors import results
from tests.judged import away

CALLED = {case.function: mechanism for mechanism in mechanisms() for case in vectors.load(mechanism)}
SUBJECTS = sorted(subjects())
ON_ARRAYS = [name for name in SUBJECTS if not name.startswith("testing.")]  # of any library and dtype
OWN = sorted({v.function for v in VARIANTS.values()})  # functions with variants that are no other's
PRECISIONS = ("float32", "bfloat16")
LEAST = 4.0  # a variant is found where it is so many bounds away
WIDE = ("cos", "sin")  # tables and counts that no kernel gets in its narrow format


@cache
def cases(function, precision="float32", effort="smoke", seed=0):
    return list(inputs.cases(function, fmt=profile(precision).inputs, effort=effort, seed=seed))


@cache
def limits(function, precision, number, effort="smoke"):
    """The bounds of a case; None where a choice that rounding may flip leaves none."""
    try:
        with np.errstate(all="ignore"):
            return bound(function, precision, **cases(function, precision, effort)[number][2])
    except NotImplementedError:
        return None


def called(function, arguments):
    with np.errstate(all="ignore"):
        return results(function, subject(function).function(**arguments))


# --- the record ------------------------------------------------------------------------------------------------------


def test_every_function_that_a_golden_case_calls_has_a_subject():
    assert set(CALLED) == set(SUBJECTS)


def test_a_subject_stands_where_its_golden_cases_do():
    at_home = {case.function for m in mechanisms() for case in vectors.load(m) if subject(case.function).mechanism == m}
    assert at_home == set(SUBJECTS)


@pytest.mark.parametrize("function", SUBJECTS)
def test_what_a_subject_names_is_there(function):
    of = subject(function)
    known = {clause for case in vectors.load(of.mechanism) for clause in case.clauses}
    assert of.clause in known
    others = [*of.parts, *(source for source, _ in of.derive), *([of.equals.function] if of.equals else [])]
    assert set(others) <= set(SUBJECTS)


# --- its inputs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", SUBJECTS)
def test_cases_come_again_and_are_held_by_their_format(function):
    twice = [list(inputs.cases(function, fmt="bfloat16", effort="smoke", seed=3)) for _ in range(2)]
    names = [name for name, _, _ in twice[0]]
    assert len(set(names)) == len(names)
    for (_, clauses, first), (_, _, second) in zip(*twice, strict=True):
        assert clauses
        for (path, x), (_, again) in zip(arrays(first), arrays(second), strict=True):
            np.testing.assert_array_equal(x, again, err_msg=path)
            if x.dtype.kind == "f":
                np.testing.assert_array_equal(x, round_to(x, "bfloat16"), err_msg=path)


@pytest.mark.parametrize("function", SUBJECTS)
def test_the_reference_takes_any_call_that_hypothesis_draws(function):
    @settings(max_examples=10, suppress_health_check=list(HealthCheck))
    @given(calls(function))
    def takes(arguments):
        called(function, arguments)

    takes()


# --- kernels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("function", SUBJECTS)
def test_the_reference_in_float32_is_not_accused(function, precision):
    """In a narrow format, by one case in three; slow tests take all."""
    not_accused(function, precision, 1 if precision == "float32" else 3)


@pytest.mark.slow
@pytest.mark.parametrize("function", SUBJECTS)
def test_the_reference_in_float32_is_not_accused_in_a_narrow_format_by_any_case(function):
    not_accused(function, "bfloat16", 1)


def not_accused(function, precision, step):
    fmt = profile(precision).out.name
    for number, (name, _, arguments) in list(enumerate(cases(function, precision)))[::step]:
        if (wanted := limits(function, precision, number)) is None:
            continue
        got = called(function, cast(arguments, "float32"))
        kept = {key: round_to(x, "float32" if key == "lse" else fmt) for key, x in got.items() if _real(x)}
        assert away({**got, **kept}, wanted) <= 1, name


def _real(x):
    return np.asarray(x).dtype.kind == "f"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("function", OWN)
def test_cases_find_every_variant(function, precision):
    """Golden vectors take no part. In a narrow format some may be too small to be seen."""
    left = {v.name: v for v in variants(function) if (v.name, function) in VARIANTS}
    allowed = 0 if precision == "float32" else len(left) // 10
    for number, (_, _, arguments) in enumerate(cases(function, precision, "standard")):
        wanted = limits(function, precision, number, "standard")
        for v in list(left.values()) if wanted is not None else ():
            got = v.results((), arguments)
            if got is not None and away(got, wanted) >= LEAST:
                del left[v.name]
        if not left:
            return
    assert len(left) <= allowed, sorted(left)


# --- the reference ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ON_ARRAYS)
def test_views_give_what_copies_give_and_nothing_is_written_to(function):
    def view(x):
        if not isinstance(x, np.ndarray):
            return x
        x = layouts.spread(x) if x.dtype.kind == "f" and x.ndim else x.copy()
        x.flags.writeable = False
        return x

    for name, _, arguments in cases(function)[:6]:
        plain, viewed = (called(function, given) for given in (arguments, mapped(view, arguments)))
        for key in plain:
            np.testing.assert_allclose(viewed[key], plain[key], rtol=1e-9, atol=1e-12, err_msg=f"{name} {key}")


@pytest.mark.parametrize("function", ON_ARRAYS)
def test_results_of_float32_are_float32(function):
    for name, _, arguments in cases(function)[:6]:
        narrow = cast(arguments, "float32")
        if not any(x.dtype == np.float32 for _, x in arrays(narrow)):
            continue
        for key, x in called(function, narrow).items():
            assert np.asarray(x).dtype != np.float64 or not _real(x), (name, key)


@pytest.mark.parametrize("function", ON_ARRAYS)
def test_every_library_gives_the_same(function, library):
    for name, _, arguments in cases(function)[-3:]:
        if any(callable(x) for x in leaves(arguments)):
            continue
        plain = called(function, arguments)
        with np.errstate(all="ignore"):
            other = results(function, library.call(subject(function).function, **arguments))
        for key in plain:
            np.testing.assert_allclose(other[key], plain[key], rtol=1e-9, atol=1e-12, err_msg=f"{name} {key}")
