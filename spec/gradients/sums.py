"""Arrays by index, and gradients that grow term by term: sums over whatever was broadcast."""

from ..exact import Tensor, indices, mpf


def aligned(shape, index):
    """The place in an array of a shape that broadcasts: axes from the right, 0 along those of length 1."""
    own = index[len(index) - len(shape) :]
    return tuple(0 if size == 1 else i for size, i in zip(shape, own, strict=True))


def element(t, *index):
    place = 0
    for size, i in zip(t.shape, aligned(t.shape, index), strict=True):
        place = place * size + i
    return t.data[place]


class Sums:
    """Gradients that grow term by term, each of the shape of its input."""

    def __init__(self, **tensors):
        self.shapes = {name: t.shape for name, t in tensors.items() if t is not None}
        self.values = {name: dict.fromkeys(indices(shape), mpf(0)) for name, shape in self.shapes.items()}

    def add(self, name, index, value):
        if name in self.shapes:
            self.values[name][aligned(self.shapes[name], index)] += value

    def tensors(self):
        return {
            name: Tensor(shape, [self.values[name][index] for index in indices(shape)])
            for name, shape in self.shapes.items()
        }
