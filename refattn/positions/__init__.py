"""Where a token stands: sinusoidal and learned tables, rotation and its scalings, ALiBi, T5 buckets.

Positions are absolute numbers given by the caller, never the indices of an array: padding, caches and packed
sequences all come down to passing the right ones. Angles are computed in float64 whatever the dtype of the data.
"""

from refattn.positions.biases import alibi_bias, alibi_slopes, relative_position_bucket, t5_bias
from refattn.positions.rotary import rope, rotate
from refattn.positions.scaling import (
    NTK,
    DynamicNTK,
    Linear,
    Llama3,
    LongRoPE,
    RopeFrequencies,
    YaRN,
    rope_frequencies,
    scaling_from_config,
)
from refattn.positions.tables import learned_positions, sinusoidal

__all__ = [
    "NTK",
    "DynamicNTK",
    "Linear",
    "Llama3",
    "LongRoPE",
    "RopeFrequencies",
    "YaRN",
    "alibi_bias",
    "alibi_slopes",
    "learned_positions",
    "relative_position_bucket",
    "rope",
    "rope_frequencies",
    "rotate",
    "scaling_from_config",
    "sinusoidal",
    "t5_bias",
]
