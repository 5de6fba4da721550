"""Multi-head latent attention, and what its cache keeps."""

from __future__ import annotations

from refattn.latent import latents_of, multi_head_latent_attention
from refattn.testing.mechanisms.latent.mla import inputs
from refattn.testing.subject import Subject

MULTI_HEAD_LATENT_ATTENTION = Subject(
    multi_head_latent_attention,
    inputs.random_layer,
    "MLA-OUT",
    inputs.layers,
    parts=("attention", "rms_norm", "rope"),
    whole=("cache",),
)
LATENTS_OF = Subject(latents_of, inputs.random_tokens, "MLA-CACHE", inputs.tokens_to_keep, parts=("rms_norm", "rope"))
