"""What a call may raise, and what it says: a refusal, an order to end the process, or no word about its input at all."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from refattn.testing.adapters.base import Adapter, Failed

# What such an exception says is not about the input: something is not installed, not there, or no memory is left.
NO_REFUSAL = (ImportError, OSError, MemoryError, SyntaxError)
_OWN_MISTAKES = (AttributeError, NameError)
_LONGEST = 200


def told(error: BaseException) -> str:
    """An exception in one line, also where it has no text, or one that cannot be read.

    Examples
    --------
    >>> told(ValueError("no such\\n  mask")), told(ValueError())
    ('ValueError: no such mask', 'ValueError')
    """
    kind = " ".join(type(error).__name__.split())
    try:
        text = " ".join(str(error).split())
    except KeyboardInterrupt:
        raise
    except BaseException:
        text = "its text cannot be read"
    whole = f"{kind}: {text}" if text else kind
    return whole if len(whole) <= _LONGEST else f"{whole[:60]} ... {whole[-130:]}"  # what went wrong is said last


def guarded(call):
    """A function whose orders to end the process (`sys.exit(0)`) are failures; only Ctrl-C passes.

    Examples
    --------
    >>> guarded(sys.exit)(0)
    Traceback (most recent call last):
        ...
    refattn.testing.adapters.base.Failed: it ends the process: SystemExit: 0
    """

    @functools.wraps(call)
    def wrapped(*args, **options):
        try:
            return call(*args, **options)
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as order:
            raise Failed("exits", f"it ends the process: {told(order)}") from order

    return wrapped


def no_refusal(error: BaseException, adapter: Adapter) -> bool:
    """Whether an exception says nothing about the input, so that the case could not be judged.

    Such are a module that is not installed, a file that is not there, no memory; and a name that an adapter looks up in
    vain, as after a library's release: there the adapter is wrong, and not what it adapts.
    """
    if isinstance(error, NO_REFUSAL):
        return True
    return isinstance(error, _OWN_MISTAKES) and _raised_in(error) in _own_files(adapter)


def _raised_in(error):
    """The file whose code raised an exception, or asked a library for a name that it has not."""
    trace, file = error.__traceback__, ""
    while trace is not None:
        code = trace.tb_frame.f_code
        file = file if code.co_name == "__getattr__" else code.co_filename
        trace = trace.tb_next
    return file


def _own_files(adapter):
    modules = (sys.modules.get(kind.__module__) for kind in type(adapter).__mro__)
    own = {str(getattr(module, "__file__", "")) for module in modules} - {""}
    return own | {str(path) for path in Path(__file__).parent.glob("*.py")}
