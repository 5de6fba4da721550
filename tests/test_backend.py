"""What every function promises about arrays: dtypes, strides, purity, and errors that name the argument."""

import math
import sys
from types import ModuleType

import numpy as np
import pytest

import refattn
from refattn import backend, masks

X = np.linspace(-3.0, 3.0, 24).reshape(2, 3, 4)
CALLS = {
    "softmax": lambda x: refattn.softmax(x),
    "logsumexp": lambda x: refattn.logsumexp(x),
    "merge": lambda x: refattn.merge(x, x[..., 0], x + 1, x[..., 1]),
    "attention": lambda x: refattn.attention(x, x, x, masks.causal(), return_lse=True),
    "grouped": lambda x: refattn.grouped_query_attention(x[..., None, :, :], x[..., None, :, :], x[..., None, :, :]),
    "layer_norm": lambda x: refattn.layer_norm(x, x[0, 0]),
    "rms_norm": lambda x: refattn.rms_norm(x, x[0, 0]),
    "rope": lambda x: refattn.rope(x, np.arange(3)),
    "gelu": lambda x: refattn.gelu(x),
    "silu": lambda x: refattn.silu(x),
    "softplus": lambda x: refattn.softplus(x),
}


def arrays(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.clause("BACKEND-DTYPE")
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("dtype", "expected"), [("float16", "float32"), ("float32", "float32"), ("float64", "float64")]
)
def test_float64_stays_and_all_else_becomes_float32(name, dtype, expected):
    for result in arrays(CALLS[name](X.astype(dtype))):
        assert result.dtype == expected


@pytest.mark.clause("BACKEND-DTYPE")
def test_narrow_formats_of_ml_dtypes():
    import ml_dtypes

    for dtype in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2):
        x = X.astype(dtype)
        result = refattn.softmax(x)
        assert result.dtype == np.float32
        np.testing.assert_array_equal(result, refattn.softmax(x.astype(np.float32)))


@pytest.mark.clause("BACKEND-DTYPE")
def test_one_float64_widens_all():
    q = X.astype(np.float32)
    assert refattn.attention(q, q, X).dtype == np.float64
    assert refattn.attention(q, q, q, bias=np.zeros((3, 3))).dtype == np.float64
    assert refattn.attention(q, q, q, scale=np.float64(0.5)).dtype == np.float32, "a scalar widens nothing"


@pytest.mark.clause("BACKEND-PURE")
@pytest.mark.parametrize("name", CALLS)
def test_inputs_stay_and_calls_repeat(name):
    x = X.copy()
    first, second = arrays(CALLS[name](x)), arrays(CALLS[name](x))
    np.testing.assert_array_equal(x, X)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.shares_memory(a, x)


@pytest.mark.clause("BACKEND-STRIDE")
@pytest.mark.parametrize("name", CALLS)
def test_strides_and_read_only_memory_do_not_matter(name):
    plain = arrays(CALLS[name](X))
    turned = np.asfortranarray(X)
    padded = np.full((4, 6, 8), np.nan)[::2, ::2, ::2]
    padded[...] = X
    backwards = X[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1]
    frozen = X.copy()
    frozen.flags.writeable = False
    for x in (turned, padded, backwards, frozen):
        for a, b in zip(arrays(CALLS[name](x)), plain, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.clause("BACKEND-REFUSE")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([1.0, 2.0], "x is a list; it must be a NumPy or CuPy array"),
        (3.0, "x is a float; it must be a NumPy or CuPy array"),
        (np.arange(3), "x has dtype int64; it must be floating-point .* cast it first"),
        (np.ones(3, dtype=bool), "x has dtype bool; it must be floating-point"),
        (np.ones(3, dtype=complex), "x has dtype complex128; it must be floating-point"),
        (np.array(["a"]), "x has dtype str.*; it must be floating-point"),
    ],
)
def test_what_is_no_floating_point_array_is_refused_by_name(wrong, message):
    with pytest.raises(TypeError, match=message):
        refattn.softmax(wrong)


@pytest.mark.clause("BACKEND-REFUSE")
def test_an_array_of_another_framework_is_refused_with_a_way_out():
    tensor = type("Tensor", (), {"__module__": "torch"})()
    with pytest.raises(TypeError, match=r"x is a torch\.Tensor; .*assert_matches takes arrays of any framework"):
        refattn.softmax(tensor)


def test_the_library_is_that_of_the_inputs(library):
    x = library.array(X)
    assert backend.namespace(x, None, x).__name__ == library.xp.__name__
    assert type(refattn.softmax(x)) is type(x)
    if library.device is not None:
        assert refattn.attention(x, x, x, masks.causal()).device == library.device
    assert backend.namespace(None) is np


