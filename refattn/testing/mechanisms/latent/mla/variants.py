"""Variants of multi-head latent attention: the layer with one of its steps, or one of its arguments, another."""

from __future__ import annotations

import math

import numpy as np

from refattn.cache import HeldLatents
from refattn.heads import Rope, split_heads
from refattn.latent import latents_of, multi_head_latent_attention
from refattn.norms import rms_norm
from refattn.testing.registry import NotApplicable, variant
from refattn.testing.steps import variant_step

_ATTEND = "latent.multi_head_latent_attention"


def _step(name, clause, step, function=multi_head_latent_attention, seen=()):
    return variant_step(f"mla/{name}", clause, function, step, seen)


def _needs(*conditions):
    if not all(conditions):
        raise NotApplicable


@_step("scale_from_latent", "MLA-SCALE", "default_scale", seen=["ollama/ollama#13893"])
def scale_from_latent(sizes):
    """The default scale counts the features that the absorbed form multiplies, R + Dr."""
    return 1.0 / math.sqrt(sizes.latent + sizes.rope)


@_step("scale_from_nope", "MLA-SCALE", "default_scale")
def scale_from_nope(sizes):
    """The default scale counts only the part without positions, Dn."""
    _needs(sizes.nope)
    return 1.0 / math.sqrt(sizes.nope)


@variant("mla/scale_ignored", "MLA-SCALE", _ATTEND, seen=["NVIDIA/Megatron-LM#3698"])
def scale_ignored(x, params, *, scale=None, **options):
    """A scale that was given is ignored."""
    _needs(scale is not None)
    return multi_head_latent_attention(x, params, **options)


@_step("values_first", "MLA-OUT", "parts_of_up_projection")
def values_first(w_ukv, sizes):
    """The up-projection is read as values, then keys, for each head."""
    w = split_heads(w_ukv, sizes.heads)
    return w[..., sizes.value :], w[..., : sizes.value]


@_step("all_keys_then_all_values", "MLA-OUT", "parts_of_up_projection")
def all_keys_then_all_values(w_ukv, sizes):
    """The up-projection is read as the keys of all heads, then the values of all heads."""
    keys, values = np.split(w_ukv, [sizes.heads * sizes.nope], axis=-1)
    return split_heads(keys, sizes.heads), split_heads(values, sizes.heads)


@_step("rope_first", "MLA-ROPE", "parts_of_queries")
def rope_first(q, sizes, rope, positions):
    """A head's query is read as the part with positions, then the part without."""
    q = split_heads(q, sizes.heads)
    return q[..., sizes.rope :], rope(q[..., : sizes.rope], positions[..., None, :])


@_step("whole_head_rotated", "MLA-ROPE", "parts_of_queries")
def whole_head_rotated(q, sizes, rope, positions):
    """The part without positions is rotated as well, in queries only."""
    _needs(sizes.nope)
    q, positions = split_heads(q, sizes.heads), positions[..., None, :]
    return rope(q[..., : sizes.nope], positions), rope(q[..., sizes.nope :], positions)


@variant("mla/half_pairs", "MLA-ROPE", _ATTEND)
def half_pairs(x, params, *, rope=Rope(), **options):
    """Pairs are (i, i + Dr/2), although the weights are for neighbours."""
    return multi_head_latent_attention(x, params, rope=rope._replace(layout="half"), **options)


@_step("latent_before_norm", "MLA-CACHE", "latents_and_keys", latents_of)
@_step("no_latent_norm", "MLA-NORM", "latents_and_keys")
def no_latent_norm(down, kv_norm, eps, rope, positions):
    """The latent is not normalised: it is cached before its norm."""
    width = kv_norm.shape[0]
    return down[..., :width], rope(down[..., width:], positions)


@_step("norm_on_rope_key", "MLA-NORM", "latents_and_keys")
def norm_on_rope_key(down, kv_norm, eps, rope, positions):
    """The shared key is normalised before it is rotated."""
    latents, rope_keys = np.split(down, [kv_norm.shape[0]], axis=-1)
    _needs(rope_keys.shape[-1])
    return rms_norm(latents, kv_norm, eps=eps), rope(rms_norm(rope_keys, None, eps=eps), positions)


@_step("key_before_rotation", "MLA-CACHE", "latents_and_keys", latents_of)
def key_before_rotation(down, kv_norm, eps, rope, positions):
    """The shared key is cached before its rotation."""
    latents, rope_keys = np.split(down, [kv_norm.shape[0]], axis=-1)
    return rms_norm(latents, kv_norm, eps=eps), rope_keys


@_step("no_query_norm", "MLA-NORM", "queries")
def no_query_norm(x, params, eps):
    """The compressed query is not normalised."""
    _needs(params.w_dq is not None)
    return x @ params.w_dq @ params.w_q


@_step("query_normed", "MLA-QUERY", "queries")
def query_normed(x, params, eps):
    """Queries are normalised although they are not compressed."""
    _needs(params.w_dq is None)
    return rms_norm(x, None, eps=eps) @ params.w_q


@variant("mla/positions_restart", "MLA-CACHE", _ATTEND)
def positions_restart(x, params, *, positions=None, cache=None, **options):
    """New tokens are rotated by positions that begin with 0, although the cache holds tokens."""
    _needs(positions is None, cache is not None and cache.length)
    return multi_head_latent_attention(x, params, positions=np.arange(x.shape[-2]), cache=cache, **options)


@variant("mla/latent_normed_again", "MLA-CACHE", _ATTEND)
def latent_normed_again(x, params, *, eps=1e-6, cache=None, **options):
    """Latents that the cache holds are normalised once more when they are read."""
    _needs(cache is not None and cache.length)
    again = HeldLatents(rms_norm(cache.latents, params.kv_norm, eps=eps), cache.rope_keys)
    return multi_head_latent_attention(x, params, eps=eps, cache=again, **options)


@variant("mla/key_rotated_again", "MLA-CACHE", _ATTEND)
def key_rotated_again(x, params, *, rope=Rope(), cache=None, **options):
    """Rotary keys that the cache holds are rotated once more when they are read."""
    _needs(cache is not None and cache.length > 1 and cache.rope_keys.size)  # position 0 turns nothing
    again = HeldLatents(cache.latents, rope(cache.rope_keys, np.arange(cache.length)))
    return multi_head_latent_attention(x, params, rope=rope, cache=again, **options)
