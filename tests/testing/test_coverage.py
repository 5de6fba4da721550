"""A run says which known mistakes it would have shown; too few are no success."""

import datetime
import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

import refattn
from refattn import cli
from refattn.testing import check
from refattn.testing.adapters import CallableAdapter
from refattn.testing.allow import Allowance
from refattn.testing.checking import all_cases, run_case
from refattn.testing.coverage import WEAK, Coverage, covered
from refattn.testing.reports import as_document, as_html, as_junit, as_text
from refattn.testing.variants import variants


def picky(x, *, axis=-1):
    """Right where it answers, which is at one size that nothing finds by asking."""
    if x.shape != (2, 2):
        raise NotImplementedError("not these")
    return refattn.softmax(x, axis=axis)


@pytest.fixture(scope="module")
def weak():
    return check(picky, "softmax")


def _of(report, function="softmax"):
    return next(found for found in report.coverage if found.function == function)


def test_the_reference_leaves_none():
    found = _of(check(refattn.rms_norm, "rms_norm"), "rms_norm")
    assert found.missed == ()
    assert set(found.excluded) == {v.name for v in variants("rms_norm")}


def test_what_a_run_leaves_makes_it_weak(weak):
    found = _of(weak)
    assert weak.count("broken") == 0
    assert found.missed
    assert found.weak(0.9)
    assert not weak.ok
    assert as_text(weak).splitlines()[-1].startswith("WEAK: ")
    assert f"{len(found.excluded)} of {found.possible} known mistakes excluded" in as_text(weak)
    assert found.missed[0] in as_text(weak)


def test_every_report_says_so(weak):
    found = _of(weak)
    document = as_document(weak)
    assert not document["ok"]
    assert document["coverage"][0]["missed"] == list(found.missed)
    assert document["coverage"][0]["weak"]
    suite = ET.fromstring(as_junit(weak)).find("testsuite")
    assert suite.get("failures") == "1" == str(len(suite.findall("testcase/failure")))
    assert suite.find("properties/property[@name='coverage']") is not None
    page = as_html([document])
    assert "Weak: " in page
    assert found.missed[0] in page


def test_a_list_says_why_and_goes_when_it_is_no_longer_needed(weak):
    entry = Allowance(weak.target, "softmax", WEAK, "few calls are taken", datetime.date(2999, 1, 1))
    known = check(picky, "softmax", allow=[entry], strict=True)
    assert known.ok
    assert not known.problems
    assert "few calls are taken" in " ".join(as_text(known).split())
    assert not check(picky, "softmax", allow=[replace(entry, until=datetime.date(2001, 1, 1))]).ok
    of_norm = replace(entry, target=check(refattn.rms_norm, "rms_norm", effort="smoke").target, function="rms_norm")
    stale = check(refattn.rms_norm, "rms_norm", allow=[of_norm], strict=True)
    assert not stale.ok
    assert "no longer shows" in stale.problems[0]


def test_a_part_of_the_cases_is_not_asked(weak):
    assert check(picky, "softmax", only=weak.results[0].case.id).at_least == 0
    assert check(refattn.softmax, "softmax", effort="smoke").coverage == []
    assert check(picky, "softmax", at_least=0).ok


@pytest.mark.parametrize(("share", "often", "at_least", "is_weak"), [
    (1.0, (), 0.9, False), (0.9, (), 0.9, False), (0.8, (), 0.9, True), (0.8, (), 0.8, False),
    (0.9, ("v9",), 0.9, True), (0.9, ("v9",), 0, False), (0.0, (), 0, False),
])  # fmt: skip
def test_when_it_is_weak(share, often, at_least, is_weak):
    n = round(10 * share)
    names = tuple(f"v{i}" for i in range(10))
    assert Coverage("attention", 3, names[:n], names[n:], often).weak(at_least) is is_weak


def test_what_is_excluded_is_what_the_cases_show():
    """A variant is excluded if and only if a kernel that does it is told from the reference by these cases."""
    adapter = CallableAdapter(refattn.softmax, "softmax")
    cases = list(all_cases(adapter, None, "standard", 0))
    some = [c for c in cases if "golden" not in c.id][::9]
    found = covered([run_case(adapter, c) for c in some], some, adapter.profile)[0]
    assert found.missed == ()
    assert found.excluded
    for v in variants("softmax"):
        broken = any(run_case(CallableAdapter(v.call, "softmax"), c, explain=False).wrong for c in some)
        if v.name in found.excluded:
            assert broken, v.name


def test_an_option_that_nothing_takes_leaves_nothing_out():
    """What can occur is asked of calls with the options that were judged, whatever their size."""

    def plain(q, k, v):
        return refattn.attention(q, k, v)

    found = _of(check(plain), "attention")
    assert found.missed == ()
    assert not any(name.startswith(("softcap/", "sink/", "mask/")) for name in found.excluded)


def test_the_command(tmp_path, monkeypatch, capsys):
    (tmp_path / "picked.py").write_text("from tests.testing.test_coverage import picky\n")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check", "picked:picky", "--function", "softmax", "--json", "report.json"]) == cli.NONCONFORMING
    assert "WEAK" in capsys.readouterr().out
    assert json.loads((tmp_path / "report.json").read_text())["at_least"] == 0.9
    assert cli.main(["check", "picked:picky", "--function", "softmax", "--at-least", "0"]) == cli.PASS


@pytest.mark.parametrize("share", ["1.5", "-0.1", "much", "nan"])
def test_a_share_is_between_0_and_1(share, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["check", "m:f", f"--at-least={share}"])
    assert "must be a share between 0 and 1" in capsys.readouterr().err


def test_a_share_of_a_check_is_between_0_and_1():
    with pytest.raises(ValueError, match=r"at_least is 2; it must be a share between 0 and 1"):
        check(refattn.attention, at_least=2)
