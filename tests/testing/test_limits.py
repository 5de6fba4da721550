"""The sizes a kernel takes are found by asking it."""

import numpy as np
import pytest

import refattn
from refattn.testing import check
from refattn.testing.adapters import Failed
from refattn.testing.consistency import RELATIONS
from refattn.testing.foothold import Asked, survey
from refattn.testing.inside import _drawn
from refattn.testing.limits import HEADS, LENGTHS, Limits, pairs


def probe(call):
    x = np.ones((1, 3, 4), np.float32)
    asked = Asked(call)
    at = survey(asked, "attention", [{"q": x, "k": x, "v": x}])
    return None if at is None else pairs(asked, at)


def test_nothing_is_a_limit_of_the_reference():
    found = probe(refattn.attention)
    assert (found.heads, found.lengths, found.masks) == (HEADS, LENGTHS, (False, True))


def test_a_decode_kernel_gets_its_sizes():
    def decode(q, k, v):
        if q.shape[-2] != 1 or k.shape[-2] % 16 or q.shape[-1] not in (64, 128) or v.shape[-1] != q.shape[-1]:
            raise NotImplementedError
        return refattn.attention(q, k, v)

    found = probe(decode)
    assert (found.heads, found.lengths, found.masks) == (((64, 64), (128, 128)), ((1, 64),), (False,))


def test_a_kernel_of_latent_attention_gets_heads_whose_values_are_smaller():
    def prefill(q, k, v):
        if q.shape[-1] % 64 or v.shape[-1] not in {q.shape[-1], {192: 128}.get(q.shape[-1])}:
            raise NotImplementedError
        return q

    assert probe(prefill).heads == ((64, 64), (128, 128), (192, 128))


def test_a_kernel_that_takes_only_causal_masks_keeps_a_foothold():
    def only_causal(q, k, v, *, mask):
        assert q.shape[-2] == k.shape[-2]
        return refattn.attention(q, k, v, mask=mask)

    found = probe(only_causal)
    assert found.masks == (True,)
    assert found.lengths == tuple((n, m) for n, m in LENGTHS if n == m)


def test_a_wrong_result_is_no_limit_and_no_foothold_is_none():
    assert probe(lambda q, k, v, mask=None: q * 0).heads == HEADS

    def none(q, k, v):
        raise RuntimeError("no device")

    assert probe(none) is None


def _decode(q, k, v, off=0.0):
    if q.ndim != 4 or q.shape[-2] != 1 or k.shape[-2] % 16 or q.shape[-1] != 64 or v.shape[-1] != 64:
        raise NotImplementedError("a limit")
    return refattn.attention(q, k, v) + off


def test_a_decode_kernel_is_checked_inside_its_limits():
    report = check(_decode)
    assert report.ok
    assert sum(r.status == "holds" and ".inside_" in r.case.id for r in report.results) >= 30


def test_a_wrong_decode_kernel_is_found_inside_its_limits_and_by_case_alone():
    def wrong(q, k, v):
        return _decode(q, k, v, off=0.1)

    report = check(wrong)
    broken = [r.case.id for r in report.results if r.status == "broken" and ".inside_" in r.case.id]
    assert broken
    assert not check(wrong, only=broken[0]).ok


def test_a_value_that_leaks_from_the_future_is_found_inside_the_limits():
    def leaks(q, k, v, mask=None):
        if v.shape[-1] != q.shape[-1] or q.shape[-1] not in (16, 32, 64, 128):
            raise NotImplementedError("a limit")
        return refattn.attention(q, k, v, mask) + 0.0 * v.sum(axis=-2, keepdims=True)

    found = [r for r in check(leaks).results if r.status == "broken"]
    assert {r.deviation for r in found if r.case.relation == "future"} == {"values/multiplied_by_zero"}


def test_the_future_is_asked_about_where_more_than_one_row_sees_a_key_each():
    lengths = ((5, 5), (2, 5), (1, 5), (6, 5))
    taken = Limits(heads=((4, 3),), lengths=lengths, masks=(False, True), lead=(1, 2))
    asked = [case.id for case in _drawn("attention", "float32", taken, 0) if case.relation == "future"]
    sizes = ("5x5_4x3", "2x5_4x3")
    once = [f"attention.inside_future_{kind}_{size}.float32" for size in sizes for kind in ("causal", "peaked_causal")]
    again = [f"attention.inside_future_causal_{size}_{n}.float32" for n in (2, 3) for size in sizes]
    assert asked == once + again


