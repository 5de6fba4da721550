"""Calls whose arrays stand in records and caches are moved too: layers, latents, decoding."""

import numpy as np
import pytest

import refattn
from refattn import cache, latent
from refattn.heads import MultiHeadParams
from refattn.testing import check
from refattn.testing.checking import all_cases
from refattn.testing.inputs import Draw, Seeded
from refattn.testing.sizes import resized, sizes_of
from refattn.testing.subject import subject

MHA, MLA, GLU, DECODE = "multi_head_attention", "latent.multi_head_latent_attention", "gated_feed_forward", "cache.decode"


def only(function, takes, name, bug=None):
    """A kernel that takes some sizes only, with a mistake."""

    def kernel(*args, **options):
        given = {**dict(zip(ARGUMENTS[name], args, strict=False)), **options}
        if not takes(given):
            raise NotImplementedError("other sizes")
        return function(**(bug(given) if bug else given))

    kernel.__name__ = name
    return kernel


ARGUMENTS = {MHA: ("x_q", "x_kv", "params"), MLA: ("x", "params"), GLU: ("x", "params"), DECODE: tuple("qkv") + ("blocks",)}
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
    "hidden by the 128": (GLU, lambda given: given["params"].w_up.shape[1] % 128 == 0),
    "pages of 16": (DECODE, lambda given: given.get("cache") == "paged" and given["page_size"] == 16),
}



def judged(report):
    return sum(r.status == "holds" and ".inside_" in r.case.id for r in report.results)


@pytest.mark.parametrize("limit", [*LIMITS])
def test_a_right_kernel_is_judged_inside_its_limits(limit):
    function, takes = LIMITS[limit]
    report = check(only(REFERENCE[function], takes, function), function)
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


WRONG = {
    "causal in a layer": ("eight heads", one_more, "causal/one_more"),
    "causal over latents": ("latents of DeepSeek", one_more, "causal/one_more"),
    "gate and up": ("hidden by the 128", exchanged, "glu/gate_order"),
    "decoding": ("pages of 16", None, ""),
}


@pytest.mark.parametrize("mistake", [*WRONG])
def test_a_wrong_kernel_is_found_and_named(mistake):
    limit, bug, name = WRONG[mistake]
    function, takes = LIMITS[limit]
    report = check(only(REFERENCE[function], takes, function, bug), function)
    broken = [r for r in report.results if r.status == "broken"]
    assert all(".inside_" in r.case.id for r in broken)
    print([str(c)[:300] for c in report.causes], {r.deviation for r in broken}, len(broken))
    assert name in report.causes[0].name
