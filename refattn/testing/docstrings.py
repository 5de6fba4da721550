"""What the docstrings of the reference say: the names and shapes of arguments, of results, and of fields of parameters.

Docstrings are numpydoc. Of what may stand there this is read:

- `q, k : array (..., N, D), (..., M, D), optional` gives each name its shape; one shape is that of every name.
- `array (E, F) or (R, F)` is one of the two; `array that broadcasts to (..., N, M)` may have ones, or fewer axes.
- Shapes stand after the word array: `callable (x, positions)` has none. `(...)` is any shape that broadcasts with the
  other `...`, and `array of any shape` one that has nothing to do with them.
- Names without a kind, explained by "As for `attention`", are what they are there; `**options` is then whatever is left.
- A result without a name is a NamedTuple, whose results are its fields: those of its Attributes section. Where they are
  "of the shape of its input", that is the shape of the argument of the same name.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import cache, reduce
from typing import Any, NamedTuple

import refattn

Shape = tuple[str, ...]


class Named(NamedTuple):
    """An argument, a result or a field, as a docstring states it.

    Attributes
    ----------
    name : str
        'q'; empty for a result without one.
    kind : str
        What stands after the colon: 'array (..., N, D)'.
    shapes : tuple of tuple of str
        By letters, ('...', 'N', 'D'): several where it is one or the other, none where none is stated.
    """

    name: str
    kind: str
    shapes: tuple[Shape, ...] = ()

    @property
    def shape(self) -> Shape | None:
        """The first of its shapes; None where none is stated."""
        return self.shapes[0] if self.shapes else None

    @property
    def broadcasts(self) -> bool:
        """Whether it may have ones in place of its sizes, or fewer axes."""
        return "broadcasts to" in self.kind


@cache
def stated(thing: Any, section: str) -> tuple[Named, ...]:
    """What stands in a section of the docstring of a function or class, in order.

    Raises
    ------
    ValueError
        The section is not in the form that this module reads: the text names the item.

    Examples
    --------
    >>> [x.shape for x in stated(refattn.attention, "Returns")]
    [('...', 'N', 'Dv'), ('...', 'N')]
    >>> stated(refattn.attention_weights, "Parameters")[1]
    Named(name='k', kind='array (..., M, D)', shapes=(('...', 'M', 'D'),))
    """
    items = list(_items(_text(thing), section))
    own = {name for names, _, _ in items for name in names}
    found: list[Named] = []
    for names, kind, note in items:
        if as_for := not kind and re.match(r"As for `([\w.]+)`", note):
            found += _as_for(thing, names, as_for[1], own)
        else:
            shapes = _distributed(thing, names, kind)
            found += [Named(name, kind, shape) for name, shape in zip(names, shapes, strict=True)]
    return tuple(found)


@cache
def results_of(function: Callable) -> tuple[Named, ...]:
    """What a function returns, by the names that golden vectors use; empty where its docstring does not say.

    Examples
    --------
    >>> [x.name for x in results_of(refattn.layer_norm_vjp)]
    ['x', 'gamma', 'beta']
    """
    items = stated(function, "Returns")
    if len(items) != 1 or items[0].name:
        return items
    fields = stated(_referred(function, items[0].kind), "Attributes")
    [(_, _, note)] = _items(_text(function), "Returns")
    if "of the shape of its input" not in note:
        return fields
    given = {x.name: x for x in stated(function, "Parameters")}
    return tuple(x._replace(shapes=given[x.name].shapes or x.shapes) if x.name in given else x for x in fields)


def _text(thing) -> str:
    """A docstring; from the source where python -OO has dropped it."""
    if sys.flags.optimize < 2:
        return inspect.getdoc(thing) or ""
    try:
        [node] = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(thing)))).body
    except (OSError, TypeError):
        return ""
    return ast.get_docstring(node) or "" if isinstance(node, ast.FunctionDef | ast.ClassDef) else ""


def _items(text: str, section: str) -> Iterator[tuple[list[str], str, str]]:
    """(names, kind, explanation) of each item of a section. In Returns what has no colon is a kind, elsewhere names."""
    found = re.search(rf"^{section}\n-+\n(.*?)(?=\n\n\S[^\n]*\n---|\Z)", text, re.S | re.M)
    body = re.sub(r"\\\n", "", found[1]) if found else ""
    for item in re.split(r"\n(?=\S)", body):
        head, _, note = item.partition("\n")
        names, colon, kind = head.partition(" : ")
        if not colon and section == "Returns":
            names, kind = "", head
        if head:
            yield names.split(", "), kind, " ".join(note.split())


def _as_for(thing, names, other, own) -> Iterator[Named]:
    """Arguments that are what they are for another function, or fields that are what they are in another class."""
    of = _referred(thing, other)
    there = {x.name: x for x in stated(of, "Attributes" if isinstance(of, type) else "Parameters")}
    for name in names:
        if name.startswith("**"):
            yield from (x for x in there.values() if x.name not in own)
        elif name in there:
            yield there[name]
        else:
            raise ValueError(f"{thing.__qualname__}: {name} is said to be as for `{other}`, which has none")


def _referred(thing, name: str) -> Any:
    """The function or class that a docstring names: one of refattn, or one that its own module knows."""
    home = vars(inspect.getmodule(inspect.unwrap(thing)))
    path = name.removeprefix("refattn.").split(".")
    for start in (refattn, home.get(path[0])):
        try:
            found = reduce(getattr, path if start is refattn else path[1:], start)
        except AttributeError:
            continue
        if callable(found):
            return found
    raise ValueError(f"{thing.__qualname__}: its docstring names {name!r}, which is not found")


# --- shapes ---------------------------------------------------------------------------------------------------------

_SIZE = re.compile(r"\.\.\.|[A-Za-z0-9_·+*/() -]+")


def _distributed(thing, names, kind) -> list[tuple[Shape, ...]]:
    """For each name its shapes."""
    groups = _shapes(kind)
    if len(groups) not in (0, 1, len(names)):
        raise ValueError(f"{thing.__qualname__}: {', '.join(names)} are {len(names)} names, of {len(groups)} shapes")
    return groups if len(groups) == len(names) else (groups or [()]) * len(names)


def _shapes(kind: str) -> list[tuple[Shape, ...]]:
    """The shapes of a kind: of what commas part, those that 'or' joins."""
    groups: list[tuple[Shape, ...]] = []
    between = ""
    for part, inside in _parenthesised(kind.partition("array")[2]):
        if not inside:
            between += part
        elif (shape := _shape(part)) is not None:
            if groups and between.strip() == "or":
                groups[-1] = (*groups[-1], shape)
            else:
                groups.append((shape,))
            between = ""
    return groups


def _parenthesised(text: str) -> Iterator[tuple[str, bool]]:
    """A text cut at its outermost parentheses: (part, whether it stood inside of them)."""
    depth = start = 0
    for at, letter in enumerate(text):
        if letter == "(":
            if depth == 0:
                yield text[start:at], False
                start = at + 1
            depth += 1
        elif letter == ")" and depth:
            depth -= 1
            if depth == 0:
                yield text[start:at], True
                start = at + 1


def _shape(inside: str) -> Shape | None:
    """(..., N, D) without its parentheses as a tuple; None where it is no shape: one word, or words that are no sizes."""
    if inside in ("", "..."):
        return (inside,) if inside else ()
    parts = [part.strip() for part in inside.split(",")]
    if len(parts) == 1 or not all(_SIZE.fullmatch(part) for part in parts if part):
        return None
    return tuple(part for part in parts if part)
