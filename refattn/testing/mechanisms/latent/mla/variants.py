"""Variants of multi-head latent attention."""

from __future__ import annotations

import math

import numpy as np

from refattn.cache import HeldLatents
from refattn.heads import Rope
from refattn.latent import latents_of, multi_head_latent_attention
from refattn.norms import rms_norm
from refattn.testing.registry import NotApplicable, variant

_ATTEND = "latent.multi_head_latent_attention"


def _sizes(params, heads):
    """R, Dr, Dn, Dv."""
    latent = params.kv_norm.shape[0]
    rope = params.w_dkv.shape[1] - latent
    nope = params.w_q.shape[1] // heads - rope
    return latent, rope, nope, params.w_ukv.shape[1] // heads - nope


def _scaled(name, seen, features):
    def call(x, params, *, heads, **options):
        if options.get("scale") is not None:
            raise NotApplicable
        counted = features(*_sizes(params, heads))
        if not counted:
            raise NotApplicable
        scale = 1.0 / math.sqrt(counted)
        return multi_head_latent_attention(x, params, heads=heads, **{**options, "scale": scale})

    call.__doc__ = f"The default scale counts {name}."
    return call


variant("mla/scale_from_latent", "MLA-SCALE", _ATTEND, seen=["ollama/ollama#13893"])(
    _scaled("the features that the absorbed form multiplies, R + Dr", (), lambda r, dr, dn, dv: r + dr)
)
variant("mla/scale_from_nope", "MLA-SCALE", _ATTEND)(
    _scaled("only the part without positions, Dn", (), lambda r, dr, dn, dv: dn)
)


@variant("mla/scale_ignored", "MLA-SCALE", _ATTEND, seen=["NVIDIA/Megatron-LM#3698"])
def mla_scale_ignored(x, params, *, scale=None, **options):
    """A scale that was given is ignored."""
    if scale is None:
        raise NotApplicable
    return multi_head_latent_attention(x, params, **options)


def _columns(w, heads, order):
    """The columns of a matrix in another order within each head."""
    parts = w.reshape(w.shape[0], heads, -1)
    return parts[..., order].reshape(w.shape)


@variant("mla/values_first", "MLA-OUT", _ATTEND)
def mla_values_first(x, params, *, heads, **options):
    """The up-projection is read as values, then keys, for each head."""
    _, _, nope, value = _sizes(params, heads)
    order = [*range(value, value + nope), *range(value)]
    return multi_head_latent_attention(
        x, params._replace(w_ukv=_columns(params.w_ukv, heads, order)), heads=heads, **options
    )


@variant("mla/all_keys_then_all_values", "MLA-OUT", _ATTEND)
def mla_all_keys_then_all_values(x, params, *, heads, **options):
    """The up-projection is read as the keys of all heads, then the values of all heads."""
    nope = _sizes(params, heads)[2]
    keys, values = np.split(params.w_ukv, [heads * nope], axis=1)
    both = [part.reshape(len(keys), heads, -1) for part in (keys, values)]
    w_ukv = np.concatenate(both, axis=-1).reshape(params.w_ukv.shape)
    return multi_head_latent_attention(x, params._replace(w_ukv=w_ukv), heads=heads, **options)


@variant("mla/rope_first", "MLA-ROPE", _ATTEND)
def mla_rope_first(x, params, *, heads, **options):
    """A head's query is read as the part with positions, then the part without."""
    _, rope, nope, _ = _sizes(params, heads)
    order = [*range(rope, rope + nope), *range(rope)]
    return multi_head_latent_attention(
        x, params._replace(w_q=_columns(params.w_q, heads, order)), heads=heads, **options
    )


@variant("mla/half_pairs", "MLA-ROPE", _ATTEND)
def mla_half_pairs(x, params, *, rope=Rope(), **options):
    """Pairs are (i, i + Dr/2), although the weights are for neighbours."""
    return multi_head_latent_attention(x, params, rope=rope._replace(layout="half"), **options)


@variant("mla/whole_head_rotated", "MLA-ROPE", _ATTEND)
def mla_whole_head_rotated(x, params, *, heads, rope=Rope(), positions=None, cache=None, **options):
    """The part without positions is rotated as well, in queries only."""
    nope, n = _sizes(params, heads)[2], x.shape[-2]
    positions = (0 if cache is None else cache.length) + np.arange(n) if positions is None else positions
    if nope % 2 or not nope or np.ndim(positions) > 1 or rope.rotary_dim is not None:
        raise NotApplicable
    given = {**options, "heads": heads, "rope": rope, "positions": positions, "cache": cache}
    rows = []
    for row, position in enumerate(positions):  # a rotation of the columns of w_q, another for each token
        w = params.w_q.reshape(len(params.w_q), heads, -1).copy()
        w[..., :nope] = rope(w[..., :nope], np.full(heads, position))
        moved = multi_head_latent_attention(x, params._replace(w_q=w.reshape(params.w_q.shape)), **given)
        rows.append(moved[..., row, :])
    return np.stack(rows, axis=-2)


