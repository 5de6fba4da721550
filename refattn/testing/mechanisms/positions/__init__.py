"""Rotary positions with their scalings, tables of positions, and biases by distance."""

from __future__ import annotations

from refattn.positions import (
    alibi_bias,
    alibi_slopes,
    learned_positions,
    relative_position_bucket,
    rope,
    rope_frequencies,
    rotate,
    sinusoidal,
    t5_bias,
)
from refattn.testing.mechanisms.positions import bounds, inputs
from refattn.testing.subject import Subject

_ROWS = {"out": ("positions", "features")}

ROTATE = Subject(
    rotate, inputs.tables, "ROPE-LAYOUT", inputs.rotations_by_tables, bound=bounds.rotate_bound, axes=_ROWS
)
ROPE = Subject(rope, inputs.rotation, "ROPE-ROTATION", inputs.rotations, bound=bounds.rope_bound, axes=_ROWS)
ROPE_FREQUENCIES = Subject(rope_frequencies, inputs.frequencies, "ROPE-FREQUENCY", inputs.frequencies_by_scaling)
SINUSOIDAL = Subject(sinusoidal, inputs.sinusoids, "SINUSOIDAL-TABLE")
LEARNED_POSITIONS = Subject(learned_positions, inputs.learned, "LEARNED-LOOKUP")
ALIBI_SLOPES = Subject(
    alibi_slopes, inputs.slopes, "ALIBI-SLOPES", inputs.slopes_by_heads, bound=bounds.alibi_slopes_bound
)
ALIBI_BIAS = Subject(alibi_bias, inputs.distances, "ALIBI-BIAS", inputs.slopes_by_distance)
RELATIVE_POSITION_BUCKET = Subject(relative_position_bucket, inputs.buckets, "T5-BUCKET", inputs.buckets_by_distance)
T5_BIAS = Subject(t5_bias, inputs.relative, "T5-BIAS")
