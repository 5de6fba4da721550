"""The cases of multi-head latent attention accuse no kernel that is written independently, and find mistakes that are no variants.

The correct kernel is written independently (tests/kernels/mla.py). Golden vectors take no part: recipes must do it alone.
"""

import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import refattn
from refattn.cache import HeldLatents
from refattn.testing import adapters, check
from refattn.testing.adapters import CallableAdapter
from refattn.testing.bounds import bound
from refattn.testing.distances import distance
from refattn.testing.inputs import Draw, Seeded, cases
from refattn.testing.layouts import cast
from refattn.testing.mechanisms.latent.mla.inputs import held, layer
from refattn.testing.profiles import profile
from refattn.testing.replay import find, snippet
from refattn.testing.vectors import results
from tests.kernels.mla import kernel, turned

ATTEND, LATENTS = "latent.multi_head_latent_attention", "latent.latents_of"
FUNCTIONS = (ATTEND, LATENTS)
FORMATS = ("float32", "bfloat16", "float16")
LEAST = 4.0  # a variant must be this many bounds away to count as found


def bounded(function, precision, seed, effort="smoke"):
    """Every case with its bounds."""
    chosen = profile(precision)
    for name, _, arguments in cases(function, fmt=chosen.out.name, effort=effort, seed=seed):
        with np.errstate(all="ignore"):
            yield name, arguments, bound(function, chosen, **arguments)


@functools.cache
def first(function, precision):
    """Those of seed 0, computed once for several tests."""
    return list(bounded(function, precision, 0))


def off(got, limits):
    """How far results are from the reference, in bounds; a missing shape or NaN in the wrong place is infinitely far."""
    pairs = [(np.asarray(got[name], dtype=float), limit) for name, limit in limits.items()]
    if any(x.shape != limit.value.shape for x, limit in pairs):
        return np.inf
    return max(distance(x, limit.value, np.broadcast_to(limit.hard, x.shape)) for x, limit in pairs)


def accused(function, precision, found, form=None):
    """Cases on which a correct kernel is outside its bound."""
    fmt = profile(precision).out.name
    call = kernel(fmt, form)[function]
    for name, arguments, limits in found:
        with np.errstate(all="ignore"):
            share = off(results(function, call(**cast_all(arguments, fmt))), limits)
        if not share <= 1:
            yield f"{name}: {share:.3g}"


def cast_all(arguments, fmt):
    return {name: cast(x, fmt) for name, x in arguments.items()}