@variant("mla/no_latent_norm", "MLA-NORM", _ATTEND)
def mla_no_latent_norm(x, params, *, heads, eps=1e-6, **options):
    """The latent is not normalised."""
    width = params.kv_norm.shape[0]
    return _with_latents(x, params, heads, eps, options, x @ params.w_dkv[:, :width], None)


@variant("mla/norm_on_rope_key", "MLA-NORM", _ATTEND)
def mla_norm_on_rope_key(x, params, *, heads, eps=1e-6, **options):
    """The shared key is normalised before it is rotated."""
    key = x @ params.w_dkv[:, params.kv_norm.shape[0] :]
    if not key.shape[-1]:
        raise NotApplicable
    return _with_latents(
        x, params, heads, eps, options, None, key / np.sqrt(np.mean(key**2, axis=-1, keepdims=True) + eps)
    )


@variant("mla/no_query_norm", "MLA-NORM", _ATTEND)
def mla_no_query_norm(x, params, **options):
    """The compressed query is not normalised."""
    if params.w_dq is None:
        raise NotApplicable
    return multi_head_latent_attention(
        x, params._replace(w_q=params.w_dq @ params.w_q, w_dq=None, q_norm=None), **options
    )


@variant("mla/query_normed", "MLA-QUERY", _ATTEND)
def mla_query_normed(x, params, **options):
    """Queries are normalised although they are not compressed."""
    if params.w_dq is not None:
        raise NotApplicable
    width = x.shape[-1]
    return multi_head_latent_attention(x, params._replace(w_dq=np.eye(width), q_norm=np.ones(width)), **options)


@variant("mla/positions_restart", "MLA-CACHE", _ATTEND)
def mla_positions_restart(x, params, *, positions=None, cache=None, **options):
    """New tokens are rotated by positions that begin with 0, although the cache holds tokens."""
    if positions is not None or cache is None or not cache.length:
        raise NotApplicable
    return multi_head_latent_attention(x, params, positions=np.arange(x.shape[-2]), cache=cache, **options)


@variant("mla/latent_normed_again", "MLA-CACHE", _ATTEND)
def mla_latent_normed_again(x, params, *, eps=1e-6, cache=None, **options):
    """Latents that the cache holds are normalised once more when they are read."""
    if cache is None or not cache.length:
        raise NotApplicable
    again = HeldLatents(rms_norm(cache.latents, params.kv_norm, eps=eps), cache.rope_keys)
    return multi_head_latent_attention(x, params, eps=eps, cache=again, **options)


@variant("mla/key_rotated_again", "MLA-CACHE", _ATTEND)
def mla_key_rotated_again(x, params, *, rope=Rope(), cache=None, **options):
    """Rotary keys that the cache holds are rotated once more when they are read."""
    if cache is None or cache.length < 2 or not cache.rope_keys.shape[-1]:  # position 0 turns nothing
        raise NotApplicable
    again = HeldLatents(cache.latents, rope(cache.rope_keys, np.arange(cache.length)))
    return multi_head_latent_attention(x, params, rope=rope, cache=again, **options)


def _with_latents(x, params, heads, eps, options, latents, key):
    """Attention with other latents or other shared keys of the tokens in x."""
    held, rope, positions = (options.pop(name, None) for name in ("cache", "rope", "positions"))
    rope = Rope() if rope is None else rope
    start = 0 if held is None else held.length
    positions = start + np.arange(x.shape[-2]) if positions is None else positions

    class Changed:
        """A cache that gives what it was told to."""

        length, mask = start, None if held is None else held.mask

        def append(self, own, rope_keys):
            new = own if latents is None else latents, rope_keys if key is None else rope(key, positions)
            return (*new, positions, positions) if held is None else held.append(*new)

    return multi_head_latent_attention(
        x, params, heads=heads, eps=eps, rope=rope, positions=positions, cache=Changed(), **options
    )


@variant("mla/latent_before_norm", "MLA-CACHE", "latent.latents_of")
def mla_latent_before_norm(x, params, **options):
    """The latent is cached before its norm."""
    return x @ params.w_dkv[:, : params.kv_norm.shape[0]], latents_of(x, params, **options)[1]


@variant("mla/key_before_rotation", "MLA-CACHE", "latent.latents_of")
def mla_key_before_rotation(x, params, **options):
    """The shared key is cached before its rotation."""
    return latents_of(x, params, **options)[0], x @ params.w_dkv[:, params.kv_norm.shape[0] :]