def test_an_unlimited_kernel_gets_no_further_cases():
    assert not any(".inside_" in r.case.id for r in check(refattn.attention).results)


def test_a_kernel_that_cleans_what_nothing_hides_is_not_accused_where_its_mask_is_left_out():
    """Golden calls hide NaN by an array mask. Without it NaN would be seen, and that is another question."""

    def cleaning(q, k, v, mask=None):
        if mask is not None and repr(mask) != "causal()":
            raise NotImplementedError("causal or nothing")
        return refattn.attention(q, k, np.where(np.isfinite(v), v, 0.0).astype(v.dtype), mask)

    cases = check(cleaning, only="*absent*").results
    assert not [r.case.id for r in cases if r.status == "broken"]


def test_a_relation_holds_up_the_clauses_that_it_asks_about_and_no_others():
    report = check(refattn.attention, only="attention.self.*")
    assert {r.case.clauses for r in report.results} == {(c.clause,) for c in RELATIONS.values() if c.everywhere}


def test_what_is_refused_in_the_same_words_is_one_finding_and_a_limit():
    def kernel(x, gamma):
        if x.ndim != 2:
            raise ValueError("two axes")
        if x.shape[-1] % 32:
            raise IndexError(f"rows of {x.shape[-1]} numbers")
        return refattn.rms_norm(x, gamma)

    report = check(kernel, "rms_norm")
    broken = [r for r in report.results if r.status == "broken"]
    assert sorted(r.raised.partition(":")[0] for r in broken) == ["IndexError", "ValueError"]
    assert len(report.findings("broken")) == 2
    assert not report.ok
    same = [r for r in report.results if r.status == "unsupported" and r.reason.startswith("as ")]
    assert same
    assert {r.reason for r in same} <= {f"as {r.case.id}: refuses valid input" for r in broken}
    smallest = min(r.case.size for r in same if r.raised.startswith("IndexError"))
    assert next(r.case.size for r in broken if r.raised.startswith("IndexError")) <= smallest
    assert any(r.status == "holds" and ".inside_" in r.case.id for r in report.results)


def test_where_it_ends_the_process_it_is_not_asked_again():
    asked = []

    def kernel(x, gamma):
        asked.append(x.shape)
        if x.shape[-1] % 32:
            raise SystemExit(x.shape[-1])
        return refattn.rms_norm(x, gamma)

    report = check(kernel, "rms_norm")
    (broken,) = [r for r in report.results if r.status == "broken"]
    assert broken.deviation == "exits"
    own = [r.case.arguments["x"].shape for r in report.results if not r.case.refuses and ".inside_" not in r.case.id]
    odd = [shape for shape in own if shape and shape[-1] % 32 and shape[-1] > 5]
    assert all(asked.count(shape) <= own.count(shape) for shape in odd if shape[-1] not in (8, 16, 17, 33))


def test_a_kernel_that_hangs_is_asked_no_more():
    calls = []

    def hangs(**arguments):
        calls.append(arguments)
        raise Failed("hangs", "no answer within 60 s")

    assert survey(Asked(hangs), "rms_norm", [{"x": np.ones((3, 6)), "gamma": np.ones(6)}]) is None
    assert len(calls) == 1


def _without_maximum(q, k, v, mask=None, scale=None):
    s = (q @ np.swapaxes(k, -1, -2)) * (q.shape[-1] ** -0.5 if scale is None else scale)
    seen = np.ones(s.shape[-2:], bool) if mask is None else mask.dense(*s.shape[-2:])
    with np.errstate(all="ignore"):
        w = np.where(seen, np.exp(s), 0)
        return w / w.sum(-1, keepdims=True) @ v


@pytest.mark.parametrize("wrong", [False, True])
def test_a_kernel_that_must_be_given_a_window_or_a_scale_is_asked_with_one(wrong):
    def windowed(q, k, v, mask=None):
        if getattr(mask, "name", "") != "window":
            raise NotImplementedError
        return (_without_maximum if wrong else refattn.attention)(q, k, v, mask)

    def scaled(q, k, v, mask=None, *, scale=None):
        if scale is None or mask is not None:
            raise NotImplementedError
        return (_without_maximum if wrong else refattn.attention)(q, k, v, scale=scale)

    for kernel in (windowed, scaled):
        report = check(kernel)
        assert report.ok is not wrong
        if not wrong:
            assert report.count("holds") >= 60
        else:
            assert any(".inside_level" in r.case.id for r in report.results if r.status == "broken")


