"""A function that says what it `equals` gets what is known of that one: a toy that nothing of the kit names."""

import sys
from dataclasses import replace
from functools import partial
from types import ModuleType

import numpy as np
import pytest

import refattn
from refattn import backend, masks
from refattn.testing import adapters, compare, consistency, inputs, names, narrowing
from refattn.testing.around import bound_around
from refattn.testing.bounds import bound
from refattn.testing.checking import CheckCase, check, run_case
from refattn.testing.derive import sources
from refattn.testing.diagnosis import explanations
from refattn.testing.equals import bounded_as, call_as, equal, in_terms_of, steps
from refattn.testing.narrowing import few_rows, has_heads, of_head, rows_of_all, worst_head
from refattn.testing.nested import mapped
from refattn.testing.profiles import profile
from refattn.testing.registry import FAMILIES, VARIANTS
from refattn.testing.spread import says_nothing
from refattn.testing.subject import Equal, Subject, subjects
from refattn.testing.variants import variants
from refattn.testing.vectors import results

NAME = "toy.recent_attention"
ASKED = sorted(name for name, r in consistency.RELATIONS.items() if r.everywhere and name != "permutation")


def recent_attention(q, k, v, *, recent, scale=None, return_lse=False):
    """Attention to the last `recent` keys of each query.

    Parameters
    ----------
    q : array (..., N, D)
    k : array (..., M, D)
    v : array (..., M, Dv)
    recent : int
    scale : float, default 1/√D
    return_lse : bool, default False

    Returns
    -------
    out : array (..., N, Dv)
    lse : array (..., N)
    """
    return refattn.attention(q, k, v, window(recent), scale=scale, return_lse=return_lse)


def window(recent):
    return masks.causal() & masks.window(recent - 1, 0)


def dense(q, k, v, *, recent, **options):
    return {"q": q, "k": k, "v": v, "mask": window(recent), **options}


def turned_attention(q, k, v, *, recent, scale=None):
    """The same with features before tokens.

    Parameters
    ----------
    q, k, v : array (..., N, D), (..., M, D), (..., M, Dv)
    recent : int
    scale : float, default 1/√D

    Returns
    -------
    out : array (..., Dv, N)
    """
    return backend.namespace(q=q).matrix_transpose(recent_attention(q, k, v, recent=recent, scale=scale))


def turned(found, given):
    return np.swapaxes(found, -1, -2)


def random(draw):
    heads, n, m = draw.between(2, 4), draw.between(1, 6), draw.between(4, 12)
    return {
        "q": draw.normal(2, heads, n, 8), "k": draw.normal(2, heads, m, 8), "v": draw.normal(2, heads, m, 5),
        "recent": draw.between(1, 3), "return_lse": draw.chance(0.5),
    }  # fmt: skip


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """The toys among the functions of refattn, for as long as a test runs."""
    module = ModuleType("refattn.toy")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(refattn, "toy", module, raising=False)
    for function, results_of in ((recent_attention, None), (turned_attention, turned)):
        monkeypatch.setattr(function, "__module__", module.__name__)
        monkeypatch.setattr(module, function.__name__, function, raising=False)
        equals = Equal("attention", dense, results_of)
        of = Subject(function, random, "ATTN-OUT", equals=equals, mechanism="attention")
        monkeypatch.setitem(subjects(), of.name, of)
    caches = (names.functions, sources, steps)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def given(seed=0, lead=(2, 3), n=5, m=9, d=8, dv=6):
    draw = np.random.default_rng(seed)
    return {
        "q": draw.normal(size=(*lead, n, d)),
        "k": draw.normal(size=(*lead, m, d)),
        "v": draw.normal(size=(*lead, m, dv)),
    }


def attended(q, k, v, mask, **options):
    """Attention of float32, masked by an array."""
    return refattn.attention(*(x.astype(np.float32) for x in (q, k, v)), mask, **options)


# --- the record ------------------------------------------------------------------------------------------------------


def test_a_call_is_one_of_attention_and_its_result_comes_back():
    call = call_as(
        "grouped_query_attention_vjp",
        "attention_vjp",
        (),
        {"d_out": 0, "q": np.ones((4, 1, 2)), "k": np.ones((2, 1, 2)), "v": np.ones((2, 1, 2))},
    )
    assert call.arguments["k"].shape == (4, 1, 2)
    found = refattn.attention_vjp(np.ones((4, 1, 2)), np.ones((4, 1, 2)), *(call.arguments[x] for x in "kv"))
    assert call.back(found).v.shape == (2, 1, 2)
    assert call_as("rope", "attention") is None


