"""The bounds of LayerNorm and RMSNorm hold for correct kernels and are not much wider than they must be."""

import numpy as np
import pytest

from refattn.testing.bounds import bound
from refattn.testing.profiles import profile
from refattn.testing.rounding import round_to

f32 = np.float32
PRECISIONS = ["float32", "float16", "bfloat16", "bfloat16/eager", "float16/eager", "float8", "float64"]


def total(x, order):
    """The sum over the last axis: one after the other, or in pairs as NumPy does."""
    if order == "pairs":
        return x.sum(axis=-1, keepdims=True)
    result = np.zeros((*x.shape[:-1], 1), x.dtype)
    for n in range(x.shape[-1]):
        result = result + x[..., n : n + 1]
    return result


def mean_and_variance(x, how):
    """In two passes over the row, or by Welford's running mean."""
    kind, n = x.dtype.type, x.shape[-1]
    if how != "welford":
        mean = total(x, how) / kind(n)
        return mean, total((x - mean) ** 2, how) / kind(n)
    mean = np.zeros((*x.shape[:-1], 1), x.dtype)
    squares = np.zeros_like(mean)
    for i in range(n):
        step = x[..., i : i + 1] - mean
        mean = mean + step / kind(i + 1)
        squares = squares + step * (x[..., i : i + 1] - mean)
    return mean, squares / kind(n)


def inverse_root(chosen, x, how):
    """1/√x, rounded once, or as a fast instruction gives it: as wrong as the profile allows, to either side."""
    kind = x.dtype.type
    wrong = {"pairs": 1.0, "in order": -1.0, "welford": 0.0}[how] * chosen.u_exp
    return (1.0 / np.sqrt(x.astype(np.float64)) * (1.0 + wrong)).astype(kind)


def layer_norm_kernel(x, gamma, beta, eps, precision, how):
    chosen, x, gamma, beta = cast(precision, x, gamma, beta)
    mean, variance = mean_and_variance(x, how)
    normal = store(chosen, (x - mean) * inverse_root(chosen, variance + x.dtype.type(eps), how))
    product = normal if gamma is None else normal * gamma
    if beta is not None:
        product = store(chosen, product) + beta
    return round_to(product, chosen.out)


def rms_norm_kernel(x, gamma, eps, unit_offset, precision, how):
    chosen, x, gamma = cast(precision, x, gamma)
    kind, order = x.dtype.type, "pairs" if how == "welford" else how
    square = total(x * x, order) / kind(x.shape[-1])
    normal = store(chosen, x * inverse_root(chosen, square + kind(eps), how))
    if gamma is not None:
        normal = normal * (kind(1) + gamma if unit_offset else gamma)
    return round_to(normal, chosen.out)


def cast(precision, *arrays):
    chosen = profile(precision)
    working = np.float64 if chosen.out.name == "float64" else np.float32
    return chosen, *(None if x is None else x.astype(working) for x in arrays)


def store(chosen, x):
    return x if chosen.scores is None else round_to(x, chosen.scores).astype(x.dtype)


def rows(seed, precision):
    """Random rows that the format holds exactly: near 0, far from 0, tiny, with a spike, all equal."""
    draw = np.random.default_rng(seed)
    n = int(draw.choice([1, 2, 3, 17, 128, 1000]))
    x = draw.normal(size=(4, n)) * 2.0 ** draw.integers(-10, 6)
    kind = seed % 5
    if kind == 1:
        x = x + 100.0 * np.abs(x).max()
    if kind == 2:
        x[:, 0] = 1000.0
    if kind == 3:
        x = np.broadcast_to(x[:, :1], x.shape) + 0.0
    fmt = profile(precision).out
    gamma, beta = (None if draw.random() < 0.3 else round_to(draw.normal(size=n), fmt) for _ in range(2))
    return round_to(x, fmt), gamma, beta, float(draw.choice([1e-5, 1e-12, 1e-2]))


@pytest.mark.parametrize("how", ["pairs", "in order", "welford"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_layer_norm_kernels_are_within_the_bound(precision, how):
    worst = []
    for seed in range(80):
        x, gamma, beta, eps = rows(seed, precision)
        if how != "pairs" and x.shape[-1] > 200:
            continue
        found = bound("layer_norm", profile(precision), x, gamma, beta, eps=eps)["out"]
        used = np.abs(layer_norm_kernel(x, gamma, beta, eps, precision, how) - found.value) / found.hard
        assert used.max() <= 1.0, (seed, used.max())
        worst.append(used.max())
    assert max(worst) > LEAST_USED.get(precision, 0.7)


@pytest.mark.parametrize("how", ["pairs", "in order"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_rms_norm_kernels_are_within_the_bound(precision, how):
    worst = []
    for seed in range(80):
        x, gamma, _, eps = rows(seed, precision)
        offset = bool(seed % 2) and gamma is not None
        found = bound("rms_norm", profile(precision), x, gamma, eps=eps, unit_offset=offset)["out"]
        used = np.abs(rms_norm_kernel(x, gamma, eps, offset, precision, how) - found.value) / found.hard
        assert used.max() <= 1.0, (seed, used.max())
        worst.append(used.max())
    assert max(worst) > LEAST_USED.get(precision, 0.7)


LEAST_USED = {"float32": 0.1, "float64": 0.1}  # worst cases of single roundings, none of which meets all others


@pytest.mark.parametrize("function", ["layer_norm", "rms_norm"])
def test_several_axes_are_bounded_as_one(function):
    draw = np.random.default_rng(1)
    x, gamma = draw.normal(size=(2, 3, 5)), draw.normal(size=(3, 5))
    together = bound(function, profile("bfloat16"), x, gamma, axis=(-2, -1))["out"]
    flat = bound(function, profile("bfloat16"), x.reshape(2, 15), gamma.reshape(15))["out"]
    np.testing.assert_allclose(together.hard, flat.hard.reshape(2, 3, 5), rtol=1e-12)
    middle = bound(function, profile("bfloat16"), x, gamma[:, 0], axis=1)["out"]
    moved = bound(function, profile("bfloat16"), np.moveaxis(x, 1, -1), gamma[:, 0])["out"]
    np.testing.assert_allclose(middle.hard, np.moveaxis(moved.hard, -1, 1), rtol=1e-12)


def test_a_variance_in_one_pass_is_outside_where_the_mean_is_large():
    x = np.random.default_rng(2).normal(size=(4, 64)) + 1000.0
    x = round_to(x, "float32")
    found = bound("layer_norm", profile("float32"), x, None)["out"]
    low = x.astype(f32)
    mean = low.mean(axis=-1, keepdims=True)
    variance = (low * low).mean(axis=-1, keepdims=True) - mean * mean
    one_pass = (low - mean) / np.sqrt(variance + f32(1e-5))
    assert (np.abs(one_pass - found.value) / found.hard).max() > 4


def test_nothing_has_a_bound_of_its_shape():
    for function in ("layer_norm", "rms_norm"):
        for shape in ((0, 3), (3, 0)):
            assert bound(function, profile("float32"), np.zeros(shape), None)["out"].hard.shape == shape
