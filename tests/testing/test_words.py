"""What a comparison says, word for word: with explanations that are made for it."""

import numpy as np
import pytest

from refattn.testing.diagnosis import Explanation
from refattn.testing.matches import SMALL_VALUES, Comparison
from refattn.testing.variants import Variant


def variant(name, **more):
    return Variant(name, "SOME-CLAUSE", "softmax", print, f"Meaning of {name}.", **more)


def explained(*fits, alone=np.inf, **more):
    return [Explanation(f"v{n}", fit, variant(f"v{n}", **more), alone) for n, fit in enumerate(fits)]


def compared(**more):
    basis = {"verdict": "outside", "hard": 3.0, "outside": 2, "size": 1234, "worst": (0, 3)}
    numbers = {"got": 2.0, "want": 1.0, "error_bound": 0.25, "ulps": 1e6}
    return Comparison("softmax", "out", "bfloat16", **(basis | numbers | more))


HEAD = (
    "softmax: 2 of 1,234 elements lie outside the hard bound of bfloat16 (worst 3x, at [0, 3]: got 2, want 1 ± 0.25;"
    " 1e+06 ulp)."
)
UNKNOWN = "Rounding does not explain it, and no known variant does"


def why(**more):
    """What follows the first line."""
    head, *rest = str(compared(**more)).splitlines()
    assert head == HEAD
    return rest


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"verdict": "missing", "want": (2, 3)}, "None is returned for this gradient, and it has one, of shape (2, 3)"),
        ({"verdict": "shape", "got": (3,), "want": (2,)}, "the result has shape (3,), it must have (2,)."),
        ({"verdict": "equal", "hard": 0.0}, "matches; the worst error is 0x of the hard bound of bfloat16."),
        (
            {"verdict": "within hard", "hard": 0.25, "statistical": 1.5},
            "matches; the worst error is 0.25x of the hard bound of bfloat16, 1.5x of the statistical one.",
        ),
        ({"verdict": "cannot be judged"}, "its bound is wider than the values are apart (at [0, 3]: got 2, want 1 ± 0.25)"),
        ({"error_bound": 0.0, "ulps": 0.0}, "2 of 1,234 elements differ (at [0, 3]: got 2, want 1)."),
        ({"error_bound": 0.0, "ulps": 1.0}, "outside the hard bound of bfloat16 (worst 3x"),
        ({"error_bound": 0.25, "ulps": 0.0}, "outside the hard bound of bfloat16 (worst 3x"),
        ({"hard": np.inf}, "(worst infinitely far, at"),
        ({"tier": "statistical", "statistical": 5.0}, "outside the statistical bound of bfloat16 (worst 5x"),
    ],
)  # fmt: skip
def test_the_verdict_is_said_with_its_numbers(more, text):
    assert text in str(compared(**more)).splitlines()[0]


def test_the_head_names_the_result_unless_it_is_the_output():
    assert str(compared(verdict="equal")).startswith("softmax: ")
    lse = Comparison("softmax", "lse", "float32", "equal")
    assert str(lse).startswith("softmax (lse): ")


@pytest.mark.parametrize(("hard", "holds"), [(0.5, True), (1.0, True), (1.1, False)])
def test_where_the_hard_bound_holds_it_is_said(hard, holds):
    text = str(compared(tier="statistical", statistical=5.0, hard=hard))
    assert (f"The hard bound holds ({hard:.2g}x)" in text) == holds
    assert "The hard bound holds" not in str(compared(hard=hard))


@pytest.mark.parametrize(
    ("finite", "said"),
    [(1.0, "Everything else matches."), (2.5, "The rest is wrong as well: by up to 2.5x of the bound.")],
)
def test_of_special_values_it_is_said_how_the_rest_is(finite, said):
    lines = str(compared(verdict="special values", finite=finite, rows="They are the last.")).splitlines()
    assert lines[0] == (
        "softmax: 2 of 1,234 elements are NaN or infinite where the reference is not, or the reverse"
        " (at [0, 3]: got 2, want 1)."
    )
    assert lines[1:3] == ["They are the last.", said]


def test_where_it_is_wrong_and_how_to_see_it_again_stand_around_the_reason():
    assert why(where="rows 2 of 9", replay="again", reason="q is not rounded") == [
        "Only in rows 2 of 9.",
        "q is not rounded",
        "Replay: again",
    ]


def test_a_variant_that_fits_is_named_with_the_next_best():
    assert why(explanations=explained(0.5, 50.0)) == [
        "Rounding does not explain it; this does: v0 (clause SOME-CLAUSE), which fits within 0.5x of the bound; the next"
        " best is 50x away.",
        "  v0: Meaning of v0.",
    ]
    assert why(explanations=explained(0.0))[0].endswith("which fits exactly.")
    assert why(explanations=explained(2.0))[0].endswith("which fits within 2x of the bound.")
    more = {"seen": ("here", "there"), "advice": "pass x"}
    assert why(explanations=explained(0.5, **more))[2:] == ["  Seen in: here, there.", "  If you mean that: pass x."]


def test_six_that_inputs_do_not_tell_from_it_are_named():
    alike = "  These inputs do not tell it from: v1, v2, v3, v4, v5, v6"
    assert why(explanations=explained(*[0.5] * 7))[2] == f"{alike}."
    assert why(explanations=explained(*[0.5] * 9))[2] == f"{alike} and 2 more."


@pytest.mark.parametrize(("fit", "near"), [(2.1, True), (10.0, True), (10.1, False)])
def test_the_nearest_is_named_within_ten_bounds(fit, near):
    nearest = f"; the nearest is v0 at {fit:.3g}x of the bound" if near else ""
    assert why(explanations=explained(fit, 500.0)) == [f"{UNKNOWN}{nearest}."]
    assert why() == [f"{UNKNOWN}."]


def test_what_explains_this_result_alone_is_named_the_nearest_first():
    some = [Explanation(f"v{n}", 9.0, variant(f"v{n}"), alone) for n, alone in enumerate((2.0, 2.1, 0.5))]
    assert why(explanations=some) == [
        "Rounding does not explain it, and no one variant all results; out alone: v2, v0."
    ]
    assert why(explanations=explained(*[9.0] * 8, alone=1.0))[0].endswith("out alone: v0, v1, v2, v3, v4, v5.")


def test_what_other_cases_refute_is_named():
    (said,) = why(refuted=tuple("abcdefgh"))
    assert said.startswith("Rounding does not explain it, and no known variant does in all cases of this run.")
    assert "This case alone fits a, b, c, d, e, f, but other cases do not" in said


def test_rounding_is_said_to_be_rounding():
    assert why(explanations=[Explanation("tf32", 0.75), *explained(0.5)]) == [
        "Another precision explains it: tf32, within 0.75x of its bound."
    ]
    (said,) = why(explanations=[Explanation(SMALL_VALUES, 0.75)])
    assert said.startswith("Only small values are off")


def test_a_wrong_shape_is_explained_by_the_first():
    lines = str(compared(verdict="shape", got=(3,), want=(2,), explanations=explained(0.5, 0.5))).splitlines()
    assert lines[1:] == ["This gives that shape and its numbers: v0.", "  v0: Meaning of v0."]
