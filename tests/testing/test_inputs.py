"""Kinds of input: that each is among the cases of `check`, and that each finds a kernel that nothing else finds."""

import inspect
from fnmatch import fnmatch

import numpy as np
import pytest

from refattn.positions import NTK, DynamicNTK, Linear, Llama3, LongRoPE, YaRN
from refattn.testing import matches, vectors
from refattn.testing.adapters import CallableAdapter
from refattn.testing.checking import all_cases, run_case
from refattn.testing.nested import leaves, records
from tests.testing.mutants_inputs import ONE_INPUT

SAME_KIND = (
    "attention.padding.0001*",
    "attention.dropout.0002*",
    "positions.yarn.0005*",
)  # golden cases of these kinds
FUNCTIONS = sorted({case.function for name in vectors.mechanisms() for case in vectors.load(name)})


@pytest.fixture(scope="module")
def cases():
    known = {}

    def of(function):
        if function not in known:
            adapter = CallableAdapter(vectors.function_named(function), function, "float32", name="?")  # it takes all
            known[function] = [c for c in all_cases(adapter, None, "standard", 0) if not c.refuses]
        return known[function]

    return of


@pytest.fixture(autouse=True)
def without_diagnosis(monkeypatch):
    monkeypatch.setattr(matches, "explanations", lambda judgements, suspected: {})


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
    """Nothing but random calls, which meet one kind of input or another as the seed has it."""
    call, pattern = ONE_INPUT[key]
    others = [c for c in cases(key[0]) if not any(fnmatch(c.id, p) for p in (pattern, "*.random_*", *SAME_KIND))]
    assert broken(key[0], call, others) == []


# --- every argument, every field, every square ------------------------------------------------------------------------

PASSED_ON = {  # whose options a function passes on
    "multi_query_attention": "grouped_query_attention",
    "multi_query_attention_vjp": "grouped_query_attention_vjp",
    "rope_vjp": "rope",
}
DECODES = ("scale", "softcap", "sinks")  # the options that `cache.decode` passes on
NEVER_GIVEN = {
    "like": "an array whose library alone counts",
    "progress": "a function that is told how far the work is",
    "activation_vjp": "a function, for an activation that is not refattn's: no kernel of another language can take it",
    "rope_vjp": "as activation_vjp, for a rotation",
}
SCALED = ("rope", "rope_vjp", "positions.rope_frequencies", "multi_head_attention", "multi_head_attention_vjp",
          "latent.latents_of", "latent.multi_head_latent_attention")  # fmt: skip
SCALINGS = (Linear, NTK, DynamicNTK, YaRN, Llama3, LongRoPE)


def optional(function):
    """Optional argument -> its default."""
    given = inspect.signature(vectors.function_named(function)).parameters.values()
    found = {p.name: p.default for p in given if p.default is not p.empty}
    if function in PASSED_ON:
        found |= optional(PASSED_ON[function])
    return found | (dict.fromkeys(DECODES) if function == "cache.decode" else {})


def other(value, default):
    """Whether a value is another than the default."""
    if value is None or default is None or isinstance(value, np.ndarray):
        return value is not default
    return type(value) is not type(default) or value != default


def unseen_fields(given):
    """(type, field) of the records in some arguments whose field has its default everywhere."""
    fields: dict = {}
    for record in (r for arguments in given for r in records(arguments)):
        for name, default in record._field_defaults.items():
            key = type(record).__name__, name
            fields[key] = fields.get(key, False) or other(getattr(record, name), default)
    return [key for key, seen in fields.items() if not seen]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_optional_argument_and_field_has_another_value_than_its_default(function, cases):
    given = [case.arguments for case in cases(function)]
    unseen = [
        name
        for name, default in optional(function).items()
        if name not in NEVER_GIVEN and not any(other(arguments.get(name, default), default) for arguments in given)
    ]
    assert unseen == []
    assert unseen_fields(given) == []


def test_what_is_never_given_is_an_argument():
    assert NEVER_GIVEN.keys() <= {name for function in FUNCTIONS for name in optional(function)}


@pytest.mark.parametrize("function", SCALED)
def test_every_scaling_is_given(function, cases):
    types = {type(r) for case in cases(function) for value in case.arguments.values() for r in records(value)}
    assert set(SCALINGS) <= types


def test_every_function_with_a_scaling_is_held_to_it():
    assert set(SCALED) == {f for f in FUNCTIONS if {"scaling", "rope"} & optional(f).keys()}


SQUARE = [f for f in FUNCTIONS if f.endswith("_vjp") or f in ("layer_norm", "rms_norm", "softmax", "logsumexp")]
NO_SQUARE = {
    "gradients.rotate_vjp": "tables are half as wide as what they turn",
    "gradients.checkpoint_vjp": "its blocks are those of other functions",
}


@pytest.mark.parametrize("function", [f for f in SQUARE if f not in NO_SQUARE])
def test_rows_are_as_many_as_columns_in_some_case(function, cases):
    """Statistics, sums and gradients over the wrong axis have the right shape only there."""
    for case in cases(function):
        grids = [x for x in leaves(case.arguments) if isinstance(x, np.ndarray) and x.dtype.kind == "f" and x.ndim > 1]
        sizes = {size for x in grids for size in x.shape[-2:]}
        if len(sizes) == 1 and min(sizes) > 2:
            return
    pytest.fail("no case has as many rows as columns")
