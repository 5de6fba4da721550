"""Attention over packed sequences: tokens of many sequences one after the other, told apart by offsets."""

from __future__ import annotations

import math
from itertools import pairwise

from refattn import backend
from refattn.masks import Mask
from refattn.tiled.forward import tiled_attention
from refattn.tiled.problem import problem_of


def packed_attention(
    q, k, v, q_offsets, k_offsets=None, mask=None, *, bias=None, scale=None, softcap=None, sinks=None,
    return_lse=False, q_tile=None, k_tile=None,
):  # fmt: skip
    r"""Attention of many sequences that lie one after the other, without padding and without seeing each other.

    .. math:: o_{a_b : a_{b+1}} = \mathrm{attention}(q_{a_b : a_{b+1}},\, k_{c_b : c_{b+1}},\, v_{c_b : c_{b+1}})

    Parameters
    ----------
    q : array (..., H, T, D) or (T, D)
        The queries of all sequences. FlashAttention's layout (T, H, D) has the axes moved.
    k : array (..., G, S, D) or (S, D)
        Their keys; as for `tiled_attention` there may be fewer heads.
    v : array (..., G, S, Dv) or (S, Dv)
    q_offsets : list of int, or int array (sequences + 1,)
        a: sequence b has the queries from q_offsets[b] up to q_offsets[b + 1]. Begins with 0; ends at T or before.
    k_offsets : list of int, or int array (sequences + 1,), optional
        c: the same for keys. Default: `q_offsets`.
    mask : rule of `refattn.masks`, optional
        Positions count anew in each sequence, its queries being the last of its positions.
    bias : function of positions, optional
        As for `tiled_attention`, with the positions within a sequence.
    scale, softcap, sinks, return_lse, q_tile, k_tile
        As for `tiled_attention`.

    Returns
    -------
    out : array (..., H, T, Dv) or (T, Dv)
        Zero for queries beyond the last offset, and for those of a sequence without keys.
    lse : array (..., H, T) or (T,)
        If `return_lse`; -inf for such queries.

    Raises
    ------
    TypeError, ValueError
        As for `tiled_attention`; and where offsets do not begin with 0, descend, end past the tokens, or differ in
        number; and for a mask that is no rule or a bias that is no function.

    Notes
    -----
    Time Σ O(N M (D + Dv)) over the sequences, memory O(q_tile k_tile) beside the results. A sequence may be empty.
    Clauses: PACKED-ALONE, PACKED-EMPTY, PACKED-TAIL, PACKED-REFUSE.
    Source: Krell et al. 2021 (packing); the offsets are `cu_seqlens` of FlashAttention.

    Examples
    --------
    >>> import numpy as np
    >>> packed_attention(np.zeros((4, 1)), np.zeros((4, 1)), np.array([[1.0], [3.0], [5.0], [9.0]]), [0, 2, 3])[:, 0]
    array([2., 2., 5., 0.])
    """
    xp, q, k, v, sinks = backend.floating(q=q, k=k, v=v, sinks=sinks, optional="sinks")
    for name, x, shape in (("q", q, "(..., T, D)"), ("k", k, "(..., S, D)"), ("v", v, "(..., S, Dv)")):
        backend.rank(name, x, 2, shape)
    if mask is not None and not isinstance(mask, Mask):
        raise TypeError(f"mask is a {type(mask).__name__}; it must be a rule of refattn.masks, for each sequence alike")
    if bias is not None and not callable(bias):
        raise TypeError(f"bias is a {type(bias).__name__}; it must be a function of the positions within a sequence")
    return_lse = backend.flag("return_lse", return_lse)
    queries = _offsets("q_offsets", q_offsets, q, "T")
    keys = _offsets("k_offsets", q_offsets if k_offsets is None else k_offsets, k, "S")
    if len(queries) != len(keys):
        raise ValueError(f"k_offsets has {len(keys)} numbers, q_offsets has {len(queries)}: one more than sequences")
    options = {"bias": bias, "scale": scale, "softcap": softcap, "sinks": sinks, "q_tile": q_tile, "k_tile": k_tile}
    shapes = problem_of(q[..., :0, :], k[..., :0, :], v[..., :0, :], mask, **options)
    if v.shape[-2] != k.shape[-2]:
        raise ValueError(f"v has {v.shape[-2]} keys, k has {k.shape[-2]}: both are S in (..., S, D) and (..., S, Dv)")

    out = backend.full(xp, (*shapes.lead, q.shape[-2], v.shape[-1]), 0.0, q)
    lse = backend.full(xp, (*shapes.lead, q.shape[-2]), -math.inf, q)
    for (start, stop), (first, last) in zip(pairwise(queries), pairwise(keys), strict=True):
        own, seen = slice(start, stop), slice(first, last)
        out[..., own, :], lse[..., own] = tiled_attention(
            q[..., own, :], k[..., seen, :], v[..., seen, :], mask, return_lse=True, **options
        )
    return (out, lse) if return_lse else out


def _offsets(name, values, x, letter):
    """Offsets as Python integers."""
    array = backend.integers(backend.namespace(x), x, **{name: values})
    if array.ndim != 1 or not array.shape[0]:
        raise ValueError(f"{name} has shape {tuple(array.shape)}; it must be (sequences + 1,)")
    offsets = [int(array[n]) for n in range(array.shape[0])]
    if offsets[0] != 0 or any(low > high for low, high in pairwise(offsets)) or offsets[-1] > x.shape[-2]:
        raise ValueError(
            f"{name} is {offsets}; it must begin with 0, ascend, and end at {letter} = {x.shape[-2]} or before"
        )
    return offsets
