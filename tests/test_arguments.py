"""One door for arguments: what is wrong ends with a ValueError or TypeError that names it, before anything is made."""

import fractions

import numpy as np
import pytest

import refattn
from refattn import arguments, backend, cache, gradients, latent, masks, positions, testing
from tests import fuzz

X = np.linspace(-1.0, 1.0, 12).reshape(3, 4)
NEW = np.ones((2, 1, 2, 4))
MHA = refattn.MultiHeadParams(*[np.eye(4)] * 4)
MLA = latent.MultiHeadLatentParams(*(np.ones(shape) for shape in ((4, 8), (6,), (6, 20), (8, 4), (4, 20))))
STEPS = NEW, NEW, NEW, [2]


@pytest.mark.clause("BACKEND-REFUSE")
@pytest.mark.parametrize(("seed", "number"), [(1, 2500), pytest.param(2, 30_000, marks=pytest.mark.slow)])
def test_hostile_calls_are_refused_by_name(seed, number):
    assert [str(finding) for finding in fuzz.fuzz(seed, number)] == []


@pytest.mark.clause("BACKEND-REFUSE")
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 12))])
def test_shapes_that_do_not_belong_together_are_refused_by_name(seed):
    assert [str(finding) for finding in fuzz.shapes(seed)] == []


def test_the_fuzzer_sees_what_it_looks_for():
    def found(function, value, kind="scalar"):
        finding = fuzz.judged(fuzz.Call("f", function, {"scale": 1.0}, {"scale": kind}), {"scale": value})
        return finding and finding.what

    def fails(error):
        raise error

    assert found(lambda scale: None, "'3'") == "taken: scale"
    assert found(lambda scale: None, "1.5") is None
    assert found(lambda scale: fails(KeyError("scale")), "'3'").startswith("KeyError")
    assert found(lambda scale: fails(TypeError("bad")), "'3'") == "unnamed TypeError: bad"
    assert found(lambda scale: fails(TypeError("scale is bad")), "'3'") is None
    assert found(lambda scale: np.exp(np.float64(1e4)), "1.5").startswith("RuntimeWarning")


# --- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "two", [2, 2.0, np.float32(2), np.float16(2), np.int8(2), np.array(2.0), fractions.Fraction(2)]
)
def test_a_number_is_one_of_python_of_numpy_or_in_an_array_without_axes(two):
    assert backend.number("scale", two) == 2.0
    assert type(backend.number("scale", two)) is float
    np.testing.assert_array_equal(refattn.attention(X, X, X, scale=two), refattn.attention(X, X, X, scale=2.0))


