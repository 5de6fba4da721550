"""What the command writes: to any terminal, to readers that leave, to places that take nothing."""

import io
import json
import os
import re
import subprocess
import sys
import xml.dom.minidom

import pytest

from refattn import console
from refattn.cli import main
from refattn.testing.printable import printable

SOFTMAX = ["refattn:softmax", "--function", "softmax", "--effort", "smoke", "--case", "softmax.rows*"]
EVIL = "\x1b[31m<b>&\x00\u202e\ud800\ufffe]]>"

posix = pytest.mark.skipif(os.name != "posix", reason="devices and closed pipes as POSIX has them")


class Kernels:
    """Functions with what no report should hold."""

    __version__ = EVIL

    def raises(x, **options):
        raise ValueError(EVIL)

    def lacks(x, **options):
        raise NotImplementedError(EVIL)


raises, lacks = Kernels.raises, Kernels.lacks
raises.__qualname__ = EVIL


@pytest.fixture
def terminal(monkeypatch):
    """Standard output in a given encoding, as a terminal would have it; what was written to it is returned."""

    def with_encoding(encoding):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        return lambda: stream.buffer.getvalue().decode(encoding)

    return with_encoding


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize("words", [["show", "causal()", "--size", "2", "3"], ["list", "clauses"], ["show", "softmax"]])
def test_any_terminal_gets_a_text(words, encoding, terminal):
    said = terminal(encoding)
    assert main(words) == 0
    text = said()
    if words[1] == "causal()":
        assert text.splitlines()[2:] == (
            ["  ■ ■ ·", "  ■ ■ ■"]
            if encoding == "utf-8"
            else ["  # # ."[:6] + ("·" if encoding != "ascii" else "."), "  # # #"]
        )
    assert sys.stdout.errors == "strict", "the stream is left as it was"


def test_reports_on_a_terminal_of_ascii_are_still_html_and_xml(terminal):
    said = terminal("ascii")
    assert main(["check", *SOFTMAX, "--html", "-"]) == 0
    assert "\\u" not in said()
    said = terminal("ascii")
    assert main(["check", *SOFTMAX, "--junit", "-"]) == 0
    xml.dom.minidom.parseString(said())


def test_what_is_foreign_becomes_plain():
    assert printable(EVIL) == r"\x1b[31m<b>&\x00\u202e\ud800\ufffe]]>"
    assert printable("Σ é\n\t日本") == "Σ é\n\t日本"
    assert printable("x" * 5000, 30) == "x" * 20 + " ... " + "x" * 10

    class Textless(Exception):
        def __str__(self):
            raise ZeroDivisionError

    assert printable(Textless()) == "<Textless without a text: ZeroDivisionError>"


@pytest.mark.parametrize("name", ["raises", "lacks"])
def test_no_report_holds_what_a_kernel_slipped_in(name, tmp_path, capsys):
    target = f"tests.test_console:{name}"
    paths = {kind: tmp_path / f"report.{kind}" for kind in ("json", "junit", "html")}
    places = [word for kind, path in paths.items() for word in (f"--{kind}", str(path))]
    assert main(["check", target, *SOFTMAX[1:], "--verbose", *places]) == 1
    shown = capsys.readouterr()
    texts = [shown.out, *(path.read_text(encoding="utf-8") for path in paths.values())]
    for text in texts:
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e\ud800\ufffe]", text)
    for text in texts[:2] + texts[2:3]:
        assert "x1b[31m" in text
    assert "<b>" not in texts[3]
    json.loads(texts[1])
    xml.dom.minidom.parseString(texts[2])
    assert main(["replay", "softmax.rows.0001.float32", target, "--function", "softmax"]) == (name == "raises")
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, says",
    [
        (["--json", "-", "--html", "-"], "--json and --html cannot both be written to standard output"),
        (["--json", "x", "--junit", "./x"], "--json and --junit cannot both be written to ./x"),
        (["--json", "link", "--html", "x"], "--json and --html cannot both be written to x"),
        (["--json", "no/such/folder"], "no such folder"),
        (["--html", "."], "it is a folder"),
        (["--junit", ""], "it is a folder"),
        (["--junit", "new/"], "it is a folder"),
        (["--json", "a\0b"], "null byte"),
        (["--json", "n" * 300], "name is too long"),
    ],
)
@pytest.mark.parametrize("target", [SOFTMAX, ["--all"]], ids=["one", "all"])
def test_a_report_that_has_no_place_is_found_before_the_run(target, options, says, tmp_path, capsys, monkeypatch):
    if "--junit" in options and target == ["--all"]:
        options = ["--html", *options[1:]] if options[0] == "--junit" else [*options[:2], "--html", options[3]]
        says = says.replace("--junit", "--html")
    monkeypatch.chdir(tmp_path)
    os.symlink("x", "link")
    monkeypatch.setattr("refattn.testing.checking.run_case", lambda *given: pytest.fail("it ran"))
    monkeypatch.setattr("refattn.testing.everything.check_all", lambda *given: pytest.fail("it ran"))
    assert main(["check", *target, *options]) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert said.err.count("\n") == 1
    assert os.listdir() == ["link"], "nothing was written to try"


