"""What cases are said to have in common: each trait, and the shortest conjunction of them."""

from types import SimpleNamespace

import numpy as np
import pytest

from refattn import masks
from refattn.testing.traits import common, rules_of, traits


def case(**arguments):
    return SimpleNamespace(arguments=arguments)


@pytest.mark.parametrize(
    ("arguments", "said", "not_said"),
    [
        ({"scale": None}, {"no scale"}, {"scale given"}),
        ({"unit_offset": False}, {"no unit_offset"}, {"unit_offset given", "unit_offset=False"}),
        ({"unit_offset": True}, {"unit_offset given", "unit_offset=True"}, {"no unit_offset"}),
        ({"softcap": 2.0}, {"softcap given", "softcap=2.0", "no scale"}, {"no softcap"}),
        ({"rotary_dim": 4}, {"rotary_dim given", "rotary_dim=4"}, {"no rotary_dim"}),
        ({"scaling": ("a", 1)}, {"scaling given"}, {"no scaling", "scaling=('a', 1)"}),
        ({"bias": np.zeros(3)}, {"bias given"}, {"an array as mask", "no bias"}),
        ({"mask": np.ones((3, 3), dtype=bool)}, {"mask given", "an array as mask"}, {"a rule as mask", "no mask"}),
        (
            {"mask": masks.causal() & ~masks.window(2, 0)},
            {"mask given", "a rule as mask", "causal in the mask", "window in the mask"},
            {"an array as mask", "and in the mask", "not in the mask", "no mask"},
        ),
        ({"q": np.zeros(4)}, {"no mask"}, {"q given", "D > 1"}),
    ],
)
def test_what_is_said_of_options(arguments, said, not_said):
    assert said <= traits(case(**arguments))
    assert not not_said & traits(case(**arguments))


@pytest.mark.parametrize(
    ("n", "m", "d", "dv", "said", "not_said"),
    [
        (3, 5, 8, 8, {"N < M", "N != M", "Dv = D", "N > 1", "M <= 16"}, {"N > M", "N = M", "Dv != D", "N < 2", "M > 16"}),
        (5, 3, 8, 4, {"N > M", "N != M", "Dv != D"}, {"N < M", "N = M", "Dv = D"}),
        (4, 4, 1, 1, {"N = M", "D < 2"}, {"N != M", "D > 1"}),
        (2, 16, 1, 2, {"M <= 16", "N > 1", "M % 64 != 0", "Dv > 1"}, {"M > 16", "M % 16 != 0", "N < 2"}),
        (1, 17, 1, 1, {"M > 16", "M <= 64", "M % 16 != 0", "N < 2"}, {"M <= 16", "M > 64"}),
        (1, 256, 1, 1, {"M > 128", "M <= 256"}, {"M > 256", "M % 256 != 0", "M % 16 != 0"}),
    ],
)  # fmt: skip
def test_what_is_said_of_sizes(n, m, d, dv, said, not_said):
    found = traits(case(q=np.zeros((2, n, d)), k=np.zeros((2, m, d)), v=np.zeros((2, m, dv))))
    assert said <= found
    assert not not_said & found


def test_the_rules_of_a_case_are_those_that_are_combined():
    assert rules_of(case(mask=masks.causal() & (masks.window(2, 0) | ~masks.block(3)))) == {"causal", "window", "block"}
    assert rules_of(case(mask=np.ones((3, 3), dtype=bool), scale=1.0)) == set()


def test_what_all_cases_have_and_the_fewest_others():
    wrong = [case(scale=2.0, softcap=1.0), case(scale=2.0, softcap=1.0, bias=np.zeros(3))]
    others = [case(scale=2.0), case(softcap=1.0), case()]
    assert common(wrong, others) == (("scale given", "softcap given"), 0)
    assert common(wrong, [*others, wrong[0]]) == (("scale given", "softcap given"), 1)
    assert common(wrong, []) == ((), 0)
    assert common([], others) == ((), 3)
