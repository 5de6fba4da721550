"""Multi-head latent attention (MLA): keys and values come from one small latent a token."""

from __future__ import annotations

import contextlib
import math
from typing import Any, NamedTuple

from refattn import arguments, backend
from refattn.attention import attention
from refattn.cache import HeldLatents, LatentKVCache
from refattn.heads import Rope, merge_heads, split_heads
from refattn.masks import Mask, visible
from refattn.norms import rms_norm


class MultiHeadLatentParams(NamedTuple):
    """The weights of multi-head latent attention; they multiply from the right.

    Attributes
    ----------
    w_dkv : array (E, R + Dr)
        Down to the latent and the rotary key, in this order.
    kv_norm : array (R,)
        Gain of the latent's RMSNorm; the rotary key has none.
    w_ukv : array (R, H·(Dn + Dv))
        Up from the latent: for each head its keys, then its values.
    w_o : array (H·Dv, E_out)
    w_q : array (E, H·(Dn + Dr)) or (Rq, H·(Dn + Dr))
        To the queries: for each head the part without, then the part with positions.
    w_dq : array (E, Rq), optional
        Queries are compressed first, and w_q starts from there.
    q_norm : array (Rq,), optional
        Gain of the compressed query's RMSNorm; given if `w_dq` is.
    """

    w_dkv: Any
    kv_norm: Any
    w_ukv: Any
    w_o: Any
    w_q: Any
    w_dq: Any = None
    q_norm: Any = None


class Sizes(NamedTuple):
    """What the shapes of the weights say; `nope` and `rope` are the parts of a head's keys without and with positions."""

    heads: int  # H
    latent: int  # R
    rope: int  # Dr
    nope: int  # Dn
    value: int  # Dv


def latents_of(x, params, *, positions, rope=Rope(), eps=1e-6):
    r"""What the cache of multi-head latent attention holds: a latent and a rotated key for each token.

    .. math:: c = \mathrm{RMSNorm}(x W^{DKV}_{:R}), \qquad k^R = \mathrm{RoPE}(x W^{DKV}_{R:})

    Parameters
    ----------
    x : array (..., N, E)
    params : MultiHeadLatentParams
    positions : int array (..., N)
    rope : callable (x, positions), default Rope()
        The rotation; DeepSeek's pairs are interleaved.
    eps : float, default 1e-6
        Of RMSNorm.

    Returns
    -------
    latents : array (..., N, R)
    rope_keys : array (..., N, Dr)
        One for all heads.

    Notes
    -----
    R + Dr numbers a token. Clauses: MLA-CACHE, MLA-NORM, MLA-ROPE. Source: DeepSeek-AI 2024 (DeepSeek-V2), eq. 9 and 15.

    Examples
    --------
    >>> import numpy as np
    >>> w = MultiHeadLatentParams(np.eye(3), np.ones(1), np.ones((1, 4)), np.ones((2, 3)), np.ones((3, 8)))
    >>> [part.shape for part in latents_of(np.ones((5, 3)), w, positions=np.arange(5))]
    [(5, 1), (5, 2)]
    """
    arguments.params(params, MultiHeadLatentParams)
    xp, x, w_dkv, kv_norm = backend.floating(x=x, w_dkv=params.w_dkv, kv_norm=params.kv_norm)
    _latent_and_rope(x, w_dkv, kv_norm)
    positions, rope = _checked_positions(xp, x, positions), _checked_rotation(rope)
    return latents_and_keys(x @ w_dkv, kv_norm, backend.number("eps", eps, least=0), rope, positions)


