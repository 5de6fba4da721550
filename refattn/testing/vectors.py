"""Golden vectors of the specification, read into NumPy arrays and refattn's own types."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import refattn
from refattn import masks

SCHEMA = "refattn-vectors/1"


@dataclass(frozen=True)
class GoldenCase:
    """One golden case, decoded: arrays are NumPy arrays, rules are masks, parameter sets are NamedTuples."""

    id: str
    mechanism: str
    function: str
    clauses: tuple
    flags: tuple
    comment: str
    arguments: dict
    expect: dict
    catches: dict
    refuses: bool


def spec_dir() -> Path:
    """The folder of the specification: inside an installed package, or beside the package in a checkout."""
    inside = Path(refattn.__file__).parent / "_spec"
    return inside if inside.is_dir() else Path(refattn.__file__).parents[1] / "spec"


def mechanisms() -> list[str]:
    """The mechanisms that have golden vectors."""
    root = spec_dir()
    return sorted(str(path.parent.relative_to(root)) for path in root.glob("**/vectors.json"))


@cache
def load(mechanism: str) -> tuple[GoldenCase, ...]:
    """The golden cases of a mechanism.

    Raises
    ------
    ValueError
        There is no such mechanism, or the file has a schema that this version does not read.
    """
    path = spec_dir() / mechanism / "vectors.json"
    if not path.is_file():
        raise ValueError(f"no golden vectors for {mechanism!r}; there are: {', '.join(mechanisms())}")
    contents = json.loads(path.read_text())
    if contents["schema"] != SCHEMA:
        raise ValueError(f"{path} has schema {contents['schema']!r}; this version of refattn reads {SCHEMA!r}")
    return tuple(_case(mechanism, record) for record in contents["cases"])


def _case(mechanism, record):
    expect = {name: decode(value) for name, value in record["expect"].items()}
    return GoldenCase(
        id=record["id"],
        mechanism=mechanism,
        function=record["function"],
        clauses=tuple(record["clauses"]),
        flags=tuple(record["flags"]),
        comment=record.get("comment", ""),
        arguments={name: decode(value) for name, value in record["arguments"].items()},
        expect={} if expect.get("refuses") is True else expect,
        catches=record.get("catches", {}),
        refuses=expect.get("refuses") is True,
    )


def decode(value):
    """A JSON value of a vector file as NumPy array, float, mask, parameter set or plain value."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "dtype" in value:
        data = [float.fromhex(x) if isinstance(x, str) else x for x in value["data"]]
        return np.asarray(data, dtype=value["dtype"]).reshape(value["shape"])
    if "float" in value:
        return float.fromhex(value["float"])
    if "rule" in value:
        return _mask(value)
    if "params" in value:
        fields = {name: decode(item) for name, item in value["fields"].items()}
        return function_named(value["params"])(**fields)
    return {name: decode(item) for name, item in value.items()}


def _mask(value):
    rest = {name: decode(item) for name, item in value.items() if name not in ("rule", "dense")}
    rule = value["rule"]
    if rule == "not":
        return ~rest["of"][0]
    if rule in ("and", "or"):
        combined = rest["of"][0]
        for other in rest["of"][1:]:
            combined = combined & other if rule == "and" else combined | other
        return combined
    return getattr(masks, rule)(**rest)


def functions() -> set[str]:
    """The names of all functions that golden cases call."""
    return {case.function for mechanism in mechanisms() for case in load(mechanism)}


def function_named(name: str):
    """The function of refattn that a case calls: 'attention', 'positions.rotate', 'Mask.dense'."""
    found = refattn
    for part in name.split("."):
        found = getattr(found, part)
    return found


def results(returned) -> dict[str, Any]:
    """What a function returned, by the names that vectors use: out, lse, or the fields of a NamedTuple or dict.

    A field that is None is one that was not asked for; a field that is itself a tuple (gradients of parameters) is
    named through: 'params.w_in'.
    """
    if hasattr(returned, "_asdict"):
        returned = returned._asdict()
    if isinstance(returned, dict):
        return _by_name(returned)
    if isinstance(returned, tuple):
        return dict(zip(("out", "lse"), returned, strict=True))
    return {"out": returned}


def _by_name(fields):
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, tuple):
            inner = value._asdict() if hasattr(value, "_asdict") else dict(enumerate(value))
            found |= {f"{name}.{key}": x for key, x in _by_name(inner).items()}
        elif value is not None:
            found[name] = value
    return found


def distance(case: GoldenCase, variant, precision: str) -> float:
    """How far a variant's results lie from a golden case, in units of the bound of a precision.

    Infinite where the pattern of NaN and infinities, a shape or a boolean or integer result differs.
    """
    from refattn.testing.variants import NotApplicable

    try:
        with np.errstate(all="ignore"):
            got = results(variant.call(**case.arguments))
    except NotApplicable:
        return 0.0
    limits = _limits(case, precision)
    return max(_distance(got[name], want, limits[name]) for name, want in case.expect.items() if name in got)


def _distance(got, want, limit):
    got, want = np.asarray(got), np.asarray(want)
    if got.shape != want.shape:
        return np.inf
    if want.dtype.kind != "f":
        return 0.0 if np.array_equal(got, want) else np.inf
    finite = np.isfinite(want)
    if not np.array_equal(got[~finite], want[~finite], equal_nan=True) or not np.isfinite(got[finite]).all():
        return np.inf
    difference = np.abs(got[finite] - want[finite])
    limit = np.broadcast_to(limit, want.shape)[finite]
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.max(np.where(difference == 0, 0.0, difference / limit), initial=0.0))


def _limits(case, precision):
    from refattn.testing.bounds import bound
    from refattn.testing.profiles import profile

    chosen = profile(precision)
    try:
        bounds = bound(case.function, chosen, **case.arguments)
        return {
            name: bounds[name].hard if name in bounds else _normwise(chosen, want) for name, want in case.expect.items()
        }
    except NotImplementedError:
        return {name: _normwise(chosen, want) for name, want in case.expect.items()}


def _normwise(chosen, want):
    """Where no bound is derived: 64 units of rounding of the largest element."""
    if want.dtype.kind != "f":
        return 0.0
    return 64 * chosen.out.u * np.max(np.abs(want[np.isfinite(want)]), initial=0.0) + chosen.out.eta
