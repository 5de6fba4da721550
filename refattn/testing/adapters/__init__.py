"""Adapters: real implementations behind the reference functions' signatures. A library is imported only when named.

An adapter passes on what it is asked for as a user of the implementation would, and repairs nothing: what the
implementation does with it is what the check wants to see. docs/adapters.md says how to write one.
"""

from __future__ import annotations

import importlib
import importlib.util

from refattn.testing.adapters.base import (
    PROCESS,
    STEPWISE,
    STEPWISE_BFLOAT16,
    Adapter,
    Failed,
    NotAvailable,
    NotInstalled,
    Unsupported,
)
from refattn.testing.adapters.guard import told
from refattn.testing.adapters.of_callable import LAYOUTS, CallableAdapter
from refattn.testing.subject import name_of

__all__ = [
    "LAYOUTS", "NAMES", "PROCESS", "STEPWISE", "STEPWISE_BFLOAT16", "Adapter", "CallableAdapter", "Failed", "NotAvailable",
    "NotInstalled", "Unsupported", "adapt", "get", "installed", "missing",
]  # fmt: skip

# name -> (module here, the libraries that it needs)
_KNOWN = {
    "onnx": ("onnx_reference", ("onnx",)),
    "onnxruntime": ("onnx_runtime", ("onnx", "onnxruntime")),
    "torch": ("pytorch", ("torch",)),
    "torch.math": ("pytorch", ("torch",)),
    "torch.flex": ("pytorch_flex", ("torch",)),
    "torch.mha": ("pytorch_multi_head", ("torch",)),
    "jax": ("jax_nn", ("jax",)),
    "transformers": ("transformers_eager", ("torch", "transformers")),
    "keras": ("keras_ops", ("keras",)),
    "mlx": ("mlx_fast", ("mlx",)),
}
NAMES = tuple(_KNOWN)


def installed() -> list[str]:
    """The adapters whose libraries are there, found without importing them."""
    return [name for name in NAMES if not missing(name)]


def missing(name: str) -> list[str]:
    """The libraries of an adapter that are not there."""
    return [library for library in _KNOWN[name][1] if importlib.util.find_spec(library) is None]


def get(name: str, function: str | None = None, *, precision: str | None = None, layout: str = "bhnd") -> Adapter:
    """The adapter of a known implementation, of 'module:function', or of 'exec:command', a kernel that is no Python.

    Raises
    ------
    NotAvailable
        The library is not there (NotInstalled), or the module exists and cannot be imported.
    ValueError
        Nothing is known under that name, or it is no function.
    """
    if layout == "bnhd" and (name in _KNOWN or name.startswith(PROCESS)):
        raise ValueError(f"layout is 'bnhd', but {name} says its own axes: layout is for module:function")
    if name in _KNOWN:
        if absent := missing(name):
            raise NotInstalled(f"{name} needs {' and '.join(absent)}; try: pip install {' '.join(absent)}")
        return _made(name)
    if name.startswith(PROCESS):
        line = importlib.import_module(f"{__name__}.line_protocol")  # only where it is asked for
        return line.LineAdapter(name.removeprefix(PROCESS), precision=precision)
    return CallableAdapter(_attribute(name), function or "attention", precision or "float32", layout, name=name)


def _made(name):
    """The adapter of that name; what it needs of its library may be gone with a release."""
    module = _imported(f"{__name__}.{_KNOWN[name][0]}", name)
    try:
        return module.adapter(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise NotAvailable(f"{name}: its adapter fails: {told(error)}") from error


def _attribute(name):
    """The callable of 'module:function'."""
    module, colon, attribute = name.partition(":")
    if not (colon and module and attribute) or module.startswith("."):
        raise ValueError(
            f"target is {name!r}; it must be one of {', '.join(NAMES)}, or module:function, or {PROCESS}command"
        )
    found = _imported(module, name)
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ValueError(f"target is {name!r}, but {module} has no attribute {attribute!r}") from None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a module may look its names up in code of its own
            raise NotAvailable(f"{name} cannot be had: {told(error)}") from error
    if not callable(found):
        raise ValueError(f"target is {name!r}, which is of type {type(found).__name__}; it must be a function")
    return found


def _imported(module, target):
    """A module; one that is not there is wrong usage, one that cannot be imported is not available."""
    try:
        return importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit, too: a script without `if __name__ == "__main__"`
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent and f"{module}.".startswith(f"{absent}."):
            raise ValueError(f"target is {target!r}, but there is no module {absent!r}") from None
        raise NotAvailable(f"{target}: importing {module} fails: {told(error)}") from error


def adapt(target, function: str | None = None, *, precision: str | None = None, layout: str = "bhnd") -> Adapter:
    """An adapter as it is, a name by `get`, any other callable wrapped."""
    if isinstance(target, Adapter):
        return target
    if isinstance(target, str):
        return get(target, function, precision=precision, layout=layout)
    if not callable(target):
        raise TypeError(
            f"target is of type {type(target).__name__}; it must be an adapter, a function or the name of one"
        )
    if (getattr(target, "__module__", None) or "").startswith("refattn."):  # it knows its own name, and takes any axes
        function, layout = function or name_of(target), "reference"
    return CallableAdapter(target, function or "attention", precision or "float32", layout)
