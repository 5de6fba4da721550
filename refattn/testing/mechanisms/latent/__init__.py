"""Attention through latents."""
