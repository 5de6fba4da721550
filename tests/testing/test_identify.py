"""`identify` finds what a kernel does, and which preset it is."""

import json

import numpy as np
import pytest

import refattn
from refattn import cli, feedforward, masks
from refattn.testing import adapters, presets
from refattn.testing.conventions import NOT_ASKED, REFUSES, UNKNOWN, points
from refattn.testing.identify import LAYOUT, Agreement, _found, _Kernel, _nearest, _numbers, as_text, identify
from refattn.testing.rounding import round_to
from refattn.testing.variants import variants


def test_the_reference_follows_itself_everywhere():
    found = identify(refattn.grouped_query_attention, "attention")
    assert not found.variants
    assert all(f.own for f in found.findings), [f for f in found.findings if not f.own]


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "float64"])
def test_the_reference_follows_itself_in_other_precisions(precision):
    assert all(f.own for f in identify(refattn.grouped_query_attention, "attention", precision=precision).findings)


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_called_as_a_kernel_is_identified_as_itself(name):
    found = identify(name)
    preset = presets.get(name)
    first = found.agreements[0]
    own = next(a for a in found.agreements if a.preset == name)
    assert not own.differ, own.differ
    assert (len(first.differ), first.agree) == (0, own.agree)  # nothing agrees with more; presets may be alike
    for f in found.findings:
        theirs = preset.layout if f.point == LAYOUT else preset.answers[f.point]
        assert theirs in (UNKNOWN, NOT_ASKED) or f.answer == theirs, f


_ANSWERS = [(p, a) for p in points() for a in p.answers if len(a.variants) == 1 and not p.name.startswith("heads/")]


@pytest.mark.parametrize(("point", "answer"), _ANSWERS, ids=lambda x: x.name)
def test_a_variant_as_a_kernel_is_named(point, answer):
    """One change in an otherwise right kernel is found at its point."""
    call = next(v.call for v in variants("attention") if v.name == answer.variants[0])

    def kernel(*args, **options):
        try:
            return call(*args, **options)
        except Exception:
            return refattn.attention(*args, **options)

    kernel.__module__ = "somebody"
    found = identify(kernel, layout="bhnd").finding(point.name)
    assert found.answer in (answer.name, NOT_ASKED), found
    if found.answer == NOT_ASKED:
        assert answer.variants[0].startswith(("mask/", "causal/", "bias/"))


def four_axes_of_tokens(q, k, v, causal=False):
    """A kernel on (B, N, H, D) with nothing but a flag that the reference has not."""
    q, k, v = (np.swapaxes(x, 1, 2) for x in (q, k, v))
    return np.swapaxes(refattn.attention(q, k, v, mask=masks.causal() if causal else None), 1, 2)


def arrays_only(q, k, v, mask=None, *, scale):
    """A kernel that takes masks as arrays, and must be given its scale."""
    if mask is not None and not isinstance(mask, np.ndarray):
        raise TypeError("mask must be an array")
    return refattn.attention(q, k, v, mask, scale=scale)


def test_a_kernel_with_few_arguments_is_asked_what_it_takes():
    found = identify(four_axes_of_tokens)
    assert found.layout == "bnhd"
    assert found.finding("mask/boolean").answer == REFUSES
    assert "unexpected keyword" in found.finding("softcap/causal").meaning or (
        found.finding("softcap/causal").answer == NOT_ASKED
    )
    assert found.finding("mask/empty_row").answer == NOT_ASKED
    assert found.finding("values/size").answer == "own"


def test_a_scale_that_must_be_given_is_given_and_rules_become_arrays():
    found = identify(arrays_only)
    assert found.finding("scale/default").answer == REFUSES
    assert found.finding("mask/boolean").answer == "attends"
    square = found.finding("causal/square")
    assert (square.answer, square.meaning.endswith("(as an array)")) == ("own_too", True)
    assert found.finding("causal/fewer_queries").answer == "bottom_right"


def asked(kernel, point, precision):
    """What is found at one point."""
    adapter = adapters.adapt(kernel, "attention", precision=precision, layout="reference")
    return _found(next(p for p in points() if p.name == point), _Kernel(adapter, "attention", kernel, precision), [])


@pytest.mark.parametrize(
    ("precision", "dtype", "tolerance"),
    [
        ("float64", "float64", 2.0**-10),
        ("float32", "float32", 2.0**-10),
        ("float16", "float16", 2.0**-9),
        ("bfloat16", "float32", 2.0**-6),
        ("bfloat16/eager", "float32", 2.0**-6),
        ("float8", "float32", 2.0**-4),
        ("float8/unscaled", "float32", 2.0**-4),
    ],
)
def test_inputs_come_in_the_format_of_a_precision_and_answers_differ_by_more_than_it_rounds(
    precision, dtype, tolerance
):
    def off_by(share):
        def kernel(q, k, v, **options):
            assert {x.dtype.name for x in (q, k, v)} == {dtype}
            assert all(
                np.array_equal(x, round_to(x, precision.split("/")[0])) for x in (q, k, v) if "float8" not in precision
            )
            out = refattn.attention(*(x.astype(np.float64) for x in (q, k, v)), **options)
            return out + share * tolerance * max(1.0, np.abs(out).max())

        return asked(kernel, "mask/default", precision).answer

    assert off_by(0.9) == "none"
    assert off_by(1.1) == UNKNOWN


