"""A clone of today works in a year: exact releases for what we install, open ranges for what users install."""

import re
import tomllib
from pathlib import Path

import pytest

packaging = pytest.importorskip("packaging")
from packaging.requirements import Requirement  # noqa: E402
from packaging.utils import canonicalize_name  # noqa: E402

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pinned():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    found = [re.fullmatch(r"([A-Za-z0-9.-]+)==([A-Za-z0-9.]+)", line) for line in lines]
    assert all(found), [line for line, match in zip(lines, found, strict=True) if not match]
    names = [canonicalize_name(match[1]) for match in found]
    assert len(names) == len(set(names))
    return dict(zip(names, (match[2] for match in found), strict=True))


def test_every_requirement_has_one_exact_release_within_its_range():
    extras = PROJECT["project"]["optional-dependencies"].values()
    for line in [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in extra)]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pinned()[canonicalize_name(requirement.name)]), line
        assert requirement.name == "math-core" or not any(s.operator == "==" for s in requirement.specifier), line


def test_what_builds_the_package_is_exact_and_the_same():
    for line in PROJECT["build-system"]["requires"]:
        requirement = Requirement(line)
        assert str(requirement.specifier) == f"=={pinned()[canonicalize_name(requirement.name)]}"


@pytest.mark.parametrize("path", ["README.md", ".ci/run"])
def test_every_command_that_installs_from_a_clone_holds_to_them(path):
    commands = [
        line for line in (ROOT / path).read_text().splitlines() if re.search(r"pip install .*(-e |'\.\[)", line)
    ]
    assert commands
    assert all("-c constraints.txt" in line for line in commands), commands


def test_every_library_of_an_adapter_was_measured_in_its_exact_release():
    """README's main command can be right only for releases that the shipped lists were measured on."""
    from refattn.testing import allow

    for target in {entry.target for entry in allow.shipped()}:
        release = pinned()[target.partition(".")[0]]
        assert release in allow.measured_on(allow.shipped(), target, release)["releases"], target
