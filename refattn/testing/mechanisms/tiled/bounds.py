"""The bounds of tiled, split and packed attention: those of attention, which count any order of summation.

A kernel rescales whenever its running maximum grows; the bound counts the rescalings of the finest tiles, of one key.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from refattn.testing.mechanisms.attention.bounds import attention_bound
from refattn.testing.mechanisms.tiled.variants import as_arrays, repeated
from refattn.testing.roundoff import Bound


def _of_a_sequence(profile, q, k, v, mask=None, *, return_lse=False, **options):
    """The bound of attention with every head's own keys and values, and with functions of positions as arrays."""
    options = {name: x for name, x in as_arrays(q, k, **options).items() if x is not None}
    k, v = repeated(q, k, v)
    return attention_bound(profile, q, k, v, mask, return_lse=return_lse, **options)


def packed_attention_bound(
    profile, q, k, v, q_offsets, k_offsets=None, mask=None, *, return_lse=False, q_tile=None, k_tile=None, **options
):
    """The bound of every sequence for itself; 0 beyond the last."""
    k, v = repeated(q, k, v)
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    shapes = {"out": (*lead, q.shape[-2], v.shape[-1])} | ({"lse": (*lead, q.shape[-2])} if return_lse else {})
    empty = {"out": 0.0, "lse": -np.inf}
    found = {name: [np.full(shape, empty[name]), np.zeros(shape), np.zeros(shape)] for name, shape in shapes.items()}
    spans = zip(pairwise(q_offsets), pairwise(q_offsets if k_offsets is None else k_offsets), strict=True)
    for (start, stop), (first, last) in spans:
        own, seen = slice(start, stop), slice(first, last)
        bounds = _of_a_sequence(
            profile, q[..., own, :], k[..., seen, :], v[..., seen, :], mask, return_lse=return_lse, **options
        )
        for name, bound in bounds.items():
            place = (..., own, slice(None)) if name == "out" else (..., own)
            statistical = bound.hard if bound.statistical is None else bound.statistical
            for whole, part in zip(found[name], (bound.value, bound.hard, statistical), strict=True):
                whole[place] = part
    return {name: Bound(*arrays) for name, arrays in found.items()}


def tiled_attention_vjp_bound(
    profile, d_out, q, k, v, mask=None, *, out=None, lse=None, q_tile=None, k_tile=None, **options
):
    """The bound of the gradients of attention, from their own code."""
    from refattn.testing.tracked import automatic_bound

    grouped = min(q.ndim, k.ndim) > 2 and k.shape[-3] not in (1, q.shape[-3])
    function = "grouped_query_attention_vjp" if grouped else "attention_vjp"
    options = as_arrays(q, k, **options)
    return automatic_bound(function, profile, d_out, q, k, v, mask, **options)
