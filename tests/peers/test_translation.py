"""How adapters say a call in an operator's own words. Needs none of the libraries."""

import inspect

import numpy as np
import pytest

import refattn
from refattn import masks
from refattn.testing import adapters
from refattn.testing.adapters import Adapter, CallableAdapter, NotInstalled, Unsupported
from refattn.testing.adapters.translation import attention_call, four_axes, trailing

BOTH = ("causal", "window")


def call(lead=(2, 3), n=5, m=7, mask=None, **options):
    q, k, v = (np.zeros((*lead, size, 4)) for size in (n, m, m))
    return attention_call(q, k, v, mask, **{"native": BOTH, **options})


@pytest.mark.parametrize(
    "mask, options, causal, window, dense",
    [
        (None, {}, False, None, False),
        (masks.causal(), {}, True, None, False),
        (masks.causal(), {"q_positions": np.arange(5)}, True, None, False),
        (masks.causal(), {"q_positions": np.arange(5), "k_positions": np.arange(7)}, True, None, False),
        (masks.causal(), {"q_positions": np.arange(1, 6)}, False, None, True),
        (masks.causal(), {"k_positions": np.arange(7)[::-1].copy()}, False, None, True),
        (masks.window(2, None), {}, False, (2, None), False),
        (masks.causal() & masks.window(2, 0), {}, True, (2, 0), False),
        (masks.window(2, 0) & masks.causal(), {"native": ("causal",), "n": 7}, True, None, True),
        (masks.window(2, 0) & masks.causal(), {"native": ("causal",)}, False, None, True),
        (masks.window(2, 0) & masks.window(9, 0), {"n": 7}, False, (2, 0), True),
        (masks.causal() & masks.padding(3), {}, True, None, True),
        (masks.causal() & masks.block(2), {}, False, None, True),
        (masks.causal() & masks.block(2), {"n": 7}, True, None, True),
        (masks.causal() & masks.block(2), {"q_positions": np.arange(5)}, True, None, True),
        (masks.causal() | masks.padding(3), {}, False, None, True),
        (~masks.causal(), {}, False, None, True),
        (masks.causal(), {"native": ()}, False, None, True),
        (masks.causal(), {"together": False}, True, None, False),
        (masks.causal(), {"together": False, "bias": np.zeros((5, 7))}, False, None, True),
        (masks.causal() & masks.padding(3), {"together": False}, False, None, True),
        (masks.causal() & masks.window(2, 0), {"together": False}, False, None, True),
        (np.ones((5, 7), dtype=bool), {}, False, None, True),
    ],
)
def test_rules_become_flags_where_the_operator_has_them(mask, options, causal, window, dense):
    x = call(mask=mask, **options)
    assert (x.causal, x.window, x.mask is not None) == (causal, window, dense)


@pytest.mark.parametrize("mask", [masks.causal() & masks.padding(3), masks.causal() & masks.block(2)])
@pytest.mark.parametrize("n", [5, 7, 9])
@pytest.mark.parametrize("positions", [None, 0, 3])
def test_flags_and_array_together_say_the_mask(mask, n, positions):
    options = {} if positions is None else {"q_positions": np.arange(n) + positions}
    x = call(n=n, mask=mask, **options)
    said = np.broadcast_to(True if x.mask is None else x.mask, (1, 1, n, 7))
    if x.causal:
        said = said & masks.causal().dense(n, 7, **options)
    assert np.array_equal(said[0, 0], mask.dense(n, 7, **options))


