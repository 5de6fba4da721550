"""A limit says nothing where it reaches twice the largest value, and not a little below."""

import numpy as np
import pytest

from refattn.testing.profiles import PROFILES
from refattn.testing.spread import says_nothing


@pytest.mark.parametrize(("limit", "nothing"), [(8.0, True), (7.9, False), (2.0, False), (0.5, False)])
def test_zeros_and_the_opposite_would_pass_within_twice_the_largest_value(limit, nothing):
    want = np.array([1.0, -4.0, 2.0])
    call = ((want,), {})
    assert says_nothing("softmax", "out", PROFILES["bfloat16"], want, np.full(3, limit), *call) == nothing


@pytest.mark.parametrize(("limit", "nothing"), [(1.0, True), (0.9, False)])
def test_any_weights_would_pass_within_the_deviation_of_the_values(limit, nothing):
    q, k, v = np.zeros((1, 2)), np.zeros((2, 2)), np.array([[1.0], [3.0]])
    want = np.array([[2.0]])
    call = ((), {"q": q, "k": k, "v": v})
    assert says_nothing("attention", "out", PROFILES["bfloat16"], want, np.full((1, 1), limit), *call) == nothing
