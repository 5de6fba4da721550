"""Which keys a mask rule can admit at all, from intervals of positions: what is skipped, and what needs no mask.

For queries at positions `first` to `last`, a rule has two intervals of key positions: outside `may` no query attends to
any key, inside `must` every query attends to every key. Either may be wider or narrower than it had to be: an
interval decides only what is worth evaluating.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from refattn import backend
from refattn.masks import DATA_AXES, Mask


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
    """What a rule may and must admit."""

    may: Interval
    must: Interval


def reach(mask: Mask | None, first: int, last: int) -> Reach:
    """The intervals of a rule for queries at positions first to last."""
    if mask is None:
        return Reach(EVERYWHERE, EVERYWHERE)
    if mask.parts:
        parts = [reach(part, first, last) for part in mask.parts]
        return _COMBINED[mask.name](*parts)
    if mask.name in _RULES:
        return _RULES[mask.name](first, last, **mask.arguments)
    return Reach(EVERYWHERE, NOWHERE)  # a rule that is not known here is evaluated everywhere


def _both(a, b):
    return Reach(a.may & b.may, a.must & b.must)


def _either(a, b):
    known = [x for x in (a.may, b.may) if not x.empty]
    may = Interval(min(x.low for x in known), max(x.high for x in known)) if known else NOWHERE
    return Reach(may, max(a.must, b.must, key=lambda x: x.high - x.low if not x.empty else -1))


def _neither(a):
    return Reach(_outside(a.must, EVERYWHERE), _outside(a.may, NOWHERE))


def _outside(interval, otherwise):
    """The positions outside an interval, where they are an interval."""
    if interval.empty:
        return EVERYWHERE
    if interval.low == -math.inf:
        return Interval(interval.high + 1, math.inf) if interval.high < math.inf else NOWHERE
    return Interval(-math.inf, interval.low - 1) if interval.high == math.inf else otherwise


_COMBINED: dict[str, Callable] = {"and": _both, "or": _either, "not": _neither}


def with_data(mask: Mask, pick: Callable) -> Mask:
    """The rule with pick(data, axes of its own) in place of data that have leading axes: one sequence's instead of all."""

    def picked(rule):
        given, axes = rule.arguments, DATA_AXES.get(rule.name, {})
        changed = {x: pick(given[x], own) for x, own in axes.items() if getattr(given.get(x), "ndim", 0) > own}
        return rule.with_arguments(**changed) if changed else rule

    return mask.rewritten(picked)


# --- rules by name --------------------------------------------------------------------------------------------------


def _up_to(first, last):
    return Reach(Interval(-math.inf, last), Interval(-math.inf, first))


def _window(first, last, left, right):
    before = math.inf if left is None else left
    after = math.inf if right is None else right
    return Reach(Interval(first - before, last + after), Interval(last - before, first + after))


def _dilated(first, last, left, right, dilation):
    steps = [None if x is None else x * dilation for x in (left, right)]
    found = _window(first, last, *steps)
    return found if dilation == 1 else found._replace(must=NOWHERE)


def _neighbours(first, last, size, before=0, after=0):
    low, high = first // size, last // size
    return Reach(
        Interval((low - before) * size, (high + after + 1) * size - 1),
        Interval((high - before) * size, (low + after + 1) * size - 1),
    )


def _fixed(first, last, stride, summary):
    own = _both(_neighbours(first, last, stride), _up_to(first, last))
    return Reach(Interval(-math.inf, last), own.must)


def _prefix(first, last, lengths):
    shortest, longest = _extremes(lengths)
    return Reach(Interval(-math.inf, max(last, longest - 1)), Interval(-math.inf, max(first, shortest - 1)))


def _padding(first, last, lengths, starts):
    (shortest, longest), (earliest, latest) = _extremes(lengths), _extremes(starts)
    return Reach(Interval(earliest, latest + longest - 1), Interval(latest, earliest + shortest - 1))


def _extremes(data):
    """The least and the greatest of a rule's numbers."""
    if not hasattr(data, "dtype"):
        numbers = data if isinstance(data, list | tuple) else [data]
        flat = [_extremes(x) if isinstance(x, list | tuple) else (x, x) for x in numbers]
        return min((low for low, _ in flat), default=0), max((high for _, high in flat), default=0)
    xp = backend.namespace(data)
    return (int(xp.min(data)), int(xp.max(data))) if math.prod(data.shape) else (0, 0)


_RULES: dict[str, Callable[..., Reach]] = {
    "everything": lambda first, last: Reach(EVERYWHERE, EVERYWHERE),
    "causal": _up_to,
    "window": _window,
    "dilated": _dilated,
    "block": _neighbours,
    "neighbours": _neighbours,
    "chunked": lambda first, last, size: _both(_neighbours(first, last, size), _up_to(first, last)),
    "strided": lambda first, last, stride: Reach(Interval(-math.inf, last), Interval(last - stride, first)),
    "fixed": _fixed,
    "prefix": _prefix,
    "padding": _padding,
    "tree": lambda first, last, parents, prefix: Reach(Interval(-math.inf, last), NOWHERE),
}
