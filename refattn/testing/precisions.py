"""Rounding as an explanation: another precision profile, or only small values that are off."""

from __future__ import annotations

import numpy as np

from refattn.testing.bounds import bound
from refattn.testing.distances import distance
from refattn.testing.profiles import PROFILES, Profile
from refattn.testing.rounding import FORMATS, round_to
from refattn.testing.spread import says_nothing

_USED = 0.05  # of the statistical bound, six standard deviations, rounding uses more than this
_HARD_USUAL = 0.1  # and of a hard bound so much is usual
SMALL_VALUES = "small values"  # right to a few units of the largest element, wrong for the small ones


def only_small_values(judged) -> float:
    """The largest error in units of what a few roundings of the largest element may cost; infinite where NaN differs."""
    got, want, out = judged.got, judged.want, judged.profile.out
    finite = np.isfinite(want)
    if not np.array_equal(got[~finite], want[~finite], equal_nan=True) or not np.isfinite(got[finite]).all():
        return np.inf
    level = np.max(np.abs(want[finite]), initial=0.0)
    allowed = max(8 * min(out.u, 2.0**-20) * level, out.eta)
    return float(np.max(np.abs(got[finite] - want[finite]), initial=0.0) / allowed)


def others(judged) -> list[Profile]:
    """The profiles that are not finer than the one by which a result was judged, and could have given its numbers.

    Those whose output format is that of the numbers come first; float8, which allows for most, comes last.
    """
    held = coarsest(judged.got)
    chosen = [
        p
        for p in PROFILES.values()
        if p.name != judged.profile.name
        and p.out.u >= judged.profile.out.u
        # float8 allows for so much that it would explain anything: only a result in its output format may be one
        and (not p.name.startswith("float8") or held == p.out.name)
    ]
    return sorted(chosen, key=lambda p: (p.out.name != held, p.name.startswith("float8")))


def limits(judgements, other: Profile) -> dict[str, np.ndarray] | None:
    """By result, the limits of another profile at the tier by which each was judged, as `assert_matches` would take it.

    None where there are none (a code that it may round up or down), where they are so wide that they say nothing, and where
    the results use next to nothing of them: a kernel of that precision would be farther off.
    """
    first = judgements[0]
    try:
        with np.errstate(all="ignore"):
            bounds = bound(first.function, other, *first.args, **first.kwargs)
    except NotImplementedError:
        return None
    found, used = {}, 0.0
    for judged in judgements:
        b = bounds[judged.result]
        found[judged.result] = np.broadcast_to(b.limit(judged.tier), judged.want.shape)
        of_call = judged.args, judged.kwargs
        if says_nothing(judged.function, judged.result, other, judged.want, found[judged.result], *of_call):
            return None
        if judged.wrong:
            usual = _HARD_USUAL * b.hard if b.statistical is None else b.statistical
            used = max(used, distance(judged.got, judged.want, np.broadcast_to(usual, judged.want.shape)))
    return found if used >= _USED else None


def fit(judgements, limits) -> float:
    """The largest distance of any result in units of the limits of another profile."""
    return max(distance(j.got, j.want, limits[j.result]) for j in judgements)


def coarsest(x) -> str:
    """The narrowest of the usual formats that holds every number of a result: what it was rounded to."""
    finite = x[np.isfinite(x)]
    for name in ("bfloat16", "float16", "float32"):
        if np.array_equal(round_to(finite, FORMATS[name]), finite):
            return name
    return "float64"
