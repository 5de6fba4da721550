"""Inputs for rules of masks: every rule at sizes where its readings differ."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refattn import masks
from refattn.masks import Mask
from refattn.testing.inputs import Case, Draw


def rules(draw: Draw, b: int, n: int, m: int, h: int = 1) -> dict[str, Mask]:
    """Random rules by name, for b sequences, h heads, n queries and m keys."""
    reach, stride = draw.between(1, 5), draw.between(2, 5)
    ids = np.sort(draw.integers(0, 3, b, 1, m), axis=-1)
    lengths, starts = draw.integers(1, m, b, 1), draw.integers(0, max(m // 3, 1), b, 1)
    tokens = draw.rng.choice(m, size=min(2, m), replace=False)
    prefix = draw.between(0, min(2, m - 1))
    parents = np.array([-1, *(draw.between(-1, j - 1) for j in range(1, m - prefix))])
    sliding = masks.causal() & masks.window(reach, 0)
    return {
        "causal": masks.causal(),
        "window": masks.window(reach, draw.between(0, 2)),
        "left": masks.window(reach, None),
        "sliding": sliding,
        "dilated": masks.dilated(reach, draw.between(0, 2), draw.between(2, 3)),
        "block": masks.block(stride),
        "neighbours": masks.neighbours(stride, 1, draw.between(0, 1)),
        "chunked": masks.chunked(stride),
        "strided": masks.strided(stride),
        "fixed": masks.fixed(stride, draw.between(1, stride)),
        "global": sliding | masks.global_tokens(tokens),
        "prefix": masks.prefix(lengths),
        "prefix window": masks.prefix(lengths) & masks.window(reach, reach),
        "padding": masks.padding(lengths),
        "left padding": masks.padding(lengths, starts),
        "both": masks.causal() & masks.padding(lengths),
        "documents": masks.documents(ids),
        "returning": masks.documents(draw.integers(0, 2, m)),
        "two sequences": masks.documents(draw.integers(0, 2, m), draw.integers(0, 2, m)),
        "of heads": masks.padding(draw.integers(1, m, *((b, h) if b == h else (b, 1)))),
        "packed": masks.documents(ids) & masks.causal(),
        "images": (masks.causal() | masks.documents(ids)) & masks.window(reach, reach),
        "or and": masks.global_tokens(tokens) | sliding,
        "not": masks.causal() & ~masks.window(1, 0),
        "tree": masks.tree(parents, prefix=prefix),
    }


_NEED_DATA = ("documents", "packed", "returning", "two sequences", "images")  # for every position, also those below 0


def rule(draw: Draw, b: int, n: int, m: int, h: int = 1) -> Mask:
    """A random rule that has an answer for every query: with more queries than keys the first sit below 0."""
    known = rules(draw, b, n, m, h)
    return known[draw.pick(*(name for name in known if n <= m or name not in _NEED_DATA))]


def mask(draw: Draw, b: int, h: int, n: int, m: int) -> Mask | np.ndarray | None:
    """No mask, a random rule, or a random array of any form that broadcasts to (B, H, N, M), in which every row has a key."""
    kind = draw.pick("none", "array", "rule", "rule")
    if kind == "none":
        return None
    if kind == "rule":
        return rule(draw, b, n, m, h)
    dense = draw.where(0.6, *draw.pick((b, 1), (b, h), (1, h), ()), n, m)
    dense[..., draw.between(0, m - 1)] = True
    return dense


def has_data(given) -> bool:
    """Whether a mask is a rule with arrays, which answers for some positions only."""
    return isinstance(given, Mask) and any(isinstance(x, np.ndarray) for x in given._data())


def dense(draw: Draw) -> dict:
    """A random call of Mask.dense, at positions that float32 still tells apart and at others."""
    b, n, m = draw.between(1, 3), draw.between(1, 9), draw.between(3, 20)
    n = m if draw.chance(0.3) else n
    given = {"self": rule(draw, b, n, m, h=b), "n": n, "m": m}
    if draw.chance(0.3) and not has_data(given["self"]):
        start = draw.pick(0, 3, 40, 2**24, 2**31 - 5)
        given |= {"q_positions": start + np.arange(n) + draw.between(0, 3), "k_positions": start + np.arange(m)}
    return given


def one_of_each(draw: Draw, m: int) -> dict:
    """One mask of each kind, and combinations, for m keys."""
    ids = np.sort(draw.rng.integers(0, 3, size=(2, 1, m)), axis=-1)
    parents = np.array([-1, -1, 0, 0, 1, 4, 3][: m - 1])
    return {
        "causal": masks.causal(),
        "window": masks.window(2, 1),
        "window_left": masks.window(3, 0),
        "window_right": masks.window(0, 2),
        "window_open": masks.window(None, 1),
        "dilated": masks.dilated(2, 1, 2),
        "block": masks.block(4),
        "neighbours": masks.neighbours(2, 1, 1),
        "chunked": masks.chunked(4),
        "strided": masks.strided(3),
        "fixed": masks.fixed(3, 1),
        "global": masks.causal() & masks.window(1, 0) | masks.global_tokens([1, 4]),
        "prefix": masks.prefix(np.array([[3], [5]])),
        "padding": masks.padding(np.array([[5], [7]])),
        "left_padding": masks.padding(np.array([[4], [6]]), np.array([[3], [1]])),
        "documents": masks.documents(ids),
        "packed": masks.documents(ids) & masks.causal(),
        "not": masks.causal() & ~masks.window(1, 0),
        "or": masks.window(1, 0) | masks.prefix(np.array(2)),
        "tree": masks.tree(parents, prefix=m - len(parents)),
    }


def every_rule(draw: Draw, effort: str) -> Iterator[Case]:
    """Every rule, with as many and with fewer queries than keys, and at positions that are given."""
    for name, mask in one_of_each(draw, 8).items():
        yield name, ("MASK-POLARITY",), {"self": mask, "n": 8, "m": 8}
        yield f"{name}_wide", ("MASK-ALIGN",), {"self": mask, "n": 3, "m": 8}
    for name in ("causal", "window", "strided", "chunked", "dilated"):
        given = {"q_positions": np.arange(5) + 2**24 + 7, "k_positions": np.arange(9) + 2**24 + 1}
        yield f"{name}_far", ("MASK-POSITIONS",), {"self": one_of_each(draw, 8)[name], "n": 5, "m": 9, **given}
    yield "causal_tall", ("MASK-EMPTY",), {"self": masks.causal(), "n": 7, "m": 4}
    lengths = np.array([[3, 5], [6, 2]])
    more = {
        "prefix_in_window": masks.prefix(np.array([[4], [6]])) & masks.window(1, 1),
        "padding_and_causal": masks.padding(np.array([[3], [6]])) & masks.causal(),
        "returning": masks.documents([0, 0, 1, 1, 0, 2, 2, 1]),
        "or_restricted": (masks.window(0, 0) | masks.prefix(np.array(2))) & masks.causal(),
        "lengths_of_heads": masks.padding(lengths),
    }
    for name, mask in more.items():
        yield name, ("MASK-ALGEBRA" if "_" in name else "MASK-DOCUMENTS",), {"self": mask, "n": 8, "m": 8}
    below = {"q_positions": np.arange(9) - 5, "k_positions": np.arange(9) - 5}
    yield "block_below_zero", ("MASK-BLOCK",), {"self": masks.block(4), "n": 9, "m": 9, **below}
    beyond = {"q_positions": np.arange(5) + 2**31 - 2, "k_positions": np.arange(5) + 2**31 - 2}
    yield "causal_beyond_32_bits", ("MASK-POSITIONS",), {"self": masks.causal(), "n": 5, "m": 5, **beyond}
