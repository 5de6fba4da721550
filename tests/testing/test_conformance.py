"""The suite that runs in somebody else's CI, as they run it: another folder, another process, one line."""

import datetime
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KERNELS = """
import numpy as np
import refattn
from refattn import masks

def right(q, k, v, mask=None, **options):
    return refattn.grouped_query_attention(q, k, v, mask, **options) if q.ndim > 2 else refattn.attention(q, k, v, mask, **options)

def plain(q, k, v, mask=None, *, scale=None):
    if mask is not None and getattr(mask, "name", "") != "causal":
        raise NotImplementedError("masks other than causal()")
    return refattn.attention(q, k, v, mask, scale=scale)

def top_left(q, k, v, mask=None, *, scale=None):
    if mask is not None and getattr(mask, "name", "") != "causal":
        raise NotImplementedError("masks other than causal()")
    positions = None if mask is None else np.arange(q.shape[-2])
    return refattn.attention(q, k, v, mask, scale=scale, q_positions=positions)

def nothing(q, k, v, mask=None):
    raise NotImplementedError("not written yet")

def refuses_all(q, k, v, mask=None, **options):
    right(q, k, v, mask, **options)
    raise NotImplementedError("not written yet")

def silent(q, k, v, mask=None, **options):
    return None

def lazy(q, k, v, mask=None, **options):
    if mask is not None:
        import not_installed_anywhere
    return right(q, k, v, mask, **options)

def ends(q, k, v, mask=None, **options):
    raise SystemExit(0)

def small(x, *, axis=-1):
    if x.shape != (2, 2):
        raise NotImplementedError("another size")
    return refattn.softmax(x, axis=axis)

calls = []

def tired(x, axis=-1, where=None):
    calls.append(1)
    if len(calls) % 3 == 0:
        raise NotImplementedError("tired")
    return refattn.softmax(x, axis, where)

def softmax(x, *, axis=-1):
    return refattn.softmax(x, axis=axis)

def ends_at_other_sizes(x, gamma, *, eps=1e-6):
    if x.shape[-1] != 80:
        raise SystemExit(0)
    return refattn.rms_norm(x, gamma)
"""
FEW = ("--refattn-effort", "smoke")


