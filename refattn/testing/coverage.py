"""What a run has excluded: which known mistakes its calls would have shown, of those that can occur where it was judged.

A call that was judged shows a variant that lies four bounds or more from the reference there; a case of self-consistency
shows one that contradicts itself. A variant *can occur* if any case of ours with nothing but options and rules that were
judged shows it, whatever its size: limits of size are no excuse for a bug that they hide. What no case of ours shows is in
neither number.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from refattn.testing import consistency
from refattn.testing.bounds import bound
from refattn.testing.distances import same
from refattn.testing.names import function_named
from refattn.testing.nested import arrays
from refattn.testing.outcome import CheckCase, Result
from refattn.testing.profiles import profile
from refattn.testing.reference import in_float64
from refattn.testing.traits import rules_of
from refattn.testing.variants import Variant, variants

CLEARLY = 4.0  # bounds; less could be rounding
OFTEN = 3  # seen so many times in public, a mistake must not be left
_PATIENCE = 3  # cases of one kind that do not show a variant; then it is not tried on more of them
_MOST = 512 * 512 * 8  # numbers of a case; larger ones show what smaller ones show


@dataclass(frozen=True)
class Coverage:
    """Of one function.

    Attributes
    ----------
    function : str
    cases : int
        That were judged.
    excluded : tuple of str
        The variants that would have been seen.
    missed : tuple of str
        Those that can occur and would not, the ones seen most often in public first.
    often : tuple of str
        Those of them that were seen three times or more.
    """

    function: str
    cases: int
    excluded: tuple[str, ...]
    missed: tuple[str, ...]
    often: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Of what can occur, how much is excluded; 1 where nothing can."""
        return len(self.excluded) / max(len(self.excluded) + len(self.missed), 1)


def covered(results: Iterable[Result], offered: Iterable[CheckCase], precision_of) -> list[Coverage]:
    """What a run has excluded, function by function, of those that have variants.

    Parameters
    ----------
    results : iterable of Result
    offered : iterable of CheckCase
        All cases that there are, those that were not judged too.
    precision_of : callable
        From a function and a dtype to the profile by which it is judged.
    """
    by_function: dict[str, list[Result]] = {}
    for result in results:
        by_function.setdefault(result.case.function, []).append(result)
    found = []
    for function, own in by_function.items():
        judged = [r for r in own if r.comparisons and r.status in ("holds", "known", "broken")]
        left = {v.name: v for v in variants(function)}
        if not judged or not left:
            continue
        shown: dict[str, Variant] = {}
        tried: Counter = Counter()
        for result in sorted(judged, key=lambda r: r.case.size):
            _show(result, left, shown, tried, precision_of)
        options, returned = _options(judged), {c.result for r in judged for c in r.comparisons}
        known = {r.case.id for r in judged}
        rest = [c for c in offered if c.function == function and c.id not in known and _within(c, options)]
        possible: dict[str, Variant] = {}
        tried.clear()
        for case in sorted(rest, key=lambda c: c.size):
            if not case.relation and not case.refuses and left and case.size < _MOST:
                _could_show(case, left, possible, tried, precision_of(function, case.dtype), returned)
        missed = sorted(possible.values(), key=lambda v: (-len(v.seen), v.name))
        often = tuple(v.name for v in missed if len(v.seen) >= OFTEN)
        found.append(Coverage(function, len(judged), tuple(shown), tuple(v.name for v in missed), often))
    return found


def _show(result, left, shown, tried, precision_of):
    """Move the variants that a result would have shown from those that are left to those that are shown."""
    case = result.case
    if case.size >= _MOST:
        return
    judged = {c.result: c.judged for c in result.comparisons if c.judged is not None}
    if case.relation:
        by = lambda v: _contradicts(v, case, precision_of(case.function, case.dtype))
    elif judged:
        first = next(iter(judged.values()))
        wanted = {name: (j.want, j.limit) for name, j in judged.items()}
        by = lambda v: _differs(v.results(first.args, first.kwargs), wanted)
    else:
        return
    _try(by, _kind(case), left, shown, tried)


def _could_show(case, left, shown, tried, precision, returned):
    arguments = in_float64(case.arguments)
    try:
        with np.errstate(all="ignore"):
            limits = bound(case.function, profile(precision), **arguments)
    except NotImplementedError:
        return
    wanted = {
        name: (np.asarray(b.value, dtype=np.float64), np.broadcast_to(b.hard, np.shape(b.value)))
        for name, b in limits.items()
        if name in returned
    }
    _try(lambda v: _differs(v.results((), arguments), wanted), _kind(case), left, shown, tried)


def _try(shows, kind, left, shown, tried):
    for name, v in list(left.items()):
        if tried[name, kind] < _PATIENCE:
            tried[name, kind] += 1
            if shows(v):
                shown[name] = left.pop(name)


def _differs(values, wanted) -> bool:
    return values is not None and any(
        name in values and _away(values[name], *expected) >= CLEARLY for name, expected in wanted.items()
    )


def _away(got, want, limit) -> float:
    """The largest difference in bounds; where the reference is not finite a variant's own arithmetic says nothing."""
    if got.shape != want.shape:
        return np.inf
    with np.errstate(all="ignore"):
        ratio = np.where(np.isfinite(got), np.abs(got - want) / limit, np.inf)
    return float(np.max(np.where(same(got, want) | ~np.isfinite(want), 0.0, ratio), initial=0.0))


def _contradicts(v, case, precision) -> bool:
    try:
        with np.errstate(all="ignore"):
            return consistency.judge(v.call, case, in_float64, precision)[1] is not None
    except Exception:  # it does not apply, or stumbles over the arguments
        return False


# --- what was judged ------------------------------------------------------------------------------------------------


def _kind(case):
    """Cases of one kind show much the same variants."""
    given = case.arguments
    sizes = [x.shape for _, x in arrays(given)]
    finite = all(np.isfinite(x).all() for _, x in arrays(given) if x.dtype.kind == "f")
    most = max((max(shape, default=0) for shape in sizes), default=0)
    order = tuple(np.sign(a - b) for a, b in _rows(given))
    return _mask_of(case), order, tuple(sorted(given)), finite, case.relation, sum(most > n for n in (1, 16, 64, 256))


def _rows(given):
    q, k = given.get("q"), given.get("k")
    both = isinstance(q, np.ndarray) and isinstance(k, np.ndarray) and q.ndim > 1 and k.ndim > 1
    return [(q.shape[-2], k.shape[-2])] if both else []


def _mask_of(case):
    return "array" if isinstance(case.arguments.get("mask"), np.ndarray) else tuple(sorted(rules_of(case)))


def _options(judged):
    """The options that were given in some judged case, and the rules."""
    names = {name for r in judged for name in r.case.arguments}
    return names, {_mask_of(r.case) for r in judged}


def _within(case, options):
    names, rules = options
    optional = {
        p.name for p in inspect.signature(function_named(case.function)).parameters.values() if p.default is not p.empty
    }
    return case.arguments.keys() & optional <= names and _mask_of(case) in rules
