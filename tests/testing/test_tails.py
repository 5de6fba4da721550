"""Kernels that take a row a block at a time, and get the end of it wrong, are found and named with the size of the block."""

import numpy as np
import pytest

import refattn
from refattn.testing import check
from refattn.testing.rounding import round_to


def kernel_of(function, rows, fmt, block):
    """A kernel that computes rows along the last axis in float32 and stores them in a format."""
    right = getattr(refattn, function)

    def kernel(x, **options):
        right(x, **options)  # refuses what must be
        if options.get("axis", -1) not in (-1, x.ndim - 1) or options.get("where") is not None:
            raise NotImplementedError("other axes, absent entries")
        given = {"x": x, **options}
        wide = {n: a.astype(np.float32) if isinstance(a, np.ndarray) else a for n, a in given.items()}
        return round_to(rows(block, **wide), fmt)

    return kernel


def rms_norm(block, x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
    """The mean square is that of whole blocks."""
    n = x.shape[-1] - x.shape[-1] % block or x.shape[-1]
    y = x / np.sqrt((x[..., :n] ** 2).mean(axis=-1, keepdims=True) + eps)
    return y if gamma is None else y * (gamma + unit_offset)


def layer_norm(block, x, gamma, beta=None, *, eps=1e-5, axis=-1):
    """What fills a block deviates from the mean."""
    n, mean = x.shape[-1], x.mean(axis=-1, keepdims=True)
    deviations = ((x - mean) ** 2).sum(axis=-1, keepdims=True) + (-n % block) * mean**2
    y = (x - mean) / np.sqrt(deviations / n + eps)
    y = y if gamma is None else y * gamma
    return y if beta is None else y + beta


def softmax(block, x, axis=-1, where=None):
    """Zeros fill a block."""
    n = x.shape[-1]
    return refattn.softmax(np.concatenate([x, np.zeros((*x.shape[:-1], -n % block), x.dtype)], axis=-1))[..., :n]


@pytest.mark.parametrize("fmt", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("block", [64, 32])
@pytest.mark.parametrize(
    ("function", "rows", "name"),
    [
        ("rms_norm", rms_norm, "norm/tail_dropped"),
        ("layer_norm", layer_norm, "norm/tail_deviates"),
        ("softmax", softmax, "softmax/tail_zeros"),
    ],
)
def test_a_tail_is_named_in_every_format_and_no_coarser_precision_is(fmt, block, function, rows, name):
    report = check(kernel_of(function, rows, fmt, block), function, precision=fmt, at_least=0)
    assert {d for _, d in report.deviations("broken")} == {name}
    assert f"the block has {block} entries" in str(report.causes[0])