def test_what_is_no_known_answer_is_shown():
    found = identify(lambda q, k, v, **_: 0 * q + 0.5, layout="bhnd")
    default = found.finding("scale/default")
    assert default.answer == UNKNOWN
    assert "saw 0.5 0.5" in default.meaning
    assert "? the scale" in as_text(found)


@pytest.mark.parametrize(
    ("kernel", "function", "point", "answer"),
    [
        (lambda x, positions, **o: refattn.rope(x, positions, layout="half", **o), "rope", "rope/pairing", "half"),
        (lambda x, positions, **o: refattn.rope(x, positions, layout="half", **o), "rope", "rope/partial", "own"),
        (lambda x, positions, base=1e4: refattn.rope(x, positions), "rope", "rope/base", "ignored"),
        (lambda x, g, **o: refattn.rms_norm(x, g, unit_offset=True, **o), "rms_norm", "rms_norm/gain", "one_plus"),
        (lambda x, g, **o: refattn.rms_norm(x, g, unit_offset=True, **o), "rms_norm", "rms_norm/eps", "inside"),
        (lambda x, **o: refattn.gelu(x, "tanh"), "gelu", "gelu/function", "tanh"),
        (refattn.layer_norm, "layer_norm", "layer_norm/variance", "biased"),
        (
            lambda x, params: refattn.gated_feed_forward(
                x, params._replace(w_gate=params.w_up, w_up=params.w_gate), activation=feedforward.silu
            ),
            "gated_feed_forward",
            "glu/gate",
            "up",
        ),
    ],
)
def test_other_functions_have_points_too(kernel, function, point, answer):
    assert identify(kernel, function).finding(point).answer == answer


def test_the_command_prints_points_and_presets(capsys):
    assert cli.main(["identify", "flash_attn.2"]) == 0
    said = capsys.readouterr().out
    assert "agrees with flash_attn.2\n" in said
    assert "empty_row/lse_plus_infinity (ATTN-EMPTY)" in said
    assert cli.main(["identify", "tests.testing.test_identify:four_axes_of_tokens", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["layout"] == "bnhd"
    assert {"point", "answer", "meaning", "clause", "variants"} <= set(told["findings"][0])


def agreement(name, differ, asked=9):
    return Agreement(name, "measured", asked - differ, asked, tuple((f"p{n}", "own", "other") for n in range(differ)))


@pytest.mark.parametrize(("size", "shown"), [(2, "0 1, shape (2,)"), (6, "0 1 2 3 4 5, shape (6,)")])
def test_six_numbers_of_a_result_are_shown(size, shown):
    assert _numbers(np.arange(float(size))) == shown
    assert _numbers(np.full((7, 1), 1 / 3)) == "0.3333 " * 6 + "..., shape (7, 1)"


def test_the_five_nearest_presets_are_shown_with_four_points_in_which_they_differ():
    lines = list(_nearest([agreement(f"a{n}", n) for n in (3, 4, 5, 6, 7, 8)]))
    assert lines == [
        "agrees with no preset in everything; the nearest is a3",
        "",
        "  a3  measured   6 of  9 points; not p0, p1, p2",
        "  a4  measured   5 of  9 points; not p0, p1, p2, p3",
        "  a5  measured   4 of  9 points; not p0, p1, p2, p3 ...",
        "  a6  measured   3 of  9 points; not p0, p1, p2, p3 ...",
        "  a7  measured   2 of  9 points; not p0, p1, p2, p3 ...",
    ]


def test_presets_are_alike_that_agree_in_everything_and_were_asked_as_much():
    said = lambda *agreements: next(_nearest(list(agreements)))
    assert said(agreement("a", 0), agreement("b", 1)) == "agrees with a"
    assert said(agreement("a", 0), agreement("b", 0, asked=8)) == "agrees with a"
    assert said(agreement("a", 0), agreement("b", 0)) == (
        "agrees with a and b, which these questions do not tell apart"
    )


def test_the_command_refuses_what_it_does_not_know(capsys):
    assert cli.main(["identify", "flash_atn.2"]) == 2
    assert cli.main(["identify", "refattn:softmax", "--function", "softmax"]) == 2
    assert "there are no decision points" in capsys.readouterr().err
