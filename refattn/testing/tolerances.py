"""How large must a tolerance be? For given inputs: the bounds as numbers, the tightest pair, and what that lets pass."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import numpy as np

from refattn.testing.bounds import Bound, bound
from refattn.testing.distances import distance, same
from refattn.testing.profiles import profile
from refattn.testing.reference import call_in_float64
from refattn.testing.subject import name_of
from refattn.testing.variants import Variant, variants

TIERS = ("hard", "statistical")
QUANTILES = (0.5, 0.9, 0.99, 1.0)
SEEN = 2.0  # a bug that lies farther away than so many bounds is seen by the bound, however the kernel rounds
_GRID = 96  # so many values of rtol are tried
_SHOWN = 8  # so many names stand in a text
WIDTH = 100


@dataclass(frozen=True)
class Pair:
    """An absolute and a relative tolerance: a result passes where |got - want| <= atol + rtol * |want|.

    Attributes
    ----------
    atol, rtol : float
    atol_alone : float
        What atol would have to be with rtol = 0.
    """

    atol: float
    rtol: float
    atol_alone: float


@dataclass(frozen=True)
class Spread:
    """One result of the reference, and how far from it a correct kernel can be.

    Attributes
    ----------
    size : int
    largest, rms : float
        The largest |want|, and the root mean square; of the finite elements.
    bounds : dict
        Tier -> the bound's median, 90 %, 99 % and largest; no 'statistical' where that tier does not apply.
    pairs : dict
        Tier -> the tightest pair that accuses no kernel within that bound.
    """

    size: int
    largest: float
    rms: float
    bounds: dict[str, tuple[float, ...]]
    pairs: dict[str, Pair]


@dataclass(frozen=True)
class Tolerance:
    """How large a tolerance must be for given inputs, and what it costs.

    Attributes
    ----------
    function, precision : str
    results : dict
        Name of a result -> its `Spread`.
    seen : dict
        Tier -> the known bugs that the bound of that tier sees with these inputs, those with most sightings first.
    passed : dict
        Tier -> those among them that the pairs of that tier let pass.
    """

    function: str
    precision: str
    results: dict[str, Spread]
    seen: dict[str, tuple[str, ...]]
    passed: dict[str, tuple[str, ...]]

    def __str__(self):
        lines = [f"{self.function} in {self.precision}: how far a correct kernel can be from exact, with these inputs"]
        for name, spread in self.results.items():
            lines += [
                "",
                f"{name}: {spread.size:,} elements, |want| {spread.rms:.2g} rms, {spread.largest:.2g} at most",
            ]
            lines.append(f"  {'bound':<14}{'median':>10}{'90 %':>10}{'99 %':>10}{'largest':>10}")
            for tier, values in spread.bounds.items():
                lines.append(f"  {tier:<14}" + "".join(f"{value:>10.2g}" for value in values))
        for tier in self.seen:
            why = (
                "accuses no correct kernel"
                if tier == "hard"
                else "if roundings are independent (six standard deviations)"
            )
            lines += ["", f"tightest tolerance, {tier} bound: {why}"]
            for name, spread in self.results.items():
                pair = spread.pairs.get(tier, spread.pairs["hard"])
                alone = f"with rtol=0 atol={pair.atol_alone:.2g}"
                lines.append(f"  {name}: atol={pair.atol:.2g}, rtol={pair.rtol:.2g}   ({alone})")
            lines += [f"  {line}" for line in self._lost(tier)]
        lines += [
            "",
            f"assert_matches(got, refattn.{self.function}, ..., precision={self.precision!r}) judges by the bound.",
        ]
        return "\n".join(lines)

    def _lost(self, tier):
        """What a tier's pairs let pass, in words."""
        seen, passed = self.seen[tier], self.passed[tier]
        if not seen:
            return ["these inputs show none of the known bugs"]
        head = f"lets pass {len(passed)} of the {len(seen)} known bugs that the bound sees with these inputs"
        if not passed:
            return [head]
        more = f" and {len(passed) - _SHOWN} more" if len(passed) > _SHOWN else ""
        return textwrap.wrap(f"{head}: {', '.join(passed[:_SHOWN])}{more}", WIDTH - 2, break_on_hyphens=False)


