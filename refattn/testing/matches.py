"""Does a result match the reference, and if not, why?"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from refattn import backend
from refattn.testing.bounds import bound
from refattn.testing.diagnosis import FITS, SMALL_VALUES, Explanation, Judged, explanations
from refattn.testing.distances import ratio, same
from refattn.testing.inexact import unrounded, with_rounded
from refattn.testing.presets import expected_of
from refattn.testing.profiles import PROFILES, Profile, profile
from refattn.testing.reference import call_in_float64, oracle, to_numpy
from refattn.testing.returned import GRADIENTS, by_name, given_as_array, is_none
from refattn.testing.rounding import ulp
from refattn.testing.rows import described
from refattn.testing.spread import says_nothing
from refattn.testing.subject import name_of, subject
from refattn.testing.vectors import results

MISSING = "missing"  # the verdict on a gradient that was returned as None
TIERS = ("auto", "hard", "statistical")
_SHOWN = 6  # so many names of variants that cannot be told apart stand in a message
_NEAR = 10.0  # a variant that lies so many bounds away is the nearest of those that are there, and no hint


class Incomplete(ValueError):
    """A result lacks what the reference returns beside it."""


@dataclass(frozen=True)
class Comparison:
    """How one result compares with the reference.

    Attributes
    ----------
    function, result, precision : str
        'attention', 'out', 'bfloat16'.
    verdict : str
        'equal', 'within statistical', 'within hard'; 'outside', 'special values', 'shape', 'missing', 'cannot be judged'.
        missing: a gradient that was returned as None;
        cannot be judged: inside a bound that is wider than the values are apart, and outside that of float32.
    hard, statistical : float
        The largest error in units of either bound; statistical is NaN where that tier does not apply.
    outside : int
        Elements outside the bound that was judged by.
    size : int
    worst : tuple of int
        Index of the worst element.
    got, want, error_bound : float
        There.
    ulps : float
        The difference there in units in the last place of the format.
    where : str
        Which rows, heads, ... hold what is wrong, where it is not all of them.
    rows : str
        What these rows are, where NaN or infinities differ: 'They are the empty rows (no key is visible).'
    finite : float
        How far the rest is off there, in units of the bound.
    reason : str
        Why it is wrong, where that is known of the inputs: 'q is not rounded to bfloat16'.
    refuted : tuple of str
        Variants that fit this case, of a run whose other cases speak against them.
    explanations : list of Explanation
        Best first; only where the verdict is a failure.
    replay : str
        The command that runs this case again; whoever made the case fills it in.
    judged : Judged
        What was compared, for those who ask further.
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
    where: str = ""
    rows: str = ""
    finite: float = 0.0
    reason: str = ""
    explanations: list[Explanation] = field(default_factory=list)
    replay: str = ""
    judged: Judged | None = field(default=None, repr=False, compare=False)
    refuted: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether a correct kernel could have given this result."""
        return self.verdict in ("equal", "within statistical", "within hard")

    def __str__(self):
        return "\n".join(self._lines())

    def _lines(self):
        head = self.function if self.result == "out" else f"{self.function} ({self.result})"
        if self.verdict == MISSING:
            return [
                f"{head}: None is returned for this gradient, and it has one, of shape {self.want}: its input was given."
            ]
        if self.verdict == "shape":
            lines = [f"{head}: the result has shape {self.got}, it must have {self.want}."]
            best = self.explanations[0] if self.explanations else None
            return [
                *lines,
                *(self._named(best, f"This gives that shape and its numbers: {best.name}.") if best else []),
            ]
        if self.ok:
            used = "" if np.isnan(self.statistical) else f", {self.statistical:.2g}x of the statistical one"
            return [
                f"{head}: matches; the worst error is {self.hard:.2g}x of the hard bound of {self.precision}{used}."
            ]
        if self.verdict == "cannot be judged":
            return [
                f"{head}: these inputs cannot be judged at {self.precision}: its bound is wider than the values are apart"
                f" (at {list(self.worst)}: got {_number(self.got)}, want {_number(self.want)} ± {_number(self.error_bound)})."
                " Take fewer keys, smaller scores, or a finer precision."
            ]
        where = f"at {list(self.worst)}: got {_number(self.got)}, want {_number(self.want)}"
        if self.verdict == "special values":
            lines = [
                f"{head}: {self.outside:,} of {self.size:,} elements are NaN or infinite where the reference is not,"
                f" or the reverse ({where}).",
                *([self.rows] if self.rows else []),
                "Everything else matches."
                if self.finite <= 1
                else f"The rest is wrong as well: by up to {_times(self.finite)} of the bound.",
            ]
        else:
            if not self.error_bound and not self.ulps:  # truth values and integers have no rounding
                return [f"{head}: {self.outside:,} of {self.size:,} elements differ ({where}).", *self._rest()]
            times = self.statistical if self.tier == "statistical" else self.hard
            lines = [
                f"{head}: {self.outside:,} of {self.size:,} elements lie outside the {self.tier} bound of {self.precision}"
                f" (worst {_times(times)}, {where} ± {_number(self.error_bound)}; {self.ulps:,.3g} ulp)."
            ]
            if self.tier == "statistical" and self.hard <= 1:
                lines.append(
                    f"The hard bound holds ({self.hard:.2g}x): a correct kernel could err so much only if its roundings"
                    " conspired. tier='hard' judges by that bound alone."
                )
        return lines + self._rest()

    def _rest(self):
        """Where it is wrong, why, and how to see it again."""
        place = [f"Only in {self.where}."] if self.where else []
        return [*place, *self._explained(), *([f"Replay: {self.replay}"] if self.replay else [])]

    def _explained(self):
        if self.reason:
            return [self.reason]
        fitting = [e for e in self.explanations if e.fit <= FITS]
        rest = [e for e in self.explanations if e.fit > FITS]
        alike = {
            e.name: e for e in fitting[1:] if e.variant is not None and e.name != fitting[0].name
        }  # sizes of a tile
        if not fitting:
            alone = [e.name for e in sorted(rest, key=lambda e: e.alone) if e.alone <= FITS]
            if alone:
                shown = ", ".join(alone[:_SHOWN])
                return [f"Rounding does not explain it, and no one variant all results; {self.result} alone: {shown}."]
            near = rest and rest[0].fit <= _NEAR
            nearest = f"; the nearest is {rest[0].name} at {_times(rest[0].fit)} of the bound" if near else ""
            if self.refuted:
                shown = ", ".join(self.refuted[:_SHOWN])
                return [
                    "Rounding does not explain it, and no known variant does in all cases of this run. This case alone"
                    f" fits {shown}, but other cases do not, or hold where it would show."
                ]
            return [f"Rounding does not explain it, and no known variant does{nearest}."]
        best = fitting[0]
        if best.name == SMALL_VALUES:
            return ["Only small values are off: every error is below 8 units of roundoff of the largest element."]
        if best.variant is None:
            return [f"Another precision explains it: {best.name}, within {best.fit:.2g}x of its bound."]
        head = (
            f"Rounding does not explain it; this does: {best.name} (clause {best.variant.clause}), which fits"
            + (f" within {best.fit:.2g}x of the bound" if best.fit else " exactly")
            + (f"; the next best is {_times(rest[0].fit)} away." if rest else ".")
        )
        return self._named(best, head, [*alike.values()])

    @staticmethod
    def _named(best, head, alike=()):
        """A variant in words: what it does, what it may be taken for, where it was seen, what to do."""
        lines = [head, f"  {best.name}: {best.variant.meaning}"]
        if alike:
            more = f" and {len(alike) - _SHOWN} more" if len(alike) > _SHOWN else ""
            lines.append(f"  These inputs do not tell it from: {', '.join(e.name for e in alike[:_SHOWN])}{more}.")
        if best.variant.seen:
            lines.append(f"  Seen in: {', '.join(best.variant.seen)}.")
        if best.variant.advice:
            lines.append(f"  If you mean that: {best.variant.advice}.")
        return lines


def _times(x):
    return f"{x:,.3g}x" if np.isfinite(x) else "infinitely far"


def _number(x):
    return f"{float(x):.8g}"


def compare(
    actual, function, /, *args, precision="float32", tier="auto", explain=True, preset=None, **kwargs
) -> list[Comparison]:
    """Compare a result with the reference, element by element, against the error bound of a precision.

    Parameters
    ----------
    actual : array, tuple or dict of arrays
        What the kernel returned, of any framework; (out, lse) where the reference returns both. Gradients in a tuple or
        list stand in the reference's order: those that it returns here, or all that it knows, with None for inputs that
        were not given; None for an array that was given is a failure. A dict may hold some of the results, by name: the
        stages that a kernel exposes, the gradients that it has.
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
    preset : str or Preset, optional
        Compare with what an implementation's conventions give ('flash_attn.2': `refattn list presets`) instead.

    Returns
    -------
    list of Comparison
        One for each result.
    """
    chosen = profile(precision)
    backend.choice("tier", tier, TIERS)
    name = name_of(function)
    args, kwargs = call_in_float64(name, args, kwargs)
    with np.errstate(all="ignore"):
        named = by_name(name, actual, lambda: oracle(name, *args, **kwargs))
        bounds = bound(name, chosen, *args, **kwargs)
        if preset is not None:
            wanted = results(name, expected_of(name, preset, args, kwargs))
            bounds = {key: limits._replace(value=wanted[key]) for key, limits in bounds.items()}
    gradients = name.endswith(GRADIENTS)
    got = {key: None if x is None and gradients else _taken(key, x) for key, x in named.items()}
    needed = [key for key in bounds if not gradients or given_as_array(name, key, args, kwargs)]
    none = [key for key in needed if is_none(key, got)]
    missing = [key for key in needed if key not in got and key not in none]
    if missing and not (isinstance(actual, dict) and any(key in got for key in bounds)):
        raise Incomplete(
            f"{name} returns {', '.join(bounds)} here, the given result has only {', '.join(map(str, got)) or 'nothing'} (actual)"
        )
    found = []
    for key in (key for key in bounds if got.get(key) is not None):
        c = _compare(name, key, got[key], bounds[key], chosen, tier, (args, kwargs))
        values = _numbers(got[key]), _numbers(bounds[key].value), bounds[key].limit(c.tier)
        found.append(replace(c, judged=Judged(name, key, *values, chosen, args, kwargs, c.tier, not c.ok)))
    lacking = [_missing(name, key, bounds[key], chosen) for key in none]
    if explain and preset is None and not all(c.ok for c in found):
        found = explained(found, actual)
    return [*found, *lacking]


def explained(found: list[Comparison], actual, suspected: Collection[str] = ()) -> list[Comparison]:
    """The comparisons of one call with what explains those that fail: one of the suspected variants if any does."""
    wrong = [c for c in found if not c.ok and c.judged is not None]
    if not any(c.verdict != "cannot be judged" for c in wrong):
        return found
    if reason := _unrounded(actual, wrong[0]):
        return [c if c.ok or c.judged is None else replace(c, reason=reason) for c in found]
    return named(found, suspected)


def named(found: list[Comparison], suspected: Collection[str] = ()) -> list[Comparison]:
    """The same comparisons with the variants that explain them."""
    causes = explanations([c.judged for c in found if c.judged is not None], suspected)
    return [c if c.ok else replace(c, explanations=causes.get(c.result, [])) for c in found]


def _unrounded(actual, comparison) -> str:
    """Whether it is the inputs: they hold no numbers of the precision's format, and once rounded to it all is right."""
    judged = comparison.judged
    name, args, kwargs, chosen, tier = judged.function, judged.args, judged.kwargs, judged.profile, comparison.tier
    names = unrounded(name, args, kwargs, chosen)
    if not names:
        return ""
    again = compare(
        actual, name, precision=chosen, tier=tier, explain=False, **with_rounded(name, args, kwargs, chosen)
    )
    if not all(c.ok for c in again if c.verdict != MISSING):
        return ""
    verb = "is" if len(names) == 1 else "are"
    return (
        f"{' and '.join(filter(None, (', '.join(names[:-1]), names[-1])))} {verb} not rounded to {chosen.out.name}; with"
        " them rounded it matches: hand over the numbers that the kernel got."
    )


