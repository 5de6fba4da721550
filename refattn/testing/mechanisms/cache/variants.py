"""Variants of decoding through a cache: one plain simulation, and for each variant the one thing it does differently."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from refattn.attention import attention
from refattn.cache import cache_nbytes, dequantize, quantize
from refattn.positions import rope
from refattn.testing.registry import NotApplicable, variant


class Decoder:
    """Decoding token by token, every step of it a method that a variant may replace.

    A token that is there is (sequence, place in the input, position); `lives` lists those of each sequence.
    """

    def __init__(self, q, k, v, blocks, *, cache="contiguous", rope_base=None, layout="half", **settings):
        self.q, self.k, self.v, self.blocks, self.cache = q, k, v, blocks, cache
        self.rope_base, self.layout = rope_base, layout
        names = ("window", "first", "recent", "positions", "page_size", "bits", "group", "residual")
        plan = {name: settings.pop(name) for name in names if name in settings}
        self.plan: Any = SimpleNamespace(**{"first": 0, "positions": "cache", **plan})
        self.options = settings
        self.group = q.shape[1] // k.shape[1]
        self.numbered = cache == "sink" and self.plan.positions == "cache"
        self.lives: list[list] = [[] for _ in range(len(q))]

    def run(self):
        """The outputs, as `refattn.cache.decode` returns them."""
        out, start = np.zeros((*self.q.shape[:3], self.v.shape[-1])), 0
        for n in self.blocks:
            if not isinstance(n, int):
                self.lives = self.reorder(n)
            elif n < 0:
                self.lives = [self.truncate(live, -n) for live in self.lives]
            else:
                before = [len(live) for live in self.lives]
                for b, live in enumerate(self.lives):
                    live += [(b, t, self.position(live, m)) for m, t in enumerate(range(start, start + n))]
                self.written(before, n)
                for b in range(len(self.q)):
                    for h in range(self.q.shape[1]):
                        for m in range(n):
                            out[b, h, start + m] = self.attend(b, h, before[b], m, n, start + m)
                start += n
        return out

    def reorder(self, indices):
        return [list(self.lives[b]) for b in indices]

    def truncate(self, live, n):
        return live[:-n]

    def position(self, live, m):
        """Of the m-th token of a block, the earlier ones of which are not yet among `live`."""
        return len(live) + m

    def written(self, before, n):
        """After a block was written."""

    def attend(self, b, h, before, m, n, t):
        places = self.seen(before + m, before, m, n)
        if self.cache == "cross":
            keys, values = self.k[b, h // self.group], self.v[b, h // self.group]
            keys, values = keys[list(places)], values[list(places)]
        else:
            keys, values = self.read(b, h // self.group, before, places, n)
        q = self.rotated(self.q[b, h, t][None], [self.query_position(b, before, m, len(places))])
        sinks = self.options.get("sinks")
        options = {**self.options, "sinks": None if sinks is None else np.asarray(sinks)[h]}
        return attention(q, keys, values, **options)[0]

    def seen(self, p, before, m, n):
        """Places among the tokens there that the query at place p sees; it is the m-th of a block of n."""
        window, first, recent = (getattr(self.plan, name, 0) for name in ("window", "first", "recent"))
        if self.cache == "cross":
            return range(self.k.shape[2])
        if self.cache == "rolling":
            return range(max(0, p - window + 1), p + 1)
        if self.cache == "sink" and not self.numbered:
            return [j for j in range(p + 1) if j < first or j > p - recent]
        if self.cache == "sink":
            beyond = n - len([j for j in range(before, before + n) if j < first])
            old = [j for j in range(before) if j < first or j >= before - max(recent - beyond, 0)]
            return old + list(range(before, p + 1))
        return range(p + 1)

    def read(self, b, g, before, places, n):
        """Keys, rotated, and values of places."""
        tokens = [self.lives[b][j] for j in places]
        keys = np.array([self.k[c, g, t] for c, t, _ in tokens])
        values = np.array([self.v[c, g, t] for c, t, _ in tokens])
        keys = self.rotated(keys, [self.key_position(m, token) for m, token in enumerate(tokens)])
        if self.cache == "quantized":
            keys, values = self.aged(keys, values, before)
        return keys, values

    def key_position(self, m, token):
        return m if self.numbered else token[2]

    def query_position(self, b, before, m, count):
        return count - 1 if self.numbered else self.lives[b][before + m][2]

    def rotated(self, x, positions):
        return x if self.rope_base is None else rope(x, np.array(positions), base=self.rope_base, layout=self.layout)

    def aged(self, keys, values, before):
        """The first `before` keys and values as codes give them back, as far as they are old enough."""
        plan = self.plan
        old, older = before - before % plan.residual, max(before - plan.residual, 0)
        return self.coded(keys, old, -2), self.coded(values, older, -1)

    def coded(self, x, count, axis):
        count = min(count, len(x))
        codes = quantize(x[:count], bits=self.plan.bits, group=self.plan.group, axis=axis)
        return np.concatenate([dequantize(*codes, axis=axis), x[count:]])


def _variant(name, clause, *caches, seen=()):
    """A decoder that differs, as a variant of decoding through some kinds of cache."""

    def register(decoder):
        def call(q, k, v, blocks, **settings):
            if settings.get("cache", "contiguous") not in caches:
                raise NotApplicable
            return decoder(q, k, v, blocks, **settings).run()

        call.__doc__ = decoder.__doc__
        variant(name, clause, "cache.decode", seen=seen)(call)
        return decoder

    return register


_ALL = ("contiguous", "rolling", "sink", "paged", "quantized")


def _needs_rope(decoder):
    if decoder.rope_base is None:
        raise NotApplicable


@_variant("cache/top_left", "CACHE-SPLIT", "contiguous", "paged", seen=["Dao-AILab/flash-attention#282"])
class TopLeft(Decoder):
    """The queries of a block see as many keys from the beginning as if the block came first."""

    def seen(self, p, before, m, n):
        return range(m + 1)


@_variant("cache/block_sees_itself_whole", "CACHE-SPLIT", *_ALL, seen=["osaurus-ai/vmlx-swift#185"])
class BlockSeesItselfWhole(Decoder):
    """Within a block nothing is masked: its first queries see its last keys."""

    def seen(self, p, before, m, n):
        return [*super().seen(p, before, m, n), *range(p + 1, before + n)]


@_variant("cache/position_from_block", "CACHE-ROPE", "contiguous", "rolling", "paged", seen=["unslothai/unsloth#4078"])
class PositionFromBlock(Decoder):
    """Positions begin at 0 again in every block."""

    def position(self, live, m):
        _needs_rope(self)
        return m


@_variant("cache/rotated_twice", "CACHE-ROPE", "contiguous", "rolling", "paged")
class RotatedTwice(Decoder):
    """Keys that were cached rotated are rotated again when they are read."""

    def key_position(self, m, token):
        _needs_rope(self)
        return 2 * token[2]


@_variant("cache/keys_not_rotated", "CACHE-ROPE", "contiguous", "rolling", "paged")
class KeysNotRotated(Decoder):
    """Queries are rotated, keys come into the cache as they are."""

    def key_position(self, m, token):
        _needs_rope(self)
        return 0


@_variant("cache/rope_ignored", "CACHE-ROPE", *_ALL)
class RopeIgnored(Decoder):
    """Nothing is rotated although a base is given."""

    def rotated(self, x, positions):
        _needs_rope(self)
        return x


@_variant("cache/stale_drafts", "CACHE-TRUNCATE", "contiguous", "rolling", "paged", seen=["Blaizzy/mlx-vlm#1715"])
class StaleDrafts(Decoder):
    """Tokens that were taken back stay visible."""

    def truncate(self, live, n):
        return live


@_variant("cache/positions_keep_counting", "CACHE-TRUNCATE", "contiguous", "rolling", "paged")
class PositionsKeepCounting(Decoder):
    """After tokens were taken back, the next ones are numbered as if they were still there."""

    taken = 0

    def truncate(self, live, n):
        _needs_rope(self)
        self.taken += n if live is self.lives[0] else 0
        return super().truncate(live, n)

    def position(self, live, m):
        return len(live) + m + self.taken


@_variant("cache/reorder_ignored", "CACHE-REORDER", *_ALL)
class ReorderIgnored(Decoder):
    """The batch keeps its order: a beam goes on from another beam's past."""

    def reorder(self, indices):
        return self.lives


