"""Which known mistake, or which other precision, gives this result?

Every variant of the function is evaluated on the same inputs. One that lies within rounding of the result, while the
reference does not, explains it. Of several, the nearest comes first: the right one leaves nothing but rounding, and
any other one leaves rounding and its own difference. Where no variant alone explains it, other precisions are tried,
variants in other precisions, and, for attention, two variants at once.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np

from refattn.testing.bounds import bound
from refattn.testing.constants import constants
from refattn.testing.narrowing import one_head
from refattn.testing.profiles import PROFILES, Profile
from refattn.testing.rounding import FORMATS, round_to
from refattn.testing.solving import settled
from refattn.testing.variants import NotApplicable, Variant, variants
from refattn.testing.vectors import results

SMALL_VALUES = "small values"  # right to a few units of the largest element, wrong for the small ones
FITS = 2.0  # a variant explains a result that lies within so many bounds of it (its magnitudes differ a little)
_CLEARLY = 4.0  # and so many times farther from the reference; below that a precision is the likelier explanation
_ALIKE = 0.1  # variants that differ by fewer bounds than this are one answer for these inputs
_PAIRS = 60_000_000  # numbers that may be computed in the search for two variants at once
_PAIRED = ("attention", "grouped_query_attention")


@dataclass(frozen=True)
class Explanation:
    """One variant, or another precision profile, and how well it explains a result: in units of the bound."""

    name: str
    fit: float
    variant: Variant | None = None


@dataclass(frozen=True)
class Judged:
    """A result that lies outside its bound, and what it was to be.

    Attributes
    ----------
    function, result : str
        'attention', 'lse'.
    got, want, limit : float64 arrays
        The result, the oracle's, and the bound by which it was judged.
    profile : Profile
    args, kwargs : tuple, dict
        The reference function's arguments, in float64.
    """

    function: str
    result: str
    got: np.ndarray
    want: np.ndarray
    limit: np.ndarray
    profile: Profile
    args: tuple
    kwargs: dict


@dataclass(frozen=True)
class _Candidate:
    """A variant's value for the same inputs, and how far the result is from it: at most, and on the whole."""

    variant: Variant
    value: np.ndarray
    fit: float
    overall: float
    touched: int


def explanations(judged: Judged) -> list[Explanation]:
    """What explains a result, best first; variants that do not explain it follow, the nearest first."""
    if judged.function in _PAIRED and judged.got.shape == judged.want.shape:
        judged = one_head(judged, _badness(judged))
    known = settled(judged, _badness(judged)) if judged.got.shape == judged.want.shape else variants(judged.function)
    values = [(v, value) for v in known if (value := _value(v, judged)) is not None]
    if judged.got.shape != judged.want.shape:
        return _of_shape(judged, values)
    away = distance(judged.got, judged.want, judged.limit)
    found = _candidates(judged, values, away)
    fitting = [_explanation(c) for c in found if _explains(c, away)]
    rest = [_explanation(c) for c in found if not _explains(c, away)]
    if any(e.fit * _CLEARLY <= away for e in fitting):
        return [*fitting, *rest]
    if numbers := _numbers(judged, away):
        return [*numbers, *fitting, *rest]
    if small := _small_values(judged):
        return [*small, *fitting, *rest]
    precisions = _precisions(judged)
    held = [(p, limit) for p, limit in precisions if p.out.name == _coarsest(judged.got)]
    others = [Explanation(p.name, fit) for p, limit in precisions if (fit := _off(judged, limit)) <= 1]
    more = [] if others or fitting else _more(judged, values, held, away)
    return [*others, *fitting, *more, *rest]


def _numbers(judged, away) -> list[Explanation]:
    """Another number than the one that was given, where that explains a result."""
    values = [(v, value) for v in constants(judged, _badness(judged)) if (value := _value(v, judged)) is not None]
    return [_explanation(c) for c in _candidates(judged, values, away) if _explains(c, away)]


def _badness(judged):
    """How far each element is off; infinitely where NaN or infinities differ."""
    strange = ~same(judged.got, judged.want) & ~(np.isfinite(judged.got) & np.isfinite(judged.want))
    return np.where(strange, np.inf, np.nan_to_num(ratio(judged.got, judged.want, judged.limit), nan=0.0))


