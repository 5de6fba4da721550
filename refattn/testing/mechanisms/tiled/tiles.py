"""Variants of attention that get tiles wrong: families, of which the size of the tile is found from the result.

A kernel works on tiles of queries and keys. What it drops at the end, fills up, counts wrongly or decides once for all
rows of a tile depends on the tile's size, which may be any number; so each mistake is stated once, for every size.
"""

from __future__ import annotations

import itertools

import numpy as np

from refattn import masks
from refattn.testing.mechanisms.attention.variants import evaluate
from refattn.testing.mechanisms.masks.variants import holds, replaced
from refattn.testing.registry import NotApplicable, family
from refattn.testing.steps import Then

_USUAL = (
    64,
    128,
    32,
    16,
    256,
    8,
    512,
)  # what kernels take most often comes first: of equals it is the one that is said
SIZES = (*_USUAL, *(t for t in range(24, 512, 8) if t not in _USUAL), 4, 2, 3, 5, 6, 7)


def _needs(*conditions):
    if not all(conditions):
        raise NotApplicable


def dense(mask, n, m, q_positions=None, k_positions=None):
    """Who may attend to whom, as an array, whatever the mask is."""
    if isinstance(mask, np.ndarray) and mask.shape[-2:] == (n, m):  # families ask for it once a size
        return mask
    seen = masks.visible(mask, n, m, q_positions=q_positions, k_positions=k_positions, like=np.empty(0))
    return np.ones((n, m), dtype=bool) if seen is None else np.broadcast_to(seen, (*np.shape(seen)[:-2], n, m))


def _dense_of(q, k, mask, options):
    """The mask as an array; positions are taken out of the options, for they have had their effect."""
    given = (options.pop(name, None) for name in ("q_positions", "k_positions"))
    return dense(mask, q.shape[-2], k.shape[-2], *given)


def _all_sizes(n, m, mask=None):
    return SIZES


def _kept(tile, n, m):
    """How many keys whole tiles hold."""
    return m - m % tile


def _padding(tile, n, m):
    """How many keys a last tile lacks."""
    return -m % tile


def _up_to(sizes, n, m):
    """A tile of more rows than there are is one of all rows, and so for keys; a size alone may be of either."""
    return (min(sizes[0], n), min(sizes[1], m)) if isinstance(sizes, tuple) else min(sizes, max(n, m))


_KEYS = "The tile has {} keys."


# --- keys at the end ------------------------------------------------------------------------------------------------


@family("tail/dropped", "ATTN-OUT", "attention", example=16, values=_all_sizes, unit=_KEYS, effect=_kept)
def tail_dropped(tile):
    """The last keys, which do not fill a tile, are left out."""

    def call(q, k, v, mask=None, **options):
        m = k.shape[-2]
        _needs(m % tile)
        hidden = np.arange(m) >= m - m % tile
        return evaluate(q, k, v, mask, scored=Then(lambda s: np.where(hidden, -np.inf, s)), **options)

    return call


def _padded(tile, fill):
    """Keys and values of zeros fill the last tile and take part; `fill` may set their scores."""

    def call(q, k, v, mask=None, *, bias=None, dropout=None, **options):
        n, m = q.shape[-2], k.shape[-2]
        more = -m % tile
        _needs(more, m > 0)

        def longer(x, value=0.0):
            x = np.broadcast_to(x, (*np.shape(x)[:-2], n, m))
            return np.concatenate([x, np.full((*x.shape[:-1], more), value, dtype=x.dtype)], axis=-1)

        allowed = longer(_dense_of(q, k, mask, options), True)
        k, v = (np.concatenate([x, np.zeros((*x.shape[:-2], more, x.shape[-1]))], axis=-2) for x in (k, v))
        bias = None if bias is None else longer(bias)
        dropout = None if dropout is None else (longer(np.asarray(dropout[0]), True), dropout[1])
        return evaluate(q, k, v, allowed, bias=bias, dropout=dropout, **fill(m, options), **options)

    return call


