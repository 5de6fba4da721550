"""What a check consists of and what comes of it: a case and its result."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from refattn.masks import Mask
from refattn.testing.diagnosis import FITS
from refattn.testing.matches import MISSING, SMALL_VALUES, Comparison
from refattn.testing.printable import printable
from refattn.testing.registry import Variant
from refattn.testing.stages import Stage, told
from refattn.testing.subject import subject

STATUSES = ("holds", "broken", "known", "unsupported", "unjudged")
_MOST = 20_000  # characters of a message
_DOES = "\nThis does that: "
# Of gradients that some implementations leave out, the clause about them; any other belongs to every clause of a case.
_OWN_CLAUSE = {"scale": "GRAD-SCALE", "bias": "GRAD-BIAS", "sinks": "GRAD-SINK"}


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
    refused : bool
        Whether there was no answer: it was not supported, or ended in an exception, a crash or silence.
    lacks : tuple of str
        The results that were not returned and so not judged, of a case that holds otherwise.
    comparisons : tuple of Comparison
    fitting : tuple of Variant
        Of self-consistency that is broken, what does the same: the first gives it its name, or what fits most such cases.
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
    refused: bool = False
    lacks: tuple[str, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    fitting: tuple[Variant, ...] = ()
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

    def named(self, variant: Variant) -> Result:
        """The same result of self-consistency, called by a variant that does the same."""
        told = self.message.partition(_DOES)[0]
        return replace(self, deviation=variant.name, message=f"{told}{_DOES}{variant.name}: {variant.meaning}")

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
