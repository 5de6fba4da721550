"""Allow-lists: deviations that are known, each with a reason, and with a date on which it must be looked at again or the
releases that it was measured on.

A list of somebody's own kernel says until when; what refattn ships says which releases of a library were measured, for what
was seen of a release stays true of it.
"""

from __future__ import annotations

import datetime
import fnmatch
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from refattn.testing import schema
from refattn.testing.coverage import WEAK, Coverage
from refattn.testing.diagnosis import FITS
from refattn.testing.names import functions
from refattn.testing.printable import printable


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
    until : date, optional
        After it the entry no longer counts.
    cases : str
        A pattern of case ids, where it is known for some only.
    versions : tuple of str
        The releases that it holds for, '1.32' for every 1.32.x; empty: all.
    measured : tuple of str
        The releases that its whole list was measured on.
    """

    target: str
    function: str
    deviation: str
    reason: str
    until: datetime.date | None = None
    cases: str = "*"
    versions: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()

    @property
    def expired(self) -> bool:
        """Whether its date has passed."""
        return self.until is not None and datetime.date.today() > self.until

    def __str__(self):
        cases = "" if self.cases == "*" else f", {self.cases}"
        return printable(f"{self.target}, {self.function}, {self.deviation}{cases}")

    def holds_for(self, version: str) -> bool:
        """Whether it speaks of a release: its own versions name it, or the measured release that stands for it."""
        release = _numbers(stands_for(version, self.measured))
        return not self.versions or any(release[: len(v)] == v for v in map(_numbers, self.versions))

    def excuses(self, function: str) -> bool:
        """Whether it says why too few known mistakes of a function can be shown."""
        return self.function == function and self.deviation == WEAK and not self.expired

    def covers(self, target: str, result) -> bool:
        """Whether a failed case is this deviation."""
        return (
            target == self.target
            and result.case.function == self.function
            and any(fnmatch.fnmatch(name, self.deviation) for name in [result.deviation, *_alike(result)])
            and fnmatch.fnmatch(result.case.id, self.cases)
            and not self.expired
        )


def _numbers(version):
    """The numbers of a release: (2, 13, 0) of '2.13.0+cpu'."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def stands_for(version: str, measured: tuple[str, ...]) -> str:
    """The measured release by which a version is judged: itself, else the newest that is older, else the oldest."""
    if not measured:
        return version
    older = [release for release in measured if _numbers(release) <= _numbers(version)]
    return max(older, key=_numbers) if older else min(measured, key=_numbers)


def in_force(entries: list[Allowance], target: str, version: str) -> list[Allowance]:
    """The entries for one implementation in one of its releases."""
    return [entry for entry in entries if entry.target == target and entry.holds_for(version)]


def measured_on(entries: list[Allowance], target: str, version: str) -> dict:
    """On which releases the deviations of an implementation were measured, and by which of them this one is judged; and
    for which others somebody wrote down entries, that do not count here."""
    of_target = [entry for entry in entries if entry.target == target]
    releases = sorted({r for entry in of_target for r in entry.measured}, key=_numbers)
    left = [entry for entry in of_target if not entry.measured and not entry.holds_for(version)]
    found: dict = {"releases": releases, "judged_as": stands_for(version, tuple(releases))} if releases else {}
    if left:
        found["left_out"] = {
            "entries": len(left),
            "versions": sorted({v for e in left for v in e.versions}, key=_numbers),
        }
    return found


def told(measured: dict, version: str) -> str:
    """The same in a line; empty where nothing was measured."""
    version, said = version or "this release", []
    if measured.get("releases"):
        said.append(f"known deviations were measured on {_listed(measured['releases'])}")
        if _numbers(version) not in map(_numbers, measured["releases"]):
            said[0] += f", not on {version}: those of {measured['judged_as']} are taken"
    if left := measured.get("left_out"):
        entries = "1 entry" if left["entries"] == 1 else f"{left['entries']} entries"
        said.append(f"{entries} of the allow-list for {_listed(left['versions'])}, not for {version}: left out")
    return "; ".join(said)


def _listed(releases) -> str:
    *others, last = map(printable, releases)
    return " and ".join(filter(None, [", ".join(others), last]))


def of_others(entries: list[Allowance], target: str) -> str:
    """For whom the entries of a list are, in words, where none is for this implementation."""
    others = sorted({printable(entry.target) for entry in entries})
    return (
        ""
        if not others or target in others
        else f"the allow-list has no entry for {target}; it is for {', '.join(others)}"
    )


