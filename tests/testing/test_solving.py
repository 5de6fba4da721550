"""What follows from a result: sizes of tiles, and numbers with which a kernel computes whatever is given."""

import inspect

import numpy as np
import pytest

import refattn
from refattn import masks
from refattn.positions import Linear, YaRN
from refattn.testing import check, compare, constants
from refattn.testing.diagnosis import FITS, Judged, ratio
from refattn.testing.profiles import profile
from refattn.testing.rounding import round_to
from refattn.testing.variants import agreed, families, variants


def inputs(seed, n, m, d=8, dv=4, lead=(2,), kv_heads=None):
    rng = np.random.default_rng(seed)
    kv = lead if kv_heads is None else (*lead[:-1], kv_heads)
    shapes = {"q": (*lead, n, d), "k": (*kv, m, d), "v": (*kv, m, dv)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def first_of(got, function, **given):
    """The explanation that leads, for each wrong result."""
    wrong = [c for c in compare(got, function, **given) if not c.ok]
    assert wrong
    return [c.explanations[0] for c in wrong]


SLIDING = masks.causal() & masks.window(37, 0)
TILES = [
    ("tail/dropped", 48, {}),
    ("tail/dropped", 6, {}),
    ("tail/zeros", 200, {}),
    ("tail/zeros", 256, {"return_lse": True, "mask": masks.causal()}),
    ("tail/zeros", 72, {"bias": np.linspace(-1, 1, 130)[None]}),
    ("tile/one_too_many", 32, {"mask": masks.causal()}),
    ("softcap/after_padding", 64, {"softcap": 2.0}),
    ("rescale/missing", 56, {"scale": 1.5}),
    ("rescale/output_missing", 24, {"scale": 1.5, "mask": SLIDING}),
    ("mask/of_last_row", 4, {"mask": masks.causal()}),
    ("mask/of_last_row", 64, {"mask": SLIDING}),
    ("mask/of_first_row", 40, {"mask": masks.causal()}),
    ("window/by_tiles", (16, 16), {"mask": SLIDING}),
    ("window/by_tiles", (64, 32), {"mask": masks.window(20, 20)}),
    ("mask/by_tiles", (24, 24), {"mask": masks.causal()}),
    ("tile/last_left_out", 32, {"mask": masks.causal()}),
    ("tile/first_left_out", 80, {"mask": masks.window(90, 0)}),
]


def member(name, function, value):
    return next(make(f.member(value)) for f, make in families(function) if f.example.name == name)


@pytest.mark.parametrize(("name", "tile", "options"), TILES, ids=lambda x: str(x) if not isinstance(x, dict) else "")
def test_the_size_of_a_tile_is_found(name, tile, options):
    given = {**inputs(1, 100, 130), **options}
    for e in first_of(member(name, "attention", tile).call(**given), "attention", **given):
        assert e.name == name
        assert tile in (e.variant.value, *e.variant.others)
        assert str(e.variant.value if isinstance(tile, int) else tile[0]) in e.variant.meaning


@pytest.mark.parametrize("function", ["grouped_query_attention", "tiled_attention", "split_attention"])
def test_the_size_of_a_tile_is_found_in_what_is_built_on_attention(function):
    given = {**inputs(2, 9, 77, lead=(1, 3), kv_heads=1), "mask": np.arange(77) % 5 != 3}
    given |= {"splits": 3} if function == "split_attention" else {}
    got = member("tail/zeros", "attention", 72).call(**{name: x for name, x in given.items() if name != "splits"})
    (e,) = first_of(got, function, **given)
    assert (e.name, e.variant.value) == ("tail/zeros", 72)
    weights = {"q": given["q"], "k": np.repeat(given["k"], 3, axis=-3)}
    got = member("tail/dropped", "attention_weights", 72).call(**weights)
    (e,) = first_of(got, "attention_weights", **weights)
    assert e.name == "tail/dropped"
    assert (e.variant.value, e.variant.others) == (8, (24, 72, 6))  # 77 keys: any of these leaves 72


def test_sizes_that_fit_are_said_by_number_and_not_by_their_name_again():
    q, k, v = inputs(3, 4, 65, d=64).values()
    tail = next(f for f, _ in families("attention") if f.example.name == "softcap/after_padding")
    out = tail.member(64).call(q, k, v, softcap=10.0)
    (c,) = compare(out.astype(np.float32), refattn.attention, q, k, v, softcap=10.0)
    assert str(c).count("softcap/after_padding") == 2  # what it is called and what that means
    assert "do not tell it from 128" in str(c)


def test_a_large_size_is_found_on_one_head_in_half_precision():
    given = {name: np.asarray(round_to(x, "bfloat16")) for name, x in inputs(3, 250, 300).items()}
    given["mask"] = masks.causal()
    got = round_to(member("mask/of_last_row", "attention", 120).call(**given), "bfloat16")
    (e,) = first_of(got, "attention", precision="bfloat16", **given)
    assert (e.name, e.variant.value) == ("mask/of_last_row", 120)


def test_without_a_size_that_fits_the_example_stands_for_its_family():
    given = inputs(4, 5, 40)
    (wrong,) = compare(refattn.attention(**given) + 1.0, "attention", **given)
    assert not [e for e in wrong.explanations if e.fit <= FITS]
    assert len(wrong.explanations) == len({e.name for e in wrong.explanations})


@pytest.mark.parametrize("options", [{}, {"mask": masks.causal()}, {"mask": SLIDING, "softcap": 2.0}], ids=str)
def test_sizes_of_one_effect_give_one_result_and_padding_scales_rows(options):
    given = {**inputs(3, 11, 21), **options}
    right = refattn.attention(**given)
    direction = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    held = 0
    for family, _ in families("attention"):
        values = {}
        for value in family.values(11, 21, given.get("mask")) if family.effect else ():
            result = family.member(value).results((), given)
            out = None if result is None else result["out"]
            first = values.setdefault(family.effect(value, 11, 21), out)
            assert (first is None) == (out is None)
            assert out is None or np.array_equal(out, first), (family.example.name, value)
            if family.scales and out is not None:
                np.testing.assert_allclose(direction(out), direction(right), rtol=1e-4, atol=1e-6)
                held += 1
    assert held


def test_a_family_is_registered_by_one_example():
    for function in {v.function for v in variants()}:
        listed = {v.name for v in variants(function)}
        assert {f.example.name for f, _ in families(function)} <= listed


# --- combinations ---------------------------------------------------------------------------------------------------

IMAGE = masks.documents([10, 11, 1, 1, 1, 1, 1, 1, 12, 2, 2, 13])
BOTH_WAYS = (masks.causal() | IMAGE) & masks.window(3, 3)
COMBINED = [
    (BOTH_WAYS, (masks.causal() & masks.window(3, 3)) | IMAGE, "combination/part_escapes", "documents(...)"),
    (BOTH_WAYS, masks.causal() & masks.window(3, 3), "combination/part_dropped", "documents("),
    (BOTH_WAYS, IMAGE & masks.window(3, 3), "combination/part_dropped", "causal()"),
    (BOTH_WAYS, (masks.causal() & IMAGE) & masks.window(3, 3), "combination/and_or_exchanged", "causal() | documents(...)"),
    (masks.global_tokens([4]) | masks.causal() & masks.block(3), (masks.global_tokens([4]) | masks.causal())
     & masks.block(3), "combination/part_restricts_all", "block(size=3)"),
    (IMAGE & masks.prefix(4), IMAGE, "combination/part_dropped", "prefix(lengths=4)"),
    (~(IMAGE & masks.block(3)), ~IMAGE, "combination/part_dropped", "block(size=3)"),
]  # fmt: skip


@pytest.mark.parametrize(("right", "wrong", "name", "part"), COMBINED)
def test_the_part_of_a_mask_that_is_lost_or_moved_is_found(right, wrong, name, part):
    given = inputs(11, 12, 12)
    (c,) = compare(refattn.attention(**given, mask=wrong), "attention", mask=right, **given)
    alike = {e.name: e.variant.meaning for e in c.explanations if e.fit <= FITS}
    assert part in alike[name]
    assert c.explanations[0].name in (name, "window/right_ignored")  # which is the same as to drop the documents here
    (c,) = compare(wrong.dense(12, 12), "Mask.dense", self=right, n=12, m=12)
    alike = {e.name: e.variant.meaning for e in c.explanations if e.fit <= FITS}
    assert part in alike[name]


def test_more_particular_names_come_before_that_of_a_part():
    given = inputs(12, 12, 12)
    both = masks.causal() & masks.documents([0] * 5 + [1] * 7)
    for wrong, name in ((both.parts[1], "causal/lost_with_mask"), (both.parts[0], "documents/ignored")):
        (e,) = first_of(refattn.attention(**given, mask=wrong), "attention", mask=both, **given)
        assert e.name == name


# --- numbers --------------------------------------------------------------------------------------------------------


def numbers(seed, *shape, scale=1.0):
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


X, GAIN = numbers(5, 6, 5, 16, scale=0.01), numbers(6, 16)
QKV = tuple(inputs(7, 7, 20).values())
KEEP = np.random.default_rng(8).random((7, 20)) < 0.7
AT = np.arange(3, 10)
SMOOTH = YaRN(8.0, 512, truncate=False)
NUMBERS = [
    ("rms_norm", (X, GAIN), {"eps": 1e-3}, {"eps": 3e-5}, "eps/other", 3e-5),
    ("layer_norm", (X, GAIN, GAIN), {"eps": 1e-6}, {"eps": 1e-4}, "eps/other", 1e-4),
    ("rms_norm_vjp", (X, X, GAIN), {"eps": 1e-3}, {"eps": 1e-5}, "eps/other", 1e-5),
    ("attention", QKV, {}, {"scale": 0.37}, "scale/other", 0.37),
    ("attention", QKV, {"scale": 0.2, "mask": masks.causal()}, {"scale": -0.7}, "scale/other", -0.7),
    ("attention", QKV, {"return_lse": True}, {"softcap": 3.0}, "softcap/other", 3.0),
    ("attention", QKV, {"softcap": 5.0}, {"softcap": 30.0}, "softcap/other", 30.0),
    ("attention", QKV, {"dropout": (KEEP, 0.3)}, {"dropout": (KEEP, 0.1)}, "dropout_rate/other", 0.1),
    ("tiled_attention", QKV, {"scale": 0.5, "k_tile": 8}, {"scale": 0.3}, "scale/other", 0.3),
    ("rope", (QKV[0], AT), {"base": 5e5}, {"base": 2e6}, "base/other", 2e6),
    ("rope", (QKV[0], 90 * AT), {"base": 500.0}, {"base": 12345.0}, "base/other", 12345.0),
    ("rope_vjp", (QKV[0], QKV[0], AT), {}, {"base": 1e6}, "base/other", 1e6),
    ("rope", (QKV[0], AT), {"scaling": Linear(8.0)}, {"scaling": Linear(2.0)}, "factor/other", 2.0),
    ("rope", (QKV[0], 40 * AT), {"scaling": SMOOTH}, {"scaling": SMOOTH._replace(beta_fast=20.0)}, "beta_fast/other", 20.0),
    ("sinusoidal", (AT, 16), {}, {"base": 500.0}, "base/other", 500.0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "args", "given", "wrong", "called", "value"), NUMBERS)
def test_a_number_that_is_ignored_is_solved_for(name, args, given, wrong, called, value):
    function = getattr(refattn, name)
    got = function(*args, **{**given, **wrong})
    failed = [c for c in compare(got, function, *args, **given) if not c.ok]
    assert failed
    for c in failed:
        best = c.explanations[0]
        assert best.name == called
        assert best.fit <= FITS
        assert best.variant.value == pytest.approx(value, rel=1e-3)
        assert f"were {value:.6g}" in str(c)


def test_a_number_is_held_to_the_bound_around_itself():
    """With a smaller epsilon the gradients are larger, and so is what a kernel may be off: not the bound of the given one."""
    x = numbers(9, 6, 5, 16, scale=0.01)
    got = refattn.rms_norm_vjp(x, x, GAIN, eps=1e-6)
    for c in compare(got, refattn.rms_norm_vjp, x, x, GAIN, eps=0.1):
        assert (c.explanations[0].name, c.explanations[0].variant.value) == ("eps/other", 1e-6)


def test_few_evaluations_find_it(monkeypatch):
    calls = []

    def counted(*args, **options):
        calls.append(options)
        return refattn.rms_norm(*args, **options)

    monkeypatch.setattr(constants, "function_named", lambda name: counted)
    counted.__signature__ = inspect.signature(refattn.rms_norm)
    given = {"x": X.astype(np.float64), "gamma": GAIN.astype(np.float64), "eps": 1e-3}
    got, want = refattn.rms_norm(X, GAIN, eps=3.21e-5), refattn.rms_norm(**given)
    judged = Judged("rms_norm", "out", got, want, np.abs(want) * 1e-6, profile("float32"), (), given)
    (found,) = constants.constants(judged, ratio(got, want, judged.limit))
    assert found.value == 3.21e-5
    assert len(calls) <= 60


@pytest.mark.parametrize("factor", [1.01, 1.2345, 3.0, -1.0])
def test_a_result_times_a_factor_is_no_other_number(factor):
    """A scale of the whole result can be had by another rate, too; but nobody writes such a rate down."""
    got = refattn.attention(*QKV, dropout=(KEEP, 0.3)) * np.float32(factor)
    for c in compare(got, refattn.attention, *QKV, dropout=(KEEP, 0.3)):
        assert not [e.name for e in c.explanations if e.fit <= FITS and e.name.endswith("/other")]


def test_one_number_of_a_result_is_met_by_any_other_number_and_says_nothing():
    got = refattn.rms_norm(X[:1, :1, :1], GAIN[:1]) * 1.37
    (c,) = compare(got, refattn.rms_norm, X[:1, :1, :1], GAIN[:1])
    assert not [e.name for e in c.explanations if e.fit <= FITS]


def test_a_right_result_with_noise_has_no_other_number():
    noise = 1.0 + 1e-3 * np.random.default_rng(9).normal(size=(2, 7, 4)).astype(np.float32)
    for c in compare(refattn.attention(*QKV) * noise, refattn.attention, *QKV):
        assert not [e.name for e in c.explanations if e.fit <= FITS and e.name.endswith("/other")]


@pytest.mark.parametrize(("added", "said"), [(np.log(2.0), "log 2"), (-np.log(20), "-log M"), (0.321, "0.321")])
def test_a_constant_in_the_log_sum_exp_is_found(added, said):
    out, lse = refattn.attention(*QKV, return_lse=True)
    c = compare((out, (lse + added).astype(np.float32)), refattn.attention, *QKV, return_lse=True)[1]
    assert c.explanations[0].name == "lse/constant_added"
    assert said in c.explanations[0].variant.meaning


# --- gradients ------------------------------------------------------------------------------------------------------


def test_backward_that_is_always_causal_is_named_although_the_gradient_of_the_scale_holds():
    given = {"d_out": inputs(13, 6, 9)["q"][..., :4], **inputs(14, 6, 9)}
    wrong = {v.name: v for v in variants("attention_vjp")}["gradient/causal_assumed"]
    right = refattn.attention_vjp(**given)
    for scale in (right.scale, wrong.call(**given).scale):
        got = wrong.call(**given)._replace(scale=scale)
        for c in compare(got, "attention_vjp", **given):
            assert c.ok or c.explanations[0].name == "gradient/causal_assumed"


def gradients_times(**factors):
    """Attention's gradients, some of them times a number or what a number of the call gives."""

    def kernel(d_out, q, k, v, mask=None, *, scale=None, **options):
        found = refattn.attention_vjp(d_out, q, k, v, mask, scale=scale, **options)
        by = {name: f(q, scale) if callable(f) else f for name, f in factors.items()}
        return found._replace(**{name: (getattr(found, name) * x).astype(q.dtype) for name, x in by.items()})

    return kernel


@pytest.mark.parametrize(
    ("factors", "name", "said"),
    [
        ({"v": lambda q, scale: q.shape[-1] ** -0.5 if scale is None else scale}, "v", "that of v is the scale times"),
        ({"q": np.log(2.0), "k": np.log(2.0)}, "q_and_k", "that of q is log 2 times the right one, that of k is log 2"),
        ({"k": 0.3}, "k", "that of k is 0.3 times the right one"),
        ({"q": -1.0}, "q", "that of q is -1 times the right one"),
    ],
)  # fmt: skip
def test_gradients_times_a_constant_are_named_with_it(factors, name, said):
    report = check(gradients_times(**factors), "attention_vjp", only="attention_vjp.[sbvm]*")
    cause = report.causes[0]
    assert cause.name == f"gradient/{name}_times_constant"
    assert said in str(cause)
    assert len(cause.cases) == cause.total > 10


def test_of_a_group_the_mean_of_one_gradient_is_named_with_the_heads():
    given = {"d_out": inputs(5, 6, 9, lead=(6,))["q"][..., :4], **inputs(6, 6, 9, lead=(6,), kv_heads=2)}
    right = refattn.grouped_query_attention_vjp(**given)
    got = right._replace(k=(right.k / 3).astype(np.float32))
    (e,) = first_of(got, "grouped_query_attention_vjp", **given)
    assert e.name == "gradient/k_times_constant"
    assert "that of k is G/H times" in e.variant.meaning


def test_gradients_off_by_no_one_number_are_no_constant_times_the_right_ones():
    given = {"d_out": inputs(5, 6, 9)["q"][..., :4], **inputs(6, 6, 9)}
    right = refattn.attention_vjp(**given)
    got = right._replace(v=(right.v * np.linspace(0.5, 0.6, 9)[:, None]).astype(np.float32))
    assert "times_constant" not in first_of(got, "attention_vjp", **given)[0].name
    few = {name: x[:, :1, :1] for name, x in given.items()}  # two numbers: any could be met
    right = refattn.attention_vjp(**few)
    got = right._replace(v=right.v * np.float32(0.3))
    assert not [e for e in compare(got, "attention_vjp", **few)[2].explanations if "times_constant" in e.name]


# --- over a run -----------------------------------------------------------------------------------------------------


def causal_by_four_rows(q, k, v, mask=None, **options):
    """Causality is decided once for four rows, by the last."""
    if repr(mask) == "causal()" and not {"q_positions", "k_positions"} & {x for x in options if options[x] is not None}:
        last = np.minimum(np.arange(q.shape[-2]) // 4 * 4 + 3, q.shape[-2] - 1)
        mask = np.asarray(mask.dense(q.shape[-2], k.shape[-2]))[last]
    return refattn.attention(q, k, v, mask, **options)


def test_a_number_that_won_is_asked_of_cases_that_did_not_tell_it_alone():
    cause = check(causal_by_four_rows, only="attention.c*").causes[0]
    assert (cause.name, cause.value) == ("mask/of_last_row", "the tile has 4 rows")
    assert len(cause.cases) == cause.total


def test_of_many_cases_the_value_that_nearly_all_allow_is_said():
    tail = next(f for f, _ in families("attention") if f.example.name == "tail/zeros")
    members = [tail.member(64, (256,)), tail.member(256), tail.member(256, (512,))]
    assert (agreed(members).value, agreed(members).said) == (256, "the tile has 256 keys")
    assert agreed([tail.member(64), tail.member(128)]).said == ""


def test_a_run_says_the_number_that_is_used_whatever_is_given():
    def norm(x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
        return refattn.rms_norm(x, gamma, eps=3e-5, axis=axis, unit_offset=unit_offset)

    report = check(norm, "rms_norm")
    cause = report.causes[0]
    assert (cause.name, cause.value) == ("eps/other", "eps is 3e-05 whatever is given")
    assert len(cause.cases) == cause.total
    assert "broken cases: eps is 3e-05 whatever is given" in str(cause)