@pytest.mark.parametrize("two", [2, np.int8(2), np.uint64(2), np.array(2)])
def test_an_integer_is_one_of_python_of_numpy_or_in_an_array_without_axes(two):
    assert backend.integer("heads", two) == 2
    assert type(backend.integer("heads", two)) is int


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("3", "scale must be a real number, not '3'"),
        (True, "scale must be a real number, not True"),
        (np.bool_(True), "scale must be a real number"),
        (1j, "scale must be a real number, not 1j"),
        (np.ones(1), r"scale must be a real number, not an array \(1,\) of float64"),
        (np.timedelta64(3), "scale must be a real number"),
        (float("nan"), "scale is nan; it must be finite"),
        (np.float32("inf"), "scale is .*inf.*; it must be finite"),
        (10**400, "scale is an integer of 1329 bits; it must be finite"),
    ],
)
def test_other_things_are_no_numbers(wrong, says):
    with pytest.raises((TypeError, ValueError), match=says):
        refattn.attention(X, X, X, scale=wrong)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: backend.integer("n", 10**5000), "n is an integer of 16610 bits; it must be at most"),
        (lambda: backend.integer("n", 2.0), r"n must be an integer, not 2\.0"),
        (lambda: backend.flag("return_lse", 1), "return_lse must be True or False, not 1"),
        (lambda: backend.choice("layout", np.ones(2), ("a", "b")), r"layout is an array \(2,\)"),
        (lambda: backend.one_of_integers("bits", 4.0, (4, 8)), "bits must be an integer"),
        (lambda: refattn.softmax(None), "x is None; it must be a NumPy or CuPy array"),
        (lambda: refattn.softmax(np.array(1.0)), r"axis is -1; x has shape \(\), which has no axis"),
        (lambda: refattn.attention(X, X, None), "v is None"),
        (lambda: refattn.attention(X, X, X, dropout=(None, 0.5)), "dropout must be a pair"),
        (lambda: refattn.attention_vjp(X, np.array(1.0), X, X), r"q has shape \(\)"),
        (lambda: refattn.rope(X, ["1", "2", "3"]), "positions must hold real numbers"),
        (lambda: refattn.rope(X, [0.0, 1.0, np.nan]), "positions holds NaN or an infinity"),
        (lambda: refattn.rope(X, [0, 1, 2**53 + 1]), "positions reaches beyond 2"),
        (lambda: refattn.sinusoidal([1], 64, base=1e-300), "base is 1e-300; its powers overflow"),
        (lambda: refattn.learned_positions(X, [-(2**63)], offset=-(2**62)), "positions . offset run from -13835"),
        (lambda: masks.global_tokens([[1], [2, 3]]), "tokens must be a full array"),
        (lambda: masks.Mask(5), "rule is 5; it must be a function of positions"),
        (lambda: masks.Mask(lambda i, j: np.ones((7, 2), dtype=bool)).dense(2, 2), r"rule's result has shape \(7, 2\)"),
        (lambda: masks.window(0, 5).block([2**63 - 1], [0]), "q_positions reaches from .* within 2.*62 of 0"),
        (lambda: masks.padding(2**62, 10), "lengths reaches from"),
        (lambda: refattn.relative_position_bucket(np.array([-(2**63)])), "relative reaches from"),
        (lambda: refattn.tiled_attention(X, X, X, bias=lambda i, j: i - j), "given for bias returns int64; it must"),
        (lambda: refattn.tiled_attention(X, X, X, bias=lambda i, j: 1j * (i - j)), "given for bias returns complex128"),
        (
            lambda: refattn.tiled_attention(X, X, X, bias=lambda i, j: np.zeros((5, 7))),
            r"bias returns an array \(5, 7\)",
        ),
        (
            lambda: refattn.tiled_attention(X, X, X, dropout=(lambda i, j: i - j, 0.5)),
            "given for dropout returns int64",
        ),
        (lambda: (masks.causal() & masks.causal()).with_arguments(size=1), "has no arguments to change"),
        (lambda: masks.padding(3).with_arguments(size=1), "has no argument size"),
        (lambda: masks.causal().rewritten(lambda rule: "x"), "change returns 'x'"),
        (lambda: positions.scaling_from_config(None), "config is None; it must be a dict"),
        (lambda: positions.rope_frequencies(4, scaling={}), "config is empty"),
        (lambda: refattn.multi_head_attention(X, None, MHA, heads=2, rope=5), "rope is 5; it must be a function of x"),
        (
            lambda: refattn.multi_head_attention(X, None, MHA, heads=2, rope=lambda x: x),
            "rope is .*too many positional",
        ),
        (lambda: latent.multi_head_latent_attention(X, (1, 2), heads=4), "params is a tuple; it must be MultiHeadLat"),
        (lambda: latent.multi_head_latent_attention(X, MLA, heads=4, mask=[[True]]), "mask is a list"),
        (lambda: latent.latents_of(X, MLA._replace(kv_norm=np.ones(0)), positions=[0, 1, 2]), "kv_norm has shape"),
        (lambda: gradients.checkpoint(X, 5), "blocks is a int; it must be a list of blocks"),
        (lambda: gradients.checkpoint(X, ["__name__"]), "blocks: block 0 is '__name__'"),
        (lambda: gradients.checkpoint(X, [gradients.Block("tanh", 5)]), "block 0 has arguments 5"),
        (lambda: gradients.checkpoint_vjp(np.ones(1), X, ["tanh"]), "d_out has shape"),
        (lambda: cache.tree_positions([-1, True]), "parents must be an integer, not True"),
        (lambda: cache.tree_positions([-1], prefix=1.5), "prefix must be an integer"),
        (lambda: cache.dequantize(np.array([0.5]), np.ones(1), np.ones(1)), "codes has dtype float64"),
        (lambda: cache.CrossKVCache(NEW, NEW).read(1.5), "queries must be an integer"),
        (lambda: cache.HeldLatents(np.ones((5, 2)), np.ones((4, 2))).append(X, X), "rope_keys has shape"),
        (lambda: cache.PagedKVCache(None), "pool is None; it must be a PagePool"),
        (lambda: cache.cache_nbytes(10, layers=-1, head_dim=4), "layers is -1; it must be at least 1"),
        (lambda: cache.cache_nbytes(10, head_dim=4, bits=3, group=1), "bits is 3; it must be one of 4, 8"),
        (lambda: refattn.split_attention(X, X, X, splits=10**9), "splits is 1000000000; it must be at most"),
        (lambda: refattn.split_attention(X, X, X, splits=2, tree=fuzz.selfish()), "tree is .* nested pairs"),
    ],
)
def test_each_kind_of_wrong_argument_is_named(call, says):
    with pytest.raises((TypeError, ValueError), match=says):
        call()