def test_cupy_is_found_without_being_imported(monkeypatch):
    """A stand-in: an array whose type says cupy brings the module that is loaded already."""
    fake = ModuleType("cupy")
    monkeypatch.setitem(sys.modules, "cupy", fake)
    x = type("ndarray", (), {"__module__": "cupy"})()
    assert backend.namespace(x=x) is fake


def test_scalars():
    assert backend.number("scale", np.float32(0.5)) == 0.5
    assert type(backend.number("scale", np.float64(0.5))) is float
    assert backend.integer("n", np.int64(3)) == 3
    assert backend.number("eps", 1e-9, positive=True) == 1e-9
    for bad, error, message in (
        (lambda: backend.number("scale", "x"), TypeError, "scale must be a real number, not 'x'"),
        (lambda: backend.number("eps", 0.0, positive=True), ValueError, "eps is 0.0; it must be positive"),
        (lambda: backend.number("eps", math.nan, positive=True), ValueError, "eps is nan; it must be finite"),
        (lambda: backend.integer("n", 1.5), TypeError, "n must be an integer, not 1.5"),
        (lambda: backend.integer("n", True), TypeError, "n must be an integer, not True"),
        (lambda: backend.integer("n", 0, least=1), ValueError, "n is 0; it must be at least 1"),
        (lambda: backend.choice("layout", "x", ("a", "b")), ValueError, "layout is 'x'; it must be one of 'a', 'b'"),
        (
            lambda: backend.axis(2, np.zeros((3, 4))),
            ValueError,
            r"axis is 2; x has shape \(3, 4\), so it must be from -2 to 1",
        ),
        (lambda: backend.axis(-3, np.zeros((3, 4))), ValueError, "axis is -3"),
    ):
        with pytest.raises(error, match=message):
            bad()
    assert [backend.axis(n, np.zeros((3, 4))) for n in (0, 1, -1, -2)] == [0, 1, 1, 0]
    assert backend.integer("n", 0, least=0) == 0


@pytest.mark.parametrize("take", [backend.integers, backend.reals])
@pytest.mark.parametrize("value", [True, [True, False], ["1"], [1j], None])
def test_what_is_no_number_is_none_in_a_list_either(library, take, value):
    like = library.array(np.zeros(1))
    with pytest.raises(TypeError, match="x must hold"):
        take(library.xp, like, x=value)


def test_integers_may_be_lists_or_arrays(library):
    like = library.array(np.zeros(2))
    xp = library.xp
    for value in (
        [1, 2],
        library.array(np.array([1, 2], dtype=np.int32)),
        library.array(np.array([1, 2], dtype=np.uint8)),
    ):
        result = backend.integers(xp, like, ids=value)
        assert result.dtype == xp.int64
        np.testing.assert_array_equal(library.numpy(result), [1, 2])
    assert backend.integers(xp, like, n=3).ndim == 0
    for wrong in (1.5, [1.5], "a", library.array(np.array([1.0]))):
        with pytest.raises(TypeError, match="ids"):
            backend.integers(xp, like, ids=wrong)


@pytest.mark.clause("BACKEND-REFUSE")
@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x: refattn.softmax(x), "x"),
        (lambda x: refattn.attention(X[0], X[0], X[0], bias=x), "bias"),
        (lambda x: refattn.attention(X[0], X[0], X[0], x > 0), "mask"),
        (lambda x: refattn.softmax(X[0, :2, :2], where=x > 0), "where"),
        (lambda x: masks.causal().dense(2, 2, q_positions=x.astype(int), k_positions=[0, 1]), "q_positions"),
        (lambda x: masks.padding(x.astype(int)), "lengths"),
    ],
)
@pytest.mark.parametrize("kind", [np.ma.MaskedArray, np.matrix])
@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_arrays_whose_operators_mean_something_else_are_refused(call, name, kind):
    with pytest.raises(
        TypeError, match=rf"^{name} is a numpy.*{kind.__name__}, whose operators are not those of an array"
    ):
        call(kind([[1.0, 2.0], [3.0, 4.0]]))


@pytest.mark.clause("BACKEND-REFUSE")
@pytest.mark.parametrize("value", [2**63, 2**64 - 1])
def test_integers_that_int64_cannot_hold_are_refused(library, value):
    like, big = library.array(X), library.array(np.array([5, value], dtype=np.uint64))
    xp = backend.namespace(like)
    for x in (big, [5, value]):
        with pytest.raises(ValueError, match=rf"^n holds {value}; integers must be below 2\*\*63"):
            backend.integers(xp, like, n=x)
    with pytest.raises(ValueError, match="q_positions holds"):
        masks.causal().block(big, library.array(np.arange(2)), like=like)
    small = library.array(np.array([5, 2**63 - 1], dtype=np.uint64))
    assert library.numpy(backend.integers(xp, like, n=small)).tolist() == [5, 2**63 - 1]
