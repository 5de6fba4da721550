"""Does a result match the reference, and if not, why?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from refattn.testing.bounds import bound
from refattn.testing.profiles import PROFILES, Profile, profile
from refattn.testing.reference import in_float64, name_of, to_numpy
from refattn.testing.rounding import ulp
from refattn.testing.variants import NotApplicable, Variant, variants
from refattn.testing.vectors import results

TIERS = ("auto", "hard", "statistical")
SMALL_VALUES = "small values"  # right to a few units of the largest element, wrong for the small ones
_FITS = 2.0  # a variant explains a result that lies within so many bounds of it (its magnitudes differ a little)


@dataclass(frozen=True)
class Explanation:
    """One variant, or another precision profile, and how well it explains a result: in units of the bound."""

    name: str
    fit: float
    variant: Variant | None = None


@dataclass(frozen=True)
class Comparison:
    """How one result compares with the reference.

    Attributes
    ----------
    function, result, precision : str
        'attention', 'out', 'bfloat16'.
    verdict : {"equal", "within statistical", "within hard", "outside", "special values", "shape"}
    hard, statistical : float
        The largest error in units of either bound; statistical is NaN where that tier does not apply.
    outside : int
        Elements outside the bound that was judged by.
    size : int
    worst : tuple of int
        Index of the worst element.
    got, want, error_bound : float
        There.
    explanations : list of Explanation
        Best first; only where the verdict is a failure.
    """

    function: str
    result: str
    precision: str
    verdict: str
    tier: str = "hard"
    hard: float = 0.0
    statistical: float = float("nan")
    outside: int = 0
    size: int = 0
    worst: tuple = ()
    got: Any = None
    want: Any = None
    error_bound: float = 0.0
    ulps: float = 0.0
    explanations: list[Explanation] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether a correct kernel could have given this result."""
        return self.verdict in ("equal", "within statistical", "within hard")

    def __str__(self):
        return "\n".join(self._lines())

    def _lines(self):
        head = self.function if self.result == "out" else f"{self.function} ({self.result})"
        if self.verdict == "shape":
            return [f"{head}: the result has shape {self.got}, it must have {self.want}."]
        if self.ok:
            used = "" if np.isnan(self.statistical) else f", {self.statistical:.2g}x of the statistical one"
            return [
                f"{head}: matches; the worst error is {self.hard:.2g}x of the hard bound of {self.precision}{used}."
            ]
        where = f"at {list(self.worst)}: got {_number(self.got)}, want {_number(self.want)}"
        if self.verdict == "special values":
            lines = [
                f"{head}: {self.outside:,} of {self.size:,} elements are NaN or infinite where the reference is not,"
                f" or the reverse ({where})."
            ]
        else:
            ratio = self.statistical if self.tier == "statistical" else self.hard
            lines = [
                f"{head}: {self.outside:,} of {self.size:,} elements lie outside the {self.tier} bound of {self.precision}"
                f" (worst {_times(ratio)}, {where} ± {_number(self.error_bound)}; {self.ulps:,.3g} ulp)."
            ]
            if self.tier == "statistical" and self.hard <= 1:
                lines.append(
                    f"The hard bound holds ({self.hard:.2g}x): a correct kernel could err so much only if its roundings"
                    " conspired. tier='hard' judges by that bound alone."
                )
        return lines + self._explained()

    def _explained(self):
        fitting = [e for e in self.explanations if e.fit <= _FITS]
        rest = [e for e in self.explanations if e.fit > _FITS]
        alike = [e for e in fitting[1:] if e.variant is not None]
        if not fitting:
            nearest = f"; the nearest is {rest[0].name} at {_times(rest[0].fit)} of the bound" if rest else ""
            return [f"Rounding does not explain it, and no known variant does{nearest}."]
        best = fitting[0]
        if best.name == SMALL_VALUES:
            return ["Only small values are off: every error is below 8 units of roundoff of the largest element."]
        if best.variant is None:
            return [f"Another precision explains it: {best.name}, within {best.fit:.2g}x of its bound."]
        lines = [
            f"Rounding does not explain it; this does: {best.name} (clause {best.variant.clause}), which fits within"
            f" {best.fit:.2g}x of the bound" + (f"; the next best is {_times(rest[0].fit)} away." if rest else ".")
        ]
        lines.append(f"  {best.name}: {best.variant.meaning}")
        if alike:
            lines.append(f"  These inputs do not tell it from: {', '.join(e.name for e in alike)}.")
        if best.variant.seen:
            lines.append(f"  Seen in: {', '.join(best.variant.seen)}.")
        if best.variant.advice:
            lines.append(f"  If you mean that: {best.variant.advice}.")
        return lines


def _times(x):
    return f"{x:,.3g}x" if np.isfinite(x) else "infinitely far"


def _number(x):
    return f"{float(x):.8g}"