def test_equal_are_results_that_are_handed_on_as_they_are():
    for function, bound_as_well in (
        (NAME, True),
        ("multi_query_attention", True),
        ("split_attention", True),
        ("attention_weights", False),
    ):
        assert equal(function, "attention")
        assert bounded_as(function, "attention") == bound_as_well
    assert steps("grouped_query_attention_vjp", "attention_vjp")
    assert not equal("grouped_query_attention_vjp", "attention_vjp")
    assert not equal("attention", NAME)


def test_a_derived_variant_knows_that_of_attention():
    for function in (NAME, "multi_query_attention"):
        (v,) = (v for v in variants(function) if v.name == "scale/twice")
        assert in_terms_of("attention", v) is VARIANTS["scale/twice", "attention"]
    assert in_terms_of("attention", VARIANTS["gqa/tiled", "grouped_query_attention"]) is None


# --- relations -------------------------------------------------------------------------------------------------------


def test_relations_are_those_that_the_window_leaves():
    for seed in range(20):
        asked = {case.relation for case in consistency.relations(NAME, "float32", seed)}
        assert asked == {*ASKED}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_toy_agrees_with_itself(dtype):
    for seed in range(10):
        report = check(recent_attention, function=NAME, layout="reference", precision=dtype, seed=seed, only="*.self.*")
        assert len(report.results) == len(ASKED)
        assert [r.status for r in report.results] == ["holds"] * len(report.results)


def wrong(kind, q, k, v, *, recent, scale=None, return_lse=False):
    """The toy, wrong in what only a relation between calls shows."""
    if kind == "poison":  # 0 times NaN
        weights = refattn.attention_weights(q, np.nan_to_num(k), window(recent), scale=scale)
        return weights @ v
    out = recent_attention(q, k, v, recent=recent, scale=scale).astype(np.float32)
    bent = np.float32(1 + 1e-6)
    if kind == "prefix":
        return out * (1 + np.float32(1e-3) * (q.shape[-2] > 4))
    if kind == "batch":
        return out if len(out) == 1 else out[[0, *range(len(out) - 1)]]
    if kind == "heads":
        return out * bent if np.all(q[..., 1:, :, :] == 0.5) else out
    if kind == "rescaling":
        return out * bent if scale == 0.3125 else out
    return out if v.flags.c_contiguous else np.roll(out, 1, axis=-1)


@pytest.mark.parametrize("relation", ASKED)
def test_each_relation_finds_what_breaks_it(relation):
    report = check(partial(wrong, relation), function=NAME, layout="reference", only="*.self.*")
    broken = {r.case.relation: r for r in report.results if r.status == "broken"}
    assert relation in broken
    assert "would be right" in broken[relation].message


def test_excluded_are_keys_that_no_row_sees_or_else_the_one_that_the_fewest_see():
    x = given(n=5, m=9)
    keys, rows = consistency._excluded({**x, "mask": window(3)})  # rows 0 to 4 end at keys 4 to 8
    assert (keys.tolist(), rows) == ([0, 1], (Ellipsis,))
    keys, rows = consistency._excluded({**given(n=9, m=9), "mask": window(9)})
    assert keys.tolist() == [8]
    assert rows[1].tolist() == [*range(8)]
    assert consistency._excluded(given()) == ((), ())


def test_random_calls_have_no_options_that_need_not_be_there():
    for seed in range(5):
        for case in consistency.relations("split_attention", "float32", seed):
            assert case.arguments.keys() <= {"q", "k", "v", "mask", "splits", "tree", "scale", "q_tile", "k_tile"}


# --- stages ----------------------------------------------------------------------------------------------------------


def test_stages_are_those_of_the_attention_that_it_equals():
    scaled = lambda q, k, v, *, recent, **options: recent_attention(q, k, v, recent=recent, scale=1.0)
    adapter = adapters.CallableAdapter(scaled, NAME, "float32", "reference")
    adapter.functions["attention_weights"] = lambda q, k, mask: attended(q, k, np.eye(k.shape[-2]), mask, scale=1.0)
    case = CheckCase("toy", NAME, ("ATTN-OUT",), "float32", {**given(), "recent": 3})
    (stage,) = run_case(adapter, case).stages
    assert (stage.name, stage.ok) == ("weights", False)
    adapter.functions["attention_weights"] = lambda q, k, mask: attended(q, k, np.eye(k.shape[-2]), mask)
    (stage,) = run_case(adapter, case).stages
    assert (stage.name, stage.ok) == ("weights", True)
    adapter.functions["attention_weights"] = lambda q, k, mask: np.ones(q.shape[:-1] if q.dtype == np.float32 else ())
    (stage,) = run_case(adapter, case).stages
    assert stage.note == "shape (2, 3, 5), must be (2, 3, 5, 9)"


