"""Pictures of patterns show what the function does, and that is what its equal dense attention says."""

import inspect

import numpy as np
import pytest

from refattn import masks
from refattn.testing import patterns
from refattn.testing.catalogue import shown
from refattn.testing.subject import mechanisms

SPARSE = [name for name in mechanisms() if name.startswith("sparse/")]
SIZES = [(16, 16), (12, 16), (5, 7)]


def said(subject, given, n, m):
    """How often each query attends to each key, as the arguments of dense attention say."""
    zeros = {"qk": np.zeros((m, 1))} if takes_one(subject) else {"q": np.zeros((n, 1)), "k": np.zeros((m, 1))}
    found = subject.equals.arguments(**{**zeros, **given, "v": np.eye(m)})
    mask, bias = found["mask"], found.get("bias")
    seen = mask.dense(n, m) if isinstance(mask, masks.Mask) else mask
    times = np.where(np.broadcast_to(seen, (*seen.shape[:-2], n, m)), 1 if bias is None else np.exp(bias), 0)
    return np.round(times[(0,) * (times.ndim - 2)])


def takes_one(subject):
    """Whether queries and keys are of the same tokens, so that there are as many."""
    return bool({"qk", "members"} & set(inspect.signature(subject.function).parameters))


@pytest.mark.parametrize(("n", "m"), SIZES)
@pytest.mark.parametrize("mechanism", SPARSE)
def test_a_picture_is_the_pattern_of_the_equal(mechanism, n, m):
    subject = patterns.pictured(mechanism)
    assert subject, f"{mechanism} has no picture: one of its subjects needs 'pictured'"
    n = m if takes_one(subject) else n
    given = subject.pictured(n, m)
    found = patterns.counts(subject, given, n, m)
    assert found.shape == (n, m)
    assert 0 < np.count_nonzero(found) < n * m
    if subject.equals and not {"q", "k", "qk"} & set(given):
        np.testing.assert_array_equal(found, said(subject, given, n, m))


def test_a_number_says_how_often_a_key_counts():
    picture = shown("sparse/gather(indices=[[0, 1, 1], [2, 2, 2], [-1, 0, -1]])", 3, 3)
    assert picture.splitlines()[-3:] == ["  ■ 2 ·", "  · · 3", "  ■ · ·"]
    assert "a number says" in picture


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("sparse/window(left=2, sides=1)", "takes no 'sides'; it takes left, right, mask"),
        ("sparse/window(2)", "arguments go by name"),
        ("sparse/window(left=f(2))", "plain values"),
        ("sparse/window(left=)", "arguments by name"),
        ("sparse/window(left=-1)", "left is -1"),
    ],
)
def test_what_cannot_be_drawn_is_said(name, part):
    with pytest.raises(ValueError, match=part.replace("(", r"\(")):
        shown(name)


def test_other_mechanisms_have_no_pattern():
    with pytest.raises(LookupError, match="norms has no pattern"):
        shown("norms(axis=0)")