@pytest.mark.parametrize(
    "lead, batch", [((), (1, 1)), ((3,), (1, 3)), ((2, 3), (2, 3)), ((2, 5, 3), (10, 3)), ((2, 0, 3), (0, 3))]
)
def test_leading_axes_are_flattened_into_the_batch_and_come_back(lead, batch):
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(*lead, size, 4)) for size in (5, 7, 7))
    allowed = rng.random((*lead[:1], *(1,) * len(lead[1:]), 5, 7)) < 0.5
    x = attention_call(q, k, v, allowed)
    assert (x.q.shape, x.k.shape, x.v.shape) == ((*batch, 5, 4), (*batch, 7, 4), (*batch, 7, 4))
    assert np.array_equal(x.restore(x.q), q)
    assert x.mask.ndim == 4
    whole = np.broadcast_to(x.mask, (*batch, 5, 7))
    assert np.array_equal(x.restore(whole), np.broadcast_to(allowed, (*lead, 5, 7)))


def test_arguments_with_fewer_axes_are_laid_out_for_all():
    q, k, v = np.zeros((3, 5, 4)), np.arange(2.0)[:, None, None, None] * np.ones((2, 1, 7, 4)), np.ones((7, 6))
    x = attention_call(q, k, v, bias=np.zeros((2, 1, 1, 7)))
    assert (x.q.shape, x.k.shape, x.v.shape, x.bias.shape) == ((2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6), (2, 1, 1, 7))
    assert np.array_equal(x.k[1], np.ones((3, 7, 4)))


def test_grouped_heads_stay_apart():
    q, k = np.zeros((2, 6, 5, 4)), np.zeros((2, 3, 7, 4))
    x = attention_call(q, k, k, grouped=True)
    assert (x.q.shape, x.k.shape) == ((2, 6, 5, 4), (2, 3, 7, 4))
    x = attention_call(q[0], k[0], k[0], grouped=True)
    assert (x.q.shape, x.k.shape, x.restore(x.q).shape) == ((1, 6, 5, 4), (1, 3, 7, 4), (6, 5, 4))


def test_arguments_that_do_not_agree_reach_the_operator():
    q, k, v = np.zeros((2, 6, 5, 4)), np.zeros((2, 4, 7, 4)), np.zeros((2, 4, 8, 3))
    x = attention_call(q, k, v, np.ones((5, 9), dtype=bool))
    assert (x.k.shape, x.v.shape, x.mask.shape) == ((2, 4, 7, 4), (2, 4, 8, 3), (1, 1, 5, 9))


def test_mask_and_bias_in_one_argument():
    bias, allowed = np.arange(35, dtype=np.float32).reshape(5, 7), np.eye(5, 7, dtype=bool)
    assert call().term() is None
    assert call(mask=allowed).term().dtype == bool
    assert np.array_equal(call(bias=bias).term()[0, 0], bias)
    both = call(bias=bias, mask=allowed).term()
    assert both.dtype == np.float32
    assert np.array_equal(both[0, 0], np.where(allowed, bias, -np.inf))


def test_trailing_axes():
    x = np.zeros((2, 3, 5))
    assert [trailing(axis, x) for axis in (-1, 2, (-2, -1), (0, 1, 2), (1, -1))] == [2, 2, 1, 0, 1]
    for axis in (0, (0, 1), (2, 1), (0, 2)):
        with pytest.raises(Unsupported):
            trailing(axis, x)


def strict(turned):
    """A kernel that takes four axes, heads second or third, and nothing else."""

    def kernel(q, k, v, **options):
        assert q.ndim == k.ndim == v.ndim == 4
        for name in ("mask", "bias"):
            assert getattr(options.get(name), "ndim", 4) == 4 or isinstance(options[name], masks.Mask)
        parts = [np.swapaxes(x, 1, 2) if turned else x for x in (q, k, v)]
        result = refattn.attention(*parts, **options)
        out = result[0] if isinstance(result, tuple) else result
        out = np.swapaxes(out, 1, 2) if turned else out
        return (out, result[1]) if isinstance(result, tuple) else out

    return kernel


