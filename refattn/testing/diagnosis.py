"""Which known mistake, or which other precision, gives these results?

Every variant of the function is evaluated on the same inputs. One that lies within rounding of every result of the call,
while the reference does not, explains them: a cause that fits the output and not its lse, or one gradient and not the
others, is none. Of several, the nearest comes first: the right one leaves nothing but rounding, and any other one leaves
rounding and its own difference. Where no variant alone explains it, other precisions are tried, variants in other
precisions, and, of what equals attention, two variants at once.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from refattn.testing import precisions
from refattn.testing.around import bound_around
from refattn.testing.constants import constants, factors
from refattn.testing.distances import distance, overall, ratio, same
from refattn.testing.equals import call_as, in_terms_of
from refattn.testing.narrowing import has_heads, of_head, rows_of_all, worst_head
from refattn.testing.precisions import SMALL_VALUES
from refattn.testing.profiles import Profile
from refattn.testing.solving import settled
from refattn.testing.variants import Variant, families, variants

FITS = 2.0  # a variant explains a result that lies within so many bounds of it (its magnitudes differ a little)
_CLEARLY = 4.0  # and so many times farther from the reference; below that a precision is the likelier explanation
_ALIKE = 0.1  # variants that differ by fewer bounds than this are one answer for these inputs
_NEAREST = 6  # so many that nearly fit are held to the bound around themselves
_SENTINEL = -1e29  # a log-sum-exp of the score that variants put in place of -infinity
_APART = (
    "scale",
)  # gradients that few kernels have, and make for themselves: where they hold they speak against nothing
_PAIRS = 60_000_000  # numbers that may be computed in the search for two variants at once


@dataclass(frozen=True)
class Explanation:
    """One variant, or another precision profile, and how well it explains a call: in units of the bound.

    Attributes
    ----------
    name : str
    fit : float
        The largest distance of any result of the call from what the variant gives.
    variant : Variant, optional
        None for a precision.
    alone : float
        The distance of the one result that it is given for.
    """

    name: str
    fit: float
    variant: Variant | None = None
    alone: float = np.inf


@dataclass(frozen=True)
class Judged:
    """A result of a call, and what it was to be.

    Attributes
    ----------
    function, result : str
        'attention', 'lse'.
    got, want, limit : float64 arrays
        The result, the oracle's, and the bound by which it was judged.
    profile : Profile
    args, kwargs : tuple, dict
        The reference function's arguments, in float64.
    tier : {"hard", "statistical"}
        Which bound that was.
    wrong : bool
        Whether it lies outside. What lies inside must be explained as well.
    """

    function: str
    result: str
    got: np.ndarray
    want: np.ndarray
    limit: np.ndarray
    profile: Profile
    args: tuple
    kwargs: dict
    tier: str = "hard"
    wrong: bool = True


@dataclass(frozen=True)
class _Candidate:
    """What a variant gives for the same inputs, and how far the results are from it: at most, and on the whole."""

    variant: Variant
    values: dict[str, np.ndarray] = field(default_factory=dict)
    fits: dict[str, float] = field(default_factory=dict)
    overall: float = np.inf
    touched: int = 0
    explains: bool = False

    @property
    def fit(self) -> float:
        return max(self.fits.values(), default=np.inf)


def explanations(judgements: list[Judged], suspected: Collection[str] = ()) -> dict[str, list[Explanation]]:
    """For each wrong result of a call what explains the call, best first; what does not explain it follows, nearest first.

    Parameters
    ----------
    judgements : list of Judged
        All results of one call that are known, those that hold too.
    suspected : collection of str
        Names of variants. Where one of them explains the call clearly, no others are asked about.
    """
    judgements = _narrowed(judgements)
    if suspected and (causes := _of_suspected(judgements, suspected)):
        return {j.result: causes for j in judgements if j.wrong}
    first = next(j for j in judgements if j.wrong)
    ratios = _badness(first) if first.got.shape == first.want.shape else None
    values = [
        (v, value) for v in settled(judgements, ratios) if (value := v.results(first.args, first.kwargs)) is not None
    ]
    found = {j.result: _of_shape(j, values) for j in judgements if j.wrong and j.got.shape != j.want.shape}
    whole = [j for j in judgements if j.got.shape == j.want.shape]
    return found | (_explained(whole, values) if any(j.wrong for j in whole) else {})


def _of_suspected(judgements, suspected) -> list[Explanation]:
    """The suspected variants that explain a call, clearly; those of families would have to be solved for first."""
    first = judgements[0]
    if any(j.got.shape != j.want.shape for j in judgements):
        return []
    solved_for = {family.example.name for family, _ in families(first.function)}
    asked = [v for v in variants(first.function) if v.name in suspected and v.name not in solved_for]
    values = [(v, value) for v in asked if (value := v.results(first.args, first.kwargs)) is not None]
    away = _away(judgements)
    fitting = [c for c in _candidates(judgements, values, away) if c.explains]
    return [_explanation(c) for c in fitting] if _clearly(fitting, judgements, away) else []


def _clearly(fitting, judgements, away) -> bool:
    """Whether a result that is wrong lies much nearer to one of the variants than to the reference."""
    return any(c.fits[j.result] * _CLEARLY <= away[j.result] for c in fitting for j in judgements if j.wrong)


def explained_by(judgements: list[Judged], v: Variant, *, won: bool = False) -> dict[str, list[Explanation]]:
    """For each wrong result of a call the one variant that is asked about; empty where it does not explain the call.

    A variant that `won` in other calls need only fit: a call that is hardly wrong may be hardly nearer to it.
    """
    if any(j.got.shape != j.want.shape for j in judgements):
        return {}
    judgements = _narrowed(judgements)
    value, wrong = v.results(judgements[0].args, judgements[0].kwargs), [j for j in judgements if j.wrong]
    if value is None:
        return {}
    c = _candidate(v, value, judgements, _away(judgements))
    if c is not None and c.explains:
        return {j.result: [_explanation(c)] for j in wrong}
    fit = _hardly_off(value, judgements) if won else np.inf
    return {j.result: [Explanation(v.name, fit, v, fit)] for j in wrong} if fit <= 1 else {}


def _hardly_off(value, judgements) -> float:
    """How far all results are from a variant's, in bounds; infinitely where one that is wrong is no nearer to it."""
    fits, away = [], _away(judgements)
    for j in judgements:
        x = value.get(j.result)
        near = x is not None and np.shape(x) == j.got.shape
        fit = distance(j.got, _stored(x, j), j.limit) if near else np.inf
        fits.append(np.inf if j.wrong and fit >= away[j.result] else fit if near or j.wrong else 0.0)
    return max(fits)


