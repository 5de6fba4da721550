"""Presets: complete, combinable, and doing what they say."""

import itertools

import numpy as np
import pytest

import refattn
from refattn import masks
from refattn.testing import assert_matches, catalogue, compare, presets
from refattn.testing.conventions import NOT_ASKED, REFUSES, UNKNOWN, functions, points
from refattn.testing.identify import distance
from refattn.testing.names import function_named
from refattn.testing.presets import composed
from refattn.testing.presets.composed import Uncombinable, attend
from refattn.testing.variants import variants
from refattn.testing.vectors import results

NEEDED = {
    "torch.sdpa.math", "torch.sdpa.cpu_flash", "torch.nn.MultiheadAttention", "torch.flex_attention", "jax.dpa",
    "onnx.attention_23", "onnx.attention_24", "onnx.attention_25", "onnxruntime", "transformers.eager", "mlx",
    "keras.ops", "keras.MultiHeadAttention", "flash_attn.2", "flash_attn.2_0", "flash_attn.3", "xformers",
    "flashinfer", "cudnn.frontend", "vllm", "fla",
}  # fmt: skip


def _values(point):
    """What each answer that can be computed gives, by its name."""
    arguments = point.ask()
    for answer in point.answers:
        if answer.name == REFUSES or answer.shows:
            continue
        given = answer.rewrite(arguments) if answer.rewrite else arguments
        if point.function == "attention":
            value = attend(answer.variants, **given)
        else:
            known = {v.name: v.call for v in variants(point.function)}
            call = known[answer.variants[0]] if answer.variants else function_named(point.function)
            value = call(**given)
        yield answer.name, point.part(np.asarray(results(point.function, value)[point.result], dtype=np.float64))


@pytest.mark.parametrize("point", [p for f in functions() for p in points(f)], ids=lambda p: f"{p.function}-{p.name}")
def test_answers_of_a_point_are_told_apart_by_its_question(point):
    """By more than the tolerance of bfloat16 in attention, of float32 in functions that differ in small numbers only."""
    least = 2.0**-4 if point.function == "attention" else 2.0**-13
    for (one, a), (other, b) in itertools.combinations(_values(point), 2):
        assert distance(a, b) > least, (one, other)


@pytest.mark.parametrize("point", points(), ids=lambda p: p.name)
def test_the_first_answer_is_the_reference_and_the_question_exercises_the_point(point):
    arguments = point.ask()
    assert point.exercised(arguments) or point.name == "mask/low_scores"
    if point.own.name == REFUSES:
        with pytest.raises((ValueError, TypeError)):
            refattn.grouped_query_attention(**arguments)
    elif point.own.shows:
        assert point.own.shows(
            point.part(np.asarray(results("attention", refattn.attention(**arguments))[point.result]))
        )
    else:
        got = np.asarray(results("grouped_query_attention", refattn.grouped_query_attention(**arguments))[point.result])
        assert distance(point.part(got), dict(_values(point))[point.own.name]) < 1e-12


def test_every_point_names_a_clause_and_variants_that_exist():
    known = catalogue.clauses()
    for function in functions():
        names = {v.name for v in variants(function)} | {v.name for v in variants("grouped_query_attention")}
        for point in points(function):
            assert point.clause in known, point.name
            assert {v for a in point.answers for v in a.variants} <= names, point.name


def test_the_presets_that_are_needed_are_there_each_with_its_evidence():
    assert NEEDED <= set(presets.names())
    for name in presets.names():
        p = presets.get(name)
        assert p.title
        assert p.version
        assert p.profiles
        assert p.notes.keys() <= p.answers.keys()


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_answers_every_question_as_it_says(name):
    preset = presets.get(name)
    for point in points():
        answer = preset.answers[point.name]
        arguments = point.ask()
        if preset.answers["scale/default"] == REFUSES and point.name != "scale/default":
            arguments = {"scale": 0.25, **arguments}
        if answer == REFUSES:
            with pytest.raises(presets.Refused):
                preset.attention(**arguments)


