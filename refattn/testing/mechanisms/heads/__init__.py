"""Heads: grouped, multi-query and multi-head attention."""

from __future__ import annotations

import numpy as np

from refattn.heads import (
    grouped_query_attention,
    merge_heads,
    multi_head_attention,
    multi_query_attention,
    split_heads,
)
from refattn.testing.mechanisms.heads import inputs
from refattn.testing.subject import Equal, Subject


def repeated(q, k, v, **options):
    """Every query head has its own copy of keys and values."""
    k, v = (np.repeat(x, q.shape[-3] // k.shape[-3], axis=-3) for x in (k, v))
    return {"q": q, "k": k, "v": v, **options}


def with_one_head(q, k, v, **options):
    """Keys and values with an axis of one head."""
    return {"q": q, "k": k[..., None, :, :], "v": v[..., None, :, :], **options}


SPLIT_HEADS = Subject(split_heads, inputs.split, "HEADS-SPLIT")
MERGE_HEADS = Subject(merge_heads, inputs.merged, "HEADS-MERGE")
GROUPED_QUERY_ATTENTION = Subject(
    grouped_query_attention,
    inputs.grouped,
    "HEADS-GROUP",
    inputs.groups,
    equals=Equal("attention", repeated),
    related=inputs.six_over_three,
)
MULTI_QUERY_ATTENTION = Subject(
    multi_query_attention,
    inputs.multi_query,
    "HEADS-MQA",
    inputs.multi_queries,
    equals=Equal("grouped_query_attention", with_one_head),
)
MULTI_HEAD_ATTENTION = Subject(
    multi_head_attention,
    inputs.random_layer,
    "MHA-PROJECT",
    inputs.layers,
    parts=("grouped_query_attention", "rope", "rms_norm"),
    axes={"out": ("tokens", "features")},
    whole=("kv_heads",),
)
