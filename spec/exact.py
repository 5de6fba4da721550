"""What every definition stands on: 50-digit numbers, arrays of them, and loops over leading axes.

An equation between arrays is written as one, `rms_norm(x @ w[:, :R], gain)`. What has no operator here is written for
one row, one head, one token, and `lift` repeats it over leading axes that broadcast.
Nothing here knows refattn, NumPy or any array library.
"""

import operator
from itertools import product
from math import inf, isinf, isnan, nan, prod

from mpmath import mp, mpf

mp.dps = 50

__all__ = [
    "Tensor", "concat", "exact", "indices", "inf", "isinf", "isnan", "lift", "mean", "move_axis", "mp", "mpf", "nan",
    "sqrt", "tensor",
]  # fmt: skip


class Tensor:
    """Numbers in row-major order with a shape; `t[i]` drops the first axis, as a nested list does.

    `+ - * /` broadcast, `@` is a product of matrices in the last two axes, `.T` exchanges these, `t[..., a:b]` are
    slices; what they give are 50-digit numbers.
    """

    def __init__(self, shape, data, dtype="float64"):
        self.shape, self.data, self.dtype = tuple(shape), list(data), dtype
        if len(self.data) != prod(self.shape):
            raise ValueError(f"shape {self.shape} needs {prod(self.shape)} numbers, got {len(self.data)}")

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, i):
        if not isinstance(i, int):
            return self._sliced(i if isinstance(i, tuple) else (i,))
        if not 0 <= i < self.shape[0]:
            raise IndexError(f"index {i} of an axis of {self.shape[0]}")
        size = prod(self.shape[1:])
        block = Tensor(self.shape[1:], self.data[i * size : (i + 1) * size], self.dtype)
        return block if block.shape else block.data[0]

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def _sliced(self, slices):
        """Slices of the first axes, or after `...` of the last."""
        rest = [slice(None)] * (len(self.shape) - len(slices) + (... in slices))
        n = slices.index(...) if ... in slices else len(slices)
        kept = [range(size)[s] for size, s in zip(self.shape, [*slices[:n], *rest, *slices[n + 1 :]], strict=True)]
        return Tensor(map(len, kept), self._at(kept, _strides(self.shape)), self.dtype)

    def _at(self, kept, strides):
        """The numbers at some indices of each axis."""
        places = [0]
        for along, stride in zip(kept, strides, strict=True):
            places = [place + i * stride for place in places for i in along]
        return [self.data[place] for place in places]

    def broadcast(self, shape):
        """This, repeated along new axes in front and axes of length 1."""
        own = (1,) * (len(shape) - len(self.shape)) + self.shape
        strides = [0 if size == 1 else stride for size, stride in zip(own, _strides(own), strict=True)]
        return Tensor(shape, self._at(map(range, shape), strides), self.dtype)

    def reshaped(self, *shape):
        return Tensor(shape, self.data, self.dtype)

    def transposed(self, order):
        """The axes in another order."""
        kept = [range(self.shape[n]) for n in order]
        strides = _strides(self.shape)
        return Tensor(map(len, kept), self._at(kept, [strides[n] for n in order]), self.dtype)

    @property
    def T(self):
        return move_axis(self, -1, -2)

    def map(self, function):
        """A function of every number."""
        return Tensor(self.shape, [function(exact(x)) for x in self.data])

    def __add__(self, other):
        return _elementwise(operator.add, self, other)

    def __sub__(self, other):
        return _elementwise(operator.sub, self, other)

    def __mul__(self, other):
        return _elementwise(operator.mul, self, other)

    def __truediv__(self, other):
        return _elementwise(operator.truediv, self, other)

    __radd__, __rmul__ = __add__, __mul__  # sum() begins with 0; a scale stands in front

    def __matmul__(self, other):
        def product(a, b):
            columns = [[exact(x) for x in b.data[c :: b.shape[1]]] for c in range(b.shape[1])]
            rows = [[exact(x) for x in row] for row in a]
            return Tensor((a.shape[0], b.shape[1]), [mp.fdot(row, column) for row in rows for column in columns])

        if self.shape[-1] != other.shape[-2]:
            raise ValueError(f"no product of shapes {self.shape} and {other.shape}")
        return lift(product, (2, 2), self, other)


def _elementwise(function, a, b):
    b = b if isinstance(b, Tensor) else Tensor((), [b])
    shape = _broadcast([a.shape, b.shape])
    pairs = zip(a.broadcast(shape).data, b.broadcast(shape).data, strict=True)
    return Tensor(shape, [function(exact(x), exact(y)) for x, y in pairs])


def _strides(shape):
    return [prod(shape[n + 1 :]) for n in range(len(shape))]


def concat(*tensors, axis=-1):
    """Tensors one after the other along an axis; the other axes are the same."""
    rows = [move_axis(t, axis, 0) for t in tensors]
    length = sum(map(len, rows))
    joined = Tensor((length, *rows[0].shape[1:]), [x for t in rows for x in t.data], tensors[0].dtype)
    return move_axis(joined, 0, axis)


def mean(t):
    """Over the last axis, which stays with length 1."""
    return lift(lambda row: [mp.fsum(exact(x) for x in row) / len(row)], (1,), t)


def sqrt(t):
    return t.map(mp.sqrt)


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
    return t.transposed(order)
