"""Options of a call of attention, for every function that takes them: rules at every place, rows emptied, broadcast arrays.

Each generator yields names, sizes and options; the functions add their own queries, keys, values and cotangents.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refattn import masks
from refattn.testing.inputs import Draw

B = 2  # sequences of the data below
SHAPES = {"square": (13, 13), "cached": (4, 13), "long": (3, 67)}  # N = M, a step over a cache, M much larger than N


def every_rule(n: int, m: int) -> dict[str, masks.Mask]:
    """One mask of each rule, whose edges lie among the last N of M positions; other data for each sequence of a batch."""
    early, late = m - n, m - 2
    ids = [np.searchsorted([early + 1, late], np.arange(m), side="right"), np.arange(m) >= m - n // 2 - 1]
    parents = np.array([[-1, -1, 0, 0, 1, 4, 3], [-1, 0, 1, 1, 3, 4, 4]])
    return {
        "window": masks.window(2, 1),
        "dilated": masks.dilated(2, 1, 3),
        "block": masks.block(5),
        "neighbours": masks.neighbours(5, 1, 0),
        "chunked": masks.chunked(5),
        "strided": masks.strided(5),
        "fixed": masks.fixed(5, 2),
        "global": masks.window(1, 0) | masks.global_tokens(np.array([[[0, 3]], [[1, late]]])),
        "prefix": masks.prefix(np.array([[late], [early + 2]])),
        "padding": masks.padding(np.array([[early + 1], [late]])),
        "left_padding": masks.padding(np.array([[n - 2], [m - 1]]), np.array([[early + 2], [1]])),
        "documents": masks.documents(np.array(ids)[:, None]),
        "documents_of_keys": masks.documents(np.array(ids)[:, None], np.array(ids[::-1])[:, None]),
        "tree": masks.tree(parents[:, None], prefix=m - 7),
    }


def rules_everywhere() -> Iterator[tuple[str, int, int, dict]]:
    """(name, N, M, options): every rule alone at every shape and at positions amid the keys, and with causality.

    Kills whatever lays a rule's data on queries for keys, reads it from the first query on instead of the last N of M
    positions, takes one sequence's data for all, or loses it beside causality.
    """
    for shape, (n, m) in SHAPES.items():
        for name, rule in every_rule(n, m).items():
            yield f"{name}_{shape}", n, m, {"mask": rule}
            if shape != "long":
                yield f"{name}_causal_{shape}", n, m, {"mask": masks.causal() & rule}
    amid = {"q_positions": np.arange(4) + 7}  # part of a prompt: keys before and behind
    for name, rule in every_rule(6, 13).items():
        yield f"{name}_amid", 4, 13, {"mask": rule, **amid}


def emptied_rows(draw: Draw, h: int = 3) -> Iterator[tuple[str, dict]]:
    """Options for N = 5, M = 7 of which two, or one in an unusual way, leave some queries nothing.

    Kills sums taken after dropout, and every guard of an empty row that looks at one option alone.
    """
    holes = np.ones((5, 7), dtype=bool)
    holes[:, 4], holes[1], holes[1, [2, 5]] = False, False, True
    none = holes.copy()
    none[3] = False
    dropped = draw.rng.random((B, h, 5, 7)) < 0.75
    dropped[..., 1, [2, 5]] = dropped[..., 2, :] = dropped[..., 0, :3] = dropped[..., 4, :2] = False
    dropout = {"dropout": (dropped, 0.25)}
    bias = draw.normal(5, 7)
    bias[0, :3] = bias[1] = bias[2, [2, 3]] = bias[3, 5] = bias[4, 2:] = -np.inf
    few = holes.copy()
    few[2] = np.isneginf(bias[2])
    sinks = {"sinks": draw.normal(h, scale=2.0)}
    padding = {"mask": masks.padding(np.array([[3], [7]]))}
    causal, narrow = {"mask": masks.causal()}, {"mask": masks.window(0, 0)}
    yield "dropout", dropout
    yield "dropout_and_mask", {**dropout, "mask": holes}
    yield "dropout_and_causal", {**dropout, **causal}
    yield "dropout_and_padding", {**dropout, **padding}
    yield "dropout_and_window", {**dropout, "mask": masks.window(1, 0)}
    yield "dropout_and_bias", {**dropout, "bias": bias}
    yield "dropout_and_sinks", {**dropout, **sinks, "mask": none}
    yield "dropout_of_everything", {"dropout": (np.zeros((5, 7), dtype=bool), 0.5)}
    yield "bias_and_mask", {"bias": bias, "mask": few}
    yield "bias_and_causal", {"bias": bias, **causal}
    yield "bias_and_window", {"bias": bias, **narrow}
    yield "bias_and_padding", {"bias": bias, **padding}
    yield "bias_and_sinks", {"bias": bias, **sinks}
    yield "bias_and_softcap", {"bias": bias, "softcap": 1.5}
    yield "mask_and_sinks", {"mask": none, **sinks}
    yield "mask_and_softcap", {"mask": none, "softcap": 1.5}
    yield "mask_and_scale", {"mask": none, "scale": -0.5}
    yield "padding_of_nothing", {"mask": masks.padding(np.array([[0], [6]]))}
    yield "padding_and_window", {"mask": masks.padding(np.array([[3], [6]])) & masks.window(1, 0)}
    yield "padding_and_causal", {"mask": masks.padding(np.array([[2], [5]]), np.array([[5], [2]])) & masks.causal()}
    yield (
        "documents_and_window",
        {"mask": masks.documents([0, 0, 0, 1, 1, 1, 2], [3, 0, 0, 1, 2, 2, 2]) & masks.window(1, 0)},
    )
    yield "all_options", {
        **dropout, **sinks, **padding, "bias": bias, "softcap": 1.5, "scale": 0.75,
    }  # fmt: skip


def broadcast_forms(draw: Draw, h: int = 3) -> Iterator[tuple[str, int, int, dict]]:
    """(name, N, M, options): arrays of every form that broadcasts to (B, H, N, M), where N = M hides exchanged axes.

    Kills axes that are exchanged, guessed by their lengths, or taken for those of the batch.
    """
    n, m = 7, 7
    forms = {
        "one": (1,), "keys": (m,), "row": (1, m), "column": (n, 1), "rectangle": (n, m), "heads": (h, n, m),
        "keys_of_heads": (h, 1, m), "keys_of_batch": (B, 1, 1, m), "queries_of_batch": (B, 1, n, 1),
        "batch": (B, 1, n, m), "heads_alone": (1, h, n, m), "everything": (B, h, n, m),
    }  # fmt: skip
    for name, shape in forms.items():
        allowed = draw.rng.random(shape) < 0.6
        if shape[-1] == m:
            allowed[..., 3] = True
        yield f"mask_of_{name}", n, m, {"mask": allowed | (name == "one")}
    for name in ("keys", "column", "heads", "keys_of_heads", "keys_of_batch", "queries_of_batch", "batch"):
        yield f"bias_of_{name}", n, m, {"bias": draw.normal(*forms[name], scale=2.0)}
    for name in ("keys", "column", "keys_of_batch", "batch"):
        yield f"dropout_of_{name}", n, m, {"dropout": (draw.rng.random(forms[name]) < 0.7, 0.25)}
    yield "sinks_of_batch", n, m, {"sinks": draw.normal(B, 1, scale=2.0)}
    yield "sinks_of_everything", n, m, {"sinks": draw.normal(B, h, scale=2.0)}
    yield "sink_of_all", n, m, {"sinks": draw.normal()}


def each_option(draw: Draw, h: int, n: int = 5, m: int = 7) -> Iterator[tuple[str, dict]]:
    """(name, options): every option that functions of heads take, for B = 2, and scores far from 0."""
    yield "mask", {"mask": masks.causal() & masks.window(2, 0)}
    yield "padding", {"mask": every_rule(n, m)["padding"]}
    yield "bias", {"bias": draw.normal(h, n, m, scale=2.0)}
    yield "scale", {"scale": 0.3}
    yield "scale_negative", {"scale": -0.5}
    yield "scale_zero", {"scale": 0.0}
    yield "softcap", {"softcap": 1.5}
    yield "sinks", {"sinks": draw.normal(h, scale=2.0)}
    yield "dropout", {"dropout": (draw.rng.random((2, h, n, m)) < 0.75, 0.25)}
    places = {"q_positions": np.arange(n) + 103, "k_positions": np.arange(m) + 101}
    yield "positions", {"mask": masks.causal(), **places}
    yield "scores_up", {"bias": draw.round(np.full((n, m), 30000.0))}
    yield "scores_down", {"bias": draw.round(np.full((n, m), -30000.0))}
    yield "levels", {"bias": draw.round(np.zeros((n, m)) + np.array([0.0, 300.0, -300.0, 900.0, -900.0])[:, None])}
