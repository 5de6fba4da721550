"""Variants of activations, feed-forward networks and packed gates."""

from __future__ import annotations

import numpy as np

from refattn import backend, feedforward
from refattn.feedforward import ACTIVATIONS, FeedForwardParams, GateAndUp, GatedFeedForwardParams
from refattn.testing.registry import NotApplicable, variant


def _quietly(function):
    """The function without warnings: overflow to infinity or NaN is what these variants are about."""
    return np.errstate(all="ignore")(function)


# --- activations ----------------------------------------------------------------------------------------------------


@variant("relu/nan_dropped", "ACT-RANGE", "relu", seen=["CUDA fmaxf(x, 0)"])
def relu_nan_dropped(x):
    """A maximum that prefers numbers turns NaN into 0 and hides where it came from."""
    return np.fmax(x, 0.0)


@variant("relu/leaky", "ACT-RELU", "relu")
def relu_leaky(x):
    """Negative x keeps a slope of 0.01."""
    return np.where(x < 0, 0.01 * x, x)


@variant("squared_relu/unrectified", "ACT-SQUARED-RELU", "squared_relu")
def squared_relu_unrectified(x):
    """The square of x itself, of negative x too."""
    return x * x


@variant("squared_relu/relu", "ACT-SQUARED-RELU", "squared_relu")
def squared_relu_relu(x):
    """ReLU that is not squared."""
    return feedforward.relu(x)


@variant(
    "gelu/tanh",
    "ACT-GELU",
    "gelu",
    seen=["jax.nn.gelu (its default)", "Hugging Face gelu_new", "Blaizzy/mlx-embeddings#81"],
    advice='pass approximate="tanh"',
)
def gelu_tanh(x, approximate=None):
    """The approximation with tanh where the exact function is right: off by up to 4.7e-4."""
    if approximate is not None:
        raise NotApplicable
    return feedforward.gelu(x, "tanh")


@variant(
    "gelu/exact_for_tanh",
    "ACT-GELU-TANH",
    "gelu",
    seen=["OpenNMT/CTranslate2#1658", "Lightning-AI/litgpt#1004", "apple/coremltools#2863"],
    advice="pass approximate=None",
)
def gelu_exact_for_tanh(x, approximate=None):
    """The exact function where the approximation with tanh is right."""
    if approximate is None:
        raise NotApplicable
    return feedforward.gelu(x)


@variant("gelu/quick", "ACT-GELU", "gelu", seen=["Hugging Face quick_gelu"], advice="use quick_gelu")
def gelu_quick(x, approximate=None):
    """x sigmoid(1.702 x), the approximation by a sigmoid: off by up to 0.02."""
    return feedforward.quick_gelu(x)


@variant("gelu/without_root_2", "ACT-GELU", "gelu")
@_quietly
def gelu_without_root_2(x, approximate=None):
    """erf of x instead of x/√2."""
    if approximate is not None:
        raise NotApplicable
    return 0.5 * x * (1.0 + backend.special(np, "erf")(x))


@variant("gelu/cube_without_x", "ACT-GELU-TANH", "gelu")
@_quietly
def gelu_cube_without_x(x, approximate=None):
    """√(2/π) multiplies x alone and not the cube: parentheses are lost."""
    if approximate is None:
        raise NotApplicable
    return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * x + 0.044715 * x**3))


@variant("activation/infinity_times_zero", "ACT-RANGE", "gelu", seen=["torch.nn.functional.gelu", "jax.nn.gelu"])
@_quietly
def gelu_infinity_times_zero(x, approximate=None):
    """-infinity times a weight of 0 is NaN."""
    return np.where(np.isneginf(x), np.nan, feedforward.gelu(x, approximate))


@variant("activation/infinity_times_zero", "ACT-RANGE", "silu", seen=["torch.nn.functional.silu", "jax.nn.silu"])
@_quietly
def silu_infinity_times_zero(x):
    """-infinity times a weight of 0 is NaN."""
    return np.where(np.isneginf(x), np.nan, feedforward.silu(x))


@variant("activation/infinity_times_zero", "ACT-RANGE", "quick_gelu", seen=["Hugging Face quick_gelu"])
@_quietly
def quick_gelu_infinity_times_zero(x):
    """-infinity times a weight of 0 is NaN."""
    return np.where(np.isneginf(x), np.nan, feedforward.quick_gelu(x))


@variant("quick_gelu/exact", "ACT-QUICK-GELU", "quick_gelu", advice="use gelu")
def quick_gelu_exact(x):
    """The exact GELU, for weights that were trained with the approximation by a sigmoid."""
    return feedforward.gelu(x)


@variant("quick_gelu/silu", "ACT-QUICK-GELU", "quick_gelu", advice="use silu")
def quick_gelu_silu(x):
    """The factor 1.702 is missing."""
    return feedforward.silu(x)


@variant("silu/sigmoid", "ACT-SILU", "silu", advice="use sigmoid")
def silu_sigmoid(x):
    """The sigmoid without the factor x."""
    return feedforward.sigmoid(x)