def _more(judged, values, precisions, away):
    """Two variants at once, or a variant in another precision: what is tried where nothing simpler explains it.

    `precisions` are those with the output format that the result has.
    """
    twice = [_explanation(c) for c in _candidates(judged, _pairs(judged, values), away) if _explains(c, away)]
    for other, limit in [] if twice else precisions:
        coarser = replace(judged, limit=np.broadcast_to(limit, judged.want.shape), profile=other)
        off = distance(judged.got, judged.want, coarser.limit)
        found = [c for c in _candidates(coarser, values, off) if _explains(c, off)]
        twice = [Explanation(f"{c.variant.name}, precision {other.name}", c.fit, c.variant) for c in found]
        if twice:
            break
    return twice


# --- variants -------------------------------------------------------------------------------------------------------


def _candidates(judged: Judged, values, away) -> list[_Candidate]:
    """Every variant that differs from the reference here: those that explain the result first, then the nearest."""
    found = [
        _candidate(v, value, judged)
        for v, value in values
        if value.shape == judged.got.shape and distance(value, judged.want, judged.limit) > 1
    ]
    found.sort(key=lambda c: (not _explains(c, away), c.overall if c.fit <= FITS else c.fit))
    return _alike_first(found, judged)


def _value(v: Variant, judged: Judged):
    """What a variant gives for the result in question; None where it does not apply."""
    try:
        with np.errstate(all="ignore"):
            value = results(v.call(*judged.args, **judged.kwargs)).get(judged.result)
    except NotApplicable:
        return None
    except Exception:  # whatever a variant stumbles over, the failure that is to be explained must be reported
        return None
    return None if value is None else np.asarray(value, dtype=np.float64)


def _candidate(v, value, judged):
    if judged.result != "lse" and judged.limit.any():  # lse is wider than the output; what has no bound is a count
        value = np.where(np.abs(value) > judged.profile.out.largest, np.copysign(np.inf, value), value)
    limit = _limit_around(value, judged)
    with np.errstate(invalid="ignore"):
        touched = int(np.sum(~same(value, judged.want) & ~(np.abs(value - judged.want) <= judged.limit)))
    fit = distance(judged.got, value, limit)
    overall = float(np.sqrt(np.mean(ratio(judged.got, value, limit) ** 2))) if np.isfinite(fit) else np.inf
    return _Candidate(v, value, fit, overall, touched)


def _explains(c: _Candidate, away: float) -> bool:
    return c.fit <= FITS and c.fit < away / 2


def _alike_first(found, judged):
    """Of variants that these inputs cannot tell apart, the one that changes the fewest elements says least: it leads."""
    if not found or found[0].fit > FITS:
        return found
    limit = _limit_around(found[0].value, judged)
    alike = [c for c in found if c.fit <= FITS and distance(c.value, found[0].value, limit) <= _ALIKE]
    leader = min(alike, key=lambda c: c.touched)
    ordered = [leader, *(c for c in alike if c is not leader)]
    return ordered + [c for c in found if not any(c is other for other in ordered)]


def _explanation(c: _Candidate) -> Explanation:
    return Explanation(c.variant.name, c.fit, c.variant)


def _limit_around(value, judged):
    """The bound around a variant's value.

    Where the variant has a value of its own (a row that is empty for the reference, say), the reference's bound says
    nothing about it: there the limit is at least the usual one.
    """
    hard, out = np.where(np.isnan(judged.limit), 0.0, judged.limit), judged.profile.out
    level = max(np.max(np.abs(x[np.isfinite(x)]), initial=0.0) for x in (value, judged.want))
    large = hard[(hard > 4 * out.eta) & (hard <= level)]  # a limit beyond all values says nothing, also of others
    usual = np.median(large) if large.size else 0.0
    with np.errstate(invalid="ignore"):
        own = ~(np.abs(value - judged.want) <= 4 * hard)
    finite = np.where(np.isfinite(value), value, 0.0)
    floor = np.maximum(2 * out.u * np.abs(finite), out.eta)
    return np.maximum(hard, np.where(own, np.maximum(usual, floor), 0.0))


