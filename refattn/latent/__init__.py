"""Attention through latents: fewer numbers than keys and values, kept in their place."""

from refattn.latent.mla import MultiHeadLatentParams, latents_of, multi_head_latent_attention

__all__ = ["MultiHeadLatentParams", "latents_of", "multi_head_latent_attention"]
