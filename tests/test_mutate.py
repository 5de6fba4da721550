"""Mutants that nobody need kill are mutants of lines that are there."""

from pathlib import Path

from tests.mutate import EQUIVALENT, ROOT, sites


def _excusable(path: Path, lines: set[str]):
    """(line, what changes) for the mutants of these lines in a file."""
    source = path.read_text()
    own = [line.strip() for line in source.splitlines()]
    return {(own[line - 1], what) for line, what, _ in sites(source)} if lines.intersection(own) else set()


def test_every_mutant_that_is_excused_can_be_made():
    lines = {line for line, _ in EQUIVALENT}
    there = set().union(*(_excusable(path, lines) for path in ROOT.glob("refattn/**/*.py")))
    assert not EQUIVALENT.keys() - there
