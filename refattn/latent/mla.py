"""Multi-head latent attention (MLA): keys and values come from one small latent a token."""

from __future__ import annotations

import contextlib
import math
from typing import Any, NamedTuple

from refattn import arguments, backend
from refattn.attention import attention
from refattn.cache.base import Cache
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


class _Sizes(NamedTuple):
    heads: int
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
    _check_down(x, w_dkv, kv_norm)
    positions = _checked_positions(xp, x, positions)
    eps = backend.number("eps", eps, least=0)
    down, width = x @ w_dkv, kv_norm.shape[0]
    return rms_norm(down[..., :width], kv_norm, eps=eps), _rotation(rope)(down[..., width:], positions)


def _holds_latents(cache):
    """Whether it is a cache of latents, or acts like one."""
    return all(hasattr(cache, name) for name in ("append", "length", "mask")) and getattr(cache, "names", None) != (
        "k",
        "v",
    )


def _rotation(rope):
    if rope is None:
        raise TypeError("rope is None; it must be a function of x and positions, as Rope() is")
    return arguments.function("rope", rope, "x", "positions")


def _checked_positions(xp, x, positions):
    positions = backend.integers(xp, x, positions=positions)
    if positions.ndim == 0 or positions.shape[-1] != x.shape[-2] or not _within(positions.shape[:-1], x.shape[:-2]):
        raise ValueError(
            f"positions has shape {tuple(positions.shape)}; it must be (..., N={x.shape[-2]}), its leading axes those of"
            f" x, {tuple(x.shape[:-2])}"
        )
    return positions


def _check_down(x, w_dkv, kv_norm):
    """The weights of the latent, which must fit the tokens."""
    backend.rank("x", x, 2, "(..., N, E)")
    if w_dkv.ndim != 2 or w_dkv.shape[0] != x.shape[-1]:
        raise ValueError(
            f"w_dkv has shape {tuple(w_dkv.shape)}; its first axis must be E = {x.shape[-1]}, the width of x"
        )
    if kv_norm.ndim != 1 or not kv_norm.shape[0]:
        raise ValueError(f"kv_norm has shape {tuple(kv_norm.shape)}; it must be (R,) with R of at least 1")
    if w_dkv.shape[1] < kv_norm.shape[0]:
        raise ValueError(
            f"w_dkv has {w_dkv.shape[1]} columns, kv_norm has R = {kv_norm.shape[0]}: w_dkv is (E, R + Dr)"
        )


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
    rope, absorbed = _rotation(rope), backend.flag("absorbed", absorbed)
    eps = backend.number("eps", eps, least=0)
    if cache is not None and not _holds_latents(cache):
        raise TypeError(f"cache is {backend.shown(cache)}; it must be a LatentKVCache or HeldLatents")
    sizes = _sizes(x, params, heads)
    before = 0 if cache is None else cache.length
    if positions is None:
        positions = backend.arange(xp, before, before + x.shape[-2], x)
    positions = _checked_positions(xp, x, positions)
    mask = _checked_mask(mask, before + x.shape[-2], x)
    scale = 1.0 / math.sqrt(max(sizes.nope + sizes.rope, 1)) if scale is None else backend.number("scale", scale)
    latents, rope_keys = latents_of(x, params, positions=positions, rope=rope, eps=eps)
    q = split_heads(_queries(x, params, eps), heads)  # (..., H, N, Dn + Dr)
    plain, turned = q[..., : sizes.nope], rope(q[..., sizes.nope :], positions[..., None, :])  # the same for all heads
    attend = _absorbed if absorbed else _explicit
    where = {"q_positions": positions, "k_positions": positions}
    with cache.unless_refused() if isinstance(cache, Cache) else contextlib.nullcontext():
        if cache is not None:
            latents, rope_keys, *places = cache.append(latents, rope_keys)
            where = dict(zip(("k_positions", "q_positions"), places, strict=True))
            mask = cache.mask if mask is None else mask
        out = attend(xp, plain, turned, latents, rope_keys, params.w_ukv, sizes, mask, scale=scale, **where)
        if out.shape[:-3] != x.shape[:-2]:  # the data of a rule had axes that x has not
            raise ValueError(f"mask has leading axes {tuple(out.shape[:-3])}; those of x are {tuple(x.shape[:-2])}")
        if out.shape[-3] != heads:
            raise ValueError(f"mask has {out.shape[-3]} entries along the axis of the heads; heads is {heads}")
    return merge_heads(out) @ params.w_o


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
    ends = zip(shape[::-1], lead[::-1], strict=False)
    return len(shape) <= len(lead) and all(size in (1, of) for size, of in ends)


