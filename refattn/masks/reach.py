"""Which keys a rule can admit at all, from intervals of positions: what is skipped, and what needs no mask.

For queries at positions `first` to `last`, a rule has two intervals of key positions: outside `may` no query attends to
any key, inside `must` every query attends to every key. Either may be wider or narrower than it had to be: an
interval decides only what is worth evaluating.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Interval(NamedTuple):
    """The positions from `low` to `high`, both included; none where low > high."""

    low: float
    high: float

    def __and__(self, other):
        return Interval(max(self.low, other.low), min(self.high, other.high))

    @property
    def empty(self):
        return self.low > self.high


EVERYWHERE, NOWHERE = Interval(-math.inf, math.inf), Interval(math.inf, -math.inf)


class Reach(NamedTuple):
    """What a rule may and must admit; reaches combine as rules do."""

    may: Interval
    must: Interval

    def __and__(self, other):
        return Reach(self.may & other.may, self.must & other.must)

    def __or__(self, other):
        known = [x for x in (self.may, other.may) if not x.empty]
        may = Interval(min(x.low for x in known), max(x.high for x in known)) if known else NOWHERE
        return Reach(may, max(self.must, other.must, key=lambda x: x.high - x.low if not x.empty else -1))

    def __invert__(self):
        return Reach(_outside(self.must, EVERYWHERE), _outside(self.may, NOWHERE))


def _outside(interval, otherwise):
    """The positions outside an interval, where they are an interval."""
    if interval.empty:
        return EVERYWHERE
    if interval.low == -math.inf:
        return Interval(interval.high + 1, math.inf) if interval.high < math.inf else NOWHERE
    return Interval(-math.inf, interval.low - 1) if interval.high == math.inf else otherwise


def anywhere(first, last, **arguments):
    """Nothing is known: such a rule is evaluated everywhere."""
    return Reach(may=EVERYWHERE, must=NOWHERE)


def so_far(first, last):
    """The reach of causality."""
    return Reach(may=Interval(-math.inf, last), must=Interval(-math.inf, first))
