"""The report of a check: every result, what explains them together, and what they come to."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field

from refattn.testing.allow import Allowance
from refattn.testing.coverage import Coverage
from refattn.testing.outcome import STATUSES, CheckCase, Result
from refattn.testing.printable import printable
from refattn.testing.reports.text import as_text, verdict

_TEXTS = 8  # so many texts of refusals of one function stand apart; the rest stand together


@dataclass(repr=False)
class Report:
    """What an implementation does, case by case; `refattn.testing.reports` writes it as text, JSON, JUnit XML, HTML.

    Printed, it is the text that `refattn check` prints.
    """

    target: str
    version: str
    effort: str
    seed: int
    environment: dict
    options: dict = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    causes: list = field(
        default_factory=list
    )  # of `refattn.testing.vote.Cause`: what explains the broken cases together
    stale: list[Allowance] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    strict: bool = False
    measured: dict = field(default_factory=dict)  # the releases that the list of known deviations was measured on
    limits: dict[str, str] = field(default_factory=dict)  # function -> what it takes, where it refuses some calls
    coverage: list[Coverage] = field(default_factory=list)  # which known mistakes the run would have shown
    at_least: float = 0.0  # the share of those that can occur which it must have; 0 where it is no whole run
    budget: float | None = None  # the seconds that it might take
    unasked: list[str] = field(default_factory=list)  # what was left out because of these
    interrupted: int = 0
    seconds: float = 0.0

    def __post_init__(self):
        self.target, self.version = printable(self.target), printable(self.version)
        self.environment = {printable(name): printable(value) for name, value in self.environment.items()}

    def __str__(self):
        return as_text(self)

    def __repr__(self):
        return f"<Report of {self.target}: {verdict(self)}>"

    def count(self, status: str) -> int:
        """How many cases have a status."""
        return sum(result.status == status for result in self.results)

    @property
    def ok(self) -> bool:
        """Whether nothing is broken but what an allow-list knows, and enough was checked, to its end."""
        sound = not (self.strict and self.problems) and not self.interrupted and self.count("unjudged") == 0
        return sound and self.count("broken") == 0 and self.checked and not self.weak

    @property
    def weak(self) -> list[Coverage]:
        """The functions of which too few known mistakes are excluded, and no list of known deviations says why."""
        return [found for found in self.coverage if found.weak(self.at_least)]

    @property
    def checked(self) -> bool:
        """Whether anything was: of calls that must be answered one at least was, if there are any such."""
        answers = [r for r in self.results if not r.case.refuses] or self.results
        return any(r.status in ("holds", "known") for r in answers)

    def by_clause(self) -> dict[str, dict[str, int]]:
        """Clause -> status -> number of cases.

        A failure counts against the clause that it breaks. A case holds up no clause about a result that was not
        returned: there it counts as not supported.
        """
        table: dict[str, dict[str, int]] = {}
        for result in self.results:
            for clause in (result.clause,) if result.clause else result.case.clauses:
                row = table.setdefault(clause, dict.fromkeys(STATUSES, 0))
                row["unsupported" if clause in result.untold else result.status] += 1
        return dict(sorted(table.items()))

    def deviations(self, *statuses: str) -> dict[tuple[str, str], list[Result]]:
        """(function, deviation) -> its results, smallest case first, for 'broken' or 'known', or for both."""
        found: dict[tuple[str, str], list[Result]] = {}
        for result in sorted(self.results, key=lambda r: r.case.size):
            if result.status in (statuses or ("broken", "known")):
                found.setdefault((result.case.function, result.deviation), []).append(result)
        return dict(sorted(found.items()))

    def findings(self, *statuses: str) -> list[list[Result]]:
        """The results of each deviation, as `deviations` has them, but refusals apart by what they say."""
        found = []
        for results in self.deviations(*statuses).values():
            texts: dict[str, list[Result]] = {}
            for result in results:
                texts.setdefault(gist(result.raised or result.reason * (result.status == "unjudged")), []).append(
                    result
                )
            several = sorted(texts.values(), key=len, reverse=True)
            rest = sorted((r for group in several[_TEXTS:] for r in group), key=lambda r: r.case.size)
            found += [*several[:_TEXTS], *([rest] if rest else [])]
        return found

    def replay(self, case: CheckCase) -> str:
        """The command that runs one case again."""
        words = ["refattn", "replay", case.id, "--impl", self.target]
        for name, value in {"seed": self.seed, "effort": self.effort, **self.options}.items():
            if value not in (None, {"seed": 0, "effort": "standard", "layout": "bhnd"}.get(name)):
                words += [f"--{name}", str(value)]
        return shlex.join(words)


def gist(text: str) -> str:
    """What a text of an exception says, whatever the sizes in it: by this, refusals are told apart.

    Examples
    --------
    >>> gist("ValueError: shapes (3, 4) and (5,) differ") == gist("ValueError: shapes (2, 7, 1) and (6,) differ")
    True
    """
    return re.sub(r"0x[0-9a-fA-F]+|[(\[]?-?\d[\d., )\]x×-]*", "#", text)