@_variant("cache/values_not_reordered", "CACHE-REORDER", *_ALL)
class ValuesNotReordered(Decoder):
    """Keys are reordered, values are not."""

    def reorder(self, indices):
        self.original = getattr(self, "original", [list(live) for live in self.lives])
        return super().reorder(indices)

    def read(self, b, g, before, places, n):
        keys, values = super().read(b, g, before, places, n)
        for m, j in enumerate(places):
            if hasattr(self, "original") and j < len(self.original[b]):
                c, t, _ = self.original[b][j]
                values[m] = self.v[c, g, t]
        return keys, values


@_variant("ring/one_more", "CACHE-RING", "rolling", seen=["huggingface/transformers#26792", "ml-explore/mlx-lm#390"])
class RingOneMore(Decoder):
    """The window holds one key too many."""

    def seen(self, p, before, m, n):
        return range(max(0, p - self.plan.window), p + 1)


@_variant("ring/one_less", "CACHE-RING", "rolling", seen=["huggingface/transformers#37574"])
class RingOneLess(Decoder):
    """The ring is rolled one step too early: a query misses the farthest key of its window."""

    def seen(self, p, before, m, n):
        return range(max(0, p - self.plan.window + 2), p + 1) or [p]


@_variant("ring/never_wraps", "CACHE-RING", "rolling", seen=["huggingface/transformers#45940"])
class RingNeverWraps(Decoder):
    """Once the ring is full, every new token goes to its last slot."""

    def seen(self, p, before, m, n):
        w = self.plan.window
        return range(p + 1) if p < w else [*range(w - 1), p]


