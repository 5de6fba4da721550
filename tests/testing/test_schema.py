"""The small reader of schemas says what jsonschema says, and names the place."""

import copy
import json
import random

import jsonschema
import pytest

from refattn.testing import schema, vectors

SPEC = json.loads((vectors.spec_dir() / "schema.json").read_text(encoding="utf-8"))
GOOD = json.loads((vectors.spec_dir() / "softmax" / "vectors.json").read_text(encoding="utf-8"))
STRANGE = [
    None,
    True,
    0,
    -1,
    2.5,
    "x",
    "0x1.8p+1",
    "inf",
    [],
    [1],
    {},
    {"rule": "causal"},
    {"dtype": "bool"},
    {"float": "nan"},
]


def test_what_is_committed_keeps_the_schema():
    assert schema.compiled(SPEC)(GOOD) is None


@pytest.mark.parametrize("seed", range(60))
def test_it_agrees_with_jsonschema(seed):
    """A file with one value changed, dropped or added somewhere."""
    draw = random.Random(seed)
    contents = copy.deepcopy({**GOOD, "cases": draw.sample(GOOD["cases"], 2)})
    place = contents
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and draw.random() < 0.85:
            place = place[key]
            continue
        break
    what = draw.randrange(3)
    if what == 0:
        place[key] = draw.choice(STRANGE)
    elif what == 1:
        del place[key]
    elif isinstance(place, dict):
        place[draw.choice(["rule", "extra", "dtype", "refuses"])] = draw.choice(STRANGE)
    else:
        place.append(draw.choice(STRANGE))
    try:
        jsonschema.validate(contents, SPEC)
        right = True
    except jsonschema.ValidationError:
        right = False
    assert (schema.compiled(SPEC)(contents) is None) == right


@pytest.mark.parametrize(
    "rules, value, found",
    [
        ({"type": "integer"}, True, ("", "is True; it must be of type integer")),
        ({"type": "integer"}, 1.0, ("", "is 1.0; it must be of type integer")),
        ({"const": True}, 1, ("", "is 1; it must be True")),
        ({"minimum": 0}, -1, ("", "is -1; it must be at least 0")),
        ({"minItems": 1}, [], ("", "is []; it must have 1 member or more")),
        ({"pattern": "^a$"}, "a\n", ("", r"is 'a\n'; it must look like ^a$")),
        ({"required": ["x"]}, {}, ("", "lacks x")),
        ({"additionalProperties": False}, {"a b": 1}, (".'a b'", "is unknown")),
        ({"properties": {"x": {"items": {"enum": [1]}}}}, {"x": [1, 2]}, (".x[1]", "is 2; it must be 1")),
        ({"oneOf": [{"type": "null"}, {"enum": [None]}]}, None, ("", "is None, which can be read in two ways")),
        ({"anyOf": [{"type": "null"}, {"enum": [None]}]}, None, None),
        ({"anyOf": [{"type": "null"}, {"items": {"type": "null"}}]}, [1], ("[0]", "is 1; it must be of type null")),
    ],
)
def test_it_says_where_and_why(rules, value, found):
    assert schema.compiled(rules)(value) == found


def test_a_keyword_that_it_does_not_know_is_an_error():
    with pytest.raises(ValueError, match="maximum"):
        schema.compiled({"properties": {"x": {"maximum": 3}}})


@pytest.mark.parametrize(
    "text, says",
    [
        ("[" * 100_000, "too deep"),
        ('{"a":' * 100_000, "too deep"),
        ('{"a": 1, "b": 2, "a": 3}', "'a' stands there twice"),
        ("[NaN]", "NaN is no JSON"),
        ("-Infinity", "-Infinity is no JSON"),
        ("9" * 10_000, "limit"),
        ("", "Expecting value"),
        (b"\xff\xfe\x00", "decode|truncated"),
    ],
)
def test_json_without_liberties(text, says):
    with pytest.raises(ValueError, match=says):
        schema.parsed(text)
