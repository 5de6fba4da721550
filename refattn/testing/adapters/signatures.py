"""What a plain function takes, read from its signature: an option that it has no name for is not supported, not wrong."""

from __future__ import annotations

import functools
import inspect

from refattn.testing.adapters.base import Unsupported
from refattn.testing.adapters.guard import guarded


def as_declared(call):
    """The function, telling what it does not take (by its signature, or by NotImplementedError) from what it gets wrong.

    Examples
    --------
    >>> as_declared(lambda q, k, v: v)(1, 2, 3, bias=4)
    Traceback (most recent call last):
        ...
    refattn.testing.adapters.Unsupported: it takes no bias
    """
    try:
        parameters = list(inspect.signature(call).parameters.values())
    except (TypeError, ValueError):  # some compiled functions have none
        return _not_implemented(call)
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return _not_implemented(call)
    names = {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}
    asked = {p.name for p in parameters if p.default is p.empty}  # these it must be given, None or not

    @functools.wraps(call)
    def wrapped(*args, **options):
        given = {name: value for name, value in options.items() if value is not None or name in asked}
        if foreign := set(given) - names:
            raise Unsupported(f"it takes no {min(foreign)}")
        return call(*args, **given)

    return _not_implemented(wrapped)


def _not_implemented(call):
    call = guarded(call)

    @functools.wraps(call)
    def wrapped(*args, **options):
        try:
            return call(*args, **options)
        except NotImplementedError as error:
            raise Unsupported(str(error) or "it raises NotImplementedError") from error

    return wrapped
