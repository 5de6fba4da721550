"""One head of a large problem, so that a diagnosis takes seconds and not hours.

Two hundred variants of a batch of 64 heads would take an hour and ten times the memory of the kernel. A mistake shows in
the head that is farthest off, unless it is one that mixes batch entries or heads; those are found on smaller inputs.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from refattn import masks

LARGE = 2**22  # scores beyond which only one head is looked at
_CORE = {"q": 2, "k": 2, "v": 2, "mask": 2, "bias": 2, "sinks": 0, "q_positions": 1, "k_positions": 1}
_NAMES = ("q", "k", "v", "mask")


def one_head(judged, ratio):
    """The same judgement of the head in which the result is farthest off; the judgement itself where it is small.

    Parameters
    ----------
    judged : Judged
        Of attention or grouped-query attention.
    ratio : array
        How far each element is off.
    """
    given = {**dict(zip(_NAMES, judged.args, strict=False)), **judged.kwargs}
    q, k = given["q"], given["k"]
    own = 1 if judged.result == "lse" else 2
    lead = judged.got.shape[: judged.got.ndim - own]
    if not lead or math.prod(lead) * q.shape[-2] * k.shape[-2] <= LARGE:
        return judged
    place = np.unravel_index(np.argmax(ratio), judged.got.shape)[: len(lead)]
    group = lead[-1] // k.shape[-3] if judged.function == "grouped_query_attention" else 1

    def cut(x, core, places=place):
        leading = np.ndim(x) - core
        chosen = tuple(
            slice(None) if size == 1 else slice(at, at + 1)
            for size, at in zip(np.shape(x)[:leading], places[len(places) - leading :], strict=True)
        )
        return np.asarray(x)[chosen]

    of_keys = (*place[:-1], place[-1] // group)
    small = {}
    for name, x in given.items():
        if x is None or (name not in _CORE and name != "dropout"):
            small[name] = x
        elif name == "dropout":
            small[name] = (cut(x[0], 2), x[1])
        elif isinstance(x, masks.Mask):
            small[name] = _rule(x, cut)
        else:
            small[name] = cut(x, _CORE[name], of_keys if name in ("k", "v") and group > 1 else place)
    arrays = {name: cut(getattr(judged, name), own) for name in ("got", "want", "limit")}
    return replace(judged, **arrays, args=(), kwargs=small)


def _rule(mask, cut):
    """A rule whose data are those of one head."""
    from refattn.testing.variants import NotApplicable
    from refattn.testing.variants.masks import with_data

    try:
        return with_data(mask, cut)
    except NotApplicable:  # it has no data with leading axes
        return mask
