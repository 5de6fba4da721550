"""What follows from a result instead of being listed: the sizes of the tiles that a kernel gets wrong.

Members of a family are tried on a few wrong rows of one head, and those that fit there stand among the variants with
the value that was found.
"""

from __future__ import annotations

import inspect

import numpy as np

from refattn.masks import Mask
from refattn.testing.constants import of_lse
from refattn.testing.narrowing import Rows, arguments, few_rows
from refattn.testing.variants import Family, NotApplicable, Variant, families, variants
from refattn.testing.variants.attention import evaluate

_NEAR = 8.0  # bounds within which a few rows must lie for a value to be tried on all
_MEMBERS = 3  # so many values with different results are tried on all rows
_MANY = 2**21  # pairs of queries and keys beyond which only usual sizes are tried


def settled(judged, ratio) -> list[Variant]:
    """The variants of the function that was judged; of families the members that fit the result, if any does.

    Parameters
    ----------
    judged : Judged
    ratio : array
        How far each element of the result is off, in units of its bound.
    """
    found = _of_masks(judged) if judged.function == "Mask.dense" else {}
    rows = few_rows(judged, ratio) if judged.got.shape == judged.want.shape else None
    if rows is not None:
        for family, make in families(judged.function):
            if members := _members(family, rows, judged):
                found[family.example.name] = [make(v) for v in members]
        if members := of_lse(judged):
            found[members[0].name] = members
    return [v for own in variants(judged.function) for v in found.get(own.name, [own])]


def _members(family: Family, rows: Rows, judged) -> list[Variant]:
    """The members of a family that fit a few rows, those of like results as one."""
    given = arguments(judged)
    n, m = np.shape(given["q"])[-2], np.shape(given["k"])[-2]
    positions = {name: given.get(name) for name in ("q_positions", "k_positions")}
    mask = given.get("mask")
    if not family.rules:  # its array is made once
        mask, positions = rows.whole, {}
    alike: list[tuple[float, np.ndarray, list]] = []
    for value in family.values(n, m, given.get("mask"))[: 7 if n * m > _MANY else None]:
        try:
            if family.masked is None:
                got = family.build(value)(rows.q, rows.k, rows.v, rows.seen, **rows.options)
            else:
                seen = rows.cut(family.masked(value)(mask, n, m, **positions))
                if np.array_equal(seen, rows.seen):
                    continue
                got = evaluate(rows.q, rows.k, rows.v, seen, **rows.options)
        except NotApplicable:
            continue
        got = np.asarray(got[1] if rows.options["return_lse"] else got)
        if (off := _off(rows, got)) > _NEAR:
            continue
        for _, other, values in alike:
            if np.array_equal(other, got, equal_nan=True):
                values.append(value)
                break
        else:
            alike.append((off, got, [value]))
    alike.sort(key=lambda a: a[0])
    return [family.member(values[0], values[1:], given.get("mask")) for _, _, values in alike[:_MEMBERS]]


def _of_masks(judged) -> dict[str, list[Variant]]:
    """The members of families of masks that are what was returned."""
    call = inspect.signature(Mask.dense).bind(*judged.args, **judged.kwargs).arguments
    mask, found = call["self"], {}
    for family, _ in families("Mask.dense"):
        values = [x for x in family.values(call["n"], call["m"], mask) if _is(family.build(x), judged)]
        if values:
            found[family.example.name] = [family.member(values[0], values[1:], mask)]
    return found


def _is(call, judged) -> bool:
    try:
        return np.array_equal(call(*judged.args, **judged.kwargs), judged.got)
    except NotApplicable:
        return False


def _off(rows, value) -> float:
    """How far some rows are from what a variant gives: in units of their bound, or of a usual one where it is small."""
    finite = np.isfinite(value)
    if not np.array_equal(finite, np.isfinite(rows.got)) or not np.array_equal(
        value[~finite], rows.got[~finite], equal_nan=True
    ):
        return np.inf
    limit = np.where(np.isfinite(rows.limit), rows.limit, 0.0)
    usual = np.median(limit[limit > 0]) if (limit > 0).any() else 0.0
    limit = np.maximum(limit, usual)[finite]
    difference = np.abs(value[finite] - rows.got[finite])
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.max(np.where(difference == 0, 0.0, difference / limit), initial=0.0))