def run(folder, *arguments, plugin=True):
    """pytest in another folder, with the plugin but without anything of this project's configuration."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(["-p", "refattn_pytest"] * plugin)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "NO_COLOR": "1"}
    for name in ("PYTEST_ADDOPTS", "CI", "BUILD_NUMBER"):  # with the last two pytest repeats whole messages at the end
        environment.pop(name, None)
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=folder, env=environment
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def judge(tmp_path):
    (tmp_path / "kernels.py").write_text(KERNELS)
    (tmp_path / "raising.py").write_text("1 / 0")

    def judge(name, *arguments):
        return run(tmp_path, "--pyargs", "refattn.conformance", "--refattn-impl", f"kernels:{name}", *arguments)

    judge.folder = tmp_path
    return judge


def counts(output):
    last = output.strip().splitlines()[-1]
    return {what: int(number) for number, what in re.findall(r"(\d+) (passed|failed|skipped|xfailed|error)", last)}


def test_a_kernel_that_is_right_conforms(judge):
    code, output = judge("right", *FEW)
    assert code == 0, output
    assert "CONFORMS: " in output
    assert counts(output)["passed"] > 100
    assert "skipped" not in counts(output)


def test_what_there_was_no_time_for_is_skipped_and_said(judge):
    of_softmax = ("--refattn-function", "softmax", "-rs")
    code, output = judge("softmax", *of_softmax, "--refattn-time", "0.000001")
    assert code == 1
    assert "not asked: the time was over (--refattn-time 1e-06)" in output
    assert "NOTHING WAS CHECKED" in output
    assert re.search(r"not asked, for the time was over \(--refattn-time 1e-06\): \d+ golden cases", output)
    assert "not asked" not in judge("softmax", *of_softmax, *FEW, "--refattn-time", "600")[1]
    assert "it must be a number above 0" in judge("softmax", "--refattn-time", "0")[1]


def test_what_is_refused_at_random_fails(judge):
    code, output = judge("tired", "--refattn-function", "softmax", *FEW)
    assert code == 1
    assert "refuses at random (breaks BACKEND-PURE)" in output


def test_a_wrong_kernel_is_told_what_is_wrong_without_a_traceback(judge):
    code, output = judge("top_left", "--refattn-clause", "ATTN-ALIGN")
    assert code == 1
    assert "this does: causal/top_left (clause ATTN-ALIGN)" in output
    assert "Seen in: torch scaled_dot_product_attention(is_causal=True)" in output
    assert not re.search(r"Traceback|\.py:\d+|^E  |^>", output, re.M), output
    summary = output[output.index("refattn: kernels:top_left") :]
    assert re.search(r"causal/top_left \(breaks ATTN-ALIGN\): \d+ cases", summary)
    assert output.count("Seen in:") == 1, "the second case of the same deviation refers to the first"
    assert "Inputs: q " in output
    assert "return_lse" not in output, "the inputs are those that it was given"


def test_the_printed_command_shows_the_failure_again(judge):
    _, output = judge("top_left", "--refattn-clause", "ATTN-ALIGN", "--refattn-seed", "3")
    command = shlex.split(re.search(r"^Again: refattn (.*)", output, re.M).group(1))
    done = subprocess.run(
        [sys.executable, "-m", "refattn.cli", *command],
        capture_output=True, text=True, check=False, cwd=judge.folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "causal/top_left" in done.stdout


def test_inside_stated_limits_it_is_judged_and_beyond_them_not_called(judge):
    of_norm = ("--refattn-function", "rms_norm", "--refattn-limits", "E == 80; no eps")
    code, output = judge("ends_at_other_sizes", *of_norm, "-k", "inside_")
    assert code == 0, output
    assert counts(output)["passed"] >= 10
    assert "beyond its stated limits" in judge("ends_at_other_sizes", *of_norm, *FEW, "-rs")[1]


def test_the_printed_command_has_the_stated_limits(judge):
    of_norm = ("--refattn-function", "rms_norm", "--refattn-limits", "E == 80")
    _, output = judge("ends_at_other_sizes", *of_norm, "-k", "inside_")
    command = shlex.split(re.search(r"^Again: refattn (.*)", output, re.M).group(1))
    assert command[command.index("--limits") + 1] == "E == 80"


def test_tests_are_chosen_by_clause(judge):
    by_keyword = counts(judge("plain", *FEW, "-k", "ATTN-ALIGN")[1])
    by_clause = counts(judge("plain", *FEW, "--refattn-clause", "ATTN-AL*")[1])
    assert by_keyword == by_clause
    assert by_clause["passed"] > 3
    code, output = run(
        judge.folder, "--pyargs", "refattn.conformance::ATTN-SCALE", "--refattn-impl", "kernels:plain", *FEW, "-vv"
    )
    assert code == 0
    assert set(re.findall(r"^refattn\.conformance::([A-Z-]+)::", output, re.M)) == {"ATTN-SCALE"}


def test_what_is_not_supported_is_skipped_with_its_reason(judge):
    code, output = judge("plain", "--refattn-clause", "ATTN-B*", "--refattn-clause", "ATTN-OUT", "-rs")
    assert code == 0
    assert "not supported: it takes no bias" in output
    assert "not supported: masks other than causal()" in output
    assert counts(output)["skipped"] > 0


def test_right_refusals_alone_are_no_conformance(judge):
    code, output = judge("refuses_all")
    assert code == 1
    assert "NOTHING WAS CHECKED" in output
    assert counts(output)["passed"] > 2


def test_a_run_in_which_nothing_was_judged_fails(judge):
    code, output = judge("nothing", *FEW)
    assert code == 1
    assert "NOTHING WAS CHECKED" in output
    assert set(counts(output)) == {"skipped"}


def test_a_result_of_the_wrong_kind_is_a_failure_and_no_crash(judge):
    code, output = judge("silent", "--refattn-clause", "ATTN-VALUES")
    assert code == 1
    assert "NoneType" in output
    assert "Traceback" not in output


def test_what_could_not_be_judged_fails_and_says_so(judge):
    code, output = judge("lazy", "--refattn-clause", "ATTN-ALIGN")
    assert code == 1
    assert "could not be judged: ModuleNotFoundError: No module named 'not_installed_anywhere'" in output
    assert re.search(
        r"COULD NOT BE JUDGED: \d+ hold, 0 broken, 0 known, 0 not supported, \d+ could not be judged", output
    )


def test_a_kernel_that_ends_the_process_does_not_end_the_run(judge):
    code, output = judge("ends", "--refattn-clause", "ATTN-VALUES")
    assert code == 1
    assert "exits (breaks ATTN-VALUES)" in output


ENTRY = """
[[allow]]
target = "kernels:{kernel}"
function = "attention"
deviation = "causal/top_left"
reason = "as the paper has it"
until = {until}
"""


def entry(folder, kernel, until="2099-01-01"):
    path = folder / "known.toml"
    path.write_text(ENTRY.format(kernel=kernel, until=until))
    return path


def test_a_known_deviation_is_expected_to_fail(judge):
    code, output = judge("top_left", "--refattn-allow", entry(judge.folder, "top_left"), "-rx")
    assert code == 0, output
    assert "causal/top_left: as the paper has it" in output
    assert counts(output)["xfailed"] > 3


def test_an_entry_that_nothing_needs_is_a_failure(judge):
    code, output = judge("plain", "--refattn-allow", entry(judge.folder, "plain"))
    assert code == 1
    assert counts(output)["failed"] == 1
    assert "shows it any longer: the entry can go" in output


def test_entries_that_do_not_count_here_are_told(judge):
    known = entry(judge.folder, "top_left")
    known.write_text(known.read_text() + 'versions = ["9.9"]\n')
    code, output = judge("top_left", "--refattn-allow", known, "--refattn-clause", "ATTN-ALIGN")
    assert code == 1
    assert "1 entry of the allow-list for 9.9, not for this release: left out" in output
    code, output = judge("plain", "--refattn-allow", known, "--refattn-clause", "ATTN-ALIGN")
    assert code == 0
    assert "the allow-list has no entry for kernels:plain; it is for kernels:top_left" in output


def test_an_entry_that_has_ended_no_longer_counts(judge):
    yesterday = datetime.date.today() - datetime.timedelta(days=1)
    code, output = judge("top_left", *FEW, "--refattn-allow", entry(judge.folder, "top_left", yesterday))
    assert code == 1
    assert f"this entry ended on {yesterday}" in output
    assert counts(output)["failed"] > 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "nothing to judge: give --refattn-impl module:function"),
        (["--refattn-impl", "absent:kernel"], "there is no module 'absent'"),
        (["--refattn-impl", "raising:kernel"], "importing raising fails: ZeroDivisionError"),
        (["--refattn-impl", "kernels:np"], "it must be a function"),
        (["--refattn-impl", "kernels:absent"], "has no attribute 'absent'"),
        (["--refattn-impl", "kernels"], "module:function"),
        (["--refattn-impl", "kernels:right", "--refattn-precision", "float12"], "float12"),
        (["--refattn-impl", "kernels:right", "--refattn-function", "attentoin"], "attentoin"),
        (["--refattn-impl", "kernels:right", "--refattn-clause", "NO-SUCH*"], "NO-SUCH*"),
        (["--refattn-impl", "kernels:right", "--refattn-limits", "Q in 64"], "--refattn-limits: limits has 'Q in 64'"),
        (["--refattn-impl", "kernels:right", "--refattn-allow", "absent.toml"], "absent.toml"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_4(judge, arguments, says):
    code, output = run(judge.folder, "--pyargs", "refattn.conformance", *arguments)
    assert code == 4, output
    (line,) = (line for line in output.splitlines() if line.startswith("ERROR"))
    assert says in line
    assert "Traceback" not in output


def test_it_runs_in_parallel_and_sums_up_once(judge):
    one, output = judge("top_left", *FEW, "--refattn-clause", "ATTN-ALIGN")
    two, parallel = judge("top_left", *FEW, "--refattn-clause", "ATTN-ALIGN", "-n", "2")
    assert (one, counts(output)) == (two, counts(parallel))
    assert parallel.count("causal/top_left (breaks ATTN-ALIGN): ") == 1
    assert "NONCONFORMING" in parallel


def test_unused_the_plugin_costs_nothing(tmp_path):
    (tmp_path / "test_nothing.py").write_text(
        "import sys\ndef test_nothing():\n"
        "    loaded = {name for name in sys.modules if name.split('.')[0] in ('refattn', 'numpy', 'scipy', 'hypothesis')}\n"
        "    assert not loaded\n    assert 'refattn_pytest' in sys.modules\n"
    )
    code, output = run(tmp_path)
    assert code == 0, output


FIXTURES = """
import numpy as np
import refattn
from kernels import plain, top_left

