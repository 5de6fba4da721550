"""What follows from a result instead of being listed: the sizes of the tiles that a kernel gets wrong.

Members of a family are tried on a few wrong rows of one head, and those that fit there stand among the variants with
the value that was found.
"""

from __future__ import annotations

import numpy as np

from refattn.testing.constants import of_lse
from refattn.testing.mechanisms.attention.variants import evaluate
from refattn.testing.narrowing import Rows, arguments, as_attention, few_rows
from refattn.testing.tails import sizes
from refattn.testing.variants import Family, NotApplicable, Variant, families, variants

_NEAR = 8.0  # bounds within which a few rows must lie for a value to be tried on all
_CLOSE = 1.0  # those that lie within so many come first
_ALIKE = 0.1  # bounds within which two values give one result
_MEMBERS = 3  # so many values with different results are tried on all rows
_MANY = 2**21  # pairs of queries and keys beyond which only usual sizes are tried


def settled(judgements, ratio) -> list[Variant]:
    """The variants of the function that was judged; of families the members that fit the wrong results, if any does.

    Parameters
    ----------
    judgements : list of Judged
        The results of one call.
    ratio : array
        How far each element of the first that is wrong is off, in units of its bound.
    """
    wrong = [j for j in judgements if j.wrong and j.got.shape == j.want.shape]
    first = next(j for j in judgements if j.wrong)
    found = {}
    if first in wrong and first.function == "Mask.dense":
        found = _of_masks(first)
    elif first in wrong and (rows := few_rows(first, ratio)) is not None:
        targets = {j.result: (j.got[rows.place], _usual(j.limit[rows.place])) for j in wrong}
        given = as_attention(first)
        known: dict[bytes, float] = {}
        for family, make in families(first.function):
            if members := _members(family, rows, given, targets, known):
                found[family.example.name] = [make(v) for v in members]
        if members := of_lse(wrong[-1]):
            found[members[0].name] = members
    elif first in wrong:
        found = _of_rows(wrong)
    return [v for own in variants(first.function) for v in found.get(own.name, [own])]


def _members(family: Family, rows: Rows, given, targets, known: dict[bytes, float]) -> list[Variant]:
    """The members of a family that fit a few rows, those of like results as one.

    `known` holds how far the results of masks are that were tried before, of any family: many sizes give the same mask.
    """
    if family.scales and not _scaled(rows):
        return []
    n, m = np.shape(given["q"])[-2], np.shape(given["k"])[-2]
    positions = {name: given.get(name) for name in ("q_positions", "k_positions")}
    mask = given.get("mask")
    if not family.rules:  # its array is made once
        mask, positions = rows.whole, {}
    options = {**rows.options, "return_lse": True}

    def result(value):
        """What a member gives for the rows, if that is near; else None."""
        try:
            if family.masked is None:
                returned = family.build(value)(rows.q, rows.k, rows.v, rows.seen, **options)
            else:
                seen = rows.cut(family.masked(value)(mask, n, m, **positions))
                if known.get(key := seen.tobytes(), 0.0) > _NEAR or np.array_equal(seen, rows.seen):
                    return None
                returned = evaluate(rows.q, rows.k, rows.v, seen, **options)
        except NotApplicable:
            return None
        got = {name: np.asarray(x) for name, x in zip(("out", "lse"), returned, strict=True) if name in targets}
        off = max(_off(got[name], *targets[name]) for name in targets)
        if family.masked is not None and off > _NEAR:
            known[key] = off
        return got if off <= _NEAR else None

    fitting, effects = [], {}
    for value in family.values(n, m, given.get("mask"))[: 7 if n * m > _MANY else None]:
        effect = family.effect(value, n, m) if family.effect else value
        if effect not in effects:
            effects[effect] = result(value)
        if effects[effect] is not None:
            fitting.append((value, effects[effect]))
    members: list[tuple[list, dict]] = []
    for value, got in sorted(fitting, key=lambda f: max(_off(x, *targets[name]) for name, x in f[1].items()) > _CLOSE):
        like = (values for values, x in members if all(_off(got[n], x[n], targets[n][1]) <= _ALIKE for n in targets))
        values = next(like, None)
        if values is None:
            members.append(([value], got))
        else:
            values.append(value)
    return [family.member(values[0], values[1:], given.get("mask")) for values, _ in members[:_MEMBERS]]


def _scaled(rows: Rows) -> bool:
    """Whether rows of an output can be the right ones, each times a number, to within the bounds of what is near.

    No number leaves less of a row than the one of least squares.
    """
    if rows.options["return_lse"]:  # a log-sum-exp has no direction
        return True
    finite = np.isfinite(rows.got).all(axis=-1) & np.isfinite(rows.want).all(axis=-1)
    got, want, limit = rows.got[finite], rows.want[finite], _usual(rows.limit)[finite]
    squares = (want * want).sum(axis=-1, keepdims=True)
    factor = (got * want).sum(axis=-1, keepdims=True) / np.where(squares == 0, 1.0, squares)
    left = np.linalg.norm(got - factor * want, axis=-1)
    return bool(np.all(left <= _NEAR * np.linalg.norm(limit, axis=-1)))


def _of_masks(judged) -> dict[str, list[Variant]]:
    """The members of families of masks that are what was returned."""
    call = arguments(judged)
    mask, found = call["self"], {}
    for family, _ in families("Mask.dense"):
        values = [x for x in family.values(call["n"], call["m"], mask) if _is(family.build(x), judged)]
        if values:
            found[family.example.name] = [family.member(values[0], values[1:], mask)]
    return found


def _of_rows(wrong) -> dict[str, list[Variant]]:
    """The members of families of blocks of rows that lie near all wrong results of a call, those of like results as one."""
    first, found = wrong[0], {}
    for family, make in families(first.function):
        alike: dict[bytes, list] = {}
        for value in sizes() if family.values is sizes else ():
            got = make(family.member(value)).results(first.args, first.kwargs) or {}
            if all(j.result in got and _off(got[j.result], j.got, _usual(j.limit)) <= _NEAR for j in wrong):
                alike.setdefault(b"".join(got[j.result].tobytes() for j in wrong), []).append(value)
        if alike:
            found[family.example.name] = [make(family.member(x[0], x[1:])) for x in list(alike.values())[:_MEMBERS]]
    return found


def _is(call, judged) -> bool:
    try:
        return np.array_equal(call(*judged.args, **judged.kwargs), judged.got)
    except NotApplicable:
        return False


def _usual(limit):
    """A bound where it is usual or more, the usual one where it is small or none."""
    limit = np.where(np.isfinite(limit), limit, 0.0)
    return np.maximum(limit, np.median(limit[limit > 0])) if (limit > 0).any() else limit


def _off(value, got, limit) -> float:
    """How far a result is from another, in units of a bound."""
    finite = np.isfinite(value)
    if not np.array_equal(finite, np.isfinite(got)) or not np.array_equal(value[~finite], got[~finite], equal_nan=True):
        return np.inf
    limit = limit[finite]
    difference = np.abs(value[finite] - got[finite])
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.max(np.where(difference == 0, 0.0, difference / limit), initial=0.0))