@variant("silu/quick_gelu", "ACT-SILU", "silu", advice="use quick_gelu")
def silu_quick_gelu(x):
    """Swish with β = 1.702 instead of 1."""
    return feedforward.quick_gelu(x)


@variant("silu/naive_overflow", "ACT-RANGE", "silu")
@_quietly
def silu_naive_overflow(x):
    """x exp(x) / (1 + exp(x)), which is infinity over infinity for large x."""
    return x * np.exp(x) / (1.0 + np.exp(x))


@variant("sigmoid/naive_overflow", "ACT-RANGE", "sigmoid")
@_quietly
def sigmoid_naive_overflow(x):
    """exp(x) / (1 + exp(x)), which is infinity over infinity for large x."""
    return np.exp(x) / (1.0 + np.exp(x))


@variant("sigmoid/hard", "ACT-SIGMOID", "sigmoid", seen=["torch.nn.functional.hardsigmoid"])
def sigmoid_hard(x):
    """A straight line between -3 and 3."""
    return np.clip(x / 6.0 + 0.5, 0.0, 1.0)


@variant("tanh/naive_overflow", "ACT-RANGE", "tanh")
@_quietly
def tanh_naive_overflow(x):
    """A quotient of exponentials, infinity over infinity for large x."""
    return (np.exp(x) - np.exp(-x)) / (np.exp(x) + np.exp(-x))


@variant("tanh/sigmoid", "ACT-TANH", "tanh")
def tanh_sigmoid(x):
    """2 sigmoid(x) - 1, which is tanh of x/2."""
    return 2.0 * feedforward.sigmoid(x) - 1.0


@variant("softplus/naive_overflow", "ACT-RANGE", "softplus")
@_quietly
def softplus_naive_overflow(x):
    """ln(1 + exp(x)) as it is written, infinite for large x."""
    return np.log(1.0 + np.exp(x))


@variant("softplus/relu", "ACT-SOFTPLUS", "softplus")
def softplus_relu(x):
    """ReLU, to which softplus is close far from 0."""
    return feedforward.relu(x)


# --- the plain network ----------------------------------------------------------------------------------------------


def _plain(x, params, activation, **changes):
    return feedforward.feed_forward(x, params._replace(**changes), activation=activation)


@variant(
    "ffn/weights_transposed",
    "FFN-OUT",
    "feed_forward",
    seen=["torch.nn.Linear weights as they come"],
    advice="pass w.T",
)
def ffn_weights_transposed(x, params: FeedForwardParams, *, activation="relu"):
    """Weights multiply as x wᵀ; square ones do not complain."""
    e, f = params.w_in.shape
    if e != f or params.w_out.shape != (f, e):
        raise NotApplicable
    return _plain(x, params, activation, w_in=params.w_in.T, w_out=params.w_out.T)


@variant("ffn/bias_dropped", "FFN-OUT", "feed_forward")
def ffn_bias_dropped(x, params: FeedForwardParams, *, activation="relu"):
    """The biases are not added."""
    if params.b_in is None and params.b_out is None:
        raise NotApplicable
    return _plain(x, params, activation, b_in=None, b_out=None)


@variant("ffn/bias_after_activation", "FFN-OUT", "feed_forward")
def ffn_bias_after_activation(x, params: FeedForwardParams, *, activation="relu"):
    """The first bias is added after the activation."""
    if params.b_in is None:
        raise NotApplicable
    hidden = ACTIVATIONS[activation](x @ params.w_in) + params.b_in
    return hidden @ params.w_out + (0.0 if params.b_out is None else params.b_out)


@variant("ffn/activated_output", "FFN-OUT", "feed_forward")
def ffn_activated_output(x, params: FeedForwardParams, *, activation="relu"):
    """The output passes through the activation too."""
    return ACTIVATIONS[activation](_plain(x, params, activation))


@variant("ffn/activation_ignored", "FFN-OUT", "feed_forward")
def ffn_activation_ignored(x, params: FeedForwardParams, *, activation="relu"):
    """Always ReLU, whatever was asked."""
    if activation == "relu":
        raise NotApplicable
    return _plain(x, params, "relu")


@variant("ffn/output_bias_dropped", "FFN-OUT", "feed_forward")
def ffn_output_bias_dropped(x, params: FeedForwardParams, *, activation="relu"):
    """The second bias is not added."""
    if params.b_out is None:
        raise NotApplicable
    return _plain(x, params, activation, b_out=None)


@variant("ffn/not_activated", "FFN-OUT", "feed_forward")
def ffn_not_activated(x, params: FeedForwardParams, *, activation="relu"):
    """No activation: two matrices in a row."""
    hidden = x @ params.w_in + (0.0 if params.b_in is None else params.b_in)
    return hidden @ params.w_out + (0.0 if params.b_out is None else params.b_out)


# --- the gated network ----------------------------------------------------------------------------------------------


def _projections(x, params):
    gate, up = x @ params.w_gate, x @ params.w_up
    return (
        gate if params.b_gate is None else gate + params.b_gate,
        up if params.b_up is None else up + params.b_up,
    )


