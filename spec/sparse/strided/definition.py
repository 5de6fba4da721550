"""Strided attention of the Sparse Transformer: near keys, every l-th key, or the union."""

from ...tiled.definition import dense_mask as dense_mask
from ..keys import by_head, functions


def in_sets(i, j, stride, part):
    local = 0 <= i - j <= stride
    strided = j <= i and (i - j) % stride == 0
    return {"local": local, "strided": strided, "merged": local or strided}[part]


def of_heads(q, k, stride, part="merged", **positions):
    return by_head(in_sets, q, k, positions, stride=stride, part=part)


FUNCTIONS, SECOND = functions("strided_attention", of_heads)
