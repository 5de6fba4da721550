"""Golden vectors: how a case is stated, evaluated by the definitions, and written to vectors.json.

    python -m spec.vectors            evaluates every case again and writes spec/*/vectors.json
    python -m spec.vectors softmax    ... of one mechanism

The distances in `catches` are filled in afterwards by the testing kit, which knows the variants;
`python tests/regenerate.py` does both.
"""

import importlib
import json
import random
import sys
from dataclasses import dataclass
from math import frexp, prod
from pathlib import Path

from mpmath import mpf

from .exact import Tensor, isinf, isnan, tensor

HERE = Path(__file__).parent
SCHEMA = "refattn-vectors/1"


@dataclass
class Case:
    """One golden case: a function, its arguments, what it pins and which wrong variants it must catch."""

    id: str  # stable, never reused
    function: str
    arguments: dict
    clauses: list
    flags: list
    comment: str
    catches: list
    wide: bool  # the inputs need float64: not one vector for every dtype

    @property
    def refuses(self):
        """Whether its arguments are wrong, and an implementation must say so."""
        return "WrongInput" in self.flags


def case(head, called, catches="", *, comment="", wide=False):
    """A golden case: `case("ID: CLAUSES; FLAGS", call("function", ...), "variants that it must catch")`."""
    id, pinned = head.split(": ")
    clauses, flags = pinned.split("; ")
    return Case(id, *called, clauses.split(), flags.split(), comment, catches.split(), wide)


def call(function, /, **arguments):
    """What a case calls: a reference function and its arguments."""
    return function, arguments


def params(kind, /, **fields):
    """A set of parameters, as an argument."""
    return {"params": kind, "fields": fields}


def rule(name, /, **arguments):
    """A mask rule, as an argument."""
    return {"rule": name, **arguments}


def integers(*values):
    """Integers, or nested lists of them, as an array."""
    return tensor(list(values), dtype="int64")


def grid(seed, shape, scale=1, bits=5):
    """Reproducible numbers k · 2^-bits · scale that bfloat16 and float16 hold exactly, |k| < 128; scale a power of 2."""
    draw = random.Random(seed)
    return Tensor(shape, [draw.randint(-127, 127) * 2.0**-bits * scale for _ in range(prod(shape))])


def mechanisms():
    """Every mechanism, a name a line, ground floor first: what stands above may be used below."""
    return (HERE / "mechanisms.txt").read_text().split()


def evaluate(mechanism):
    """The contents of a mechanism's vectors.json."""
    package = f"{__package__}.{mechanism.replace('/', '.')}"
    definition = importlib.import_module(f"{package}.definition")
    cases = importlib.import_module(f"{package}.cases").CASES
    all_flags = json.loads((HERE / "flags.json").read_text())
    written = [_evaluate(case, definition) for case in cases]
    used = sorted({flag for case in cases for flag in case.flags})
    return {
        "schema": SCHEMA,
        "mechanism": mechanism,
        "about": "Written from definition.py by python tests/regenerate.py; do not edit.",
        "flags": {flag: all_flags[flag] for flag in used},
        "cases": written,
    }


def _evaluate(case, definition):
    for name, value in case.arguments.items():
        if not case.wide:
            _check_narrow(f"{case.id}: {name}", value)
    record = {
        "id": case.id,
        "function": case.function,
        "clauses": case.clauses,
        "flags": case.flags,
        "arguments": {name: encode(value) for name, value in case.arguments.items()},
    }
    mask = case.arguments.get("mask")
    if isinstance(mask, dict) and not case.refuses:  # the rule for those who have rules, the array for all
        record["arguments"]["mask"]["dense"] = encode(definition.dense_mask(**case.arguments))
    if case.comment:
        record["comment"] = case.comment
    if case.refuses:
        record["expect"] = {"refuses": True}
        return record
    results = definition.FUNCTIONS[case.function](**case.arguments)
    if case.function in definition.SECOND:
        _agree(case.id, results, definition.SECOND[case.function](**case.arguments))
    record["expect"] = {name: encode(value) for name, value in results.items()}
    record["catches"] = dict.fromkeys(case.catches, None)
    return record


def _check_narrow(where, value):
    """Array inputs must be exact in bfloat16 and float16, so that one vector serves every dtype."""
    if isinstance(value, dict):
        for name, item in value.items():
            _check_narrow(f"{where}.{name}", item)
    elif isinstance(value, Tensor) and value.dtype == "float64":
        for x in value.data:
            if x and not isinf(x) and not isnan(x):
                mantissa, exponent = frexp(x)
                exact = mantissa * 256 == int(mantissa * 256) and -13 <= exponent <= 16
                assert exact, f"{where} holds {x}, which bfloat16 or float16 cannot hold exactly"


def _agree(case_id, first, second):
    """Two formulations must agree to 40 digits before a vector is written; `second` may give fewer results."""
    for name, b in second.items():
        a = first[name]
        assert a.shape == b.shape, f"{case_id}: {name} has shape {a.shape} and {b.shape}"
        for x, y in zip(a.data, b.data, strict=True):
            same = x == y or (isnan(x) and isnan(y))
            if not same and not (abs(x - y) <= mpf(10) ** -40 * max(1, abs(x))):
                raise AssertionError(f"{case_id}: the two formulations of {name} give {x} and {y}")


def encode(value):
    """A value as JSON: floats as {"float": hex}, arrays as {"dtype", "shape", "data"}, rules and params by their fields."""
    if isinstance(value, Tensor):
        return {"dtype": value.dtype, "shape": list(value.shape), "data": [_number(x, value.dtype) for x in value.data]}
    if isinstance(value, dict):
        return {name: encode(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, float | mpf):
        return {"float": _number(value, "float64")}
    return value


def _number(x, dtype):
    if dtype in ("bool", "int64"):
        return int(x)
    if isnan(x):
        return "nan"
    if isinf(x):
        return "inf" if x > 0 else "-inf"
    return _nearest(x).hex()


def _nearest(x):
    """The float64 nearest to a 50-digit number."""
    value = float(x)
    assert value == 0 or abs(value) >= 2.0**-1022, f"{x} is subnormal in float64: choose another case"
    return value


def dump(contents):
    """JSON with one array per line: it diffs well and stays readable."""
    text = json.dumps(contents, indent=1, ensure_ascii=False)
    out, depth = [], 0
    for line in text.splitlines():
        stripped = line.strip()
        if depth:
            out[-1] += stripped if stripped.startswith("]") or out[-1].endswith("[") else " " + stripped
            depth += stripped.count("[") - stripped.count("]")
        else:
            out.append(line)
            if stripped.endswith("[") and '"cases"' not in stripped:
                depth = 1
    return "\n".join(out) + "\n"


def write(mechanism):
    """Write a mechanism's vectors.json."""
    (HERE / mechanism / "vectors.json").write_text(dump(evaluate(mechanism)))


if __name__ == "__main__":
    for name in sys.argv[1:] or mechanisms():
        write(name)
        print(f"spec/{name}/vectors.json")
