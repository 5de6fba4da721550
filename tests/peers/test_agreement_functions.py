"""Norms, activations, softmax and rotary positions in float64 against other implementations."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import refattn
from refattn import positions
from refattn.testing import adapters
from tests.peers.agreement import SEEDS, assert_agree

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

SHAPES = st.permutations([2, 3, 5, 7, 11]).map(lambda sizes: tuple(sizes[:3]))
# ONNX's Erf is float32 in its reference evaluator, and its attributes (eps, 1.702) are float32 in either.
TOLERANCE = {
    ("onnx", "gelu"): 1e-7,
    ("onnx", "quick_gelu"): 1e-7,
    ("onnx", "norms"): 1e-7,
    ("onnxruntime", "quick_gelu"): 1e-7,
    ("onnxruntime", "norms"): 1e-7,
}
ACTIVATIONS = {
    "onnx": ("gelu", "quick_gelu", "relu", "sigmoid", "silu", "softplus", "tanh"),
    "onnxruntime": ("quick_gelu", "relu", "sigmoid", "silu", "tanh"),
    "torch": ("gelu", "relu", "sigmoid", "silu", "softplus", "tanh"),
    "jax": ("gelu", "relu", "sigmoid", "silu", "softplus", "tanh"),
}


@cache
def of(name):
    """The functions of an adapter, if its libraries are there."""
    for library in adapters.missing(name):
        pytest.importorskip(library)
    return adapters.get(name).functions


@pytest.mark.parametrize("name, function", [(name, f) for name, listed in ACTIVATIONS.items() for f in listed])
@given(seed=SEEDS, shape=SHAPES)
@settings(max_examples=6)
def test_activations(name, function, seed, shape):
    x = np.random.default_rng(seed).normal(size=shape) * 4.0
    tolerance = TOLERANCE.get((name, function), 1e-12)
    assert_agree(of(name)[function](x), getattr(refattn, function)(x), tolerance)
    if function == "gelu":
        assert_agree(of(name)[function](x, approximate="tanh"), refattn.gelu(x, "tanh"), tolerance)


@pytest.mark.parametrize("name", ["onnx", "onnxruntime", "torch", "jax"])  # those with float64
@pytest.mark.parametrize("function", ["softmax", "logsumexp"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@given(seed=SEEDS, shape=SHAPES)
@settings(max_examples=4)
def test_reductions(name, function, axis, seed, shape):
    x = np.random.default_rng(seed).normal(size=shape) * 30.0
    x[1] -= 5000.0
    assert_agree(of(name)[function](x, axis=axis), getattr(refattn, function)(x, axis=axis))


@pytest.mark.parametrize("function", ["softmax", "logsumexp"])
def test_jax_leaves_out_what_where_leaves_out(function):
    rng = np.random.default_rng(0)
    x, where = rng.normal(size=(3, 5)), rng.random((3, 5)) < 0.6
    where[:, 0] = True
    assert_agree(of("jax")[function](x, where=where), getattr(refattn, function)(x, where=where))


@pytest.mark.parametrize("name", ["onnx", "onnxruntime", "torch"])
@pytest.mark.parametrize("axis", [-1, (-2, -1), (0, 1, 2)])
@given(seed=SEEDS, shape=SHAPES)
@settings(max_examples=6)
def test_norms(name, axis, seed, shape):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) + 5.0
    first = axis if axis == -1 else axis[0]
    gamma, beta = rng.normal(size=shape[first:]), rng.normal(size=shape[first:])
    for eps, tolerance in ((2.0**-10, 1e-12), (1e-5, TOLERANCE.get((name, "norms"), 1e-12))):
        for g, b in ((gamma, beta), (gamma, None), (None, None)):
            want = refattn.layer_norm(x, g, b, eps=eps, axis=axis)
            assert_agree(of(name)["layer_norm"](x, g, b, eps=eps, axis=axis), want, tolerance)
        for g in (gamma, None):
            want = refattn.rms_norm(x, g, eps=eps, axis=axis)
            assert_agree(of(name)["rms_norm"](x, g, eps=eps, axis=axis), want, tolerance)


@pytest.mark.parametrize("layout", ["interleaved", "half"])
@pytest.mark.parametrize("rotary_dim", [None, 8, 6, 2])
@pytest.mark.parametrize("name", ["onnx", "onnxruntime"])
def test_rotary(name, layout, rotary_dim):
    rotate = of(name)["positions.rotate"]
    rng = np.random.default_rng(0)
    pairs = (rotary_dim or 8) // 2
    for lead, table_lead in (
        ((2, 3), (2, 1)),
        ((2, 3), ()),
        ((2, 3), (2, 3)),
        ((), ()),
        ((3,), (3,)),
        ((2, 5, 3), (1,)),
    ):
        angles = rng.uniform(-400, 400, size=(*table_lead, 7, pairs))
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        x = rng.normal(size=(*lead, 7, 8)).astype(np.float32)
        got = rotate(x, cos, sin, layout=layout, rotary_dim=rotary_dim)
        want = positions.rotate(x, cos, sin, layout=layout, rotary_dim=rotary_dim)
        assert_agree(got, want, 2.0**-22)
