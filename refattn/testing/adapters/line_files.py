"""The files of the line protocol: a case as it is written for a kernel, and results as they are read from it.

Nothing is read but plain files inside the case's folder, and no more of them than they may hold.
"""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path

import numpy as np

from refattn.masks import Mask
from refattn.testing import schema
from refattn.testing.adapters.base import Failed, Unsupported
from refattn.testing.reference import from_bits

PROTOCOL = "refattn-line/1"
FLOATS = ("bfloat16", "float16", "float32", "float64")  # the wider, the later
# dtype of the protocol -> how its numbers lie in a file
_STORED = {"float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "int64": "<i8", "bool": "|b1"}
_LONGEST = 1 << 20  # bytes of a JSON file of results
_LARGEST = 1 << 28  # bytes of an array: no case has results of such a size
_MOST_AXES = 16


def write(place: Path, function: str, dtype: str, arguments: dict) -> None:
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


def read(folder: str, out: str, dtype: str) -> dict[str, np.ndarray]:
    """The results that a kernel wrote: out, and lse where it was asked for.

    Parameters
    ----------
    folder : str
        The case's folder, without links in its own path.
    out : str
        What the kernel answered.
    dtype : str
        Of the case.

    Raises
    ------
    Failed
        A file is missing, lies elsewhere, is no plain file or no JSON, or an array is not what it is said to be.
    """
    text = _bytes(folder, out, lambda size: size <= _LONGEST, f"a file of results has {_LONGEST} at most")
    try:
        contents = schema.parsed(text)
    except ValueError as error:
        raise Failed("garbage", f"{schema.short(out)} is no JSON: {error}") from None
    if not isinstance(contents, dict) or not isinstance(contents.get("results"), dict):
        raise Failed("garbage", f"{schema.short(out)} holds no object 'results'")
    return {name: _array(folder, name, record, dtype) for name, record in contents["results"].items()}


def _array(folder, name, record, dtype):
    said = f"result {schema.short(name)}"
    if not isinstance(record, dict) or not {"dtype", "shape", "file"} <= record.keys():
        raise Failed("garbage", f"{said} is {schema.short(record)}; it must have dtype, shape and file")
    kind, shape, file = record["dtype"], record["shape"], record["file"]
    if kind not in FLOATS or FLOATS.index(kind) < FLOATS.index(dtype):
        raise Failed("wrong dtype", f"{said} is of {schema.short(kind)}; it must be of {dtype} or a wider format")
    if (
        not isinstance(shape, list)
        or len(shape) > _MOST_AXES
        or not all(type(size) is int and size >= 0 for size in shape)
    ):
        raise Failed("garbage", f"{said} has shape {schema.short(shape)}")
    if not isinstance(file, str):
        raise Failed("garbage", f"{said} has file {schema.short(file)}; it must be a path")
    stored = np.dtype(_STORED[kind])
    wanted = math.prod(shape) * stored.itemsize
    if wanted > _LARGEST:
        raise Failed("wrong size", f"{said} has shape {schema.short(shape)}, {wanted} bytes; no result has so many")
    data = _bytes(folder, file, lambda size: size == wanted, f"{kind} of shape {shape} has {wanted}")
    numbers = np.frombuffer(data, dtype=stored).reshape(shape)
    return from_bits(numbers, kind) if kind == "bfloat16" else numbers.astype(stored.newbyteorder("="))


def _bytes(folder, path, fits, wanted):
    """What a plain file inside a folder holds, if it has the right size."""
    try:
        whole = os.path.realpath(os.path.join(folder, path))
        if not whole.startswith(folder + os.sep):
            raise Failed("garbage", f"the kernel names {schema.short(path)}, which is not in the folder of the case")
        # Opened without waiting, for a pipe, and without following a link that was put there meanwhile.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        with open(whole, "rb", opener=lambda name, _: os.open(name, flags)) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise Failed("garbage", f"the kernel names {schema.short(path)}, which is no plain file")
            if not fits(found.st_size):
                raise Failed("wrong size", f"{schema.short(path)} has {found.st_size} bytes; {wanted}")
            data = file.read(found.st_size)
    except IsADirectoryError:
        raise Failed("garbage", f"the kernel names {schema.short(path)}, which is no plain file") from None
    except OSError as error:
        raise Failed("result is missing", f"the kernel names {schema.short(path)}: {error.strerror}") from None
    except ValueError as error:  # a zero byte in it, or what no file system can say
        raise Failed("garbage", f"the kernel names {schema.short(path)}, which is no path: {error}") from None
    if not fits(len(data)):
        raise Failed("wrong size", f"{schema.short(path)} gave {len(data)} bytes; {wanted}")
    return data
