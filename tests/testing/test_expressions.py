"""Masks from text: what an expression may say, and that nothing of it is run."""

import numpy as np
import pytest

from refattn import masks
from refattn.cli import main
from refattn.testing.expressions import DEEPEST, LONGEST, parse

RULES = {
    "causal": masks.causal(),
    " causal() ": masks.causal(),
    "masks.causal()": masks.causal(),
    "causal() & window(3, 0) | ~block(2)": masks.causal() & masks.window(3, 0) | ~masks.block(2),
    "window(left=None, right=1)": masks.window(None, 1),
    "(padding([5, 6], starts=(0, 1)))": masks.padding([5, 6], starts=(0, 1)),
    "tree([-1, 0, 0], prefix=5)": masks.tree([-1, 0, 0], prefix=5),
}


@pytest.mark.parametrize("text", RULES)
def test_an_expression_is_the_rule_that_it_says(text):
    assert repr(parse(text)) == repr(RULES[text])
    np.testing.assert_array_equal(parse(text).dense(6, 8), RULES[text].dense(6, 8))


@pytest.mark.parametrize("text", [t for t in RULES if t != " causal() "])
def test_what_a_rule_says_of_itself_is_an_expression(text):
    assert repr(parse(repr(RULES[text]))) == repr(RULES[text])


@pytest.mark.parametrize(
    "text, says",
    [
        ("causal.__globals__['__builtins__']['__import__']('os').system('true')", "has no meaning"),
        ("__import__('os')", "no rule '__import__'"),
        ("np.load('x')", "'np.load' has no meaning"),
        ("masks.np.load('x')", "has no meaning"),
        ("Mask(1)", "no rule 'Mask'"),
        ("visible(1)", "no rule 'visible'"),
        ("positions_of(1, 1)", "no rule 'positions_of'"),
        ("casual()", "did you mean causal"),
        ("window(9**9**9, 0)", "has no meaning"),
        ("window(10 - 7, 0)", "has no meaning"),
        ("padding('5')", "has no meaning"),
        ("padding(True)", "has no meaning"),
        ("padding(1j)", "has no meaning"),
        ("padding({1})", "has no meaning"),
        ("padding(*[1])", "has no meaning"),
        ("padding(**{})", "has no meaning"),
        ("padding([x for x in [1]])", "has no meaning"),
        ("padding(lengths=1, lengths=2)", "given twice"),
        ("causal() and causal()", "has no meaning"),
        ("causal() if causal() else causal()", "has no meaning"),
        ("causal()()", "has no meaning"),
        ("lambda: causal()", "has no meaning"),
        ("(x := causal())", "has no meaning"),
        ("causal() ^ causal()", "has no meaning"),
        ("-causal()", "has no meaning"),
        ("padding(99999999999999999999)", "larger than any position"),
        ("padding(-99999999999999999999)", "larger than any position"),
        ("padding(1.5)", "lengths must hold integers"),
        ("window(1)", "missing 1 required"),
        ("window(1, 2, 3, 4)", "takes 2 positional"),
        ("block(0)", "size is 0"),
        ("", "no expression"),
        ("causal(", "no expression"),
        ("causal\x00", "no expression"),
        ("causal\ud800", "no expression"),
        ("causal; causal", "no expression"),
        ("&".join(["causal"] * (DEEPEST + 2)), "too deep"),
        ("~" * 900 + "causal", "too deep"),
        ("padding(" + "[" * 90 + "]" * 90 + ")", "too deep"),
        ("(" * 900 + "causal" + ")" * 900, "no expression"),
        ("-" * 1900 + "1", "no meaning|no expression"),
        ("a" + ".b" * 900, "has no meaning"),
        ("block(" + "1" * LONGEST + ")", f"may have {LONGEST}"),
    ],
)
def test_nothing_else_has_a_meaning(text, says):
    with pytest.raises(ValueError, match=says) as refused:
        parse(text)
    assert len(str(refused.value)) < 600


NESTED = {
    "to the left": (DEEPEST - 1, lambda n: "&".join(["causal"] * (n + 1))),
    "to the right": (DEEPEST - 1, lambda n: "(causal & " * n + "causal" + ")" * n),
    "inverted": (DEEPEST - 1, lambda n: "~" * n + "causal"),
    "lists": (DEEPEST - 2, lambda n: "padding(" + "[" * n + "1" + "]" * n + ")"),
    "tuples": (DEEPEST - 2, lambda n: "padding(" + "(" * n + "1" + ",)" * n + ")"),
    "by name": (DEEPEST - 2, lambda n: "padding(lengths=" + "[" * n + "1" + "]" * n + ")"),
    "below": (DEEPEST - 3, lambda n: "causal & ~padding(" + "[" * (n - 1) + "1" + "]" * (n - 1) + ")"),
}


@pytest.mark.parametrize("kind", NESTED)
def test_so_many_levels_are_the_most(kind):
    most, nested = NESTED[kind]
    said = []
    for n in (most, most + 1):
        try:
            parse(nested(n))
            said.append("")
        except ValueError as error:
            said.append(str(error))
    assert ["too deep" in message for message in said] == [False, True]


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["9**9**9"], "nothing is called"),
        (["causal.__globals__['__builtins__']['__import__']('os').system('touch pwned')"], "has no meaning"),
        (["window(1)"], "missing 1 required"),
        (["tree([-1,0])"], "for 16 queries and 16 keys (--size): the tree of parents ends at position 1"),
        (["documents([1,2])"], "ids covers positions 0 to 1"),
        (["padding([])"], "no sequence at all"),
        (["causal()", "--size", "3", "1000000000"], "too large: 1000 x 1000 is the most"),
        (["x" * 100_000], "nothing is called"),
        (["\x1b[31m\ud800"], "nothing is called '\\x1b[31m\\ud800'"),
    ],
)
def test_show_answers_in_one_line(arguments, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["show", *arguments]) == 2
    message = capsys.readouterr().err
    assert says in message
    assert message.count("\n") == 1
    assert len(message) < 700
    assert not list(tmp_path.iterdir()), "it was run"


def test_rules_with_data_are_drawn_at_sizes_that_go_with_them(capsys):
    assert main(["show", "documents([1, 1, 2])", "--size", "3", "3"]) == 0
    assert "■ ■ ·" in capsys.readouterr().out
