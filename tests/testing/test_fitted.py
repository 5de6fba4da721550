"""Calls that a kernel refuses are moved to what it takes, whatever function it is of."""

import numpy as np
import pytest

import refattn
from refattn import masks
from refattn.testing import check
from refattn.testing.checking import all_cases
from refattn.testing.fitted import fitted
from refattn.testing.foothold import Asked, survey
from refattn.testing.sizes import _choices, _named, resized, sizes_of


def fused_norm(x, gamma, *, eps=1e-6):
    """RMSNorm over two axes, the last a multiple of 128."""
    if x.ndim != 2 or x.shape[-1] % 128:
        raise NotImplementedError("the shape of x")
    return refattn.rms_norm(x, gamma, eps=eps)


def decoding(attend):
    def kernel(q, k, v):
        right = q.ndim == 4 and q.shape[-2] == 1 and k.shape[-2] % 16 == 0 and q.shape[-1] == v.shape[-1] == 64
        if not right or q.shape[1] // k.shape[1] not in (2, 4):
            raise NotImplementedError("one query, pages of 16 keys")
        return attend(q, k, v)

    return kernel


def eight_heads(q, k, v, mask=None):
    if q.shape[-3] != 8:
        raise NotImplementedError("eight heads, of any size")
    return refattn.grouped_query_attention(q, k, v, mask)


def square_gradient(mask_of):
    def kernel(d_out, q, k, v, *, mask=None):
        if q.ndim != 4 or q.shape != v.shape or k.shape != q.shape or q.shape[-1] not in (64, 128):
            raise NotImplementedError("N = M, D = Dv")
        if mask is not None and repr(mask) != "causal()":
            raise NotImplementedError("causal or nothing")
        found = refattn.attention_vjp(d_out, q, k, v, mask=mask_of(mask))
        return {"q": found.q, "k": found.k, "v": found.v}

    return kernel


def judged(report):
    return sum(r.status == "holds" and ".inside_" in r.case.id for r in report.results)


@pytest.mark.parametrize(
    "function, right, least",
    [
        ("rms_norm", fused_norm, 10),
        ("grouped_query_attention", decoding(refattn.grouped_query_attention), 20),
        ("attention_vjp", square_gradient(lambda mask: mask), 20),
        ("grouped_query_attention", eight_heads, 20),
    ],
    ids=["norm", "decode", "gradient", "heads"],
)
def test_a_right_kernel_is_judged_inside_its_limits(function, right, least):
    report = check(right, function)
    assert report.ok
    assert judged(report) >= least
    assert report.limits[function] in " ".join(str(report).split())


def test_a_wrong_norm_is_found_and_named():
    report = check(lambda x, gamma, *, eps=1e-6: fused_norm(x, gamma), "rms_norm")
    assert [cause.name for cause in report.causes] == ["rms_norm/eps_ignored"]


def test_wrong_groups_are_found_and_named():
    def tiled(q, k, v):
        group = q.shape[1] // k.shape[1]
        return refattn.attention(q, np.tile(k, (1, group, 1, 1)), np.tile(v, (1, group, 1, 1)))

    report = check(decoding(tiled), "grouped_query_attention")
    assert [cause.name for cause in report.causes] == ["gqa/tiled"]


def test_a_gradient_that_ignores_its_mask_is_found():
    report = check(square_gradient(lambda mask: None), "attention_vjp")
    assert {r.deviation for r in report.results if r.status == "broken"}
    assert "N = M of any size" in report.limits["attention_vjp"]
    assert "D in 64, 128" in report.limits["attention_vjp"]


def test_a_moved_case_is_found_again_by_its_id():
    cases = {c.id: c for c in all_cases(check_adapter(fused_norm, "rms_norm"), None, "standard", 0)}
    again = [c for c in all_cases(check_adapter(fused_norm, "rms_norm"), None, "standard", 0) if ".inside_" in c.id]
    assert again
    for case in again:
        assert case.arguments["x"].tobytes() == cases[case.id].arguments["x"].tobytes()
    (result,) = check(fused_norm, "rms_norm", only=again[0].id).results
    assert result.status == "holds"


def check_adapter(call, function):
    from refattn.testing.adapters import CallableAdapter

    return CallableAdapter(call, function, "float32", name="kernel")


def test_a_kernel_that_takes_everything_gets_no_further_cases_and_none_that_takes_nothing():
    def nothing(x, gamma, **options):
        raise NotImplementedError("nothing")

    for kernel in (refattn.rms_norm, nothing):
        report = check(kernel, "rms_norm")
        assert not report.limits
        assert not any(".inside_" in r.case.id for r in report.results)


def test_what_is_taken_is_said_letter_by_letter_and_calls_move_to_the_next_size():
    def kernel(q, k, v, mask=None, *, scale=None):
        if q.ndim != 4 or k.shape[-2] % 16 or q.shape[-1] != v.shape[-1] or q.shape[-1] not in (64, 128):
            raise NotImplementedError
        return 0 * q

    draw = np.random.default_rng(0).normal
    small = {"q": draw(size=(3, 6)), "k": draw(size=(5, 6)), "v": draw(size=(5, 4)), "scale": 0.5}
    large = {"q": draw(size=(2, 9, 100)), "k": draw(size=(2, 300, 100)), "v": draw(size=(2, 300, 4)), "softcap": 2.0}
    asked = Asked(kernel)
    at = survey(asked, "attention", [small, large])
    moved = fitted(asked, "attention", at, [("small", ("ATTN-OUT",), small), ("large", ("ATTN-OUT",), large)])
    assert str(at) == ("2 leading axes; M in 16, 32, 64, 96, 128, 192, 256; D = Dv in 64, 128; N of any size")
    found = {name: {n: np.shape(x) for n, x in arguments.items()} for name, _, arguments in moved}
    assert found == {
        "inside_small": {"q": (1, 1, 3, 64), "k": (1, 1, 16, 64), "v": (1, 1, 16, 64), "scale": ()},
        "inside_large": {"q": (1, 2, 16, 128), "k": (1, 2, 256, 128), "v": (1, 2, 256, 128)},
    }
    np.testing.assert_array_equal(moved[0][2]["k"][0, 0, -5:, -6:], small["k"])
    np.testing.assert_array_equal(moved[1][2]["k"][0, :, :, -100:], large["k"][:, -256:])


def test_rows_move_to_the_front_and_axes_are_added():
    q, k, v = np.ones((5, 4)), np.ones((7, 4)), np.arange(21.0).reshape(7, 3)
    given = {"q": q, "k": k, "v": v, "mask": masks.causal()}
    assert sizes_of("attention", given) == {"N": 5, "D": 4, "M": 7, "Dv": 3}
    moved = resized("attention", given, {"M": 16, "Dv": 3}, axes=2)
    assert moved["v"].shape == (1, 1, 16, 3)
    assert np.array_equal(moved["v"][0, 0, 9:], v), "queries and keys are aligned at the end"
    assert given["v"] is v


def test_an_array_of_fewer_axes_has_the_last_letters():
    given = {"q": np.ones((5, 4)), "k": np.ones((7, 4)), "v": np.ones((7, 3)), "bias": np.ones(6)}
    axes = lambda shape: _choices(_named("attention", "bias"), np.ones(shape))
    assert axes(6) == [(False, ("M",))]
    assert axes((5, 7)) == [(True, ("N", "M"))]
    assert axes(()) == [(False, ())]
    assert sizes_of("attention", {**given, "bias": np.ones(7)})["M"] == 7
    assert resized("attention", {**given, "bias": np.ones(7)}, {"M": 16})["bias"].shape == (16,)
