"""Adapters: real implementations behind the reference functions' signatures. A library is imported only when named.

An adapter passes on what it is asked for as a user of the implementation would, and repairs nothing: what the
implementation does with it is what the check wants to see.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable

import numpy as np

# name -> (module here, the library that it needs)
_KNOWN = {
    "onnx": ("onnx_reference", "onnx"),
    "onnxruntime": ("onnx_runtime", "onnxruntime"),
    "torch": ("pytorch", "torch"),
    "jax": ("jax_nn", "jax"),
}
NAMES = tuple(_KNOWN)


class Unsupported(Exception):
    """The implementation has no such feature; the text says which."""


class NotInstalled(Exception):
    """The library of an adapter is not installed."""


class Adapter:
    """One implementation.

    Attributes
    ----------
    name, version : str
    functions : dict
        Reference function ('attention', 'positions.rotate') -> callable with its signature, NumPy in and out.
    """

    name = "?"
    version = "?"

    def __init__(self):
        self.functions: dict[str, Callable] = {}

    def dtypes(self, function: str) -> tuple[str, ...]:
        """The dtypes in which a function is checked, the most important first."""
        return ("float32",)

    def profile(self, function: str, dtype: str) -> str:
        """The precision profile that the implementation promises for a function and an input dtype."""
        return dtype

    def environment(self) -> dict:
        """What a report should say about it, besides its version."""
        return {}


class CallableAdapter(Adapter):
    """Anybody's function."""

    def __init__(self, call, function="attention", precision="float32", layout="bhnd", name=None):
        super().__init__()
        self.name = name or f"{getattr(call, '__module__', '?')}:{getattr(call, '__qualname__', repr(call))}"
        self.version = (
            str(getattr(importlib.import_module(call.__module__.partition(".")[0]), "__version__", ""))
            if getattr(call, "__module__", None)
            else ""
        )
        self.precision = precision
        self.functions = {function: _swapped(call) if layout == "bnhd" else call}

    def dtypes(self, function):
        """One: the format of the precision that was promised."""
        from refattn.testing.profiles import profile

        chosen = profile(self.precision)
        return ("float8_e4m3fn",) if chosen.name == "float8" else (chosen.out.name,)

    def profile(self, function, dtype):
        """The precision that was promised."""
        return self.precision


def _swapped(call):
    """A function that wants (B, N, H, D), given (B, H, N, D)."""

    def turn(x):
        return np.swapaxes(x, -2, -3) if isinstance(x, np.ndarray) and x.ndim >= 3 else x

    def swapped(q, k, v, *args, **options):
        result = call(turn(q), turn(k), turn(v), *args, **options)
        return (turn(result[0]), *result[1:]) if isinstance(result, tuple) else turn(np.asarray(result))

    return swapped


def installed() -> list[str]:
    """The adapters whose library is there, found without importing it."""
    return [name for name, (_, library) in _KNOWN.items() if importlib.util.find_spec(library) is not None]


def get(name: str, function: str | None = None, *, precision: str | None = None, layout: str = "bhnd") -> Adapter:
    """The adapter of a known implementation, or of 'module:function'.

    Raises
    ------
    NotInstalled
        The library is not there.
    ValueError
        Nothing is known under that name.
    """
    if name in _KNOWN:
        module, library = _KNOWN[name]
        if importlib.util.find_spec(library) is None:
            raise NotInstalled(f"{name} is not installed; try: pip install {library}")
        return importlib.import_module(f"{__name__}.{module}").adapter()
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"target is {name!r}; it must be one of {', '.join(NAMES)}, or module:function")
    call = importlib.import_module(module)
    for part in attribute.split("."):
        call = getattr(call, part)
    return CallableAdapter(call, function or "attention", precision or "float32", layout, name=name)


def adapt(target, function: str | None = None, *, precision: str | None = None, layout: str = "bhnd") -> Adapter:
    """An adapter as it is, a name by `get`, any other callable wrapped."""
    if isinstance(target, Adapter):
        return target
    if isinstance(target, str):
        return get(target, function, precision=precision, layout=layout)
    if function is None:  # a function of refattn knows its own name
        from refattn.testing.reference import name_of

        own = name_of(target) if getattr(target, "__module__", "").startswith("refattn.") else "attention"
        function = own
    return CallableAdapter(target, function, precision or "float32", layout)
