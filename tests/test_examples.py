"""The examples run, and README shows what they print."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


PROGRAMS = sorted(path for path in (ROOT / "examples").glob("*.py") if not path.name.startswith("test_"))
ARGUMENTS = {"long_context.py": ["--tokens", "3000"]}  # what would take minutes


def run(path):
    command = [sys.executable, str(path), *ARGUMENTS.get(path.name, [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_an_example_runs_and_says_something(path):
    assert run(path).strip()


def test_readme_shows_the_verdict_of_the_example():
    """All but the digits, which differ in the last places from machine to machine."""

    def words(text):
        return re.sub(r"[0-9.e+]+", "#", " ".join(text.split()))

    shown = re.search(r"```\n(attention: .*?)```", (ROOT / "README.md").read_text(), re.S).group(1)
    assert words(shown) in words(run(ROOT / "examples" / "check_my_kernel.py"))