def test_right(refattn_check, refattn_matches):
    assert refattn_check(plain).ok
    q, k, v = np.ones((3, 2, 4), dtype=np.float32)
    refattn_matches(plain(q, k, v), refattn.attention, q, k, v)

def test_wrong(refattn_check):
    refattn_check(top_left)

def test_wrong_numbers(refattn_matches):
    q, k, v = np.eye(4, dtype=np.float32)[None].repeat(3, 0)
    refattn_matches(plain(q, k, v, scale=1.0), refattn.attention, q, k, v)
"""


def test_the_fixtures_say_what_the_kit_says(judge):
    (judge.folder / "test_mine.py").write_text(FIXTURES)
    code, output = run(judge.folder, "--refattn-effort", "smoke")
    assert code == 1
    assert counts(output) == {"failed": 2, "passed": 1}
    assert "causal/top_left in attention" in output
    assert "scale/" in output
    assert not re.search(r"Traceback|^E  |^>", output, re.M), output


def test_importing_the_kit_loads_neither_pytest_nor_hypothesis_nor_what_few_checks_need():
    """scipy.special takes longer than all the rest."""
    code = """
import importlib, pkgutil, sys, refattn.testing
for module in pkgutil.walk_packages(refattn.testing.__path__, "refattn.testing."):
    if ".adapters." not in module.name and module.name != "refattn.testing.strategies":
        importlib.import_module(module.name)
