"""Options that a kernel must always be given: it is judged with them, and asked for nothing without."""

import numpy as np
import pytest

import refattn
from refattn import masks
from refattn.testing import check
from refattn.testing.coverage import Seen
from refattn.testing.outcome import CheckCase


def of_gelu(call):
    def kernel(x, approximate=None):
        if approximate != "tanh":
            raise NotImplementedError("the one with tanh")
        return call(x)

    return kernel


def of_rope(call):
    def kernel(x, positions, *, base=10000.0, layout="interleaved"):
        if layout != "half" or x.shape[-1] % 32 or x.ndim != 4:
            raise NotImplementedError("halves of 16")
        return call(x, positions, base)

    return kernel


def of_attention(call):
    def kernel(q, k, v, mask=None, *, scale=None, return_lse=False):
        if not return_lse or (mask is not None and repr(mask) != "causal()"):
            raise NotImplementedError("always with its lse")
        return call(q, k, v, mask, scale)

    return kernel


def _lse_of_base_2(*arguments):
    out, lse = refattn.attention(*arguments[:4], scale=arguments[4], return_lse=True)
    return out, lse / np.float32(np.log(2))


def of_norm(call):
    def kernel(x, gamma, beta=None, *, eps=1e-5):
        if beta is None or x.shape[-1] % 64:
            raise NotImplementedError("with a shift")
        return call(x, gamma, beta, eps)

    return kernel


CASES = {
    "gelu": (of_gelu, lambda x: refattn.gelu(x, "tanh"), refattn.gelu, "gelu/exact_for_tanh"),
    "rope": (
        of_rope,
        lambda x, p, b: refattn.rope(x, p, base=b, layout="half"),
        lambda x, p, b: refattn.rope(x, p, base=b),
        "rope/interleaved_pairing",
    ),
    "attention": (
        of_attention,
        lambda q, k, v, mask, scale: refattn.attention(q, k, v, mask, scale=scale, return_lse=True),
        _lse_of_base_2,
        "lse/base_2",
    ),
    "layer_norm": (
        of_norm,
        lambda x, gamma, beta, eps: refattn.layer_norm(x, gamma, beta, eps=eps),
        lambda x, gamma, beta, eps: refattn.layer_norm(x, gamma, eps=eps),
        "layer_norm/beta_dropped",
    ),
}


@pytest.mark.parametrize("function", CASES)
def test_a_right_kernel_conforms_and_a_wrong_one_is_named(function):
    limited, right, wrong, name = CASES[function]
    report = check(limited(right), function)
    assert report.ok
    assert sum(r.status == "holds" and ".inside_" in r.case.id for r in report.results) >= 15
    assert "always" in report.limits[function]
    report = check(limited(wrong), function)
    assert not report.ok
    assert report.causes[0].name == name


def test_what_other_cases_show_cannot_occur_where_an_option_is_always_given():
    def case(number, **options):
        x = np.ones((2, 3))
        return CheckCase(f"attention.some{number}", "attention", (), "float32", {"q": x, "k": x, "v": x, **options})

    for always in (8, 7):
        seen = Seen("attention", lambda *_: "float32")
        for number in range(always):
            seen.note(case(number, scale=0.5, softcap=2.0 if number else None), [], ["out"])
        assert seen._within(case("more", scale=0.25))
        assert seen._within(case("less")) is (always < 8)
        assert not seen._within(case("mask", scale=0.5, mask=masks.causal()))
