"""The testing kit: is it rounding, or a bug, and which bug?

    from refattn.testing import assert_matches

    assert_matches(out, refattn.attention, q, k, v, mask=refattn.masks.causal(), precision="bfloat16")

Needs nothing but NumPy and SciPy; the arrays may be of any framework.
"""

from __future__ import annotations

import importlib

_HOME = {
    "matches": "assert_matches compare Comparison Explanation",
    "reference": "oracle to_numpy from_bits",
    "profiles": "Profile PROFILES profile",
    "rounding": "Format FORMATS round_to",
    "variants": "Variant",
    "bounds": "Bound bound",
    "checking": "check Report",
    "tolerances": "tolerance Tolerance",
}
_FLAT = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = sorted(_FLAT)


def __getattr__(name):
    if name in _FLAT:
        value = getattr(importlib.import_module(f"refattn.testing.{_FLAT[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'refattn.testing' has no attribute {name!r}")


def __dir__():
    return __all__