@pytest.mark.parametrize("function", ["grouped_query_attention", "tiled_attention"])
def test_what_equals_attention_gets_large_scores_inside_its_limits(function):
    def kernel(call):
        def limited(q, k, v, mask=None):
            if mask is not None or q.shape[-1] != 64 or v.shape[-1] != 64:
                raise NotImplementedError
            return call(q, k, v)

        return limited

    assert check(kernel(getattr(refattn, function)), function).ok
    repeated = lambda q, k: np.repeat(k, q.shape[-3] // k.shape[-3], axis=-3) if q.ndim > 2 else k
    wrong = check(kernel(lambda q, k, v: _without_maximum(q, repeated(q, k), repeated(q, v))), function)
    assert any(".inside_level" in r.case.id for r in wrong.results if r.status == "broken")


@pytest.mark.parametrize(("axes", "wrong"), [(2, False), pytest.param(3, True, marks=pytest.mark.slow)])
def test_attention_of_two_or_three_axes_is_asked_with_these(axes, wrong):
    def kernel(q, k, v, mask=None):
        if q.ndim != axes:
            raise NotImplementedError
        return refattn.attention(q[..., 1:], k[..., 1:], v, mask) if wrong else refattn.attention(q, k, v, mask)

    report = check(kernel)
    assert report.ok is not wrong
    assert report.limits["attention"].startswith(f"{axes - 2} leading axes")
    assert report.count("broken" if wrong else "holds") >= 40


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("function", ["gelu", "silu", "softmax"])
def test_rows_of_one_or_two_axes_are_asked_for(function, axes):
    def kernel(call):
        def limited(x):
            if x.ndim != axes or x.shape[-1] % 128 or not x.size:
                raise NotImplementedError
            return call(x)

        return limited

    right = getattr(refattn, function)
    report = check(kernel(right), function)
    assert report.ok
    assert report.count("holds") >= 10
    assert not check(kernel(lambda x: right(x) * (np.arange(x.shape[-1]) < 100)), function).ok


@pytest.mark.parametrize(("heads", "groups"), [(16, 4), (32, 8), (32, 4), (12, 4), (28, 4), (64, 8)])
def test_pairs_of_heads_that_models_have_are_asked_for(heads, groups):
    def kernel(call):
        def limited(q, k, v):
            if q.shape[-3:-1] != (heads, 1) or k.shape[-3] != groups or q.shape[-1] != 128:
                raise NotImplementedError
            return call(q, k, v)

        return limited

    report = check(kernel(refattn.grouped_query_attention), "grouped_query_attention")
    assert report.ok
    assert f"H in {heads}; G in {groups}" in report.limits["grouped_query_attention"]
    assert report.count("holds") >= 20


@pytest.mark.parametrize("size", [768, 1000, 4096])
def test_large_rows_are_asked_for_where_small_ones_are_refused(size):
    def kernel(x, gamma):
        if x.shape[-1] != size:
            raise NotImplementedError
        return refattn.rms_norm(x, gamma)

    asked = Asked(kernel)
    at = survey(asked, "rms_norm", [{"x": np.ones((3, 6)), "gamma": np.ones(6)}])
    assert at.taken["E",] == (size,)
    assert asked.calls < 300


@pytest.mark.parametrize("name", ["window", "padding"])
def test_a_fill_that_is_larger_than_low_scores_is_found_with_the_masks_that_are_taken(name):
    def kernel(q, k, v, mask=None):
        if mask is not None and getattr(mask, "name", "") != name:
            raise NotImplementedError
        s = q @ np.swapaxes(k, -1, -2) * np.float32(q.shape[-1] ** -0.5)
        seen = np.ones(s.shape[-2:], bool) if mask is None else mask.dense(*s.shape[-2:])
        s = np.where(seen, s, np.float32(-1e4))
        w = np.exp(s - s.max(-1, keepdims=True, initial=-3e38)) * seen.any(-1, keepdims=True)
        return w / np.maximum(w.sum(-1, keepdims=True), 1e-30) @ v

    report = check(kernel)
    assert any(".inside_level_-20000" in r.case.id for r in report.results if r.status == "broken")
