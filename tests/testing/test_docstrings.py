"""What docstrings say of names and shapes is what golden cases hold, for every function."""

import inspect
import itertools
import re
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest

import refattn
from refattn.masks import Mask
from refattn.testing import inputs, vectors
from refattn.testing.docstrings import Named, results_of, stated
from refattn.testing.names import function_named, functions, params

CASES: dict = {}
for case in (case for mechanism in vectors.mechanisms() for case in vectors.load(mechanism) if not case.refuses):
    CASES.setdefault(case.function, []).append(case)


# --- the forms ------------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """Two results.

    Attributes
    ----------
    x : array (...)
    size : int
    """

    x: object
    size: int


def told(x, w, b, like, rope, table, keep):
    """Forms of arguments.

    Parameters
    ----------
    x : array (..., N, D)
        With more in (..., brackets, below).
    w, b : float64 array (D, F) or (F, H·(D + 1)), (F,), optional
    like : array of any shape, optional
    rope : callable (x, positions), default None
    table, keep : bool array that broadcasts to the leading axes (...), or None

    Returns
    -------
    Pair
        (x, size), each of the shape of its input.
    """


def passing_on(x, w, extra, **options):
    """Forms of passing on.

    Parameters
    ----------
    w, \
x
        As for `told`, and more.
    extra : int
    **options
        As for `told`.

    Returns
    -------
    out : array ()
    count : int
    """


def test_each_form_is_read():
    assert [(x.name, x.shapes, x.broadcasts) for x in stated(told, "Parameters")] == [
        ("x", (("...", "N", "D"),), False),
        ("w", (("D", "F"), ("F", "H·(D + 1)")), False),
        ("b", (("F",),), False),
        ("like", (), False),
        ("rope", (), False),
        ("table", (("...",),), True),
        ("keep", (("...",),), True),
    ]
    assert [(x.name, x.shape) for x in stated(passing_on, "Returns")] == [("out", ()), ("count", None)]
    assert stated(told, "Raises") == ()


def test_what_is_passed_on_is_looked_up():
    there = {x.name: x for x in stated(told, "Parameters")}
    names = ["w", "x", "extra", "b", "like", "rope", "table", "keep"]
    assert [x.name for x in stated(passing_on, "Parameters")] == names
    assert all(x == there[x.name] for x in stated(passing_on, "Parameters") if x.name != "extra")


def test_results_are_the_fields_of_a_tuple():
    assert results_of(told) == (Named("x", "array (...)", (("...", "N", "D"),)), Named("size", "int"))
    assert [x.name for x in results_of(passing_on)] == ["out", "count"]
    assert results_of(test_each_form_is_read) == ()


def test_what_is_not_in_a_form_is_an_error():
    def elsewhere(y):
        """Parameters.

        Parameters
        ----------
        y
            As for `told`.
        """

    def nowhere(y):
        """Parameters.

        Parameters
        ----------
        y
            As for `no_such_function`.
        """

    def uneven(a, b, c):
        """Parameters.

        Parameters
        ----------
        a, b, c : array (N,), (M,)
        """

    for function, says in ((elsewhere, "y is said to be as"), (nowhere, "no_such"), (uneven, "3 names, of 2 shapes")):
        with pytest.raises(ValueError, match=says):
            stated(function, "Parameters")


ALL = """
from refattn.testing.docstrings import results_of, stated
from refattn.testing.names import function_named, functions, params
found = [(name, stated(function_named(name), "Parameters"), results_of(function_named(name))) for name in sorted(functions())]
found += [(name, stated(thing, "Attributes")) for name, thing in sorted(params().items())]
"""


def test_python_that_drops_docstrings_reads_the_same():
    """python -OO; names of results must not depend on it."""
    here: dict = {}
    exec(ALL, here)
    there = subprocess.run(
        [sys.executable, "-OO", "-c", f"{ALL}print(found)"], capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == repr(here["found"])


# --- every function -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(functions()))
def test_arguments_are_those_of_the_signature(name):
    signature = inspect.signature(function_named(name)).parameters.values()
    wanted = {p.name for p in signature if p.kind is not p.VAR_KEYWORD} - {"self"}
    found = [x.name for x in stated(function_named(name), "Parameters")]
    assert len(found) == len(set(found))
    if any(p.kind is p.VAR_KEYWORD for p in signature):
        assert wanted < set(found)
    else:
        assert wanted == set(found)


@pytest.mark.parametrize("name", sorted(functions()))
def test_results_are_those_of_golden_cases(name):
    found = results_of(function_named(name))
    expected = {key.partition(".")[0] for case in CASES[name] for key in case.expect}
    assert expected <= {x.name for x in found}
    if stated(function_named(name), "Returns")[0].name:  # of a NamedTuple, fields may be None
        assert expected == {x.name for x in found}


@pytest.mark.parametrize("name", sorted(functions()))
def test_whatever_is_called_an_array_has_a_shape(name):
    function = function_named(name)
    for x in (*stated(function, "Parameters"), *results_of(function)):
        assert x.shapes or not re.search(r"\barray\b", x.kind) or "of any shape" in x.kind, x


@pytest.mark.parametrize("name", sorted(params()))
def test_every_field_of_a_set_of_parameters_is_said(name):
    fields = stated(params()[name], "Attributes")
    assert [x.name for x in fields] == list(params()[name]._fields)
    assert all(x.shapes or not re.search(r"\barray\b", x.kind) for x in fields)


@pytest.mark.parametrize("name", sorted(functions()))
def test_shapes_are_those_of_golden_cases(name):
    held = [held_to(name, case.arguments, case.expect, case.id) for case in CASES[name]]
    assert any(held) or not any(x.shapes for x in stated(function_named(name), "Parameters"))


@pytest.mark.parametrize("name", sorted(functions()))
def test_shapes_are_those_of_drawn_cases(name):
    """Directed and random calls have options together that no golden case has."""
    for case, _, arguments in inputs.cases(name, fmt="float32", effort="smoke"):
        with np.errstate(all="ignore"):
            returned = vectors.results(name, function_named(name)(**arguments))
        held_to(name, arguments, returned, case)


def held_to(name, arguments, returned, case):
    """Hold a call to what the docstring says; gives whether there was an array to be held."""
    if arguments.get("axis", -1) not in (-1, (-1,)):
        return False  # letters are for the default axis
    given = {x.name: x for x in stated(function_named(name), "Parameters")}
    found = {x.name: x for x in results_of(function_named(name))}
    claims = [*claimed(arguments, given), *claimed(nested(returned), found)]
    said = (f"{path} {np.shape(x)} is said to be {of.kind}" for path, x, of in claims)
    assert agree(claims), f"{case}: {'; '.join(said)}"
    return any(np.ndim(x) for _, x, _ in claims)


def nested(expect):
    """Results with those of a set of parameters in a dictionary of their own."""
    found: dict = {}
    for name, x in expect.items():
        outer, _, inner = name.partition(".")
        if inner:
            found.setdefault(outer, {})[inner] = x
        else:
            found[outer] = x
    return found


def claimed(values, said):
    """(path, array, what is said of it) of every array that is given, those of parameter sets among them."""
    for name, x in values.items():
        if hasattr(x, "_asdict"):
            fields = {field.name: field for field in stated(type(x), "Attributes")}
            yield from ((f"{name}.{path}", part, of) for path, part, of in claimed(x._asdict(), fields))
        elif isinstance(x, dict) and isinstance(said[name], Named):
            fields = {
                field.name: field
                for word in re.findall(r"\w+Params", said[name].kind)
                for field in stated(getattr(refattn, word), "Attributes")
            }
            yield from ((f"{name}.{path}", part, of) for path, part, of in claimed(x, fields))
        elif isinstance(x, np.ndarray) and not isinstance(x, Mask) and "of any shape" not in said[name].kind:
            is_list = said[name].kind.startswith("list") and not said[name].shapes
            if (x.ndim and not is_list) or said[name].shapes:
                assert said[name].shapes, f"{name}, an array {x.shape}, has no shape: {said[name].kind}"
                yield name, x, said[name]


def agree(claims):
    """Whether, with one of the shapes that are said of each array, every letter has one size."""
    return any(_one_size_a_letter(claims, choice) for choice in itertools.product(*(of.shapes for _, _, of in claims)))


def _one_size_a_letter(claims, choice):
    sizes: dict = {}
    leads: list = []
    for (_, x, of), shape in zip(claims, choice, strict=True):
        own = [letter for letter in shape if letter != "..."]
        actual = list(x.shape)
        if of.broadcasts:
            actual = [1] * (len(own) - len(actual)) + actual
        if len(actual) < len(own) or ("..." not in shape and len(actual) > len(own)):
            return False
        split = len(actual) - len(own)
        leads.append(tuple(actual[:split]))
        for letter, size in zip(own, actual[split:], strict=True):
            if not (of.broadcasts and size == 1) and sizes.setdefault(letter, size) != size:
                return False
    try:
        np.broadcast_shapes(*leads)
    except ValueError:
        return False
    return all(_value(letter, sizes) in (None, size) for letter, size in sizes.items())


def _value(letter, sizes):
    """What an expression of letters comes to, 'H·(Dn + Dv)'; None where one of them is not known."""
    names = re.findall(r"[A-Za-z_]\w*", letter)
    if names == [letter] or not all(name in sizes for name in names):
        return None
    return eval(letter.replace("·", "*").replace("/", "//"), {}, {name: sizes[name] for name in names})
