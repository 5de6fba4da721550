"""Anybody's function as an adapter."""

from __future__ import annotations

import sys

from refattn.testing.adapters.base import Adapter
from refattn.testing.adapters.signatures import as_declared
from refattn.testing.adapters.translation import four_axes, rope_of_four_axes
from refattn.testing.printable import printable
from refattn.testing.profiles import profile

LAYOUTS = ("reference", "bhnd", "bnhd")
_FOUR_AXES = ("attention", "grouped_query_attention")  # which kernels take in four axes, in either order
_TURNED = ("tiled_attention", "rope")  # and those in the reference's axes, or turned to (B, N, H, D)


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
        self._own = call = as_declared(call)
        if (layout != "reference" and function in _FOUR_AXES) or layout == "bnhd":
            if function not in (*_FOUR_AXES, *_TURNED):
                raise ValueError(
                    f"layout is 'bnhd', but {function} is taken in the reference's axes only; it is for"
                    f" {', '.join((*_FOUR_AXES, *_TURNED))}"
                )
            call = rope_of_four_axes(call) if function == "rope" else four_axes(call, swap=layout == "bnhd")
        self.functions = {function: call}
        self._turned = call

    def other_axes(self, taken: bool) -> bool:
        """Take what the reference takes, or again four axes where `taken` is false; false where nothing changes."""
        (function,) = self.functions
        before, now = self.functions[function], self._own if taken else self._turned
        self.functions = {function: now}
        return before is not now

    def dtypes(self, function):
        """One: the format of the inputs of the precision that was promised."""
        return (profile(self.precision).inputs,)

    def profile(self, function, dtype):
        """The precision that was promised."""
        return self.precision
