"""Masks are rules over positions: who may attend to whom.

A rule answers for any block of query and key *positions*, so that one object serves the dense form, a tile,
a cache step and a picture. Rules combine with `&`, `|` and `~`:

    causal() & window(128, 0) | global_tokens([0])

Positions are absolute and start at 0. Where none are given, key j has position j, and the N queries are the
last N of M positions: query i has position i + M - N. [MASK-ALIGN]

`algebra` says what a mask is; the rules stand in `bands`, `blocks`, `sequences` and `trees`. A new one is a function in
one of these files, named in its `__all__` and registered by `@rule`: whatever asks for all rules finds it in `RULES`.
"""

# ruff: noqa: F403 (a file of rules says itself what it offers)

from refattn.masks.algebra import Mask, positions_of, visible
from refattn.masks.bands import *
from refattn.masks.blocks import *
from refattn.masks.registry import RULES
from refattn.masks.sequences import *
from refattn.masks.trees import *

__all__ = ["Mask", "positions_of", "visible", *RULES]
