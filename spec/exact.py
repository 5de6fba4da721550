"""What every definition stands on: 50-digit numbers, arrays of them, and loops over leading axes.

A definition is written for one row, one head, one token; `lift` repeats it over leading axes that broadcast.
Nothing here knows refattn, NumPy or any array library.
"""

from itertools import product
from math import inf, isinf, isnan, nan, prod

from mpmath import mp, mpf

mp.dps = 50

__all__ = ["Tensor", "exact", "indices", "inf", "isinf", "isnan", "lift", "move_axis", "mp", "mpf", "nan", "tensor"]


class Tensor:
    """Numbers in row-major order with a shape; `t[i]` drops the first axis, as a nested list does."""

    def __init__(self, shape, data, dtype="float64"):
        self.shape, self.data, self.dtype = tuple(shape), list(data), dtype
        if len(self.data) != prod(self.shape):
            raise ValueError(f"shape {self.shape} needs {prod(self.shape)} numbers, got {len(self.data)}")

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, i):
        if not 0 <= i < self.shape[0]:
            raise IndexError(f"index {i} of an axis of {self.shape[0]}")
        size = prod(self.shape[1:])
        block = Tensor(self.shape[1:], self.data[i * size : (i + 1) * size], self.dtype)
        return block if block.shape else block.data[0]

    def __iter__(self):
        return (self[i] for i in range(len(self)))


def tensor(nested, dtype="float64"):
    """A Tensor from nested lists or Tensors (zero-length axes need `Tensor` itself, with a shape)."""
    if isinstance(nested, Tensor):
        return nested
    if not isinstance(nested, list):
        return Tensor((), [nested], dtype)
    rows = [tensor(row, dtype) for row in nested]
    inner = rows[0].shape if rows else ()
    return Tensor((len(rows), *inner), [x for row in rows for x in row.data], dtype)


def exact(x):
    """A float as a 50-digit number; infinities and NaN stay floats."""
    return x if isinf(x) or isnan(x) else mpf(x)


def indices(shape):
    """Every index of a shape, in row-major order."""
    return product(*map(range, shape))


def lift(function, cores, *tensors):
    """Apply `function` at every index of the broadcast leading axes.

    cores[n] is the number of trailing axes that the function takes of tensors[n]; a None tensor is passed on.
    The function returns one nested result, or a tuple of them.
    """
    leads = [t.shape[: len(t.shape) - core] for core, t in zip(cores, tensors, strict=True) if t is not None]
    lead = _broadcast(leads)
    results = []
    for index in indices(lead):
        result = function(*(_block(t, core, index) for core, t in zip(cores, tensors, strict=True)))
        results.append(result if isinstance(result, tuple) else (result,))
    columns = [_stack(lead, column) for column in zip(*results, strict=True)]
    return tuple(columns) if len(columns) > 1 else columns[0]


def _block(t, core, index):
    if t is None:
        return None
    own = len(t.shape) - core
    for i in index[len(index) - own :]:
        t = t[0 if t.shape[0] == 1 else i]
    return t if isinstance(t, Tensor) and t.shape else (t.data[0] if isinstance(t, Tensor) else t)


def _broadcast(shapes):
    width = max(map(len, shapes), default=0)
    lead = [1] * width
    for shape in shapes:
        for n, size in enumerate(shape, start=width - len(shape)):
            if lead[n] != size and 1 not in (lead[n], size):
                raise ValueError(f"leading axes {shapes} do not broadcast")
            lead[n] = size if lead[n] == 1 else lead[n]
    return tuple(lead)


def _stack(lead, results):
    rows = [tensor(result) for result in results]
    return Tensor((*lead, *rows[0].shape), [x for row in rows for x in row.data])


def move_axis(t, source, destination):
    """`t` with one axis moved to another place, the others in order."""
    order = [n for n in range(len(t.shape)) if n != source % len(t.shape)]
    order.insert(destination % len(t.shape), source % len(t.shape))
    shape = [t.shape[n] for n in order]
    values = dict(zip(indices(t.shape), t.data, strict=True))
    back = [order.index(n) for n in range(len(order))]
    return Tensor(shape, [values[tuple(index[n] for n in back)] for index in indices(shape)], t.dtype)