def excused(found: Coverage, entries: Iterable[Allowance], at_least: float) -> tuple[Coverage, Allowance | None]:
    """What was excluded of a function; where that is too little, with the reason of the first entry that has one."""
    entry = next((e for e in entries if e.excuses(found.function)), None) if found.weak(at_least) else None
    return replace(found, known=entry.reason if entry else ""), entry


def _alike(result) -> list[str]:
    """The variants that the inputs of a case do not tell from the one by which its deviation is called."""
    wrong = next((c for c in result.comparisons if not c.ok), None)
    fitting = [e.name for e in wrong.explanations if e.fit <= FITS and e.variant is not None] if wrong else []
    return fitting if result.deviation in fitting else []


_ENTRY: dict[str, type] = {
    "target": str, "function": str, "deviation": str, "reason": str, "until": datetime.date, "cases": str, "versions": list,
}  # fmt: skip


def read(path) -> list[Allowance]:
    """The entries of a TOML file.

    Tables [[allow]] with function, deviation, reason, until (a date) and perhaps cases and versions; target in each, or
    once above them all. A list of a library's releases has `measured = ["1.31.1", "1.32.0"]` above them, and its entries
    need no date.

    Raises
    ------
    ValueError
        The file is no TOML; an entry lacks a field, leaves one empty, has one that is unknown, one of the wrong type, or
        versions that were not measured; two entries are the same.
    """
    path = Path(str(path))
    try:
        contents = tomllib.loads(schema.read(path).decode())
    except RecursionError:
        raise ValueError(f"{path} is no TOML: it is nested too deep") from None
    except ValueError as error:  # no UTF-8, no TOML, or a number that is too long
        raise ValueError(f"{path} is no TOML: {error}") from None
    common = {name: contents.pop(name) for name in ("target", "measured") if name in contents}
    unknown = set(contents) - {"allow"}
    if unknown:
        raise ValueError(
            f"{path}: unknown {', '.join(sorted(unknown))}; the file holds target, measured and [[allow]] tables only"
        )
    if not isinstance(common.get("target", ""), str) or not _strings(common.get("measured", ["1"])):
        raise ValueError(f"{path}: target must be a string, measured a list of releases as strings")
    tables = contents.get("allow", [])
    if not isinstance(tables, list) or not all(isinstance(e, dict) for e in tables):
        raise ValueError(f"{path}: allow must be tables, each under [[allow]]")
    entries = [_entry(path, number, entry, common) for number, entry in enumerate(tables, start=1)]
    first: dict[Allowance, int] = {}
    for number, found in enumerate(entries, start=1):
        same = replace(found, reason="", until=None)
        if first.setdefault(same, number) != number:
            raise ValueError(f"{path}: entries {first[same]} and {number} are the same: {found}")
    return entries


def _entry(path, number, entry, common) -> Allowance:
    """One table of a file, once nothing is wrong with it."""
    measured = tuple(common.get("measured", ()))
    entry = {name: value for name, value in common.items() if name == "target"} | entry
    needed = set(_ENTRY) - {"cases", "versions"} - ({"until"} if measured else set())
    wrong = [name for name, kind in _ENTRY.items() if name in entry and type(entry[name]) is not kind]
    if "versions" in entry and not _strings(entry["versions"]):
        wrong = [*wrong, "versions"]
    empty = [name for name, kind in _ENTRY.items() if kind is str and name in entry and not str(entry[name]).strip()]
    checks = (
        ("lacks", needed - set(entry)),
        ("has unknown", set(entry) - set(_ENTRY)),
        ("has the wrong type of", set(wrong)),
        ("has an empty", empty),
    )
    for what, names in checks:
        if names:
            raise ValueError(f"{path}: entry {number} {what} {', '.join(sorted(names))}")
    versions = tuple(entry.pop("versions", ()))
    unseen = [
        v for v in versions if measured and not any(_numbers(r)[: len(_numbers(v))] == _numbers(v) for r in measured)
    ]
    if unseen:
        raise ValueError(f"{path}: entry {number} is for {', '.join(unseen)}, measured were {', '.join(measured)}")
    return Allowance(**entry, versions=versions, measured=measured)


def _strings(value) -> bool:
    """Whether it is a list of releases, not an empty one."""
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) and _numbers(v) for v in value)


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
        if entry.function not in functions():
            found.append(f"{entry}: refattn has no function {entry.function!r}")
        elif entry.expired:
            found.append(f"{entry}: expired on {entry.until}; look at it again, then renew or remove it")
        elif case_ids is not None and not fnmatch.filter(case_ids, entry.cases):
            found.append(f"{entry}: no case is called {entry.cases!r}")
        elif entry in report.stale:
            found.append(f"{entry}: no longer shows; its entry can go")
    return found
