"""Gradients in float64 against automatic differentiation by torch and by jax."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import refattn
from refattn import FeedForwardParams, GatedFeedForwardParams, gradients, masks
from refattn.testing.nested import paths
from tests.peers.agreement import SEEDS, SIZES, holes, qkv

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")

import torch.nn.functional as F  # noqa: E402

jnp = jax.numpy

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
TOLERANCE = 1e-10


def assert_gradients(found, want):
    """To 1e-10 of the largest element of each, or of the whole where one vanishes but for rounding."""
    found = {name: x for name, x in paths(found) if x is not None}
    want = {name: np.asarray(x) for name, x in want.items()}
    assert set(found) == set(want)
    whole = max((np.max(np.abs(x), initial=0.0) for x in want.values()), default=0.0)
    for name, x in want.items():
        assert found[name].shape == x.shape, name
        size = max(np.max(np.abs(x), initial=0.0), 1e-3 * whole)
        difference = np.max(np.abs(found[name] - x), initial=0.0)
        assert difference <= TOLERANCE * size, (name, difference, size)


def by_torch(function, inputs, cotangents):
    """The gradients of a function of torch tensors by every input."""
    leaves = {name: torch.tensor(x, requires_grad=True) for name, x in inputs.items()}
    out = function(**leaves)
    out = out if isinstance(out, tuple) else (out,)
    loss = sum((torch.tensor(c) * o).sum() for c, o in zip(cotangents, out, strict=True) if c is not None)
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return {name: x.numpy() for name, x in zip(leaves, found, strict=True)}


def by_jax(function, inputs, cotangents):
    """The gradients of a function of jax arrays by every input."""

    def call(inputs):
        out = function(**inputs)
        out = out if isinstance(out, tuple) else (out,)
        return tuple(o for o, c in zip(out, cotangents, strict=True) if c is not None)

    with jax.enable_x64(True):
        _, pull = jax.vjp(call, {name: jnp.asarray(x) for name, x in inputs.items()})
        return pull(tuple(jnp.asarray(c) for c in cotangents if c is not None))[0]


# --- attention ------------------------------------------------------------------------------------------------------


def attention_in(xp, softmax, logsumexp, where, transpose, allowed, keep, rate, softcap):
    """Attention as anybody would write it down in a framework; rows without any key are not among its inputs."""

    def attend(q, k, v, scale, bias=None, sinks=None):
        s = scale * (q @ transpose(k))
        s = s if softcap is None else softcap * xp.tanh(s / softcap)
        s = s if bias is None else s + bias
        s = s if allowed is None else where(allowed, s)
        lse = logsumexp(s)
        if sinks is None:
            p = softmax(s)
        else:  # one more column, which is then cut off
            column = sinks[..., None, None] + 0.0 * s[..., :1]
            p = softmax(xp.concatenate([s, column], -1))[..., :-1]
        p = p if keep is None else p * xp.asarray(keep) / (1.0 - rate)
        return p @ v, lse

    return attend


def attention_of(framework, allowed, keep, rate, softcap):
    if framework == "torch":
        admitted = None if allowed is None else torch.tensor(allowed)
        return attention_in(
            torch,
            lambda s: torch.softmax(s, -1),
            lambda s: torch.logsumexp(s, -1),
            lambda a, s: s.masked_fill(~admitted, -math.inf),
            lambda x: x.transpose(-1, -2),
            allowed,
            keep,
            rate,
            softcap,
        )
    return attention_in(
        jnp,
        lambda s: jax.nn.softmax(s, -1),
        lambda s: jax.nn.logsumexp(s, -1),
        lambda a, s: jnp.where(a, s, -jnp.inf),
        lambda x: jnp.swapaxes(x, -1, -2),
        allowed,
        keep,
        rate,
        softcap,
    )


BY = {"torch": by_torch, "jax": by_jax}


def case(seed, sizes, flags, groups=1):
    """Inputs, options and cotangents with the chosen ones of all options."""
    b, h, n, m, _, dv = sizes
    heads = h * groups
    rng = np.random.default_rng(seed)
    q, k, v = qkv(seed, sizes, groups=groups)
    inputs = {"q": q, "k": k, "v": v, "scale": np.asarray(rng.normal() / 2)}
    inputs |= {"bias": rng.normal(size=(b, 1, 1, m))} if "bias" in flags else {}
    inputs |= {"sinks": rng.normal(size=heads)} if "sinks" in flags else {}
    allowed = holes(seed, b, 1, n, m) if "mask" in flags else None
    keep = rng.random((b, heads, n, m)) < 0.7 if "dropout" in flags else None
    softcap = 2.5 if "softcap" in flags else None
    cotangents = rng.normal(size=(b, heads, n, dv)), rng.normal(size=(b, heads, n)) if "lse" in flags else None
    return inputs, allowed, keep, softcap, cotangents


def called(vjp, inputs, allowed, keep, softcap, cotangents):
    options = dict(inputs) | {"scale": float(inputs["scale"])}
    dropout = None if keep is None else (keep, 0.3)
    return vjp(cotangents[0], mask=allowed, softcap=softcap, dropout=dropout, d_lse=cotangents[1], **options)


FLAGS = st.sets(st.sampled_from(["bias", "sinks", "mask", "dropout", "softcap", "lse"]))


def check_attention(framework, seed, sizes, flags):
    inputs, allowed, keep, softcap, cotangents = case(seed, sizes, flags)
    want = BY[framework](attention_of(framework, allowed, keep, 0.3, softcap), inputs, cotangents)
    assert_gradients(called(refattn.attention_vjp, inputs, allowed, keep, softcap, cotangents), want)


@given(seed=SEEDS, sizes=SIZES, flags=FLAGS)
@settings(max_examples=60)
def test_attention_in_torch(seed, sizes, flags):
    check_attention("torch", seed, sizes, flags)


@given(seed=SEEDS, flags=FLAGS)
@settings(max_examples=8)
def test_attention_in_jax(seed, flags):
    check_attention("jax", seed, (2, 3, 5, 7, 4, 6), flags)  # it compiles anew for every shape


@given(seed=SEEDS, sizes=SIZES, flags=FLAGS, groups=st.sampled_from([2, 3]))
@settings(max_examples=20)
def test_grouped_queries(seed, sizes, flags, groups):
    inputs, allowed, keep, softcap, cotangents = case(seed, sizes, flags, groups)
    one_each = attention_of("torch", allowed, keep, 0.3, softcap)

    def attend(k, v, **rest):
        return one_each(k=k.repeat_interleave(groups, 1), v=v.repeat_interleave(groups, 1), **rest)

    want = by_torch(attend, inputs, cotangents)
    assert_gradients(called(refattn.grouped_query_attention_vjp, inputs, allowed, keep, softcap, cotangents), want)


@pytest.mark.parametrize("causal", [False, True])
@given(seed=SEEDS, sizes=SIZES)
@settings(max_examples=10)
def test_the_kernel_of_torch(causal, seed, sizes):
    q, k, v = qkv(seed, sizes, groups=2)
    d_out = np.random.default_rng(seed).normal(size=(*q.shape[:-1], v.shape[-1]))
    n, m = q.shape[-2], k.shape[-2]
    mask = masks.causal() if causal else None
    positions = {"q_positions": np.arange(n), "k_positions": np.arange(m)}  # causality of torch starts at the top left

    def attend(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)

    want = by_torch(attend, {"q": q, "k": k, "v": v}, (d_out,))
    found = refattn.grouped_query_attention_vjp(d_out, q, k, v, mask, **positions)
    assert_gradients(found._replace(scale=None), want)


def test_rows_without_any_key_have_no_gradient_in_torch_either():
    q, k, v = qkv(0, (2, 3, 5, 7, 4, 4))
    allowed = np.ones((5, 7), dtype=bool)
    allowed[2] = False
    d_out = np.random.default_rng(1).normal(size=q.shape)

    def attend(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=torch.tensor(allowed))

    want = by_torch(attend, {"q": q, "k": k, "v": v}, (d_out,))
    assert_gradients(refattn.attention_vjp(d_out, q, k, v, allowed)._replace(scale=None), want)


def test_known_deviations():
    """What variants say was seen in torch and jax is what they do."""
    x, ones = np.array([20.0]), np.ones(1)
    assert gradients.tanh_vjp(ones, x).x[0] > 1e-18
    for by, tanh in ((by_torch, torch.tanh), (by_jax, jnp.tanh)):  # gradient/tanh_cancels
        assert by(lambda x, tanh=tanh: tanh(x), {"x": x}, (ones,))["x"][0] == 0
    q, k, v = (x.swapaxes(1, 2) for x in qkv(0, (2, 3, 5, 7, 4, 4)))  # jax has (B, N, H, D)
    allowed = np.ones((5, 7), dtype=bool)
    allowed[2] = False
    d_out = np.zeros(q.shape)
    d_out[:, 2] = 1.0

    def attend(q, k, v):
        return jax.nn.dot_product_attention(q, k, v, mask=jnp.asarray(allowed)[None, None])

    want = by_jax(attend, {"q": q, "k": k, "v": v}, (d_out,))  # gradient/empty_row_mean
    np.testing.assert_allclose(want["v"], np.full(v.shape, 1 / 7), rtol=1e-6)
    assert not np.any(want["k"])

    def lse(q, k, v):
        return jax.nn.dot_product_attention(q, k, v, return_residual=True)[1]

    want = by_jax(lse, {"q": q, "k": k, "v": v}, (np.ones((2, 5, 3)),))  # gradient/lse_ignored
    assert not any(np.any(x) for x in want.values())


# --- pieces ---------------------------------------------------------------------------------------------------------

SHAPES = st.permutations([2, 3, 5, 7]).map(lambda sizes: tuple(sizes[:3]))


def both(function_of_torch, function_of_jax, found, inputs, *cotangents):
    for by, function in ((by_torch, function_of_torch), (by_jax, function_of_jax)):
        if function is not None:
            assert_gradients(found, by(function, inputs, cotangents))


@given(seed=SEEDS, shape=SHAPES, axis=st.integers(-3, 2))
@settings(max_examples=3)
def test_softmax_and_lse(seed, shape, axis):
    rng = np.random.default_rng(seed)
    x, d = rng.normal(size=shape) * 5.0, rng.normal(size=shape)
    both(
        lambda x: torch.softmax(x, axis),
        lambda x: jax.nn.softmax(x, axis),
        refattn.softmax_vjp(d, x, axis),
        {"x": x},
        d,
    )
    d = rng.normal(size=np.delete(shape, axis))
    both(
        lambda x: torch.logsumexp(x, axis),
        lambda x: jax.nn.logsumexp(x, axis),
        refattn.logsumexp_vjp(d, x, axis),
        {"x": x},
        d,
    )


ACTIVATIONS = {
    "relu": (torch.relu, jax.nn.relu),
    "gelu": (F.gelu, lambda x: jax.nn.gelu(x, approximate=False)),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), jax.nn.gelu),
    "quick_gelu": (lambda x: x * torch.sigmoid(1.702 * x), lambda x: x * jax.nn.sigmoid(1.702 * x)),
    "silu": (F.silu, jax.nn.silu),
    "squared_relu": (lambda x: torch.relu(x) ** 2, lambda x: jax.nn.relu(x) ** 2),
    "softplus": (lambda x: F.softplus(x, threshold=40.0), jax.nn.softplus),
    "sigmoid": (torch.sigmoid, jax.nn.sigmoid),
    "tanh": (torch.tanh, jnp.tanh),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    x = np.append(np.linspace(-8.0, 8.0, 101), 0.0)
    d = np.random.default_rng(0).normal(size=x.shape)
    of_torch, of_jax = ACTIVATIONS[name]
    found = gradients.ACTIVATION_VJPS[name](d, x)
    both(lambda x: of_torch(x), lambda x: of_jax(x), found, {"x": x}, d)


@pytest.mark.parametrize("axis", [-1, (-2, -1), (0, 1, 2)])
@given(seed=SEEDS, shape=SHAPES)
@settings(max_examples=2)
def test_norms(axis, seed, shape):
    rng = np.random.default_rng(seed)
    own = shape[axis if axis == -1 else axis[0] :]
    inputs = {"x": rng.normal(size=shape) + 2.0, "gamma": rng.normal(size=own), "beta": rng.normal(size=own)}
    d = rng.normal(size=shape)

    def layer_norm(x, gamma, beta):
        centred = x - jnp.mean(x, axis, keepdims=True)
        return centred / jnp.sqrt(jnp.mean(centred**2, axis, keepdims=True) + 1e-3) * gamma + beta

    found = refattn.layer_norm_vjp(d, **inputs, eps=1e-3, axis=axis)
    both(lambda x, gamma, beta: F.layer_norm(x, own, gamma, beta, 1e-3), layer_norm, found, inputs, d)

    def rms_norm(x, gamma):
        return x / jnp.sqrt(jnp.mean(x**2, axis, keepdims=True) + 1e-3) * (1.0 + gamma)

    del inputs["beta"]
    found = refattn.rms_norm_vjp(d, **inputs, eps=1e-3, axis=axis, unit_offset=True)
    both(lambda x, gamma: F.rms_norm(x, own, 1.0 + gamma, 1e-3), rms_norm, found, inputs, d)


@given(seed=SEEDS, shape=SHAPES)
@settings(max_examples=2)
def test_networks(seed, shape):
    rng = np.random.default_rng(seed)
    e = shape[-1]
    x, d = rng.normal(size=shape), rng.normal(size=(*shape[:-1], 4))
    plain = {"w_in": (e, 6), "b_in": (6,), "w_out": (6, 4), "b_out": (4,)}
    gated = {"w_gate": (e, 6), "w_up": (e, 6), "w_out": (6, 4), "b_gate": (6,), "b_up": (6,), "b_out": (4,)}
    plain, gated = ({name: rng.normal(size=s) for name, s in shapes.items()} for shapes in (plain, gated))

    def named(found):
        return {"x": found.x, **found.params._asdict()}

    def ffn(gelu):
        return lambda x, w_in, b_in, w_out, b_out: gelu(x @ w_in + b_in) @ w_out + b_out

    def glu(silu):
        return lambda x, w_gate, w_up, w_out, b_gate, b_up, b_out: (
            (silu(x @ w_gate + b_gate) * (x @ w_up + b_up)) @ w_out + b_out
        )

    found = named(refattn.feed_forward_vjp(d, x, FeedForwardParams(**plain), activation="gelu_tanh"))
    both(ffn(lambda z: F.gelu(z, approximate="tanh")), ffn(jax.nn.gelu), found, {"x": x, **plain}, d)
    found = named(refattn.gated_feed_forward_vjp(d, x, GatedFeedForwardParams(**gated)))
    both(glu(F.silu), glu(jax.nn.silu), found, {"x": x, **gated}, d)


@given(seed=SEEDS, shape=SHAPES, layout=st.sampled_from(["interleaved", "half"]))
@settings(max_examples=2)
def test_rotation(seed, shape, layout):
    rng = np.random.default_rng(seed)
    half = shape[-1]
    inputs = {
        "x": rng.normal(size=(*shape[:-1], 2 * half)),
        "cos": rng.normal(size=(shape[-2], half)),
        "sin": rng.normal(size=(shape[-2], half)),
    }
    d = rng.normal(size=inputs["x"].shape)

    def rotate(stack, concatenate):
        def turned(x, cos, sin):
            a, b = (x[..., 0::2], x[..., 1::2]) if layout == "interleaved" else (x[..., :half], x[..., half:])
            pair = (a * cos - b * sin, a * sin + b * cos)
            return stack(pair, -1).reshape(x.shape) if layout == "interleaved" else concatenate(pair, -1)

        return turned

    found = gradients.rotate_vjp(d, **inputs, layout=layout)
    both(rotate(torch.stack, torch.cat), rotate(jnp.stack, jnp.concatenate), found, inputs, d)


@given(seed=SEEDS, bias=st.booleans())
@settings(max_examples=10)
def test_the_multi_head_attention_of_torch(seed, bias):
    rng = np.random.default_rng(seed)
    shapes = {"w_q": (6, 6), "w_k": (6, 6), "w_v": (6, 6), "w_o": (6, 6)}
    shapes |= {"b_q": (6,), "b_k": (6,), "b_v": (6,), "b_o": (6,)} if bias else {}
    weights = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    inputs = {"x_q": rng.normal(size=(2, 5, 6)), "x_kv": rng.normal(size=(2, 7, 6)), **weights}
    d = rng.normal(size=(2, 5, 6))

    def multi_head(x_q, x_kv, w_q, w_k, w_v, w_o, b_q=None, b_k=None, b_v=None, b_o=None):
        packed = None if b_q is None else torch.cat([b_q, b_k, b_v])
        out, _ = F.multi_head_attention_forward(
            x_q.transpose(0, 1), x_kv.transpose(0, 1), x_kv.transpose(0, 1), 6, 3, None, packed, None, None, False,
            0.0, w_o.T, b_o, need_weights=False, use_separate_proj_weight=True, q_proj_weight=w_q.T,
            k_proj_weight=w_k.T, v_proj_weight=w_v.T,
        )  # fmt: skip
        return out.transpose(0, 1)

    found = refattn.multi_head_attention_vjp(
        d, inputs["x_q"], inputs["x_kv"], refattn.MultiHeadParams(**weights), heads=3
    )
    fields = {name: x for name, x in found.params._asdict().items() if x is not None}
    assert_gradients({"x_q": found.x_q, "x_kv": found.x_kv, **fields}, by_torch(multi_head, inputs, (d,)))
