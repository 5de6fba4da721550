"""Variants of feedforward."""
