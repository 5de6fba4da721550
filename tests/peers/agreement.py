"""Random calls for comparisons with other implementations: sizes that could be confused differ."""

import numpy as np
from hypothesis import strategies as st

from refattn import masks

# q, k, v with pairwise different B, H, N, M, D and Dv; N below and above M.
SIZES = st.permutations([1, 2, 3, 5, 7, 11, 13]).map(lambda sizes: tuple(sizes[:6]))
SEEDS = st.integers(0, 2**32 - 1)


def assert_agree(got, want, tolerance=1e-12):
    """The largest difference in units of the largest value."""
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    difference = np.max(np.abs(got - want), initial=0.0)
    assert difference <= tolerance * np.max(np.abs(want), initial=0.0), difference


def qkv(seed, sizes, *, groups=1):
    """q (B, H, N, D), k (B, H / groups, M, D), v (B, H / groups, M, Dv) in float64."""
    b, h, n, m, d, dv = sizes
    rng = np.random.default_rng(seed)
    return rng.normal(size=(b, h * groups, n, d)), rng.normal(size=(b, h, m, d)), rng.normal(size=(b, h, m, dv))


def holes(seed, *shape):
    """A mask at random in which every query sees a key."""
    rng = np.random.default_rng(seed)
    allowed = rng.random(shape) < 0.6
    allowed[..., 0] = True
    return allowed


def calls(seed, sizes):
    """Name -> options of attention that every implementation must agree upon; positions count from 0, as theirs do."""
    b, h, n, m, _, _ = sizes
    rng = np.random.default_rng(seed)
    reach = max(n - m, 0) + 1  # no query is left without a key
    at_top_left = {"q_positions": np.arange(n), "k_positions": np.arange(m)}
    return {
        "plain": {},
        "scale": {"scale": 0.25},
        "causal": {"mask": masks.causal(), **at_top_left},
        "causal at the end": {
            "mask": masks.causal() | masks.global_tokens([0]),
            "q_positions": np.arange(m - n, m) % m,
        },
        "window or global": {"mask": masks.window(2, 1) | masks.global_tokens([0]), **at_top_left},
        "window and causal": {"mask": masks.causal() & masks.window(reach, 0), **at_top_left},
        "window alone": {"mask": masks.window(reach, 1), **at_top_left},
        "window without end": {"mask": masks.window(reach, None), **at_top_left},
        "mask": {"mask": holes(seed, n, m)},
        "mask of batch": {"mask": holes(seed, b, 1, n, m)},
        "mask of heads": {"mask": holes(seed, h, n, m)},
        "mask of keys": {"mask": holes(seed, b, 1, 1, m)},
        "bias": {"bias": rng.normal(size=(b, h, n, m))},
        "bias of heads": {"bias": rng.normal(size=(h, n, m))},
        "bias and mask": {"bias": rng.normal(size=(n, m)), "mask": holes(seed, b, 1, n, m)},
        "bias and causal": {"bias": rng.normal(size=(h, n, m)), "mask": masks.causal(), **at_top_left},
        "bias that excludes": {"bias": np.where(holes(seed, n, m), 0.5, -np.inf)},
        "causal and lengths": {
            "mask": masks.causal() & masks.padding(rng.integers(1, m + 1, size=(b, 1))),
            **at_top_left,
        },
    }
