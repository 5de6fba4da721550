"""Programs that mean no good: each gets a verdict with a sentence, in time, and nothing outside its folder is read."""

import contextlib
import json
import os
import resource
import sys
import textwrap
import time

import numpy as np
import pytest

from refattn.cli import main
from refattn.testing import checking
from refattn.testing.adapters import Failed, Unsupported
from refattn.testing.adapters.line_protocol import PROTOCOL, LineAdapter

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes, links and groups of processes as POSIX has them")

HELLO = {"protocol": PROTOCOL, "dtypes": {"float32": "float32"}}
SCRIPT = """
import json, os, subprocess, sys, time
say = lambda x: print(x if isinstance(x, str) else json.dumps(x), flush=True)
HELLO = {hello!r}
{before}
say(HELLO)
for line in sys.stdin:
    case = json.loads(line)["case"]
    place = os.path.dirname(case)
    def results(text, name="r"):
        with open(os.path.join(place, name), "w") as file:
            file.write(text if isinstance(text, str) else json.dumps({{"results": text}}))
        say({{"out": name}})
    def out(**changed):
        results({{"out": {{"dtype": "float32", "shape": [1, 2, 5, 4], "file": "q.bin", **changed}}}})
{body}
"""


def command(tmp_path, body="pass", before="", hello=HELLO):
    script = tmp_path / "kernel.py"
    body = textwrap.indent(textwrap.dedent(body), "    ")
    script.write_text(SCRIPT.format(hello=json.dumps(hello), before=textwrap.dedent(before), body=body))
    return [sys.executable, "-S", str(script)]


def ask(adapter):
    q, k, v = (np.arange(2.0 * n * 4, dtype=np.float32).reshape(2, n, 4) for n in (5, 7, 7))
    return adapter.functions["attention"](q, k, v)


@pytest.fixture
def secret(tmp_path):
    """A file that is nobody's business, of the size that a result would have."""
    path = tmp_path / "secret.bin"
    path.write_bytes(b"\0" * 160)
    return path


def test_the_kernel_of_these_tests_can_answer(tmp_path):
    adapter = LineAdapter(command(tmp_path, "out()"), timeout=10.0)
    assert ask(adapter).shape == (2, 5, 4)
    adapter._kernel.stop()


OUTSIDE = "not in the folder"


