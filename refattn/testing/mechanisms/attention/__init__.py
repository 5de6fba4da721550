"""Scaled dot-product attention, its weights and its stages."""

from __future__ import annotations

import numpy as np

from refattn.attention import attention, attention_stages, attention_weights
from refattn.testing.mechanisms.attention import bounds, inputs
from refattn.testing.mechanisms.attention.variants import of_mask
from refattn.testing.subject import Equal, Subject


def values_that_tell_keys_apart(q, k, mask=None, **options):
    """The output for an identity of values is the weights."""
    return {"q": q, "k": k, "v": np.eye(k.shape[-2]), "mask": mask, **options}


ATTENTION = Subject(
    attention,
    inputs.attention,
    "ATTN-OUT",
    inputs.attentions,
    derive=(("Mask.dense", of_mask),),
    bound=bounds.attention_bound,
    related=inputs.plain,
    axes={"out": ("heads", "queries", "features"), "lse": ("heads", "queries")},
)
ATTENTION_WEIGHTS = Subject(
    attention_weights,
    inputs.weights,
    "ATTN-WEIGHTS",
    inputs.weights_by_option,
    equals=Equal("attention", values_that_tell_keys_apart),
    bound=bounds.attention_weights_bound,
    axes={"out": ("heads", "queries", "keys")},
)
ATTENTION_STAGES = Subject(attention_stages, inputs.stages, "ATTN-ORDER")
