"""One verdict for a run: the cause that fits most cases, or what those without a known one share."""

import re
import xml.etree.ElementTree as ET
from html import escape

import numpy as np
import pytest

import refattn
from refattn import masks
from refattn.testing import check, reports
from refattn.testing.vote import UNKNOWN


def visible(mask, q, k):
    return masks.visible(mask, q.shape[-2], k.shape[-2], like=q)


def last_key_dropped(q, k, v, mask=None, *, scale=None):
    """Right where there is one key, so that cases hold in which the bug would show."""
    if k.shape[-2] < 2:
        return refattn.attention(q, k, v, mask, scale=scale)
    others = np.arange(k.shape[-2]) < k.shape[-2] - 1
    seen = others if mask is None else visible(mask, q, k) & others
    return refattn.attention(q, k, v, np.broadcast_to(seen, (*seen.shape[:-2], q.shape[-2], k.shape[-2])), scale=scale)


def filled(q, k, v, mask=None):
    """Excluded scores become the lowest finite number: rows without keys are means, and NaN at excluded values leaks."""
    if k.shape[-2] == 0 or k.shape[-2] != v.shape[-2]:
        raise NotImplementedError("no keys")
    s = q @ np.swapaxes(k, -1, -2) * np.float32(q.shape[-1] ** -0.5)
    if mask is not None:
        s = np.where(visible(mask, q, k), s, np.finfo("f").min)
    w = np.exp(s - s.max(-1, keepdims=True))
    return (w / w.sum(-1, keepdims=True)) @ v


def aligned_nowhere(q, k, v, mask=None):
    """Causality at i - (M - N), with the lowest finite number as fill: no variant is that."""
    if mask is not None and repr(mask) != "causal()":
        raise NotImplementedError("only causal()")
    if q.ndim != 4 or mask is None or k.shape[-2] == 0:
        return refattn.attention(q, k, v, mask)
    n, m = q.shape[-2], k.shape[-2]
    s = q @ np.swapaxes(k, -1, -2) * np.float32(q.shape[-1] ** -0.5)
    s = np.where(np.arange(m) <= np.arange(n)[:, None] - max(m - n, 0) - 2 * (m != n), s, np.finfo("f").min)
    w = np.exp(s - s.max(-1, keepdims=True))
    return (w / w.sum(-1, keepdims=True)) @ v


def leaking(q, k, v, mask=None, *, bias=None, scale=None):
    """NaN under a bias of -infinity leaks."""
    out = refattn.attention(q, k, v, mask, bias=bias, scale=scale)
    leaks = bias is not None and not (np.isfinite(k).all() and np.isfinite(v).all())
    return out * np.float32(np.nan) if leaks else out


def top_left_flag_and_leak(q, k, v, mask=None, *, bias=None, scale=None):
    """The flag for causality lies at the top left, an array as mask is right; and NaN under a bias of -infinity leaks."""
    if repr(mask) == "causal()":
        mask = np.tri(q.shape[-2], k.shape[-2], dtype=bool)
    return leaking(q, k, v, mask, bias=bias, scale=scale)


def one_gradient_wrong(d_out, q, k, v, mask=None, **options):
    """Queries' gradients as another scale of each feature would give them, the other gradients right."""
    right = refattn.attention_vjp(d_out, q, k, v, mask, **options)
    return right._replace(q=right.q * np.linspace(1.5, 1.9, q.shape[-1], dtype=np.float32))


def names(report):
    return {name for _, name in report.deviations()}


@pytest.fixture(scope="module")
def dropped():
    return check(last_key_dropped, only="attention.[bmos]*")


def test_of_two_mistakes_either_is_named_though_one_has_a_condition():
    def kernel(q, k, v, mask=None, *, bias=None, scale=None, sinks=None):
        """The last key is dropped where there is neither mask nor bias, NaN leaks under a bias, sinks are ignored."""
        n, m = q.shape[-2], k.shape[-2]
        if mask is None and bias is None and m > 1:
            mask = np.broadcast_to(np.arange(m) < m - 1, (n, m))
        return leaking(q, k, v, mask, bias=bias, scale=scale)

    report = check(kernel, only="attention.[bcs]*")
    found = {cause.name for cause in report.causes}
    assert "sink/ignored" in found
    assert found & {"tail/dropped", "keys/last_dropped"}


