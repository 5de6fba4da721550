"""Sparse attention at its real cost: every query attends to some keys, and only those are touched.

A mechanism says which keys as data: a rule of `refattn.masks`, which `rules` hands to the tiles of `refattn.tiled`; slices with
a rule between each, which `parts` attends to one after the other; or a list of keys for each query or group of queries, over
which `lists` attends. Each way forward and backward, with every option of attention. Each function equals `attention` under a mask, or, where a key counts more than once, with a bias of ln(count).
"""

from refattn.sparse.block import block_attention, block_attention_vjp
from refattn.sparse.chunked import chunked_attention, chunked_attention_vjp
from refattn.sparse.dilated import dilated_attention, dilated_attention_vjp
from refattn.sparse.gather import gather_attention, gather_attention_vjp
from refattn.sparse.moba import moba_attention, moba_attention_vjp, moba_blocks
from refattn.sparse.window import window_attention, window_attention_vjp, window_sides

__all__ = [
    "block_attention",
    "block_attention_vjp",
    "chunked_attention",
    "chunked_attention_vjp",
    "dilated_attention",
    "dilated_attention_vjp",
    "gather_attention",
    "gather_attention_vjp",
    "moba_attention",
    "moba_attention_vjp",
    "moba_blocks",
    "window_attention",
    "window_attention_vjp",
    "window_sides",
]