def _explicit(xp, plain, turned, latents, rope_keys, w_ukv, sizes, mask, **options):
    """Keys and values of every head from the latents; the rotary key is every head's."""
    up = split_heads(latents @ w_ukv, sizes.heads)  # (..., H, M, Dn + Dv)
    shared = xp.broadcast_to(rope_keys[..., None, :, :], (*up.shape[:-1], sizes.rope))
    keys = xp.concat([up[..., : sizes.nope], shared], axis=-1)
    return attention(xp.concat([plain, turned], axis=-1), keys, up[..., sizes.nope :], mask, **options)


def _absorbed(xp, plain, turned, latents, rope_keys, w_ukv, sizes, mask, **options):
    """Every head reads the latents: queries go down to them, mixed latents come up to values."""
    w = xp.reshape(w_ukv, (sizes.latent, sizes.heads, sizes.nope + sizes.value))
    w = xp.permute_dims(w, (1, 0, 2))  # (H, R, Dn + Dv)
    queries = plain @ xp.matrix_transpose(w[..., : sizes.nope])  # (..., H, N, R)
    keys = xp.concat([latents, rope_keys], axis=-1)[..., None, :, :]
    mixed = attention(xp.concat([queries, turned], axis=-1), keys, latents[..., None, :, :], mask, **options)
    return mixed @ w[..., sizes.nope :]


def _queries(x, params, eps):
    if params.w_dq is None:
        return x @ params.w_q
    return rms_norm(x @ params.w_dq, params.q_norm, eps=eps) @ params.w_q


def _sizes(x, p, heads):
    """R, Dr, Dn and Dv from the shapes of the weights; an error where they do not agree."""
    heads = backend.integer("heads", heads, least=1)
    _check_down(x, p.w_dkv, p.kv_norm)
    latent = p.kv_norm.shape[0]
    rope = p.w_dkv.shape[1] - latent
    if (p.w_dq is None) != (p.q_norm is None):
        raise ValueError("w_dq and q_norm must be given together: compressed queries are normalised")
    for name, w in (("w_dq", p.w_dq), ("w_q", p.w_q), ("w_ukv", p.w_ukv), ("w_o", p.w_o)):
        if w is not None and w.ndim != 2:
            raise ValueError(f"{name} has shape {tuple(w.shape)}; it must be a matrix")
    inner = x.shape[-1] if p.w_dq is None else p.w_dq.shape[1]
    for name, w, rows, letter in (
        ("w_dkv", p.w_dkv, x.shape[-1], "E"), ("w_dq", p.w_dq, x.shape[-1], "E"),
        ("w_q", p.w_q, inner, "E" if p.w_dq is None else "Rq"), ("w_ukv", p.w_ukv, latent, "R"),
    ):  # fmt: skip
        if w is not None and w.shape[0] != rows:
            raise ValueError(
                f"{name} has shape {tuple(w.shape)}; its first axis must be {letter} = {rows} (E is the width of x, R that of kv_norm)"
            )
    if p.q_norm is not None and tuple(p.q_norm.shape) != (inner,):
        raise ValueError(
            f"q_norm has shape {tuple(p.q_norm.shape)}; it must be (Rq,) = ({inner},), the columns of w_dq"
        )
    for name, w in (("w_q", p.w_q), ("w_ukv", p.w_ukv)):
        if w.shape[1] % heads:
            raise ValueError(f"{name} has {w.shape[1]} columns; they must divide among heads = {heads}")
    nope = p.w_q.shape[1] // heads - rope
    value = p.w_ukv.shape[1] // heads - nope
    if nope < 0 or value < 0 or p.w_o.shape[0] != heads * value:
        raise ValueError(
            f"with heads = {heads} and Dr = {rope}, w_q gives Dn = {nope} and w_ukv Dv = {value};"
            f" w_o has {p.w_o.shape[0]} rows, which must be H·Dv = {heads * value}"
        )
    return _Sizes(heads, latent, rope, nope, value)
