"""Variants of norms."""
