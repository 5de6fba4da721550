"""Attention at any length: tiles, parts that are merged, packed sequences. Exact, without an array of N M numbers.

`forward` is the online softmax and the place to start reading; `problem` cuts arguments into tiles and leaves out those
that a mask rule does not reach, `workspace` keeps memory and threads.
"""

from refattn.tiled.backward import tiled_attention_vjp
from refattn.tiled.forward import tiled_attention
from refattn.tiled.io_model import IOCounts, attention_io
from refattn.tiled.packed import packed_attention
from refattn.tiled.split import split_attention

__all__ = [
    "IOCounts",
    "attention_io",
    "packed_attention",
    "split_attention",
    "tiled_attention",
    "tiled_attention_vjp",
]