@pytest.mark.clause("ATTN-DROPOUT", "BACKEND-REFUSE")
@pytest.mark.parametrize("shape", [(4, 3), (1, 4, 3), (3,), (5, 1)])
@pytest.mark.parametrize(
    "function", [refattn.attention, refattn.tiled_attention, refattn.split_attention, refattn.attention_vjp,
                 refattn.grouped_query_attention]
)  # fmt: skip
def test_draws_for_other_queries_or_keys_are_refused_where_the_scores_have_one(function, shape):
    q, k = np.ones((1, 1, 4)), np.ones((1, 1, 4))
    dropout = (np.ones(shape, dtype=bool), 0.5)
    gradient = (q,) if function is refattn.attention_vjp else ()
    more = {"splits": 1} if function is refattn.split_attention else {}
    with pytest.raises(ValueError, match=r"dropout keep has shape .* it must broadcast to .*N=1, M=1"):
        function(*gradient, q, k, k, dropout=dropout, **more)


@pytest.mark.clause("BACKEND-REFUSE")
@pytest.mark.parametrize("function", [refattn.tiled_attention, refattn.split_attention])
def test_no_query_heads_over_several_are_refused_by_name(function):
    q, k = np.ones((0, 3, 4)), np.ones((2, 5, 4))
    with pytest.raises(ValueError, match=r"leading axes .* do not broadcast: q \(0,\), k \(2,\)"):
        function(q, k, k, **({"splits": 1} if function is refattn.split_attention else {}))


@pytest.mark.clause("MLA-REFUSE")
@pytest.mark.parametrize("absorbed", [False, True])
def test_the_data_of_a_rule_are_not_taken_for_those_of_one_head(absorbed):
    params = latent.MultiHeadLatentParams(*(np.ones(shape) for shape in ((4, 8), (6,), (6, 20), (8, 4), (4, 12))))
    params = params._replace(w_ukv=np.ones((6, 18)), w_o=np.ones((8, 4)))
    mask = masks.padding(np.array([1, 2, 3]))
    with pytest.raises(ValueError, match=r"mask has leading axes \(1, 3\); those of x and its heads are \(1, 1\)"):
        latent.multi_head_latent_attention(X[None], params, heads=1, mask=mask, absorbed=absorbed)


@pytest.mark.clause("BACKEND-REFUSE")
def test_a_call_that_is_nested_deeply_is_refused_by_the_kit_too():
    with pytest.raises(TypeError, match="x is"):
        testing.bound(refattn.softmax, "float32", fuzz.HOSTILE["deep"]())


@pytest.mark.clause("BACKEND-REFUSE")
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # NumPy's own, of its matrices
@pytest.mark.parametrize("kind", [lambda x: np.ma.MaskedArray(x, mask=x > 0), np.matrix])
def test_the_kit_takes_no_arrays_that_hide_entries_or_mean_other_operators(kind):
    x = kind(X)
    with pytest.raises(TypeError, match=r"x is a numpy.* it must be a plain NumPy array"):
        testing.bound(refattn.softmax, "float32", x)
    with pytest.raises(TypeError, match=r"x is a numpy.* it must be a plain NumPy array"):
        testing.tolerance(refattn.softmax, x)
    params = MHA._replace(w_q=kind(np.eye(4)))
    with pytest.raises(TypeError, match=r"params.w_q is a numpy"):
        testing.assert_matches(X, refattn.multi_head_attention, X, None, params, heads=2)
    with pytest.raises(TypeError, match="actual, its out: x is a numpy"):
        testing.assert_matches(x, refattn.softmax, X)


def test_parts_may_be_merged_in_any_order_however_deep_its_pairs_are():
    x = np.ones((2, 2000, 1))
    np.testing.assert_allclose(
        refattn.split_attention(x[:, :1], x, x, splits=1500, tree="sequential"), refattn.attention(x[:, :1], x, x)
    )


def test_positions_are_checked_also_where_no_rule_asks_for_them():
    for function in (refattn.attention, refattn.tiled_attention):
        for mask in (None, np.ones((3, 3), dtype=bool)):
            with pytest.raises(ValueError, match=r"k_positions has shape \(6,\); it must be \(..., M=3\)"):
                function(X, X, X, mask, k_positions=np.arange(6))


