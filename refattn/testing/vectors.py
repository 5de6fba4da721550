"""Golden vectors of the specification, read into NumPy arrays and refattn's own types."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, reduce
from typing import Any

import numpy as np

from refattn.masks.algebra import COMBINED
from refattn.testing import schema
from refattn.testing.docstrings import results_of
from refattn.testing.names import function_named, params_named, rule_named
from refattn.testing.subject import listed, spec_dir

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


def mechanisms() -> tuple[str, ...]:
    """The mechanisms, each with its golden vectors, ground floor first."""
    return listed(spec_dir())


@cache
def load(mechanism: str) -> tuple[GoldenCase, ...]:
    """The golden cases of a mechanism.

    Raises
    ------
    ValueError
        There is no such mechanism, or its file is not what `spec/schema.json` says: the text names the file, the case
        and the field.
    """
    if mechanism not in mechanisms():
        raise ValueError(f"no golden vectors for {mechanism!r}; there are: {', '.join(mechanisms())}")
    path = spec_dir() / mechanism / "vectors.json"
    try:
        return _cases(mechanism, schema.parsed(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    except RecursionError:
        raise ValueError(f"{path}: it is nested too deep") from None


def _cases(mechanism, contents):
    if isinstance(contents, dict) and contents.get("schema", SCHEMA) != SCHEMA:
        said = schema.short(contents["schema"])
        raise ValueError(f"it has schema {said}; this version of refattn reads {SCHEMA!r}")
    if wrong := _schema()(contents):
        raise ValueError(_placed(contents, *wrong))
    if contents["mechanism"] != mechanism:
        raise ValueError(
            f"it is of mechanism {schema.short(contents['mechanism'])}, and stands in the folder of another"
        )
    seen: set[str] = set()
    for record in contents["cases"]:
        if record["id"] in seen:
            raise ValueError(f"case {record['id']} stands there twice")
        if strange := set(record["flags"]) - contents["flags"].keys():
            raise ValueError(
                f"case {record['id']}: flags holds {schema.short(min(strange))}, which the file does not explain"
            )
        seen.add(record["id"])
    return tuple(_case(mechanism, record) for record in contents["cases"])


@cache
def _schema():
    return schema.compiled(json.loads((spec_dir() / "schema.json").read_text(encoding="utf-8")))


def _placed(contents, place, wrong):
    """A fault with the id of its case in place of the number."""
    if found := re.match(r"\.cases\[(\d+)\]\.?(.*)", place):
        record = contents["cases"][int(found[1])]
        name = record.get("id") if isinstance(record, dict) else None
        known = isinstance(name, str) and len(name) < 100
        return f"case {name if known else f'number {found[1]}'}: {found[2] or 'it'} {wrong}"
    return f"{place.removeprefix('.') or 'it'} {wrong}"


def _case(mechanism, record):
    def read(field):
        found = {}
        for name, value in record[field].items():
            try:
                decoded = decode(value)
                found[name] = tuple(decoded) if name == "axis" and isinstance(decoded, list) else decoded
            except (ValueError, TypeError, OverflowError) as error:
                raise ValueError(f"case {record['id']}: {field}.{name}: {error}") from None
        return found

    try:
        function_named(record["function"])
    except ValueError as error:
        raise ValueError(f"case {record['id']}: function: {error}") from None
    expect = read("expect")
    return GoldenCase(
        id=record["id"],
        mechanism=mechanism,
        function=record["function"],
        clauses=tuple(record["clauses"]),
        flags=tuple(record["flags"]),
        comment=record.get("comment", ""),
        arguments=read("arguments"),
        expect={} if expect.get("refuses") is True else expect,
        catches=record.get("catches", {}),
        refuses=expect.get("refuses") is True,
    )


def decode(value):
    """A JSON value of a vector file as NumPy array, float, mask, parameter set or plain value.

    Raises
    ------
    ValueError, TypeError, OverflowError
        It names what is not on the lists of `refattn.testing.names`, or its numbers are not those of its dtype and shape.
    """
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "dtype" in value:
        return _array(**value)
    if "float" in value:
        return float.fromhex(value["float"])
    if "rule" in value:
        return _mask(value)
    if "params" in value:
        fields = {name: decode(item) for name, item in value["fields"].items()}
        return params_named(value["params"])(**fields)
    return {name: decode(item) for name, item in value.items()}


def _array(dtype, shape, data):
    if math.prod(shape) != len(data):
        raise ValueError(f"it has {len(data)} numbers; {shape} is the shape of {math.prod(shape)}")
    wanted = str if dtype == "float64" else int
    if wrong := next((x for x in data if not isinstance(x, wanted) or (dtype == "bool" and x not in (0, 1))), None):
        raise ValueError(f"{schema.short(wrong)} is no number of dtype {dtype}")
    return np.asarray(list(map(float.fromhex, data)) if wanted is str else data, dtype=dtype).reshape(shape)


def _mask(value):
    rest = {name: decode(item) for name, item in value.items() if name not in ("rule", "dense")}
    rule = value["rule"]
    if rule not in COMBINED:
        return rule_named(rule)(**rest)
    of = rest.get("of", [])
    if rest.keys() != {"of"} or (len(of) != 1 if rule == "not" else len(of) < 2):
        raise ValueError(
            f"the rule {rule!r} has nothing but {'one rule' if rule == 'not' else 'two rules or more'} in 'of'"
        )
    return ~of[0] if rule == "not" else reduce(COMBINED[rule], of)


def results(function: str | Callable, returned: Any) -> dict[str, Any]:
    """What a function returned, by the names that vectors use: those of its docstring, or of a NamedTuple or dict.

    A field that is None is one that was not asked for; a field that is itself a tuple (gradients of parameters) is
    named through: 'params.w_in'.

    Parameters
    ----------
    function : str or callable
        The function of refattn that was called, or for which another stands.
    returned : array, tuple, NamedTuple or dict
        Of several results the first alone may be returned.

    Raises
    ------
    ValueError
        A tuple has another number of results than the function.

    Examples
    --------
    >>> results("attention", (1.0, 0.0))
    {'out': 1.0, 'lse': 0.0}
    """
    if hasattr(returned, "_asdict"):
        returned = returned._asdict()
    if isinstance(returned, dict):
        return _by_name(returned)
    function = function_named(function) if isinstance(function, str) else function
    names = [x.name for x in results_of(function)] or ["out"]  # a function of the kit need not say
    if not isinstance(returned, tuple):
        return {names[0]: returned}
    if len(names) == 1 or len(returned) != len(names):
        all_of_them = f", or the {len(names)} of ({', '.join(names)})" if len(names) > 1 else ""
        raise ValueError(f"it returns a tuple of {len(returned)}; it must be one array{all_of_them}")
    return dict(zip(names, returned, strict=True))


def _by_name(fields):
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, tuple):
            inner = value._asdict() if hasattr(value, "_asdict") else dict(enumerate(value))
            found |= {f"{name}.{key}": x for key, x in _by_name(inner).items()}
        elif value is not None:
            found[name] = value
    return found
