"""A kernel that is no Python: the C example conforms, its bug is named, and whatever a process may do gets a verdict."""

import json
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

import refattn
from refattn import masks
from refattn.cli import main
from refattn.testing import adapters, checking
from refattn.testing.adapters import Failed, Unsupported
from refattn.testing.adapters.line_protocol import PROTOCOL, LineAdapter

EXAMPLE = Path(__file__).parents[2] / "examples" / "line_protocol" / "attention.c"
CC = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")

needs_compiler = pytest.mark.skipif(CC is None, reason="no C compiler")


@pytest.fixture(scope="module")
def attention_c(tmp_path_factory):
    """The example, built by the line that it gives."""
    line = next(line for line in EXAMPLE.read_text().splitlines() if line.startswith(" *     cc "))
    folder = tmp_path_factory.mktemp("c")
    words = [str(EXAMPLE) if word == EXAMPLE.name else word for word in line.removeprefix(" *     cc ").split()]
    done = subprocess.run([CC, *words, "-Werror"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "attention"


@needs_compiler
def test_the_c_example_conforms(attention_c):
    report = checking.check(f"exec:{attention_c}", effort="smoke")
    assert report.ok
    assert report.count("broken") == 0
    assert report.count("holds") > 150
    assert {r.reason for r in report.results if r.status == "unsupported"} == {"no dropout"}
    assert report.target == f"exec:{attention_c}"
    assert report.environment["protocol"] == PROTOCOL


@needs_compiler
def test_the_bug_of_the_c_example_is_named(attention_c):
    report = checking.check(f"exec:{attention_c} --bug top_left", effort="smoke", only="*attention.causal*")
    assert not report.ok
    assert {deviation for _, deviation in report.deviations("broken")} == {"causal/top_left"}


@needs_compiler
def test_the_c_example_by_its_command(attention_c, capsys):
    assert main(["check", f"exec:{attention_c}", "--effort", "smoke", "--case", "attention.window*"]) == 0
    assert (
        main(["check", f"exec:{attention_c} --bug top_left", "--effort", "smoke", "--case", "attention.causal_wide*"])
        == 1
    )
    assert "causal/top_left" in capsys.readouterr().out
    assert main(["check", f"exec:{attention_c} --nonsense"]) == 2
    assert "exit code 2" in capsys.readouterr().err


# --- what a process may do ------------------------------------------------------------------------------------------

HELLO = {"protocol": PROTOCOL, "dtypes": {"float32": "float32"}}
KERNEL = """
import json, os, signal, sys, time
import numpy as np
sys.path.insert(0, {root!r})
say = lambda x: print(x if isinstance(x, str) else json.dumps(x), flush=True)
say({hello!r} if isinstance({hello!r}, str) else json.loads({text!r}))
WIDTH = {{"float32": "<f4", "float64": "<f8", "float16": "<f2", "bool": "|b1", "bfloat16": "<u2", "int64": "<i8"}}
def read(case):
    place = os.path.dirname(case)
    whole = json.load(open(case))
    arrays = {{}}
    for name, x in whole["arguments"].items():
        if isinstance(x, dict):
            x = np.fromfile(os.path.join(place, x["file"]), WIDTH[x["dtype"]]).reshape(x["shape"])
        arrays[name] = x
    return place, whole, arrays
def write(place, dtype="float32", **results):
    records = {{}}
    for name, x in results.items():
        x.astype(WIDTH[dtype]).tofile(os.path.join(place, name + ".bin"))
        records[name] = {{"dtype": dtype, "shape": list(x.shape), "file": name + ".bin"}}
    with open(os.path.join(place, "results.json"), "w") as file:
        json.dump({{"results": records}}, file)
    say({{"out": "results.json"}})
for line in sys.stdin:
    case = json.loads(line)["case"]
    place, whole, given = read(case)
{body}
"""


def kernel(tmp_path, body, hello=HELLO, **options):
    """An adapter of a kernel in Python that does for each case what `body` says."""
    script = tmp_path / "kernel.py"
    script.write_text(
        KERNEL.format(
            root=str(Path(refattn.__file__).parents[1]),
            hello=hello,
            text=json.dumps(hello),
            body=textwrap.indent(textwrap.dedent(body), "    "),
        )
    )
    return LineAdapter([sys.executable, str(script)], **{"timeout": 20.0, **options})


def ask(adapter, function="attention", **options):
    q, k, v = (np.random.default_rng(0).normal(size=(2, 3, n, 4)).astype(np.float32) for n in (5, 7, 7))
    return adapter.functions[function](q, k, v, **options)


OUT = "np.zeros(whole['arguments']['q']['shape'], np.float32)"


@pytest.mark.parametrize(
    "body, deviation, says",
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "crashes", "SIGSEGV"),
        ("sys.stderr.write('no memory left'); sys.exit(3)", "crashes", "exit code 3.*no memory left"),
        ("os.close(1); time.sleep(60)", "crashes", "closed its output|SIGKILL"),
        ("say('hello there')", "garbage", "hello there"),
        ("say('[1, 2]')", "garbage", "no JSON object"),
        ("say({})", "garbage", "one of out, unsupported and error"),
        ("say({'out': 'x', 'error': 'y'})", "garbage", "one of out"),
        ("sys.stdout.write('x' * 200000); sys.stdout.flush()", "garbage", "xxx"),
        ("sys.stdout.buffer.write(b'\\xff\\xfe\\n'); sys.stdout.flush()", "garbage", "JSON"),
        ("say({'out': 'nowhere.json'})", "result is missing", "nowhere.json.*No such file"),
        ("say({'out': case})", "garbage", "no object 'results'"),
        ("open(place + '/r', 'w').write('{'); say({'out': 'r'})", "garbage", "no JSON"),
        (f"write(place, lse={OUT})", "result is missing", "no out"),
        (f"write(place, 'float16', out={OUT})", "wrong dtype", "'float16'"),
        ("json.dump({'results': {'out': {'dtype': 'float32', 'shape': [2, 3, 5, 4], 'file': 'q.bin'}}},"
         " open(place + '/r', 'w')); say({'out': 'r'})", None, ""),
        ("json.dump({'results': {'out': {'dtype': 'float32', 'shape': [2, 3, 5, 5], 'file': 'q.bin'}}},"
         " open(place + '/r', 'w')); say({'out': 'r'})", "wrong size", "480 bytes.*600"),
        ("json.dump({'results': {'out': {'dtype': 'float32', 'shape': [-1], 'file': 'q.bin'}}},"
         " open(place + '/r', 'w')); say({'out': 'r'})", "garbage", "shape"),
        ("json.dump({'results': {'out': [1.0]}}, open(place + '/r', 'w')); say({'out': 'r'})", "garbage", "dtype, shape"),
    ],
)  # fmt: skip
def test_whatever_it_does_instead_of_an_answer_is_a_verdict(tmp_path, body, deviation, says):
    adapter = kernel(tmp_path, body)
    if deviation is None:
        ask(adapter)
        return
    with pytest.raises(Failed, match=says) as failure:
        ask(adapter)
    assert failure.value.deviation == deviation
    with pytest.raises(Failed):  # the next case starts it again
        ask(adapter)


