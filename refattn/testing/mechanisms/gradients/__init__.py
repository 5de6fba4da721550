"""Gradients of all that has one: vector-Jacobian products."""

from __future__ import annotations

from refattn import gradients
from refattn.gradients import (
    attention_vjp,
    checkpoint_vjp,
    feed_forward_vjp,
    gated_feed_forward_vjp,
    gelu_vjp,
    grouped_query_attention_vjp,
    layer_norm_vjp,
    linear_vjp,
    logsumexp_vjp,
    merge_vjp,
    multi_head_attention_vjp,
    multi_query_attention_vjp,
    rms_norm_vjp,
    rope_vjp,
    rotate_vjp,
    softmax_vjp,
)
from refattn.testing.mechanisms.feedforward.inputs import gated, gated_networks
from refattn.testing.mechanisms.gradients import bounds, inputs
from refattn.testing.mechanisms.gradients.variants import collected, of_mask
from refattn.testing.mechanisms.heads import repeated
from refattn.testing.mechanisms.norms.inputs import layer_norm, rms_norm
from refattn.testing.mechanisms.positions.inputs import rotation, rotations, rotations_by_tables, tables
from refattn.testing.subject import Equal, Subject


def summed_over_groups(found, given):
    """The gradients of the copies of a key/value head are summed."""
    heads, kv_heads = given["q"].shape[-3], given["k"].shape[-3]
    return collected(found, heads, kv_heads, lambda x: x.sum(axis=-3))


ATTENTION_VJP = Subject(
    attention_vjp,
    inputs.attention_vjp,
    "GRAD-EXACT",
    inputs.attentions,
    derive=(("Mask.dense", of_mask),),
    bound=bounds.attention_vjp_bound,
)
GROUPED_QUERY_ATTENTION_VJP = Subject(
    grouped_query_attention_vjp,
    inputs.grouped_vjp,
    "GRAD-GROUP",
    inputs.groups,
    equals=Equal("attention_vjp", repeated, summed_over_groups),
    bound=bounds.grouped_query_attention_vjp_bound,
)
MULTI_QUERY_ATTENTION_VJP = Subject(
    multi_query_attention_vjp, inputs.multi_query_vjp, "GRAD-GROUP", inputs.multi_queries
)
MULTI_HEAD_ATTENTION_VJP = Subject(
    multi_head_attention_vjp, inputs.layer_vjp, "GRAD-MHA", inputs.layers, whole=("kv_heads",)
)

SOFTMAX_VJP = Subject(softmax_vjp, inputs.softmax_vjp, "GRAD-SOFTMAX", inputs.softmaxes)
LOGSUMEXP_VJP = Subject(logsumexp_vjp, inputs.logsumexp_vjp, "GRAD-SOFTMAX", inputs.logsumexps)
MERGE_VJP = Subject(merge_vjp, inputs.merge_vjp, "GRAD-MERGE", inputs.merges)
LAYER_NORM_VJP = Subject(layer_norm_vjp, inputs.of_random(layer_norm), "GRAD-EXACT", inputs.norms)
RMS_NORM_VJP = Subject(rms_norm_vjp, inputs.of_random(rms_norm), "GRAD-EXACT", inputs.norms)
ROPE_VJP = Subject(rope_vjp, inputs.of_random(rotation), "GRAD-ROPE", inputs.of_directed(rotations, "GRAD-ROPE"))
ROTATE_VJP = Subject(
    rotate_vjp, inputs.of_random(tables), "GRAD-ROPE", inputs.of_directed(rotations_by_tables, "GRAD-ROPE")
)
LINEAR_VJP = Subject(linear_vjp, inputs.linear_vjp, "GRAD-LINEAR", inputs.products)
FEED_FORWARD_VJP = Subject(feed_forward_vjp, inputs.feed_forward_vjp, "GRAD-FFN", inputs.networks)
GATED_FEED_FORWARD_VJP = Subject(
    gated_feed_forward_vjp, inputs.of_random(gated), "GRAD-GLU", inputs.of_directed(gated_networks, "GRAD-GLU")
)
CHECKPOINT_VJP = Subject(checkpoint_vjp, inputs.chain, "GRAD-CHECKPOINT")


def _activation(name):
    return Subject(getattr(gradients, f"{name}_vjp"), inputs.of_random(inputs.line), "GRAD-ACT", inputs.activations)


RELU_VJP, QUICK_GELU_VJP, SILU_VJP = map(_activation, ("relu", "quick_gelu", "silu"))
SQUARED_RELU_VJP, SOFTPLUS_VJP = map(_activation, ("squared_relu", "softplus"))
SIGMOID_VJP, TANH_VJP = map(_activation, ("sigmoid", "tanh"))
GELU_VJP = Subject(gelu_vjp, inputs.of_random(inputs.line_for_gelu), "GRAD-ACT", inputs.activations)