def assert_matches(
    actual, function, /, *args, precision="float32", tier="auto", preset=None, **kwargs
) -> list[Comparison]:
    """Raise an AssertionError that says what differs and why, unless a correct kernel could have given the result.

    Parameters
    ----------
    actual, function, *args, precision, tier, preset, **kwargs
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
    __tracebackhide__ = True  # pytest then shows the caller's line
    comparisons = compare(actual, function, *args, precision=precision, tier=tier, preset=preset, **kwargs)
    wrong = [c for c in comparisons if not c.ok]
    if wrong:
        raise AssertionError("\n".join(map(str, wrong)))
    return comparisons


def _numbers(x):
    """A result as float64, truth values and integers too."""
    return np.asarray(x).astype(np.float64)


def _missing(name, key, limits, chosen) -> Comparison:
    """A gradient that was returned as None, though its input was given."""
    return Comparison(
        name, key, chosen.name, MISSING, size=limits.value.size, outside=limits.value.size, want=limits.value.shape,
        hard=np.inf,
    )  # fmt: skip


def _taken(key, x):
    """An array of the result that is compared."""
    try:
        x = to_numpy(x)
    except TypeError as error:
        raise TypeError(f"actual, its {key}: {error}") from None
    if x.dtype.kind not in "biuf":
        raise TypeError(f"actual, its {key}, has dtype {x.dtype.name}; it must hold real numbers or truth values")
    return x


def _compare(name, key, got, limits, chosen: Profile, tier, of_call) -> Comparison:
    basis = {"function": name, "result": key, "precision": chosen.name, "size": limits.value.size}
    if got.shape != limits.value.shape:
        return Comparison(**basis, verdict="shape", got=got.shape, want=limits.value.shape)
    got, want = _numbers(got), _numbers(limits.value)
    hard = np.broadcast_to(limits.hard, want.shape)
    with np.errstate(
        invalid="ignore"
    ):  # where a finite number is too large for the format, infinity of its sign is right
        reach = np.where(np.isfinite(want), np.sign(got) * want + hard, 0.0)
    overflows = np.isinf(got) & (reach > chosen.out.largest)
    strange = ~(np.isfinite(got) & np.isfinite(want)) & ~same(got, want) & ~overflows
    if strange.any():
        at = np.unravel_index(np.argmax(strange), want.shape)
        return Comparison(
            **basis, verdict="special values", outside=int(strange.sum()), worst=tuple(map(int, at)),
            got=got[at], want=want[at], hard=np.inf, where=_where(strange, name, key),
            rows=described(name, key, strange, *of_call),
            finite=float(np.max(np.where(strange, 0.0, ratio(got, want, hard)), initial=0.0)),
        )  # fmt: skip
    statistical = limits.statistical
    judge = "hard" if tier == "hard" or statistical is None else "statistical"
    ratios = {
        "hard": ratio(got, want, hard),
        "statistical": None if statistical is None else ratio(got, want, statistical),
    }
    judged = ratios[judge]
    limit = hard if judge == "hard" else np.broadcast_to(statistical, want.shape)
    at = np.unravel_index(np.argmax(judged), want.shape) if want.size else ()
    worst = {name: float("nan") if r is None else float(np.max(r, initial=0.0)) for name, r in ratios.items()}
    outside = int(np.sum(judged > 1))
    if not want.size or np.array_equal(got, want, equal_nan=True):
        verdict = "equal"
    elif outside:
        verdict = "outside"
    elif says_nothing(name, key, chosen, want, limit, *of_call) and not _exact(name, key, chosen, got, *of_call):
        verdict = "cannot be judged"
    else:
        verdict = "within statistical" if worst["statistical"] <= 1 else "within hard"
    details: dict[str, Any] = dict(worst)
    if want.size:
        details |= {"worst": tuple(map(int, at)), "got": got[at], "want": want[at], "error_bound": float(limit[at])}
        if np.isfinite(want[at]) and np.isfinite(got[at]):
            exact = limits.value.dtype.kind != "f"
            details["ulps"] = 0.0 if exact else float(abs(got[at] - want[at]) / ulp(want[at], chosen.out))
    if outside:
        details["where"] = _where(judged > 1, name, key)
    return Comparison(**basis, verdict=verdict, tier=judge, outside=outside, **details)


def _exact(name, key, chosen, got, args, kwargs):
    """Whether a result lies within float32's bound and one rounding: then it is right, whatever else would pass."""
    with np.errstate(all="ignore"):
        fine = bound(name, PROFILES["float32"], *args, **kwargs)[key]
        limit = fine.hard + np.maximum(2 * chosen.out.u * np.abs(fine.value), chosen.out.eta)
    return bool(np.all(ratio(got, fine.value, limit) <= 1))


def _axes(function, result) -> tuple[str, ...]:
    """The names of the last axes of a result; leading axes that have none are called by their number."""
    of = subject(function)
    if result in of.axes or of.equals is None or of.equals.results is not None:
        return of.axes.get(result, ())
    return _axes(of.equals.function, result)


def _where(wrong, name, key) -> str:
    """In which rows, heads, ... the wrong elements lie, for the axes on which not everything is wrong."""
    names = _axes(name, key)
    parts = []
    for axis in range(wrong.ndim):
        hit = np.flatnonzero(wrong.any(axis=tuple(n for n in range(wrong.ndim) if n != axis)))
        if len(hit) < wrong.shape[axis]:
            place = axis - wrong.ndim + len(names)
            parts.append(f"{names[place] if place >= 0 else f'axis {axis}:'} {_ranges(hit)} of {wrong.shape[axis]}")
    return "; ".join(parts)


def _ranges(numbers) -> str:
    """Indices as ranges: '0-3, 7, 9 ...'."""
    cuts = np.flatnonzero(np.diff(numbers) > 1) + 1
    runs = [f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in np.split(numbers, cuts)]
    return ", ".join(runs[:5]) + (" ..." if len(runs) > 5 else "")