def _out(hidden, params):
    y = hidden @ params.w_out
    return y if params.b_out is None else y + params.b_out


@variant(
    "glu/gate_order",
    "GLU-OUT",
    "gated_feed_forward",
    seen=["ml-explore/mlx-lm#767"],
    advice="swap w_gate and w_up, b_gate and b_up",
)
def glu_gate_order(x, params: GatedFeedForwardParams, *, activation="silu"):
    """The activation is applied to the up projection: f(up) gate instead of f(gate) up."""
    gate, up = _projections(x, params)
    return _out(ACTIVATIONS[activation](up) * gate, params)


@variant("glu/activation_of_product", "GLU-OUT", "gated_feed_forward", seen=["Nijikadesu/breakdown-minimind#3"])
def glu_activation_of_product(x, params: GatedFeedForwardParams, *, activation="silu"):
    """The activation is applied to the product: f(gate up) instead of f(gate) up."""
    gate, up = _projections(x, params)
    return _out(ACTIVATIONS[activation](gate * up), params)


@variant("glu/activation_ignored", "GLU-OUT", "gated_feed_forward")
def glu_activation_ignored(x, params: GatedFeedForwardParams, *, activation="silu"):
    """Always SwiGLU, whatever was asked."""
    if activation == "silu":
        raise NotApplicable
    return feedforward.gated_feed_forward(x, params)


@variant("glu/bias_dropped", "GLU-OUT", "gated_feed_forward")
def glu_bias_dropped(x, params: GatedFeedForwardParams, *, activation="silu"):
    """The biases are not added."""
    if params.b_gate is None and params.b_up is None and params.b_out is None:
        raise NotApplicable
    bare = params._replace(b_gate=None, b_up=None, b_out=None)
    return feedforward.gated_feed_forward(x, bare, activation=activation)


@variant("glu/clamped_plus_one", "GLU-OUT", "gated_feed_forward", seen=["gpt-oss"])
def glu_clamped_plus_one(x, params: GatedFeedForwardParams, *, activation="silu"):
    """(up + 1) quick_gelu(gate), with the gate clamped to at most 7 and up to ±7."""
    gate, up = _projections(x, params)
    gate, up = np.minimum(gate, 7.0), np.clip(up, -7.0, 7.0)
    return _out((up + 1.0) * feedforward.quick_gelu(gate), params)


@variant("glu/both_activated", "GLU-OUT", "gated_feed_forward")
def glu_both_activated(x, params: GatedFeedForwardParams, *, activation="silu"):
    """The activation is applied to both: f(gate) f(up)."""
    gate, up = _projections(x, params)
    return _out(ACTIVATIONS[activation](gate) * ACTIVATIONS[activation](up), params)


@variant("glu/up_ignored", "GLU-OUT", "gated_feed_forward")
def glu_up_ignored(x, params: GatedFeedForwardParams, *, activation="silu"):
    """The gate alone: a plain network."""
    return _out(ACTIVATIONS[activation](_projections(x, params)[0]), params)


@variant("glu/sum", "GLU-OUT", "gated_feed_forward")
def glu_sum(x, params: GatedFeedForwardParams, *, activation="silu"):
    """Gate and up are added instead of multiplied."""
    gate, up = _projections(x, params)
    return _out(ACTIVATIONS[activation](gate) + up, params)


@variant("glu/not_activated", "GLU-OUT", "gated_feed_forward", seen=["the bilinear layer of Shazeer 2020"])
def glu_not_activated(x, params: GatedFeedForwardParams, *, activation="silu"):
    """No activation: gate times up."""
    gate, up = _projections(x, params)
    return _out(gate * up, params)


# --- packed gates ---------------------------------------------------------------------------------------------------


def _other_order(order):
    def call(packed, gate_order):
        if gate_order == order:
            raise NotApplicable
        return GateAndUp(*feedforward.split_gate(packed, order))

    return call


@variant(
    "packed_gate/first",
    "GLU-PACKED",
    "feedforward.split_gate",
    seen=["Hugging Face gate_up_proj"],
    advice='pass gate_order="first"',
)
def packed_gate_first(packed, gate_order):
    """The first half is taken for the gate."""
    return _other_order("first")(packed, gate_order)


@variant(
    "packed_gate/second",
    "GLU-PACKED",
    "feedforward.split_gate",
    seen=["torch.nn.functional.glu", "diffusers GEGLU", "x-transformers GLU"],
    advice='pass gate_order="second"',
)
def packed_gate_second(packed, gate_order):
    """The second half is taken for the gate."""
    return _other_order("second")(packed, gate_order)


@variant(
    "packed_gate/interleaved",
    "GLU-PACKED",
    "feedforward.split_gate",
    seen=["gpt-oss"],
    advice='pass gate_order="interleaved"',
)
def packed_gate_interleaved(packed, gate_order):
    """The even columns are taken for the gate."""
    return _other_order("interleaved")(packed, gate_order)
