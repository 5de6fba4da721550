"""refattn: the golden specification of attention.

The functions that everybody needs are here under flat names; families are modules (`refattn.masks`,
`refattn.positions`, ...). Names are looked up when first used, so that importing refattn costs nothing.
"""

from __future__ import annotations

import importlib
import sys
import types

__version__ = "0.1.0"

_MODULES = (
    "attention",
    "backend",
    "cache",
    "entmax",
    "feedforward",
    "gradients",
    "heads",
    "latent",
    "masks",
    "norms",
    "positions",
    "softmax",
    "sparse",
    "testing",
    "tiled",
)
_HOME = {
    "softmax": "softmax logsumexp merge",
    "entmax": "sparsemax entmax sparsemax_vjp entmax_vjp",
    "attention": "attention attention_weights attention_stages AttentionStages Dropout",
    "heads": "split_heads merge_heads grouped_query_attention multi_query_attention multi_head_attention"
    " MultiHeadParams PackedMultiHeadParams",
    "masks": "Mask",
    "positions": "sinusoidal learned_positions rope alibi_slopes alibi_bias relative_position_bucket t5_bias",
    "norms": "layer_norm rms_norm deepnorm_constants",
    "feedforward": "relu gelu quick_gelu silu squared_relu softplus sigmoid tanh feed_forward gated_feed_forward"
    " FeedForwardParams GatedFeedForwardParams",
    "cache": "KVCache RollingKVCache SinkKVCache PagedKVCache PagePool QuantizedKVCache LatentKVCache CrossKVCache",
    "gradients": "AttentionGradients attention_vjp grouped_query_attention_vjp multi_query_attention_vjp"
    " multi_head_attention_vjp softmax_vjp logsumexp_vjp merge_vjp layer_norm_vjp rms_norm_vjp relu_vjp gelu_vjp"
    " quick_gelu_vjp silu_vjp squared_relu_vjp softplus_vjp sigmoid_vjp tanh_vjp feed_forward_vjp"
    " gated_feed_forward_vjp rope_vjp",
    "tiled": "tiled_attention tiled_attention_vjp split_attention packed_attention attention_io",
}
_FLAT = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = sorted({*_FLAT, *_MODULES, "__version__"})


def __getattr__(name):
    if name in _FLAT:
        value = getattr(importlib.import_module(f"refattn.{_FLAT[name]}"), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f"refattn.{name}")
    raise AttributeError(f"module 'refattn' has no attribute {name!r}")


def __dir__():
    return __all__


class _Package(types.ModuleType):
    """refattn.softmax and refattn.attention name a function and the file it lives in: the function wins,
    although importing the file makes Python bind the module."""

    def __setattr__(self, name, value):
        if name in _FLAT and isinstance(value, types.ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
