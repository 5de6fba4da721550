"""Which rows of an attention are they? Rows that see nothing, whose keys were all dropped, that see a NaN, in words."""

from __future__ import annotations

import numpy as np

from refattn.attention import attention_stages
from refattn.testing.equals import call_as, equal


def described(function, result, wrong, args, kwargs) -> str:
    """What the rows have in common that hold wrong elements and other rows lack; empty where nothing is known of it.

    Parameters
    ----------
    function, result : str
    wrong : array of bool
        Which elements of the result are wrong.
    args, kwargs : tuple, dict
        The arguments of the reference function, in float64.
    """
    if not equal(function, "attention") or not wrong.any():
        return ""
    rows = wrong if result == "lse" else wrong.any(axis=-1)
    try:
        kinds = {name: np.broadcast_to(kind, rows.shape) for name, kind in _kinds(function, args, kwargs).items()}
    except ValueError:
        return ""
    exactly = [name for name, kind in kinds.items() if np.array_equal(kind, rows)]
    if exactly:
        return f"They are the {exactly[0]}."
    within = [(int(kind.sum()), name) for name, kind in kinds.items() if kind[rows].all() and not kind.all()]
    return f"All of them are {min(within)[1]} ({int(rows.sum())} of {min(within)[0]})." if within else ""


def _kinds(function, args, kwargs):
    """Sets of rows by name, (..., N), the most particular first."""
    found = call_as(function, "attention", args, kwargs)
    if found is None:
        return {}
    given = {**found.arguments}
    given.pop("return_lse", None)
    q, k, v = given.pop("q"), given.pop("k"), given.pop("v")
    with np.errstate(all="ignore"):
        stages = attention_stages(q, k, v, **given)
    visible, allowed = ~np.isneginf(stages.mask), ~np.isneginf(stages.scores)
    kinds = {}
    if given.get("dropout") is not None:
        kept = np.asarray(given["dropout"][0])
        kinds["rows whose visible keys were all dropped"] = visible.any(axis=-1) & ~(visible & kept).any(axis=-1)
    hidden = {name: x for name, x in given.items() if name in ("mask", "bias") and x is not None}
    empty = ~visible.any(axis=-1)
    if len(hidden) == 2:
        with np.errstate(all="ignore"):
            alone = attention_stages(q, k, v, **{n: x for n, x in given.items() if n != "bias"}).mask
        by_mask = np.isneginf(alone).all(axis=-1)
        kinds["rows that mask and bias empty together"] = empty & ~by_mask
    kinds["empty rows (no key is visible)"] = empty
    for name, x in (("NaN", np.isnan), ("an infinity", np.isinf)):
        values = x(v).any(axis=-1)[..., None, :]
        kinds[f"rows that see {name} among the values"] = (visible & values).any(axis=-1)
        kinds[f"rows from which {name} among the values is hidden"] = (~visible & values).any(axis=-1) & ~(
            visible & values
        ).any(axis=-1)
        kinds[f"rows that see {name} among the scores"] = (visible & x(stages.mask)).any(axis=-1)
    kinds["rows that see one key only"] = visible.sum(axis=-1) == 1
    kinds["rows that see not every key"] = ~visible.all(axis=-1)
    return {
        name: kind & np.ones(np.broadcast_shapes(kind.shape, allowed.shape[:-1]), bool) for name, kind in kinds.items()
    }
