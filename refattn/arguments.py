"""What arguments other than arrays and numbers must be: parameter sets, functions, options that belong together, sizes.

Arrays and scalars are checked by `refattn.backend`. Every error is a ValueError or TypeError that names the argument.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import os
import pathlib

from refattn import backend


def params(value, *kinds, name="params"):
    """A set of weights, which must be of one of these NamedTuples."""
    if not isinstance(value, kinds):
        fields = f"({', '.join(kinds[0]._fields)})" if len(kinds) == 1 else ""
        wanted = " or ".join(kind.__name__ for kind in kinds) + fields
        raise TypeError(f"{name} is {_a(value)}; it must be {wanted}")
    return value


def function(name, value, *takes):
    """A function of the caller's, which takes these arguments; None stays None.

    Whether it takes them is seen from its signature, where it has one, so that the error is not that of a call later on.
    """
    if value is None:
        return None
    wanted = f"a function of {', '.join(takes)}"
    if not callable(value) or isinstance(value, type):
        raise TypeError(f"{name} is {backend.shown(value)}; it must be {wanted}")
    try:
        signature = inspect.signature(value)
    except (ValueError, TypeError):  # of one that is not written in Python
        return value
    try:
        signature.bind(*takes)
    except TypeError as error:
        raise TypeError(f"{name} is {backend.shown(value)}; it must be {wanted}: {error}") from None
    return value


def axes(**named):
    """The sizes of the letters in some shapes, such as those of weights: a ValueError where two arrays have two for one.

    Parameters
    ----------
    **named
        An array, or None, and its shape in letters: w_q=(w_q, "E H·D"); "... N E" has further axes in front.

    Returns
    -------
    dict
        From a letter to a size: {"E": 8, "H·D": 12}.
    """
    sizes: dict[str, int] = {}
    of: dict[str, str] = {}
    for name, (x, letters) in named.items():
        if x is None:
            continue
        wanted, shape = letters.removeprefix("... ").split(), tuple(x.shape)
        says = f"{name} has shape {shape}; it must be ({letters.replace(' ', ', ')})"
        if len(shape) < len(wanted) or (len(shape) > len(wanted) and not letters.startswith("...")):
            raise ValueError(says)
        for letter, size in zip(reversed(wanted), reversed(shape), strict=False):
            if sizes.setdefault(letter, size) != size:
                raise ValueError(f"{says} with {letter} = {sizes[letter]}, as in {of[letter]}")
            of.setdefault(letter, name)
    return sizes


def listed(name, value, what):
    """A list or a tuple of the caller's, which is gone through once."""
    if not isinstance(value, list | tuple | range):
        raise TypeError(f"{name} is {_a(value)}; it must be a list of {what}")
    return list(value)


def unused(only_with, **given):
    """Refuse options that would do nothing: all that are not None here.

    Parameters
    ----------
    only_with : str
        What they belong to: "cache='rolling'".
    **given
        Options by name, None where they are not given.
    """
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name} is {backend.shown(value)}; {name} goes only with {only_with}")


def room(nbytes, **sizes):
    """Refuse to make what this machine's memory cannot hold, before it is made.

    Parameters
    ----------
    nbytes : int
        Bytes that would be needed at the same time.
    **sizes : int
        The arguments that make it so large.
    """
    if nbytes > 2**28 and nbytes > memory():
        named = " and ".join(f"{name} = {backend.shown(size)}" for name, size in sizes.items())
        raise ValueError(f"{named} would take {_in_words(nbytes)} of memory; there are {_in_words(memory())} here")


@functools.cache
def memory() -> float:
    """Bytes of memory that this process may use at all; infinity where that cannot be found out."""
    found = [math.inf]
    if hasattr(os, "sysconf") and {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= os.sysconf_names.keys():
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limit = pathlib.Path("/sys/fs/cgroup/memory.max")  # a container may have less than its machine
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        found.append(int(text))
    with contextlib.suppress(ImportError):  # not everywhere
        import resource

        found += [most for most in resource.getrlimit(resource.RLIMIT_AS) if most != resource.RLIM_INFINITY]
    return min(found)


def _in_words(nbytes):
    for unit, size in (("EiB", 2**60), ("PiB", 2**50), ("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if nbytes >= size:
            return f"{nbytes / size:,.3g} {unit}" if nbytes < 2**100 else "more than 2**100 bytes"
    return f"{nbytes} bytes"


def _a(value):
    return "None" if value is None else f"a {type(value).__name__}"
