"""What a check consists of and what comes of it: a case, its result, and the report of them all."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field, replace

import numpy as np

from refattn.masks import Mask
from refattn.testing.allow import Allowance
from refattn.testing.diagnosis import FITS
from refattn.testing.matches import MISSING, SMALL_VALUES, Comparison
from refattn.testing.printable import printable
from refattn.testing.stages import Stage, told
from refattn.testing.subject import subject

STATUSES = ("holds", "broken", "known", "unsupported", "unjudged")
_MOST = 20_000  # characters of a message
# Of gradients that some implementations leave out, the clause about them; any other belongs to every clause of a case.
_OWN_CLAUSE = {"scale": "GRAD-SCALE", "bias": "GRAD-BIAS", "sinks": "GRAD-SINK"}
_TEXTS = 8  # so many texts of refusals of one function stand apart; the rest stand together


def mechanism_of(function: str) -> str:
    """The mechanism to which a reference function belongs: the folder of spec/ that its subject stands in."""
    return subject(function).mechanism


@dataclass(frozen=True)
class CheckCase:
    """One call that an implementation must answer as the reference does.

    With a `relation` it is a family of calls that must agree with each other (`refattn.testing.consistency`).
    """

    id: str
    function: str
    clauses: tuple[str, ...]
    dtype: str
    arguments: dict
    refuses: bool = False
    comment: str = ""
    relation: str = ""

    @property
    def size(self) -> int:
        """The numbers that go in: by this, one case is smaller than another."""
        return sum(np.size(x) for x in self.arguments.values() if isinstance(x, np.ndarray))


@dataclass(frozen=True)
class Result:
    """What came of one case.

    Attributes
    ----------
    case : CheckCase
    status : {"holds", "broken", "known", "unsupported", "unjudged"}
        known: it deviates as an allow-list says; unjudged: it ended in an error that says nothing about the input.
    deviation : str
        What is different: a variant's name, 'refuses valid input', 'accepts wrong input', 'not deterministic', ...
    clause : str
        The clause that is broken.
    message : str
        For people.
    reason : str
        Why it is allowed, what is not supported, or why it could not be judged.
    raised : str
        The exception with which the input was refused, rightly or wrongly.
    lacks : tuple of str
        The results that were not returned and so not judged, of a case that holds otherwise.
    comparisons : tuple of Comparison
    stages : tuple of Stage
        Of a broken attention whose implementation exposes some, how each compares.
    """

    case: CheckCase
    status: str
    deviation: str = ""
    clause: str = ""
    message: str = ""
    reason: str = ""
    raised: str = ""
    lacks: tuple[str, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    stages: tuple[Stage, ...] = ()

    def __post_init__(self):
        for name in ("deviation", "message", "reason", "raised"):  # an implementation had a word in them
            object.__setattr__(self, name, printable(getattr(self, name), _MOST))

    @property
    def untold(self) -> tuple[str, ...]:
        """The clauses of a case that holds about which it says nothing, because results were not returned."""
        own = [_OWN_CLAUSE.get(name) for name in self.lacks]
        return self.case.clauses if None in own else tuple(clause for clause in own if clause)

    @property
    def wrong(self) -> list[Comparison]:
        """The comparisons that fail, wrong numbers first; those of inputs that cannot be judged are left out."""
        wrong = [c for c in self.comparisons if not c.ok and c.verdict != "cannot be judged"]
        return sorted(wrong, key=lambda c: c.verdict == MISSING)

    def called(self, comparisons: tuple[Comparison, ...], name: str | None = None) -> Result:
        """The same result with other explanations, called by the first that fits, or by one that nearly does."""
        result = replace(self, comparisons=comparisons)
        deviation, clause = diagnosis(self.case, result.wrong[0])
        lines = [str(c) for c in comparisons if not c.ok]
        nearly = next((e for e in result.wrong[0].explanations if e.name == name and e.variant), None)
        if nearly is not None and nearly.variant is not None and deviation != name:
            deviation, clause = nearly.name, nearly.variant.clause
            lines.append(
                f"All but a hundredth of it is {name}: {nearly.variant.meaning} Something smaller is wrong too."
            )
        message = "\n".join(filter(None, [*lines, told(self.stages)]))
        return replace(result, deviation=deviation, clause=clause, message=message)

    @property
    def worst(self) -> float | None:
        """The largest error in units of the hard bound; None where nothing was measured."""
        return max((c.hard for c in self.comparisons), default=None)


def diagnosis(case: CheckCase, wrong: Comparison) -> tuple[str, str]:
    """The name of what is different, and the clause that it breaks."""
    best = next((e for e in wrong.explanations if e.fit <= FITS), None)
    if wrong.reason:
        return "inputs not rounded", case.clauses[0]
    if best is None:
        kind = {
            "special values": "unexplained NaN or infinity",
            "shape": "wrong shape",
            MISSING: "gradient/missing",
        }.get(wrong.verdict, "unexplained difference")
        return kind, case.clauses[0]
    if best.variant is None:
        return best.name if best.name == SMALL_VALUES else f"precision {best.name}", case.clauses[0]
    return best.name, best.variant.clause


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
    interrupted: int = 0
    seconds: float = 0.0

    def __post_init__(self):
        self.target, self.version = printable(self.target), printable(self.version)
        self.environment = {printable(name): printable(value) for name, value in self.environment.items()}

    def __str__(self):
        from refattn.testing.reports import as_text

        return as_text(self)

    def __repr__(self):
        from refattn.testing.reports.text import verdict

        return f"<Report of {self.target}: {verdict(self)}>"

    def count(self, status: str) -> int:
        """How many cases have a status."""
        return sum(result.status == status for result in self.results)

    @property
    def ok(self) -> bool:
        """Whether nothing is broken but what an allow-list knows, and something was checked, to its end."""
        sound = not (self.strict and self.problems) and not self.interrupted and self.count("unjudged") == 0
        return sound and self.count("broken") == 0 and self.checked

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


def smallest(case: CheckCase) -> str:
    """A case in one line: the shapes and options that it is made of."""
    return in_one_line(case.arguments)


def in_one_line(arguments: dict) -> str:
    """The shapes and options of a call."""
    parts = []
    for name, value in arguments.items():
        if isinstance(value, np.ndarray):
            parts.append(f"{name} {'x'.join(map(str, value.shape)) or 'scalar'}")
        elif isinstance(value, Mask):
            parts.append(f"mask={value!r}")
        elif isinstance(value, tuple):
            parts.append(name)
        elif value is not None:
            parts.append(f"{name}={value!r}")
    return ", ".join(parts)
