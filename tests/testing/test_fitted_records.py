"""Calls whose arrays stand in records and caches are moved too: layers, latents, decoding."""

import numpy as np
import pytest

import refattn
from refattn import cache, latent
from refattn.cache.base import Cache
from refattn.heads import MultiHeadParams
from refattn.testing import check
from refattn.testing.inputs import Draw, Seeded
from refattn.testing.sizes import NotMovable, resized, sizes_of
from refattn.testing.stated import parse
from refattn.testing.subject import subject

MHA, MLA, GLU, DECODE = (
    "multi_head_attention",
    "latent.multi_head_latent_attention",
    "gated_feed_forward",
    "cache.decode",
)


def only(function, takes, name, bug=None):
    """A kernel that takes some sizes only, with a mistake."""

    def kernel(*args, **options):
        given = {**dict(zip(ARGUMENTS[name], args, strict=False)), **options}
        if not takes(given):
            raise NotImplementedError("other sizes")
        return function(**(bug(given) if bug else given))

    kernel.__name__ = name
    return kernel


ARGUMENTS = {
    MHA: ("x_q", "x_kv", "params"),
    MLA: ("x", "params"),
    GLU: ("x", "params"),
    DECODE: tuple("qkv") + ("blocks",),
}
REFERENCE = {
    MHA: refattn.multi_head_attention,
    MLA: latent.multi_head_latent_attention,
    GLU: refattn.gated_feed_forward,
    DECODE: cache.decode,
}


def head_size(given):
    p = given["params"]
    return p.w_q.shape[1] // given["heads"] if isinstance(p, MultiHeadParams) else None


def as_deepseek(given):
    p = given["params"]
    up, down = p.w_ukv.shape[1] // given["heads"], p.w_dkv.shape[1] - p.kv_norm.shape[0]
    return p.kv_norm.shape[0] == 512 and down == 64 and up == 256 and p.w_o.shape[0] == 128 * given["heads"]


LIMITS = {
    "eight heads": (MHA, lambda given: given["heads"] == 8),
    "wide tokens": (MHA, lambda given: given["x_q"].shape[-1] % 64 == 0),
    "sizes of heads": (MHA, lambda given: head_size(given) in (64, 128)),
    "three axes": (MHA, lambda given: given["x_q"].ndim == 3),
    "no packed weights, biases or gains": (
        MHA,
        lambda given: isinstance(given["params"], MultiHeadParams) and all(x is None for x in given["params"][4:]),
    ),
    "latents of DeepSeek": (MLA, as_deepseek),
    "latents by the 32": (MLA, lambda given: given["params"].kv_norm.shape[0] % 32 == 0),
    "hidden by the 128": (GLU, lambda given: given["params"].w_up.shape[1] % 128 == 0),
    "pages of 16": (DECODE, lambda given: given.get("cache") == "paged" and given["page_size"] == 16),
}


def judged(report):
    return sum(r.status == "holds" and ".inside_" in r.case.id for r in report.results)


@pytest.mark.parametrize("function", [MHA, MLA, "multi_head_attention_vjp", GLU, DECODE, "split_heads"])
def test_moved_calls_are_calls_of_the_reference_with_the_sizes_that_were_asked_for(function):
    wanted = {"E": 16, "D": 32, "H": 8, "G": 2, "R": 24, "Dr": 6, "F": 20, "T": 40, "page_size": 3}
    seen = set()
    for seed in range(12):
        given = Draw(Seeded(seed), "float32").call(subject(function))
        own = sizes_of(function, given)
        sizes = {letter: wanted.get(letter, own[letter]) for letter in own}
        try:
            moved = resized(function, given, sizes)
        except NotMovable:  # dropout is no record, and of none there is nothing to make more of
            continue
        if "bias" not in given and "mask" not in given:  # which may be arrays with letters that no other array has
            subject(function).function(**moved)
            assert sizes_of(function, moved) == sizes
        seen |= sizes.items() & wanted.items()
    assert len(seen) >= 2


def test_letters_follow_from_what_products_and_sums_leave_open():
    given = Draw(Seeded(3), "float32").call(subject(MLA))
    p = given["params"]
    sizes = sizes_of(MLA, given)
    assert sizes["R"] + sizes["Dr"] == p.w_dkv.shape[1]
    assert sizes["H"] * (sizes["Dn"] + sizes["Dv"]) == p.w_ukv.shape[1]
    assert sizes["H"] * (sizes["Dn"] + sizes["Dr"]) == p.w_q.shape[1]
    assert ("Rq" in sizes) == (p.w_dq is not None)


def test_each_head_and_each_part_is_moved_by_itself():
    columns = np.arange(12.0).reshape(
        1, 12
    )  # of packed weights: two heads of queries, one of keys, one of values, D = Dv = 3
    params = refattn.heads.PackedMultiHeadParams(columns, np.ones((6, 1)))
    given = {"x_q": np.ones((2, 1)), "x_kv": None, "params": params, "heads": 2, "kv_heads": 1}
    moved = resized(MHA, given, {"D": 2})
    assert sizes_of(MHA, given) == {"H": 2, "G": 1, "N": 2, "E": 1, "E_out": 1, "Dv": 3, "D": 3}
    np.testing.assert_array_equal(moved["params"].w_qkv, [[1, 2, 4, 5, 7, 8, 9, 10, 11]])
    assert "kv_heads" not in resized(MHA, given, {"G": 2})


