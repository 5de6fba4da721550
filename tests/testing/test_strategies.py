"""The strategies: what they draw is sound, shrinks to the smallest call, and can be made again from its text."""

import numpy as np
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

import refattn
from refattn.masks import *  # noqa: F403 (the text of a case names rules)
from refattn.testing import assert_matches, compare
from refattn.testing.rounding import round_to
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
