"""What a run has excluded: which known mistakes its calls would have shown, of those that can occur where it was judged.

A call that was judged shows a variant that lies four bounds or more from the reference there; a case of self-consistency
shows one that contradicts itself. A variant *can occur* if any case of ours with nothing but options and rules that were
judged shows it, whatever its size: limits of size are no excuse for a bug that they hide. An option that each of many judged
calls has must be given, so what other cases would show cannot occur. What no case of ours shows is in neither number.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Collection, Iterable
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
from refattn.testing.variants import variants

AT_LEAST = 0.9  # the share of the mistakes that can occur which a run must be able to show
CLEARLY = 4.0  # bounds; less could be rounding
OFTEN = 3  # seen so many times in public, a mistake must not be left
_SHOWN = 6  # names in a line; all stand in JSON
_PATIENCE = 3  # cases of one kind that do not show a variant; then it is not tried on more of them
_ALWAYS = 8  # cases that were judged, of which an option that all have is no chance
_MOST = 512 * 512 * 8  # numbers of a case; larger ones show what smaller ones show


WEAK = "coverage/weak"  # by this name a list of known deviations has it


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
    known : str
        Why no more can be excluded, as a list of known deviations says.
    """

    function: str
    cases: int
    excluded: tuple[str, ...]
    missed: tuple[str, ...]
    often: tuple[str, ...] = ()
    known: str = ""

    @property
    def possible(self) -> int:
        """How many can occur."""
        return len(self.excluded) + len(self.missed)

    @property
    def share(self) -> float:
        """Of what can occur, how much is excluded; 1 where nothing can."""
        return len(self.excluded) / max(self.possible, 1)

    def weak(self, at_least: float) -> bool:
        """Whether too little is excluded, which no list explains: less than a share, or a mistake that is often made."""
        return not self.known and at_least > 0 and (self.share < at_least or bool(self.often))

    def told(self, at_least: float) -> str:
        """What is not excluded in a line, the mistakes seen most often first, and whether that is too much."""
        more = len(self.missed) - _SHOWN
        names = ", ".join(self.missed[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        line = f"{self.function}: {len(self.missed)} of {self.possible}: {names}"
        if self.known:
            return f"{line} (known: {self.known})"
        few = "too many" if self.share < at_least else "too often made"
        return f"{line} ({few})" if self.weak(at_least) else line


def summed(coverage: Iterable[Coverage]) -> str:
    """How many of the known mistakes that can occur are excluded, of all functions together."""
    found = list(coverage)
    return f"{sum(len(c.excluded) for c in found)} of {sum(c.possible for c in found)} known mistakes excluded"


class Seen:
    """The variants of one function that the calls judged so far would have shown."""

    def __init__(self, function: str, precision_of: Callable):
        self.function, self.precision_of = function, precision_of
        self.left = {v.name: v for v in variants(function)}
        self.excluded: list[str] = []
        self.judged: set[str] = set()  # ids
        self.options: set[str] = set()
        self.always: set[str] | None = None  # options that each case has
        self.masks: set = set()
        self.returned: set[str] = set()
        self._tried: Counter = Counter()

    def take(self, result: Result) -> tuple[str, ...]:
        """Look at one more result; the variants that it is the first to show."""
        if not result.comparisons or result.status not in ("holds", "known", "broken"):
            return ()
        found = self._shown_by(result)
        self.note(result.case, found, [c.result for c in result.comparisons])
        return found

    def note(self, case: CheckCase, found: Iterable[str], returned: Iterable[str]) -> None:
        """Remember what a case that was judged has shown, here or in another process."""
        for name in found:
            if self.left.pop(name, None):
                self.excluded.append(name)
        self.judged.add(case.id)
        given = _given(case)
        self.options |= given
        self.always = given if self.always is None else self.always & given
        self.masks.add(_mask_of(case))
        self.returned.update(returned)

    def missing(self, offered: Iterable[CheckCase], refused: Collection[str]) -> Coverage | None:
        """What all cases come to, those that were not judged too; None where nothing was, or nothing is known.

        Where cases were made inside limits, those that were refused (their ids) say nothing of what can occur.
        """
        if not self.judged or not (self.left or self.excluded):
            return None
        own = [c for c in offered if c.function == self.function]
        outside = set(refused) if any(".inside_" in c.id for c in own) else set()
        rest = [c for c in own if c.id not in outside and self._within(c)]
        left, possible = dict(self.left), []
        tried: Counter = Counter()
        for case in sorted(rest, key=lambda c: c.size):
            if left and (by := self._could_show(case)):
                possible += [left.pop(name) for name in _trying(by, _kind(case), left, tried)]
        missed = sorted(possible, key=lambda v: (-len(v.seen), v.name))
        often = tuple(v.name for v in missed if len(v.seen) >= OFTEN)
        return Coverage(self.function, len(self.judged), tuple(self.excluded), tuple(v.name for v in missed), often)

    def _within(self, case) -> bool:
        """Whether a case was not judged, and asks for nothing that no judged case asked for, and for what all did."""
        other = case.id not in self.judged and not case.relation and not case.refuses and case.size < _MOST
        always = (self.always or set()) if len(self.judged) >= _ALWAYS else set()
        return other and _mask_of(case) in self.masks and always <= _given(case) <= self.options

    def _shown_by(self, result):
        case = result.case
        judged = {c.result: c.judged for c in result.comparisons if c.judged is not None}
        if case.size >= _MOST or not self.left:
            return ()
        if case.relation:
            by = lambda v: _contradicts(v, case, self.precision_of(case.function, case.dtype))
        elif judged:
            first = next(iter(judged.values()))
            wanted = {name: (j.want, j.limit) for name, j in judged.items()}
            by = lambda v: _differs(v.results(first.args, first.kwargs), wanted)
        else:
            return ()
        return tuple(_trying(by, _kind(case), self.left, self._tried))

    def _could_show(self, case):
        """Whether a variant lies clearly off the reference on a case that was not judged, as a function."""
        arguments = in_float64(case.arguments)
        try:
            with np.errstate(all="ignore"):
                limits = bound(case.function, profile(self.precision_of(case.function, case.dtype)), **arguments)
        except NotImplementedError:
            return None
        wanted = {
            name: (np.asarray(b.value, dtype=np.float64), np.broadcast_to(b.hard, np.shape(b.value)))
            for name, b in limits.items()
            if name in self.returned
        }
        return lambda v: _differs(v.results((), arguments), wanted)


def covered(results: Iterable[Result], offered: Iterable[CheckCase], precision_of: Callable) -> list[Coverage]:
    """What a run has excluded, function by function, of those that have variants.

    Parameters
    ----------
    results : iterable of Result
    offered : iterable of CheckCase
        All cases that there are, those that were not judged too.
    precision_of : callable
        From a function and a dtype to the profile by which it is judged.
    """
    seen: dict[str, Seen] = {}
    results = list(results)
    for result in sorted(results, key=lambda r: r.case.size):  # small ones are quick, and show most
        function = result.case.function
        seen.setdefault(function, Seen(function, precision_of)).take(result)
    offered = list(offered)
    refused = {r.case.id for r in results if r.refused}
    return [found for each in seen.values() if (found := each.missing(offered, refused))]


def _trying(shows, kind, left, tried):
    """The names of what a case shows; a variant that cases of one kind have not shown is not tried on more of them."""
    for name, v in list(left.items()):
        if tried[name, kind] < _PATIENCE:
            tried[name, kind] += 1
            if shows(v):
                yield name


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
    recipe = case.id.split(".")[1]
    return (
        recipe,
        _mask_of(case),
        order,
        tuple(sorted(given)),
        finite,
        case.relation,
        sum(most > n for n in (1, 16, 64, 256)),
    )


def _rows(given):
    q, k = given.get("q"), given.get("k")
    both = isinstance(q, np.ndarray) and isinstance(k, np.ndarray) and q.ndim > 1 and k.ndim > 1
    return [(q.shape[-2], k.shape[-2])] if both else []


def _mask_of(case):
    return "array" if isinstance(case.arguments.get("mask"), np.ndarray) else tuple(sorted(rules_of(case)))


def _given(case) -> set[str]:
    """The options of a case that are not what they are by default (0 is none), words as they are, and the arrays of its
    parameters."""
    parameters = inspect.signature(function_named(case.function)).parameters
    optional = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
    given = {
        f"{name}={x}" if isinstance(x, str) else name
        for name, x in case.arguments.items()
        if name in optional and not _off(x, optional[name])
    }
    return given | {path for path, _ in arrays(case.arguments) if path not in case.arguments}


def _off(value, default) -> bool:
    plain = isinstance(value, bool | int | float | str)
    return value is default or (plain and value == (0 if default is None else default))
