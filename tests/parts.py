"""Which slow tests run: `pytest -m slow --part 2/3`, or `--part today/3`, which takes another part each day.

All tests of what changed run: of mechanisms with a file that differs from where the branch left main (on main, from the
commit before), and of test files that differ. Of the others run those whose name falls into the part. A run prints the
options that choose the same tests again.
"""

import datetime
import re
import subprocess
import zlib
from pathlib import Path

from refattn.testing.subject import mechanisms, subjects

ROOT = Path(__file__).parents[1]
HOMES = ("spec/", "refattn/testing/mechanisms/", "refattn/", "tests/")  # where a mechanism's files stand


def mechanism_of_test(test):
    """The mechanism of a test: that for which it is parametrised, by its name or by a function, or whose file it stands in."""
    file, _, case = test.partition("[")
    for word in re.split(r"[-:\]]", case):
        if word in subjects():
            return subjects()[word].mechanism
        if word in mechanisms():
            return word
    return mechanism_of_file(file.partition("::")[0])


def mechanism_of_file(path):
    """The mechanism that a file belongs to; None of the kit and of what all share."""
    name = re.sub(r"^tests/(.*/)?test_", r"tests/\1", path)
    inside = next((name.removeprefix(home) for home in HOMES if name.startswith(home)), "")
    own = (mechanism for mechanism in mechanisms() if re.match(rf"{mechanism}[/._]", inside))
    return max(own, key=len, default=None)


def read(option, day=None):
    """(part, number of parts) of what `--part` says, today or on another day; ValueError if it is none."""
    found = re.fullmatch(r"(today|[0-9]+)/([1-9][0-9]*)", option)
    if not found:
        raise ValueError(f"--part is {option!r}; it must be K/N, as 2/3, or today/N")
    parts = int(found[2])
    day = datetime.date.today().toordinal() if day is None else day
    part = day % parts + 1 if found[1] == "today" else int(found[1])
    if not 1 <= part <= parts:
        raise ValueError(f"--part is {option!r}; of {parts} parts it must be one of 1 to {parts}")
    return part, parts


def falls_into(test, part, parts):
    """Whether a test is one of a part; it is so of exactly one. Its name alone decides, so that others move none."""
    return zlib.crc32(test.encode()) % parts + 1 == part


def git(*arguments, root=ROOT):
    """What git answers, or None if it refuses or is not there."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, cwd=root)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def merged(root=ROOT):
    """The commit at which the branch left main; on main itself the one before. None where there is no history."""
    at_hand = git("rev-parse", "HEAD", root=root)
    left = git("merge-base", "HEAD", "origin/main", root=root) or git("merge-base", "HEAD", "main", root=root)
    return git("rev-parse", "-q", "--verify", "HEAD^", root=root) if left == at_hand else left


def changed(since, root=ROOT):
    """The files that differ from a commit, those that git does not know yet included; None if it is not known."""
    differ = git("diff", "--name-only", since, root=root) if since else None
    new = git("ls-files", "--others", "--exclude-standard", root=root)
    return None if differ is None or new is None else {*differ.splitlines(), *new.splitlines()}


class Selection:
    """The slow tests of one run."""

    def __init__(self, part, parts, since, files):
        self.part, self.parts, self.since, self.files = part, parts, since, files
        self.mechanisms = {mechanism_of_file(file) for file in files or ()} - {None}

    def takes(self, test):
        """Whether a slow test runs. Where nobody can say what changed, everything may have."""
        own = test.partition("::")[0] in (self.files or ()) or mechanism_of_test(test) in self.mechanisms
        return self.files is None or own or falls_into(test, self.part, self.parts)

    def __str__(self):
        again = f"--part {self.part}/{self.parts} --since {self.since}"
        if self.files is None:
            return "slow tests: all, since it is not known what changed"
        whole = ", ".join(sorted(self.mechanisms))
        return (
            f"slow tests: part {self.part} of {self.parts}{whole and f', and all of {whole}'}; the same again: {again}"
        )
