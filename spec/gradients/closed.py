"""The same derivatives as formulas: attention and its heads in heads.py, everything else in pieces.py; chains here."""

from ..exact import lift, mpf
from ..feedforward.definition import SECOND_ACTIVATIONS
from ..softmax.definition import softmax_row_by_differences
from .heads import (
    attention_vjp,
    grouped_query_attention_vjp,
    multi_head_attention_vjp,
    multi_query_attention_vjp,
)
from .pieces import (
    elementwise,
    feed_forward_vjp,
    gated_feed_forward_vjp,
    linear_vjp,
    logsumexp_vjp,
    merge_vjp,
    norm_vjp,
    rope_vjp,
    rotate_vjp,
    softmax_vjp,
)


def checkpoint_vjp(d_out, x, blocks, every=None):
    """Every activation kept, then the chain rule from the last block to the first."""
    kept = [x]
    for name in blocks[:-1]:
        kept.append(forward(name, kept[-1]))
    for name, value in reversed(list(zip(blocks, kept, strict=True))):
        d_out = FUNCTIONS[f"{name}_vjp"](d_out, value)["x"]
    return {"x": d_out}


def forward(name, x):
    if name == "softmax":
        return lift(softmax_row_by_differences, (1,), x)
    return x.map(SECOND_ACTIVATIONS[name])


FUNCTIONS = {
    "attention_vjp": attention_vjp,
    "grouped_query_attention_vjp": grouped_query_attention_vjp,
    "multi_query_attention_vjp": multi_query_attention_vjp,
    "multi_head_attention_vjp": multi_head_attention_vjp,
    "softmax_vjp": softmax_vjp,
    "logsumexp_vjp": logsumexp_vjp,
    "merge_vjp": merge_vjp,
    "layer_norm_vjp": norm_vjp(True, mpf("1e-5")),
    "rms_norm_vjp": norm_vjp(False, mpf("1e-6")),
    "feed_forward_vjp": feed_forward_vjp,
    "gated_feed_forward_vjp": gated_feed_forward_vjp,
    "gradients.linear_vjp": linear_vjp,
    "rope_vjp": rope_vjp,
    "gradients.rotate_vjp": rotate_vjp,
    "gradients.checkpoint_vjp": checkpoint_vjp,
    **{
        f"{name}_vjp": elementwise(name)
        for name in ("relu", "gelu", "quick_gelu", "silu", "squared_relu", "softplus", "sigmoid", "tanh")
    },
}
