"""README's way to a verdict on one's own kernel, and docs/ci.md, tried as they are written."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from refattn.testing import allow

ROOT = Path(__file__).parents[1]
KERNEL = """
import numpy as np

def flash(q, k, v, causal=False, scale=None):
    if not k.shape[:-1] == v.shape[:-1] or q.shape[-1] != k.shape[-1] or q.shape[:2] != k.shape[:2]:
        raise ValueError("shapes")
    n, m = q.shape[-2], k.shape[-2]
    scores = q @ np.swapaxes(k, -1, -2) * np.float32(q.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        scores = np.where(np.tri(n, m, OFFSET, dtype=bool), scores, -np.inf)
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(top == -np.inf, 0, top))
    total = weights.sum(axis=-1, keepdims=True)
    return (weights @ v / np.where(total == 0, 1, total)).astype(np.float32)
"""
RIGHT, WRONG = KERNEL.replace("OFFSET", "m - n"), KERNEL.replace("OFFSET", "0")


def blocks(path, language):
    found = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / path).read_text(), re.S | re.M)
    return [text for name, text in found if name == language]


def commands(start):
    """README's commands that begin so, but for installing."""
    lines = [line for block in blocks("README.md", "") for line in block.splitlines()]
    return [line for line in lines if line.startswith(start)]


VERDICTS = commands(("refattn check judged", "pytest -n auto"))


@pytest.fixture
def project(tmp_path):
    """Somebody's folder: their kernel, and README's file beside it."""
    (judged,) = (block for block in blocks("README.md", "python") if block.startswith("# judged.py"))
    (tmp_path / "judged.py").write_text(judged)

    def project(kernel, command, *options):
        shutil.rmtree(tmp_path / "mypackage", ignore_errors=True)  # with what was compiled of the kernel before
        (tmp_path / "mypackage").mkdir()
        (tmp_path / "mypackage" / "kernels.py").write_text(kernel)
        first, *rest = shlex.split(command)
        module = {"refattn": ["refattn.cli"], "pytest": ["pytest", "-p", "refattn_pytest", "-p", "no:cacheprovider"]}[
            first
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_XDIST_AUTO_NUM_WORKERS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", *module, *rest, *options],
            capture_output=True, text=True, check=False, cwd=tmp_path, env=environment,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    project.folder = tmp_path
    return project


def test_readme_offers_two_verdicts():
    assert [line.split()[0] for line in VERDICTS] == ["refattn", "pytest"]


@pytest.mark.parametrize("command", VERDICTS)
def test_a_verdict_names_the_mistake_and_is_clean_for_a_right_kernel(project, command):
    smoke = "--effort" if command.startswith("refattn") else "--refattn-effort"
    code, output = project(WRONG, command, smoke, "smoke")
    assert code == 1, output
    assert "causal/top_left" in output
    assert "masks other than causal()" in output or "not supported" in output
    code, output = project(RIGHT, command, smoke, "smoke")
    assert code == 0, output
    assert "CONFORMS" in output


def test_the_workflow_runs_the_same_line():
    (workflow,) = blocks("README.md", "yaml")
    (line,) = re.findall(r"run: (pytest .*)", workflow)
    assert line in VERDICTS


@pytest.mark.parametrize("path", ["README.md", "docs/ci.md"])
def test_every_option_that_is_named_exists(path):
    from refattn.cli import parser

    checking = next(a for a in parser()._actions if a.dest == "command").choices["check"].format_help()
    plugin = (ROOT / "refattn_pytest.py").read_text()
    named = set(re.findall(r"--refattn-[a-z-]+", (ROOT / path).read_text()))
    assert named
    assert all(f'"{option}"' in plugin for option in named)
    for line in re.findall(r"refattn check [^\n`]*", (ROOT / path).read_text()):
        assert all(option in checking for option in re.findall(r"--[a-z-]+", line)), line


def test_the_allow_list_of_the_docs_can_be_read(tmp_path):
    (listed,) = blocks("docs/ci.md", "toml")
    (tmp_path / "known.toml").write_text(listed)
    (entry,) = allow.read(tmp_path / "known.toml")
    assert entry.deviation == "empty_row/nan"


def test_the_tests_of_the_docs_pass(project):
    """The two tests of docs/ci.md, around README's function."""
    head = "import refattn\nfrom judged import attention\nfrom refattn.testing import assert_matches\n"
    fixture, strategy = blocks("docs/ci.md", "python")
    fixture = fixture.replace('precision="bfloat16", layout="bnhd"', 'effort="smoke"')
    strategy = strategy.replace("bfloat16", "float32").replace('"mask", ', "").replace('("scale")', '("scale",)')
    (project.folder / "test_docs.py").write_text(head + fixture.replace("test_flash", "test_all") + strategy)
    code, output = project(RIGHT, "pytest -q test_docs.py")
    assert code == 0, output
    code, output = project(WRONG.replace("q.shape[-1] ** -0.5 if scale", "1.0 if scale"), "pytest -q test_docs.py")
    assert code == 1
    assert "2 failed" in output