sys.exit(bool({"pytest", "hypothesis", "_pytest", "scipy"} & set(sys.modules)))
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("parallel", [[], ["-n", "2"]])
def test_a_run_that_would_have_shown_too_few_known_mistakes_is_weak(judge, parallel):
    if parallel:
        pytest.importorskip("xdist")
    of_softmax = ["--refattn-function", "softmax", *parallel]
    code, output = judge("small", *of_softmax)
    assert code == 1
    assert re.search(r"^WEAK: 2 hold, .*; \d of \d+ known mistakes excluded$", output, re.MULTILINE)
    assert "not excluded, softmax: " in output
    code, output = judge("softmax", *of_softmax)
    assert code == 0
    assert re.search(r"^CONFORMS: .*; (\d+) of \1 known mistakes excluded$", output, re.MULTILINE)


def test_a_weak_run_may_be_known_or_allowed(judge):
    of_softmax = ["--refattn-function", "softmax"]
    assert judge("small", *of_softmax, "--refattn-at-least", "0")[0] == 0
    assert judge("small", *of_softmax, "--refattn-clause", "SOFTMAX-NORMAL")[0] == 0
    entry = '[[allow]]\ntarget = "kernels:{}"\nfunction = "softmax"\ndeviation = "coverage/weak"\n'
    entry += 'reason = "2 by 2"\nuntil = 2999-01-01\n'
    known = judge.folder / "known.toml"
    known.write_text(entry.format("small"))
    code, output = judge("small", *of_softmax, "--refattn-allow", known)
    assert code == 0, output
    assert "(known: 2 by 2)" in output
    known.write_text(entry.format("softmax"))
    code, output = judge("softmax", *of_softmax, "--refattn-allow", known)
    assert code == 1
    assert "the entry can go" in output
