"""Key/value caches: what decoding keeps, and at which positions.

Every cache takes new tokens by `append(k, v)` and gives back what their queries may attend to, as a `Cached`:
keys, values and the positions of both, so that the masks of `refattn.masks` work on any of them. `mask` is the rule
that belongs to the cache. `decode` runs a whole sequence through a cache, block by block.
"""

from refattn.cache.base import Cached, CacheError
from refattn.cache.contiguous import CrossKVCache, HeldLatents, KVCache, LatentKVCache
from refattn.cache.decoding import CACHES, decode, tree_positions
from refattn.cache.paged import PagedKVCache, PagePool
from refattn.cache.quantized import QuantizedKVCache, dequantize, quantize
from refattn.cache.rolling import RollingKVCache, SinkKVCache
from refattn.cache.sizes import cache_nbytes

__all__ = [
    "CACHES",
    "CacheError",
    "Cached",
    "CrossKVCache",
    "HeldLatents",
    "KVCache",
    "LatentKVCache",
    "PagePool",
    "PagedKVCache",
    "QuantizedKVCache",
    "RollingKVCache",
    "SinkKVCache",
    "cache_nbytes",
    "decode",
    "dequantize",
    "quantize",
    "tree_positions",
]
