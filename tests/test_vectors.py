"""The array code gives what the golden vectors say, on every library and in every dtype; a file that lies is refused."""

import copy
import json

import numpy as np
import pytest

from refattn import masks
from refattn.testing import vectors
from refattn.testing.bounds import bound
from refattn.testing.names import RULES, function_named, functions, params
from refattn.testing.nested import leaves, mapped
from refattn.testing.profiles import profile

ALL = [case for mechanism in vectors.mechanisms() for case in vectors.load(mechanism)]
CASES = [case for case in ALL if not case.function.startswith("testing.")]
LIMITS: dict = {}  # of each case and precision, computed once


def in_dtype(value, dtype):
    wide = lambda x: isinstance(x, np.ndarray) and x.dtype == np.float64
    return mapped(lambda x: x.astype(dtype) if wide(x) else x, value)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.mechanism}:{case.id}")
def test_golden_vector(case, library):
    for dtype in library.dtypes:
        if all(fits(value, dtype) for value in leaves(case.arguments)):
            check(case, dtype, library)


def fits(value, dtype):
    """Whether a dtype holds an array's numbers; wide cases have some that float16 does not."""
    with np.errstate(over="ignore"):
        narrow = in_dtype(value, dtype)
    return not isinstance(value, np.ndarray) or np.array_equal(np.isfinite(narrow), np.isfinite(value))


def check(case, dtype, library):
    function = function_named(case.function)
    arguments = {name: in_dtype(value, dtype) for name, value in case.arguments.items()}
    if case.refuses:
        with pytest.raises((TypeError, ValueError)):
            library.call(function, **arguments)
        return
    got = vectors.results(case.function, library.call(function, **arguments))
    assert got.keys() >= case.expect.keys()
    takes_floats = any(getattr(value, "dtype", None) == dtype for value in leaves(arguments))
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
    got = vectors.results(case.function, function_named(case.function)(**case.arguments))
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


# --- files that are not what they should be -------------------------------------------------------------------------

SOFTMAX = json.loads((vectors.spec_dir() / "softmax" / "vectors.json").read_text(encoding="utf-8"))


def first(contents):
    return contents["cases"][0]


def numbers(contents):
    return first(contents)["arguments"]["x"]


def to(place, key, value):
    return lambda contents: place(contents).__setitem__(key, value)


def x_is(value):
    return lambda contents: first(contents)["arguments"].__setitem__("x", value)


WHERE = "case softmax.rows.0001: "