@_variant("ring/attends_to_empty_slots", "CACHE-UNUSED", "rolling", seen=["huggingface/transformers#45940"])
class RingAttendsToEmptySlots(Decoder):
    """Before the ring is full, its empty slots take part as keys and values of 0."""

    def read(self, b, g, before, places, n):
        keys, values = super().read(b, g, before, places, n)
        missing = max(self.plan.window - len(places), 0)
        return np.pad(keys, ((0, missing), (0, 0))), np.pad(values, ((0, missing), (0, 0)))


@_variant("ring/block_overwrites", "CACHE-BLOCK", "rolling", seen=["Lightning-AI/litgpt#2182"])
class RingBlockOverwrites(Decoder):
    """A block is written before it attends: its first queries miss what its last tokens push out."""

    def seen(self, p, before, m, n):
        return [j for j in super().seen(p, before, m, n) if j >= before + n - self.plan.window] or [p]


@_variant("ring/block_sees_only_itself", "CACHE-BLOCK", "rolling")
class RingBlockSeesOnlyItself(Decoder):
    """The queries of a block of several tokens see nothing before it."""

    def seen(self, p, before, m, n):
        return [j for j in super().seen(p, before, m, n) if n == 1 or j >= before]


@_variant("ring/position_of_slot", "CACHE-ROPE", "rolling", seen=["rajveer43/VeloxQuant-MLX#389"])
class RingPositionOfSlot(Decoder):
    """Keys are rotated by their slot of the ring instead of their position."""

    def key_position(self, m, token):
        _needs_rope(self)
        return token[2] % self.plan.window


@_variant("ring/no_slack", "CACHE-TRUNCATE", "rolling", seen=["Blaizzy/mlx-vlm#1748"])
class RingNoSlack(Decoder):
    """Tokens are taken back from a ring that has overwritten the window before them: those keys are gone."""

    most = 0

    def written(self, before, n):
        self.most = max(self.most, before[0] + n)

    def seen(self, p, before, m, n):
        return [j for j in super().seen(p, before, m, n) if j >= self.most - self.plan.window or j >= before] or [p]


@_variant("sink/absolute_positions", "CACHE-SINK-POSITIONS", "sink", seen=["rajveer43/VeloxQuant-MLX#195"])
class SinkAbsolutePositions(Decoder):
    """Keys and queries are rotated by their place in the text, although positions are those of the cache."""

    def key_position(self, m, token):
        if not self.numbered or self.rope_base is None:
            raise NotApplicable
        return token[2]

    def query_position(self, b, before, m, count):
        return self.lives[b][before + m][2]


