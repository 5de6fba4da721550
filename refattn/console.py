"""What the command writes: to terminals of any encoding, to readers that leave early, to files that cannot be written."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
from collections.abc import Iterator

# What terminals without the letters of mathematics get for them; anything else becomes an escape.
_PLAIN = {
    "■": "#", "·": ".", "√": "sqrt ", "²": "^2", "³": "^3", "→": "->", "±": "+-", "∞": "inf", "Σ": "sum ", "…": "...",
    "⌊": "floor(", "⌋": ")", "ᵀ": "^T", "×": "x", "≤": "<=", "≥": ">=", "−": "-",
}  # fmt: skip


def _plain(error):
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in missing), error.end


codecs.register_error("refattn-plain", _plain)


@contextlib.contextmanager
def any_terminal() -> Iterator[None]:
    """Within it, standard output takes any text: what its encoding lacks is written in ASCII."""
    before = {}
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            before[stream] = stream.errors
            stream.reconfigure(errors="refattn-plain")
    try:
        yield
    finally:
        for stream, errors in before.items():
            with contextlib.suppress(ValueError, OSError):  # closed, or its reader has gone
                stream.reconfigure(errors=errors)


def say(text: str) -> None:
    """Print to standard output, and be done with it; an empty text prints nothing but what has waited.

    A reader that has left (`| head`) is no error: nothing more is written.

    Raises
    ------
    OSError
        It cannot be written, for example because the disk is full.
    """
    try:
        print(text, end="\n" if text else "", flush=True)
    except BrokenPipeError:
        _silence()
    except OSError as error:
        _silence()
        raise OSError(error.errno, f"standard output cannot be written: {error.strerror}") from None


def _silence():
    """Let what is still to be written to standard output go nowhere, so that Python does not complain at its end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def fail(message: object) -> None:
    """One line on standard error, of plain characters."""
    from refattn.testing.printable import printable

    if isinstance(message, OSError) and message.filename is not None:
        message = f"{message.filename!r}: {message.strerror}"
    line = " ".join(printable(message).split())
    with contextlib.suppress(OSError, AttributeError):  # nobody can be told
        sys.stderr.write(f"refattn: {line}\n")
        sys.stderr.flush()


def tell(stream, text: str) -> None:
    """Say how far something has come, to who wants to know: a stream that is closed or full is no matter."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        stream.write(text)
        stream.flush()


def is_terminal(stream) -> bool:
    """Whether somebody looks at a stream (which is None where it was closed from the beginning)."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def check_places(places: dict[str, str | None]) -> None:
    """See that reports can be written, before what they report is done.

    Parameters
    ----------
    places : dict
        Option -> path, '-' for standard output, or None.

    Raises
    ------
    ValueError
        Two have one place, or one cannot be written; the text names the options.
    """
    seen: dict[str, str] = {}
    for option, place in places.items():
        if place is None:
            continue
        whole = place if place == "-" else _writable(option, place)
        if whole in seen:
            where = "standard output" if place == "-" else place
            raise ValueError(f"{seen[whole]} and {option} cannot both be written to {where}")
        seen[whole] = option


def _writable(option, place):
    try:
        whole = os.path.realpath(place)
        folder = os.path.dirname(whole)
        if os.path.isdir(whole) or place.endswith(os.sep):
            why = "it is a folder"
        elif not os.path.isdir(folder):
            why = "there is no such folder"
        elif not os.access(whole if os.path.exists(whole) else folder, os.W_OK):
            why = "it may not be written"
        elif len(os.fsencode(os.path.basename(whole))) > os.pathconf(folder, "PC_NAME_MAX"):
            why = "its name is too long"
        else:
            return whole
    except (OSError, ValueError) as error:
        why = str(getattr(error, "strerror", None) or error)
    raise ValueError(f"{option} cannot be written to {place!r}: {why}")


def write(place: str, text: str) -> None:
    """A report in its place; '-' is standard output.

    Raises
    ------
    OSError
        It cannot be written.
    """
    if place != "-":
        with open(place, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        return
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    say(text.encode(encoding, "xmlcharrefreplace").decode(encoding) if text.startswith("<") else text)
