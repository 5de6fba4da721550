"""The names that text from outside may use: of functions, of sets of parameters, of rules. Nothing else is looked up.

Golden cases, kernels that speak the line protocol, allow-lists and the command line name things of refattn by text. What
such a text may reach stands here, name by name, so that none of them can call what is not meant to be called.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import cache, reduce

import refattn
from refattn import masks

FUNCTIONS = frozenset({
    "alibi_bias", "alibi_slopes", "attention", "attention_io", "attention_stages", "attention_vjp", "attention_weights",
    "deepnorm_constants", "feed_forward", "feed_forward_vjp", "gated_feed_forward", "gated_feed_forward_vjp", "gelu",
    "gelu_vjp", "grouped_query_attention", "grouped_query_attention_vjp", "layer_norm", "layer_norm_vjp",
    "learned_positions", "logsumexp", "logsumexp_vjp", "merge", "merge_heads", "merge_vjp", "multi_head_attention",
    "multi_head_attention_vjp", "multi_query_attention", "multi_query_attention_vjp", "packed_attention", "quick_gelu",
    "quick_gelu_vjp", "relative_position_bucket", "relu", "relu_vjp", "rms_norm", "rms_norm_vjp", "rope", "rope_vjp",
    "sigmoid", "sigmoid_vjp", "silu", "silu_vjp", "sinusoidal", "softmax", "softmax_vjp", "softplus", "softplus_vjp",
    "split_attention", "split_heads", "squared_relu", "squared_relu_vjp", "t5_bias", "tanh", "tanh_vjp",
    "tiled_attention", "tiled_attention_vjp", "Mask.dense", "cache.cache_nbytes", "cache.decode", "cache.dequantize",
    "cache.quantize", "cache.tree_positions", "feedforward.split_gate", "gradients.checkpoint_vjp",
    "gradients.linear_vjp", "gradients.rotate_vjp", "latent.latents_of", "latent.multi_head_latent_attention",
    "positions.rope_frequencies", "positions.rotate", "testing.round_to",
})  # fmt: skip

PARAMS = frozenset({
    "Dropout", "FeedForwardParams", "GatedFeedForwardParams", "MultiHeadParams", "PackedMultiHeadParams",
    "cache.HeldLatents", "heads.Rope", "latent.MultiHeadLatentParams", "positions.DynamicNTK", "positions.Linear",
    "positions.Llama3", "positions.LongRoPE", "positions.NTK", "positions.YaRN",
})  # fmt: skip

RULES = tuple(masks.RULES)


def function_named(name: str) -> Callable:
    """The function of refattn that a name says: 'attention', 'positions.rotate', 'Mask.dense'.

    Raises
    ------
    ValueError
        There is none of that name among those that the golden cases call.
    """
    return _found("reference function", name, FUNCTIONS)


def params_named(name: str) -> Callable:
    """The set of parameters, 'MultiHeadParams' or 'positions.YaRN', that a name says; ValueError where there is none."""
    return _found("set of parameters", name, PARAMS)


def rule_named(name: str) -> Callable:
    """The function of refattn.masks that builds a rule of a name; ValueError where there is none."""
    if name not in RULES:
        raise ValueError(_unknown("rule of refattn.masks", name, RULES))
    return masks.RULES[name].build


def meant(name: str, known) -> list[str]:
    """The known names that may have been meant by one that is not known, the nearest first."""
    if len(name) > 80:  # no slip of the fingers, and slow to compare
        return []
    same_end = [other for other in sorted(known) if other.endswith(f".{name}")]
    return same_end or difflib.get_close_matches(name, sorted(known))


def hint(function: str) -> str:
    """What to say after the name of a function that refattn has not: which may have been meant, or where they stand."""
    near = meant(function, FUNCTIONS)
    return f"; did you mean {' or '.join(near)}?" if near else "; try: refattn list functions"


def _found(kind, name, known):
    if not isinstance(name, str) or name not in known:
        raise ValueError(_unknown(kind, name, known))
    return _resolved(name)


@cache
def _resolved(name):
    return reduce(getattr, name.split("."), refattn)


def _unknown(kind, name, known):
    near = meant(name, known) if isinstance(name, str) else []
    said = repr(name) if len(repr(name)) <= 80 else f"{repr(name)[:80]} ..."
    return f"there is no {kind} {said}" + (f"; did you mean {' or '.join(near)}?" if near else "")
