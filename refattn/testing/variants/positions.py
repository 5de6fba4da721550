"""Variants of positions."""
