"""Text that others wrote (names, versions and messages of kernels), made fit for a terminal, a log and XML."""

from __future__ import annotations

LONGEST = 2000  # characters; what is longer tells nobody more


def printable(text: object, most: int = LONGEST) -> str:
    """The text with everything that is no plain character written as an escape: it can do nothing where it is shown.

    Control characters (escape codes of a terminal, zero bytes), marks that turn the direction of writing, lone surrogates
    and what XML cannot hold become '\\x1b', '\\u202e', ...; line breaks and tabs stay. In the middle of what is longer
    than `most`, something is left out.

    Examples
    --------
    >>> printable("\\x1b[31mred\\x1b[0m and \\ud800")
    '\\\\x1b[31mred\\\\x1b[0m and \\\\ud800'
    """
    try:
        text = str(text)
    except Exception as error:  # a type of somebody else's whose own text fails
        text = f"<{type(text).__name__} without a text: {type(error).__name__}>"
    if len(text) > most:
        text = f"{text[: most * 2 // 3]} ... {text[len(text) - most // 3 :]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