@pytest.mark.parametrize(
    "body, deviation, says",
    [
        ("say({'out': '/etc/passwd'})", "garbage", OUTSIDE),
        ("say({'out': '../../../../../../etc/passwd'})", "garbage", OUTSIDE),
        ("say({'out': '/dev/zero'})", "garbage", OUTSIDE),
        ("say({'out': '.'})", "garbage", OUTSIDE),
        ("say({'out': ''})", "garbage", OUTSIDE),
        ("say({'out': place + '-other/x'})", "garbage", OUTSIDE),
        ("os.symlink('/dev/zero', place + '/z'); say({'out': 'z'})", "garbage", OUTSIDE),
        ("os.symlink('loop', place + '/loop'); say({'out': 'loop'})", "result is missing", "symbolic links"),
        ("os.mkdir(place + '/d'); say({'out': 'd'})", "garbage", "no plain file"),
        ("os.mkfifo(place + '/f'); say({'out': 'f'})", "garbage", "no plain file"),
        ("say({'out': 'a\\0b'})", "garbage", "no path"),
        ("say('{\"out\": \"\\\\ud800\"}')", "garbage", "no path"),
        ("say({'out': 'x' * 5000})", "result is missing", "too long"),
        ("say({'out': ['r']})", "garbage", r"out is \['r'\]; it must be a text"),
        ("say({'error': {'a': 1}})", "garbage", "error is {'a': 1}; it must be a text"),
        ("say({'unsupported': None})", "garbage", "unsupported is None"),
        ("out(file=SECRET)", "garbage", OUTSIDE),
        ("out(file='../' * 20 + SECRET)", "garbage", OUTSIDE),
        ("os.symlink(SECRET, place + '/s'); out(file='s')", "garbage", OUTSIDE),
        ("os.symlink(os.path.dirname(SECRET), place + '/d'); out(file='d/secret.bin')", "garbage", OUTSIDE),
        ("os.mkfifo(place + '/f'); out(file='f', shape=[0])", "garbage", "no plain file"),
        ("out(file='.', shape=[1024])", "garbage", OUTSIDE),
        ("out(file='a\\0b')", "garbage", "no path"),
        ("out(file=3)", "garbage", "file 3; it must be a path"),
        ("out(dtype=['float32'])", "wrong dtype", r"\['float32'\]"),
        ("out(dtype=None)", "wrong dtype", "None"),
        ("out(shape=[True, 1])", "garbage", r"shape \[True, 1\]"),
        ("out(shape=[2.0])", "garbage", r"shape \[2.0\]"),
        ("out(shape='ab')", "garbage", "shape 'ab'"),
        ("out(shape=[0] * 70)", "garbage", "shape"),
        ("out(shape=[2**62, 2**62])", "wrong size", "no result has so many"),
        ("os.truncate(place + '/q.bin', 2**34); out(shape=[2**32])", "wrong size", "no result has so many"),
        ("os.truncate(place + '/q.bin', 2**34); out()", "wrong size", "17179869184 bytes"),
        ("results('['); os.truncate(place + '/r', 2**34)", None, ""),
        ("open(place + '/r', 'w').close(); os.truncate(place + '/r', 2**34); say({'out': 'r'})", "wrong size", "at most"),
        ("out(shape=[0])", "wrong size", "160 bytes"),
        ("open(place + '/e', 'w').close(); out(file='e', shape=[0])", "wrong shape", r"first axes must be \(B, H\)"),
        ("results('[' * 200000)", "garbage", "too deep"),
        ("say('[' * 60000)", "garbage", "too deep"),
        ("results('{\"results\": {\"out\": NaN}}')", "garbage", "NaN is no JSON"),
        ("results('{\"results\": [1]}')", "garbage", "no object 'results'"),
        ("results({'\\x1b[31m': 1})", "garbage", r"\\x1b\[31m"),
        ("results('9' * 5000)", "garbage", "no JSON"),
        ("open(place + '/r', 'wb').write(b'\\xff\\xfe\\0'); say({'out': 'r'})", "garbage", "no JSON"),
        ("import shutil; shutil.rmtree(place); say({'out': 'r'})", "result is missing", "No such file"),
        ("import shutil; shutil.rmtree(place); os.symlink('/etc', place); say({'out': 'passwd'})", "garbage", OUTSIDE),
        ("say('x\\x1b[2J')", "garbage", r"x\\x1b\[2J"),
        ("while True: sys.stdout.write('y' * 65536)", "garbage", "yyy"),
        ("while True: sys.stdout.write('{}' * 5 + chr(10))", "garbage", "no JSON object"),
    ],
)  # fmt: skip
def test_whatever_it_answers_is_a_verdict(tmp_path, secret, body, deviation, says):
    adapter = LineAdapter(command(tmp_path, body.replace("SECRET", repr(str(secret)))), timeout=10.0)
    started = time.monotonic()
    if deviation is not None:
        with pytest.raises(Failed, match=says) as failure:
            ask(adapter)
        assert failure.value.deviation == deviation
        assert len(str(failure.value)) < 600
    assert time.monotonic() - started < 8.0
    adapter._kernel.stop()


@pytest.mark.parametrize(
    "changed, says",
    [
        ({"name": None}, "name is None"),
        ({"version": 3}, "version is 3"),
        ({"functions": "attention"}, "functions is 'attention'"),
        ({"functions": 5}, "functions is 5"),
        ({"functions": []}, "one at least"),
        ({"functions": [["attention"]]}, "functions is"),
        ({"functions": ["attention.__globals__"]}, "no reference function"),
        ({"functions": ["masks.causal"]}, "no reference function"),
        ({"functions": ["testing.replay.save"]}, "no reference function"),
        ({"dtypes": {"float32": ["float32"]}}, r"\['float32'\]; it must be a name"),
        ({"dtypes": "float32"}, "'dtypes' must say"),
        ({"native": 5}, "native is 5"),
        ({"native": "causal"}, "native is 'causal'"),
        ({"native": [["causal"]]}, "native is"),
        ({"layout": ["bhnd"]}, r"layout is \['bhnd'\]"),
        ({"protocol": [PROTOCOL]}, "first line must say the protocol"),
    ],
)
def test_a_hello_of_wrong_kinds_is_refused(tmp_path, changed, says):
    with pytest.raises(ValueError, match=says):
        LineAdapter(command(tmp_path, hello={**HELLO, **changed}), timeout=10.0)