def compare(actual, function, /, *args, precision="float32", tier="auto", explain=True, **kwargs) -> list[Comparison]:
    """Compare a result with the reference, element by element, against the error bound of a precision.

    Parameters
    ----------
    actual : array, or tuple of arrays
        What the kernel returned, of any framework; (out, lse) where the reference returns both.
    function : callable or str
        The reference function.
    *args, **kwargs
        Its arguments, as the kernel got them (already rounded to its input dtype).
    precision : str or Profile
        What the kernel promises to round and where.
    tier : {"auto", "hard", "statistical"}
        auto: the statistical bound where its condition holds, else the hard one.
    explain : bool
        Whether to look for a variant that explains a failure.

    Returns
    -------
    list of Comparison
        One for each result.
    """
    chosen = profile(precision)
    if tier not in TIERS:
        raise ValueError(f"tier is {tier!r}; it must be one of {', '.join(TIERS)}")
    name = name_of(function)
    args, kwargs = in_float64(args), in_float64(kwargs)
    got = {key: to_numpy(x) for key, x in results(actual).items()}
    with np.errstate(all="ignore"):
        bounds = bound(name, chosen, *args, **kwargs)
    missing = [key for key in bounds if key not in got]
    if missing:
        raise ValueError(
            f"{name} returns {', '.join(bounds)} here, the given result has only {', '.join(got) or 'nothing'}"
        )
    comparisons = []
    for key in bounds:
        found = _compare(name, key, got[key], bounds[key], chosen, tier)
        if explain and not found.ok and found.verdict != "shape":
            explanations = _explanations(name, key, got[key], bounds[key], found.tier, chosen, args, kwargs)
            found = Comparison(**{**vars(found), "explanations": explanations})
        comparisons.append(found)
    return comparisons


def assert_matches(actual, function, /, *args, precision="float32", tier="auto", **kwargs) -> list[Comparison]:
    """Raise an AssertionError that says what differs and why, unless a correct kernel could have given the result.

    Parameters
    ----------
    actual, function, *args, precision, tier, **kwargs
        As for `compare`.

    Returns
    -------
    list of Comparison
        How much of either bound was used.

    Examples
    --------
    >>> import refattn
    >>> q, k, v = np.random.default_rng(0).normal(size=(3, 5, 8)).astype(np.float32)
    >>> _ = assert_matches(refattn.attention(q, k, v), refattn.attention, q, k, v, precision="float32")
    >>> assert_matches(refattn.attention(q, k, v, scale=1 / 8), refattn.attention, q, k, v, precision="float32")
    Traceback (most recent call last):
        ...
    AssertionError: attention: 40 of 40 elements lie outside ...
    """
    comparisons = compare(actual, function, *args, precision=precision, tier=tier, **kwargs)
    wrong = [c for c in comparisons if not c.ok]
    if wrong:
        raise AssertionError("\n".join(map(str, wrong)))
    return comparisons


def _compare(name, key, got, limits, chosen: Profile, tier) -> Comparison:
    want = limits.value
    basis = {"function": name, "result": key, "precision": chosen.name, "size": want.size}
    if got.shape != want.shape:
        return Comparison(**basis, verdict="shape", got=got.shape, want=want.shape)
    hard = np.broadcast_to(limits.hard, want.shape)
    overflows = np.abs(want) + hard > chosen.out.largest  # there infinity is what the format has
    strange = ~(np.isfinite(got) & np.isfinite(want)) & ~_same(got, want) & ~(overflows & ~np.isfinite(got))
    if strange.any():
        at = np.unravel_index(np.argmax(strange), want.shape)
        return Comparison(
            **basis, verdict="special values", outside=int(strange.sum()), worst=tuple(map(int, at)),
            got=got[at], want=want[at], hard=np.inf,
        )  # fmt: skip
    statistical = limits.statistical
    judge = "hard" if tier == "hard" or statistical is None else "statistical"
    ratio = _ratio(got, want, hard)
    ratios = {"hard": ratio, "statistical": None if statistical is None else _ratio(got, want, statistical)}
    judged = ratios[judge]
    limit = hard if judge == "hard" else np.broadcast_to(statistical, want.shape)
    at = np.unravel_index(np.argmax(judged), want.shape) if want.size else ()
    worst = {name: float("nan") if r is None else float(np.max(r, initial=0.0)) for name, r in ratios.items()}
    outside = int(np.sum(judged > 1))
    if not want.size or np.array_equal(got, want, equal_nan=True):
        verdict = "equal"
    elif outside:
        verdict = "outside"
    else:
        verdict = "within statistical" if worst["statistical"] <= 1 else "within hard"
    details: dict[str, Any] = dict(worst)
    if want.size:
        details |= {"worst": tuple(map(int, at)), "got": got[at], "want": want[at], "error_bound": float(limit[at])}
        if np.isfinite(want[at]) and np.isfinite(got[at]):
            details["ulps"] = float(abs(got[at] - want[at]) / ulp(want[at], chosen.out))
    return Comparison(**basis, verdict=verdict, tier=judge, outside=outside, **details)


