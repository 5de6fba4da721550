"""What changed between two reports."""

import json

import pytest

import refattn
from refattn.cli import main
from refattn.testing import reports
from refattn.testing.adapters import CallableAdapter
from refattn.testing.checking import check
from refattn.testing.reports import changes


def no_sinks(q, k, v, mask=None, *, bias=None, scale=None):
    return refattn.attention(q, k, v, mask, bias=bias, scale=scale)


def scale_ignored(q, k, v, mask=None, *, bias=None, scale=None):
    return refattn.attention(q, k, v, mask, bias=bias)


def nothing_refused(q, k, v, mask=None, *, bias=None, scale=None, sinks=None):
    try:
        return refattn.attention(q, k, v, mask, bias=bias, scale=scale, sinks=sinks)
    except ValueError:
        return q


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    for kernel in (no_sinks, scale_ignored, nothing_refused):
        report = check(CallableAdapter(kernel, name="mine"), effort="smoke")
        (folder / f"{kernel.__name__}.json").write_text(reports.as_json(report))
    return folder


def diff(files, old, new, capsys):
    code = main(["diff", str(files / f"{old}.json"), str(files / f"{new}.json")])
    return code, capsys.readouterr()


def test_what_came_is_named_with_its_clause_and_a_command_and_what_went_by_name(files, capsys):
    code, said = diff(files, "no_sinks", "scale_ignored", capsys)
    assert code == 1
    assert "new deviations\n    scale/ignored in attention (clause ATTN-SCALE): 0 -> " in said.out
    assert "again: refattn replay attention." in said.out
    assert "ATTN-SCALE" in said.out.split("by clause")[1]
    code, said = diff(files, "scale_ignored", "no_sinks", capsys)
    assert code == 1
    assert "gone\n    scale/ignored in attention: " in said.out


def test_releases_stand_in_the_head_where_there_are_any(files, tmp_path, capsys):
    assert diff(files, "no_sinks", "no_sinks", capsys)[1].out.startswith("mine\n")
    report = json.loads((files / "no_sinks.json").read_text())
    report["target"]["version"] = "1.2"
    (tmp_path / "new.json").write_text(json.dumps(report))
    main(["diff", str(files / "no_sinks.json"), str(tmp_path / "new.json")])
    assert capsys.readouterr().out.startswith("mine (no version) -> 1.2\n")


def test_what_becomes_supported_is_said(files, capsys):
    code, said = diff(files, "no_sinks", "nothing_refused", capsys)
    assert code == 1
    assert "accepts wrong input in attention" in said.out
    assert "supported now: attention." in said.out
    assert "no longer supported: attention." in diff(files, "nothing_refused", "no_sinks", capsys)[1].out


def test_nothing_changed_is_exit_0(files, capsys):
    code, said = diff(files, "scale_ignored", "scale_ignored", capsys)
    assert code == 0
    assert "no deviation came or went" in said.out


def test_a_deviation_that_shows_in_other_cases_says_in_which(files):
    old = changes.read(files / "scale_ignored.json")["mine"]
    new = json.loads(json.dumps(old))
    cases = [case for case in new["cases"] if case["deviation"] == "scale/ignored"]
    cases[0].update(status="holds", deviation="", broken_clause="")
    text, changed = changes.as_text({"mine": old}, {"mine": new})
    assert changed
    assert f"no longer {cases[0]['id']}" in " ".join(text.split())


def test_reports_of_all_are_compared_target_by_target(files):
    mine = changes.read(files / "no_sinks.json")["mine"]
    (files / "all.json").write_text(
        json.dumps({"reports": [mine, {**mine, "target": {**mine["target"], "name": "other"}}]})
    )
    text, changed = changes.as_text(changes.read(files / "all.json"), changes.read(files / "scale_ignored.json"))
    assert changed
    assert "only in OLD: other" in text


def test_two_reports_of_one_target_each_are_compared_whatever_they_are_called(files):
    mine = changes.read(files / "no_sinks.json")
    other = {"other": {**mine["mine"], "target": {**mine["mine"]["target"], "name": "other"}}}
    text, changed = changes.as_text(mine, other)
    assert text.startswith("mine -> other")
    assert not changed
    with pytest.raises(ValueError, match="no target in common: mine and other, third"):
        changes.as_text(mine, {**other, "third": other["other"]})


@pytest.mark.parametrize("text", ["no json", "[]", "{}", '{"reports": []}', "[" * 100_000, '{"target": {"name": "x"}}'])
def test_what_is_no_report_is_one_line(files, text, capsys):
    (files / "bad.json").write_text(text)
    code, said = diff(files, "bad", "no_sinks", capsys)
    assert code == 2
    assert "bad.json holds no report of refattn check --json" in said.err
    assert len(said.err.splitlines()) == 1


def test_a_file_that_is_not_there_is_one_line(files, capsys):
    code, said = diff(files, "absent", "no_sinks", capsys)
    assert code == 2
    assert "absent.json" in said.err