def _narrowed(judgements):
    """Of a large problem the head in which the first wrong result is farthest off."""
    if not has_heads(judgements) or any(j.got.shape != j.want.shape for j in judgements):
        return judgements
    first = next(j for j in judgements if j.wrong)
    place = worst_head(first, _badness(first))
    narrow = [] if place is None else [of_head(j, place) for j in judgements]
    return narrow if narrow and None not in narrow else judgements


def _badness(judged):
    """How far each element is off; infinitely where NaN or infinities differ."""
    strange = ~same(judged.got, judged.want) & ~(np.isfinite(judged.got) & np.isfinite(judged.want))
    return np.where(strange, np.inf, np.nan_to_num(ratio(judged.got, judged.want, judged.limit), nan=0.0))


def _explained(judgements, values) -> dict[str, list[Explanation]]:
    wrong = [j for j in judgements if j.wrong]
    away = _away(judgements)
    found = _candidates(judgements, values, away)
    if not any(c.explains for c in found):
        found = _around(judgements, found, away)
    fitting = [c for c in found if c.explains]
    causes = [_explanation(c) for c in fitting]
    if not _clearly(fitting, judgements, away):
        numbers = _numbers(judgements, away)
        causes = [*numbers, *causes] if numbers else _by_rounding(judgements, wrong, values, away, causes)
    nearest = [c for c in found if not c.explains]
    return {j.result: [*causes, *_nearest(j, nearest)] for j in wrong}