@pytest.mark.parametrize(
    "change, says",
    [
        (
            to(first, "function", "backend.sys.exit"),
            WHERE + "function: there is no reference function 'backend.sys.exit'",
        ),
        (to(first, "function", "attention.__globals__"), WHERE + "function: there is no reference function"),
        (to(first, "function", "sofmax"), "did you mean softmax"),
        (to(first, "function", ["softmax"]), WHERE + r"function is \['softmax'\]; it must be of type string"),
        (x_is({"params": "backend.sys.exit", "fields": {}}), WHERE + "arguments.x: there is no set of parameters"),
        (x_is({"params": "Dropout", "fields": {"colour": 1}}), WHERE + "arguments.x: .*colour"),
        (x_is({"params": "MultiHeadParams", "fields": {}}), WHERE + "arguments.x: .*missing"),
        (x_is({"rule": "Mask"}), WHERE + "arguments.x: there is no rule of refattn.masks 'Mask'"),
        (x_is({"rule": "window", "left": 1}), WHERE + "arguments.x: .*missing"),
        (x_is({"rule": "block", "size": 0}), WHERE + "arguments.x: size is 0"),
        (x_is({"rule": "not", "of": []}), WHERE + "arguments.x: the rule 'not' has nothing but one rule"),
        (x_is({"rule": "and", "of": [{"rule": "causal"}]}), WHERE + "arguments.x: .*two rules or more"),
        (x_is({"rule": "or"}), WHERE + "arguments.x: .*two rules or more"),
        (x_is({"float": "0x1.0p+99999"}), WHERE + "arguments.x: .*too large"),
        (x_is(0.5), WHERE + "arguments.x is 0.5"),
        (to(numbers, "data", [float("nan")]), "NaN is no JSON"),
        (lambda contents: numbers(contents)["data"].pop() and None, WHERE + "arguments.x: it has 29 numbers; .* of 30"),
        (to(numbers, "dtype", "object"), WHERE + "arguments.x.dtype is 'object'; it must be 'float64' or"),
        (to(numbers, "dtype", "int64"), WHERE + "arguments.x: '0x.*' is no number of dtype int64"),
        (to(numbers, "dtype", "bool"), WHERE + "arguments.x: '0x.*' is no number of dtype bool"),
        (to(numbers, "shape", [-1]), WHERE + r"arguments.x.shape\[0\] is -1; it must be at least 0"),
        (to(numbers, "shape", "ab"), WHERE + "arguments.x.shape is 'ab'"),
        (to(numbers, "shape", [2**62, 0]), WHERE + "arguments.x: it has 30 numbers"),
        (lambda contents: numbers(contents)["data"].__setitem__(3, "zz"), WHERE + r"arguments.x.data\[3\] is 'zz'"),
        (
            lambda contents: numbers(contents)["data"].__setitem__(3, 1),
            WHERE + "arguments.x: 1 is no number of dtype float64",
        ),
        (x_is({"dtype": "int64", "shape": [1], "data": [2**64]}), WHERE + "arguments.x: .*too large"),
        (x_is({"dtype": "bool", "shape": [1], "data": [2]}), WHERE + "arguments.x: 2 is no number of dtype bool"),
        (lambda contents: first(contents).pop("id") and None, "case number 0: it lacks id"),
        (lambda contents: first(contents).pop("expect") and None, WHERE + "it lacks expect"),
        (to(first, "clauses", "ABC"), WHERE + "clauses is 'ABC'"),
        (to(first, "flags", ["NO_SUCH"]), WHERE + "flags holds 'NO_SUCH', which the file does not explain"),
        (to(first, "surprise", 1), WHERE + "surprise is unknown"),
        (lambda contents: contents["cases"].append(first(contents)), "case softmax.rows.0001 stands there twice"),
        (lambda contents: contents.pop("schema") and None, "it lacks schema"),
        (lambda contents: contents.__setitem__("schema", "x"), "schema 'x'; this version of refattn reads"),
        (lambda contents: contents.__setitem__("mechanism", "masks"), "it is of mechanism 'masks'"),
        (lambda contents: "", "Expecting value"),
        (lambda contents: "[]", r"it is \[\]; it must be of type object"),
        (lambda contents: json.dumps(contents)[:2000], "Unterminated|Expecting"),
        (
            lambda contents: json.dumps(contents)[:-1] + ', "schema": "refattn-vectors/1"}',
            "'schema' stands there twice",
        ),
        (lambda contents: "[" * 100_000, "nested too deep"),
        (lambda contents: "\ud800".encode("utf-8", "surrogatepass"), "decode"),
    ],
)
def test_a_file_that_was_tampered_with_is_refused(change, says, tmp_path, monkeypatch):
    contents = copy.deepcopy(SOFTMAX)
    changed = change(contents)
    changed = json.dumps(contents) if changed is None else changed
    (tmp_path / "softmax").mkdir()
    path = tmp_path / "softmax" / "vectors.json"
    path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    (tmp_path / "schema.json").write_bytes((vectors.spec_dir() / "schema.json").read_bytes())
    (tmp_path / "mechanisms.txt").write_text("softmax\n")
    monkeypatch.setattr(vectors, "spec_dir", lambda: tmp_path)
    with pytest.raises(ValueError, match=says) as refused:
        vectors.load.__wrapped__("softmax")
    assert str(refused.value).startswith(f"{path}: ")
    assert len(str(refused.value)) < 400 + len(str(path))


@pytest.mark.parametrize("mechanism", ["../outside", "/etc", "", ".", "softmax/", "softmax/../softmax", "no such"])
def test_only_a_mechanism_by_its_name_is_loaded(mechanism, tmp_path, monkeypatch):
    for name in ("spec/softmax", "outside"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "vectors.json").write_text(json.dumps(SOFTMAX))
    (tmp_path / "spec" / "schema.json").write_bytes((vectors.spec_dir() / "schema.json").read_bytes())
    (tmp_path / "spec" / "mechanisms.txt").write_text("softmax\n")
    monkeypatch.setattr(vectors, "spec_dir", lambda: tmp_path / "spec")
    with pytest.raises(ValueError, match=r"no golden vectors for .*; there are: softmax$"):
        vectors.load.__wrapped__(mechanism)
    assert len(vectors.load.__wrapped__("softmax")) == len(SOFTMAX["cases"])


def test_the_lists_of_names_are_what_golden_cases_use():
    """A name too few cannot be loaded; a name too many is one that text from outside may call without need."""
    used: dict = {"function": set(), "params": set(), "rule": {"not", "and", "or"}}

    def walk(value):
        for key, item in value.items() if isinstance(value, dict) else ():
            if key in used and isinstance(item, str):
                used[key].add(item)
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(item)

    for mechanism in vectors.mechanisms():
        walk(json.loads((vectors.spec_dir() / mechanism / "vectors.json").read_text(encoding="utf-8"))["cases"])
    assert used["function"] == functions()
    assert used["params"] <= params().keys()
    assert used["rule"] - {"not", "and", "or"} == set(RULES)
    assert set(masks.__all__) - set(RULES) == {"Mask", "visible", "positions_of"}
