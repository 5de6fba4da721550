"""Allow-lists: deviations that are known, each with a reason and a date on which it must be looked at again."""

from __future__ import annotations

import datetime
import fnmatch
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path


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

    def covers(self, target: str, result) -> bool:
        """Whether a failed case is this deviation."""
        return (
            target == self.target
            and result.case.function == self.function
            and fnmatch.fnmatch(result.deviation, self.deviation)
            and fnmatch.fnmatch(result.case.id, self.cases)
            and datetime.date.today() <= self.until
        )


def read(path) -> list[Allowance]:
    """The entries of a TOML file: tables [[allow]] with target, function, deviation, reason, until and perhaps cases.

    Raises
    ------
    ValueError
        An entry lacks a field, has one that is unknown, or one of the wrong type.
    """
    path = Path(str(path))
    contents = tomllib.loads(path.read_text())
    fields = {"target": str, "function": str, "deviation": str, "reason": str, "until": datetime.date, "cases": str}
    unknown = set(contents) - {"allow"}
    if unknown:
        raise ValueError(f"{path}: unknown {', '.join(sorted(unknown))}; the file holds [[allow]] tables only")
    entries = []
    for number, entry in enumerate(contents.get("allow", []), start=1):
        missing = set(fields) - {"cases"} - set(entry)
        extra = set(entry) - set(fields)
        wrong = [name for name, kind in fields.items() if name in entry and not isinstance(entry[name], kind)]
        for what, names in (("lacks", missing), ("has unknown", extra), ("has the wrong type of", wrong)):
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