def test_a_leak_of_nan_beside_it_does_not_hide_a_mistake_that_has_a_condition():
    report = check(top_left_flag_and_leak, only="attention.[bcpr]*")
    assert [cause.name for cause in report.causes] == ["causal/top_left", "bias/infinity_adds"]
    assert not any(name.startswith("unexplained") for name in names(report))


def test_what_fits_most_cases_is_said_first_with_its_count(dropped):
    (cause,) = dropped.causes
    broken = sum(r.status == "broken" and not r.case.relation for r in dropped.results)
    assert (cause.name, len(cause.cases), cause.total) == ("keys/last_dropped", broken, broken)
    assert broken > 20
    assert cause.holding
    assert "M < 2" in cause.shared
    assert "keys/last_dropped" in names(dropped)
    assert not [name for name in names(dropped) if not name.startswith(("keys/", "inconsistent: "))]
    text = reports.as_text(dropped)
    assert text.index(f"keys/last_dropped explains {broken} of {broken} broken cases") < text.index("\ndeviations")


def test_every_report_says_it(dropped):
    sentence = str(dropped.causes[0])
    assert reports.as_document(dropped)["causes"][0]["sentence"] == sentence
    suite = ET.fromstring(reports.as_junit(dropped))[0]
    assert suite.find("properties/property[@name='cause']").get("value") == f"attention: {sentence}"
    assert escape(sentence) in reports.as_html([reports.as_document(dropped)])


def test_cases_that_hold_refute_what_fits_by_chance():
    report = check(filled)
    assert {cause.name for cause in report.causes} == {"empty_row/mean", "values/multiplied_by_zero"}


def flags_at_the_top_left(q, k, v, mask=None, *, scale=None):
    """Right for what it gets as an array; its flags for causality and windows start at the top left."""
    flag = set(re.findall(r"([a-z_]+)\(", repr(mask))) <= {"causal", "window"}
    positions = np.arange(q.shape[-2]) if isinstance(mask, masks.Mask) and flag else None
    return refattn.attention(q, k, v, mask, scale=scale, q_positions=positions)


def test_a_flag_that_is_wrong_is_named_though_arrays_are_right():
    report = check(flags_at_the_top_left, only="attention.[crw]*", effort="smoke")
    assert {"causal/top_left", "window/top_left"} <= {cause.name for cause in report.causes}


def test_without_a_known_cause_it_is_said_what_the_cases_share():
    report = check(aligned_nowhere, only="attention.*causal*")
    assert report.count("broken") > 2
    cause, leak = report.causes
    assert leak.name == "values/multiplied_by_zero"  # it has no mask but weights of 0
    assert cause.name == UNKNOWN
    assert "N != M" in cause.shared
    called = {r.deviation for r in report.results if r.status == "broken" and not r.case.relation}
    assert called == {"unexplained difference"}
    assert "no known variant does" in reports.as_text(report)


def test_what_fits_a_case_that_has_no_cause_is_still_said(dropped):
    from refattn.testing import vote

    broken = next(r for r in dropped.results if r.deviation == "keys/last_dropped" and any(r.wrong[0].explanations))
    message = vote._Vote._called(None, broken, None).message
    assert "This case alone fits keys/last_dropped" in message
    assert "no known variant does in all cases of this run" in message


def test_a_cause_must_fit_every_result_of_a_case():
    report = check(one_gradient_wrong, "attention_vjp", only="attention_vjp.*a*", effort="smoke")
    assert [cause.name for cause in report.causes] == [UNKNOWN]
    assert "which no case that holds has" in str(report.causes[0]) or "that hold" in str(report.causes[0])


def test_cases_beyond_those_that_are_explained_are_held_to_the_winner(monkeypatch, dropped):
    from refattn.testing import vote

    monkeypatch.setattr(vote, "EXPLAINED", 8)
    again = check(last_key_dropped, only="attention.[bmos]*")
    assert again.causes == dropped.causes
    assert names(again) == names(dropped)
