"""Slow tests in parts: each falls into exactly one, and those of what changed always run."""

import subprocess
import sys

import pytest

from tests import parts
from tests.conftest import SLOW


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_every_slow_test_falls_into_exactly_one_part(request, number):
    tests = {*request.config.stash[SLOW], *(f"tests/testing/test_naming.py::test_it[f{n}-bfloat16]" for n in range(99))}
    each = [{test for test in tests if parts.falls_into(test, k, number)} for k in range(1, number + 1)]
    assert set.union(*each) == tests
    assert sum(map(len, each)) == len(tests)
    assert min(map(len, each)) > len(tests) / number / 2, "parts of one size"


@pytest.mark.slow
def test_runs_of_all_parts_are_one_run_of_everything():
    def names(*options):
        command = [sys.executable, "-m", "pytest", "--co", "-q", "-p", "no:cacheprovider", "-m", "slow", *options]
        done = subprocess.run([*command, "tests/test_spec.py"], capture_output=True, text=True, cwd=parts.ROOT)
        return {line for line in done.stdout.splitlines() if "::" in line}, done.stdout

    whole, said = names()
    assert len(whole) > 8
    assert "slow tests" not in said
    (first, said), (second, _) = (names("--part", f"{k}/2", "--since", "HEAD") for k in (1, 2))
    head = parts.git("rev-parse", "--short", "HEAD")
    assert f"; the same again: --part 1/2 --since {head}" in said
    both = {test for test in whole if parts.Selection(0, 2, "HEAD", parts.changed("HEAD")).takes(test)}
    assert first | second == whole
    assert first & second == both, "what changed runs with every part"


def test_another_part_each_day():
    assert {parts.read("today/3", day) for day in range(700_000, 700_003)} == {(1, 3), (2, 3), (3, 3)}
    assert parts.read("today/3") in {(1, 3), (2, 3), (3, 3)}


@pytest.mark.parametrize("wrong", ["", "2", "0/2", "3/2", "1/0", "now/2", "1/2/3"])
def test_what_is_no_part_is_refused(wrong):
    with pytest.raises(ValueError, match="--part is"):
        parts.read(wrong)


@pytest.mark.parametrize(
    "path, mechanism",
    [
        ("spec/latent/mla/cases.py", "latent/mla"),
        ("refattn/latent/mla.py", "latent/mla"),
        ("refattn/gradients/heads.py", "gradients"),
        ("refattn/testing/mechanisms/tiled/variants.py", "tiled"),
        ("tests/latent/test_mla.py", "latent/mla"),
        ("tests/test_tiled_backward.py", "tiled"),
        ("tests/test_norms.py", "norms"),
        ("refattn/testing/matches.py", None),
        ("tests/testing/test_naming.py", None),
        ("spec/exact.py", None),
        ("README.md", None),
    ],
)
def test_a_file_belongs_to_a_mechanism_or_to_all(path, mechanism):
    assert parts.mechanism_of_file(path) == mechanism


@pytest.mark.parametrize(
    "test, mechanism",
    [
        ("tests/testing/test_naming.py::test_it[latent.multi_head_latent_attention-float32]", "latent/mla"),
        ("tests/testing/test_inputs.py::test_it[rope:attention_factor_ignored]", "positions"),
        ("tests/test_spec.py::test_it[heads]", "heads"),
        ("tests/test_heads.py::test_it[strict-device1]", "heads"),
        ("tests/testing/test_tracked.py::test_it[bfloat16]", None),
    ],
)
def test_a_test_belongs_to_a_mechanism_or_to_all(test, mechanism):
    assert parts.mechanism_of_test(test) == mechanism


@pytest.fixture
def branch(tmp_path):
    """A repository with a commit on main and a branch that changed one file and began another."""
    author = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
    git = lambda *arguments: parts.git(*author, *arguments, root=tmp_path)
    if git("init", "-q", "-b", "main") is None:
        pytest.skip("no git")
    git("commit", "-q", "--allow-empty", "-m", "nothing")
    for name in ("spec/softmax/definition.py", "spec/norms/cases.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("x = 1\n")
    git("add", "-A")
    git("commit", "-q", "-m", "begin")
    git("checkout", "-q", "-b", "branch")
    (tmp_path / "spec/softmax/definition.py").write_text("x = 2\n")
    git("commit", "-q", "-a", "-m", "change")
    git("commit", "-q", "--allow-empty", "-m", "nothing more")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_tiled_new.py").write_text("")
    return tmp_path, git


def test_what_changed_runs_whichever_part_it_is(branch):
    root, git = branch
    assert parts.merged(root) == git("rev-parse", "main")
    files = parts.changed(parts.merged(root), root)
    assert files == {"spec/softmax/definition.py", "tests/test_tiled_new.py"}
    selection = parts.Selection(1, 1000, "main", files)
    assert selection.mechanisms == {"softmax", "tiled"}
    of = lambda function: f"tests/testing/test_naming.py::test_it[{function}-float32]"
    assert all(selection.takes(of(function)) for function in ("softmax", "logsumexp", "tiled_attention"))
    assert not any(selection.takes(of(function)) for function in ("attention", "rms_norm", "rope"))
    assert "part 1 of 1000, and all of softmax, tiled; the same again: --part 1/1000 --since main" in str(selection)


def test_on_main_it_is_compared_with_the_commit_before(branch):
    root, git = branch
    git("checkout", "-q", "main")
    assert parts.merged(root) == git("rev-parse", "HEAD^")


def test_where_nobody_knows_what_changed_all_runs(tmp_path):
    assert parts.merged(tmp_path) is None
    assert parts.changed(None) is None
    assert parts.changed("no-such-commit") is None
    assert all(parts.Selection(k, 1000, None, None).takes("tests/test_x.py::test_it") for k in (1, 2))
