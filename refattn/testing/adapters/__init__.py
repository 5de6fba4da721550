"""Adapters: real implementations behind the reference functions' signatures. A library is imported only when named.

An adapter passes on what it is asked for as a user of the implementation would, and repairs nothing: what the
implementation does with it is what the check wants to see. docs/adapters.md says how to write one.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable

from refattn.testing.printable import printable
from refattn.testing.profiles import Profile, profile
from refattn.testing.rounding import FORMATS

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
PROCESS = "exec:"  # before a command: a kernel that speaks the line protocol
LAYOUTS = ("reference", "bhnd", "bnhd")
_FOUR_AXES = ("attention", "grouped_query_attention")  # which kernels take in four axes, in either order
_TURNED = ("tiled_attention", "rope")  # and those in the reference's axes, or turned to (B, N, H, D)


# Every single operation is rounded to the narrow format: what a framework does that has no other promise for it.
STEPWISE = Profile(
    "float16/stepwise",
    FORMATS["float16"],
    scores=FORMATS["float16"],
    weights=FORMATS["float16"],
    order="eager",
    u_acc=2.0**-11,
    u_exp=2.0**-10,
    eta_acc=2.0**-25,
)
STEPWISE_BFLOAT16 = Profile(
    "bfloat16/stepwise",
    FORMATS["bfloat16"],
    scores=FORMATS["bfloat16"],
    weights=FORMATS["bfloat16"],
    order="eager",
    u_acc=2.0**-8,
    u_exp=2.0**-7,
)


class Unsupported(Exception):
    """The implementation has no such feature; the text says which."""


class Failed(Exception):
    """The implementation gave no answer: it crashed, hung or spoke nonsense.

    Attributes
    ----------
    deviation : str
        What it did, in the words of a report: 'crashes', 'hangs', 'garbage', ...
    """

    def __init__(self, deviation: str, text: str):
        super().__init__(text)
        self.deviation = deviation


class NotAvailable(Exception):
    """A target cannot be had here: its module, or what that needs, cannot be imported."""


class NotInstalled(NotAvailable):
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

    def call(self, function: str, dtype: str) -> Callable:
        """The callable for inputs of a dtype. What NumPy lacks (bfloat16) arrives as float32 arrays that it holds."""
        return self.functions[function]

    def dtypes(self, function: str) -> tuple[str, ...]:
        """The dtypes in which a function is checked, the most important first."""
        return ("float32",)

    def profile(self, function: str, dtype: str) -> str | Profile:
        """The precision profile that the implementation promises for a function and an input dtype."""
        return dtype

    def environment(self) -> dict:
        """What a report should say about it, besides its version."""
        return {}


class CallableAdapter(Adapter):
    """Anybody's function, with the reference function's signature.

    Parameters
    ----------
    call : callable
    function : str
        The reference function that it implements.
    precision : str or Profile
        What it promises to round and where; its inputs come in that format.
    layout : {"reference", "bhnd", "bnhd"}
        The axes that it takes: what the reference takes, or always four, (B, H, N, D) or (B, N, H, D). The last two
        are for attention; (B, N, H, D) also for `tiled_attention` and `rope`.
    name : str, optional
        How a report calls it.
    """

    def __init__(self, call, function="attention", precision="float32", layout="reference", name=None):
        super().__init__()
        module = getattr(call, "__module__", None) or "?"
        self.name = printable(name or f"{module}:{getattr(call, '__qualname__', repr(call))}")
        self.version = printable(getattr(sys.modules.get(module.partition(".")[0]), "__version__", ""), 200)
        profile(precision)  # raises where there is none
        self.precision = precision
        if layout not in LAYOUTS:
            raise ValueError(f"layout is {layout!r}; it must be one of {', '.join(LAYOUTS)}")
        from refattn.testing.adapters.signatures import as_declared

        call = as_declared(call)
        if (layout != "reference" and function in _FOUR_AXES) or layout == "bnhd":
            from refattn.testing.adapters.translation import four_axes, rope_of_four_axes

            if function not in (*_FOUR_AXES, *_TURNED):
                raise ValueError(
                    f"layout is 'bnhd', but {function} is taken in the reference's axes only; it is for"
                    f" {', '.join((*_FOUR_AXES, *_TURNED))}"
                )
            call = rope_of_four_axes(call) if function == "rope" else four_axes(call, swap=layout == "bnhd")
        self.functions = {function: call}

    def dtypes(self, function):
        """One: the format of the inputs of the precision that was promised."""
        return (profile(self.precision).inputs,)

    def profile(self, function, dtype):
        """The precision that was promised."""
        return self.precision


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
        from refattn.testing.adapters.line_protocol import LineAdapter

        return LineAdapter(name.removeprefix(PROCESS), precision=precision)
    return CallableAdapter(_attribute(name), function or "attention", precision or "float32", layout, name=name)


def _made(name):
    """The adapter of that name; what it needs of its library may be gone with a release."""
    from refattn.testing.adapters.guard import told

    module = _imported(f"{__name__}.{_KNOWN[name][0]}", name)
    try:
        return module.adapter(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise NotAvailable(f"{name}: its adapter fails: {told(error)}") from error


def _attribute(name):
    """The callable of 'module:function'."""
    from refattn.testing.adapters.guard import told

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
    from refattn.testing.adapters.guard import told

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
        from refattn.testing.reference import name_of

        function, layout = function or name_of(target), "reference"
    return CallableAdapter(target, function or "attention", precision or "float32", layout)