def test_weights_with_more_rows_keep_their_products_as_large():
    params = refattn.GatedFeedForwardParams(*(np.ones(shape) for shape in ((4, 8), (4, 8), (8, 4))))
    moved = resized(GLU, {"x": np.ones((3, 4)), "params": params}, {"E": 64})["params"]
    assert moved.w_up.shape == (64, 8)
    assert set(np.unique(moved.w_up)) == {0.125, 0.25}
    assert set(np.unique(moved.w_out)) == {1.0}


def test_a_held_cache_is_moved_with_the_tokens():
    given = next(g for _, _, g in subject(MLA).directed(Draw(Seeded(0), "float32"), "standard") if g.get("cache"))
    moved = resized(MLA, given, {"R": 32, "M": 16})
    assert moved["cache"].latents.shape[-2:] == (16, 32)
    assert moved["cache"].rope_keys.shape[-2] == 16
    assert latent.multi_head_latent_attention(**moved).shape[-2] == given["x"].shape[-2]


def test_blocks_follow_the_tokens_and_the_batch():
    x = np.ones((3, 1, 6, 2))
    given = {"q": x, "k": x, "v": x, "blocks": [4, [2, 0, 1], 3, -1]}
    assert resized(DECODE, given, {"T": 9})["blocks"] == [7, [2, 0, 1], 3, -1]
    assert resized(DECODE, given, {"B": 2})["blocks"] == [4, [0, 1], 3, -1]
    assert resized(DECODE, given, {"T": 2})["blocks"] == [2]


def test_limits_of_layers_are_stated_by_the_letters_of_their_weights():
    stated = parse("H == 8; E % 64 == 0; N == M", MHA)
    given = next(g for _, _, g in subject(MHA).directed(Draw(Seeded(0), "float32"), "standard") if g["x_kv"] is None)
    assert stated.beyond(given) == "H == 8"
    assert not stated.beyond(resized(MHA, given, {"H": 8, "G": 2, "E": 64}))
    calls = []

    def kernel(x, params, **options):
        calls.append(params.kv_norm.shape[0])
        return latent.multi_head_latent_attention(x, params, **options)

    limits = "R == 48; Dr == 16; Dn in 32, 64; N <= 8"
    report = check(kernel, MLA, limits=limits, only=f"{MLA}.inside_*")
    assert report.ok
    assert judged(report) >= 20
    assert set(calls) == {48}
    with pytest.raises(ValueError, match="no size Q: it has the sizes E, F, E_out"):
        check(kernel, GLU, limits="Q == 8")


@pytest.mark.parametrize("limit", [*LIMITS])
def test_a_right_kernel_is_judged_inside_its_limits(limit):
    function, takes = LIMITS[limit]
    report = check(only(REFERENCE[function], takes, function), function, only=f"{function}.inside_*")
    assert report.ok
    assert judged(report) >= (3 if limit == "three axes" else 20)


def one_more(given):
    """Causal attention that sees one key of the future."""
    if repr(given.get("mask")) != "causal()":
        return given
    return {**given, "mask": refattn.masks.window(None, 1)}


def exchanged(given):
    """The gate in place of what it gates."""
    p = given["params"]
    return {**given, "params": p._replace(w_gate=p.w_up, w_up=p.w_gate, b_gate=p.b_up, b_up=p.b_gate)}


def ahead(given):
    """Queries of a block see the next key, where it came with them: the cache has a rule of its own."""
    given = dict(given)
    return {**given, "mask_of_cache": refattn.masks.window(None, 1)}


def decode_by(q, k, v, blocks, *, mask_of_cache, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cache, "mask", mask_of_cache)
        return cache.decode(q, k, v, blocks, **options)


WRONG = {
    "causal in a layer": ("eight heads", refattn.multi_head_attention, one_more, "causal/one_more", "*"),
    "causal over latents": (
        "latents by the 32",
        latent.multi_head_latent_attention,
        one_more,
        "causal/one_more",
        "causal_*",
    ),
    "gate and up": ("hidden by the 128", refattn.gated_feed_forward, exchanged, "glu/gate_order", "*"),
    "decoding": ("pages of 16", decode_by, ahead, "causal/one_more", "random_000*"),
}


@pytest.mark.parametrize("mistake", [*WRONG])
def test_a_wrong_kernel_is_found_and_named(mistake):
    limit, wrong, bug, name, cases = WRONG[mistake]
    function, takes = LIMITS[limit]
    report = check(only(wrong, takes, function, bug), function, only=f"{function}.inside_{cases}")
    broken = [r for r in report.results if r.status == "broken"]
    assert all(".inside_" in r.case.id for r in broken)
    assert len(broken) > 3
    assert [cause.name for cause in report.causes] == [name]
