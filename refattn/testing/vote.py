"""One verdict for a run: which known mistake explains its broken cases, and what they have in common if none does.

A case alone is explained by whatever fits it, and a small one by much. Over a run the true cause fits most of them, and
cases that hold speak against the others:

1. Of every broken case, the variants, pairs of variants and precisions that fit all its results.
2. A case that holds although a variant lies four bounds or more away from what it returned speaks against the variant.
   Bugs have conditions ('only if M > 1'), so one such case refutes nothing: more than a quarter as many as the variant
   explains do, unless that is nearly all, or nearly all that other causes leave. Where inputs hold NaN or infinity,
   a case speaks neither for nor against.
3. The smallest set of causes that explains the most cases, taken greedily; a cause needs two cases and a twentieth of
   all. What fits fewer cases than stay unexplained is a chance hit and is not named. A precision is one of the whole
   kernel: it must fit all that is left.
4. The rest has no known cause; what its cases share and those that hold lack is said instead. That is no cause.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from refattn.testing.diagnosis import FITS, explained_by
from refattn.testing.distances import distance
from refattn.testing.matches import SMALL_VALUES, Comparison
from refattn.testing.traits import common, rules_of
from refattn.testing.variants import Variant, agreed, variants

UNKNOWN = "no known cause"
EXPLAINED = 60  # so many broken cases of a function are explained one by one; the others are held to what won
_CLEARLY = 4.0  # bounds
_MOSTLY = 100.0  # a cause that leaves a hundredth of every difference is one of two
_AGAINST = 0.25
_NEARLY_ALL = 0.8  # of so many broken cases or more: what fits these does not do so by chance, it has only a condition
_SOME = 5
_SHARE = 0.05
_PRECISION = "precision "


@dataclass(frozen=True)
class Cause:
    """What explains cases of a run.

    Attributes
    ----------
    function : str
    name : str
        A variant, two of them, a precision, 'small values'; or 'no known cause'.
    cases : tuple of str
        The broken cases that it explains.
    total : int
        All broken cases of the function whose numbers are wrong.
    partly : tuple of str
        Those of its cases in which something smaller is wrong as well.
    holding : tuple of str
        Cases that hold although it would show there.
    shared : tuple of str
        What is said of these; of cases without a known cause, what all of them share.
    others : int
        Of cases without a known cause: so many that hold share it as well.
    value : str
        The number that nearly all cases give, in words: 'the tile has 256 keys'.
    """

    function: str
    name: str
    cases: tuple[str, ...]
    total: int
    partly: tuple[str, ...] = ()
    holding: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    others: int = 0
    value: str = ""

    def __str__(self):
        of = f"{len(self.cases)} of {self.total} broken case{'s' * (self.total != 1)}"
        if self.name == UNKNOWN:
            if not self.shared:
                return f"{UNKNOWN}: {of}"
            beside = f"as in {self.others} that hold" if self.others else "which no case that holds has"
            return f"{UNKNOWN}: {of}; all have {', '.join(self.shared)}, {beside}"
        text = f"{self.name} explains {of}" + (f": {self.value}" if self.value else "")
        if self.partly:
            text += f", in {len(self.partly)} of them all but a hundredth: something smaller is wrong as well"
        if self.holding:
            where = f"not where {', '.join(self.shared)} " if self.shared else "yet as many as would show it hold "
            text += f"; {where}({len(self.holding)} hold)"
        return text


def settled(results: list) -> tuple[list, list[Cause]]:
    """The results of a run, called by the causes that won the vote, and these, by function, most cases first.

    Parameters
    ----------
    results : list of Result
    """
    renamed: dict[tuple[str, str], Any] = {}
    causes: list[Cause] = []
    for function in dict.fromkeys(r.case.function for r in results):
        own = [r for r in results if r.case.function == function]
        broken = [r for r in own if r.status in ("broken", "known") and _wrong(r) and not r.case.relation]
        if any(r.status == "broken" for r in broken):  # what is known has its name
            holding = [r for r in own if r.status == "holds" and r.comparisons and not r.case.relation]
            found, named = _Vote(function, broken, holding).outcome()
            causes += found
            renamed |= {(function, id_): new for id_, new in named}
        won = {cause.name for cause in causes if cause.function == function}
        named = _self_consistent(own, won)
        renamed |= {(function, r.case.id): new for r, new in named}
        others = {new.deviation for _, new in named} - won
        for name in sorted(others):  # what only self-consistency shows, such as NaN that leaks from a hidden value
            cases = tuple(r.case.id for r, new in named if new.deviation == name)
            causes.append(Cause(function, name, cases, sum(r.status == "broken" for r in own)))
    return [_renamed(r, renamed.get((r.case.function, r.case.id))) for r in results], causes


def _self_consistent(results, won) -> list[tuple]:
    """Results of self-consistency that variants explain, each called by one that won, or by what explains most of them."""
    open_ = [r for r in results if r.status == "broken" and r.fitting]
    votes = Counter(v.name for r in open_ for v in r.fitting)
    return [(r, r.named(max(r.fitting, key=lambda v: (v.name in won, votes[v.name])))) for r in open_]


def _renamed(result, called):
    """What is known stays called as the list of known deviations calls it."""
    return called if called is not None and result.status == "broken" else result


def _wrong(result) -> list[Comparison]:
    return [c for c in result.wrong if not c.reason and c.judged is not None]


def _parts(name):
    return name.split(" + ")


class _Vote:
    """The vote over the broken cases of one function."""

    def __init__(self, function, broken, holding):
        self.function, self.broken, self.holding = function, broken, sorted(holding, key=lambda r: r.case.size)
        self.by_id = {r.case.id: r for r in broken}
        self.known: dict[str, Variant] = {v.name: v for v in variants(function)}
        self.said: dict[str, list] = {}
        self.members: dict[str, list[Variant]] = {}  # by name, variants of which every case gave the number
        self.fits = {r.case.id: self._fitting(r) for r in broken}
        # NaN that leaks is a mistake of its own, beside whatever is wrong with numbers: it neither refutes nor supports
        self.usual = [r.case.id for r in broken if _usual(_wrong(r))]
        self.known |= {name: agreed(members) for name, members in self.members.items()}
        self.needed = min(max(2, len(broken) * _SHARE), len(broken))

    def outcome(self):
        """The causes, and every result of a broken case with the one that it is called by from now on."""
        self._refute()
        chosen, left = self._smallest()
        if chosen and self._admit_again(left):
            chosen, left = self._smallest()
        if self._ask_numbers(chosen):
            chosen, left = self._smallest()
        left = self._held_to_winners(chosen, left)
        chosen, left, partly = self._almost(chosen, left)
        chosen, left = self._without_chance(chosen, left)
        if left and (name := self._rounding(left)):
            chosen[name], left = left, set()
        causes = [self._cause(name, cases, partly.get(name, set())) for name, cases in chosen.items()]
        named = [(i, self._called(self.by_id[i], name)) for name, cases in chosen.items() for i in cases]
        if left:
            causes.append(self._unknown(left))
            named += [(i, self._called(self.by_id[i], None)) for i in left]
        return sorted(causes, key=lambda c: (-len(c.cases), c.name == UNKNOWN)), named

    # --- 1: what fits a case

    def _fitting(self, result) -> set[str]:
        found = set()
        for e in (e for c in _wrong(result)[:1] for e in c.explanations if e.fit <= FITS):
            if ", precision" in e.name:  # too much is possible in another precision
                continue
            if e.variant is not None and " + " not in e.name:
                self.known.setdefault(e.name, e.variant)
                if e.variant.value is not None and e.name not in found:  # the first of a name fits best
                    self.members.setdefault(e.name, []).append(e.variant)
            found.add(e.name if e.variant or e.name == SMALL_VALUES else f"{_PRECISION}{e.name}")
        return found

    # --- 2: what holding cases refute

    def _refute(self):
        votes = Counter(part for names in self.fits.values() for name in names for part in _parts(name))
        usual = Counter(part for i in self.usual for name in self.fits[i] for part in _parts(name))
        refuted = {
            name
            for name, count in votes.items()
            if count >= self.needed and name in self.known and len(self._speaking(name)) > self._allowed(usual[name])
        }
        self.refuted = {i: {n for n in names if refuted.intersection(_parts(n))} for i, names in self.fits.items()}
        for i, names in self.refuted.items():
            self.fits[i] -= names

    def _admit_again(self, left) -> bool:
        """Whether what was refuted fits nearly all that other causes leave: that is no chance, of two bugs one has a condition."""
        asked = [i for i in left if i in self.usual and any(c.explanations for c in self.by_id[i].comparisons)]
        votes = Counter(name for i in asked for name in self.refuted[i])
        again = {name for name, count in votes.items() if len(asked) >= _SOME and count >= _NEARLY_ALL * len(asked)}
        for i in left:
            self.fits[i] |= self.refuted[i] & again
        return bool(again)

    def _ask_numbers(self, chosen) -> bool:
        """Whether a number that won fits a case in which it was not found: a small result does not tell it alone."""
        found = False
        for name in chosen:
            for i in self.fits if name in self.members else ():
                judgements = [c.judged for c in self.by_id[i].comparisons if c.judged is not None]
                if name not in self.fits[i] and judgements and (by := explained_by(judgements, self.known[name])):
                    self.by_id[i] = _with_explanation(self.by_id[i], by)
                    self.fits[i].add(name)
                    found = True
        return found

    def _allowed(self, count) -> float:
        """How many holding cases may speak against what fits `count` of the broken ones with usual numbers."""
        total = sum(any(c.explanations for c in self.by_id[i].comparisons) for i in self.usual)  # explained one by one
        return np.inf if total >= _SOME and count >= _NEARLY_ALL * total else count * _AGAINST

    def _against(self, name) -> list:
        """The holding cases in which a variant would have shown."""
        if name not in self.said:
            v = self.known.get(name)
            self.said[name] = [r for r in self.holding if v is not None and _denies(r, v)]
        return self.said[name]

    def _speaking(self, name) -> list:
        """The holding cases that refute a variant of masks: not those with a rule that no case has which it fits.

        A kernel has a flag for some rules and gets the others, and what they are combined with, as an array: what is
        wrong with the flag holds there, which is a condition and no refutation.
        """
        fitting = [rules_of(self.by_id[i].case) for i, names in self.fits.items() if name in names]
        if not fitting or not all(fitting):
            return self._against(name)
        return [r for r in self._against(name) if rules_of(r.case) <= set().union(*fitting)]

    # --- 3: the smallest set of causes

    def _smallest(self) -> tuple[dict[str, set], set]:
        chosen: dict[str, set] = {}
        left = set(self.fits)
        causes: set[str] = set()
        while left:
            votes = Counter(n for i in left for n in self.fits[i] if not n.startswith(_PRECISION) and n != SMALL_VALUES)
            # fewest new causes first, then most cases; a pair whose halves are chosen already costs nothing
            cost = {name: (len(set(_parts(name)) - causes), -count) for name, count in votes.items()}
            tied = sorted(name for name in votes if cost[name] == min(cost.values()))
            if len(tied) > 1:
                tied.sort(
                    key=lambda name: (sum(len(self._against(p)) for p in _parts(name)), -self._firsts(name, left))
                )
            if not tied or (votes[tied[0]] < self.needed and set(_parts(tied[0])) - causes):
                break
            chosen[tied[0]] = {i for i in left if tied[0] in self.fits[i]}
            causes |= set(_parts(tied[0]))
            left -= chosen[tied[0]]
        return chosen, left

    def _firsts(self, name, cases) -> int:
        """In how many cases a name is the best of those that fit."""
        return sum(self.by_id[i].deviation == name for i in cases)

    def _held_to_winners(self, chosen, left) -> set:
        """Cases that were not explained one by one, or alone only by rounding, are held to the causes that won elsewhere."""
        for i in sorted(left):
            judgements = [c.judged for c in self.by_id[i].comparisons if c.judged is not None]
            explained = any(c.explanations for c in self.by_id[i].comparisons)
            if not judgements or (explained and not self._only_rounding(i)):
                continue
            for name in chosen:
                if name in self.known and (found := explained_by(judgements, self.known[name], won=True)):
                    self.by_id[i] = _with_explanation(self.by_id[i], found)
                    chosen[name].add(i)
                    left = left - {i}
                    break
        return left

    def _only_rounding(self, i) -> bool:
        """Whether a coarser precision fits a case, and no variant does."""
        return bool(self.fits[i]) and all(name.startswith(_PRECISION) for name in self.fits[i])

    def _almost(self, chosen, left):
        """What a cause explains but for a small rest has it and a smaller one beside it."""
        partly = {}
        for name in chosen:
            near = {i for i in left if _mostly(self.by_id[i], name)}
            partly[name], left = near, left - near
            chosen[name] = chosen[name] | near
        return chosen, left, partly

    def _without_chance(self, chosen, left):
        """What explains fewer cases than stay unexplained is a chance hit, or a part of one unknown cause."""
        while chosen and len(chosen[least := min(chosen, key=lambda name: len(chosen[name]))]) < len(left):
            left = left | chosen.pop(least)
        return chosen, left

    def _rounding(self, left) -> str | None:
        """What of rounding fits all that is left: small values, or a precision, which is one of the whole kernel."""
        if all(SMALL_VALUES in self.fits[i] for i in left):
            return SMALL_VALUES
        names = Counter(n for i in left for n in self.fits[i] if n.startswith(_PRECISION))
        fitting = [n for n in names if all(n in self.fits[i] or SMALL_VALUES in self.fits[i] for i in left)]
        return max(fitting, key=lambda n: (self._firsts(n, left), names[n]), default=None)

    # --- 4: in words

    def _cause(self, name, cases, partly) -> Cause:
        against = {id(r): r for part in _parts(name) for r in self._against(part)}.values()
        shared = common([r.case for r in against], [r.case for r in self.broken])[0] if against else ()
        ids = tuple(r.case.id for r in self.broken if r.case.id in cases)
        return Cause(
            self.function, name, ids, len(self.broken), tuple(sorted(partly)), tuple(r.case.id for r in against), shared,
            value=self.known[name].said if name in self.members else "",
        )  # fmt: skip

    def _unknown(self, left) -> Cause:
        ids = tuple(r.case.id for r in self.broken if r.case.id in left)
        shared, others = common([self.by_id[i].case for i in ids], [r.case for r in self.holding])
        return Cause(self.function, UNKNOWN, ids, len(self.broken), shared=shared, others=others)

    def _called(self, result, name):
        """A result whose explanations begin with a cause; without one, what fits it alone is kept as refuted."""
        comparisons = []
        for c in result.comparisons:
            if not c.ok:
                first = [e for e in c.explanations if name is not None and _name_of(e) == name]
                rest = [e for e in c.explanations if _name_of(e) != name]
                refuted: tuple[str, ...] = ()
                if name is None:
                    refuted = tuple(_name_of(e) for e in rest if e.variant and e.fit <= FITS)
                    rest = [e for e in rest if e.fit > FITS]
                c = replace(c, explanations=[*first, *rest], refuted=refuted)
            comparisons.append(c)
        return result.called(tuple(comparisons), name)


def _name_of(e):
    return e.name if e.variant or e.name == SMALL_VALUES else f"{_PRECISION}{e.name}"


def _with_explanation(result, found):
    comparisons = tuple(
        c if c.ok else replace(c, explanations=[*found.get(c.result, ()), *c.explanations]) for c in result.comparisons
    )
    return replace(result, comparisons=comparisons)


def _mostly(result, name) -> bool:
    """Whether a variant leaves a hundredth of every difference or less."""
    wrong = _wrong(result)
    left = [next((e.fit for e in c.explanations if e.name == name), np.inf) for c in wrong]
    return all(np.isfinite(c.hard) and fit * _MOSTLY <= c.hard for fit, c in zip(left, wrong, strict=True))


def _denies(result, v) -> bool:
    """Whether a variant lies four bounds or more from the reference in a case that holds."""
    judgements = [c.judged for c in result.comparisons if c.judged is not None]
    if not judgements or not _finite(judgements[0]):
        return False  # of NaN and infinities variants do not promise to be the reference otherwise
    found = v.results(judgements[0].args, judgements[0].kwargs) or {}
    for j in judgements:
        value = np.asarray(found.get(j.result, np.nan))
        if value.shape == j.want.shape and distance(value, j.want, j.limit) >= _CLEARLY:  # axes are not its subject
            return True
    return False


def _usual(comparisons) -> bool:
    return bool(comparisons) and _finite(comparisons[0].judged)


def _finite(judged) -> bool:
    return all(map(np.all, map(np.isfinite, _arrays(judged))))


def _arrays(judged) -> Iterable[np.ndarray]:
    given = [*judged.args, *judged.kwargs.values()]
    return [x for x in given if isinstance(x, np.ndarray) and x.dtype.kind == "f"]
