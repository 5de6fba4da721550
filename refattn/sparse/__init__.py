"""Sparse attention at its real cost: every query attends to some keys, and only those are touched.

A mechanism says which keys as data: a rule of `refattn.masks`, which `rules` hands to the tiles of `refattn.tiled`; slices with
a rule between each, which `parts` attends to one after the other and merges; a list of keys for each query or group of
queries, over which `lists` attends; or groups of queries and keys from anywhere, over which `groups` does. Each way forward and
backward, with every option of attention. Each function equals `attention` under a mask, or, where a key counts more than
once, with a bias of ln(count).
"""

from refattn.sparse.bigbird import bigbird_attention, bigbird_attention_vjp, bigbird_blocks
from refattn.sparse.block import block_attention, block_attention_vjp
from refattn.sparse.chunked import chunked_attention, chunked_attention_vjp
from refattn.sparse.dilated import dilated_attention, dilated_attention_vjp
from refattn.sparse.fixed import fixed_attention, fixed_attention_vjp
from refattn.sparse.gather import gather_attention, gather_attention_vjp
from refattn.sparse.longformer import LongformerGradients, longformer_attention, longformer_attention_vjp
from refattn.sparse.longnet import longnet_attention, longnet_attention_vjp
from refattn.sparse.lsh import LSHGradients, lsh_attention, lsh_attention_vjp, lsh_buckets
from refattn.sparse.moba import moba_attention, moba_attention_vjp, moba_blocks
from refattn.sparse.routing import routing_attention, routing_attention_vjp, routing_members
from refattn.sparse.strided import strided_attention, strided_attention_vjp
from refattn.sparse.topk import topk_attention, topk_attention_vjp
from refattn.sparse.window import window_attention, window_attention_vjp, window_sides

__all__ = [
    "LSHGradients",
    "LongformerGradients",
    "bigbird_attention",
    "bigbird_attention_vjp",
    "bigbird_blocks",
    "block_attention",
    "block_attention_vjp",
    "chunked_attention",
    "chunked_attention_vjp",
    "dilated_attention",
    "dilated_attention_vjp",
    "fixed_attention",
    "fixed_attention_vjp",
    "gather_attention",
    "gather_attention_vjp",
    "longformer_attention",
    "longformer_attention_vjp",
    "longnet_attention",
    "longnet_attention_vjp",
    "lsh_attention",
    "lsh_attention_vjp",
    "lsh_buckets",
    "moba_attention",
    "moba_attention_vjp",
    "moba_blocks",
    "routing_attention",
    "routing_attention_vjp",
    "routing_members",
    "strided_attention",
    "strided_attention_vjp",
    "topk_attention",
    "topk_attention_vjp",
    "window_attention",
    "window_attention_vjp",
    "window_sides",
]
