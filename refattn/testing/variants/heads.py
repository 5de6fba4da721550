"""Variants of heads."""