@pytest.mark.parametrize("name", presets.names())
def test_all_variants_of_a_preset_combine(name):
    """Every question is answered, refused by name, or refused by the reference where the preset does not know."""
    preset = presets.get(name)
    for point in points():
        try:
            preset.attention(**point.ask())
        except Uncombinable:
            raise
        except presets.Refused:
            continue
        except (ValueError, TypeError):
            if preset.answers[point.name] not in (UNKNOWN, NOT_ASKED, REFUSES):
                raise


def test_variants_that_replace_one_step_are_refused(monkeypatch):
    monkeypatch.setitem(composed._calls(), "always/plain", refattn.attention)
    arguments = {"q": np.ones((2, 4)), "k": np.ones((3, 4)), "v": np.ones((3, 4)), "mask": np.eye(2, 3, dtype=bool)}
    with pytest.raises(Uncombinable, match="empty_row/mean and mask/multiplies both change 'masked'"):
        attend(("empty_row/mean", "mask/multiplies"), **arguments)
    with pytest.raises(Uncombinable, match="does more"):
        attend(("always/plain",), **arguments)


def test_without_variants_it_is_the_reference_nan_included():
    draw = np.random.default_rng(0)
    q, k, v = (draw.normal(size=(2, 5, 4)) for _ in range(3))
    v[0, 1, 2], v[1, 3, 0] = np.nan, np.inf
    for mask in (None, masks.causal(), ~masks.causal()):
        np.testing.assert_allclose(attend((), q, k, v, mask), refattn.attention(q, k, v, mask), rtol=1e-12)


def test_a_window_of_keras_is_symmetric_exclusive_and_at_the_top_left():
    """Three changes of one rule, one after another."""
    k = np.zeros((7, 7))
    w = presets.expected("keras.MultiHeadAttention", k[:3], k, np.eye(7), mask=masks.window(2, 0))
    np.testing.assert_array_equal(w > 0, np.abs(np.arange(3)[:, None] - np.arange(7)) <= 1)


def test_a_result_is_compared_with_a_preset():
    draw = np.random.default_rng(1)
    q, k, v = (draw.normal(size=(2, n, 8)) for n in (3, 7, 7))
    out = presets.expected("torch.sdpa.math", q, k, v, mask=masks.causal()).astype(np.float32)
    (own,) = compare(out, refattn.attention, q, k, v, mask=masks.causal(), preset="torch.sdpa.math")
    (other,) = compare(out, refattn.attention, q, k, v, mask=masks.causal(), preset="flash_attn.2")
    assert own.ok
    assert not other.ok


def test_a_name_that_is_none_is_refused_with_what_is_near():
    with pytest.raises(ValueError, match=r"flash_attn\.2"):
        presets.get("flash_attn2")
    assert "+∞" in catalogue.shown("flash_attn.2")
    assert {name for name, _ in catalogue.listing("presets")} == set(presets.names())


def test_no_two_precisions_are_described_alike():
    listed = catalogue.listing("precisions")
    assert len({text for _, text in listed}) == len(listed)
    assert "multiplied by 256" in dict(listed)["float8"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("bfloat16/eager", "refattn list precisions"),
        ("attention.causal_wide.float32", "refattn replay attention.causal_wide"),
    ],
)
def test_what_another_command_shows_is_said_to_be_there(name, says):
    with pytest.raises(LookupError, match=says):
        catalogue.shown(name)


def test_two_changes_of_what_comes_out_follow_one_another():
    q, k = np.zeros((1, 2)), np.zeros((3, 2))
    mask = np.zeros((1, 3), dtype=bool)
    out, lse = attend(("empty_row/nan", "empty_row/lse_plus_infinity"), q, k, np.eye(3), mask, return_lse=True)
    assert np.isnan(out).all()
    assert np.isposinf(lse).all()


def test_a_result_can_be_compared_with_what_its_implementation_means():
    q, k, v = np.random.default_rng(0).normal(size=(3, 1, 2, 5, 8))
    k, v = np.concatenate([k, k], axis=2), np.concatenate([v, v], axis=2)
    top_left = refattn.attention(q, k, v, masks.causal(), q_positions=np.arange(5))
    asked = (top_left, refattn.attention, q, k, v, masks.causal())
    assert_matches(*asked, precision="float64", preset="torch.sdpa.math")
    with pytest.raises(AssertionError, match="causal/top_left"):
        assert_matches(*asked, precision="float64")