def _numbers(judgements, away) -> list[Explanation]:
    """Another number than the one that was given, where that explains a call."""
    first = next(j for j in judgements if j.wrong)
    solved = [*constants(first, _badness(first)), *factors(judgements)]
    values = [(v, value) for v in solved if (value := v.results(first.args, first.kwargs)) is not None]
    found = _candidates(judgements, values, away)
    if not any(c.explains for c in found):
        found = _around(judgements, found, away)
    return [_explanation(c) for c in found if c.explains]


def _by_rounding(judgements, wrong, values, away, causes):
    """What rounding explains, before the variants that do so barely better than the reference; two at once last."""
    if (small := max(map(precisions.only_small_values, wrong))) <= 1:
        return [Explanation(SMALL_VALUES, small), *causes]
    some, place = rows_of_all(judgements, _badness(wrong[0]))
    others = [(p, limit) for p in precisions.others(wrong[0]) if (limit := precisions.limits(some, p)) is not None]
    coarser = [Explanation(p.name, fit) for p, limit in others if (fit := precisions.fit(some, limit)) <= 1]
    if coarser or causes:
        return [*coarser, *causes]
    held = [(p, limit) for p, limit in others if p.out.name == precisions.coarsest(wrong[0].got)]
    if place is not None:  # the limits of some rows
        near = [p for p, limit in held if _any_near(some, place, values, p, limit)]
        held = [(p, limit) for p in near if (limit := precisions.limits(judgements, p)) is not None]
    return _more(judgements, values, held, away)


def _any_near(some, place, values, profile, limits) -> bool:
    """Whether any variant comes near some rows of the results in another precision."""
    rows = [replace(j, limit=limits[j.result], profile=profile) for j in some if j.wrong]
    return any(all(_is_near(value.get(j.result), j, place) for j in rows) for _, value in values)


def _is_near(value, judged, place) -> bool:
    if value is None or value.ndim < len(place) or value[place].shape != judged.got.shape:
        return False
    x = _stored(value[place], judged)
    return distance(judged.got, x, _limit_around(x, judged)) <= 2 * FITS  # which is wider where others are unusual


def _more(judgements, values, others, away) -> list[Explanation]:
    """Two variants at once, or a variant in another precision: what is tried where nothing simpler explains it.

    `others` are profiles with the output format that the result has, and their limits.
    """
    both = (found for found in _pairs(judgements[0], values) if _may_explain(found[1], judgements))
    pairs = _candidates(judgements, both, away)
    twice = [_explanation(c) for c in pairs if c.explains]
    for other, limits in [] if twice else others:
        if other.name.startswith("float8"):  # with a variant it would explain anything
            continue
        coarser = [replace(j, limit=limits[j.result], profile=other) for j in judgements]
        near = [found for found in values if _may_explain(found[1], coarser)]
        found = [c for c in _candidates(coarser, near, _away(coarser)) if c.explains]
        twice = [Explanation(f"{c.variant.name}, precision {other.name}", c.fit, c.variant) for c in found]
        if twice:
            break
    return twice


# --- variants -------------------------------------------------------------------------------------------------------


def _away(judgements):
    return {j.result: distance(j.got, j.want, j.limit) for j in judgements}


def _candidates(judgements: list[Judged], values, away) -> list[_Candidate]:
    """Every variant that differs from the reference here: those that explain the call first, then the nearest."""
    found = [c for v, value in values if (c := _candidate(v, value, judgements, away)) is not None]
    found.sort(key=lambda c: (not c.explains, c.overall if c.explains else c.fit))
    return _alike_first(found, judgements)