def test_weights_have_no_stages_of_their_own():
    adapter = adapters.CallableAdapter(partial(refattn.attention_weights, scale=1.0), "attention_weights", "float32")
    x = given()
    result = run_case(adapter, CheckCase("w", "attention_weights", ("ATTN-WEIGHTS",), "float32", x_without(x, "v")))
    assert (result.status, result.stages) == ("broken", ())


# --- explanations ----------------------------------------------------------------------------------------------------


def test_two_variants_of_attention_at_once_explain_it():
    x, back = given(), np.arange(5)[:, None] - np.arange(9)
    got = attended(**x, mask=(back >= 0) & (back < 3), scale=1 / 8)  # from the top left, and scaled twice
    (found,) = compare(got, NAME, **x, recent=3)
    assert found.explanations[0].name == "scale/twice + window/top_left"
    assert found.explanations[0].fit <= 1


def test_what_returns_it_otherwise_has_variants_and_pairs_but_no_rows_and_relations():
    x, back = given(), np.arange(5)[:, None] - np.arange(9)
    got = turned(attended(**x, mask=(back >= 0) & (back < 3), scale=1 / 8), x)
    (found,) = compare(got, "toy.turned_attention", **x, recent=3)
    assert found.explanations[0].name == "scale/twice + window/top_left"
    assert few_rows(found.judged, np.ones(got.shape)) is None
    assert not list(consistency.relations("toy.turned_attention", "float32", 0))


def test_presets_say_what_an_implementation_makes_of_it():
    x = given(n=11, dv=8)
    mask = window(3).dense(11, 9)
    got = np.where(mask.any(axis=-1, keepdims=True), attended(**x, mask=mask), np.nan)
    for preset, ok in (("torch.nn.MultiheadAttention", True), ("torch.sdpa.math", False)):  # empty rows are NaN, or 0
        assert compare(got, NAME, **x, recent=3, preset=preset)[0].ok == ok
    with pytest.raises(ValueError, match="function is softmax; a preset says"):
        compare(got, "softmax", got, preset="torch.sdpa.math")


def test_rows_and_axes_have_the_words_of_attention():
    x = given(n=11)
    mask = window(3).dense(11, 9)
    got = attended(**x, mask=mask)
    got[..., ~mask.any(axis=-1), :] = np.nan
    (found,) = compare(got, NAME, **x, recent=3)
    assert found.rows == "They are the empty rows (no key is visible)."
    assert found.where == "queries 0-1 of 11"


def test_the_bound_around_a_variant_is_that_of_the_attention_that_it_is():
    x = {**given(), "recent": 3}
    (v,) = (v for v in variants(NAME) if v.name == "scale/one_over_d")
    around = bound_around(v, profile("float32"), (), x)["out"]
    wanted = bound("attention", "float32", **dense(**x), scale=1 / 8)["out"]
    np.testing.assert_array_equal(around.hard, wanted.hard)
    (of_weights,) = (v for v in variants("attention_weights") if v.name == "scale/one_over_d")
    assert bound_around(of_weights, profile("float32"), (), x_without(given(), "v")) is None  # they round otherwise


def test_a_limit_as_wide_as_the_values_are_apart_says_nothing():
    x = {**given(), "recent": 3}
    want = recent_attention(**x)
    wide = np.broadcast_to(1.01 * np.std(x["v"], axis=-2, keepdims=True), want.shape)
    for share, nothing in ((1.0, True), (0.9, False)):
        assert says_nothing(NAME, "out", profile("bfloat16"), want, share * wide, (), x) == nothing


def test_a_constant_in_the_log_sum_exp_is_named():
    x = {**given(), "recent": 3, "return_lse": True}
    out, lse = recent_attention(**x)
    (_, found) = compare((out, lse + np.log(5.0)), NAME, **x)
    assert found.explanations[0].name == "lse/constant_added"
    assert "log N" in found.explanations[0].variant.meaning


def judged(got, **x):
    return [c.judged for c in compare(got, NAME, explain=False, **x)]


