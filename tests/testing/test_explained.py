"""What a message says besides a variant's name: rounding at the tier that failed, inputs, rows, bounds too wide to judge."""

import numpy as np
import pytest

import refattn
from refattn import masks
from refattn.testing import assert_matches, check, compare, matches, registry
from refattn.testing.adapters import CallableAdapter
from refattn.testing.checking import CheckCase, run_case
from refattn.testing.diagnosis import FITS
from refattn.testing.rounding import round_to
from refattn.testing.variants import variants
from tests.kernels import flash


def qkv(seed=0, n=5, m=33, d=16, fmt="float32"):
    draw = np.random.default_rng(seed)
    return tuple(round_to(draw.normal(size=(1, 2, size, d)), fmt) for size in (n, m, m))


def message(got, *args, **options):
    with pytest.raises(AssertionError) as caught:
        assert_matches(got, *args, **options)
    return str(caught.value)


def test_profiles_whose_bound_is_the_failed_one_do_not_explain_each_other():
    q, k, v = qkv(m=65, d=64)
    out = refattn.attention(q, k, v)
    limit = compare(out, refattn.attention, q, k, v)[0]
    assert limit.tier == "statistical"
    wrong = out + np.float64(2.5) * limit.error_bound * np.sign(
        out
    )  # within the hard bound, beyond the statistical one
    for precision in ("float32", "float32/eager"):
        (found,) = compare(wrong, refattn.attention, q, k, v, precision=precision)
        assert found.hard <= 1 < found.statistical
        assert not [e.name for e in found.explanations if e.fit <= 2 and e.name.startswith("float32")]


def test_what_fits_without_an_error_is_said_to_fit_exactly():
    q, k, v = (np.array(x) for x in ([[1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]], [[0.0], [2.0]]))
    got = np.array([[0.0]])
    assert "causal/top_left (clause ATTN-ALIGN), which fits exactly" in message(
        got, refattn.attention, q, k, v, mask=masks.causal(), precision="float32"
    )


def test_inputs_that_hold_no_numbers_of_the_format_are_the_reason():
    q, k, v = (3 * x for x in qkv(n=33))
    low = [round_to(x, "bfloat16") for x in (q, k, v)]
    out = round_to(refattn.attention(*low, masks.causal()), "bfloat16")
    text = message(out, refattn.attention, q, k, v, mask=masks.causal(), precision="bfloat16")
    assert "q, k and v are not rounded to bfloat16; with them rounded it matches" in text
    assert "Another precision" not in text
    text = message(out, refattn.attention, q, *low[1:], mask=masks.causal(), precision="bfloat16")
    assert "q is not rounded to bfloat16" in text


@pytest.mark.parametrize(
    ("options", "of_row", "words"),
    [
        ({"dropout": (np.arange(5)[:, None] != np.zeros(33), 0.5)}, 0, "the rows whose visible keys were all dropped"),
        ({"mask": np.broadcast_to(np.arange(5)[:, None] > 0, (5, 33))}, 0, "the empty rows (no key is visible)"),
    ],
)
def test_rows_in_which_nan_differs_are_described_and_the_rest_is_compared(options, of_row, words):
    q, k, v = qkv()
    out = refattn.attention(q, k, v, **options)
    out[..., of_row, :] = np.nan
    text = message(out, refattn.attention, q, k, v, **options)
    assert f"They are {words}." in text
    assert "Everything else matches." in text
    out[..., 3, 0] += 1
    assert "The rest is wrong as well: by up to" in message(out, refattn.attention, q, k, v, **options)


def test_rows_that_see_a_nan_are_described():
    q, k, v = qkv()
    v[0, 1, 7, 2] = np.nan
    see = masks.causal().dense(5, 33) & (np.arange(33) != 7) | (np.arange(5)[:, None] == 4)
    out = refattn.attention(q, k, v, see)
    assert "rows that see NaN among the values" in message(np.nan_to_num(out), refattn.attention, q, k, v, see)


def many_small_weights():
    """One key that takes half of the weight, and thousands that share the rest."""
    q, k, v = qkv(n=2, m=4096, d=8, fmt="float8_e4m3fn")
    return {"q": q / 64, "k": k, "v": v, "bias": np.where(np.arange(4096) == 0, 8.0, 0.0)[None]}


def test_bounds_that_are_wider_than_the_values_are_apart_judge_nothing():
    """Weights below 2^-11 vanish in e4m3 unless they are scaled up, so without prescale nearly anything is allowed."""
    given = many_small_weights()
    wrong = refattn.attention(**given) + 1
    text = message(wrong, refattn.attention, **given, precision="float8/unscaled", tier="hard")
    assert "these inputs cannot be judged at float8/unscaled" in text
    right = round_to(refattn.attention(**given), "bfloat16")
    assert_matches(right, refattn.attention, **given, precision="float8/unscaled", tier="hard")
    text = message(wrong, refattn.attention, **given, precision="float8", tier="hard")
    assert "cannot be judged" not in text


