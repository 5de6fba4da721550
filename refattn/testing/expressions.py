"""Masks from text: 'causal() & window(3, 0)' is parsed, and never run as Python.

An expression is made of the rules of `refattn.masks` (a rule without arguments may stand without brackets), the operators
`&`, `|` and `~`, and as arguments numbers, None, lists and tuples of them. Nothing else has a meaning.
"""

from __future__ import annotations

import ast
import operator
import warnings

from refattn.masks import Mask
from refattn.testing.names import RULES, meant, rule_named

LONGEST = 2000  # characters: the data of a rule are part of the text, and trees take the cube of theirs
DEEPEST = 30  # operators and brackets within each other
_OPERATORS = {ast.BitAnd: operator.and_, ast.BitOr: operator.or_}
_GRAMMAR = "an expression has rules (refattn list masks), numbers, None, lists, tuples, &, | and ~"


def parse(text: str) -> Mask:
    """The mask that an expression builds.

    Parameters
    ----------
    text : str
        'causal() & ~padding(5)'; 'masks.causal()' means the same as 'causal()' and 'causal'.

    Returns
    -------
    Mask

    Raises
    ------
    ValueError
        The text is longer or deeper than an expression may be, is no expression, names an unknown rule, or gives a rule
        what it refuses.

    Examples
    --------
    >>> parse("causal & window(left=3, right=0)")
    (causal() & window(left=3, right=0))
    """
    if len(text) > LONGEST:
        raise ValueError(f"an expression of {len(text)} characters; it may have {LONGEST}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # '1and 2' and the like: refused below
            text = text.strip()
            tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"{_short(text)} is no expression of masks: {_GRAMMAR}") from None
    return _mask(tree.body, text, DEEPEST)


def looks_like_one(text: str) -> bool:
    """Whether a text is meant as an expression, and not as the name of something."""
    return any(sign in text for sign in "()&|~")


def _mask(node, text, depth):
    if depth == 0:
        raise ValueError(f"{_short(text)} is nested too deep: {DEEPEST} levels are the most")
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_mask(node.left, text, depth - 1), _mask(node.right, text, depth - 1))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        return ~_mask(node.operand, text, depth - 1)
    call = node if isinstance(node, ast.Call) else ast.Call(func=node, args=[], keywords=[])
    rule = _rule(call.func, text)
    given = [_value(x, text, depth - 1) for x in call.args]
    named = {_keyword(x, text): _value(x.value, text, depth - 1) for x in call.keywords}
    if len(named) < len(call.keywords):
        raise ValueError(f"{_short(_source(node, text))}: an argument is given twice")
    try:
        return rule(*given, **named)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{_short(_source(node, text))}: {error}") from None


def _rule(node, text):
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "masks":
        name = node.attr
    elif isinstance(node, ast.Name):
        name = node.id
    else:
        raise _not_allowed(node, text)
    if name not in RULES:
        near = meant(name, RULES)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; there are {', '.join(RULES)}"
        raise ValueError(f"refattn.masks has no rule {_short(name)}{hint}")
    return rule_named(name)


def _keyword(node, text):
    if node.arg is None:
        raise _not_allowed(node.value, text)
    return node.arg


def _value(node, text, depth):
    """An argument of a rule."""
    if depth == 0:
        raise ValueError(f"{_short(text)} is nested too deep: {DEEPEST} levels are the most")
    if isinstance(node, ast.List):
        return [_value(x, text, depth - 1) for x in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(x, text, depth - 1) for x in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        return -_number(node.operand, text)
    if isinstance(node, ast.Constant) and node.value is None:
        return None
    return _number(node, text)


def _number(node, text):
    value = node.value if isinstance(node, ast.Constant) else None
    if type(value) not in (int, float):
        raise _not_allowed(node, text)
    if isinstance(value, int) and value >= 2**63:
        raise ValueError(f"{_short(_source(node, text))} is larger than any position: the largest is 2**63 - 1")
    return value


def _not_allowed(node, text):
    return ValueError(f"{_short(_source(node, text))} has no meaning in {_short(text)}: {_GRAMMAR}")


def _source(node, text):
    return ast.get_source_segment(text, node) or "this"


def _short(text):
    return repr(text if len(text) <= 80 else f"{text[:80]} ...")
