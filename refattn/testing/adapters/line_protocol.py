"""The line protocol: a kernel that is no Python answers on its standard output. docs/adapters.md is the contract.

The kernel says once what it is. Then for each line {"case": path} it writes one line: {"out": path}, {"unsupported":
reason} or {"error": reason}. A path leads to a JSON file; arrays lie beside it, one raw little-endian file each.
"""

from __future__ import annotations

import math
import os
import shlex
import tempfile
from pathlib import Path

import numpy as np

from refattn.testing import schema
from refattn.testing.adapters.base import PROCESS, Adapter, Failed, Unsupported
from refattn.testing.adapters.line_files import FLOATS, PROTOCOL, read, write
from refattn.testing.adapters.line_process import Process
from refattn.testing.adapters.translation import attention_call
from refattn.testing.names import functions
from refattn.testing.printable import printable
from refattn.testing.profiles import profile

TIMEOUT = 60.0  # seconds in which a case must be answered
_NATIVE = ("causal", "window")
_LAYOUTS = ("bhnd", "bnhd")
_ATTENTION = ("attention", "grouped_query_attention")
_MOST = 300  # characters of a text of the kernel's


class LineAdapter(Adapter):
    """A process that speaks the line protocol.

    Parameters
    ----------
    command : str or list of str
        What to run.
    precision : str, optional
        What the kernel promises to round and where, in place of what it says itself.
    timeout : float
        Seconds in which it must answer a case.

    Raises
    ------
    ValueError
        The command cannot be run, or does not introduce itself as the protocol asks.
    """

    asked = False  # each call writes files, and a crash starts the program again

    def __init__(self, command, precision=None, timeout=TIMEOUT):
        super().__init__()
        chosen = None if precision is None else profile(precision)
        try:
            words = shlex.split(command) if isinstance(command, str) else list(command)
        except ValueError as error:
            raise ValueError(f"the command {schema.short(command)} cannot be run: {error}") from None
        if not words:
            raise ValueError(f"the command {schema.short(command)} cannot be run: it names no program")
        self._kernel = Process(words, timeout, _checked_hello)
        try:
            hello = self._kernel.start()
        except Failed as failure:
            raise ValueError(f"{self._kernel.name}: {failure}") from None
        self.name = f"{PROCESS}{self._kernel.name}"  # what can be typed again
        self.version = printable(f"{hello['name']} {hello['version']}".strip(), _MOST)
        self._native, self._layout = tuple(hello["native"]), hello["layout"]
        self._precisions = hello["dtypes"]
        if chosen is not None:
            self._precisions = {chosen.out.name: precision}
        self.functions = {
            function: self.call(function, next(iter(self._precisions))) for function in hello["functions"]
        }

    def call(self, function, dtype):
        """The function on inputs of a dtype, in the kernel."""

        def ask(*args, **kwargs):
            kwargs.update(zip(("q", "k", "v", "mask") if function in _ATTENTION else ("x",), args, strict=False))
            return (self._attention if function in _ATTENTION else self._ask)(function, dtype, kwargs)

        return ask

    def dtypes(self, function):
        """What the kernel said."""
        return tuple(self._precisions)

    def profile(self, function, dtype):
        """What the kernel promises for a dtype."""
        return self._precisions[dtype]

    def environment(self):
        """The command."""
        return {"command": self._kernel.name, "protocol": PROTOCOL}

    def _attention(self, function, dtype, given):
        """A call in four axes, rules as flags where the kernel has them and arrays of full size where it has not."""
        options = {name: value for name, value in given.items() if value is not None}
        q, k, v = (options.pop(name) for name in "qkv")
        call = attention_call(
            q, k, v, grouped=function != "attention", native=self._native,
            **{name: options.pop(name) for name in ("mask", "bias", "q_positions", "k_positions") if name in options},
        )  # fmt: skip
        lead, scores = call.q.shape[:2], (*call.q.shape[:3], k.shape[-2])
        arguments = {name: self._turned(getattr(call, name)) for name in "qkv"}
        if call.causal:
            arguments["causal"] = True
        if call.window is not None:
            arguments["window"] = list(call.window)
        keep, rate = options.pop("dropout", (None, None))
        sinks = options.pop("sinks", None)
        for name, value, shape in (
            ("mask", call.mask, scores),
            ("bias", call.bias, scores),
            ("dropout_keep", _joined(keep, q, 2), scores),
            ("sinks", _joined(sinks, q, 0), lead),
        ):
            if value is not None:
                arguments[name] = _filled(value, shape)
        if rate is not None:
            arguments["dropout_rate"] = rate
        results = self._ask(function, dtype, arguments | options, named=True)
        out = call.restore(self._turned(results["out"]) if results["out"].ndim == 4 else results["out"])
        return (out, call.restore(results["lse"])) if options.get("return_lse") else out

    def _turned(self, x):
        return np.swapaxes(x, 1, 2) if self._layout == "bnhd" else x

    def _ask(self, function, dtype, arguments, named=False):
        with tempfile.TemporaryDirectory(prefix="refattn-", ignore_cleanup_errors=True) as folder:
            folder = os.path.realpath(folder)
            place = Path(folder) / "case.json"
            write(place, function, dtype, {name: x for name, x in arguments.items() if x is not None})
            answer = self._kernel.ask({"case": str(place)})
            if "unsupported" in answer:
                raise Unsupported(printable(answer["unsupported"], _MOST))
            if "error" in answer:
                raise ValueError(printable(answer["error"], _MOST))
            results = read(folder, answer["out"], dtype)
        if "out" not in results or (arguments.get("return_lse") and "lse" not in results):
            missing = "lse" if "out" in results else "out"
            raise Failed("result is missing", f"the results hold {schema.short(list(results))}, and no {missing}")
        return results if named else results["out"]


