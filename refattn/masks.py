"""Masks are rules over positions: who may attend to whom.

A rule answers for any block of query and key *positions*, so that one object serves the dense form, a tile,
a cache step and a picture. Rules combine with `&`, `|` and `~`:

    causal() & window(128, 0) | global_tokens([0])

Positions are absolute and start at 0. Where none are given, key j has position j, and the N queries are the
last N of M positions: query i has position i + M - N. [MASK-ALIGN]
"""

from __future__ import annotations

import numpy as np

from refattn import backend


class Mask:
    """A rule that says which key positions a query position may attend to.

    Parameters
    ----------
    rule : callable
        Takes int64 arrays of query positions (..., N, 1) and key positions (..., 1, M) and returns a bool
        array that broadcasts to (..., N, M), True where the query may attend. It must decide each pair by its
        positions alone.
    name : str
        The name of the function that builds it, or "and", "or", "not".
    parts : tuple of Mask
        What a combination combines.
    **arguments
        What the function was given.

    Notes
    -----
    Clauses: MASK-POLARITY, MASK-ALIGN, MASK-ALGEBRA.

    Examples
    --------
    >>> (causal() & window(1, 0)).dense(3, 3).astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [0, 1, 1]])
    """

    def __init__(self, rule, name="Mask", parts=(), **arguments):
        self._rule = rule
        self.name, self.parts, self.arguments = name, tuple(parts), arguments

    def admits(self, i, j):
        """The rule on int64 arrays of query and key positions that broadcast: True where i may attend to j."""
        return self._rule(i, j)

    def block(self, q_positions, k_positions):
        """The rule for any block of positions.

        Parameters
        ----------
        q_positions : int array (..., N)
        k_positions : int array (..., M)

        Returns
        -------
        bool array (..., N, M)
        """
        xp = backend.namespace(q_positions=q_positions, k_positions=k_positions)
        i = backend.integers(xp, q_positions, q_positions=q_positions)[..., :, None]
        j = backend.integers(xp, k_positions, k_positions=k_positions)[..., None, :]
        allowed = self._rule(i, j)
        return xp.broadcast_to(allowed, np.broadcast_shapes(allowed.shape, i.shape, j.shape))

    def dense(self, n, m, *, q_positions=None, k_positions=None, like=None):
        """The rule for N queries and M keys as one array.

        Parameters
        ----------
        n, m : int
            Numbers of queries and keys.
        q_positions : int array (..., N), optional
            Default: the last N of M positions.
        k_positions : int array (..., M), optional
            Default: 0 to M - 1.
        like : array, optional
            An array whose library and device the result shares. Default: those of the positions, else NumPy.

        Returns
        -------
        bool array (..., N, M)

        Raises
        ------
        ValueError
            Positions whose last axis is not N or M, or that a rule's data does not cover.
        """
        n, m = backend.integer("n", n, least=0), backend.integer("m", m, least=0)
        given = next((x for x in (like, q_positions, k_positions) if hasattr(x, "dtype")), np.empty(0))
        xp = backend.namespace(like=given)
        if q_positions is None:
            q_positions = backend.arange(xp, m - n, m, given)
        if k_positions is None:
            k_positions = backend.arange(xp, 0, m, given)
        q_positions = backend.integers(xp, given, q_positions=q_positions)
        k_positions = backend.integers(xp, given, k_positions=k_positions)
        for name, positions, count, letter in (("q", q_positions, n, "N"), ("k", k_positions, m, "M")):
            if positions.ndim == 0 or positions.shape[-1] != count:
                raise ValueError(
                    f"{name}_positions has shape {tuple(positions.shape)}; it must be (..., {letter}={count})"
                )
        return self.block(q_positions, k_positions)

    def __and__(self, other):
        return _combine(self, other, "and", lambda a, b: a & b)

    def __or__(self, other):
        return _combine(self, other, "or", lambda a, b: a | b)

    def __invert__(self):
        return Mask(lambda i, j: ~self._rule(i, j), "not", (self,))

    def __repr__(self):
        if self.name == "not":
            return f"~{self.parts[0]}"
        if self.parts:
            return "(" + {"and": " & ", "or": " | "}[self.name].join(map(repr, self.parts)) + ")"
        return f"{self.name}({', '.join(f'{key}={_shown(value)}' for key, value in self.arguments.items())})"

    __array_ufunc__ = None  # so that `array & mask` reaches our error instead of looping over the array
    __rand__ = __and__
    __ror__ = __or__


