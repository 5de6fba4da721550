"""Activations, the plain and the gated network."""

from __future__ import annotations

from refattn.feedforward import (
    feed_forward,
    gated_feed_forward,
    gelu,
    quick_gelu,
    relu,
    sigmoid,
    silu,
    softplus,
    split_gate,
    squared_relu,
    tanh,
)
from refattn.testing.mechanisms.feedforward import bounds, inputs
from refattn.testing.subject import Subject


def _activation(function):
    name, clause = function.__name__, f"ACT-{function.__name__.replace('_', '-').upper()}"
    return Subject(function, inputs.line, clause, inputs.lines(clause), bound=bounds.activation_bound(name))


RELU, QUICK_GELU, SILU, SQUARED_RELU = map(_activation, (relu, quick_gelu, silu, squared_relu))
SOFTPLUS, SIGMOID, TANH = map(_activation, (softplus, sigmoid, tanh))
GELU = Subject(gelu, inputs.line_for_gelu, "ACT-GELU", inputs.lines_for_gelu, bound=bounds.gelu_bound)
SPLIT_GATE = Subject(split_gate, inputs.packed, "GLU-PACKED")
FEED_FORWARD = Subject(feed_forward, inputs.network, "FFN-OUT", inputs.networks, bound=bounds.feed_forward_bound)
GATED_FEED_FORWARD = Subject(
    gated_feed_forward, inputs.gated, "GLU-OUT", inputs.gated_networks, bound=bounds.gated_feed_forward_bound
)