@family(
    "tail/zeros", "ATTN-OUT", "attention", example=16, values=_all_sizes, unit=_KEYS, effect=_padding, scales=True,
    seen=["huggingface/transformers#45940", "flashinfer-ai/flashinfer#3716"],
)  # fmt: skip
def tail_zeros(tile):
    """Keys and values are padded with zeros to whole tiles, and the padding takes part."""
    return _padded(tile, lambda m, options: {})


@family(
    "softcap/after_padding", "ATTN-ORDER", "attention", example=16, values=_all_sizes, unit=_KEYS, effect=_padding,
    scales=True,
    seen=["ggml-org/llama.cpp#29034"],
)  # fmt: skip
def softcap_after_padding(tile):
    """Keys are padded to whole tiles with score -infinity before the cap, which makes -c of it: padding takes part."""

    def fill(m, options):
        _needs(options.get("softcap"))
        return {"scored": Then(lambda s: np.where(np.arange(s.shape[-1]) >= m, -np.inf, s))}

    return _padded(tile, fill)


def _rescaled(tile, output_only):
    """Online softmax over tiles of keys in which what was summed up is not rescaled when the maximum grows."""

    def call(q, k, v, mask=None, *, sinks=None, dropout=None, **options):
        _needs(sinks is None, dropout is None, k.shape[-2] > tile)

        def online(out, lse, weights, s):
            running = np.maximum.accumulate(s, axis=-1)
            last = np.minimum(np.arange(s.shape[-1]) // tile * tile + tile, s.shape[-1]) - 1
            top = running[..., last]  # the maximum that is known when a tile is done
            w = np.where(np.isneginf(s), 0.0, np.exp(s - np.where(np.isneginf(top), 0.0, top)))
            peak = np.where(np.isneginf(running[..., -1:]), 0.0, running[..., -1:])
            total = (np.where(np.isneginf(s), 0.0, np.exp(s - peak)) if output_only else w).sum(axis=-1, keepdims=True)
            values = np.where(np.isfinite(v), v, 0.0)
            return w @ values / np.where(total == 0, 1.0, total), (np.log(total) + peak)[..., 0]

        return evaluate(q, k, v, mask, finish=online, **options)

    return call


def _below_all(n, m, mask=None):
    return [t for t in SIZES if t < m]


@family("rescale/missing", "ATTN-OUT", "attention", example=16, values=_below_all, unit=_KEYS)
def rescale_missing(tile):
    """Neither sum is rescaled when a tile of keys raises the running maximum."""
    return _rescaled(tile, output_only=False)


@family("rescale/output_missing", "ATTN-OUT", "attention", example=16, values=_below_all, unit=_KEYS)
def rescale_output_missing(tile):
    """The sum of weights is rescaled when a tile of keys raises the running maximum, the sum of values is not."""
    return _rescaled(tile, output_only=True)


# --- who sees whom, decided by tiles --------------------------------------------------------------------------------


def _of_mask(name, values, unit, meaning, *, array=None, rule=None, example=4, seen=()):
    """A family that changes who sees whom: from a value, `array` makes another array of the array, `rule` another mask
    of the mask."""

    def masked(value):
        def altered(mask, n, m, q_positions=None, k_positions=None):
            changed = dense(rule(value)(mask) if rule else mask, n, m, q_positions, k_positions)
            return array(value)(changed) if array else changed

        return altered

    def build(value):
        def call(q, k, v, mask=None, **options):
            _needs(q.shape[-2])
            given = {name: options.pop(name, None) for name in ("q_positions", "k_positions")}
            return evaluate(q, k, v, masked(value)(mask, q.shape[-2], k.shape[-2], **given), **options)

        return call

    build.__doc__ = meaning
    options = {"masked": masked, "rules": rule is not None, "effect": _up_to, "seen": seen}
    family(name, "ATTN-MASK", "attention", example=example, values=values, unit=unit, **options)(build)


def _first_row(tile):
    """Every row of a tile sees what its first row sees."""
    return lambda seen: seen[..., np.arange(seen.shape[-2]) // tile * tile, :]


def _last_row(tile):
    """Every row of a tile sees what its last row sees."""

    def of_last(seen):
        n = seen.shape[-2]
        return seen[..., np.minimum(np.arange(n) // tile * tile + tile, n) - 1, :]

    return of_last


def _first_and_last(seen, tile):
    """The tile of every key, and for every row the first and the last tile that it sees a key of."""
    m = seen.shape[-1]
    _needs(m)
    first, last = np.argmax(seen, axis=-1), m - 1 - np.argmax(seen[..., ::-1], axis=-1)
    return np.arange(m) // tile, first[..., None] // tile, last[..., None] // tile


def _without_last(tile):
    def change(seen):
        own, _, last = _first_and_last(seen, tile)
        return seen & (own != last)

    return change


def _without_first(tile):
    def change(seen):
        own, first, _ = _first_and_last(seen, tile)
        return seen & (own != first)

    return change


def _with_next(tile):
    def change(seen):
        own, _, last = _first_and_last(seen, tile)
        return seen | ((own == last + 1) & seen.any(axis=-1, keepdims=True))

    return change


def _whole_tiles(sizes):
    """A tile of which any pair is seen is seen as a whole."""
    q_tile, k_tile = sizes

    def whole(seen):
        n, m = seen.shape[-2:]
        _needs(n, m)
        any_key = np.logical_or.reduceat(seen, np.arange(0, m, k_tile), axis=-1)
        any_pair = np.logical_or.reduceat(any_key, np.arange(0, n, q_tile), axis=-2)
        return any_pair[..., np.arange(n) // q_tile, :][..., np.arange(m) // k_tile]

    return whole


def _pairs_of_sizes(n, m, mask=None):
    usual = itertools.permutations((16, 32, 64, 128), 2)
    return [*((t, t) for t in SIZES), *usual, *((1, t) for t in SIZES)]


def _pairs_for_windows(n, m, mask=None):
    return _pairs_of_sizes(n, m) if isinstance(mask, masks.Mask) and holds(mask, "window") else []


def _window_by_tiles(sizes):
    def rule(mask):
        _needs(isinstance(mask, masks.Mask))
        whole = _whole_tiles(sizes)
        coarse = lambda left, right: masks.Mask(lambda i, j: whole(masks.window(left, right).admits(i, j)))
        return replaced(mask, "window", coarse)

    return rule


_ROWS = "The tile has {} rows."
_BOTH = "The tile has {} queries and keys."
_of_mask(
    "mask/of_last_row", _all_sizes, _ROWS,
    "The mask is decided once for a tile of queries, by its last: earlier ones see what only that may see.",
    array=_last_row, seen=["pytorch/pytorch#195910"],
)  # fmt: skip
_of_mask(
    "mask/of_first_row", _all_sizes, _ROWS,
    "The mask is decided once for a tile of queries, by its first: later ones see only what that may see.",
    array=_first_row,
)  # fmt: skip
_of_mask(
    "window/by_tiles", _pairs_for_windows, _BOTH,
    "Tiles beyond the window are skipped, and those that it cuts are taken whole: the window itself is not applied.",
    rule=_window_by_tiles, example=(4, 4), seen=["sgl-project/sglang#31501"],
)  # fmt: skip
_of_mask(
    "mask/by_tiles", _pairs_of_sizes, _BOTH,
    "Tiles without a visible pair are skipped, and those that the mask cuts are taken whole.",
    array=_whole_tiles, example=(4, 4),
)  # fmt: skip
_of_mask(
    "tile/last_left_out", _below_all, _KEYS,
    "The loop over keys ends one tile early: of the tiles that a query may see the last is left out.",
    array=_without_last,
)  # fmt: skip
_of_mask(
    "tile/first_left_out", _below_all, _KEYS,
    "The loop over keys starts one tile late: of the tiles that a query may see the first is left out.",
    array=_without_first,
)  # fmt: skip
_of_mask(
    "tile/one_too_many", _below_all, _KEYS,
    "The loop over keys ends one tile late: the tile after the last that a query may see is seen as a whole.",
    array=_with_next,
)  # fmt: skip
