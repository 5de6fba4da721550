"""The command, as a shell sees it."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from refattn.cli import main
from refattn.testing import reports


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "refattn.cli", *arguments], capture_output=True, text=True, check=False
    )


def test_help_is_quick_and_says_the_exit_codes():
    code = "import sys; from refattn.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\nassert 'numpy' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "exit codes: 0 conforms" in done.stdout


def test_check_passes_the_reference_with_exit_code_0(capsys):
    assert main(["check", "refattn:attention", "--effort", "smoke"]) == 0
    assert "CONFORMS" in capsys.readouterr().out


def test_check_fails_a_wrong_kernel_with_exit_code_1(capsys, tmp_path):
    paths = tmp_path / "report.json", tmp_path / "report.xml"
    arguments = ["--json", str(paths[0]), "--junit", str(paths[1])]
    assert main(["check", "tests.testing.test_checking:top_left", "--effort", "smoke", *arguments]) == 1
    assert "causal/top_left" in capsys.readouterr().out
    assert json.loads(paths[0].read_text())["ok"] is False
    assert "<failure" in paths[1].read_text()


def test_the_reports_may_go_to_standard_output(capsys):
    assert main(["check", "refattn:softmax", "--function", "softmax", "--effort", "smoke", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "no.such.module:f"],
        ["check", "refattn:no_such_function"],
        ["check", "nonsense"],
        ["check", "os:path"],
        ["check", "refattn:"],
        ["check", ":attention"],
        ["identify", "os:path"],
        ["replay", "attention.causal.0002.float32", "os:path"],
        ["check", "refattn:attention", "--precision", "float7"],
        ["check", "refattn:attention", "--mechanism", "softmax"],
        ["check", "refattn:attention", "--allow", "no-such-file.toml"],
        ["show", "no-such-thing"],
        [],
    ],
)
def test_wrong_usage_is_exit_code_2_and_one_line(arguments, capsys):
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert not arguments or (message.startswith("refattn: ") and message.count("\n") == 1), message


def test_a_library_that_is_not_installed_is_exit_code_3(capsys, monkeypatch):
    from refattn.testing import adapters

    monkeypatch.setitem(adapters._KNOWN, "torch", ("pytorch", ("no_such_library",)))
    assert main(["check", "torch"]) == 3
    assert "torch needs no_such_library; try: pip install no_such_library" in capsys.readouterr().err
    monkeypatch.setitem(adapters._KNOWN, "torch", ("line_protocol", ()))  # whose name `adapter` is gone, say
    assert main(["check", "torch"]) == 3
    assert "torch: its adapter fails: AttributeError: " in capsys.readouterr().err


@pytest.mark.parametrize("what", ["mechanisms", "functions", "clauses", "variants", "targets", "precisions", "masks"])
def test_list(what, capsys):
    assert main(["list", what]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 4


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("ATTN-EMPTY", "broken by:"),
        ("causal/top_left", "seen in: torch"),
        ("attention", "--- definition (spec/attention/definition.py) ---"),
        ("softmax", "## Clauses"),
        ("rope", "Parameters"),
        ("attention.causal.0003", "catches causal/top_left"),
        ("causal() & window(2, 0)", "■ ■ ■ ·"),
        ("causal", "■"),
        ("sparse/window", "■ ■ · ·"),
        ("sparse/window(left=1, right=0)", "  · ■ ■ · "),
    ],
)
def test_show(name, part, capsys):
    assert main(["show", name]) == 0
    assert part in capsys.readouterr().out


def test_show_suggests_what_was_meant(capsys):
    assert main(["show", "ATTN-EMTY"]) == 2
    assert "did you mean ATTN-EMPTY" in capsys.readouterr().err


def test_a_kernel_in_the_present_folder_is_found(tmp_path):
    (tmp_path / "mine.py").write_text("from refattn import attention as kernel\n")
    command = [sys.executable, "-P", "-m", "refattn.cli", "check", "mine:kernel", "--effort", "smoke"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\r" not in done.stderr, "no progress line where nobody looks"


def test_the_module_runs_as_a_program():
    assert run("--version").stdout.startswith("refattn ")
    assert run("check", "nonsense").returncode == 2


def test_a_page_for_people_is_written(tmp_path, capsys):
    page = tmp_path / "report.html"
    assert main(["check", "refattn:softmax", "--function", "softmax", "--effort", "smoke", "--html", str(page)]) == 0
    assert "<!doctype html>" in page.read_text()
    assert "CONFORMS" in capsys.readouterr().out


@pytest.mark.parametrize(("flags", "code"), [([], 1), (["--no-strict"], 0), (["--strict"], 1)])
def test_an_allow_list_of_ones_own_is_strict_unless_told_otherwise(flags, code, tmp_path, capsys):
    path = tmp_path / "known.toml"
    entry = '[[allow]]\ntarget = "refattn:softmax"\nfunction = "softmax"\ndeviation = "x"\nreason = "r"\nuntil = 2020-01-01\n'
    path.write_text(entry)
    arguments = ["check", "refattn:softmax", "--function", "softmax", "--allow", str(path), *flags]
    assert main(arguments) == code
    assert "expired on 2020-01-01" in capsys.readouterr().out


def test_all_runs_what_is_installed_and_ends_with_a_matrix(tmp_path, capsys, monkeypatch):
    from refattn.testing import adapters

    monkeypatch.setattr(adapters, "installed", lambda: ["refattn:attention", TOP_LEFT])
    path = tmp_path / "all.json"
    assert main(["check", "--all", "--effort", "smoke", "--json", str(path)]) == 1
    shown = capsys.readouterr()
    assert "[2/2]" in shown.err
    assert "ATTN-ALIGN" in shown.out
    assert "BROKEN" in shown.out
    assert "causal/top_left" in shown.out
    assert len(json.loads(path.read_text())["reports"]) == 2
    assert main(["check", "--all", "torch"]) == 2


TOP_LEFT = "tests.testing.test_checking:top_left"


BROKEN_MODULES = {
    "syntax": "def f(:",
    "raises": "1 / 0",
    "ends": "import sys; sys.exit(0)",
    "needs": "import absent_one",
}


@pytest.mark.parametrize("command", [["check"], ["identify"], ["replay", "attention.causal.0002.float32"]])
@pytest.mark.parametrize("kind", BROKEN_MODULES)
def test_a_module_that_cannot_be_imported_is_exit_code_3_and_one_line(kind, command, tmp_path, capsys, monkeypatch):
    (tmp_path / f"module_that_{kind}.py").write_text(BROKEN_MODULES[kind])
    monkeypatch.chdir(tmp_path)
    assert main([*command, f"module_that_{kind}:f"]) == 3
    message = capsys.readouterr().err
    assert message.startswith(f"refattn: module_that_{kind}:f: importing module_that_{kind} fails: ")
    assert message.count("\n") == 1


def ends(q, k, v, mask=None, **options):
    """A kernel that ends the process."""
    sys.exit(0)


def needs(q, k, v, mask=None, **options):
    """A kernel whose library is not installed."""
    import absent_library  # noqa: F401


@pytest.mark.parametrize(("kernel", "code"), [("ends", 1), ("needs", 3)])
def test_what_a_kernel_raises_decides_between_broken_and_not_judged(kernel, code, tmp_path, capsys):
    target, path = f"tests.test_cli:{kernel}", tmp_path / "report.json"
    assert main(["check", target, "--effort", "smoke", "--case", "attention.c*", "--json", str(path)]) == code
    assert len(json.loads(path.read_text())["cases"]) == 17, "the report is written"
    assert main(["replay", "attention.causal.0003.float32", target]) == code
    assert main(["identify", target]) == 0
    assert "Traceback" not in capsys.readouterr().err


CALLS = []


def terminated(q, k, v, mask=None, **options):
    """A kernel during whose fifth call the command is told to end."""
    CALLS.append(1)
    if len(CALLS) == 5:
        os.kill(os.getpid(), signal.SIGTERM)
    return np.zeros((*q.shape[:-1], v.shape[-1]), dtype=q.dtype)


@pytest.mark.parametrize("place", ["file", "-"])
def test_sigterm_ends_a_check_with_its_report(place, tmp_path, capsys):
    CALLS.clear()
    before = signal.getsignal(signal.SIGTERM)
    path = tmp_path / "report.json"
    assert main(["check", "tests.test_cli:terminated", "--json", str(path) if place == "file" else "-"]) == 143
    shown = capsys.readouterr().out
    document = json.loads(path.read_text() if place == "file" else shown)
    assert document["interrupted"]
    assert 1 <= len(document["cases"]) < 5
    assert ("INTERRUPTED after" in shown) == (place == "file")
    assert signal.getsignal(signal.SIGTERM) is before


def stops_all(q, k, v, mask=None, **options):
    """A kernel of a check of all that tells the whole of it to end."""
    if not CALLS:
        CALLS.append(1)
        os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(0.05)
    return np.zeros((*q.shape[:-1], v.shape[-1]), dtype=q.dtype)


def test_sigterm_ends_a_check_of_all_with_its_reports(tmp_path):
    path = tmp_path / "all.json"
    code = (
        "import sys; from refattn.testing import adapters, everything; from refattn.cli import main;"
        "adapters.installed = lambda: ['tests.test_cli:stops_all']; everything._GRACE = 0;"
        f"sys.exit(main(['check', '--all', '--json', {str(path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 143, done.stderr
    (document,) = json.loads(path.read_text())["reports"]
    assert document["interrupted"]
    assert "Interrupted; " in done.stdout


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal():
    stream = io.StringIO()
    show = reports.progress_on(stream, every=0.0)
    show(3, 12)
    show(12, 12)
    assert stream.getvalue() == "refattn: 3 of 12 cases in 0 s\n"
    quiet = io.StringIO()
    reports.progress_on(quiet)(3, 12)
    assert quiet.getvalue() == "", "what does not take long says nothing"