@pytest.mark.parametrize("fmt", ["float32", "bfloat16"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_correct_kernel_is_accused(function, fmt):
    assert not list(accused(function, fmt, first(function, fmt)))


@pytest.mark.slow
@pytest.mark.parametrize("form", [None, "explicit", "absorbed"])
@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_correct_kernel_is_accused_by_many_seeds(function, fmt, form):
    """Whichever form the kernel takes: both are the same function, and the bound of either holds for the other."""
    for seed in range(100, 160 if form is None else 110):
        assert not list(accused(function, fmt, bounded(function, fmt, seed), form)), seed


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16/eager", "float16/eager", "float32/eager"])
def test_a_finer_kernel_than_promised_is_not_accused(precision):
    for seed in range(3):
        assert not list(accused(ATTEND, precision, bounded(ATTEND, precision, seed, "standard"))), seed


# --- wrong kernels that are no variants ------------------------------------------------------------------------------


def _normed_again(x, params, eps):
    latents = x.latents / np.sqrt(np.mean(x.latents**2, axis=-1, keepdims=True) + eps) * params.kv_norm
    return x._replace(latents=latents.astype(x.latents.dtype))


def _rotated_again(x, rope):
    return x._replace(rope_keys=turned(x.rope_keys, np.arange(x.length), rope))


def _mistakes(right):
    """Kernels with one mistake each, by name."""

    def with_changed(change, *needs):
        def call(x, params, **given):
            if all(given.get(name) is not None for name in needs):
                x, params, given = change(x, params, given)
            return right(x, params, **given)

        return call

    def without(name, *more):
        return with_changed(lambda x, p, g: (x, p, {k: v for k, v in g.items() if k not in (name, *more)}), name)

    def dense_turned(x, p, g):
        mask = g["mask"]
        square = isinstance(mask, np.ndarray) and mask.shape[-1] == mask.shape[-2]
        return x, p, {**g, "mask": np.swapaxes(mask, -1, -2) if square else mask}

    def starts_at_zero(x, p, g):
        return x, p, {"positions": np.arange(x.shape[-2]), **g}

    def scale_of_absorbed(x, p, g):
        own = {"scale": p.w_dkv.shape[1] ** -0.5} if g["absorbed"] and g.get("scale") is None else {}
        return x, p, {**g, **own}

    def shared_key_shifted(x, p, g):
        r = p.kv_norm.shape[0]
        rope = p.w_dkv[:, r:]
        return x, p._replace(w_dkv=np.concatenate([p.w_dkv[:, :r], np.roll(rope, 1, axis=1)], axis=1)), g

    def heads_turned(x, p, g):
        w = p.w_o.reshape(g["heads"], -1, p.w_o.shape[1])
        return x, p._replace(w_o=w[::-1].reshape(p.w_o.shape)), g

    return {
        "the mask is ignored": without("mask"),
        "the mask is turned": with_changed(dense_turned, "mask"),
        "the cache is ignored": without("cache", "mask"),
        "positions are ignored": without("positions"),
        "positions start at 0 behind a cache": with_changed(starts_at_zero, "cache"),
        "cached latents are normed again": with_changed(
            lambda x, p, g: (x, p, {**g, "cache": _normed_again(g["cache"], p, g.get("eps", 1e-6))}), "cache"
        ),
        "cached keys are rotated again": with_changed(
            lambda x, p, g: (x, p, {**g, "cache": _rotated_again(g["cache"], g["rope"])}), "cache"
        ),
        "eps is ignored": without("eps"),
        "the rotation's options are ignored": without("rope"),
        "scaling of the rotation is ignored": with_changed(
            lambda x, p, g: (x, p, {**g, "rope": g["rope"]._replace(scaling=None)}), "rope"
        ),
        "part of the key is to turn, all does": with_changed(
            lambda x, p, g: (x, p, {**g, "rope": g["rope"]._replace(rotary_dim=None)}), "rope"
        ),
        "the absorbed form has a scale of its own": with_changed(scale_of_absorbed, "absorbed"),
        "the latents' gain is left out": with_changed(
            lambda x, p, g: (x, p._replace(kv_norm=np.ones_like(p.kv_norm)), g)
        ),
        "the queries' gain is left out": with_changed(
            lambda x, p, g: (x, p._replace(q_norm=None if p.q_norm is None else np.ones_like(p.q_norm)), g)
        ),
        "the features of the shared key are shifted": with_changed(shared_key_shifted),
        "heads come out in reverse": with_changed(heads_turned),
    }


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_cases_find_other_mistakes(precision):
    left = _mistakes(kernel(precision)[ATTEND])
    assert len(left) >= 16
    for _, arguments, limits in first(ATTEND, precision):
        given = cast_all(arguments, precision)
        for name, wrong in list(left.items()):
            with np.errstate(all="ignore"):
                if off({"out": wrong(**given)}, limits) >= LEAST:
                    del left[name]
    assert not left


# --- the cases themselves ------------------------------------------------------------------------------------------


def test_check_runs_the_cases_and_tells_what_a_kernel_lacks():
    call = kernel("float32")[ATTEND]

    def without_cache(x, params, *, heads, mask=None, rope=None, positions=None, eps=1e-6, scale=None, absorbed=False):
        rope = {} if rope is None else {"rope": rope}
        return call(
            x, params, heads=heads, mask=mask, positions=positions, eps=eps, scale=scale, absorbed=absorbed, **rope
        )

    report = check(CallableAdapter(without_cache, ATTEND, "float32"), effort="smoke", only=f"{ATTEND}.[ds]*e*")
    assert report.ok
    names = {result.case.id.split(".")[2]: result for result in report.results}
    assert names["decode_1_over_37"].status == "unsupported"
    assert names["decode_1_over_37"].reason == "it takes no cache"
    assert names["scale_decides"].status == "holds"


def test_held_latents_are_as_a_cache_gives_them():
    """Appending to the snapshot is appending to a cache that got the same before, and the snapshot stays as it was."""
    from refattn.cache import LatentKVCache

    draw = Draw(Seeded(0), "float32")
    given = layer(draw)
    before = held(draw, 5, given)
    cache = LatentKVCache()
    cache.append(*before)
    new = (draw.normal(2, 3, 9), draw.normal(2, 3, 4))
    assert (cache.length, str(cache.mask)) == (before.length, str(before.mask))
    for _ in range(2):
        for mine, theirs in zip(before.append(*new), cache.append(*new), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        cache.truncate(5)
    assert isinstance(before, HeldLatents)
    assert before.length == 5


def test_a_case_with_a_cache_runs_as_a_program_of_its_own():
    target, options = "refattn.latent:multi_head_latent_attention", {"function": ATTEND}
    adapter = adapters.get(target, **options)
    case = find(adapter, f"{ATTEND}.decode_1_over_5.float32", effort="smoke")
    program = snippet(adapter, case, target, options)
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(refattn.__file__).parents[1])


def test_arguments_can_be_written_for_another_program(tmp_path):
    """A kernel behind the line protocol gets weights, cache and rotation as named members."""
    from refattn.testing.adapters.line_files import write

    draw = Draw(Seeded(0), "float32")
    given = layer(draw, n=2)
    given["cache"] = held(draw, 5, given)
    write(tmp_path / "case.json", ATTEND, "float32", given)
    arguments = json.loads((tmp_path / "case.json").read_text())["arguments"]
    assert arguments["cache"]["latents"]["shape"] == [2, 5, 9]
    assert arguments["params"]["w_dkv"]["shape"] == [12, 13]
    assert arguments["rope"]["base"] == 100.0
