"""LaTeX to MathML when the site is built: the browser needs no script and no service for a formula."""

import re
from html import unescape

from math_core import LatexError, LatexToMathML

_CONVERTER = LatexToMathML(annotation=False)
_TEXT = re.compile(r">([^<]+)<")
_STRUT = '<mspace width="0" height=".7em" depth=".1em"/>'  # under a root: Chromium hangs the sign too low without it
_COLOR = re.compile(r"\x1b\[[0-9;]*m")


def display(tex):
    """A formula on its own, as a block of HTML."""
    return f'<div class="formula">{_convert(tex, displaystyle=True)}</div>'


def inline(tex):
    """A formula in running text.

    Markdown would take <math> at the start of a line for a block, hence the span, and punctuation for its own marks,
    hence the entities.
    """
    return f"<span>{_TEXT.sub(lambda found: f'>{_entities(found[1])}<', _convert(tex, displaystyle=False))}</span>"


def _convert(tex, displaystyle):
    try:
        html = _CONVERTER.convert_with_local_state(" ".join(tex.split()), displaystyle=displaystyle)
        return html.replace("<msqrt>", f"<msqrt>{_STRUT}")
    except LatexError as error:
        raise ValueError(f"a formula cannot be rendered:{_COLOR.sub('', str(error))}") from None


def _entities(text):
    return "".join(f"&#{ord(c)};" if c.isascii() and not c.isalnum() and c != " " else c for c in unescape(text))