def _same(got, want):
    return (got == want) | (np.isnan(got) & np.isnan(want))


def _ratio(got, want, limit):
    with np.errstate(all="ignore"):
        difference = np.abs(got - want)
        ratio = np.where(difference == 0, 0.0, difference / limit)
    return np.where(_same(got, want) | ~np.isfinite(got), 0.0, ratio)


def _explanations(name, key, got, limits, tier, chosen, args, kwargs) -> list[Explanation]:
    """What explains a result, best first: small values only, variants, other precisions, variants in other precisions.

    Variants that do not explain it follow, the nearest first.
    """
    hard = np.broadcast_to(limits.statistical if tier == "statistical" else limits.hard, limits.value.shape)
    found = _variants(name, key, got, limits.value, hard, chosen, args, kwargs)
    fitting = [e for e in found if e.fit <= _FITS]
    explained = [*_small_values(got, limits.value, chosen), *fitting]
    if not explained:
        others = _precisions(name, key, chosen, args, kwargs)
        explained = [
            Explanation(other.name, fit) for other, limit in others if (fit := _distance(got, limits.value, limit)) <= 1
        ]
        for other, limit in [] if explained else others:
            twice = _variants(name, key, got, limits.value, np.broadcast_to(limit, hard.shape), other, args, kwargs)
            explained += [
                Explanation(f"{e.name}, precision {other.name}", e.fit, e.variant) for e in twice if e.fit <= _FITS
            ]
            if explained:
                break
    return [*explained, *found[len(fitting) :]]


def _variants(name, key, got, reference, hard, chosen, args, kwargs):
    """Every variant that differs from the reference here: those that fit first, then the nearest.

    Of several that fit, the one that changes the fewest elements says least, and comes first.
    """
    found = []
    for v in variants(name):
        try:
            with np.errstate(all="ignore"):
                value = results(v.call(*args, **kwargs)).get(key)
        except NotApplicable:
            continue
        if value is None or np.shape(value) != got.shape:
            continue
        value = np.asarray(value, dtype=np.float64)
        if _distance(value, reference, hard) > 1:  # else these inputs do not show it
            with np.errstate(invalid="ignore"):
                touched = int(np.sum(~_same(value, reference) & ~(np.abs(value - reference) <= hard)))
            found.append((touched, Explanation(v.name, _fit(got, value, reference, hard, chosen), v)))
    found.sort(key=lambda item: (0, item[0]) if item[1].fit <= _FITS else (1, item[1].fit))
    return [explanation for _, explanation in found]


def _small_values(got, reference, chosen):
    finite = np.isfinite(reference)
    if not np.array_equal(finite, np.isfinite(got)):
        return []
    level = np.max(np.abs(reference[finite]), initial=0.0)
    allowed = max(8 * min(chosen.out.u, 2.0**-20) * level, chosen.out.eta)
    error = float(np.max(np.abs(got[finite] - reference[finite]), initial=0.0) / allowed)
    return [Explanation(SMALL_VALUES, error)] if error <= 1 else []


def _precisions(name, key, chosen, args, kwargs):
    """Other precision profiles that are not finer, with their bounds, the tightest first."""
    others = [p for p in PROFILES.values() if p.name != chosen.name and p.out.u >= chosen.out.u]
    with np.errstate(all="ignore"):
        limits = [bound(name, p, *args, **kwargs)[key].hard for p in others]
    order = sorted(range(len(others)), key=lambda n: float(np.median(limits[n])) if np.size(limits[n]) else 0.0)
    return [(others[n], limits[n]) for n in order]


def _distance(got, want, limit):
    """The largest difference in units of a limit; infinite where NaN and infinities differ."""
    if not np.array_equal(np.isnan(got), np.isnan(want)) or not np.array_equal(np.isinf(got), np.isinf(want)):
        return np.inf
    return float(np.max(_ratio(got, want, limit), initial=0.0))


def _fit(got, value, reference, hard, chosen):
    """The largest distance from a variant's value, in units of the bound.

    Where the variant has a value of its own (a row that is empty for the reference, say), the reference's bound says
    nothing about it: there the limit is at least the usual one.
    """
    usual = np.median(hard[hard > 4 * chosen.out.eta]) if np.any(hard > 4 * chosen.out.eta) else 0.0
    with np.errstate(invalid="ignore"):
        own = ~(np.abs(value - reference) <= 4 * hard)
    finite = np.where(np.isfinite(value), value, 0.0)
    floor = np.maximum(2 * chosen.out.u * np.abs(finite), chosen.out.eta)
    return _distance(got, value, np.maximum(hard, np.where(own, np.maximum(usual, floor), 0.0)))
