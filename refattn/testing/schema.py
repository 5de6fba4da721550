"""JSON from outside: read within limits, and held against a schema before anything is made of it.

Of JSON Schema this knows what the schemas of refattn use: type, required, properties, additionalProperties, items, enum,
const, pattern, minItems, minProperties, minimum, oneOf, anyOf and references into $defs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

# (where in the value, what is wrong with VALUE, that value), or None where nothing is
Check = Callable[[Any], "tuple[str, str, Any] | None"]

MOST = 1 << 28  # bytes of a file: no list and no report has so many

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,), "null": (type(None),), "integer": (int,),
    "number": (int, float),
}  # fmt: skip
_SAID = {"$ref", "$defs", "$schema", "$id", "title", "description"}  # keywords that no check is made of


def parsed(text: str | bytes) -> Any:
    """JSON without the liberties that Python takes: no NaN, no key twice, no depth that breaks the reader.

    Raises
    ------
    ValueError
        It is no JSON, or one that must not be.
    """
    try:
        text = text.decode() if isinstance(text, bytes) else text
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refused)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def read(path: str | Path, most: int = MOST) -> bytes:
    """What a file holds, which may be a pipe.

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        It holds more than `most` bytes, or never ends.
    """
    with open(path, "rb") as file:
        found = file.read(most + 1)
    if len(found) > most:
        raise ValueError(f"it has more than {most} bytes")
    return found


def _unique(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for n, (key, _) in enumerate(pairs) if key in dict(pairs[:n]))
        raise ValueError(f"the key {short(twice)} stands there twice")
    return found


def _refused(name):
    raise ValueError(f"{name} is no JSON")


def short(value: Any, most: int = 60) -> str:
    """A value in a message: as Python writes it, and not at length."""
    try:
        text = repr(value[: most + 1] if isinstance(value, str | list) else value)
    except RecursionError:
        text = f"a {type(value).__name__} that is nested too deep"
    return text if len(text) <= most else f"{text[:most]} ..."


def compiled(schema: dict) -> Callable[[Any], tuple[str, str] | None]:
    """A function that says where and why a value breaks the schema, or None where it keeps it."""
    defined: dict[str, Check] = {}

    def check(rules: dict | bool) -> Check:
        if isinstance(rules, bool):
            return lambda value: None if rules else ("", "is unknown", None)
        if unknown := rules.keys() - _SAID - {word for words in _MAKERS.values() for word in words}:
            raise ValueError(f"the schema uses {', '.join(sorted(unknown))}, which this reader does not know")
        parts = [make(rules, check) for make, words in _MAKERS.items() if any(word in rules for word in words)]
        if "$ref" in rules:
            name = rules["$ref"].removeprefix("#/$defs/")
            parts.append(lambda value: defined[name](value))
        return parts[0] if len(parts) == 1 else _all_of(parts)

    defined.update({name: check(rules) for name, rules in schema.get("$defs", {}).items()})
    whole = check(schema)

    def violation(value):
        found = whole(value)
        return found and (found[0], found[1].replace("VALUE", short(found[2])))

    return violation


def _all_of(parts):
    def right(value):
        for part in parts:
            if found := part(value):
                return found
        return None

    return right


def _type(rules, check):
    names = rules["type"] if isinstance(rules["type"], list) else [rules["type"]]
    kinds = frozenset(kind for name in names for kind in _TYPES[name])  # JSON gives no subclasses: a bool is no int
    wrong = f"is VALUE; it must be of type {' or '.join(names)}"
    return lambda value: None if type(value) in kinds else ("", wrong, value)


def _enum(rules, check):
    known = rules["enum"] if "enum" in rules else [rules["const"]]
    wrong = f"is VALUE; it must be {' or '.join(map(repr, known))}"

    def right(value):
        return None if any(value == x and type(value) is type(x) for x in known) else ("", wrong, value)

    return right


def _pattern(rules, check):
    fits = re.compile(re.sub(r"\$$", r"\\Z", rules["pattern"])).search
    wrong = f"is VALUE; it must look like {rules['pattern']}"
    return lambda value: None if not isinstance(value, str) or fits(value) else ("", wrong, value)


def _minimum(rules, check):
    least = rules["minimum"]
    wrong = f"is VALUE; it must be at least {least}"
    return lambda value: None if type(value) not in (int, float) or value >= least else ("", wrong, value)


def _size(keyword, kind):
    def make(rules, check):
        least = rules[keyword]
        wrong = f"is VALUE; it must have {least} member{'s' * (least > 1)} or more"
        return lambda value: None if not isinstance(value, kind) or len(value) >= least else ("", wrong, value)

    return make


def _required(rules, check):
    def right(value):
        missing = [name for name in rules["required"] if name not in value] if isinstance(value, dict) else []
        return ("", f"lacks {', '.join(missing)}", None) if missing else None

    return right


def _items(rules, check):
    of_one = check(rules["items"])

    def right(value):
        if isinstance(value, list):
            for place, item in enumerate(value):
                if found := of_one(item):
                    return f"[{place}]{found[0]}", found[1], found[2]
        return None

    return right


def _members(rules, check):
    known = {name: check(rule) for name, rule in rules.get("properties", {}).items()}
    others = check(rules.get("additionalProperties", True))

    def right(value):
        if isinstance(value, dict):
            for name, item in value.items():
                if found := known.get(name, others)(item):
                    return f".{name if name.isidentifier() else short(name)}{found[0]}", found[1], found[2]
        return None

    return right


def _any_of(rules, check):
    choices = [check(rule) for rule in rules["anyOf"]]

    def right(value):
        found = []
        for choice in choices:
            found.append(choice(value))
            if found[-1] is None:
                return None
        return _nearest(found, value)

    return right


def _one_of(rules, check):
    choices = [check(rule) for rule in rules["oneOf"]]

    def right(value):
        found = [choice(value) for choice in choices]
        if fitting := found.count(None):
            return None if fitting == 1 else ("", "is VALUE, which can be read in two ways", value)
        return _nearest(found, value)

    return right


def _nearest(found, value):
    """Of alternatives that do not fit, the one that came furthest says what is wrong."""
    furthest = max(found, key=lambda x: len(x[0]))
    return furthest if furthest[0] else ("", "is VALUE, which is none of what may stand here", value)


_MAKERS: dict[Callable, tuple[str, ...]] = {  # what makes a check of a schema -> the keywords that call for it
    _type: ("type",),
    _enum: ("enum", "const"),
    _pattern: ("pattern",),
    _minimum: ("minimum",),
    _size("minItems", list): ("minItems",),
    _size("minProperties", dict): ("minProperties",),
    _required: ("required",),
    _items: ("items",),
    _members: ("properties", "additionalProperties"),
    _any_of: ("anyOf",),
    _one_of: ("oneOf",),
}