def multi_head_latent_attention(
    x, params, *, heads, mask=None, rope=Rope(), positions=None, eps=1e-6, scale=None, absorbed=False, cache=None,
):  # fmt: skip
    r"""Multi-head latent attention, explicit or absorbed.

    .. math:: s_{ij} = \tau\,(q^N_i \cdot k^N_j + q^R_i \cdot k^R_j), \qquad [k^N_j ; v_j] = c_j W^{UKV}, \qquad
        u_i = \Big[ \sum_j p_{ij} v_j \Big]_{h} W^O

    Parameters
    ----------
    x : array (..., N, E)
        Tokens; with a cache the new ones.
    params : MultiHeadLatentParams
    heads : int
        H.
    mask : bool array that broadcasts to (..., N, M + N), or rule, optional
        M is the number of tokens in the cache, 0 without one. For all heads: its leading axes are those of x, without one for heads. Default: every key, or the cache's own rule.
    rope : callable (x, positions), default Rope()
        The rotation of the parts with positions; DeepSeek's pairs are interleaved.
    positions : int array (..., N), optional
        Default 0 to N - 1; with a cache they follow those in it.
    eps : float, default 1e-6
        Of RMSNorm.
    scale : float, default 1/√(Dn + Dr)
        A model whose context was extended by YaRN multiplies it by the square of its attention factor.
    absorbed : bool, default False
        Take the up-projection into the queries and the outputs, so that every head reads the latents themselves:
        multi-query attention with keys of R + Dr and values of R features. The same function.
    cache : LatentKVCache or HeldLatents, optional
        Latents of the tokens before; those of `x` are appended (HeldLatents stay as they are).

    Returns
    -------
    out : array (..., N, E_out)

    Raises
    ------
    TypeError, ValueError
        Shapes do not agree. The cache is as it was.

    Notes
    -----
    A step costs O(M R H (Dn + Dv)) explicitly, since all keys and values come up from their latents again, and
    O(M H (2R + Dr)) absorbed. Clauses: MLA-OUT, MLA-ABSORBED, MLA-SCALE, MLA-ROPE, MLA-QUERY, MLA-CACHE, MLA-REFUSE.
    Source: DeepSeek-AI 2024 (DeepSeek-V2), eq. 9 to 19 and section 2.1.2; order of the parts: DeepSeek-V3's model.py.

    Examples
    --------
    >>> import numpy as np
    >>> w = MultiHeadLatentParams(np.eye(3), np.ones(1), np.ones((1, 6)), np.ones((2, 3)), np.ones((3, 8)))
    >>> multi_head_latent_attention(np.ones((5, 3)), w, heads=2).shape
    (5, 3)
    """
    fields = arguments.params(params, MultiHeadLatentParams)._asdict()
    xp, x, *weights = backend.floating(x=x, **fields, optional="w_dq q_norm")
    params = MultiHeadLatentParams(*weights)
    sizes, rope, eps = _checked_sizes(x, params, heads), _checked_rotation(rope), backend.number("eps", eps, least=0)
    attend = absorbed_heads if backend.flag("absorbed", absorbed) else explicit_heads
    scale = default_scale(sizes) if scale is None else backend.number("scale", scale)
    before = _checked_length(cache)
    after = before + x.shape[-2]
    positions = _checked_positions(xp, x, backend.arange(xp, before, after, x) if positions is None else positions)
    mask = _checked_mask(mask, after, x)

    latents, rope_keys = latents_of(x, params, positions=positions, rope=rope, eps=eps)
    q_n, q_r = parts_of_queries(queries(x, params, eps), sizes, rope, positions)
    w_k, w_v = parts_of_up_projection(params.w_ukv, sizes)
    where = {"q_positions": positions, "k_positions": positions}
    with cache.unless_refused() if isinstance(cache, LatentKVCache) else contextlib.nullcontext():
        if cache is not None:
            latents, rope_keys, where["k_positions"], where["q_positions"] = cache.append(latents, rope_keys)
            mask = cache.mask if mask is None else mask
        out = attend(xp, q_n, q_r, latents, rope_keys, w_k, w_v, mask, scale=scale, **where)
        if out.shape[:-2] != (axes := (*x.shape[:-2], heads)):  # the data of a rule had axes that x has not
            raise ValueError(f"mask has leading axes {tuple(out.shape[:-2])}; those of x and its heads are {axes}")
    return merge_heads(out) @ params.w_o


# --- steps ----------------------------------------------------------------------------------------------------------


def default_scale(sizes):
    return 1.0 / math.sqrt(max(sizes.nope + sizes.rope, 1))


def latents_and_keys(down, kv_norm, eps, rope, positions):
    """The latent after its norm, and the shared key after its rotation."""
    latents, rope_keys = down[..., : kv_norm.shape[0]], down[..., kv_norm.shape[0] :]
    return rms_norm(latents, kv_norm, eps=eps), rope(rope_keys, positions)


def queries(x, params, eps):
    """The queries of all heads (..., N, H·(Dn + Dr)), compressed first if there are weights for it."""
    if params.w_dq is None:
        return x @ params.w_q
    return rms_norm(x @ params.w_dq, params.q_norm, eps=eps) @ params.w_q


def parts_of_queries(q, sizes, rope, positions):
    """Each head's part without positions (..., H, N, Dn), and the part with them (..., H, N, Dr), rotated."""
    q = split_heads(q, sizes.heads)
    return q[..., : sizes.nope], rope(q[..., sizes.nope :], positions[..., None, :])


def parts_of_up_projection(w_ukv, sizes):
    """Each head's projections of latents to keys (H, R, Dn) and to values (H, R, Dv)."""
    w = split_heads(w_ukv, sizes.heads)
    return w[..., : sizes.nope], w[..., sizes.nope :]


