"""Reports: the schema of the document, the page for people, the matrix, the allow-list that is out of date."""

import datetime
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import numpy as np
import pytest

import refattn
from refattn.testing import allow, everything, reports
from refattn.testing.adapters import CallableAdapter
from refattn.testing.checking import check
from refattn.testing.reports import html
from tests.testing.test_checking import top_left, without_sinks

SCHEMA = json.loads((Path(reports.__file__).parent / "report.schema.json").read_text())


@pytest.fixture(scope="module")
def wrong():
    return check(CallableAdapter(top_left, name="<mine> & yours"), effort="smoke")


@pytest.fixture(scope="module")
def documents(wrong):
    return [reports.as_document(wrong), reports.as_document(check(without_sinks, effort="smoke"))]


def test_the_document_keeps_its_schema(documents):
    for document in documents:
        jsonschema.validate(document, SCHEMA)
    jsonschema.validate({"schema": reports.SCHEMA, "reports": documents}, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**documents[0], "colour": "red"}, SCHEMA)
    broken = json.loads(json.dumps(documents[0]))
    next(c for c in broken["cases"] if c["status"] == "broken")["replay"] = ""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, SCHEMA)


def test_json_has_no_number_that_json_does_not_have(wrong):
    def refuse(name):
        raise AssertionError(name)

    json.loads(reports.as_json(wrong), parse_constant=refuse)


def test_a_deviation_shows_its_smallest_case_and_how_to_run_it_again(wrong, documents):
    (deviation,) = documents[0]["deviations"]
    sizes = {r.case.id: r.case.size for r in wrong.results}
    assert sizes[deviation["smallest"]["id"]] == min(sizes[case] for case in deviation["cases"])
    assert deviation["replay"].startswith(f"refattn replay {deviation['smallest']['id']} --impl '<mine> & yours'")
    assert "--effort smoke" in deviation["replay"]
    assert deviation["smallest"]["id"] in reports.as_text(wrong)


