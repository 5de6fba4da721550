"""The inputs for which `refattn tolerance` asks: drawn for given shapes, or read from an archive of NumPy's."""

from __future__ import annotations

import math
import re
import zipfile

import numpy as np

from refattn.testing import expressions
from refattn.testing.names import functions, hint
from refattn.testing.profiles import profile
from refattn.testing.reference import parameters_of, required_arguments
from refattn.testing.rounding import round_to

USUAL = {"q": (8, 128, 64), "k": (8, 128, 64), "v": (8, 128, 64)}  # where no sizes are given for attention
LARGEST = 2**26  # numbers in one array
_POSITIONS = ("positions", "q_positions", "k_positions")


def inputs(function: str, shapes: list[str], *, precision: str, archive=None, mask=None, options=(), seed=0) -> dict:
    """The arguments of a reference function.

    Parameters
    ----------
    function : str
    shapes : list of str
        'q=8x128x64': normal numbers of that shape, rounded to the format of the precision; positions count from 0.
    precision : str
    archive : str, optional
        A file of `np.savez`, or of `refattn replay --save`.
    mask : str, optional
        An expression: 'causal() & window(3, 0)'.
    options : list of str
        'scale=0.1': numbers.
    seed : int

    Raises
    ------
    ValueError, OSError
        Some of it cannot be read, or the function takes no such argument.
    """
    if function not in functions():
        raise ValueError(f"function is {function!r}; refattn has no such function{hint(function)}")
    given = dict(_read(archive)) if archive else {}
    draw = np.random.default_rng(seed)
    sizes = dict(map(_shape, shapes)) or (USUAL if not archive and function == "attention" else {})
    for name, shape in sizes.items():
        if name in _POSITIONS:
            given[name] = np.broadcast_to(np.arange(shape[-1]), shape)
        else:
            given[name] = round_to(draw.normal(size=shape), profile(precision).out.name)
    if mask:
        given["mask"] = expressions.parse(mask)
    given |= dict(map(_number, options))
    takes = [p.name for p in parameters_of(function)]
    if foreign := [name for name in given if name not in takes]:
        raise ValueError(f"{function} takes no {foreign[0]}; it takes {', '.join(takes)}")
    if absent := [name for name in required_arguments(function) if name not in given]:
        raise ValueError(
            f"{function} needs {', '.join(absent)}: give --shape {absent[0]}=8x128x64, or --inputs FILE.npz"
        )
    return given


def _shape(text):
    found = re.fullmatch(r"(\w+)=(\d+(?:x\d+)*)", text)
    if found is None:
        raise ValueError(f"--shape is {text!r}; it must be like q=8x128x64")
    shape = tuple(int(size) for size in found[2].split("x"))
    if math.prod(shape) > LARGEST:
        raise ValueError(f"--shape is {text!r}: an array of more than {LARGEST:,} numbers")
    return found[1], shape


def _number(text):
    name, _, value = text.partition("=")
    try:
        return name, int(value) if re.fullmatch(r"[+-]?\d+", value) else float(value)
    except ValueError:
        raise ValueError(f"--option is {text!r}; it must be like scale=0.1") from None


def _read(path):
    """(name, array) of an archive; 'input.q' is q, and what is no input is left out."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = [name for name in archive.files if not name.endswith(".rule")]
            prefix = "input." if any(name.startswith("input.") for name in names) else ""
            for name in names:
                if name.startswith(prefix):
                    x = archive[name]
                    yield name.removeprefix(prefix), x if x.ndim else x.item()
    except (ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:  # np.load of a plain array has no files
        raise ValueError(f"{path} is no archive of np.savez: {error}") from None
