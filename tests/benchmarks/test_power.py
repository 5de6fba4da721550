"""The power benchmark works from end to end, states each rule as its project does, and its results are of this version."""

import json

import numpy as np
import pytest

from refattn.testing.rounding import round_to
from refattn.testing.variants import variants
from tests.benchmarks import run
from tests.benchmarks.inputs import PROJECTS, Draw, problems
from tests.benchmarks.power import Problem
from tests.benchmarks.rules import RULES

BY_NAME = {rule.name: rule for rule in RULES}


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    place = tmp_path_factory.mktemp("power") / "power.json"
    run.main(["power", "--quick", "--out", str(place)])
    return json.loads(place.read_text(encoding="utf-8"))


def test_our_bounds_miss_nothing_on_our_inputs_and_accuse_nobody(quick):
    assert quick["variants_of_the_output"] > 150
    for row in quick["bounds"]:
        assert row["ours"]["missed"] == []
        assert row["ours"]["shown"] == quick["variants_of_the_output"]
        assert row["ours"]["false_alarms"] == row["random"]["false_alarms"] == 0
        assert row["random"]["kernels"] > 20


def test_figures_are_counted(quick):
    rows = {row["name"]: row for row in quick["rules"]}
    own = rows["flash-attn 3 bfloat16"]["own"]
    assert own["problems"] == 2
    assert own["kernels"] == 6
    assert 5 < own["shown"] < quick["variants_of_the_output"]
    assert quick["environment"]["versions"]["numpy"] == np.__version__


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_passes_its_own_reference_and_no_zeros(rule):
    name, function, arguments = next(iter(problems(rule.inputs, rule.dtype, 0)))
    problem = Problem(rule.dtype, name, function, arguments)
    assert rule.passes(problem.judged.products_in_dtype if rule.name.startswith("vLLM") else rule_reference(problem, rule),
                       problem.judged)  # fmt: skip
    if not rule.name.startswith(("vLLM", "JAX check_close")):  # those do pass zeros there
        assert not rule.passes(np.zeros_like(problem.exact), problem.judged)


def rule_reference(problem, rule):
    """The output that agrees best with what a rule compares with."""
    same_dtype = ("Triton", "JAX", "ONNX node")
    return problem.judged.scaled_scores if rule.name.startswith(same_dtype) else problem.judged.rounded


def dropped_last_key(rule, n, m, d):
    """Normal inputs, and the output of a kernel that never sees the last key."""
    arguments = Draw(0, rule.dtype).randn(1, 1, n, m, d)
    problem = Problem(rule.dtype, "", "attention", arguments)
    shorter = {**arguments, "k": arguments["k"][..., :-1, :], "v": arguments["v"][..., :-1, :]}
    return problem, Problem(rule.dtype, "", "attention", shorter).correct({})[1]


def test_a_dropped_key_passes_a_rule_that_measures_by_the_largest_error_of_all():
    """On the inputs of flash-attn 3 with 1,024 keys; the statistical bound sees it on the very same inputs."""
    rule = BY_NAME["flash-attn 3 bfloat16"]
    problem, out = dropped_last_key(rule, 32, 1024, 64)
    assert rule.passes(out, problem.judged)
    assert not problem.within(out, "statistical")
    assert problem.within(problem.correct({})[1], "statistical")


def test_a_rule_that_asks_for_what_is_larger_passes_nan():
    problem = Problem("float32", "", "attention", Draw(0, "float32").randn(1, 1, 4, 8, 16))
    nan = np.full_like(problem.exact, np.nan)
    assert [rule.name for rule in RULES if rule.dtype == "float32" and rule.passes(nan, problem.judged)] == [
        "llm.c float32"
    ]
    assert not problem.within(nan, "hard")


def test_a_baseline_that_is_exact_allows_nothing():
    """One key: the baseline of flash-attn 2 has no error, so the rule accuses a kernel that is off by one rounding."""
    problem = Problem("float16", "", "attention", Draw(0, "float16").randn(1, 1, 4, 1, 16))
    out = round_to(problem.exact * (1 + 2.0**-10), "float16")
    assert not BY_NAME["flash-attn 2 float16"].passes(out, problem.judged)


def test_every_project_has_inputs_and_every_input_a_rule():
    assert {rule.inputs for rule in RULES} == set(PROJECTS)


def test_the_results_on_the_site_are_of_these_rules_and_variants():
    found = json.loads((run.RESULTS / "power.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in found["rules"]] == [rule.name for rule in RULES], "run the benchmark again"
    known = {v.name for v in variants("grouped_query_attention")}
    missed = {name for row in found["rules"] for name in row["own"]["missed"] + row["ours"]["missed"]}
    assert missed <= known, "run the benchmark again"
    assert sum(row["random"]["kernels"] for row in found["bounds"] if row["name"] == "refattn hard") >= 2000
    for row in found["bounds"]:
        assert row["ours"]["missed"] == []
        assert row["ours"]["false_alarms"] == row["random"]["false_alarms"] == 0
