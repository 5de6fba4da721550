"""Decoding through caches, their codes and their sizes."""

from __future__ import annotations

from refattn.cache import cache_nbytes, decode, dequantize, quantize, tree_positions
from refattn.testing.mechanisms.cache import inputs
from refattn.testing.subject import Subject

DECODE = Subject(
    decode,
    inputs.trace,
    "CACHE-SPLIT",
    inputs.traces,
    parts=("grouped_query_attention", "rope"),
    whole=("cache", "window", "first", "recent", "positions", "page_size", "bits", "group", "residual"),
    follow=inputs.blocks_of,
)
QUANTIZE = Subject(quantize, inputs.numbers, "CACHE-QUANTIZED")
DEQUANTIZE = Subject(dequantize, inputs.codes, "CACHE-QUANTIZED", inputs.codes_by_axis)
CACHE_NBYTES = Subject(cache_nbytes, inputs.sizes, "CACHE-BYTES", inputs.sizes_of_windows)
TREE_POSITIONS = Subject(tree_positions, inputs.tree, "CACHE-TREE")
