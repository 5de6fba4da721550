"""What the adapters of array frameworks share: dtypes that NumPy lacks, options that are not there, results."""

from __future__ import annotations

from functools import partial

import numpy as np

from refattn.testing.adapters.base import Adapter, Unsupported


class FrameworkAdapter(Adapter):
    """Functions of a framework, on its own arrays.

    A check hands over float32 arrays for bfloat16, which NumPy lacks; `tensor` makes the framework's bfloat16 of them.
    """

    narrow = (
        False  # whether the call under way is one in bfloat16; of the class, as copies call the first one's methods
    )

    def call(self, function, dtype):
        """The function, with float32 arrays taken for bfloat16 where that is the dtype."""
        call = self.functions[function]
        return partial(self._in_bfloat16, call) if dtype == "bfloat16" else call

    def _in_bfloat16(self, call, *args, **kwargs):
        type(self).narrow = True
        try:
            return call(*args, **kwargs)
        finally:
            type(self).narrow = False

    def tensor(self, x):
        """A NumPy array as the framework's, in the dtype of the call; None stays None."""
        raise NotImplementedError


def unavailable(name: str, **options) -> None:
    """Refuse options that were given and that an operator has no argument for."""
    for option, value in options.items():
        if value is not None and value is not False:
            raise Unsupported(f"{name} has no {option.replace('_', ' ')}")


def summed_to(x: np.ndarray, shape) -> np.ndarray:
    """An array summed over the axes along which one of another shape was broadcast to it."""
    x = x.sum(axis=tuple(range(x.ndim - len(shape))))
    return x.sum(axis=tuple(n for n, size in enumerate(shape) if size == 1 != x.shape[n]), keepdims=True)