@_variant("sink/cache_positions", "CACHE-ROPE", "sink", seen=["mit-han-lab/streaming-llm"])
class SinkCachePositions(Decoder):
    """Keys and queries are rotated by their place in the cache, although positions are those of the text."""

    def key_position(self, m, token):
        if self.numbered or self.rope_base is None:
            raise NotApplicable
        return m

    def query_position(self, b, before, m, count):
        return count - 1


@_variant("sink/forgotten", "CACHE-SINK", "sink")
class SinkForgotten(Decoder):
    """The first tokens are pushed out like any other."""

    def seen(self, p, before, m, n):
        return [j for j in super().seen(p, before, m, n) if j > p - self.plan.recent]


@_variant("sink/first_counts_as_recent", "CACHE-SINK", "sink")
class SinkFirstCountsAsRecent(Decoder):
    """The sinks take their room from the recent tokens: r tokens in all instead of s + r."""

    def seen(self, p, before, m, n):
        first, recent = self.plan.first, self.plan.recent
        return [j for j in super().seen(p, before, m, n) if j < first or j > p - max(recent - first, 1)]


@_variant("sink/room_for_one", "CACHE-SINK-POSITIONS", "sink")
class SinkRoomForOne(Decoder):
    """Room is made for one token, however many a block has."""

    def seen(self, p, before, m, n):
        if not self.numbered:
            raise NotApplicable
        old = [j for j in range(before) if j < self.plan.first or j >= before - self.plan.recent + 1]
        return old + list(range(before, p + 1))


@_variant("paged/first_page_only", "CACHE-PAGED", "paged", seen=["tenstorrent/tt-metal#37927"])
class PagedFirstPageOnly(Decoder):
    """Only the first page of a block table is read, and the token itself."""

    def seen(self, p, before, m, n):
        return [j for j in range(p + 1) if j < self.plan.page_size or j == p]


@_variant("paged/pages_in_reverse", "CACHE-PAGED", "paged")
class PagedPagesInReverse(Decoder):
    """The full pages of a block table are read in reverse order, and the causal limit counts in that order."""

    def seen(self, p, before, m, n):
        size = self.plan.page_size
        full = (before + n) // size
        order = [j for page in range(full - 1, -1, -1) for j in range(page * size, (page + 1) * size)]
        return (order + list(range(full * size, before + n)))[: p + 1]


@_variant("paged/whole_last_page", "CACHE-UNUSED", "paged", seen=["vllm-project/vllm#53856"])
class PagedWholeLastPage(Decoder):
    """What lies in the last page behind the last token takes part, here as keys and values of 0."""

    def read(self, b, g, before, places, n):
        keys, values = super().read(b, g, before, places, n)
        missing = -len(places) % self.plan.page_size
        return np.pad(keys, ((0, missing), (0, 0))), np.pad(values, ((0, missing), (0, 0)))


