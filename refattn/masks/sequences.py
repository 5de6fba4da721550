"""Rules that carry data of a sequence: its length, its prefix, its documents, its global positions.

Data may have leading axes of its own, which broadcast as those of any array: lengths per batch entry, for q of
shape (B, H, N, D), have shape (B, 1). [MASK-DATA]
"""

from __future__ import annotations

import math

from refattn import backend
from refattn.masks.algebra import Mask
from refattn.masks.data import check_data, extremes, lookup, per_pair
from refattn.masks.reach import Interval, Reach
from refattn.masks.registry import rule

__all__ = ["documents", "global_tokens", "padding", "prefix"]


@rule(data={"tokens": 1})
def global_tokens(tokens):
    """The given positions attend to everything, and everything attends to them.

    Parameters
    ----------
    tokens : list of int, or int array (..., T)
        Global positions, from 0. Leading axes broadcast with those of q: (B, 1, T) for q of shape (B, H, N, D).

    Raises
    ------
    TypeError, ValueError
        `tokens` are no integers, a single number, or negative.

    Notes
    -----
    A token may be listed twice. Time O(N M + (N + M) T).
    Clauses: MASK-GLOBAL, MASK-DATA. Source: Beltagy et al. 2020, section 3.1, 'Global Attention'.

    Examples
    --------
    >>> from refattn.masks import window
    >>> (window(0, 0) | global_tokens([1])).dense(3, 3).astype(int)
    array([[1, 1, 0],
           [1, 1, 1],
           [0, 1, 1]])
    """
    check_data("tokens", tokens, axes=1, least=0)

    def rule(i, j):
        xp = backend.namespace(i)
        (listed,) = per_pair(i, j, axes=1, tokens=tokens)
        return xp.any(i[..., None] == listed, axis=-1) | xp.any(j[..., None] == listed, axis=-1)

    return Mask(rule, "global_tokens", tokens=tokens)


def _of_prefix(first, last, lengths):
    shortest, longest = extremes(lengths)
    return Reach(
        may=Interval(-math.inf, max(last, longest - 1)),
        must=Interval(-math.inf, max(first, shortest - 1)),
    )


@rule(data={"lengths": 0}, reach=_of_prefix)
def prefix(lengths):
    """Prefix language modelling: causal, except that every query sees all keys of the prefix.

    Parameters
    ----------
    lengths : int, or int array (...)
        Number of positions in the prefix; (B, 1) for q of shape (B, H, N, D).

    Raises
    ------
    TypeError, ValueError
        `lengths` are no integers, or negative.

    Notes
    -----
    For 'key below p' alone use `padding(p)`. Clauses: MASK-PREFIX, MASK-DATA.
    Source: Raffel et al. 2020 (T5), section 3.2.1, figure 3.

    Examples
    --------
    >>> prefix(2).dense(3, 3).astype(int)
    array([[1, 1, 0],
           [1, 1, 0],
           [1, 1, 1]])
    """
    check_data("lengths", lengths, least=0)

    def rule(i, j):
        (count,) = per_pair(i, j, lengths=lengths)
        return (j <= i) | (j < count)

    return Mask(rule, "prefix", lengths=lengths)


def _of_padding(first, last, lengths, starts):
    (shortest, longest), (earliest, latest) = extremes(lengths), extremes(starts)
    return Reach(may=Interval(earliest, latest + longest - 1), must=Interval(latest, earliest + shortest - 1))


@rule(data={"lengths": 0, "starts": 0}, reach=_of_padding)
def padding(lengths, starts=0):
    """Only the real keys, positions starts to starts + lengths - 1, may be attended to.

    Parameters
    ----------
    lengths : int, or int array (...)
        Number of real keys of each sequence; (B, 1) for q of shape (B, H, N, D).
    starts : int, or int array (...), default 0
        Position of the first real key; with left padding M - lengths.

    Raises
    ------
    TypeError, ValueError
        They are no integers, `lengths` are negative, or their shapes do not broadcast.

    Notes
    -----
    Queries at padded positions are not excluded: their rows are defined and to be ignored. Clauses: MASK-PADDING,
    MASK-DATA. Source: the lengths of a batch, as `nonpad_kv_seqlen` of ONNX Attention counts them.

    Examples
    --------
    >>> import numpy as np
    >>> padding(np.array([1, 3])).dense(1, 3).astype(int)
    array([[[1, 0, 0]],
    <BLANKLINE>
           [[1, 1, 1]]])
    """
    shapes = {"lengths": check_data("lengths", lengths, least=0), "starts": check_data("starts", starts)}
    backend.broadcast("shapes", **shapes)

    def rule(i, j):
        count, first = per_pair(i, j, lengths=lengths, starts=starts)
        return (j >= first) & (j < first + count)

    return Mask(rule, "padding", lengths=lengths, starts=starts)


@rule(data={"ids": 1, "k_ids": 1})
def documents(ids, k_ids=None):
    """A query may attend to keys of its own document.

    Parameters
    ----------
    ids : list of int, or int array (..., L)
        The document of each position; any integers. Documents need not be contiguous. Leading axes broadcast with
        those of q: (B, 1, L) for q of shape (B, H, N, D).
    k_ids : list of int, or int array (..., L'), optional
        The document of each key position, where keys are another sequence than queries. Default: `ids`.

    Raises
    ------
    TypeError
        They are no integers.
    ValueError
        A single number; or, when evaluated, a position that they do not cover.

    Notes
    -----
    Positions count through the whole pack: beside this rule, blocks and prefixes do not start anew with a document.
    Clauses: MASK-DOCUMENTS, MASK-DATA. Source: Krell et al. 2021 (packing).

    Examples
    --------
    >>> documents([7, 7, 4]).dense(3, 3).astype(int)
    array([[1, 1, 0],
           [1, 1, 0],
           [0, 0, 1]])
    """
    check_data("ids", ids, axes=1)
    if k_ids is not None:
        check_data("k_ids", k_ids, axes=1)

    def rule(i, j):
        xp = backend.namespace(i)
        own = backend.integers(xp, i, ids=ids)
        other = own if k_ids is None else backend.integers(xp, i, k_ids=k_ids)
        return lookup(xp, "ids", own, i, "query") == lookup(xp, "ids" if k_ids is None else "k_ids", other, j, "key")

    return Mask(rule, "documents", ids=ids, k_ids=k_ids)
