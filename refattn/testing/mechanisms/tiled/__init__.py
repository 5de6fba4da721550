"""Attention over tiles, parts and packs, its gradients, and what moves between memories."""

from __future__ import annotations

from refattn.testing.mechanisms.tiled import bounds, inputs
from refattn.testing.mechanisms.tiled.variants import as_arrays, repeated
from refattn.testing.registry import NotApplicable
from refattn.testing.subject import Equal, Subject
from refattn.tiled import attention_io, packed_attention, split_attention, tiled_attention, tiled_attention_vjp


def dense(q, k, v, mask=None, *, q_tile=None, k_tile=None, **options):
    """Without tiles: functions of positions are arrays, and every query head has its own keys and values."""
    k, v = repeated(q, k, v)
    arrays = {name: x for name, x in as_arrays(q, k, **options).items() if x is not None}
    return {"q": q, "k": k, "v": v, "mask": mask, **arrays}


def in_one_part(*, splits, tree=None, **given):
    """Without parts."""
    return given


def dense_vjp(d_out, q, k, v, mask=None, *, out=None, lse=None, **options):
    """Without tiles and without stored results, where no heads are shared."""
    if min(q.ndim, k.ndim) > 2 and k.shape[-3] not in (1, q.shape[-3]):
        raise NotApplicable
    return {"d_out": d_out, **dense(q, k, v, mask, **options)}


TILED_ATTENTION = Subject(
    tiled_attention,
    inputs.tiled,
    "TILED-EQUAL",
    inputs.tiled_by_length,
    equals=Equal("attention", dense),
    related=inputs.plain,
)
SPLIT_ATTENTION = Subject(
    split_attention,
    inputs.split,
    "SPLIT-MERGE",
    inputs.splits,
    equals=Equal("tiled_attention", in_one_part, without=("tile/",)),
)
PACKED_ATTENTION = Subject(
    packed_attention, inputs.packed, "PACKED-POSITIONS", inputs.packs, bound=bounds.packed_attention_bound
)
TILED_ATTENTION_VJP = Subject(
    tiled_attention_vjp,
    inputs.tiled_vjp,
    "TILED-GRADIENT",
    inputs.gradients_of_tiles,
    equals=Equal("attention_vjp", dense_vjp),
    bound=bounds.tiled_attention_vjp_bound,
)
ATTENTION_IO = Subject(attention_io, inputs.moved, "IO-STANDARD")
