"""Which calls must agree, and when two results do: to the last element and the last bit."""

import numpy as np
import pytest

import refattn
from refattn import masks
from refattn.testing.adapters import Failed
from refattn.testing.bounds import bound
from refattn.testing.consistency import RELATIONS, _agree, judge, related
from refattn.testing.inputs import Draw, Seeded

INF, NAN = np.inf, np.nan


@pytest.mark.parametrize(
    ("a", "b", "limit", "verdict", "hard", "worst"),
    [
        ([1.0, -2.0], [1.0, -2.0], 0.0, "equal", 0.0, ()),
        ([1.0, 2.0], [1.5, 2.25], 0.5, "within hard", 1.0, ()),
        ([1.0, 2.0], [1.25, 3.0], [0.5, 0.5], "outside", 2.0, (1,)),
        ([1.0, 2.0], [1.25, 2.25], [0.0625, 0.5], "outside", 4.0, (0,)),
        ([-1.0, 2.0], [1.0, 2.0], 0.5, "outside", 4.0, (0,)),
        ([1.0, 2.0], [1.0, 2.25], 0.0, "outside", INF, (1,)),
        ([NAN, INF, -INF], [NAN, INF, -INF], 0.0, "equal", 0.0, ()),
        ([NAN, INF, 0.0], [NAN, INF, 0.5], 1.0, "within hard", 0.5, ()),
        ([1.0, NAN], [1.0, 2.0], 9.0, "outside", INF, (1,)),
        ([1.0, 2.0], [1.0, INF], 9.0, "outside", INF, (1,)),
        ([1.0, -INF], [1.0, INF], 9.0, "outside", INF, (1,)),
        ([], [], 0.0, "equal", 0.0, ()),
    ],
)
def test_two_results_agree_within_a_limit(a, b, limit, verdict, hard, worst):
    a, b = np.array(a), np.array(b)
    found = _agree(a, b, np.array(limit), "attention", "float32")
    assert (found.verdict, found.hard, found.worst, found.size) == (verdict, hard, worst, a.size)
    assert found.outside == len(worst)
    if worst:
        assert (str(found.got), str(found.want)) == (str(b[worst]), str(a[worst]))


def test_all_that_lie_outside_are_counted():
    found = _agree(np.zeros(4), np.array([1.0, 2.0, 3.0, NAN]), 1.0, "attention", "float32")
    assert (found.outside, found.worst) == (3, (3,))


def test_results_of_two_shapes_do_not_agree():
    found = _agree(np.zeros((2, 3)), np.zeros((3, 2)), 1.0, "attention", "float32")
    assert (found.verdict, found.want, found.got, found.ok) == ("shape", (2, 3), (3, 2), False)


def call(*lead, n=3, m=5, kv=None, **options):
    draw = np.random.default_rng(0)
    kv = lead if kv is None else kv
    shapes = {"q": (*lead, n, 4), "k": (*kv, m, 4), "v": (*kv, m, 2)}
    return {**{name: draw.normal(size=shape) for name, shape in shapes.items()}, **options}


def others(relation, x):
    return list(RELATIONS[relation].others(x, x))


def asked(relation, x, takes=("q", "k", "v", "mask", "scale")):
    """The call of which a relation is asked."""
    return RELATIONS[relation].inputs(Draw(Seeded(0)), x, takes)


@pytest.mark.parametrize("relation", ["prefix", "future"])
@pytest.mark.parametrize(("n", "m"), [(3, 7), (7, 3), (4, 4)])
def test_under_a_causal_mask_there_are_as_many_queries_as_keys(relation, n, m):
    x = call(2, n=n, m=m)
    found = asked(relation, x)
    assert found["q"].shape == (2, m, 4)
    np.testing.assert_array_equal(found["q"][:, :n], x["q"][:, :m])
    assert (repr(found["mask"]), found["k"] is x["k"], found["v"] is x["v"]) == ("causal()", True, True)
    assert "mask" not in asked(relation, x, takes=("q", "k", "v"))
    given = masks.window(2, 0)
    assert asked(relation, {**x, "mask": given})["mask"] is given


@pytest.mark.parametrize(("m", "hidden"), [(7, [2, 6]), (3, [2]), (2, [1]), (1, [0])])
def test_the_third_key_and_the_last_are_hidden_where_no_mask_is_given(m, hidden):
    x = call(2, m=m)
    mask = asked("poison", x)["mask"]
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, np.broadcast_to(~np.isin(np.arange(m), hidden), (3, m)))


def test_queries_are_scaled_that_are_short_in_eighths():
    x = call(2)
    found = asked("rescaling", x)
    for name in "qkv":
        np.testing.assert_array_equal(found[name], np.round(8 * x[name]) / 8)
    (other,) = others("rescaling", found)
    np.testing.assert_array_equal(other.arguments["q"] * other.arguments["scale"], found["q"] * found["scale"])
    assert (other.arguments["scale"], other.arguments["q"][0, 0, 0]) == (0.3125 / 4, 4 * found["q"][0, 0, 0])


def test_the_first_tokens_alone_are_one_and_four_where_there_are_more():
    for n, counts in ((1, []), (2, [1]), (4, [1]), (5, [1, 4])):
        found = others("prefix", call(2, n=n, m=n))
        assert [o.arguments["v"].shape[-2] for o in found] == counts
        assert [o.of_first[1] for o in found] == [slice(0, count) for count in counts]
        assert all(o.of_second == (Ellipsis,) for o in found)


def test_only_the_last_key_is_another_in_the_future():
    x = call(2)
    for other, names in zip(others("future", x), (("v",), ("v",), ("k", "v")), strict=True):
        for name in "qkv":
            same = np.asarray(other.arguments[name]) == x[name]
            assert same[..., :-1, :].all()
            assert np.isfinite(other.arguments[name][..., -1, :]).any() != (name in names)
        kept = np.zeros((2, 3, 2))
        kept[other.of_first] = 1.0
        assert kept[:, :-1].all()
        assert not kept[:, -1].any()