@pytest.mark.parametrize(
    "before, says",
    [
        ("say('[' * 60000)", "too deep"),
        ('HELLO = HELLO.replace(\'float32"}\', \'float32", "float32": "float32"}\')', "stands there twice"),
        ("HELLO = HELLO[:-1] + ', \"x\": NaN}'", "NaN is no JSON"),
        ("HELLO = HELLO[:-1] + ', \"x\": ' + '9' * 10000 + '}'", "no JSON object"),
        ("while True: sys.stdout.write('x' * 65536)", "xxx"),
        ("time.sleep(60)", "no answer within 0.5 s"),
    ],
)
def test_a_hello_that_is_none_is_one_line_and_code_2(tmp_path, before, says, capsys, monkeypatch):
    monkeypatch.setattr("refattn.testing.adapters.line_protocol.TIMEOUT", 20.0)
    words = command(tmp_path, before=before)
    with pytest.raises(ValueError, match=says):
        LineAdapter(words, timeout=0.5 if "0.5" in says else 20.0)
    if "sleep" not in before:
        assert main(["check", f"exec:{' '.join(words)}"]) == 2
        message = capsys.readouterr().err
        assert message.startswith("refattn: ")
        assert message.count("\n") == 1


def test_a_changed_hello_is_no_refusal(tmp_path):
    """It is started again after a crash; a ValueError then would count as 'it refuses, as it must'."""
    before = f"""
    mark = {str(tmp_path / "mark")!r}
    if os.path.exists(mark): HELLO = '{{}}'
    open(mark, "w").close()
    """
    adapter = LineAdapter(command(tmp_path, "os._exit(3)", before=before), timeout=10.0)
    for deviation in ("crashes", "garbage"):
        with pytest.raises(Failed) as failure:
            ask(adapter)
        assert failure.value.deviation == deviation


def test_texts_of_a_kernel_are_plain(tmp_path):
    evil = "\x1b[31m<b>\x00\u202e\ud800"
    plain = r"\x1b[31m<b>\x00\u202e\ud800"
    adapter = LineAdapter(command(tmp_path, f"say(json.dumps({{'error': {evil!r}}}))", hello={**HELLO, "name": evil}))
    assert adapter.version == plain
    with pytest.raises(ValueError) as refused:
        ask(adapter)
    assert str(refused.value) == plain
    adapter._kernel.stop()
    adapter = LineAdapter(command(tmp_path, f"say(json.dumps({{'unsupported': {evil!r} * 1500}}))"))
    with pytest.raises(Unsupported) as missing:
        ask(adapter)
    assert len(str(missing.value)) < 2000
    assert "\x1b" not in str(missing.value)
    adapter._kernel.stop()


def test_who_answers_without_reading_is_found_out(tmp_path):
    """64 KiB of unread questions fill a pipe, and writing to it would wait for ever."""
    adapter = LineAdapter(command(tmp_path, before="say(HELLO)\nwhile True: time.sleep(60)"), timeout=10.0)
    kernel = adapter._kernel
    fill = lambda: [kernel._send(b"x" * 20_000) for _ in range(10)]
    with pytest.raises(Failed, match="without reading"):
        fill()
    assert kernel._running is None


def test_an_endless_standard_error_is_read_and_forgotten(tmp_path):
    body = "for _ in range(500): sys.stderr.write('e' * 65536)\nsys.stderr.write('the end'); sys.stderr.flush(); os._exit(3)"
    adapter = LineAdapter(command(tmp_path, body), timeout=20.0)
    with pytest.raises(Failed, match=r"exit code 3.*the end'$") as failure:
        ask(adapter)
    assert len(str(failure.value)) < 500


def test_its_children_end_with_it(tmp_path):
    mark = tmp_path / "child"
    before = f"""
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    open({str(mark)!r}, "w").write(str(child.pid))
    """
    for body in ("say({'unsupported': 'x'})", "os._exit(1)", "time.sleep(60)"):
        adapter = LineAdapter(command(tmp_path, body, before=before), timeout=1.0)
        with contextlib.suppress(Failed, Unsupported):
            ask(adapter)
        adapter._kernel.stop()
        assert _gone(int(mark.read_text())), body


def _gone(pid):
    for _ in range(100):
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":  # nobody has waited for it
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def test_little_memory_is_used_whatever_comes(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for body in ("say({'out': '/dev/zero'})", "while True: sys.stdout.write('y' * 65536 + chr(10))"):
        adapter = LineAdapter(command(tmp_path, body), timeout=10.0)
        for _ in range(3):
            with pytest.raises(Failed):
                ask(adapter)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB on Linux, less elsewhere


def test_a_report_of_such_a_kernel_is_whole(tmp_path):
    adapter = LineAdapter(command(tmp_path, "os.mkfifo(place + '/f'); say({'out': 'f'})"), timeout=10.0)
    report = checking.check(adapter, effort="smoke", only="attention.causal_wide*")
    assert {(r.status, r.deviation) for r in report.results} == {("broken", "garbage")}