@pytest.mark.parametrize("layout", ["bhnd", "bnhd"])
@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 5, 3)])
def test_a_kernel_of_four_axes_is_given_four(layout, lead):
    kernel = CallableAdapter(strict(layout == "bnhd"), layout=layout).functions["attention"]
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(*lead, size, 4)) for size in (5, 7, 7))
    ones = (1,) * len(lead[1:])
    by_length = masks.padding(np.reshape(np.arange(1, 1 + (lead or (1,))[0]), (*lead[:1], *ones)))
    for options in (
        {},
        {"mask": masks.causal()},
        {"mask": masks.causal() & by_length},
        {"mask": masks.causal(), "q_positions": np.arange(5), "k_positions": np.arange(7)},
        {"mask": rng.random((*lead, 5, 7)) < 0.6, "bias": rng.normal(size=(*lead[:1], *ones, 5, 7))},
        {"sinks": rng.normal(size=lead[-1:]), "softcap": 2.0, "scale": 0.3},
        {"sinks": rng.normal(size=lead)},
        {"dropout": (rng.random((*lead, 5, 7)) < 0.6, 0.25)},
        {"return_lse": True},
    ):
        got, want = kernel(q, k, v, **options), refattn.attention(q, k, v, **options)
        for ours, theirs in zip(*(x if isinstance(x, tuple) else (x,) for x in (got, want)), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


def test_rules_reach_a_kernel_as_rules_where_they_can():
    seen = []

    def kernel(q, k, v, mask=None):
        seen.append(mask)
        return np.zeros((*q.shape[:-1], v.shape[-1]))

    rule = masks.causal()
    for lead in ((), (2, 3), (2, 5, 3)):
        four_axes(kernel)(*(np.zeros((*lead, size, 4)) for size in (5, 7, 7)), rule)
    assert seen == [rule] * 3


def test_adapters_by_name():
    assert adapters.NAMES == (
        "onnx", "onnxruntime", "torch", "torch.math", "torch.flex", "torch.mha", "jax", "transformers", "keras", "mlx"
    )  # fmt: skip
    assert set(adapters.installed()) <= set(adapters.NAMES)
    found = adapters.get("refattn:attention", precision="bfloat16")
    assert (found.name, list(found.functions), found.dtypes("attention")) == (
        "refattn:attention",
        ["attention"],
        ("bfloat16",),
    )
    assert list(adapters.get("refattn:positions.rotate", "positions.rotate").functions) == ["positions.rotate"]
    for name in ("tensorflow", "refattn.attention"):
        with pytest.raises(ValueError, match=r"onnx, onnxruntime, torch, .*, mlx, or module:function, or exec:command"):
            adapters.get(name)
    with pytest.raises(ValueError, match="refattn has no attribute 'nothing'"):
        adapters.get("refattn:nothing")


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(adapters._KNOWN, "jax", ("jax_nn", ("no_such_library", "numpy")))
    assert "jax" not in adapters.installed()
    with pytest.raises(NotInstalled, match="pip install no_such_library"):
        adapters.get("jax")


def test_adapt():
    own = Adapter()
    assert adapters.adapt(own) is own
    assert list(adapters.adapt(refattn.softmax).functions) == ["softmax"]
    assert inspect.unwrap(adapters.adapt(refattn.softmax).functions["softmax"]) is inspect.unwrap(refattn.softmax)
    assert list(adapters.adapt(lambda q, k, v: q).functions) == ["attention"]
    assert adapters.adapt(refattn.attention).version == refattn.__version__


def test_layouts_that_make_no_sense():
    with pytest.raises(ValueError, match="layout is 'nbhd'"):
        CallableAdapter(refattn.attention, layout="nbhd")
    with pytest.raises(ValueError, match="softmax is taken in the reference's axes only"):
        CallableAdapter(refattn.softmax, "softmax", layout="bnhd")


def test_naming_the_adapters_imports_no_library():
    import subprocess
    import sys

    code = (
        "import sys; from refattn.testing import adapters; adapters.installed();"
        "print([x for x in ('torch', 'jax', 'onnx', 'onnxruntime', 'transformers', 'keras', 'mlx') if x in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
