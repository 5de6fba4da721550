"""Correct kernels of every precision profile, emulated in NumPy: what the bounds must never accuse."""

from tests.kernels.attention import eager, flash

__all__ = ["eager", "flash"]