class Page(HTMLParser):
    """Which tags are opened and closed, and every address and anchor."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.addresses, self.ids, self.wrong = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag != "meta":
            self.open.append(tag)
        for name, value in attributes:
            if name in ("href", "src"):
                self.addresses.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_endtag(self, tag):
        if self.open.pop() != tag:
            self.wrong.append(tag)


def test_the_page_is_whole_and_fetches_nothing(documents):
    text = reports.as_html(documents)
    page = Page(text)
    assert (page.open, page.wrong) == ([], []), "every tag is closed"
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert "url(" not in text
    assert "@import" not in text
    assert all(address.startswith("#") and address[1:] in page.ids for address in page.addresses)
    assert len(set(page.ids)) == len(page.ids)
    assert "<mine>" not in text
    assert "&lt;mine&gt; &amp; yours" in text


def test_the_page_says_what_the_report_says(documents):
    text = reports.as_html(documents[:1])
    (deviation,) = documents[0]["deviations"]
    assert "Does not conform: 1 new deviation" in text
    assert "causal/top_left in attention" in text
    assert deviation["smallest"]["id"] in text
    assert "the N queries MUST be the last N" in text, "the clause's own words"
    assert text.count('<i class="') == len(documents[0]["cases"])
    assert text.count('<i class="b"') == documents[0]["counts"]["broken"]
    assert "no sinks" in reports.as_html(documents[1:])
    assert "Conforms" in reports.as_html(documents[1:])


def test_the_matrix_puts_implementations_side_by_side(documents):
    count = documents[0]["counts"]["broken"]
    lines = reports.as_matrix(documents).splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:]}
    assert rows["ATTN-ALIGN"] == ["BROKEN", str(count), "holds"]
    assert rows["ATTN-SINK"] == ["holds", "-"]
    assert f"BROKEN {count}" in reports.as_matrix(documents, by="mechanism")


def entry(**changes):
    fields = {
        "target": "mine", "function": "attention", "deviation": "causal/top_left",
        "reason": "documented", "until": datetime.date(2999, 1, 1), **changes,
    }  # fmt: skip
    return allow.Allowance(**fields)


OUT_OF_DATE = (
    ({"deviation": "scale/ignored"}, "no longer shows"),
    ({"deviation": "scale/ignored", "until": datetime.date(2020, 1, 1)}, "expired on 2020-01-01"),
    ({"function": "atention"}, "refattn has no function 'atention'"),
    ({"cases": "attention.cusal.*"}, "no case is called 'attention.cusal.*'"),
)


def test_an_allow_list_that_is_out_of_date_fails_a_strict_check_and_is_mentioned_in_another():
    """One check tells all of them, for a whole check takes seconds; each alone is enough to fail a strict one."""
    mine = CallableAdapter(top_left, name="mine")
    report = check(mine, allow=[entry(), *(entry(**changes) for changes, _ in OUT_OF_DATE)])
    assert report.ok
    assert "--strict makes this fail" in reports.as_text(report)
    assert len(report.problems) == len(OUT_OF_DATE)
    for (_, problem), said in zip(OUT_OF_DATE, report.problems, strict=True):
        assert problem in said
        strict = replace(report, strict=True, problems=[said])
        assert not strict.ok
        assert "ALLOW-LIST OUT OF DATE" in reports.as_text(strict)


def test_a_strict_check_is_strict():
    assert not check(
        CallableAdapter(top_left, name="mine"), allow=[entry(), entry(deviation="scale/ignored")], strict=True
    ).ok


def test_an_allow_list_that_is_needed_and_no_more_passes_a_strict_check():
    assert check(CallableAdapter(top_left, name="mine"), allow=[entry()], strict=True).ok


def test_a_part_of_the_cases_makes_no_entry_stale():
    mine = CallableAdapter(top_left, name="mine")
    given = [entry(), entry(deviation="scale/ignored"), entry(cases="nothing.*"), entry(target="other", function="x")]
    assert check(mine, allow=given, strict=True, only="attention.causal*").ok


def test_an_interruption_leaves_a_partial_report():
    def interrupted(done, total):
        if done == 5:
            raise KeyboardInterrupt

    report = check(refattn.attention, effort="smoke", progress=interrupted)
    assert len(report.results) == 5
    assert not report.ok
    assert report.interrupted > 5
    assert "INTERRUPTED after 5 of" in reports.as_text(report)
    document = reports.as_document(report)
    jsonschema.validate(document, SCHEMA)
    assert "Interrupted" in reports.as_html([document])


def test_gradients_that_an_implementation_lacks_are_no_deviation():
    def only_values(d_out, q, k, v, mask=None, **options):
        return {"v": refattn.attention_vjp(d_out, q, k, v, mask, **options).v}

    def in_a_tuple(d_out, q, k, v, mask=None, **options):
        return tuple(x for x in refattn.attention_vjp(d_out, q, k, v, mask, **options) if x is not None)

    def swapped(d_out, q, k, v, mask=None, **options):
        gradients = refattn.attention_vjp(d_out, q, k, v, mask, **options)
        return gradients.k, gradients.q, gradients.v

    report = check(only_values, "attention_vjp", effort="smoke", layout="reference")
    assert report.ok, reports.as_text(report)
    assert "returns no q, k" in reports.as_text(report)
    assert check(in_a_tuple, "attention_vjp", effort="smoke", layout="reference").ok
    assert not check(swapped, "attention_vjp", effort="smoke", layout="reference").ok


def staged(kind):
    """A kernel that caps its scores wrongly, and what it exposes of the way."""

    def kernel(q, k, v, mask=None, **options):
        return refattn.attention(q, k, v, mask, **{**options, "softcap": 2 * (options.get("softcap") or 0)})

    def stages(q, k, v, mask=None, **options):
        return refattn.attention_stages(q, k, v, mask, **{**options, "softcap": 2 * (options.get("softcap") or 0)})

    def weights(q, k, mask=None, **options):
        return refattn.attention_weights(q, k, mask, **{**options, "softcap": 2 * (options.get("softcap") or 0)})

    adapter = CallableAdapter(kernel, name="mine")
    if kind == "stages":
        adapter.functions["attention_stages"] = lambda *a, **o: {
            name: getattr(stages(*a, **o), name) for name in ("scores", "softcap", "weights")
        }
    else:
        adapter.functions["attention_weights"] = weights
    return adapter


@pytest.mark.parametrize(("kind", "first"), [("stages", "softcap"), ("weights", "weights")])
def test_the_stage_that_leaves_the_path_first_is_named(kind, first):
    report = check(staged(kind), mechanism="attention", only="attention.softcap.float32")
    (result,) = report.results
    assert result.status == "broken"
    assert next(s.name for s in result.stages if not s.ok) == first
    assert f"Stages: {first} leaves the path first" in result.message
    if kind == "stages":
        assert result.stages[0].name == "scores"
        assert result.stages[0].ok
        assert np.isfinite(result.stages[1].error)


def test_of_several_implementations_the_worst_code_counts_and_an_interruption_most():
    for codes, interrupted, code in (([], False, 2), ([0, 1], False, 1), ([2, 0, 1], False, 2), ([0], True, 130)):
        assert everything.Everything(codes=codes, interrupted=interrupted).code == code


def test_progress_says_the_verdict_or_what_was_printed_last(documents):
    assert everything._said(1, documents[0], "printed last") == html.verdict(documents[0])[1] != "printed last"
    assert everything._said(2, None, "printed last") == "printed last"