@_variant("paged/written_while_shared", "CACHE-SHARED", "paged")
class PagedWrittenWhileShared(Decoder):
    """A page that sequences share is written to without being copied: the last writer's tokens are everybody's."""

    shared: dict = {}  # noqa: RUF012 (replaced, never changed)

    def reorder(self, indices):
        lives = super().reorder(indices)
        self.shared = {b: max(c for c, i in enumerate(indices) if i == indices[b]) for b in range(len(indices))}
        self.until = -(-len(lives[0]) // self.plan.page_size) * self.plan.page_size if lives else 0
        return lives

    def written(self, before, n):
        for b, last in self.shared.items():
            for j in range(before[b], min(before[b] + n, self.until)):
                self.lives[b][j] = self.lives[last][j]


@_variant("cross/causal", "CACHE-CROSS", "cross", seen=["keras-team/keras-io#1046"])
class CrossCausal(Decoder):
    """Step p of the decoder sees only the first p + 1 keys of the memory."""

    def seen(self, p, before, m, n):
        return range(min(p + 1, self.k.shape[2]))


@_variant("quantized/keys_per_token", "CACHE-QUANTIZED", "quantized", seen=["transformers QuantizedCache"])
class QuantizedKeysPerToken(Decoder):
    """Groups of keys run along the channels of a token, as those of values do."""

    def aged(self, keys, values, before):
        if keys.shape[-1] % self.plan.group:
            raise NotApplicable
        values = super().aged(keys, values, before)[1]
        return self.coded(keys, before - before % self.plan.residual, -1), values


@_variant("quantized/scale_dropped", "CACHE-QUANTIZED", "quantized", seen=["flashinfer-ai/flashinfer#4979"])
class QuantizedScaleDropped(Decoder):
    """Codes are read with a scale of 1."""

    def coded(self, x, count, axis):
        count = min(count, len(x))
        codes, scale, zero = quantize(x[:count], bits=self.plan.bits, group=self.plan.group, axis=axis)
        return np.concatenate([dequantize(codes, np.ones_like(scale), zero, axis=axis), x[count:]])


@_variant("quantized/no_residual", "CACHE-RESIDUAL", "quantized")
class QuantizedNoResidual(Decoder):
    """Everything old is quantised at once; nothing stays in full precision."""

    def aged(self, keys, values, before):
        return self.coded(keys, before - before % self.plan.group, -2), self.coded(values, before, -1)


@_variant("quantized/prompt_sees_codes", "CACHE-RESIDUAL", "quantized")
class QuantizedPromptSeesCodes(Decoder):
    """A block is quantised before its own queries attend to it."""

    def attend(self, b, h, before, m, n, t):
        self.now = before + n
        return super().attend(b, h, before, m, n, t)

    def read(self, b, g, before, places, n):
        whole = super().read(b, g, self.now, range(self.now), n)
        return whole[0][list(places)], whole[1][list(places)]


@variant("quantized/symmetric", "CACHE-QUANTIZED", "cache.quantize")
def quantized_symmetric(x, *, bits, group, axis=-1):
    """Levels lie symmetrically around 0, as wide as the largest magnitude asks for; there is no zero."""
    shape = x.shape
    axis = axis % x.ndim
    grouped = x.reshape(*shape[:axis], shape[axis] // group, group, *shape[axis + 1 :])
    half = 2 ** (bits - 1) - 1
    scale = np.abs(grouped).max(axis=axis + 1, keepdims=True) / half
    codes = np.rint(grouped / np.where(scale == 0, 1.0, scale)) + half
    scale = scale.squeeze(axis + 1)
    return {"codes": codes.reshape(shape).astype(np.uint8), "scale": scale, "zero": -half * scale}


@variant("quantized/rounds_down", "CACHE-QUANTIZED-ERROR", "cache.quantize")
def quantized_rounds_down(x, *, bits, group, axis=-1):
    """A number becomes the level below it instead of the nearest."""
    found = quantize(x, bits=bits, group=group, axis=axis)
    back = dequantize(*found, axis=axis)
    tiny = 1e-9 * np.abs(x).max(initial=0.0)
    return {**found._asdict(), "codes": (found.codes - (back > x + tiny)).astype(np.uint8)}


@variant("quantized/no_zero", "CACHE-QUANTIZED", "cache.dequantize", seen=["sgl-project/sglang#20705"])
def quantized_no_zero(codes, scale, zero, *, axis=-1):
    """The zero is not added."""
    return dequantize(codes, scale, np.zeros_like(zero), axis=axis)


@variant("tree/position_of_slot", "CACHE-TREE", "cache.tree_positions")
def tree_position_of_slot(parents, prefix=0):
    """Every draft has a position of its own: its place among the drafts."""
    return [prefix + t for t in range(len(parents))]


@variant("cache_bytes/values_as_wide_as_keys", "CACHE-BYTES", "cache.cache_nbytes")
def cache_bytes_values_as_wide_as_keys(tokens, **rest):
    """Values are counted with the width of keys."""
    if rest.get("value_dim") is None:
        raise NotApplicable
    return cache_nbytes(tokens, **{**rest, "value_dim": rest["head_dim"]})


@variant("cache_bytes/no_scales", "CACHE-BYTES", "cache.cache_nbytes")
def cache_bytes_no_scales(tokens, **rest):
    """The scales and zeros of codes are not counted."""
    if rest.get("bits") is None:
        raise NotApplicable
    group, residual, d = rest["group"], rest.get("residual") or 0, rest["head_dim"]
    keys, values = tokens - tokens % max(residual, 1), max(tokens - residual, 0)
    groups = keys // group * d + values * ((rest.get("value_dim") or d) // group)
    scales = 2 * groups * rest.get("itemsize", 2) * rest.get("layers", 1) * rest.get("kv_heads", 1)
    return cache_nbytes(tokens, **rest) - scales
