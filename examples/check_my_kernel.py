"""Somebody's own attention kernel, wrong in one place: judged, and the mistake named.

python examples/check_my_kernel.py
"""

import numpy as np

import refattn
from refattn.testing import assert_matches


def my_kernel(q, k, v):
    """Causal attention in float32, as many people write it first."""
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1], dtype=np.float32)
    scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, np.float32(-1e9))
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ v


draw = np.random.default_rng(0)
q = draw.normal(size=(1, 4, 5, 16)).astype(np.float32)  # five new queries ...
k, v = draw.normal(size=(2, 1, 4, 37, 16)).astype(np.float32)  # ... over a cache of 37 keys
try:
    assert_matches(my_kernel(q, k, v), refattn.attention, q, k, v, mask=refattn.masks.causal(), precision="float32")
except AssertionError as verdict:
    print(verdict)

square = [x[..., :37, :] for x in (np.tile(q, (1, 1, 8, 1)), k, v)]  # 37 queries over 37 keys: nothing to see
print(*assert_matches(my_kernel(*square), refattn.attention, *square, mask=refattn.masks.causal(), precision="float32"))
