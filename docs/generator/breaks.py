"""Where words end, for the search, and where lines may break; mkdocs calls this with every page.

No line breaks after a sign, nor inside a name of a table but at `/`, `_` and `.`.
"""

import re

_END = re.compile(r"(</(?:td|th|dt|dd|div|figcaption|summary)>|<br ?/?>)(?=\S)")
_PIECE = re.compile(r"<!--.*?-->|<(/?)([a-zA-Z][\w-]*)[^>]*>", re.S)
_SKIPPED = {"head", "script", "style", "svg", "math", "textarea"}
_SIGNED = re.compile(r"(?<![^\s(\[{<=,;:|·])(?:--?|[−+±])(?:\w+|∞)")  # -infinity, −∞, --option
_SEPARATOR = re.compile(r"(?<=\w)(?!(?<=\d)\.\d)([/_.]+)(?=\w)")  # of a name, but no decimal point


def on_page_content(html, **_):
    """Before the search reads a page: it would take what two cells hold for one word."""
    return _END.sub(r"\1\n", html)


def on_post_page(output, **_):
    """After the search has read a page."""
    return mark(output)


def mark(html):
    """HTML with the places marked at which lines may break, and those at which they may not."""
    out, end, opened = [], 0, []
    for piece in _PIECE.finditer(html):
        out += [_text(html[end : piece.start()], opened), piece[0]]
        end = piece.end()
        tag = (piece[2] or "").lower()
        if tag not in _SKIPPED | {"table", "code", "pre"}:
            continue
        if not piece[1]:
            opened.append(tag)
        elif tag in opened:
            del opened[len(opened) - 1 - opened[::-1].index(tag) :]
    return "".join(out) + _text(html[end:], opened)


def _text(text, opened):
    if not text.strip() or _SKIPPED.intersection(opened):
        return text
    if {"table", "code"} <= set(opened) and "pre" not in opened:
        return re.sub(r"\S+", _name, text)
    return _SIGNED.sub(r'<span class="unbroken">\g<0></span>', text)


def _name(found):
    """A word of code: it may break after the separators of a name, and nowhere else."""
    word = _SEPARATOR.sub(r"\1<wbr>", found[0])
    return f'<span class="unbroken">{word}</span>' if "-" in word or "−" in word else word