def tolerance(function, /, *args, precision="float32", **kwargs) -> Tolerance:
    """How large a tolerance must be so that no correct kernel is accused, and which known bugs it then lets pass.

    Parameters
    ----------
    function : callable or str
        The reference function.
    *args, **kwargs
        Its arguments, as the kernel gets them (rounded to its input dtype), of any framework.
    precision : str or Profile
        What the kernel promises to round and where.

    Returns
    -------
    Tolerance
        `print` it to read it.

    Raises
    ------
    NotImplementedError
        There is no bound for the function in this precision.

    Notes
    -----
    Of all pairs that accuse no kernel within the bound the tightest is that with the least allowance, atol + rtol·\\|want\\|,
    on the average over the elements. A known bug is counted as seen where it lies more than 2 bounds away in some
    element, and as let pass where all results are inside their pairs.

    Cost: one evaluation of each variant of the function.

    Examples
    --------
    >>> import refattn
    >>> q, k, v = np.random.default_rng(0).normal(size=(3, 5, 8))
    >>> found = tolerance(refattn.attention, q, k, v, precision="bfloat16")
    >>> found.results["out"].pairs["hard"].atol < found.results["out"].pairs["hard"].atol_alone
    True
    """
    name, chosen = name_of(function), profile(precision)
    args, kwargs = call_in_float64(name, args, kwargs)
    with np.errstate(all="ignore"):
        bounds = bound(name, chosen, *args, **kwargs)
        spreads = {key: _spread(b) for key, b in bounds.items()}
        tiers = [tier for tier in TIERS if any(tier in spread.pairs for spread in spreads.values())]
        seen: dict[str, list[Variant]] = {tier: [] for tier in tiers}
        passed: dict[str, list[Variant]] = {tier: [] for tier in tiers}
        for v in variants(name):
            found = _values(v, bounds, args, kwargs)
            for tier in tiers if found else ():
                if any(distance(found[key], b.value, b.limit(tier)) > SEEN for key, b in bounds.items()):
                    seen[tier].append(v)
                    if all(_passes(found[key], b.value, _pair(spreads[key], tier)) for key, b in bounds.items()):
                        passed[tier].append(v)
    return Tolerance(name, chosen.name, spreads, _names(seen), _names(passed))


def _names(found):
    return {tier: tuple(v.name for v in sorted(some, key=lambda v: -len(v.seen))) for tier, some in found.items()}


def _values(v, bounds, args, kwargs):
    """What a variant gives, by result; None where it does not apply or gives another shape, which any rule sees."""
    found = v.results(args, kwargs) or {}
    same_shape = all(name in found and found[name].shape == np.shape(b.value) for name, b in bounds.items())
    return found if same_shape else None


def _pair(spread, tier):
    return spread.pairs.get(tier, spread.pairs["hard"])


def _passes(got, want, pair):
    """Whether a result passes np.isclose(got, want, atol, rtol, equal_nan=True) in every element."""
    inside = np.abs(got - want) <= pair.atol + pair.rtol * np.abs(want)
    return bool(np.all(np.where(np.isfinite(want), inside, same(got, want))))


def _spread(b: Bound) -> Spread:
    value = np.asarray(b.value, dtype=np.float64)
    finite = np.isfinite(value)
    want, bounds, pairs = np.abs(value[finite]), {}, {}
    for tier in TIERS if b.statistical is not None else TIERS[:1]:
        limit = b.limit(tier)[finite]
        bounds[tier] = tuple(float(x) for x in np.quantile(limit, QUANTILES)) if limit.size else (0.0,) * len(QUANTILES)
        pairs[tier] = _tightest(want, limit)
    rms = float(np.sqrt(np.mean(want**2))) if want.size else 0.0
    return Spread(value.size, float(np.max(want, initial=0.0)), rms, bounds, pairs)


def _tightest(want, limit) -> Pair:
    """The pair that covers a limit everywhere with the least allowance on the average, rounded up to two digits."""
    alone = _rounded_up(float(np.max(limit, initial=0.0)))
    with np.errstate(all="ignore"):
        needed = limit / want
    needed = needed[np.isfinite(needed) & (needed > 0)]
    if not needed.size:
        return Pair(alone, 0.0, alone)
    grid = (_rounded_up(float(r)) for r in np.geomspace(needed.min(), np.quantile(needed, 0.999), _GRID))
    level = float(np.mean(want))
    best = min((atol + rtol * level, rtol, atol) for rtol in (0.0, *grid) if (atol := _atol(want, limit, rtol)) >= 0)
    return Pair(best[2], best[1], alone)


def _atol(want, limit, rtol):
    return _rounded_up(float(np.max(limit - rtol * want, initial=0.0)))


def _rounded_up(x: float) -> float:
    """The least number of two decimal digits that is not below x."""
    if not np.isfinite(x) or x <= 0:
        return x
    digits = 1 - int(np.floor(np.log10(x)))
    up = np.ceil(x * 10.0**digits) / 10.0**digits
    return float(f"{up:.1e}") if float(f"{up:.1e}") >= x else float(f"{np.nextafter(up, np.inf) * 1.05:.1e}")
