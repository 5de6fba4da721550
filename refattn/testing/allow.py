"""Allow-lists: deviations that are known, each with a reason and a date on which it must be looked at again."""

from __future__ import annotations

import datetime
import fnmatch
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from refattn.testing.diagnosis import FITS
from refattn.testing.names import FUNCTIONS


@dataclass(frozen=True)
class Allowance:
    """One known deviation.

    Attributes
    ----------
    target : str
        The implementation, 'onnxruntime'.
    function : str
        The reference function.
    deviation : str
        The name under which it is reported, or a pattern of such names.
    reason : str
    until : date
        After it the entry no longer counts.
    cases : str
        A pattern of case ids, where it is known for some only.
    """

    target: str
    function: str
    deviation: str
    reason: str
    until: datetime.date
    cases: str = "*"

    @property
    def expired(self) -> bool:
        """Whether its date has passed."""
        return datetime.date.today() > self.until

    def __str__(self):
        return f"{self.target}, {self.function}, {self.deviation}" + ("" if self.cases == "*" else f", {self.cases}")

    def covers(self, target: str, result) -> bool:
        """Whether a failed case is this deviation."""
        return (
            target == self.target
            and result.case.function == self.function
            and any(fnmatch.fnmatch(name, self.deviation) for name in [result.deviation, *_alike(result)])
            and fnmatch.fnmatch(result.case.id, self.cases)
            and not self.expired
        )


def _alike(result) -> list[str]:
    """The variants that the inputs of a case do not tell from the one by which its deviation is called."""
    wrong = next((c for c in result.comparisons if not c.ok), None)
    fitting = [e.name for e in wrong.explanations if e.fit <= FITS and e.variant is not None] if wrong else []
    return fitting if result.deviation in fitting else []


def read(path) -> list[Allowance]:
    """The entries of a TOML file: tables [[allow]] with target, function, deviation, reason, until and perhaps cases.

    Raises
    ------
    ValueError
        The file is no TOML; an entry lacks a field, leaves one empty, has one that is unknown, or one of the wrong type.
    """
    path = Path(str(path))
    try:
        contents = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML: {error}") from None
    fields = {"target": str, "function": str, "deviation": str, "reason": str, "until": datetime.date, "cases": str}
    unknown = set(contents) - {"allow"}
    if unknown:
        raise ValueError(f"{path}: unknown {', '.join(sorted(unknown))}; the file holds [[allow]] tables only")
    if not isinstance(contents.get("allow", []), list) or not all(
        isinstance(e, dict) for e in contents.get("allow", [])
    ):
        raise ValueError(f"{path}: allow must be tables, each under [[allow]]")
    entries = []
    for number, entry in enumerate(contents.get("allow", []), start=1):
        missing = set(fields) - {"cases"} - set(entry)
        extra = set(entry) - set(fields)
        wrong = [name for name, kind in fields.items() if name in entry and type(entry[name]) is not kind]
        empty = [
            name for name, kind in fields.items() if kind is str and name in entry and not str(entry[name]).strip()
        ]
        checks = ("lacks", missing), ("has unknown", extra), ("has the wrong type of", wrong), ("has an empty", empty)
        for what, names in checks:
            if names:
                raise ValueError(f"{path}: entry {number} {what} {', '.join(sorted(names))}")
        entries.append(Allowance(**entry))
    return entries


def shipped() -> list[Allowance]:
    """The deviations that are known of the implementations that refattn has adapters for."""
    folder = resources.files("refattn.testing") / "known"
    return [
        entry
        for file in sorted(folder.iterdir(), key=lambda f: f.name)
        if file.name.endswith(".toml")
        for entry in read(file)
    ]


def problems(entries: list[Allowance], report, case_ids: list[str] | None) -> list[str]:
    """What is out of date in the entries for a target, in words.

    Parameters
    ----------
    entries : list of Allowance
    report : Report
        Its results and what was stale in it.
    case_ids : list of str or None
        Every case there is; None where only some were run, so that a pattern that matches none says nothing.
    """
    found = []
    for entry in entries:
        if entry.function not in FUNCTIONS:
            found.append(f"{entry}: refattn has no function {entry.function!r}")
        elif entry.expired:
            found.append(f"{entry}: expired on {entry.until}; look at it again, then renew or remove it")
        elif case_ids is not None and not fnmatch.filter(case_ids, entry.cases):
            found.append(f"{entry}: no case is called {entry.cases!r}")
        elif entry in report.stale:
            found.append(f"{entry}: no longer shows; its entry can go")
    return found