def test_a_gradient_that_is_zero_can_be_judged():
    q, k, v = qkv(m=1)
    d_out = np.ones_like(q)
    found = compare(refattn.attention_vjp(d_out, q, k, v), refattn.attention_vjp, d_out, q, k, v, precision="bfloat16")
    assert all(c.ok for c in found)


def test_a_case_that_cannot_be_judged_is_no_pass_and_no_failure():
    kernel = CallableAdapter(lambda **given: refattn.attention(**given) + np.float32(1), precision="float8/unscaled")
    case = CheckCase("attention.flat", "attention", ("ATTN-OUT",), "float8_e4m3fn", many_small_weights())
    result = run_case(kernel, case)
    assert result.status == "unsupported"
    assert "cannot be judged at float8/unscaled" in result.reason


@pytest.mark.parametrize("precision", ["float8", "float8/unscaled"])
def test_a_callable_may_promise_float8(precision):
    def kernel(q, k, v, mask=None):
        gain = 256.0 if precision == "float8" else 1.0
        return flash(*(np.asarray(x, np.float64) for x in (q, k, v)), mask, precision=precision, gain=gain)[0]

    report = check(kernel, precision=precision, only="attention.key_tail*")
    assert report.count("broken") == 0
    assert report.count("holds") > 3


def test_a_variant_is_held_to_the_bound_around_itself():
    """Halves for pairs with tables in float32: off by more than the bound of pairs allows where angles are small."""
    draw = np.random.default_rng(0)
    x, positions = round_to(draw.normal(size=(9, 64)), "float32"), np.arange(9) * 1000
    inverse = np.float32(1) / np.float32(10000) ** (np.arange(0, 64, 2, dtype=np.float32) / np.float32(64))
    angles = positions.astype(np.float32)[:, None] * inverse
    left, right, c, s = x[:, :32], x[:, 32:], np.cos(angles), np.sin(angles)
    got = np.concatenate([left * c - right * s, right * c + left * s], -1)
    (found,) = compare(round_to(got, "float32"), "rope", x, positions)
    assert found.explanations[0].name == "rope/half_pairing"
    assert found.explanations[0].fit <= 2


def test_a_cause_must_fit_every_result():
    q, k, v = qkv()
    by_name = {x.name: x for x in variants("attention")}
    out = by_name["scale/none"].call(q, k, v)
    lse = refattn.attention(q, k, v, return_lse=True)[1] + 1
    found = compare((out, lse), refattn.attention, q, k, v, return_lse=True)
    assert not [e for c in found for e in c.explanations if e.fit <= 2]
    assert "no one variant all results; out alone: scale/none" in str(found[0])


def suspect(call, suspected, function="attention", **given):
    found = compare(call(**given), function, explain=False, **given)
    return [e.name for c in matches.named(found, suspected) for e in c.explanations if e.fit <= FITS]


def test_of_suspected_variants_those_that_explain_a_call_are_enough():
    rng = np.random.default_rng(5)
    q, k, v = (rng.normal(size=(2, n, 8)).astype(np.float32) for n in (5, 9, 9))
    given = {"q": q, "k": k, "v": v, "mask": masks.causal() & masks.window(2, 0)}
    top_left = lambda q, k, v, mask: refattn.attention(q, k, v, mask, q_positions=np.arange(q.shape[-2]))
    every = suspect(top_left, (), **given)
    assert len(every) > 1
    assert "mask/top_left" in every
    assert suspect(top_left, {"mask/top_left", "scale/twice"}, **given) == ["mask/top_left"]
    assert suspect(top_left, {"scale/twice", "tail/zeros"}, **given) == every  # neither does: all are asked about


def test_of_a_large_gradient_one_head_is_looked_at(monkeypatch):
    rng = np.random.default_rng(6)
    arrays = rng.normal(size=(4, 3, 300, 8)).astype(np.float32)
    wrong = refattn.attention_vjp(*arrays, scale=0.25)[:3]
    seen, evaluated = [], registry.Variant.results

    def watched(self, args, kwargs):
        seen.append(kwargs["q"].shape)
        return evaluated(self, args, kwargs)

    monkeypatch.setattr(registry.Variant, "results", watched)
    found = compare(dict(zip("qkv", wrong, strict=True)), "attention_vjp", *arrays, scale=0.5)
    assert [c.explanations[0].name for c in found] == ["scale/other"] * 3
    assert set(seen) == {(1, 300, 8)}
