"""Arrays of exact numbers do what NumPy's do, as far as definitions are written in them."""

import numpy as np
import pytest

from spec.exact import Tensor, concat, lift, mean, move_axis, mpf, tensor


def exactly(*shape):
    """Small integers, so that NumPy is exact as well."""
    return np.random.default_rng(sum(shape)).integers(-9, 10, shape).astype(float)


def as_tensor(x):
    return Tensor(x.shape, x.ravel().tolist())


def same(t, x):
    assert t.shape == x.shape
    assert [float(number) for number in t.data] == x.ravel().tolist()


SHAPES = [((2, 3), (2, 3)), ((2, 3), (3,)), ((4, 1, 3), (2, 1)), ((), (2, 3)), ((0, 3), (1, 3))]


@pytest.mark.parametrize("a, b", SHAPES)
def test_operators_broadcast(a, b):
    a, b = exactly(*a), exactly(*b)
    same(as_tensor(a) + as_tensor(b), a + b)
    same(as_tensor(a) - as_tensor(b), a - b)
    same(as_tensor(a) * as_tensor(b), a * b)
    same(as_tensor(a) / as_tensor(2.0 ** abs(b)), a / 2 ** abs(b))


def test_a_number_stands_on_either_side():
    x = exactly(2, 3)
    same(2 * as_tensor(x) + 1, 2 * x + 1)
    same(1 + as_tensor(x) - 3, x - 2)
    same(sum([as_tensor(x), as_tensor(x)]), 2 * x)


@pytest.mark.parametrize("a, b", [((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((2, 1, 3, 2), (4, 2, 1)), ((3, 0), (0, 2))])
def test_products_of_matrices(a, b):
    a, b = exactly(*a), exactly(*b)
    same(as_tensor(a) @ as_tensor(b), a @ b)


def test_shapes_that_do_not_fit_are_refused():
    x = as_tensor(exactly(2, 3))
    with pytest.raises(ValueError, match=r"no product of shapes \(2, 3\) and \(2, 3\)"):
        x @ x
    with pytest.raises(ValueError, match="do not broadcast"):
        x + as_tensor(exactly(2))


def test_what_comes_out_has_fifty_digits():
    third = tensor([1.0]) / tensor([3.0])
    assert abs(third.data[0] * 3 - 1) < mpf(10) ** -49


@pytest.mark.parametrize(
    "index", [np.s_[1:], np.s_[:, 2:4], np.s_[..., :2], np.s_[..., 1:3, :], np.s_[:1, ..., ::2], np.s_[-1:, :0]]
)
def test_slices(index):
    x = exactly(3, 4, 5)
    same(as_tensor(x)[index], x[index])


def test_one_index_drops_the_first_axis():
    x = exactly(3, 4)
    same(as_tensor(x)[2], x[2])
    assert as_tensor(x)[2][3] == x[2, 3]
    with pytest.raises(IndexError, match="index 3 of an axis of 3"):
        as_tensor(x)[3]


def test_axes():
    x = exactly(2, 3, 4)
    same(as_tensor(x).T, x.mT)
    same(as_tensor(x).transposed([2, 0, 1]), x.transpose(2, 0, 1))
    same(as_tensor(x).reshaped(6, 4), x.reshape(6, 4))
    for source, destination in ((0, -1), (-1, 0), (1, 2), (-2, -3)):
        same(move_axis(as_tensor(x), source, destination), np.moveaxis(x, source, destination))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concat(axis):
    x = exactly(2, 3, 4)
    same(concat(as_tensor(x), as_tensor(x + 1), as_tensor(x), axis=axis), np.concatenate([x, x + 1, x], axis))


def test_means_and_functions_of_numbers():
    x = exactly(3, 4)
    same(mean(as_tensor(x)), x.mean(-1, keepdims=True))
    same(as_tensor(x).map(abs), abs(x))


def test_lift_repeats_what_is_said_of_one_row():
    a, b = exactly(2, 1, 3), exactly(4, 3)
    same(lift(lambda a, b: [x - y for x, y in zip(a, b, strict=True)], (1, 1), as_tensor(a), as_tensor(b)), a - b)