# --- options that would do nothing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: cache.decode(*STEPS, window=3), "window is 3; window goes only with cache='rolling'"),
        (lambda: cache.decode(*STEPS, positions="cache"), "positions goes only with cache='sink'"),
        (lambda: cache.decode(*STEPS, cache="rolling", window=3, bits=4), "bits goes only with cache='quantized'"),
        (lambda: cache.decode(*STEPS, layout="half"), "layout goes only with rope_base"),
        (lambda: cache.decode(*STEPS, cache="paged"), "page_size is None; it must be given with cache='paged'"),
        (lambda: cache.cache_nbytes(9, head_dim=4, window=2, page_size=2), "window and page_size are given"),
        (lambda: cache.cache_nbytes(9, head_dim=4, first=2), "first goes only with recent"),
        (lambda: cache.cache_nbytes(9, head_dim=4, rope_dim=2), "rope_dim goes only with latent_dim"),
        (lambda: cache.cache_nbytes(9, head_dim=4, group=2), "group goes only with bits"),
        (
            lambda: refattn.multi_head_attention(X, None, MHA, heads=2, qk_norm_eps=0.1),
            "goes only with q_norm or k_norm",
        ),
        (
            lambda: refattn.multi_head_attention_vjp(X, X, None, MHA, heads=2, rope_vjp=lambda d_out, x, positions: x),
            "rope_vjp goes only with rope",
        ),
        (lambda: refattn.rms_norm(X, None, unit_offset=True), "unit_offset goes only with gamma"),
        (
            lambda: gradients.checkpoint_vjp(X, gradients.checkpoint(X, ["tanh"]), ["tanh"], every=2),
            "every goes only with an array x",
        ),
    ],
)
def test_options_that_do_nothing_are_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


# --- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: refattn.sinusoidal([0], 2**62), "dim = 4611686018427387904 would take .* EiB of memory"),
        (lambda: masks.causal().dense(10**9, 10**9), "n = 1000000000 and m = 1000000000 would take .* EiB"),
        (lambda: refattn.alibi_slopes(2**50), "heads = .* would take"),
        (lambda: refattn.alibi_bias(np.ones(2), 10**8, 10**8), "n = 100000000 and m = 100000000 would take"),
        (lambda: refattn.t5_bias(np.ones((32, 2)), 10**8, 10**8), "n = 100000000 and m = 100000000 would take"),
        (lambda: positions.rope_frequencies(2**62), "rotary_dim = .* would take"),
        (lambda: cache.PagePool(2**40, 16, 8, 128), "pages = 1099511627776 and .* would take"),
        (lambda: cache.RollingKVCache(2**40).append(NEW, NEW), "window = 1099511627776 and slack = 0 would take"),
        (lambda: cache.SinkKVCache(1, 2**40).append(NEW, NEW), "recent = 1099511627776 and slack = 0 would take"),
        (lambda: cache.CrossKVCache(NEW, NEW).read(2**40), "queries = 1099511627776 would take"),
        (
            lambda: refattn.attention(*(np.broadcast_to(np.float32(0), (10**8, 1)) for _ in range(3))),
            "N = 100000000 and M = 100000000 would take",
        ),
        (
            lambda: refattn.relative_position_bucket(np.arange(3), buckets=10**6, max_distance=10**9),
            "buckets is 1000000 and max_distance 1000000000",
        ),
    ],
)
def test_sizes_that_no_memory_holds_are_refused_before_anything_is_made(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_what_fits_is_not_refused(monkeypatch):
    monkeypatch.setattr(arguments, "memory", lambda: 2.0**30)
    arguments.room(2**30, n=1)
    with pytest.raises(ValueError, match=r"n = 1 and m = 2 would take 1\.5 GiB of memory; there are 1 GiB here"):
        arguments.room(3 * 2**29, n=1, m=2)


def test_rules_are_not_combined_deeper_than_python_goes():
    deep = masks.causal()
    for _ in range(99):
        deep = deep & masks.causal()
    assert deep.dense(2, 2)[1].all()
    with pytest.raises(ValueError, match="a mask of rules combined 101 deep; at most 100"):
        _ = ~deep
    many = [masks.window(n, n) for n in range(512)]
    while len(many) > 1:
        many = [a | b for a, b in zip(many[::2], many[1::2], strict=True)]
    assert many[0].dense(3, 3).all()
