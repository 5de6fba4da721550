"""LayerNorm, RMSNorm, and the constants of DeepNorm."""

from __future__ import annotations

from refattn.norms import deepnorm_constants, layer_norm, rms_norm
from refattn.testing.mechanisms.norms import bounds, inputs
from refattn.testing.subject import Subject

_ROWS = {"out": ("rows", "features")}

LAYER_NORM = Subject(
    layer_norm, inputs.layer_norm, "LAYERNORM-OUT", inputs.layer_norms, bound=bounds.layer_norm_bound, axes=_ROWS
)
RMS_NORM = Subject(rms_norm, inputs.rms_norm, "RMSNORM-OUT", inputs.rms_norms, bound=bounds.rms_norm_bound, axes=_ROWS)
DEEPNORM_CONSTANTS = Subject(deepnorm_constants, inputs.depths, "DEEPNORM-CONSTANTS")
