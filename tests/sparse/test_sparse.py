"""What holds of every sparse mechanism: it is what it equals, forward and backward, keys that it leaves out have no
influence, and no array of N M numbers is made."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from refattn.attention import attention_stages
from refattn.testing.docstrings import results_of
from refattn.testing.equals import call_as
from refattn.testing.inputs import Draw, Seeded
from refattn.testing.names import function_named
from refattn.testing.strategies import calls
from refattn.testing.subject import subject, subjects
from refattn.testing.vectors import results
from tests.benchmarks import sparse as benchmark

FUNCTIONS = [name for name, of in subjects().items() if name.startswith("sparse.") and of.equals]
FORWARD = [  # those that are one softmax
    name for name in FUNCTIONS if "lse" in [result.name for result in results_of(function_named(name))]
]
BY_KEYS = {"sparse.moba_attention"}  # their keys decide what is left out: of these only values have no influence


def largest(x):
    return 1.0 if x is None else np.max(np.abs(x), initial=1.0, where=np.isfinite(x))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_it_is_what_it_equals(function):
    """To 1e-12, at any lengths and with any option that its generator draws."""
    of = subject(function)

    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(calls(function, "float64"))
    def equal(arguments):
        with np.errstate(all="ignore"):
            got = results(function, of.function(**arguments))
            found = function_named(of.equals.function)(**of.equals.arguments(**arguments))
        wanted = results(function, found if of.equals.results is None else of.equals.results(found, arguments))
        assert got.keys() == wanted.keys()
        size = np.prod([largest(arguments.get(name)) for name in ("d_out", "q", "k", "v")])
        for name, x in wanted.items():
            np.testing.assert_allclose(got[name], x, rtol=1e-12, atol=1e-12 * size, err_msg=name)

    equal()


@pytest.mark.parametrize("function", FORWARD)
def test_gradients_from_stored_results_are_the_same(function):
    """Whatever the options; results are stored for the queries that there are, not for those that fill up a group."""
    for seed in range(60):
        given = Draw(Seeded(seed), "float64").call(subject(f"{function}_vjp"))
        plain = {name: x for name, x in given.items() if name not in ("d_out", "d_lse")}
        with np.errstate(all="ignore"):
            out, lse = function_named(function)(**plain, return_lse=True)
            wanted = results(f"{function}_vjp", function_named(f"{function}_vjp")(**given))
            got = results(f"{function}_vjp", function_named(f"{function}_vjp")(**given, out=out, lse=lse))
        for name, x in wanted.items():
            size = largest(x) + np.prod([largest(given.get(name)) for name in ("d_out", "q", "k", "qk", "v")])
            np.testing.assert_allclose(got[name], x, rtol=1e-9, atol=1e-11 * size, err_msg=f"{seed} {name}")


@pytest.mark.parametrize("function", FORWARD)
@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e300])
def test_a_key_that_is_left_out_has_no_influence(function, poison):
    """The same to the last bit for each query, when keys that it does not attend to hold anything."""
    given = subject(function).related(Draw(Seeded(7))) | {"return_lse": True}
    same = call_as(function, "attention", (), given)
    dense = {name: x for name, x in same.arguments.items() if name != "return_lse"}
    seen = np.any(attention_stages(**dense).mask != -np.inf, axis=(0, 1))  # (N, M)
    assert not seen.all()
    clean = function_named(function)(**given)
    for j in range(seen.shape[1]):
        changed = {name: given[name].copy() for name in ("v" if function in BY_KEYS else "kv") if name in given}
        for x in changed.values():
            x[..., j, :] = poison
        with np.errstate(all="ignore"):
            got = function_named(function)(**given | changed)
        for a, b in zip(got, clean, strict=True):
            np.testing.assert_array_equal(a[:, :, ~seen[:, j]], b[:, :, ~seen[:, j]])


@pytest.mark.parametrize("name", benchmark.CALLS)
def test_memory_grows_as_the_length_does(name):
    """The benchmark at a few thousand tokens: four times the tokens take about four times the memory, not sixteen."""
    draw, tokens = np.random.default_rng(0), (2048, 8192) if name in benchmark.ALL_SCORES else (4096, 16384)
    forward, backward = zip(*(benchmark.held(name, n, draw) for n in tokens), strict=True)
    assert forward[1] < 5 * forward[0]
    assert backward[1] < 5 * backward[0]
    assert max(forward[1], backward[1]) < tokens[1] ** 2  # bytes: a quarter of the scores alone


@pytest.mark.parametrize(
    ("function", "own"),
    [
        ("sparse.dilated_attention", {"left": 2, "right": 1, "dilation": 3}),
        ("sparse.strided_attention", {"stride": 3}),
        ("sparse.fixed_attention", {"stride": 4, "summary": 2}),
        ("sparse.longnet_attention", {"segments": [4, 8], "dilations": [1, 2], "offsets": [0, 1]}),
    ],
)
def test_queries_may_stand_at_every_second_position(function, own):
    """Slices of queries with steps are of consecutive ones: others, however evenly they stand, are met where they are."""
    draw = np.random.default_rng(0)
    q, k, v = (draw.normal(size=(n, 3)) for n in (9, 23, 23))
    given = {"q": q, "k": k, "v": v, **own, "q_positions": 2 + 2 * np.arange(9)}
    of = subject(function)
    wanted = function_named(of.equals.function)(**of.equals.arguments(**given))
    np.testing.assert_allclose(of.function(**given), wanted, atol=1e-13)
