"""The strategies: what they draw is sound, shrinks to the smallest call, and can be made again from its text."""

import numpy as np
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

import refattn
from refattn.masks import *  # noqa: F403 (the text of a case names rules)
from refattn.testing import assert_matches, compare
from refattn.testing.rounding import round_to
from refattn.testing.stated import parse
from refattn.testing.strategies import NUMBERS, AttentionCase, attention_case, attention_cases, calls, mask_rules


@given(attention_cases())
def test_the_reference_matches_itself_on_every_case(case):
    assert_matches(refattn.attention(**case.arguments), refattn.attention, **case.arguments)


@given(attention_cases("bfloat16", grouped=True))
def test_every_number_is_one_of_the_format(case):
    for x in case.arguments.values():
        if isinstance(x, np.ndarray) and x.dtype.kind == "f":
            np.testing.assert_array_equal(round_to(x, "bfloat16"), x)
    refattn.grouped_query_attention(**case.arguments)


@given(attention_cases())
def test_a_case_can_be_made_again_from_its_text(case):
    again = eval(repr(case), {**globals(), "attention_case": attention_case}).arguments
    assert again.keys() == case.arguments.keys()
    for name, x in case.arguments.items():
        if isinstance(x, np.ndarray):
            np.testing.assert_array_equal(again[name], x)
        else:
            assert repr(again[name]) == repr(x)


@given(attention_cases())
def test_sizes_differ_so_that_exchanged_axes_cannot_hide(case):
    n, m = case.arguments["q"].shape[-2], case.arguments["k"].shape[-2]
    assert n != m
    assert case.arguments["q"].shape[-1] not in (n, m)


@given(attention_cases(options=("mask",), numbers=("poison",), empty=False))
def test_poison_is_in_a_key_that_nobody_sees(case):
    poisoned = np.isnan(case.arguments["k"]).any(axis=(0, 1, 3))
    assert poisoned.sum() == 1
    assert not case.arguments["mask"][..., poisoned].any()
    assert np.isfinite(refattn.attention(**case.arguments)).all()


@given(st.from_type(refattn.Mask), st.from_type(AttentionCase))
def test_types_are_enough(mask, case):
    assert mask.dense(5, 9).shape == (5, 9)
    assert case.arguments["q"].ndim == 4


@pytest.mark.parametrize("examples", [150, pytest.param(600, marks=pytest.mark.slow)])
def test_every_rule_and_every_kind_of_numbers_is_drawn(examples):
    rules, kinds = set(), set()

    @settings(max_examples=examples, derandomize=True, database=None)
    @given(mask_rules(), attention_cases(largest=6))
    def look(mask, case):
        rules.update(name for name in ("and", "or", "not") if mask.name == name)
        rules.update(
            text.split("(")[0] for text in repr(mask).replace("~", " ").replace("(", "( ").split() if "(" in text
        )
        kinds.add(case.made_by["numbers"])

    look()
    assert kinds == set(NUMBERS)
    assert {"causal", "window", "padding", "prefix", "global_tokens", "fixed", "and", "or", "not"} <= rules


def test_the_least_rules_are_drawn():
    seen = set()

    @settings(max_examples=200, derandomize=True, database=None)
    @given(mask_rules(largest=1, depth=1))
    def look(mask):
        seen.add(repr(mask))

    look()
    least = {
        "padding(lengths=0, starts=0)",
        "prefix(lengths=0)",
        "block(size=1)",
        "chunked(size=1)",
        "strided(stride=1)",
    }
    least |= {"fixed(stride=1, summary=1)", "dilated(left=None, right=None, dilation=1)", "window(left=0, right=0)"}
    assert seen >= least | {"neighbours(size=1, before=0, after=0)"}
    assert not seen & {"padding(lengths=2, starts=0)", "prefix(lengths=2)", "block(size=2)", "window(left=2, right=0)"}


def wrong(kernel):
    def differs(case):
        got = kernel(**case.arguments)
        return not all(c.ok for c in compare(got, "attention", explain=False, **case.arguments))

    return differs


def top_left(q, k, v, mask=None, **options):
    positions = None if mask is None or isinstance(mask, np.ndarray) else np.arange(q.shape[-2])
    return refattn.attention(q, k, v, mask, q_positions=positions, **options)


@pytest.mark.parametrize(
    ("kernel", "smallest"),
    [
        (top_left, {"b": 1, "h": 1, "n": 1, "m": 2}),
        (
            lambda q, k, v, mask=None, *, softcap=None, **rest: refattn.attention(q, k, v, mask, **rest),
            {"n": 1, "m": 2},
        ),
        (lambda q, k, v, **rest: refattn.attention(q, k, v[:, ::-1], **rest), {"b": 1, "h": 2, "n": 1, "m": 2}),
    ],
    ids=["top left", "softcap ignored", "heads exchanged"],
)
def test_a_failure_shrinks_to_the_smallest_call(kernel, smallest):
    found = find(
        attention_cases(), wrong(kernel), settings=settings(max_examples=2000, derandomize=True, database=None)
    )
    assert smallest.items() <= found.made_by.items()
    assert len(found.made_by.get("options", ())) <= 1
    assert found.made_by["numbers"] == "normal"