def test_places_that_can_be_written_are_let_be(tmp_path):
    (tmp_path / "old").write_text("kept")
    console.check_places(
        {"--json": str(tmp_path / "old"), "--html": str(tmp_path / "new"), "--junit": "-", "--save": None}
    )
    assert os.listdir(tmp_path) == ["old"]
    assert (tmp_path / "old").read_text() == "kept"


@posix
def test_a_full_disk_loses_no_other_report(tmp_path, capsys):
    """The text and the other files are still written; the code says that something is missing."""
    page = tmp_path / "report.html"
    assert main(["check", *SOFTMAX, "--json", "/dev/full", "--html", str(page)]) == 2
    said = capsys.readouterr()
    assert said.err == "refattn: --json could not be written to /dev/full: No space left on device\n"
    assert "CONFORMS" in said.out
    assert page.read_text().endswith("</html>\n")
    assert main(["replay", "softmax.rows.0001.float32", *SOFTMAX[:3], "--save", "/dev/full"]) == 2
    assert "--save could not be written to /dev/full: No space" in capsys.readouterr().err


def shell(line, **options):
    command = f"{sys.executable} -m refattn.cli"
    line = line.replace("refattn ", f"{command} ")
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, **options)


@posix
@pytest.mark.parametrize(
    "line, code, says",
    [
        ("refattn list clauses > /dev/full", 2, "refattn: standard output cannot be written: No space left on device\n"),
        ("refattn --help > /dev/full", 2, "refattn: standard output cannot be written: No space left on device\n"),
        ("refattn show causal >&- 2>&- && refattn nonsense >&- 2>&-", 2, ""),
        ("refattn list clauses | (exec 0<&-; sleep 0); exit ${PIPESTATUS[0]}", 0, ""),
        ("mkdir gone && cd gone && rmdir ../gone && refattn show causal --size 1 1 2> ../said; code=$?; cd ..;"
         " grep Traceback said >&2; exit $code", 0, ""),
        ("LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 refattn show softmax", 0, ""),
    ],
)  # fmt: skip
def test_as_a_shell_sees_it(line, code, says, tmp_path):
    done = shell(line, cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert (done.returncode, done.stderr) == (code, says)


@posix
def test_a_reader_that_leaves_early_does_not_change_the_verdict(tmp_path):
    line = f"refattn check tests.test_console:raises {' '.join(SOFTMAX[1:])} | (exec 0<&-; sleep 0); exit ${{PIPESTATUS[0]}}"
    done = shell(line)
    assert (done.returncode, done.stderr) == (1, "")


def test_without_docstrings_everything_still_works():
    """python -OO drops them, and asserts."""
    code = """
from refattn.cli import main
codes = [main(words) for words in (["list", "variants"], ["list", "functions"], ["list", "masks"], ["show", "rope"],
    ["show", "causal/top_left"], ["check", "refattn:softmax", "--function", "softmax", "--effort", "smoke"])]
if any(codes): raise SystemExit(f"codes {codes}")
"""
    done = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "CONFORMS" in done.stdout
