"""Kinds of input: that each is among the cases of `check`, and that each finds a kernel that nothing else finds."""

from fnmatch import fnmatch

import pytest

from refattn.testing import matches
from refattn.testing.adapters import CallableAdapter
from refattn.testing.checking import all_cases, run_case
from tests.testing.mutants_inputs import ONE_INPUT


@pytest.fixture(scope="module")
def cases():
    known = {}

    def of(function):
        if function not in known:
            adapter = CallableAdapter(None, function, "float32", name="?")
            known[function] = [c for c in all_cases(adapter, None, "standard", 0) if not c.refuses]
        return known[function]

    return of


@pytest.fixture(autouse=True)
def without_diagnosis(monkeypatch):
    monkeypatch.setattr(matches, "explanations", lambda judgements: {})


def broken(function, call, chosen):
    adapter = CallableAdapter(call, function, "float32", name="mutant")
    return [case.id for case in chosen if run_case(adapter, case).status == "broken"]


@pytest.mark.parametrize("key", ONE_INPUT, ids=":".join)
def test_a_kernel_wrong_for_one_kind_of_input_is_found(key, cases):
    call, pattern = ONE_INPUT[key]
    assert broken(key[0], call, [case for case in cases(key[0]) if fnmatch(case.id, pattern)])


@pytest.mark.slow
@pytest.mark.parametrize("key", ONE_INPUT, ids=":".join)
def test_nothing_else_finds_it(key, cases):
    call, pattern = ONE_INPUT[key]
    assert broken(key[0], call, [case for case in cases(key[0]) if not fnmatch(case.id, pattern)]) == []