def _combine(a, b, name, operation):
    if not isinstance(b, Mask):
        raise TypeError(
            f"{a} {'&' if name == 'and' else '|'} {type(b).__name__}: a rule combines with rules;"
            " for an array, combine it with the rule's dense(n, m) and pass that"
        )
    return Mask(lambda i, j: operation(a.admits(i, j), b.admits(i, j)), name, (a, b))


def visible(mask, n, m, *, q_positions=None, k_positions=None, like):
    """A mask argument, rule or array, as a bool array (..., N, M), or None where everything is visible."""
    if mask is None:
        return None
    if isinstance(mask, Mask):
        return mask.dense(n, m, q_positions=q_positions, k_positions=k_positions, like=like)
    xp = backend.namespace(like=like)
    if not hasattr(mask, "dtype"):
        raise TypeError(f"mask is a {type(mask).__name__}; it must be a boolean array or a rule of refattn.masks")
    if backend.dtype_name(mask) != "bool":
        raise TypeError(
            f"mask has dtype {backend.dtype_name(mask)}; a mask is boolean (True takes part),"
            " an additive term goes in bias"
        )
    backend.boolean(xp, mask=mask)
    for axis, size, letter in ((-1, m, "M"), (-2, n, "N")):
        if mask.ndim >= -axis and mask.shape[axis] not in (1, size):
            raise ValueError(
                f"mask has shape {tuple(mask.shape)}; it must broadcast to (..., N={n}, M={m}): {letter} differs"
            )
    return mask


# --- rules of one position difference -------------------------------------------------------------------------------


def everything():
    """Every query may attend to every key. Clauses: MASK-ALGEBRA."""
    return Mask(lambda i, j: (i == i) & (j == j), "everything")


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


def window(left, right):
    """A query at position i may attend to positions i - left to i + right, both included.

    Parameters
    ----------
    left, right : int or None
        How many positions beside the query's own, on either side; None is unbounded.

    Notes
    -----
    Clauses: MASK-WINDOW. Source: Beltagy et al. 2020, section 3.1; inclusive on both sides as in FlashAttention-2.
    A model's "sliding window of W tokens" is `window(W - 1, 0)`.

    Examples
    --------
    >>> window(2, 0).dense(5, 5).sum(axis=-1)
    array([1, 2, 3, 3, 3])
    """
    left, right = _reach(left=left, right=right)
    return Mask(lambda i, j: _within(j - i, left, right), "window", left=left, right=right)


def dilated(left, right, dilation):
    """A query at position i may attend to i + dilation·t for t from -left to right: a window with gaps.

    Parameters
    ----------
    left, right : int or None
        How many steps on either side; None is unbounded.
    dilation : int
        The step.

    Notes
    -----
    Clauses: MASK-DILATED. Source: Beltagy et al. 2020, section 3.1.

    Examples
    --------
    >>> dilated(1, 1, 2).dense(5, 5)[2].astype(int)
    array([1, 0, 1, 0, 1])
    """
    left, right = _reach(left=left, right=right)
    dilation = backend.integer("dilation", dilation, least=1)
    farthest_left = None if left is None else left * dilation
    farthest_right = None if right is None else right * dilation
    return Mask(
        lambda i, j: _within(j - i, farthest_left, farthest_right) & ((j - i) % dilation == 0),
        "dilated",
        left=left,
        right=right,
        dilation=dilation,
    )