def _joined(x, q, own):
    """An array with `own` axes of its own after those of heads, its other leading axes flattened as those of q are."""
    if x is None:
        return None
    lead = (1, 1, *q.shape[:-2])[-max(q.ndim - 2, 2) :]
    core = np.shape(x)[np.ndim(x) - own :]
    whole = np.broadcast_to(x, (*lead, *core))
    return np.reshape(whole, (math.prod(lead[:-1]), lead[-1], *core))


def _filled(x, shape):
    """The array broadcast to a shape; as it is where it does not fit, for the kernel to refuse."""
    try:
        return np.broadcast_to(x, shape)
    except ValueError:
        return x


def _checked_hello(hello: dict) -> dict:
    """What a kernel says of itself, with what it left out filled in.

    Raises
    ------
    ValueError
        It is another protocol, or something is missing, unknown or of a wrong kind.
    """
    if hello.get("protocol") != PROTOCOL:
        said = schema.short(hello.get("protocol"))
        raise ValueError(f"the first line must say the protocol {PROTOCOL!r}; it says {said}")
    full = {"name": "?", "version": "", "layout": "bhnd", "native": [], "functions": ["attention"], **hello}
    for name in ("name", "version"):
        if not isinstance(full[name], str):
            raise ValueError(f"{name} is {schema.short(full[name])}; it must be a text")
    if not _texts(full["functions"]) or not full["functions"]:
        raise ValueError(f"functions is {schema.short(full['functions'])}; it must be a list of names, one at least")
    for function in full["functions"]:
        if function not in functions():
            raise ValueError(f"it offers {schema.short(function)}, which is no reference function")
    if not isinstance(full.get("dtypes"), dict) or not full["dtypes"]:
        raise ValueError('\'dtypes\' must say the precision profile of each dtype: {"float32": "float32"}')
    for dtype, precision in full["dtypes"].items():
        if dtype not in FLOATS:
            raise ValueError(f"dtype is {schema.short(dtype)}; it must be one of {', '.join(FLOATS)}")
        if not isinstance(precision, str):
            raise ValueError(f"the profile of {dtype} is {schema.short(precision)}; it must be a name")
        profile(precision)
    if full["layout"] not in _LAYOUTS:
        raise ValueError(f"layout is {schema.short(full['layout'])}; it must be one of {', '.join(_LAYOUTS)}")
    if not _texts(full["native"]) or not set(full["native"]) <= set(_NATIVE):
        raise ValueError(f"native is {schema.short(full['native'])}; it is a list and may hold {', '.join(_NATIVE)}")
    return full


def _texts(value):
    return isinstance(value, list) and all(isinstance(x, str) for x in value)