def explicit_heads(xp, q_n, q_r, latents, rope_keys, w_k, w_v, mask, **options):
    """Keys and values of every head from the latents; the rotary key is every head's."""
    latents, rope_keys = latents[..., None, :, :], rope_keys[..., None, :, :]
    k_n = latents @ w_k  # (..., H, M, Dn)
    k_r = xp.broadcast_to(rope_keys, (*k_n.shape[:-1], rope_keys.shape[-1]))
    q, k = xp.concat([q_n, q_r], axis=-1), xp.concat([k_n, k_r], axis=-1)
    return attention(q, k, latents @ w_v, mask, **options)


def absorbed_heads(xp, q_n, q_r, latents, rope_keys, w_k, w_v, mask, **options):
    """Every head reads the latents: queries go down to them, mixed latents come up to values."""
    latents, rope_keys = latents[..., None, :, :], rope_keys[..., None, :, :]
    down = q_n @ xp.matrix_transpose(w_k)  # (..., H, N, R)
    q, k = xp.concat([down, q_r], axis=-1), xp.concat([latents, rope_keys], axis=-1)
    return attention(q, k, latents, mask, **options) @ w_v


# --- checks ---------------------------------------------------------------------------------------------------------


def _checked_rotation(rope):
    if rope is None:
        raise TypeError("rope is None; it must be a function of x and positions, as Rope() is")
    return arguments.function("rope", rope, "x", "positions")


def _checked_length(cache):
    """How many tokens a cache holds."""
    if not isinstance(cache, LatentKVCache | HeldLatents | None):
        raise TypeError(f"cache is {backend.shown(cache)}; it must be a LatentKVCache or HeldLatents")
    return 0 if cache is None else cache.length


def _checked_positions(xp, x, positions):
    positions = backend.integers(xp, x, positions=positions)
    if positions.shape[-1:] != x.shape[-2:-1] or not _within(positions.shape, x.shape[:-1]):
        shape, lead = tuple(positions.shape), tuple(x.shape[:-2])
        raise ValueError(
            f"positions has shape {shape}; it must be (..., N={x.shape[-2]}), its leading axes those of x, {lead}"
        )
    return positions


def _checked_mask(mask, m, x):
    """A mask for all heads: with an axis for them if it is an array with leading axes."""
    if mask is None or isinstance(mask, Mask):
        return mask
    mask = visible(mask, x.shape[-2], m, like=x)
    if not _within(mask.shape[:-2], x.shape[:-2]):
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}; it must broadcast to (..., N, M) with the leading axes of x,"
            f" {tuple(x.shape[:-2])}: it is for all heads"
        )
    return mask[..., None, :, :] if mask.ndim > 2 else mask


def _within(shape, lead):
    """Whether axes broadcast to these, and add none."""
    return len(shape) <= len(lead) and all(size in (1, of) for size, of in zip(shape[::-1], lead[::-1], strict=False))


def _latent_and_rope(x, w_dkv, kv_norm):
    """R and Dr."""
    size = arguments.axes(x=(x, "... N E"), w_dkv=(w_dkv, "E R+Dr"), kv_norm=(kv_norm, "R"))
    if not 1 <= size["R"] <= size["R+Dr"]:
        raise ValueError(f"kv_norm has shape ({size['R']},); R must be 1 to {size['R+Dr']}, the columns of w_dkv")
    return size["R"], size["R+Dr"] - size["R"]


def _checked_sizes(x, p, heads):
    """H, R, Dr, Dn and Dv from the shapes of the weights; an error where they do not agree."""
    heads = backend.integer("heads", heads, least=1)
    latent, rope = _latent_and_rope(x, p.w_dkv, p.kv_norm)
    if (p.w_dq is None) != (p.q_norm is None):
        raise ValueError("w_dq and q_norm must be given together: compressed queries are normalised")
    inner = "E" if p.w_dq is None else "Rq"
    size = arguments.axes(
        x=(x, "... N E"), kv_norm=(p.kv_norm, "R"), w_dq=(p.w_dq, "E Rq"), q_norm=(p.q_norm, "Rq"),
        w_q=(p.w_q, f"{inner} H·(Dn+Dr)"), w_ukv=(p.w_ukv, "R H·(Dn+Dv)"), w_o=(p.w_o, "H·Dv E_out"),
    )  # fmt: skip
    for name, columns in (("w_q", "H·(Dn+Dr)"), ("w_ukv", "H·(Dn+Dv)")):
        if size[columns] % heads:
            raise ValueError(f"{name} has {size[columns]} columns; they must divide among heads = {heads}")
    nope = size["H·(Dn+Dr)"] // heads - rope
    value = size["H·(Dn+Dv)"] // heads - nope
    if nope < 0 or value < 0 or size["H·Dv"] != heads * value:
        raise ValueError(
            f"with heads = {heads} and Dr = {rope}, w_q gives Dn = {nope} and w_ukv Dv = {value};"
            f" w_o has {size['H·Dv']} rows, which must be H·Dv = {heads * value}"
        )
    return Sizes(heads, latent, rope, nope, value)