def test_a_kernel_that_hangs_is_ended_and_given_up_after_three_times(tmp_path):
    adapter = kernel(tmp_path, "time.sleep(60)", timeout=10.0)
    adapter._kernel.timeout = 1.0  # long enough to start
    started = time.monotonic()
    for _ in range(20):
        with pytest.raises(Failed) as failure:
            ask(adapter)
        assert failure.value.deviation == "hangs"
    assert "not asked" in str(failure.value)
    assert time.monotonic() - started < 20


def test_a_crash_is_no_refusal(tmp_path):
    """What must be refused must be refused: by an error, or not at all."""
    dying = kernel(tmp_path, "os.kill(os.getpid(), signal.SIGABRT)")
    report = checking.check(dying, only="attention.refuse.0001*")
    assert [r.deviation for r in report.results] == ["crashes"]
    assert "SIGABRT" in report.results[0].message
    polite = kernel(tmp_path, "say({'error': 'q and k differ'})")
    assert checking.check(polite, only="attention.refuse.0001*").ok
    wrong = checking.check(polite, only="attention.basic.0001*").results
    assert [r.deviation for r in wrong] == ["refuses valid input"]
    assert "q and k differ" in wrong[0].message


def test_what_it_has_not_is_unsupported(tmp_path):
    with pytest.raises(Unsupported, match="no float today"):
        ask(kernel(tmp_path, "say({'unsupported': 'no float today'})"))


def test_a_wrong_shape_and_a_kernel_that_talks_too_much(tmp_path):
    narrow = kernel(tmp_path, f"write(place, out={OUT}[..., :2])")
    assert {r.deviation for r in checking.check(narrow, only="attention.wide.float32").results} == {"wrong shape"}
    talker = kernel(tmp_path, f"write(place, out={OUT}); say('done')")
    ask(talker)
    time.sleep(0.2)
    with pytest.raises(Failed, match="without being asked"):
        ask(talker)


@pytest.mark.parametrize(
    "hello, says",
    [
        ({**HELLO, "protocol": "refattn-line/2"}, "refattn-line/2"),
        ({"dtypes": {"float32": "float32"}}, "says None"),
        ({"protocol": PROTOCOL}, "'dtypes' must say"),
        ({**HELLO, "dtypes": {"float31": "float32"}}, "float31"),
        ({**HELLO, "dtypes": {"float32": "exact"}}, "exact"),
        ({**HELLO, "layout": "nhbd"}, "nhbd"),
        ({**HELLO, "native": ["softcap"]}, "softcap"),
        ({**HELLO, "functions": ["atention"]}, "atention"),
        ("usage: kernel FILE", "usage: kernel FILE"),
    ],
)
def test_who_does_not_introduce_itself_is_not_checked(tmp_path, hello, says):
    with pytest.raises(ValueError, match=says):
        kernel(tmp_path, "pass", hello=hello)


