"""Rules of masks: who sees whom."""

from __future__ import annotations

from refattn.masks import Mask
from refattn.testing.mechanisms.masks import inputs
from refattn.testing.subject import Subject

DENSE = Subject(
    Mask.dense, inputs.dense, "MASK-POLARITY", inputs.every_rule, name="Mask.dense", axes={"out": ("queries", "keys")}
)
