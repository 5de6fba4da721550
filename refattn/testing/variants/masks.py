"""Variants of masks."""