@pytest.mark.parametrize("command", ["", "/nowhere/kernel", "/"])
def test_what_cannot_be_run(command, capsys):
    with pytest.raises(ValueError, match=r"cannot be run: (it names no program|No such file|Permission denied)"):
        adapters.get(f"exec:{command}")
    assert main(["check", f"exec:{command}"]) == 2
    assert "cannot be run" in capsys.readouterr().err


REFERENCE = """
import refattn
from refattn import masks
swap = lambda x: np.swapaxes(x, 1, 2) if SWAP else x
wide = lambda x: ((x.astype(np.uint32) << 16).view(np.float32) if x.dtype == np.uint16 else x).astype(np.float64)
options = {n: (wide(x) if isinstance(x, np.ndarray) and x.dtype != bool else x) for n, x in given.items()}
q, k, v = (swap(options.pop(n)) for n in "qkv")
allowed = options.pop("mask", None)
rule = None
if options.pop("causal", False):
    rule = masks.causal()
if "window" in options:
    own = masks.window(*options.pop("window"))
    rule = own if rule is None else rule & own
if rule is not None:
    dense = rule.dense(q.shape[-2], k.shape[-2])
    allowed = dense if allowed is None else allowed & dense
if "dropout_keep" in options:
    options["dropout"] = (options.pop("dropout_keep"), options.pop("dropout_rate"))
options["return_lse"] = True
out, lse = getattr(refattn, whole["function"])(q, k, v, allowed, **options)
write(place, "float64", out=swap(out), lse=lse)
"""


# By the number of rules that the kernel has flags for: every option in the one, every mask and position in the other.
ONE_OF_EACH = {0: "*attention.[bdos]*000[1-3].*", 2: "*attention.[clmw]*000[1-3].*"}


@pytest.mark.parametrize("layout", ["bhnd", "bnhd"])
@pytest.mark.parametrize("native", [[], ["causal", "window"]])
def test_every_argument_arrives_in_every_layout_and_dtype(tmp_path, layout, native):
    """The reference itself, at the other end of the pipes, conforms."""
    dtypes = {"float32": "float32", "float64": "float64", "bfloat16": "bfloat16", "float16": "float16"}
    hello = {
        "protocol": PROTOCOL, "name": "reference", "version": "1", "layout": layout, "native": native,
        "functions": ["attention", "grouped_query_attention"], "dtypes": dtypes,
    }  # fmt: skip
    adapter = kernel(tmp_path, f"SWAP = {layout == 'bnhd'}\n{REFERENCE}", hello=hello)
    assert adapter.version == "reference 1"
    report = checking.check(adapter, only=ONE_OF_EACH[len(native)])
    wrong = [(r.case.id, r.message) for r in report.results if r.status == "broken" and not r.case.refuses]
    assert not wrong
    assert report.count("unsupported") == 0
    assert {r.case.dtype for r in report.results} == set(dtypes)


def test_other_functions_and_their_arguments(tmp_path):
    hello = {**HELLO, "functions": ["softmax", "layer_norm", "relu"]}
    body = """
    import refattn
    options = {n: tuple(x) if isinstance(x, list) else x for n, x in given.items()}
    if whole["function"] == "layer_norm":
        options.setdefault("gamma", None)  # what is None is left out
    write(place, out=getattr(refattn, whole["function"])(**options))
    """
    adapter = kernel(tmp_path, body, hello=hello)
    report = checking.check(adapter, effort="smoke")
    assert not [(r.case.id, r.message) for r in report.results if r.status == "broken" and not r.case.refuses]
    x = np.arange(6, dtype=np.float32).reshape(2, 3) - 2
    assert np.array_equal(adapter.functions["relu"](x), refattn.relu(x))


def test_a_precision_given_overrides_the_kernels_own(tmp_path):
    adapter = kernel(tmp_path, "pass", precision="bfloat16")
    assert adapter.dtypes("attention") == ("bfloat16",)
    assert adapter.profile("attention", "bfloat16") == "bfloat16"


def test_rules_that_it_has_no_flag_for_arrive_as_arrays(tmp_path):
    body = "say({'unsupported': ' '.join(sorted(n for n in given if n not in 'qkv'))})"
    q, k, v = (np.zeros((1, 1, 4, 2), dtype=np.float32) for _ in range(3))
    for native, mask, names in (
        ([], masks.causal(), "mask"),
        (["causal"], masks.causal(), "causal"),
        (["causal"], masks.causal() & masks.window(1, 0), "causal mask"),
        (["causal", "window"], masks.causal() & masks.window(1, 0), "causal window"),
        (["causal", "window"], masks.causal() & masks.padding(3), "causal mask"),
    ):
        adapter = kernel(tmp_path, body, hello={**HELLO, "native": native})
        with pytest.raises(Unsupported, match=f"^{names}$"):
            adapter.functions["attention"](q, k, v, mask)