# --- rules of blocks ------------------------------------------------------------------------------------------------


def block(size):
    """A query may attend to the keys of its own block of `size` positions; blocks start at position 0.

    Notes
    -----
    Clauses: MASK-BLOCK. Source: Qiu et al. 2020 (blockwise attention).

    Examples
    --------
    >>> block(2).dense(3, 3).astype(int)
    array([[1, 1, 0],
           [1, 1, 0],
           [0, 0, 1]])
    """
    size = backend.integer("size", size, least=1)
    return Mask(lambda i, j: i // size == j // size, "block", size=size)


def neighbours(size, before=1, after=1):
    """A query may attend to its own block, `before` blocks before it and `after` blocks after it.

    Notes
    -----
    Clauses: MASK-NEIGHBOURS. Source: Zaheer et al. 2020 (BigBird), section 2.

    Examples
    --------
    >>> neighbours(2, before=1, after=0).dense(6, 6)[4].astype(int)
    array([0, 0, 1, 1, 1, 1])
    """
    size = backend.integer("size", size, least=1)
    before, after = backend.integer("before", before, least=0), backend.integer("after", after, least=0)
    return Mask(
        lambda i, j: _within(j // size - i // size, before, after),
        "neighbours",
        size=size,
        before=before,
        after=after,
    )


def chunked(size):
    """Causal within chunks of `size` positions: `block(size) & causal()`.

    Notes
    -----
    Clauses: MASK-CHUNKED. Source: the chunked attention of Llama 4.

    Examples
    --------
    >>> chunked(3).dense(7, 7).sum(axis=-1)
    array([1, 2, 3, 1, 2, 3, 1])
    """
    size = backend.integer("size", size, least=1)
    return Mask(lambda i, j: (i // size == j // size) & (j <= i), "chunked", size=size)


def strided(stride):
    """The strided pattern of the Sparse Transformer: the last `stride` positions and every stride-th before.

    Notes
    -----
    Clauses: MASK-STRIDED. Source: Child et al. 2019, section 4.2: the union of its two index sets,
    max(0, i - l) ≤ j ≤ i and (i - j) mod l = 0.

    Examples
    --------
    >>> strided(3).dense(8, 8)[7].astype(int)
    array([0, 1, 0, 0, 1, 1, 1, 1])
    """
    stride = backend.integer("stride", stride, least=1)
    return Mask(
        lambda i, j: (j <= i) & ((i - j <= stride) | ((i - j) % stride == 0)),
        "strided",
        stride=stride,
    )


def fixed(stride, summary=1):
    """The fixed pattern of the Sparse Transformer: the own block so far, and the last `summary` of each block before.

    Notes
    -----
    Clauses: MASK-FIXED. Source: Child et al. 2019, section 4.2, with the summary positions l - c to l - 1 of each
    block (the paper's upper end l is never reached by a remainder).

    Examples
    --------
    >>> fixed(4).dense(10, 10)[9].astype(int)
    array([0, 0, 0, 1, 0, 0, 0, 1, 1, 1])
    """
    stride = backend.integer("stride", stride, least=1)
    summary = backend.integer("summary", summary, least=1)
    if summary > stride:
        raise ValueError(f"summary is {summary}; it must be at most stride ({stride})")
    return Mask(
        lambda i, j: (j <= i) & ((i // stride == j // stride) | (j % stride >= stride - summary)),
        "fixed",
        stride=stride,
        summary=summary,
    )


# --- rules that carry data ------------------------------------------------------------------------------------------
# Data may have leading axes of its own, which broadcast as those of any array: lengths per batch for q of shape
# (B, H, N, D) have shape (B, 1).


def global_tokens(tokens):
    """The given positions attend to everything, and everything attends to them.

    Parameters
    ----------
    tokens : list of int, or int array (..., T)
        Global positions.

    Notes
    -----
    Clauses: MASK-GLOBAL. Source: Beltagy et al. 2020, section 3.1 ('this attention is symmetric').

    Examples
    --------
    >>> (window(0, 0) | global_tokens([1])).dense(3, 3).astype(int)
    array([[1, 1, 0],
           [1, 1, 1],
           [0, 1, 1]])
    """

    def rule(i, j):
        xp = backend.namespace(i)
        listed = backend.integers(xp, i, tokens=tokens)
        if listed.ndim == 0:
            raise ValueError("tokens must be a list or an array (..., T), not a single number")
        listed = listed[..., None, None, :]
        return xp.any(i[..., None] == listed, axis=-1) | xp.any(j[..., None] == listed, axis=-1)

    return Mask(rule, "global_tokens", tokens=tokens)


def prefix(lengths):
    """Prefix language modelling: causal, except that every query sees all keys of the prefix.

    Parameters
    ----------
    lengths : int, or int array (...)
        Number of positions in the prefix.

    Notes
    -----
    Clauses: MASK-PREFIX. Source: Raffel et al. 2020 (T5), section 3.2.2. For 'key below p' alone use `padding(p)`.

    Examples
    --------
    >>> prefix(2).dense(3, 3).astype(int)
    array([[1, 1, 0],
           [1, 1, 0],
           [1, 1, 1]])
    """

    def rule(i, j):
        xp = backend.namespace(i)
        return (j <= i) | (j < backend.integers(xp, i, lengths=lengths)[..., None, None])

    return Mask(rule, "prefix", lengths=lengths)


def padding(lengths, starts=0):
    """Only the real keys, positions starts to starts + lengths - 1, may be attended to.

    Parameters
    ----------
    lengths : int, or int array (...)
        Number of real keys of each sequence.
    starts : int, or int array (...), default 0
        Position of the first real key; with left padding M - lengths.

    Notes
    -----
    Clauses: MASK-PADDING. Queries at padded positions are not excluded: their rows are defined and to be ignored.

    Examples
    --------
    >>> import numpy as np
    >>> padding(np.array([1, 3])).dense(1, 3).astype(int)
    array([[[1, 0, 0]],
    <BLANKLINE>
           [[1, 1, 1]]])
    """

    def rule(i, j):
        xp = backend.namespace(i)
        count, first = backend.integers(xp, i, lengths=lengths, starts=starts)
        count, first = count[..., None, None], first[..., None, None]
        return (j >= first) & (j < first + count)

    return Mask(rule, "padding", lengths=lengths, starts=starts)


def documents(ids, k_ids=None):
    """A query may attend to keys of its own document.

    Parameters
    ----------
    ids : list of int, or int array (..., L)
        The document of each position. Documents need not be contiguous.
    k_ids : list of int, or int array (..., M), optional
        The document of each key position, where keys are another sequence than queries. Default: `ids`.

    Raises
    ------
    ValueError
        When evaluated at a position that `ids` does not cover.

    Notes
    -----
    Clauses: MASK-DOCUMENTS. Source: Krell et al. 2021 (packing).

    Examples
    --------
    >>> documents([7, 7, 4]).dense(3, 3).astype(int)
    array([[1, 1, 0],
           [1, 1, 0],
           [0, 0, 1]])
    """

    def rule(i, j):
        xp = backend.namespace(i)
        own = backend.integers(xp, i, ids=ids)
        other = own if k_ids is None else backend.integers(xp, i, k_ids=k_ids)
        q_document = _lookup(xp, "ids", own, i[..., :, 0], "query")[..., :, None]
        k_document = _lookup(xp, "ids" if k_ids is None else "k_ids", other, j[..., 0, :], "key")[..., None, :]
        return q_document == k_document

    return Mask(rule, "documents", ids=ids, k_ids=k_ids)


def tree(parents, prefix=0):
    """Draft tokens of speculative decoding: a node sees the prefix, its ancestors and itself.

    Parameters
    ----------
    parents : list of int, or int array (..., T)
        Node t's parent, a smaller index, or -1 for a root.
    prefix : int, default 0
        Number of positions before the tree; among themselves they are causal.

    Raises
    ------
    ValueError
        A parent is not below its node, or the rule is evaluated past the last node.

    Notes
    -----
    Positions are slots here: node t sits at prefix + t. (Rotary positions are depths; siblings share one.)
    Clauses: MASK-TREE. Source: Miao et al. 2024 (SpecInfer), section 4.

    Examples
    --------
    >>> tree([-1, 0, 0, 1]).dense(4, 4).astype(int)
    array([[1, 0, 0, 0],
           [1, 1, 0, 0],
           [1, 0, 1, 0],
           [1, 1, 0, 1]])
    """
    prefix = backend.integer("prefix", prefix, least=0)

    def rule(i, j):
        xp = backend.namespace(i)
        up = backend.integers(xp, i, parents=parents)
        count = up.shape[-1] if up.ndim else 0
        nodes = backend.arange(xp, 0, count, i)
        if not bool(xp.all((up >= -1) & (up < nodes))):
            raise ValueError("parents must be -1 or smaller than the node's own index")
        last = prefix + count - 1
        if bool(xp.any(i > last)) or bool(xp.any(j > last)):
            raise ValueError(f"tree has nodes up to position {last}; a query or key lies past it")
        causal_prefix = (i < prefix) & (j <= i)
        if count == 0:
            return causal_prefix
        ancestors = _closure(xp, (up[..., :, None] == nodes) | (nodes[:, None] == nodes))
        in_tree = (i >= prefix) & (j >= prefix)
        # The pair (a, b) is entry a·T + b of the flattened table; pairs outside the tree read entry 0 and are dropped.
        pair = xp.where(in_tree, (i - prefix) * count + (j - prefix), 0)
        flat = xp.reshape(ancestors, (*ancestors.shape[:-2], count * count))
        related = _lookup(xp, "parents", flat, xp.reshape(pair, (*pair.shape[:-2], -1)), "node")
        related = xp.reshape(related, (*related.shape[:-1], *pair.shape[-2:]))
        return causal_prefix | ((i >= prefix) & (j < prefix)) | (in_tree & related)

    return Mask(rule, "tree", parents=parents, prefix=prefix)


# --- helpers --------------------------------------------------------------------------------------------------------


def _reach(**sides):
    return [None if value is None else backend.integer(name, value, least=0) for name, value in sides.items()]


def _within(difference, before, after):
    allowed = difference == difference
    if before is not None:
        allowed = allowed & (difference >= -before)
    if after is not None:
        allowed = allowed & (difference <= after)
    return allowed


def _lookup(xp, name, table, positions, whose):
    """table[..., position] for positions (..., P), with leading axes that broadcast."""
    length = table.shape[-1] if table.ndim else 0
    if bool(xp.any((positions < 0) | (positions >= length))):
        raise ValueError(
            f"{name} covers positions 0 to {length - 1}, but a {whose} lies outside;"
            " give q_positions and k_positions, or data for every position"
        )
    lead = backend.broadcast("leading axes", **{name: table.shape[:-1], "positions": positions.shape[:-1]})
    table = xp.broadcast_to(table, (*lead, length))
    positions = xp.broadcast_to(positions, (*lead, positions.shape[-1]))
    return xp.take_along_axis(table, positions, axis=-1)


def _closure(xp, related):
    """Transitive closure of a reflexive relation (..., T, T), by squaring."""
    steps = 1
    while steps < related.shape[-1]:
        counted = backend.cast(related, xp.float32)  # exact: counts stay below 2**24
        related = xp.matmul(counted, counted) > 0
        steps *= 2
    return related


def _shown(data):
    if not hasattr(data, "shape") or data.ndim == 0:
        return str(data)
    return f"<{' x '.join(map(str, data.shape))} array>"
