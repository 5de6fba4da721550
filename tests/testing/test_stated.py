"""Limits that are stated are believed: nothing beyond them is asked for, and what lies inside is judged."""

import numpy as np
import pytest

import refattn
from refattn.masks import causal, window
from refattn.testing.adapters import Adapter, CallableAdapter
from refattn.testing.checking import all_cases, check
from refattn.testing.stated import parse

LIMITS = "D in 16, 32; D == Dv; M % 16 == 0; M <= 48; N == M; 4 axes; causal"


def call(n=32, m=32, d=64, dv=64, lead=(1, 2), **options):
    return {"q": np.ones((*lead, n, d)), "k": np.ones((*lead, m, d)), "v": np.ones((*lead, m, dv)), **options}


@pytest.mark.parametrize(
    "text, inside, beyond",
    [
        ("D in 64, 128", call(d=128), call(d=32)),
        ("D in {64}", call(), call(d=32)),
        ("M % 16 == 0", call(m=48), call(m=40)),
        ("N == M", call(), call(n=1)),
        ("N <= 8", call(n=8), call(n=9)),
        ("N < M", call(n=1), call()),
        ("D != 40", call(), call(d=40)),
        ("H in 2, 4", call(), call(lead=(2, 1))),
        ("B == 1", call(lead=(4,)), call(lead=(2, 1))),
        ("4 axes", call(), call(lead=())),
        ("causal", call(mask=causal()), call(mask=causal() & window(3, 0))),
        ("causal", call(), call(mask=np.ones((32, 32), bool))),
        ("always causal", call(mask=causal()), call()),
        ("no mask", call(mask=None), call(mask=causal())),
        ("no return_lse", call(return_lse=False), call(return_lse=True)),
    ],
)
def test_a_statement_means_what_it_says(text, inside, beyond):
    stated = parse(text, "attention")
    assert stated.beyond(inside) == ""
    assert stated.beyond(beyond) == text


def test_groups_are_a_quotient():
    q, k = np.ones((1, 8, 3, 4)), np.ones((1, 2, 5, 4))
    assert not parse("H / G in 2, 4", "grouped_query_attention").beyond({"q": q, "k": k, "v": k})
    assert parse("H / G in 2, 3", "grouped_query_attention").beyond({"q": q, "k": k, "v": k})


@pytest.mark.parametrize(
    "text, said",
    [
        ("Q in 64", "attention has no size Q: it has the sizes N, D, M, Dv, B, H"),
        ("D in 64; D ~ 3", "limits has 'D ~ 3', which is no statement; it must be one like these: D in 64, 128;"),
        ("D == 1, 2", "no statement"),
        ("D in large", "no statement"),
        ("M % 16", "no statement"),
        ("no foo", "attention has no argument foo: it has q, k, v, mask"),
        ("no q", "attention must be given q; it must be one of mask, bias, scale"),
        ("D % 0 == 0", "limits has 'D % 0 == 0', which divides by 0; it must divide by 1 or more"),
        ("D == 64; N == M; D == 32", "limits has 'D == 64' and 'D == 32', which no size of 1 to 4096 meets together"),
        ("N == M; N != M", "limits has 'N == M' and 'N != M', which no size of 1 to 4096 meets together"),
        ("M > 100000", "limits has 'M > 100000', which no size of 1 to 4096 meets"),
        ("no mask; always causal", "limits has 'no mask' and 'always causal', which no mask meets together"),
        ("3 axes; 4 axes", "limits has '3 axes' and '4 axes', which no array meets together"),
        ("", "states nothing; it must be like"),
        ("D in 64;" * 100, "800 characters; it may have 500"),
    ],
)
def test_a_wrong_statement_is_refused_and_says_what_it_must_be(text, said):
    with pytest.raises(ValueError) as caught:
        check(refattn.attention, limits=text)
    assert said in str(caught.value)


def strict(asked):
    """A kernel that records what it is asked for, and does not take kindly to anything beyond its limits."""

    def kernel(q, k, v, mask=None):
        asked.append((q.shape, k.shape, v.shape, mask))
        return refattn.attention(q, k, v, mask)

    return kernel


