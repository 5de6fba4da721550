"""Refusals of a run: which are one finding, which say nothing of wrong input, and which do not follow from the call."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from refattn.testing.adapters import Adapter, Unsupported
from refattn.testing.adapters.guard import told
from refattn.testing.inside import call_of, takes
from refattn.testing.outcome import Result
from refattn.testing.report import gist

AT_RANDOM = "refuses at random"
_AGAIN = 4  # so many refused calls of a function and a text are asked again
REFUSALS = ("refuses valid input", "crashes", "hangs", "exits")  # the limits of what does not say so


def at_random(case, error) -> Result:
    """A case that is refused once and taken once: what an implementation takes must follow from the call."""
    said = str(error) if isinstance(error, Unsupported) else told(error)
    message = f"of two calls with the same arguments it took one and refused one: {said}"
    return Result(case, "broken", AT_RANDOM, "BACKEND-PURE", message, raised=said)


class AskedAgain:
    """Refused calls that are asked again, a few of each function and text: is one taken now, it is refused at random."""

    def __init__(self, adapter: Adapter):
        self.adapter = adapter
        self._asked: Counter[tuple[str, str]] = Counter()

    def __call__(self, result: Result) -> Result:
        """The result, or another where the call is taken now."""
        case, text = result.case, result.raised or result.reason
        key = case.function, gist(text)
        valid = result.refused and not case.refuses and not case.relation
        refusal = result.status == "unsupported" or result.deviation == "refuses valid input"
        if not valid or not refusal or self._asked[key] >= _AGAIN:
            return result
        self._asked[key] += 1
        if not takes(call_of(self.adapter, case.function, case.dtype), result.case):
            return result
        return at_random(case, Unsupported(text))


def not_by_chance(results):
    """The results; a refusal in words with which valid input is refused, too, is no sign that wrong input is seen."""
    said = {(r.case.function, r.raised) for r in results if r.raised and r.status in ("broken", "known")}
    return [
        replace(r, status="unsupported", reason=f"it refuses valid input in the same words: {r.raised}")
        if r.status == "holds" and (r.case.function, r.raised) in said
        else r
        for r in results
    ]


def once(results):
    """The results; what a function refuses in the same words, and where it crashes, is one finding: its smallest case."""
    of = lambda r: (r.case.function, r.deviation, gist(r.raised))
    refusals = [r for r in results if r.status == "broken" and r.deviation in REFUSALS]
    least = {of(r): r.case.id for r in sorted(refusals, key=lambda r: r.case.size, reverse=True)}
    return [
        replace(
            r, status="unsupported", deviation="", clause="", message="", reason=f"as {least[of(r)]}: {r.deviation}"
        )
        if r.status == "broken" and least.get(of(r), r.case.id) != r.case.id
        else r
        for r in results
    ]
