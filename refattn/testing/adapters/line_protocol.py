"""The line protocol: a kernel that is no Python answers on its standard output. docs/adapters.md is the contract.

The kernel says once what it is. Then for each line {"case": path} it writes one line: {"out": path}, {"unsupported":
reason} or {"error": reason}. A path leads to a JSON file; arrays lie beside it, one raw little-endian file each.
"""

from __future__ import annotations

import contextlib
import json
import math
import queue
import shlex
import signal
import subprocess
import tempfile
import threading
import weakref
from pathlib import Path

import numpy as np

from refattn.masks import Mask
from refattn.testing.adapters import PROCESS, Adapter, Failed, Unsupported
from refattn.testing.adapters.translation import attention_call
from refattn.testing.profiles import profile
from refattn.testing.reference import from_bits

PROTOCOL = "refattn-line/1"
TIMEOUT = 60.0  # seconds in which a case must be answered
_PATIENCE = 3  # so many cases in a row without an answer in time, and the kernel is asked no more
_LONGEST = 1 << 16  # characters of a line
_NATIVE = ("causal", "window")
_LAYOUTS = ("bhnd", "bnhd")
# dtype of the protocol -> how its numbers lie in a file
_STORED = {"float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "int64": "<i8", "bool": "|b1"}
_FLOATS = ("bfloat16", "float16", "float32", "float64")  # the wider, the later
_ATTENTION = ("attention", "grouped_query_attention")


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

    def __init__(self, command, precision=None, timeout=TIMEOUT):
        super().__init__()
        self._kernel = _Process(shlex.split(command) if isinstance(command, str) else list(command), timeout)
        try:
            hello = _checked_hello(self._kernel.start())
        except Failed as failure:
            self._kernel.stop()
            raise ValueError(f"{self._kernel.name}: {failure}") from None
        except ValueError as error:
            self._kernel.stop()
            raise ValueError(f"{self._kernel.name}: {error}") from None
        self.name = f"{PROCESS}{self._kernel.name}"  # what can be typed again
        self.version = f"{hello['name']} {hello['version']}".strip()
        self._native, self._layout = tuple(hello["native"]), hello["layout"]
        self._precisions = hello["dtypes"]
        if precision is not None:
            chosen = profile(precision)
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
        with tempfile.TemporaryDirectory(prefix="refattn-") as folder:
            place = Path(folder) / "case.json"
            _write(place, function, dtype, {name: x for name, x in arguments.items() if x is not None})
            answer = self._kernel.ask({"case": str(place)})
            if "unsupported" in answer:
                raise Unsupported(str(answer["unsupported"]))
            if "error" in answer:
                raise ValueError(str(answer["error"]))
            results = _read(Path(folder) / str(answer["out"]), dtype)
        if "out" not in results or (arguments.get("return_lse") and "lse" not in results):
            missing = "lse" if "out" in results else "out"
            raise Failed("result is missing", f"the results hold {', '.join(results) or 'nothing'}, and no {missing}")
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


# --- files ----------------------------------------------------------------------------------------------------------


def _write(place: Path, function: str, dtype: str, arguments: dict) -> None:
    """A case: a JSON file with one member a line, and a raw file for each array."""

    def encoded(name, value):
        if isinstance(value, Mask):
            raise Unsupported(f"the line protocol has no rules as arguments of {function}")
        if hasattr(value, "_asdict"):
            return {key: encoded(f"{name}.{key}", x) for key, x in value._asdict().items() if x is not None}
        if isinstance(value, tuple):
            return [encoded(f"{name}.{place}", x) for place, x in enumerate(value)]
        if not isinstance(value, np.ndarray):
            return value.item() if isinstance(value, np.generic) else value
        kind = {"f": dtype, "b": "bool"}.get(value.dtype.kind, "int64")
        bits = value.astype(np.float32).view(np.uint32) >> 16 if kind == "bfloat16" else value
        np.ascontiguousarray(bits, dtype=_STORED[kind]).tofile(place.parent / f"{name}.bin")
        return {"dtype": kind, "shape": list(value.shape), "file": f"{name}.bin"}

    case = {
        "protocol": PROTOCOL,
        "function": function,
        "dtype": dtype,
        "arguments": {name: encoded(name, value) for name, value in arguments.items()},
    }
    place.write_text(json.dumps(case, indent=1, allow_nan=False) + "\n", encoding="ascii")


def _read(place: Path, dtype: str) -> dict[str, np.ndarray]:
    """The results that a kernel wrote: out, and lse where it was asked for.

    Raises
    ------
    Failed
        A file is missing, is no JSON, or an array is not what it is said to be.
    """
    try:
        contents = json.loads(place.read_text(encoding="utf-8"))
    except OSError as error:
        raise Failed("result is missing", f"the kernel names {str(place)!r}: {error.strerror}") from None
    except ValueError as error:
        raise Failed("garbage", f"{str(place)!r} is no JSON: {error}") from None
    if not isinstance(contents, dict) or not isinstance(contents.get("results"), dict):
        raise Failed("garbage", f"{str(place)!r} holds no object 'results'")
    return {name: _array(place.parent, name, record, dtype) for name, record in contents["results"].items()}


def _array(folder, name, record, dtype):
    if not isinstance(record, dict) or not {"dtype", "shape", "file"} <= record.keys():
        raise Failed("garbage", f"result {name} is {json.dumps(record)[:80]}; it must have dtype, shape and file")
    kind, shape, file = record["dtype"], record["shape"], record["file"]
    if kind not in _FLOATS or _FLOATS.index(kind) < _FLOATS.index(dtype):
        raise Failed("wrong dtype", f"result {name} is of {kind!r}; it must be of {dtype} or a wider format")
    if not isinstance(shape, list) or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise Failed("garbage", f"result {name} has shape {json.dumps(shape)[:80]}")
    stored, path = np.dtype(_STORED[kind]), folder / str(file)
    wanted = math.prod(shape) * stored.itemsize
    try:
        size = path.stat().st_size
        if size != wanted:
            raise Failed("wrong size", f"{file} has {size} bytes; {kind} of shape {shape} has {wanted}")
        numbers = np.fromfile(path, dtype=stored).reshape(shape)
    except OSError as error:
        raise Failed("result is missing", f"the kernel names {str(path)!r}: {error.strerror}") from None
    return from_bits(numbers, kind) if kind == "bfloat16" else numbers.astype(stored.newbyteorder("="))


# --- the process ----------------------------------------------------------------------------------------------------


def _checked_hello(hello: dict) -> dict:
    """What a kernel says of itself, with what it left out filled in.

    Raises
    ------
    ValueError
        It is another protocol, or something is missing or unknown.
    """
    said = hello.get("protocol")
    if said != PROTOCOL:
        raise ValueError(f"the first line must say the protocol {PROTOCOL!r}; it says {said!r}")
    full = {"name": "?", "version": "", "layout": "bhnd", "native": [], "functions": ["attention"], **hello}
    from refattn.testing.names import function_named

    for function in full["functions"]:
        try:
            function_named(function)
        except (AttributeError, TypeError):
            raise ValueError(f"it offers {function!r}, which is no reference function") from None
    if not isinstance(full.get("dtypes"), dict) or not full["dtypes"]:
        raise ValueError('\'dtypes\' must say the precision profile of each dtype: {"float32": "float32"}')
    for dtype, precision in full["dtypes"].items():
        if dtype not in _FLOATS:
            raise ValueError(f"dtype is {dtype!r}; it must be one of {', '.join(_FLOATS)}")
        profile(precision)
    if full["layout"] not in _LAYOUTS:
        raise ValueError(f"layout is {full['layout']!r}; it must be one of {', '.join(_LAYOUTS)}")
    if not set(full["native"]) <= set(_NATIVE):
        raise ValueError(f"native is {full['native']!r}; it may hold {', '.join(_NATIVE)}")
    return full


class _Process:
    """A kernel at the other end of two pipes, started again when it has died."""

    def __init__(self, command, timeout):
        self.command, self.timeout = command, timeout
        self.name = shlex.join(command)
        self._late = 0
        self._running: subprocess.Popen | None = None

    def start(self) -> dict:
        """Run the command and return what it says first."""
        self._said: queue.Queue = queue.Queue()
        self._last_words = tempfile.TemporaryFile()  # noqa: SIM115  (a file, unlike a pipe, never blocks the kernel)
        try:
            self._running = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._last_words
            )
        except (OSError, IndexError) as error:
            self._last_words.close()
            raise Failed("does not start", f"it cannot be run: {getattr(error, 'strerror', None) or error}") from None
        listener = threading.Thread(target=_listen, args=(self._running.stdout, self._said), daemon=True)
        listener.start()
        self._finish = weakref.finalize(self, _end, self._running, listener, self._last_words)
        return self._object(self._line())

    def ask(self, request: dict) -> dict:
        """Send one line and return the answer.

        Raises
        ------
        Failed
            There is none, or it is none.
        """
        if self._late >= _PATIENCE:
            raise Failed("hangs", f"not asked: {_PATIENCE} cases in a row had no answer within {self.timeout:g} s")
        if self._running is None:
            _checked_hello(self.start())
        if not self._said.empty():
            line = self._said.get()
            if line is not None:
                self.stop()
                raise Failed("garbage", f"it spoke without being asked: {_shown(line)}")
            self._died()
        assert self._running is not None
        assert self._running.stdin is not None
        try:
            self._running.stdin.write(json.dumps(request).encode() + b"\n")
            self._running.stdin.flush()
        except OSError:
            self._died()
        answer = self._object(self._line())
        self._late = 0
        kinds = [kind for kind in ("out", "unsupported", "error") if kind in answer]
        if len(kinds) != 1:
            self.stop()
            raise Failed("garbage", f"an answer has one of out, unsupported and error: {_shown(json.dumps(answer))}")
        return answer

    def _line(self):
        try:
            line = self._said.get(timeout=self.timeout)
        except queue.Empty:
            self._late += 1
            self.stop()
            raise Failed("hangs", f"no answer within {self.timeout:g} s; it was ended") from None
        if line is None:
            self._died()
        return line

    def _object(self, line):
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            self.stop()
            raise Failed("garbage", f"this line is no JSON object: {_shown(line)}")
        return found

    def _died(self):
        """Say how it ended."""
        assert self._running is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._running.wait(timeout=1.0)
        code = self._running.poll()
        self._last_words.seek(0)
        words = " ".join(self._last_words.read()[-2000:].decode(errors="replace").split())
        self.stop()
        if code is None:
            how = "it closed its output"
        elif code < 0:
            how = f"it was ended by {signal.Signals(-code).name} ({signal.strsignal(-code)})"
        else:
            how = f"it ended with exit code {code}"
        raise Failed(
            "crashes", f"{how} instead of an answer" + (f"; its last words: {words[-300:]!r}" if words else "")
        )

    def stop(self):
        """End it; the next case starts it again."""
        if self._running is not None:
            self._finish()
        self._running = None


def _listen(stream, said):
    """Put every line into a queue, and None at the end; a line without end is cut."""
    with contextlib.suppress(ValueError, OSError):
        while line := stream.readline(_LONGEST):
            said.put(line)
    said.put(None)


def _end(process, listener, last_words):
    """End a process, wait until it is gone, and close what is open."""
    if process.poll() is None:
        process.kill()
    process.wait()
    with contextlib.suppress(OSError):
        process.stdin.close()  # what it did not read is lost
    listener.join(timeout=5.0)
    if not listener.is_alive():  # a child of the kernel may still hold the other end
        process.stdout.close()
    last_words.close()


def _shown(line, most=120):
    text = line.decode(errors="replace") if isinstance(line, bytes) else line
    text = text.strip()
    return repr(text if len(text) <= most else f"{text[:most]} ...")
