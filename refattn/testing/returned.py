"""What an implementation returned, by the names of the reference's results.

Of gradients and stages an implementation may leave some out. A gradient that stands there as None is another matter: it
says that there is none, which is wrong where the reference has one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from refattn.testing.reference import named_arguments
from refattn.testing.vectors import results

GRADIENTS = "_vjp"
SEVERAL = (GRADIENTS, "_stages")  # of these some results may be returned, and others not


def by_name(function: str, returned: Any, wanted: Callable[[], Any]) -> dict[str, Any]:
    """The results by name; a gradient that was returned as None stays there, as None.

    Parameters
    ----------
    function : str
    returned : array, tuple, list, NamedTuple or dict
        Several results without names of the reference's stand in its order: either those that it returns here, or every
        one that it knows, with None for what was not given.
    wanted : callable
        Gives what the reference returns for the same arguments; called only where names must be found.

    Raises
    ------
    ValueError
        More is returned than the reference has.

    Examples
    --------
    >>> import numpy as np, refattn
    >>> x = np.ones(3)
    >>> by_name("rms_norm_vjp", [x, None], lambda: refattn.rms_norm_vjp(x, x, x))
    {'x': array([1., 1., 1.]), 'gamma': None}
    """
    if not function.endswith(SEVERAL):
        return results(function, returned)
    if isinstance(returned, tuple | list):
        returned = _as_dict(returned, wanted())
    if not isinstance(returned, dict):
        return results(function, returned)
    return {name: x for name, x in _flat(returned).items() if x is not None or function.endswith(GRADIENTS)}


def _as_dict(returned, wanted):
    """Results as a dictionary with the names that the reference's own have, by name or by their order."""
    fields = _fields(wanted)
    if hasattr(returned, "_asdict") and set(returned._fields) & set(fields):
        return returned._asdict()
    if not any(_whole(x, part) for x, part in zip(returned, fields.values(), strict=False)):
        fields = _flat(fields)
    names = [name for name, x in fields.items() if x is not None]
    if len(returned) > len(names):
        names = list(fields)
    beyond = [name for name, x in zip(names, returned, strict=False) if x is not None and fields[name] is None]
    if len(returned) > len(names) or beyond:
        has = [name for name, x in fields.items() if x is not None]
        raise ValueError(f"it returns {len(returned)} results, the reference {len(has)}: {', '.join(has)}")
    return {
        name: _as_dict(x, fields[name]) if isinstance(x, tuple | list) else x
        for name, x in zip(names, returned, strict=False)
    }


def _whole(x, part):
    """Whether parameters are returned as a whole, or as a whole not."""
    return isinstance(part, tuple | dict) and (x is None or isinstance(x, tuple | list | dict))


def _fields(x):
    if isinstance(x, dict):
        return x
    return x._asdict() if hasattr(x, "_asdict") else dict(enumerate(x)) if isinstance(x, tuple) else {"out": x}


def _flat(fields):
    """Nested results by one name each: 'params.w_in'."""
    found: dict[str, Any] = {}
    for name, x in fields.items():
        inner = _flat(_fields(x)) if isinstance(x, tuple | dict) else None
        found |= {name: x} if inner is None else {f"{name}.{key}": part for key, part in inner.items()}
    return found


def is_none(name: str, found: dict) -> bool:
    """Whether a result, or the parameters that it belongs to, was returned as None."""
    return any(part in found and found[part] is None for part in (name, name.partition(".")[0]))


def given_as_array(function: str, name: str, args: tuple, kwargs: dict) -> bool:
    """Whether the input that a gradient belongs to was given, and as an array: of a number none need be returned."""
    x = named_arguments(function, args, kwargs).get(name.partition(".")[0])
    return hasattr(x, "shape") or isinstance(x, tuple)
