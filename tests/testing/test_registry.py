"""How variants are registered, put into words, and agreed upon."""

from types import SimpleNamespace

import pytest

from refattn.testing import registry
from refattn.testing.registry import Family, Variant, agreed, family, variant


@pytest.fixture(autouse=True)
def _nothing_registered(monkeypatch):
    monkeypatch.setattr(registry, "VARIANTS", {})
    monkeypatch.setattr(registry, "FAMILIES", {})


def optimized(monkeypatch, level):
    monkeypatch.setattr(registry, "sys", SimpleNamespace(flags=SimpleNamespace(optimize=level)))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_docstring_is_the_meaning(monkeypatch, level):
    optimized(monkeypatch, level)

    @variant("a/b", "SOME-CLAUSE", "softmax", "logsumexp", seen=["there"], advice="do so")
    def _some(x):
        """It does
        this."""

    assert set(registry.VARIANTS) == {("a/b", "softmax"), ("a/b", "logsumexp")}
    made = registry.VARIANTS["a/b", "logsumexp"]
    assert (made.meaning, made.function, made.seen, made.advice) == ("It does this.", "logsumexp", ("there",), "do so")
    with pytest.raises(ValueError, match="two variants of softmax are called a/b"):
        variant("a/b", "SOME-CLAUSE", "softmax")(_some)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_without_docstrings_the_name_is_the_meaning_where_python_has_dropped_them(monkeypatch, level):
    optimized(monkeypatch, level)
    register = variant("a/b", "SOME-CLAUSE", "softmax")
    if level < 2:
        with pytest.raises(ValueError, match="variant a/b has no docstring"):
            register(lambda x: x)
    else:
        register(lambda x: x)
        assert registry.VARIANTS["a/b", "softmax"].meaning == "a/b"


def made(value, *others, said="said"):
    return Variant("a/b", "SOME-CLAUSE", "softmax", print, "It does.", value=value, others=others, said=said)


def test_the_value_that_most_cases_allow_is_agreed_upon():
    members = [made(8, 16), made(16), made(32, 16)]
    assert agreed(members) is members[1]
    members = [made(16, 8), made(8), made(8)]
    assert agreed(members) is members[1], "of values that all allow the one that leads more often"
    members = [made(8, 16), made(32, 16)]
    found = agreed(members)
    assert (found.value, found.said) == (8, ""), "what all allow leads nowhere"


@pytest.mark.parametrize(("alike", "said"), [(10, "said"), (9, "said"), (8, "")])
def test_it_is_said_where_nine_tenths_of_the_cases_allow_it(alike, said):
    found = agreed([*[made(16)] * alike, *[made(64)] * (10 - alike)])
    assert (found.value, found.said) == (16, said)


def test_a_member_says_its_value_and_four_others():
    example = made(None)
    sizes = Family(example, lambda value: ("call", value), lambda *_: (), "The tile has {} keys.")
    found = sizes.member((16, 32))
    assert (found.call, found.value, found.others) == (("call", (16, 32)), (16, 32), ())
    assert (found.meaning, found.said) == ("It does. The tile has 16 x 32 keys.", "the tile has 16 x 32 keys")
    told = "It does. The tile has 8 keys. These inputs do not tell it from 1, 2, 3, 4"
    assert sizes.member(8, [1, 2, 3, 4]).meaning == f"{told}."
    assert sizes.member(8, [1, 2, 3, 4, 5, 6]).meaning == f"{told} and 2 more."
    parts = Family(example, lambda value: value, lambda *_: (), lambda value, mask: f"Lost of {mask} is {value}.")
    assert parts.member("causal()", ["x"], "m").meaning == "It does. Lost of m is causal()."


def test_a_family_is_listed_by_its_example():
    @family("a/b", "SOME-CLAUSE", "softmax", example=3, values=lambda *_: (1, 2), unit="It has {}.", scales=True)
    def _of(value):
        """It does."""
        return lambda x: x * value

    listed, of = registry.VARIANTS["a/b", "softmax"], registry.FAMILIES["a/b", "softmax"]
    assert of.example is listed
    assert (listed.meaning, listed.call(2), of.member(5).call(2)) == ("It does.", 6, 10)
    assert (of.scales, of.rules, of.masked, of.effect) == (True, False, None, None)
