"""Kernels with one mistake each, written by hand and not from the list of variants: check finds every one broken.

python tests/testing/test_mutants.py          prints which mutants golden vectors alone, or recipes alone, do not see
"""

import sys
from functools import cache
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from refattn.testing import matches
from refattn.testing.adapters import CallableAdapter
from refattn.testing.checking import all_cases, run_case
from refattn.testing.names import function_named
from refattn.testing.rounding import round_to
from refattn.testing.vectors import load, mechanisms
from tests.testing.mutants import ATTENTION, Kernel
from tests.testing.mutants_more import OTHERS, grouped, normed, right, rotated

MUTANTS = {("attention", name): call for name, call in ATTENTION.items()} | OTHERS
RIGHT = {
    "attention": Kernel(),
    "grouped_query_attention": grouped(right),
    "layer_norm": normed(),
    "rms_norm": normed(centre=False, default=1e-6),
    "rope": rotated(),
}
# What no vector can hold: memory layouts, arrays beyond 2^16 numbers, and behaviour over several calls.
NOT_GOLDEN = {
    "strides_ignored_q", "strides_ignored_k", "strides_ignored_v", "offset_int16",
    "only_first_1024_keys", "query_index_int5", "last_query_zero", "float16_statistics",
}  # fmt: skip
GOLDEN = {case.id for mechanism in mechanisms() for case in load(mechanism)}


def in_format(call, fmt):
    """A kernel that returns numbers of a format."""

    def rounded(*args, **options):
        out = call(*args, **options)
        return (round_to(out[0], fmt), out[1]) if isinstance(out, tuple) else round_to(out, fmt)

    return call if fmt == "float32" else rounded


@cache
def cases(function, fmt):
    adapter = CallableAdapter(function_named(function), function, fmt, name="?")  # it takes all
    return [c for c in all_cases(adapter, None, "standard", 0) if not c.refuses]


def first_broken(function, call, fmt, golden=None):
    """The first case that finds a kernel broken: of all cases, of golden ones only, or of the others only."""
    adapter = CallableAdapter(in_format(call, fmt), function, fmt, name="mutant")
    for case in cases(function, fmt):
        if golden is None or golden == (case.id.rpartition(".")[0] in GOLDEN):
            result = run_case(adapter, case)
            if result.status == "broken":
                return result
    return None


@pytest.fixture
def without_diagnosis(monkeypatch):
    monkeypatch.setattr(matches, "explanations", lambda judgements, suspected: {})


@pytest.mark.parametrize("fmt", ["float32", "bfloat16"])
def test_right_kernels_hold(fmt, without_diagnosis):
    for function, call in RIGHT.items():
        if fmt == "float32" or function in ("attention", "grouped_query_attention"):
            found = first_broken(function, call, fmt)
            assert found is None, found.message


def shown(key):
    return ":".join(key)


@pytest.mark.parametrize("key", MUTANTS, ids=shown)
def test_golden_vectors_find_a_mutant(key, without_diagnosis):
    function, name = key
    found = first_broken(function, MUTANTS[key], "float32", golden=True)
    assert name in NOT_GOLDEN or found is not None
    assert found is None or found.deviation != "refuses valid input", found.message


@pytest.mark.parametrize("key", [key for key in MUTANTS if key[1] in NOT_GOLDEN], ids=shown)
def test_recipes_find_what_vectors_cannot_hold(key, without_diagnosis):
    assert first_broken(*key[:1], MUTANTS[key], "float32", golden=False) is not None


@pytest.mark.slow
@pytest.mark.parametrize("fmt", ["float32", "bfloat16"])
def test_recipes_find_every_mutant(fmt, without_diagnosis):
    """Without the golden vectors, too."""
    wrong = {key: call for key, call in MUTANTS.items() if fmt == "float32" or key[0] == "attention"}
    missed = [key for key, call in wrong.items() if first_broken(key[0], call, fmt, golden=False) is None]
    assert missed == []


if __name__ == "__main__":
    matches.explanations = lambda judgements: {}
    for which in (True, False):
        for function, name in MUTANTS:
            if first_broken(function, MUTANTS[function, name], "float32", golden=which) is None:
                print("golden vectors" if which else "recipes", "do not see", function, name, flush=True)
