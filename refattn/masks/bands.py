"""Rules of the difference of two positions: bands of the table of queries and keys."""

from __future__ import annotations

import math

from refattn import backend
from refattn.masks.algebra import Mask
from refattn.masks.reach import EVERYWHERE, NOWHERE, Interval, Reach, so_far
from refattn.masks.registry import rule

__all__ = ["causal", "dilated", "everything", "window"]

_FARTHEST = 2**63 - 1  # no two int64 positions that a rule can subtract are farther apart
_BEYOND = 2**100  # a reach may be longer than any distance, but not any integer


@rule(reach=lambda first, last: Reach(EVERYWHERE, EVERYWHERE), relative=True)
def everything():
    """Every query may attend to every key: what a restriction starts from.

    Notes
    -----
    Clauses: MASK-ALGEBRA.

    Examples
    --------
    >>> everything().dense(2, 3).astype(int)
    array([[1, 1, 1],
           [1, 1, 1]])
    """
    return Mask(lambda i, j: (i == i) & (j == j), "everything")


@rule(reach=so_far, relative=True)
def causal():
    """A query may attend to its own position and earlier ones.

    Notes
    -----
    Clauses: MASK-CAUSAL, MASK-ALIGN. Source: Vaswani et al. 2017, section 3.2.3.

    Examples
    --------
    >>> causal().dense(2, 3).astype(int)
    array([[1, 1, 0],
           [1, 1, 1]])
    """
    return Mask(lambda i, j: j <= i, "causal")


def _of_window(first, last, left, right):
    before, after = (math.inf if steps is None else steps for steps in (left, right))
    return Reach(may=Interval(first - before, last + after), must=Interval(last - before, first + after))


@rule(reach=_of_window, relative=True)
def window(left, right):
    """A query at position i may attend to positions i - left to i + right, both included.

    Parameters
    ----------
    left, right : int or None
        How many positions beside the query's own, on either side; None is unbounded.

    Notes
    -----
    A model's 'sliding window of W tokens' is `window(W - 1, 0)`, Longformer's attention window of w tokens
    `window(w // 2, w // 2)`. Clauses: MASK-WINDOW.
    Source: Beltagy et al. 2020, section 3.1; inclusive on both sides as in FlashAttention-2 and ONNX Attention.

    Examples
    --------
    >>> window(2, 0).dense(5, 5).sum(axis=-1)
    array([1, 2, 3, 3, 3])
    """
    left, right = _reach("left", left), _reach("right", right)
    return Mask(lambda i, j: within(j - i, left, right), "window", left=left, right=right)


def _of_dilated(first, last, left, right, dilation):
    steps = [None if x is None else x * dilation for x in (left, right)]
    found = _of_window(first, last, *steps)
    return found if dilation == 1 else found._replace(must=NOWHERE)


@rule(reach=_of_dilated, relative=True)
def dilated(left, right, dilation):
    """A query at position i may attend to i + dilation·t for t from -left to right: a window with gaps.

    Parameters
    ----------
    left, right : int or None
        How many steps on either side; None is unbounded.
    dilation : int
        The step from one key to the next; 1 is a plain window.

    Notes
    -----
    Positions of different remainders modulo the dilation never meet, so this is `dilation` independent windows.
    Clauses: MASK-DILATED. Source: Beltagy et al. 2020, section 3.1, with the dilation as a step, as in its code.

    Examples
    --------
    >>> dilated(1, 1, 2).dense(5, 5)[2].astype(int)
    array([1, 0, 1, 0, 1])
    """
    left, right = _reach("left", left), _reach("right", right)
    dilation = backend.integer("dilation", dilation, least=1)
    before = None if left is None else left * dilation
    after = None if right is None else right * dilation
    return Mask(
        lambda i, j: within(j - i, before, after) & ((j - i) % dilation == 0),
        "dilated",
        left=left,
        right=right,
        dilation=dilation,
    )


def _reach(name, value):
    if value is None:
        return None
    value = backend.integer(name, value, most=_BEYOND)
    if value < 0:
        raise ValueError(f"{name} is {value}; it must be at least 0, or None where the side is unbounded")
    return value


def within(difference, before, after):
    """Whether a difference is at least -before and at most after; None is no bound."""
    allowed = difference == difference
    if before is not None:
        allowed = allowed & (difference >= -min(before, _FARTHEST))
    if after is not None:
        allowed = allowed & (difference <= min(after, _FARTHEST))
    return allowed