WITHIN = {
    "D in 64, 128; N == M; M % 16 == 0; D == Dv; causal": "attention",
    "M >= 512; N == 1; always causal; no bias": "attention",
    "N < M; 4 axes; B == 1; H == 8; no mask": "attention",
    "H / G in 2, 4; D in 80": "grouped_query_attention",
}


@pytest.mark.parametrize("limits", [*WITHIN])
def test_cases_lie_inside_stated_limits_and_differ_there(limits):
    stated, cases, tried = parse(limits, WITHIN[limits]), [], []
    grouped = WITHIN[limits] != "attention"

    @settings(max_examples=40, derandomize=True, database=None, deadline=None)
    @given(st.data())
    def look(data):
        tried.append(1)
        cases.append(data.draw(attention_cases(limits=limits, grouped=grouped)))

    look()
    assert len(cases) > 0.9 * len(tried), "hardly anything is drawn in vain"
    for case in cases:
        assert not stated.beyond(case.arguments), case
    assert len({case.arguments["k"].shape for case in cases}) > 3
    assert len({case.made_by["numbers"] for case in cases}) > 3
    masks_drawn = {
        repr(case.arguments.get("mask")) for case in cases if not hasattr(case.arguments.get("mask"), "shape")
    }
    assert masks_drawn == {"None", "causal()"} if "; causal" in limits else masks_drawn


@pytest.mark.parametrize(
    ("function", "limits"),
    [
        ("rms_norm", "E in 64, 128"),
        ("attention", "D in 64; D == Dv; M % 16 == 0; 4 axes; causal"),
        ("multi_head_attention", "H == 8; E % 64 == 0; no bias"),
        ("latent.multi_head_latent_attention", "R == 48; Dr in 8, 16"),
    ],
)
def test_calls_lie_inside_stated_limits(function, limits):
    drawn, tried = [], []

    @settings(max_examples=25, derandomize=True, database=None, deadline=None)
    @given(st.data())
    def look(data):
        tried.append(1)
        drawn.append(data.draw(calls(function, limits=limits)))

    look()
    assert len(drawn) > 0.8 * len(tried), "little is drawn in vain"
    assert not any(parse(limits, function).beyond(arguments) for arguments in drawn)


def test_limits_that_nothing_meets_are_refused():
    for limits, said in (("N > M; M > N", "no sizes"), ("3 axes", "4 axes"), ("Q == 3", "no size Q")):
        with pytest.raises(ValueError, match=said):
            find(attention_cases(limits=limits), lambda case: True)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("options", [(), ("scale",)])
def test_large_numbers_are_large_scores(dtype, options):
    for seed in range(8):
        given = attention_case(
            b=2, h=4, groups=2, n=5, m=7, d=8, dv=3, numbers="large", seed=seed, dtype=dtype, options=options
        )
        q, k = (np.asarray(given.arguments[x], np.float64) for x in "qk")
        top = np.abs(q @ np.swapaxes(np.repeat(k, 2, axis=1), -1, -2)).max() * (0.3 if options else 8**-0.5)
        assert 99 <= top <= 10100


def without_maximum(q, k, v, mask=None):
    if q.shape[-1] not in (64, 128) or q.shape[-2] != k.shape[-2] or repr(mask) != "causal()":
        raise NotImplementedError
    with np.errstate(all="ignore"):
        weights = np.exp(q @ np.swapaxes(k, -1, -2) / np.float32(q.shape[-1] ** 0.5)) * mask.dense(*q.shape[-2:-1] * 2)
        return weights / weights.sum(-1, keepdims=True) @ v


def test_large_scores_inside_limits_show_a_softmax_without_its_maximum():
    cases = attention_cases(
        options=("mask",), numbers=("normal", "large"), limits="D in 64, 128; N == M; always causal", largest=8
    )
    found = find(cases, wrong(without_maximum), settings=settings(max_examples=200, derandomize=True, database=None))
    assert found.made_by["numbers"] == "large"


@pytest.mark.parametrize("wrong", [{"options": "scale"}, {"options": ("slope",)}, {"numbers": ("random",)}])
def test_an_unknown_name_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        find(attention_cases(**wrong), lambda case: True)
    made = {name: value[0] if name == "numbers" else value for name, value in wrong.items()}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        attention_case(**made)


@pytest.mark.slow
def test_calls_of_any_function_shrink_to_what_matters():
    """A fault beyond 16 keys shrinks to 17 of them, with no option that does not matter."""

    def fails(arguments):
        return arguments["k"].shape[-2] > 16

    found = find(calls("attention"), fails, settings=settings(derandomize=True, database=None, max_examples=500))
    assert found["k"].shape == (1, 1, 17, 2)
    assert found["q"].shape == (1, 1, 1, 2)
    assert found["mask"] is None
    assert found.keys() == {"q", "k", "v", "mask", "return_lse"}
