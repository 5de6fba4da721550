"""Gradients: the vector-Jacobian product of each reference function, and recomputation in place of storage.

`NAME_vjp(d_out, ...)` takes the cotangent of what NAME returns, then the arguments of NAME, and returns a NamedTuple
with a gradient for each array argument, under its name and of its shape.
"""

from refattn.gradients.activations import (
    ACTIVATION_VJPS,
    gelu_vjp,
    quick_gelu_vjp,
    relu_vjp,
    sigmoid_vjp,
    silu_vjp,
    softplus_vjp,
    squared_relu_vjp,
    tanh_vjp,
)
from refattn.gradients.attention import AttentionGradients, attention_vjp
from refattn.gradients.checkpoint import Block, Checkpointed, CheckpointGradients, checkpoint, checkpoint_vjp
from refattn.gradients.feedforward import (
    FeedForwardGradients,
    LinearGradients,
    feed_forward_vjp,
    gated_feed_forward_vjp,
    linear_vjp,
)
from refattn.gradients.heads import (
    MultiHeadGradients,
    grouped_query_attention_vjp,
    multi_head_attention_vjp,
    multi_query_attention_vjp,
)
from refattn.gradients.norms import LayerNormGradients, RMSNormGradients, layer_norm_vjp, rms_norm_vjp
from refattn.gradients.positions import RotateGradients, rope_vjp, rotate_vjp
from refattn.gradients.softmax import MergeGradients, logsumexp_vjp, merge_vjp, softmax_vjp
from refattn.gradients.sums import InputGradient

__all__ = [
    "ACTIVATION_VJPS",
    "AttentionGradients",
    "Block",
    "CheckpointGradients",
    "Checkpointed",
    "FeedForwardGradients",
    "InputGradient",
    "LayerNormGradients",
    "LinearGradients",
    "MergeGradients",
    "MultiHeadGradients",
    "RMSNormGradients",
    "RotateGradients",
    "attention_vjp",
    "checkpoint",
    "checkpoint_vjp",
    "feed_forward_vjp",
    "gated_feed_forward_vjp",
    "gelu_vjp",
    "grouped_query_attention_vjp",
    "layer_norm_vjp",
    "linear_vjp",
    "logsumexp_vjp",
    "merge_vjp",
    "multi_head_attention_vjp",
    "multi_query_attention_vjp",
    "quick_gelu_vjp",
    "relu_vjp",
    "rms_norm_vjp",
    "rope_vjp",
    "rotate_vjp",
    "sigmoid_vjp",
    "silu_vjp",
    "softmax_vjp",
    "softplus_vjp",
    "squared_relu_vjp",
    "tanh_vjp",
]