def _pairs(judged: Judged, values):
    """Two conventions of attention at once, those seen most often first, as far as the budget goes, with their values."""
    if judged.function not in _PAIRED:
        return
    from refattn.testing.variants import derived

    seen = sorted((v for v, _ in values if v.seen), key=lambda v: -len(v.seen))
    cost = max(judged.got.size, 1) * max(int(np.shape(_argument(judged, 1, "k"))[-2]), 1)
    for a, b in itertools.islice(_by_rank(seen), max(int(_PAIRS // cost), 100)):
        for both in (derived.pair(a, b), derived.pair(b, a)):  # one may leave the other nothing to change
            if (value := _value(both, judged)) is not None:
                yield both, value
                break


def _by_rank(items):
    """All pairs, those of early items first."""
    for last in range(1, len(items)):
        for first in range(last):
            yield items[first], items[last]


def _argument(judged, place, name):
    return judged.args[place] if len(judged.args) > place else judged.kwargs[name]


def _of_shape(judged: Judged, values) -> list[Explanation]:
    """Variants whose result has the shape that was given instead of the right one, and its numbers."""
    found = []
    for v, value in values:
        if value.shape == judged.got.shape:
            level = np.max(np.abs(value[np.isfinite(value)]), initial=0.0)
            limit = np.full(value.shape, 64 * judged.profile.out.u * level + judged.profile.out.eta)
            found.append(Explanation(v.name, distance(judged.got, value, limit), v))
    return sorted((e for e in found if e.fit <= FITS), key=lambda e: e.fit)


# --- precision ------------------------------------------------------------------------------------------------------


def _small_values(judged: Judged) -> list[Explanation]:
    got, want, out = judged.got, judged.want, judged.profile.out
    finite = np.isfinite(want)
    if not np.array_equal(got[~finite], want[~finite], equal_nan=True) or not np.isfinite(got[finite]).all():
        return []
    level = np.max(np.abs(want[finite]), initial=0.0)
    allowed = max(8 * min(out.u, 2.0**-20) * level, out.eta)
    error = float(np.max(np.abs(got[finite] - want[finite]), initial=0.0) / allowed)
    return [Explanation(SMALL_VALUES, error)] if error <= 1 else []


def _precisions(judged: Judged):
    """Other profiles that are not finer, with their bounds: those with the format of the numbers first, then by width."""
    held = _coarsest(judged.got)
    others = [
        p
        for p in PROFILES.values()
        if p.name != judged.profile.name
        and p.out.u >= judged.profile.out.u
        # float8 allows for so much that it would explain anything: only a result in its output format may be one
        and (p.name != "float8" or held == p.out.name)
    ]
    limits = [(p, limit) for p in others if (limit := _limit_of(judged, p)) is not None]
    return sorted(limits, key=lambda of: (of[0].out.name != held, float(np.median(of[1])) if np.size(of[1]) else 0.0))


def _limit_of(judged: Judged, other: Profile):
    """The bound for another profile; None where there is none (a code that it may round up or down)."""
    try:
        with np.errstate(all="ignore"):
            return bound(judged.function, other, *judged.args, **judged.kwargs)[judged.result].hard
    except NotImplementedError:
        return None


def _coarsest(x) -> str:
    """The narrowest of the usual formats that holds every number of a result: what it was rounded to."""
    finite = x[np.isfinite(x)]
    for name in ("bfloat16", "float16", "float32"):
        if np.array_equal(round_to(finite, FORMATS[name]), finite):
            return name
    return "float64"


def _off(judged, limit):
    return distance(judged.got, judged.want, np.broadcast_to(limit, judged.want.shape))


# --- distances ------------------------------------------------------------------------------------------------------


def same(got, want):
    """Where two results are equal, NaN included."""
    return (got == want) | (np.isnan(got) & np.isnan(want))


def ratio(got, want, limit):
    """The difference in units of a limit; 0 where there is none, or where it is no number."""
    with np.errstate(all="ignore"):
        difference = np.abs(got - want)
        found = np.where(difference == 0, 0.0, difference / limit)
    return np.where(same(got, want) | ~np.isfinite(got), 0.0, found)


def distance(got, want, limit) -> float:
    """The largest difference in units of a limit; infinite where NaN and infinities differ."""
    if not np.array_equal(np.isnan(got), np.isnan(want)) or not np.array_equal(np.isinf(got), np.isinf(want)):
        return np.inf
    if not np.array_equal(np.isposinf(got), np.isposinf(want)):
        return np.inf
    return float(np.max(ratio(got, want, limit), initial=0.0))