def test_what_lies_beyond_is_not_asked_for_and_enough_inside_is_judged():
    asked = []
    report = check(strict(asked), limits=LIMITS)
    assert report.ok
    assert sum(r.status == "holds" and ".inside_" in r.case.id for r in report.results) >= 40
    for q, k, v, mask in asked:
        assert len(q) == 4
        assert q == k == v
        assert q[-1] in (16, 32)
        assert q[-2] in (16, 32, 48)
        assert mask is None or repr(mask) == "causal()"
    assert report.limits == {"attention": f"{LIMITS} (stated)"}
    assert "--limits" in report.replay(report.results[0].case)


def test_sizes_that_nobody_would_ask_for_are_found_in_the_statement():
    def kernel(x, gamma):
        return refattn.rms_norm(x, gamma)

    report = check(kernel, "rms_norm", limits="E % 80 == 0")
    shapes = {r.case.arguments["x"].shape[-1] for r in report.results if ".inside_" in r.case.id}
    assert shapes
    assert all(e % 80 == 0 for e in shapes)


def test_a_kernel_that_is_wrong_inside_its_stated_limits_is_found_and_found_again():
    def wrong(x, gamma, *, eps=1e-6):
        return refattn.rms_norm(x, gamma)

    report = check(wrong, "rms_norm", limits="E in 64, 128")
    broken = [r.case.id for r in report.results if r.status == "broken"]
    assert broken
    assert all(".inside_" in name for name in broken)
    assert not check(wrong, "rms_norm", only=broken[0], limits="E in 64, 128").ok


class Two(Adapter):
    """Two functions; each refuses what its adapter has not stated."""

    name = "two"

    def __init__(self):
        super().__init__()
        self.limits = {"rms_norm": "E in 64, 128"}
        self.asked = []
        self.functions = {"rms_norm": self.rms_norm, "softmax": self.softmax}

    def rms_norm(self, x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
        self.asked.append(x.shape[-1])
        return refattn.rms_norm(x, gamma, eps=eps, axis=axis, unit_offset=unit_offset)

    def softmax(self, x, axis=-1, where=None):
        if x.shape[-1] % 32:
            raise NotImplementedError("rows of 32")
        return refattn.softmax(x, axis, where)


@pytest.mark.parametrize("as_method", [False, True])
def test_an_adapter_states_its_limits_by_function_and_is_asked_for_others(as_method):
    adapter = Two()
    if as_method:
        adapter.limits = lambda function: "E in 64, 128" if function == "rms_norm" else ""
    report = check(adapter)
    assert set(adapter.asked) == {64, 128}
    assert report.limits["rms_norm"] == "E in 64, 128 (stated)"
    assert report.limits["softmax"].startswith("M in 32, 64, 96")
    assert {r.case.function for r in report.results if ".inside_" in r.case.id} == {"rms_norm", "softmax"}


def test_limits_of_a_function_that_an_adapter_has_not():
    adapter = Two()
    adapter.limits = {"layer_norm": "E in 64"}
    with pytest.raises(ValueError, match="limits has 'layer_norm'; it must be one of rms_norm, softmax"):
        check(adapter)


def test_one_text_for_several_functions_binds_those_that_have_what_it_names():
    report = check(Two(), limits="E in 64; M in 64")
    assert report.limits == {"rms_norm": "E in 64 (stated)", "softmax": "M in 64 (stated)"}
    with pytest.raises(ValueError, match="no size D"):
        check(Two(), limits="E in 64; D in 64")


def test_stated_or_asked_cases_come_again():
    adapter = CallableAdapter(refattn.rms_norm, "rms_norm", "float32", name="norm")
    adapter.limits = "E in 64, 128"
    first, second = (list(all_cases(adapter, None, "standard", 0)) for _ in range(2))
    assert [c.id for c in first] == [c.id for c in second]
    assert any(".inside_" in c.id for c in first)


def test_heads_that_are_stated_get_cases_where_no_letter_has_them():
    report = check(lambda q, k, v: refattn.attention(q, k, v), limits="H == 32; N == 1; D == 128")
    assert report.ok
    assert sum(r.status == "holds" and ".inside_" in r.case.id for r in report.results) >= 20
