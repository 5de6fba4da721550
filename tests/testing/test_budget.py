"""A limit of time: what is left out, in which order, and that a report says so. The clock is one that calls of a kernel move."""

import json
import types

import numpy as np
import pytest

import refattn
from refattn import cli
from refattn.testing import budget, check, reports
from refattn.testing.adapters import Adapter
from refattn.testing.adapters.frameworks import FrameworkAdapter
from refattn.testing.budget import is_golden
from refattn.testing.inside import stating

CALL = 0.2  # seconds


@pytest.fixture
def clock(monkeypatch):
    now = types.SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(budget, "time", types.SimpleNamespace(monotonic=lambda: now.seconds))
    return now


@pytest.fixture
def slow(clock):
    """A kernel of RMSNorm that takes 64 entries along the last axis alone, with a wrong epsilon where that is asked for."""

    def kernel(x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
        clock.seconds += CALL
        if x.shape[-1] not in (5, 64):
            raise NotImplementedError("other sizes")
        kernel.calls += 1
        return refattn.rms_norm(x, gamma, eps=eps, axis=axis, unit_offset=unit_offset) * kernel.factor

    kernel.calls, kernel.factor = 0, 1.0
    return kernel


def test_without_a_limit_everything_is_asked_and_a_line_says_how_many_slow_calls_are_to_come(slow, capsys):
    report = check(slow, "rms_norm")
    assert report.ok
    assert report.unasked == []
    assert report.limits
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("refattn: a call takes 0.2 s, and about ")
    count = int(said[0].split("about ")[1].split()[0])
    assert count <= 2 * len(report.results)


def test_nothing_is_said_of_a_quick_kernel(clock, capsys):
    check(refattn.softmax, "softmax", effort="smoke")
    assert capsys.readouterr().err == ""


def kinds(report):
    return [
        ("golden" if is_golden(r.case) else "inside" if ".inside_" in r.case.id else "other") for r in report.results
    ]


def test_golden_cases_come_first_and_sizes_are_asked_about_in_the_first_half_alone(slow):
    whole = check(slow, "rms_norm")
    golden = kinds(whole).count("golden")
    for seconds in (2.0, 6.0, 14.0, 30.0, 1000.0):
        slow.calls = 0
        report = check(slow, "rms_norm", seconds=seconds)
        found = kinds(report)
        assert found == sorted(found, key=["golden", "other", "inside"].index)
        if found.count("other"):
            assert found.count("golden") == golden
        assert bool(report.unasked) == (len(report.results) < len(whole.results) or len(report.coverage) == 0)
        assert report.ok
    assert not report.unasked
    assert {r.case.id for r in report.results} == {r.case.id for r in whole.results}


def test_of_several_functions_the_golden_cases_of_all_come_first(clock):
    class Two(Adapter):
        name = "two"

        def __init__(self):
            moved = lambda call: lambda **given: (setattr(clock, "seconds", clock.seconds + CALL), call(**given))[1]
            self.functions = {"softmax": moved(refattn.softmax), "rms_norm": moved(refattn.rms_norm)}

    found = kinds(check(Two(), seconds=20.0))
    assert "other" in found
    assert found == sorted(found, key=["golden", "other"].index)


def test_a_run_ends_about_in_time_and_says_what_it_left_out(slow, clock):
    started = clock.seconds
    report = check(slow, "rms_norm", seconds=4.0)
    assert clock.seconds - started <= 4.0 + 2 * CALL
    assert "golden" in report.unasked[0]
    assert report.coverage == []
    assert report.unasked[-1] == "how many known mistakes are excluded"
    text = reports.as_text(report)
    assert "not asked, for the time was over (--time 4)" in text
    assert all(line in " ".join(text.split()) for line in report.unasked)
    assert "not all was asked in 4 s" in text.splitlines()[-1]
    document = reports.as_document(report)
    assert document["time"] == {"limit": 4.0, "unasked": report.unasked}
    assert "Conforms as far as was asked" in reports.as_html([document])
    assert "Not asked in 4 s" in reports.as_html([document])


def test_asking_about_sizes_ends_in_the_third_quarter(slow, clock):
    whole = check(slow, "rms_norm", at_least=0)
    cases = sum(1 if r.refused else 2 for r in whole.results if ".inside_" not in r.case.id) * CALL
    started = clock.seconds
    report = check(slow, "rms_norm", seconds=2.1 * cases)
    assert budget.SIZES_UNASKED in report.unasked
    assert cases + CALL < clock.seconds - started <= budget.ASKED * 2.1 * cases + 2 * CALL
    assert not report.limits


def test_wrong_cases_are_explained_in_the_first_half_alone_and_counted_beyond(slow):
    slow.factor = 1.5
    whole = check(slow, "rms_norm")
    cases = len(whole.results) * CALL
    report = check(slow, "rms_norm", seconds=cases)
    assert not report.ok
    said = [text for text in report.unasked if text.startswith("what explains each of ")]
    assert len(said) == 1
    unexplained = int(said[0].split()[4])
    assert 0 < unexplained < report.count("broken") + report.count("known")


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf")])
def test_a_limit_is_a_number_of_seconds(seconds):
    with pytest.raises(ValueError, match=r"seconds is .*; it must be a number above 0"):
        check(refattn.attention, seconds=seconds)
    with pytest.raises(SystemExit):
        cli.main(["check", "torch", f"--time={seconds}"])


def test_the_command_takes_it(tmp_path, monkeypatch, clock):
    (tmp_path / "slowly.py").write_text(
        "import refattn\ndef softmax(x, axis=-1, where=None):\n    return refattn.softmax(x, axis, where)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    moved = lambda: setattr(clock, "seconds", clock.seconds + 1.0) or clock.seconds
    monkeypatch.setattr(budget, "time", types.SimpleNamespace(monotonic=moved))
    code = cli.main(["check", "slowly:softmax", "--function", "softmax", "--time", "40", "--json", "report.json"])
    found = json.loads((tmp_path / "report.json").read_text())
    assert code == cli.PASS
    assert found["time"]["limit"] == 40.0
    assert found["time"]["unasked"]


# --- refusals that do not follow from the call ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [NotImplementedError, ValueError])
@pytest.mark.parametrize("share", [0.3, 0.02])
def test_a_kernel_that_refuses_at_random_does_not_conform(kind, share):
    rng = np.random.default_rng(0)

    def kernel(q, k, v, mask=None, **options):
        out = refattn.attention(q, k, v, mask, **options)
        if rng.random() < share:
            raise kind("no memory left in the pool")
        return out

    report = check(kernel)
    assert not report.ok
    found = [r for r in report.results if r.deviation == "refuses at random"]
    assert found
    assert found[0].clause == "BACKEND-PURE"
    assert "no memory left in the pool" in found[0].message


def test_a_call_that_is_refused_first_and_taken_when_it_is_asked_again():
    met = set()

    def kernel(x, axis=-1, where=None):
        refattn.softmax(x, axis, where)
        key = x.tobytes(), x.shape, axis
        if key not in met:
            met.add(key)
            raise NotImplementedError("still compiling")
        return refattn.softmax(x, axis, where)

    report = check(kernel, "softmax")
    assert {r.deviation for r in report.results if r.status == "broken"} == {"refuses at random"}


def test_what_is_refused_for_what_it_is_stays_not_supported():
    calls = []

    def kernel(x, axis=-1, where=None):
        calls.append(x.shape)
        refattn.softmax(x, axis, where)
        if where is not None:
            raise NotImplementedError("where")
        return refattn.softmax(x, axis)

    report = check(kernel, "softmax", at_least=0)
    assert report.ok


def test_what_is_watched_or_has_its_limits_stated_is_called_in_bfloat16_too():
    class Toy(FrameworkAdapter):
        name = "toy"

        def __init__(self):
            self.functions = {"softmax": lambda x: self.narrow}

    for adapter in (budget.Budget(None).watching(Toy()), stating(Toy(), "M <= 8")):
        assert adapter.call("softmax", "bfloat16")(None)
        assert not adapter.call("softmax", "float32")(None)