def _may_explain(value, judgements) -> bool:
    """Whether every wrong result lies within the widest limit that there is around a value: quicker told than the limit."""
    for j in judgements:
        if j.wrong:
            x = value.get(j.result)
            if x is None or x.shape != j.got.shape:
                return False
            x, hard, out = _stored(x, j), np.where(np.isnan(j.limit), 0.0, j.limit), j.profile.out
            usual = np.max(hard[np.isfinite(hard)], initial=out.eta)
            if not distance(j.got, x, np.maximum(np.maximum(hard, usual), 2 * out.u * np.abs(x))) <= FITS:
                return False
    return True


def _candidate(v, value, judgements, away, limits=None) -> _Candidate | None:
    """A variant held to every result, those that hold last; None where it is the reference for all that are wrong."""
    values, fits, touched, squares = {}, {}, 0, []
    for j in sorted(judgements, key=lambda j: not j.wrong):
        x = None if not j.wrong and j.result in _APART else value.get(j.result)
        if x is None or x.shape != j.got.shape:
            if j.wrong:
                fits[j.result] = np.inf
            continue
        x = _stored(x, j)
        limit = _limit_around(x, j) if limits is None else np.broadcast_to(limits[j.result].hard, x.shape)
        fits[j.result] = distance(j.got, x, limit)
        values[j.result] = x
        if j.wrong:
            with np.errstate(invalid="ignore"):
                touched += int(np.sum(~same(x, j.want) & ~(np.abs(x - j.want) <= j.limit)))
            squares.append(overall(j.got, x, limit) ** 2 if np.isfinite(fits[j.result]) else np.inf)
        elif not np.isfinite(max(fits.values())):
            break  # it explains nothing, whatever holds
    if not touched:
        return None
    bad = [j.result for j in judgements if j.wrong]
    nearer = [fits[name] < away[name] / 2 for name in bad]  # a result that is hardly wrong may be hardly nearer
    explains = max(fits.values()) <= FITS and any(nearer)
    explains = explains and all(n or fits[name] <= 1 for n, name in zip(nearer, bad, strict=True))
    return _Candidate(v, values, fits, float(np.sqrt(np.mean(squares))), touched, explains)


def _stored(value, judged):
    """A variant's value as the kernel could return it."""
    if (
        judged.result == "lse"
    ):  # which finite number stands for -infinity is the kernel's affair, if nothing else is so low
        low = (judged.want <= -9e3) & (judged.want > _SENTINEL)
        return np.where((value <= _SENTINEL) & (judged.got <= -9e3) & ~low, judged.got, value)
    if judged.limit.any():  # what has no bound is a count
        return np.where(np.abs(value) > judged.profile.out.largest, np.copysign(np.inf, value), value)
    return value


def _around(judgements, found, away):
    """The same candidates, the nearest of them held to the bound around themselves."""
    first = judgements[0]
    held: list[_Candidate | None] = []
    for c in found:
        near = np.isfinite(c.fit) and any(fit * _CLEARLY <= away[name] for name, fit in c.fits.items())
        limits = (
            bound_around(c.variant, first.profile, first.args, first.kwargs) if near and len(held) < _NEAREST else None
        )
        if limits is None or any(np.shape(limits[n].value) != x.shape for n, x in c.values.items() if n in limits):
            continue
        if c.values.keys() <= limits.keys():
            held.append(_candidate(c.variant, c.values, judgements, away, limits))
    better = [c for c in held if c is not None and c.explains]
    names = {c.variant.name for c in better}
    better.sort(key=lambda c: c.overall)
    return [*better, *(c for c in found if c.variant.name not in names)]


def _alike_first(found, judgements):
    """Of variants that these inputs cannot tell apart, the one that changes the fewest elements says least: it leads."""
    if not found or not found[0].explains:
        return found
    first = found[0]
    limits = {j.result: _limit_around(first.values[j.result], j) for j in judgements if j.result in first.values}
    alike = [
        c
        for c in found
        if c.explains
        and c.values.keys() == first.values.keys()
        and all(distance(x, first.values[n], limits[n]) <= _ALIKE for n, x in c.values.items())
    ]
    leader = min(alike, key=lambda c: c.touched)
    ordered = [leader, *(c for c in alike if c is not leader)]
    return ordered + [c for c in found if not any(c is other for other in ordered)]


