"""The formulas of clauses, written in LaTeX for the site, as text for a terminal and as HTML for a report."""

from __future__ import annotations

import re
from html import escape

_SYMBOLS = {
    "alpha": "α", "mu": "μ", "phi": "φ", "sigma": "σ", "theta": "θ", "sum": "Σ", "infty": "∞", "top": "ᵀ", "ldots": "…",
    "lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉", "le": "≤", "ge": "≥", "cdot": "·", "times": "×", "in": "∈",
    ",": " ", ";": " ", "\\": " ",
}  # fmt: skip
_FORMULA = re.compile(r"\$([^$]+)\$")
_TOKEN = re.compile(r"\\([A-Za-z]+|.)|(.)", re.S)


def in_text(sentence: str) -> str:
    r"""A sentence whose formulas are plain text.

    Examples
    --------
    >>> in_text(r"the sum of $e^{s_{ij}}$ and $\bar p / \sqrt{D}$")
    'the sum of e^(s_ij) and p̄ / √D'
    """

    def raised(x):
        return x if x == "ᵀ" else f"^{x}" if len(x) == 1 else f"^({x})"

    return _FORMULA.sub(lambda found: _written(found[1], str, raised, lambda x: f"_{x}"), sentence)


def in_html(sentence: str) -> str:
    r"""A sentence as HTML, with its formulas.

    Examples
    --------
    >>> in_html(r"$e^{s_{ij}}$ > 0")
    'e<sup>s<sub>ij</sub></sup> &gt; 0'
    """
    parts = _FORMULA.split(sentence)  # text, formula, text, ...
    return "".join(
        _written(part, escape, lambda x: x if x == "ᵀ" else f"<sup>{x}</sup>", lambda x: f"<sub>{x}</sub>")
        if number % 2
        else escape(part)
        for number, part in enumerate(parts)
    )


def _written(formula, plain, raised, lowered):
    """A formula with symbols for their names, and its indices and exponents as the two functions write them."""
    tokens = [command or character for command, character in _TOKEN.findall(formula)]
    commands = [bool(command) for command, _ in _TOKEN.findall(formula)]
    place = 0

    def one():
        """The next letter, command or group."""
        nonlocal place
        token, command = tokens[place], commands[place]
        place += 1
        if command:
            return {"sqrt": lambda: rooted(one()), "bar": lambda: letter() + "\u0304"}.get(
                token, lambda: named(token)
            )()
        if token == "{":
            found = ""
            while tokens[place] != "}":
                found += one()
            place += 1
            return found
        return raised(one()) if token == "^" else lowered(one()) if token == "_" else plain(token)

    def rooted(x):
        return f"√{x}" if len(x) == 1 else f"√({x})"

    def letter():
        found = one()
        return one() if found == " " else found

    def named(token):
        word = _SYMBOLS.get(token, token)
        follows = place < len(tokens) and (commands[place] or tokens[place].isalnum())
        return f"{word} " if word == token and follows else word

    found = ""
    while place < len(tokens):
        found += one()
    return found.replace("⌊ ", "⌊").replace(" ⌋", "⌋").replace("  ", " ")
