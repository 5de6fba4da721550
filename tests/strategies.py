"""What property tests draw: seeds and structure; the numbers come from the seed, so that shrinking works on structure."""

import numpy as np
from hypothesis import strategies as st

rng = st.integers(0, 2**32 - 1)


def floats_for(seed, shape, scale=1.0):
    """Normal numbers from a seed."""
    return np.random.default_rng(seed).normal(size=shape) * scale