def test_keys_are_permuted_with_their_values():
    x = call(2, m=16)
    found = others("permutation", x)
    assert len(found) == 2
    for other in found:
        order = [int(np.flatnonzero((x["k"][0] == key).all(axis=-1))[0]) for key in other.arguments["k"][0]]
        assert sorted(order) == list(range(16)) != order
        np.testing.assert_array_equal(other.arguments["v"], x["v"][:, order])
        assert other.arguments["q"] is x["q"]


def test_each_entry_of_a_batch_is_asked_alone_with_what_has_entries():
    x = call(3, 2, bias=np.zeros((3, 1, 1, 5)), sinks=np.zeros(3), mask=np.ones((3, 5), dtype=bool))
    found = others("batch", x)
    assert [o.of_first for o in found] == [(slice(n, n + 1),) for n in range(3)]
    for n, other in enumerate(found):
        for name in ("q", "k", "v", "bias"):
            np.testing.assert_array_equal(other.arguments[name], x[name][n : n + 1])
        assert all(other.arguments[name] is x[name] for name in ("sinks", "mask"))
    assert len(others("batch", call(3))) == 3
    assert others("batch", call()) == []


@pytest.mark.parametrize(("lead", "kv", "group"), [((2, 4), (2, 2), 2), ((3,), (3,), 1), ((1, 2), (1, 2), 1)])
def test_every_head_but_those_of_the_first_group_is_another(lead, kv, group):
    x = call(*lead, kv=kv)
    (other,) = others("heads", x)
    for name, first in (("q", group), ("k", 1), ("v", 1)):
        same = other.arguments[name] == x[name]
        assert same[..., :first, :, :].all()
        assert not same[..., first:, :, :].any()
    assert other.of_first == other.of_second == (Ellipsis, slice(0, group), slice(None), slice(None))


def test_heads_are_asked_about_where_there_are_as_many_of_queries_or_more():
    assert others("heads", call()) == []
    assert others("heads", call(2, kv=())) == []
    assert others("heads", call(2, kv=(4,))) == []
    assert len(others("heads", call(4, kv=(2,)))) == 1


def test_what_is_excluded_is_replaced_and_the_rows_that_do_not_see_it_are_held():
    seen = np.array(
        [[True, False, True, True, False], [True, False, True, False, False], [True, False, True, True, False]]
    )
    x = call(2, mask=seen)
    found = others("poison", x)
    assert len(found) == 5
    for other in found:
        for name in "kv":
            same = other.arguments[name] == x[name]
            assert same[..., [0, 2, 3], :].all()
            assert not same[..., [1, 4], :].any() or same.all()
        assert other.of_first == (Ellipsis,)
    for other in others("poison", {**x, "mask": seen | (np.arange(5) == 4) | (np.arange(3) == 1)[:, None]}):
        assert not np.asarray(other.arguments["v"] == x["v"])[..., 1, :].any() or other.arguments["v"] is x["v"]
        assert other.of_first[1].tolist() == [0, 2]
    assert others("poison", call(2, mask=np.ones((3, 5), dtype=bool))) == []
    assert others("poison", call(2, m=3, mask=masks.causal()))[0].of_first[1].tolist() == [0, 1]


def judged(relation, x, off, when):
    """A kernel that is off in the calls of which `when` is true, held to a relation."""

    def kernel(**given):
        out = refattn.attention(**given)
        return out + off if when(given) else out

    return judge(kernel, related(relation, "some", "attention", "float32", x), lambda given: given, "float32")


def test_what_agrees_is_compared_call_by_call():
    comparisons, found = judged("batch", call(3), 1.0, lambda given: False)
    assert found is None
    assert [c.verdict for c in comparisons] == ["equal"] * 3


def test_two_results_may_be_apart_by_both_bounds():
    x = call(3)
    limit = bound("attention", "float32", **x)["out"].hard
    comparisons, found = judged("batch", x, np.min(limit), lambda given: len(given["q"]) == 1)
    assert found is None
    assert {c.verdict for c in comparisons} == {"within hard"}
    (first,), found = judged("batch", x, 0.01, lambda given: len(given["q"]) == 1)
    assert first.hard == pytest.approx(np.max(0.01 / (2 * limit[0])), rel=1e-6)
    assert found.message.startswith("A batch gives what a loop over its entries gives. Here 6 of 6 elements differ")
    assert f" with batch entry 0 alone at {list(first.worst)}: " in found.message
    assert found.message.endswith(
        f", {first.hard:,.3g}x what both bounds allow; no more than both bounds together would be right."
    )
    assert found.arguments["q"].shape == (1, 3, 4)


@pytest.mark.parametrize("off", [1e-15, np.nan])
def test_of_bits_and_of_nan_no_multiple_of_a_bound_is_said(off):
    (first,), found = judged("heads", call(2, 2), off, lambda given: (given["v"] == 3.0).any())
    assert first.hard == np.inf
    assert found.message.endswith("; the same bits would be right.")
    assert "what both bounds allow" not in found.message
    (first,), found = judged("batch", call(2), np.nan, lambda given: len(given["q"]) == 1)
    assert "what both bounds allow" not in found.message


@pytest.mark.parametrize("part", [(slice(None), 0), (slice(None), slice(None), slice(1))])
def test_a_result_of_another_shape_is_no_result(part):
    case = related("batch", "some", "attention", "float32", call(2))
    with pytest.raises(Failed, match=r"shape|axes"):
        judge(lambda **given: refattn.attention(**given)[part], case, lambda given: given, "float32")
