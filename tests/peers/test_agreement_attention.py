"""attention and grouped_query_attention in float64 against other implementations, where their conventions meet ours."""

import numpy as np
import pytest
from hypothesis import given, settings

import refattn
from refattn import masks
from refattn.testing import adapters
from tests.peers.agreement import SEEDS, SIZES, assert_agree, calls, holes, qkv

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

# JAX and transformers do their softmax in float32 whatever the inputs are. ONNX's default scale is a float32 attribute in onnxruntime.
TOLERANCE = {
    "onnx": 1e-12, "onnxruntime": 1e-6, "torch": 1e-12, "torch.math": 1e-12, "torch.flex": 1e-12, "jax": 1e-6,
    "transformers": 1e-6,
}  # fmt: skip
NAMES = sorted(calls(0, (2, 3, 5, 7, 11, 13)))


@pytest.fixture(scope="module", params=TOLERANCE)
def adapter(request):
    for library in adapters.missing(request.param):
        pytest.importorskip(library)
    return adapters.get(request.param)


def same_head_sizes(adapter, sizes):
    """jax.nn.dot_product_attention takes no Dv but D."""
    return (*sizes[:5], sizes[4]) if adapter.name == "jax" else sizes


@pytest.mark.parametrize("name", NAMES)
@given(seed=SEEDS, sizes=SIZES)
@settings(max_examples=6)
def test_attention(adapter, name, seed, sizes):
    sizes = same_head_sizes(adapter, sizes)
    q, k, v = qkv(seed, sizes)
    options = calls(seed, sizes)[name]
    got = adapter.functions["attention"](q, k, v, **options)
    assert_agree(got, refattn.attention(q, k, v, **options), TOLERANCE[adapter.name])


@given(seed=SEEDS, sizes=SIZES)
@settings(max_examples=10)
def test_grouped_queries(adapter, seed, sizes):
    sizes = same_head_sizes(adapter, sizes)
    for groups, options in ((2, {}), (3, {"mask": holes(seed, 1, 3 * sizes[1], *sizes[2:4])})):
        q, k, v = qkv(seed, sizes, groups=groups)
        got = adapter.functions["grouped_query_attention"](q, k, v, **options)
        assert_agree(got, refattn.grouped_query_attention(q, k, v, **options), TOLERANCE[adapter.name])
    k, v = k[:, :1], v[:, :1]
    got = adapter.functions["grouped_query_attention"](q, k, v)
    assert_agree(got, refattn.multi_query_attention(q, k[:, 0], v[:, 0]), TOLERANCE[adapter.name])


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 1, 3), (1, 2, 3, 2)])
def test_leading_axes(adapter, lead):
    rng = np.random.default_rng(len(lead))
    q, k, v = (rng.normal(size=(*lead, size, 4)) for size in (5, 7, 7))
    bias, allowed = rng.normal(size=(*lead, 5, 7)), holes(0, *lead[:1], *(1,) * len(lead[1:]), 5, 7)
    got = adapter.functions["attention"](q, k, v, allowed, bias=bias)
    assert_agree(got, refattn.attention(q, k, v, allowed, bias=bias), TOLERANCE[adapter.name])


def test_leading_axes_that_broadcast(adapter):
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 5, 4)), rng.normal(size=(2, 1, 7, 4)), rng.normal(size=(7, 4))
    got = adapter.functions["attention"](q, k, v)
    assert_agree(got, refattn.attention(q, k, v), TOLERANCE[adapter.name])


@given(seed=SEEDS, sizes=SIZES)
@settings(max_examples=10)
def test_onnx_windows_and_softcap(seed, sizes):
    pytest.importorskip("onnx")
    adapter = adapters.get("onnx")
    q, k, v = qkv(seed, sizes)
    positions = {"q_positions": np.arange(sizes[2])}
    for mask in (masks.window(2, 1), masks.causal() & masks.window(1, 0), masks.window(None, 2)):
        options = {"mask": mask, "softcap": 1.5, **positions}
        assert_agree(adapter.functions["attention"](q, k, v, **options), refattn.attention(q, k, v, **options))


@given(seed=SEEDS, sizes=SIZES)
@settings(max_examples=10)
def test_onnxruntime_to_float64_where_the_root_of_the_scale_is_exact(seed, sizes):
    for library in ("onnx", "onnxruntime"):
        pytest.importorskip(library)
    adapter = adapters.get("onnxruntime")
    q, k, v = qkv(seed, sizes)
    for options in (
        {"scale": 0.25},
        {"scale": 1.0, "mask": holes(seed, *sizes[2:4])},
        {"scale": 0.0625, "softcap": 2.0},
    ):
        assert_agree(adapter.functions["attention"](q, k, v, **options), refattn.attention(q, k, v, **options))


@given(seed=SEEDS, sizes=SIZES)
@settings(max_examples=10)
def test_jax_log_sum_exp(seed, sizes):
    pytest.importorskip("jax")
    adapter = adapters.get("jax")
    q, k, v = qkv(seed, same_head_sizes(adapter, sizes))
    got, want = adapter.functions["attention"](q, k, v, return_lse=True), refattn.attention(q, k, v, return_lse=True)
    for ours, theirs in zip(got, want, strict=True):
        assert_agree(ours, theirs, TOLERANCE["jax"])


@given(seed=SEEDS, sizes=SIZES)
@settings(max_examples=10)
def test_torch_multi_head_attention(seed, sizes):
    torch = pytest.importorskip("torch")
    b, h, n, m, d, _ = sizes
    rng = np.random.default_rng(seed)
    x_q, x_kv = rng.normal(size=(b, n, h * d)), rng.normal(size=(b, m, h * d))
    torch.manual_seed(seed % 2**31)
    layer = torch.nn.MultiheadAttention(h * d, h, batch_first=True, dtype=torch.float64)
    torch.nn.init.normal_(layer.in_proj_bias)
    torch.nn.init.normal_(layer.out_proj.bias)
    weights = {name: parameter.detach().numpy() for name, parameter in layer.named_parameters()}
    params = refattn.PackedMultiHeadParams(
        w_qkv=weights["in_proj_weight"].T,
        w_o=weights["out_proj.weight"].T,
        b_qkv=weights["in_proj_bias"],
        b_o=weights["out_proj.bias"],
    )
    allowed = holes(seed, n, m)
    tensors = [torch.tensor(x) for x in (x_q, x_kv, x_kv)]
    with torch.no_grad():
        got, weights = layer(*tensors, attn_mask=torch.tensor(~allowed), average_attn_weights=False)  # True: left out
    want = refattn.multi_head_attention(x_q, x_kv, params, heads=h, mask=allowed)
    assert_agree(got.numpy(), want)
    one = params.unpack(h)
    heads = (refattn.split_heads(x @ w + b, h) for x, w, b in ((x_q, one.w_q, one.b_q), (x_kv, one.w_k, one.b_k)))
    assert_agree(weights.numpy(), refattn.attention_weights(*heads, allowed))


@pytest.mark.parametrize("name", ["onnx", "onnxruntime"])
@pytest.mark.parametrize("shape", [(5, 1), (2, 3, 5, 1), (2, 1, 5, 1)])
def test_onnx_masks_of_one_key_are_for_all_keys(name, shape):
    for library in adapters.missing(name):
        pytest.importorskip(library)
    q, k, v = qkv(0, (2, 3, 5, 7, 4, 4))
    bias = np.random.default_rng(0).normal(size=shape)
    got = adapters.get(name).functions["attention"](q, k, v, bias=bias)
    assert_agree(got, refattn.attention(q, k, v, bias=bias), TOLERANCE[name])