def _explanation(c: _Candidate) -> Explanation:
    return Explanation(c.variant.name, c.fit, c.variant, c.fit)


def _nearest(judged, found: Iterable[_Candidate]) -> list[Explanation]:
    """What does not explain the call, nearest first: with how far it is from all of it, and from this result."""
    rest = [Explanation(c.variant.name, c.fit, c.variant, c.fits.get(judged.result, np.inf)) for c in found]
    # One that lies near the results, but hardly nearer than the reference, is no explanation and no neighbour.
    return sorted((e for e in rest if e.fit > FITS), key=lambda e: e.fit)


def _limit_around(value, judged):
    """The bound around a variant's value.

    Where the variant has a value of its own (a row that is empty for the reference, say), the reference's bound says
    nothing about it: there the limit is at least the usual one.
    """
    hard, out = np.where(np.isnan(judged.limit), 0.0, judged.limit), judged.profile.out
    numbers = (np.abs(x[np.abs(x) < -_SENTINEL]) for x in (value, judged.want))  # others stand for an infinity
    level = max(np.max(x, initial=0.0) for x in numbers)
    large = hard[(hard > 4 * out.eta) & (hard <= level)]  # a limit beyond all values says nothing, also of others
    usual = np.median(large) if large.size else 0.0
    with np.errstate(invalid="ignore"):
        own = ~(np.abs(value - judged.want) <= 4 * hard)
    finite = np.where(np.isfinite(value), value, 0.0)
    floor = np.maximum(2 * out.u * np.abs(finite), out.eta)
    return np.maximum(hard, np.where(own, np.maximum(usual, floor), 0.0))


def _pairs(judged: Judged, values):
    """Two conventions of attention at once, those seen most often first, as far as the budget goes, with their values.

    The first may be a variant of the function itself; what it would evaluate is a call of attention, and so the second is one
    of attention.
    """
    call = call_as(judged.function, "attention", judged.args, judged.kwargs)
    if call is None:
        return
    from refattn.testing.mechanisms.attention.variants import after, pair, recorded

    seen = sorted((v for v, _ in values if v.seen), key=lambda v: -len(v.seen))
    cost = max(judged.got.size, 1) * max(int(np.shape(call.arguments["k"])[-2]), 1)
    made: dict[str, Any] = {}  # every variant is the first of many pairs
    for v in seen:
        with contextlib.suppress(Exception), np.errstate(all="ignore"):  # as of any variant that does not apply
            made[v.name] = recorded(v.call, *judged.args, **judged.kwargs)
    for a, b in itertools.islice(_by_rank(seen), max(int(_PAIRS // cost), 100)):
        for first, second in ((a, b), (b, a)):  # one may leave the other nothing to change
            if (theirs := in_terms_of("attention", second)) is None:
                continue
            both = pair(first, second)
            of_made = replace(
                both, call=lambda first=first, theirs=theirs: call.back(after(made[first.name], theirs.call))
            )
            if (value := of_made.results((), {})) is not None:
                yield both, value
                break


def _by_rank(items):
    """All pairs, those of early items first."""
    for last in range(1, len(items)):
        for first in range(last):
            yield items[first], items[last]


def _of_shape(judged: Judged, values) -> list[Explanation]:
    """Variants whose result has the shape that was given instead of the right one, and its numbers."""
    found = []
    for v, returned in values:
        value = returned.get(judged.result)
        if value is not None and value.shape == judged.got.shape:
            level = np.max(np.abs(value[np.isfinite(value)]), initial=0.0)
            limit = np.full(value.shape, 64 * judged.profile.out.u * level + judged.profile.out.eta)
            found.append(Explanation(v.name, distance(judged.got, value, limit), v))
    return sorted((e for e in found if e.fit <= FITS), key=lambda e: e.fit)