def test_of_a_large_problem_one_head_is_judged():
    x = {**given(lead=(4, 16), n=80, m=80), "recent": 20}
    got = recent_attention(**x, scale=1 / 8)
    got[:, :5] = recent_attention(**x)[:, :5]
    (whole,) = judged(got, **x)
    ratio = np.abs(whole.got - whole.want) / whole.limit
    place = worst_head(whole, ratio)
    assert place[1] >= 5
    head = of_head(whole, place)
    assert head.got.shape == (1, 1, 80, 6)
    assert head.kwargs["recent"] == 20
    np.testing.assert_array_equal(head.kwargs["v"], x["v"][place][None, None])
    np.testing.assert_allclose(recent_attention(**head.kwargs), head.want, rtol=1e-12)
    assert explanations([whole])["out"][0].name in ("scale/twice", "scale/one_over_d")
    (small,) = judged(got[:1, :1], **{**mapped(lambda a: a[:1, :1], x_without(x, "recent")), "recent": 20})
    assert worst_head(small, ratio[:1, :1]) is None


NUMBERED = {"sparse.longnet_attention"}  # what a head does follows from its number: alone it is another
WITH_HEADS = [f for f in subjects() if (equal(f, "attention") or equal(f, "attention_vjp")) and f not in NUMBERED]


@pytest.mark.parametrize("function", WITH_HEADS)
def test_a_head_of_any_call_is_a_call_of_its_own(function, monkeypatch):
    monkeypatch.setattr(narrowing, "LARGE", 0)
    judged_alone = 0
    for name, _, x in inputs.cases(function, fmt="float32"):
        found = [c.judged for c in compare(subjects()[function].function(**x), function, explain=False, **x)]
        found = [j for j in found if "vjp" not in function or j.result in ("q", "k", "v")]
        if not has_heads(found) or not all(j.got.size for j in found):
            continue
        place = worst_head(found[0], np.random.default_rng(0).random(found[0].got.shape))
        heads = [] if place is None else [of_head(j, place) for j in found]
        for head in heads if None not in heads else ():
            wanted = results(function, subjects()[function].function(**head.kwargs))[head.result]
            np.testing.assert_allclose(wanted, head.want, rtol=1e-5, atol=1e-6, err_msg=name)
            judged_alone += 1
    assert judged_alone > 20


def test_what_a_function_gives_to_a_head_is_not_known(monkeypatch):
    monkeypatch.setattr(narrowing, "LARGE", 0)
    slopes = np.array([1.0, 2.0, 4.0])[:, None, None]
    x = {**given(), "bias": lambda i, j: -slopes * np.abs(i - j)}
    (found,) = compare(refattn.tiled_attention(**x, scale=1.0), "tiled_attention", **x)
    assert of_head(found.judged, (0, 1)) is None
    assert of_head(replace(found.judged, kwargs=x_without(x, "bias")), (0, 1)) is not None
    assert found.explanations[0].name == "scale/none"


def test_a_few_rows_stand_for_all():
    x = {**given(n=80, m=80), "recent": 20}
    (whole,) = judged(recent_attention(**x, scale=1 / 8), **x)
    ratio = np.abs(whole.got - whole.want) / whole.limit
    rows = few_rows(whole, ratio)
    np.testing.assert_array_equal(rows.whole, window(20).dense(80, 80))
    assert len(rows.q) < 20
    ((part,), place) = rows_of_all([whole], ratio, 30)
    assert part.function == "attention"
    np.testing.assert_array_equal(part.got, whole.got[place])
    np.testing.assert_allclose(refattn.attention(**part.kwargs), part.want, rtol=1e-12)


def test_a_tile_that_drops_its_tail_is_named_with_its_size():
    x = {**given(n=80, m=80), "recent": 70}
    mask = window(70).dense(80, 80) & (np.arange(80) < 64)
    (found,) = compare(attended(**x_without(x, "recent"), mask=mask), NAME, **x)
    assert found.explanations[0].name == "tail/dropped"
    assert "64" in found.explanations[0].variant.meaning


def test_a_window_that_is_read_by_tiles_is_named_with_their_size():
    x = {**given(n=80, m=80), "recent": 20}
    (found,) = (f for f in FAMILIES.values() if f.rules and f.example.name == "window/by_tiles")
    got = found.build((16, 16))(**x_without(x, "recent"), mask=window(20))
    (found,) = compare(got.astype(np.float32), NAME, **x)
    assert found.explanations[0].name == "window/by_tiles"
    assert "16" in found.explanations[0].variant.meaning


def x_without(x, *names):
    return {name: a for name, a in x.items() if name not in names}
