"""Masks are rules over positions: who may attend to whom.

A rule answers for any block of query and key *positions*, so that one object serves the dense form, a tile,
a cache step and a picture. Rules combine with `&`, `|` and `~`:

    causal() & window(128, 0) | global_tokens([0])

Positions are absolute and start at 0. Where none are given, key j has position j, and the N queries are the
last N of M positions: query i has position i + M - N. [MASK-ALIGN]
"""

from __future__ import annotations

import numpy as np

from refattn import arguments, backend

_BYTES_A_PAIR = 20  # while a rule is evaluated: differences of int64 positions, and truth values

_DEEPEST = 100  # Python's own limit comes later, and says less

DATA_AXES = {  # the data that a rule may carry, and the axes that they have beside leading ones
    "padding": {"lengths": 0, "starts": 0},
    "prefix": {"lengths": 0},
    "global_tokens": {"tokens": 1},
    "documents": {"ids": 1, "k_ids": 1},
    "tree": {"parents": 1},
}


class Mask:
    """A rule that says which key positions a query position may attend to.

    Parameters
    ----------
    rule : callable
        Takes int64 arrays of query and key positions that broadcast to (..., N, M), usually (..., N, 1) and
        (..., 1, M), and returns a bool array that broadcasts to (..., N, M), True where the query may attend. It must
        decide each pair by its positions alone.
    name : str
        The name of the function that builds it, or "and", "or", "not".
    parts : tuple of Mask
        What a combination combines.
    **arguments
        What the function was given.

    Notes
    -----
    Clauses: MASK-POLARITY, MASK-ALIGN, MASK-POSITIONS, MASK-TILES, MASK-ALGEBRA, MASK-DATA, MASK-EMPTY, MASK-REFUSE.

    Examples
    --------
    >>> (causal() & window(1, 0)).dense(3, 3).astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [0, 1, 1]])
    """

    def __init__(self, rule, name="Mask", parts=(), **arguments):
        if not callable(rule) or isinstance(rule, type):
            raise TypeError(f"rule is {backend.shown(rule)}; it must be a function of positions i and j")
        self._rule = rule
        self._depth = 1 + max((part._depth for part in parts), default=0)
        if self._depth > _DEEPEST:
            raise ValueError(
                f"a mask of rules combined {self._depth} deep; at most {_DEEPEST}: combine them in pairs, and those in pairs"
            )
        self.name, self.parts, self.arguments = name, tuple(parts), arguments

    def admits(self, i, j):
        """The rule for pairs of positions, as another rule or a gather of keys asks it.

        Parameters
        ----------
        i, j : int64 arrays that broadcast to (..., N, M)
            Query and key positions. The axes of a rule's data come before the last two.

        Returns
        -------
        bool array that broadcasts to (..., N, M)
        """
        like = next((x for x in (i, j) if x is not None), np.empty(0))
        i, j = backend.integers(backend.namespace(i=like), like, i=i, j=j)
        backend.rank("i", i, 2, "(..., N, 1) or (..., N, M)")
        backend.rank("j", j, 2, "(..., 1, M) or (..., N, M)")
        backend.broadcast("positions", i=i.shape, j=j.shape)
        return self._rule(i, j)

    def block(self, q_positions, k_positions, *, like=None):
        """The rule for any block of positions, for example a tile or a step of a cache.

        Parameters
        ----------
        q_positions : list of int, or int array (..., N)
        k_positions : list of int, or int array (..., M)
        like : array, optional
            As for `dense`.

        Returns
        -------
        bool array (..., N, M)

        Notes
        -----
        Time and memory O(N M). Clauses: MASK-TILES, MASK-POSITIONS.

        Examples
        --------
        >>> window(2, 0).block([1000], [997, 998, 1000, 1001]).astype(int)
        array([[0, 1, 1, 0]])
        """
        like = self._like(like=like, q_positions=q_positions, k_positions=k_positions)
        xp = backend.namespace(like=like)
        i = backend.integers(xp, like, q_positions=q_positions)
        j = backend.integers(xp, like, k_positions=k_positions)
        backend.rank("q_positions", i, 1, "(..., N)")
        backend.rank("k_positions", j, 1, "(..., M)")
        backend.broadcast("leading axes", q_positions=i.shape[:-1], k_positions=j.shape[:-1])
        backend.near(xp, q_positions=i, k_positions=j)
        return self._evaluated(xp, i, j)

    def _evaluated(self, xp, i, j):
        """The rule for positions (..., N) and (..., M) that have been checked."""
        i, j = i[..., :, None], j[..., None, :]
        allowed = backend.boolean(xp, **{"the rule's result": self._rule(i, j)})
        whole = (i.shape[-2], j.shape[-1])
        if allowed.shape[-2:] == whole and allowed.ndim >= max(i.ndim, j.ndim):
            return allowed
        if any(size not in (1, n) for size, n in zip(allowed.shape[-2:], whole[-min(allowed.ndim, 2) :], strict=False)):
            raise ValueError(
                f"the rule's result has shape {tuple(allowed.shape)}; it must broadcast to (..., N, M) = (..., {whole})"
            )
        backend.broadcast("leading axes", rule=allowed.shape[:-2], q_positions=i.shape[:-2], k_positions=j.shape[:-2])
        return allowed & (i == i) & (j == j)  # an array of its own: a broadcast view could not be written to

    def dense(self, n, m, *, q_positions=None, k_positions=None, like=None):
        """The rule for N queries and M keys as one array.

        Parameters
        ----------
        n, m : int
            Numbers of queries and keys.
        q_positions : list of int, or int array (..., N), optional
            Default: the last N of M positions, M - N to M - 1.
        k_positions : list of int, or int array (..., M), optional
            Default: 0 to M - 1.
        like : array, optional
            An array whose library and device the result shares. Default: those of the positions, else of the rule's
            data, else NumPy.

        Returns
        -------
        bool array (..., N, M)
            True where the query may attend to the key. It can be written to.

        Raises
        ------
        TypeError
            Positions are no integers, or of another library than `like` or the rule's data.
        ValueError
            Positions whose last axis is not N or M, or that a rule's data does not cover.

        Notes
        -----
        Time and memory O(N M). Clauses: MASK-POLARITY, MASK-ALIGN, MASK-POSITIONS.

        Examples
        --------
        >>> causal().dense(2, 4).astype(int)  # the last two of four positions
        array([[1, 1, 1, 0],
               [1, 1, 1, 1]])
        >>> causal().dense(2, 4, q_positions=[0, 1]).astype(int)
        array([[1, 0, 0, 0],
               [1, 1, 0, 0]])
        """
        n, m = backend.integer("n", n, least=0), backend.integer("m", m, least=0)
        arguments.room(_BYTES_A_PAIR * n * m + 64 * (n + m), n=n, m=m)
        like = self._like(like=like, q_positions=q_positions, k_positions=k_positions)
        q_positions, k_positions = positions_of(n, m, q_positions, k_positions, like=like)
        return self._evaluated(backend.namespace(like=like), q_positions, k_positions)

    def rewritten(self, change):
        """The same combination of other rules.

        Parameters
        ----------
        change : callable
            Takes each rule that combines no others, as `name` and `arguments` tell them apart, and returns a Mask.

        Returns
        -------
        Mask

        Notes
        -----
        For a kernel with a flag of its own for a rule, or data of one sequence instead of all. Clauses: MASK-ALGEBRA.

        Examples
        --------
        >>> (causal() & ~padding(5)).rewritten(lambda rule: padding(3) if rule.name == "padding" else rule)
        (causal() & ~padding(lengths=3, starts=0))
        """
        if change is None:
            raise TypeError("change is None; it must be a function of a rule, which returns a Mask")
        return self._rewritten(arguments.function("change", change, "rule"))

    def _rewritten(self, change):
        if not self.parts:
            changed = change(self)
            if not isinstance(changed, Mask):
                raise TypeError(f"change returns {backend.shown(changed)} for {self}; it must return a Mask")
            return changed
        parts = [part._rewritten(change) for part in self.parts]
        return ~parts[0] if self.name == "not" else parts[0] & parts[1] if self.name == "and" else parts[0] | parts[1]

    def with_arguments(self, **changed):
        """The same rule with other arguments; it must be one that a function of this module has built.

        Examples
        --------
        >>> padding(5, 1).with_arguments(lengths=3)
        padding(lengths=3, starts=1)
        """
        if self.name not in BUILDERS:
            raise ValueError(f"{self} has no arguments to change: no function of refattn.masks has built it")
        unknown = changed.keys() - self.arguments.keys()
        if unknown:
            raise TypeError(f"{self} has no argument {', '.join(sorted(unknown))}")
        return BUILDERS[self.name](**{**self.arguments, **changed})

    def _like(self, **candidates):
        """The first array among the candidates and the rule's data, whose library and device decide."""
        like = candidates["like"]
        if like is not None and not _is_array(like):
            backend.array("like", like)
        name, x = next((item for item in candidates.items() if _is_array(item[1])), ("like", None))
        backend.namespace(**{name: x})
        return next((data for data in (x, *self._data()) if _is_array(data)), np.empty(0))

    def _data(self):
        yield from self.arguments.values()
        for part in self.parts:
            yield from part._data()

    def __and__(self, other):
        return _combine(self, other, "and", lambda a, b: a & b)

    def __or__(self, other):
        return _combine(self, other, "or", lambda a, b: a | b)

    def __invert__(self):
        return Mask(lambda i, j: ~self._rule(i, j), "not", (self,))

    def __bool__(self):
        raise TypeError(f"{self} has no truth value: combine rules with & and |, not with 'and' and 'or'")

    def __repr__(self):
        if self.name == "not":
            return f"~{self.parts[0]}"
        if self.parts:
            return "(" + {"and": " & ", "or": " | "}[self.name].join(map(repr, self.parts)) + ")"
        return f"{self.name}({', '.join(f'{key}={_shown(value)}' for key, value in self.arguments.items())})"

    __array_ufunc__ = None  # so that `array & mask` reaches our error instead of looping over the array
    __rand__ = __and__
    __ror__ = __or__


def positions_of(n, m, q_positions=None, k_positions=None, *, like):
    """Positions of N queries and M keys as int64 arrays beside `like`: by default the queries are the last N of M."""
    n, m = backend.integer("n", n, least=0), backend.integer("m", m, least=0)
    xp = backend.namespace(like=like)
    q = backend.arange(xp, m - n, m, like) if q_positions is None else q_positions
    k = backend.arange(xp, 0, m, like) if k_positions is None else k_positions
    q, k = backend.integers(xp, like, q_positions=q, k_positions=k)
    for name, positions, count, letter in (("q", q, n, "N"), ("k", k, m, "M")):
        if positions.ndim == 0 or positions.shape[-1] != count:
            raise ValueError(f"{name}_positions has shape {tuple(positions.shape)}; it must be (..., {letter}={count})")
    backend.broadcast("leading axes", q_positions=q.shape[:-1], k_positions=k.shape[:-1])
    given = {"q_positions": (q_positions, q), "k_positions": (k_positions, k)}
    backend.near(xp, **{name: x for name, (own, x) in given.items() if own is not None})  # defaults are near
    return q, k


def _combine(a, b, name, operation):
    if not isinstance(b, Mask):
        raise TypeError(
            f"{a} {'&' if name == 'and' else '|'} {type(b).__name__}: a rule combines with rules;"
            " for an array, combine it with the rule's dense(n, m) and pass that"
        )

    def rule(i, j):
        of_a, of_b = a._rule(i, j), b._rule(i, j)
        if of_a.shape != of_b.shape:  # names are long for rules of many parts
            backend.broadcast("shapes of two rules", **{repr(a): of_a.shape, repr(b): of_b.shape})
        return operation(of_a, of_b)

    return Mask(rule, name, (a, b))


def visible(mask, n, m, *, q_positions=None, k_positions=None, like):
    """A mask argument, rule or array, as a bool array (..., N, M), or None where everything is visible."""
    if isinstance(mask, Mask):
        return mask.dense(n, m, q_positions=q_positions, k_positions=k_positions, like=like)
    if q_positions is not None or k_positions is not None:  # nobody asks for them here, but they must be right
        positions_of(n, m, q_positions, k_positions, like=like)
    if mask is None:
        return None
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
    A model's 'sliding window of W tokens' is `window(W - 1, 0)`, Longformer's attention window of w tokens
    `window(w // 2, w // 2)`. Clauses: MASK-WINDOW.
    Source: Beltagy et al. 2020, section 3.1; inclusive on both sides as in FlashAttention-2 and ONNX Attention.

    Examples
    --------
    >>> window(2, 0).dense(5, 5).sum(axis=-1)
    array([1, 2, 3, 3, 3])
    """
    left, right = _reach("left", left), _reach("right", right)
    return Mask(lambda i, j: _within(j - i, left, right), "window", left=left, right=right)


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
        lambda i, j: _within(j - i, before, after) & ((j - i) % dilation == 0),
        "dilated",
        left=left,
        right=right,
        dilation=dilation,
    )


# --- rules of blocks ------------------------------------------------------------------------------------------------
# Blocks start at position 0, and block b holds the positions b·size to (b + 1)·size - 1, also for negative b.


def block(size):
    """A query may attend to the keys of its own block of `size` positions; blocks start at position 0.

    Notes
    -----
    Clauses: MASK-BLOCK. Source: Qiu et al. 2020 (blockwise attention), with the identity permutation.

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

    Parameters
    ----------
    size : int
        Positions a block.
    before, after : int, default 1
        Blocks on either side.

    Notes
    -----
    Clauses: MASK-NEIGHBOURS. Source: Zaheer et al. 2020 (BigBird), appendix D: its window of blocks.

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
    Clauses: MASK-CHUNKED. Source: Meta 2025 (Llama 4), the layers with chunked attention.

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
    One head that attends to the union of the paper's two index sets, max(0, i - l) ≤ j ≤ i and (i - j) mod l = 0.
    Alone, the first is `window(stride, 0)` and the second `dilated(None, 0, stride)`.
    Clauses: MASK-STRIDED. Source: Child et al. 2019, section 4.2.

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

    Parameters
    ----------
    stride : int
        Positions a block.
    summary : int, default 1
        How many of a block's last positions later blocks may attend to.

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
# Data may have leading axes of its own, which broadcast as those of any array: lengths per batch entry, for q of
# shape (B, H, N, D), have shape (B, 1). [MASK-DATA]


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
    >>> (window(0, 0) | global_tokens([1])).dense(3, 3).astype(int)
    array([[1, 1, 0],
           [1, 1, 1],
           [0, 1, 1]])
    """
    _check_data("tokens", tokens, axes=1, least=0)

    def rule(i, j):
        xp = backend.namespace(i)
        (listed,) = _per_pair(i, j, axes=1, tokens=tokens)
        return xp.any(i[..., None] == listed, axis=-1) | xp.any(j[..., None] == listed, axis=-1)

    return Mask(rule, "global_tokens", tokens=tokens)


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
    _check_data("lengths", lengths, least=0)

    def rule(i, j):
        (count,) = _per_pair(i, j, lengths=lengths)
        return (j <= i) | (j < count)

    return Mask(rule, "prefix", lengths=lengths)


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
    shapes = {"lengths": _check_data("lengths", lengths, least=0), "starts": _check_data("starts", starts)}
    backend.broadcast("shapes", **shapes)

    def rule(i, j):
        count, first = _per_pair(i, j, lengths=lengths, starts=starts)
        return (j >= first) & (j < first + count)

    return Mask(rule, "padding", lengths=lengths, starts=starts)


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
    _check_data("ids", ids, axes=1)
    if k_ids is not None:
        _check_data("k_ids", k_ids, axes=1)

    def rule(i, j):
        xp = backend.namespace(i)
        own = backend.integers(xp, i, ids=ids)
        other = own if k_ids is None else backend.integers(xp, i, k_ids=k_ids)
        return _lookup(xp, "ids", own, i, "query") == _lookup(xp, "ids" if k_ids is None else "k_ids", other, j, "key")

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
    TypeError
        They are no integers.
    ValueError
        A parent is not below its node; or, when evaluated, a position past the last node.

    Notes
    -----
    Positions are slots here: node t sits at prefix + t. (Rotary positions are depths; siblings share one.)
    Time O(N M + T³ log T). Clauses: MASK-TREE, MASK-DATA. Source: Miao et al. 2024 (SpecInfer), section 4.2.

    Examples
    --------
    >>> tree([-1, 0, 0, 1]).dense(4, 4).astype(int)
    array([[1, 0, 0, 0],
           [1, 1, 0, 0],
           [1, 0, 1, 0],
           [1, 1, 0, 1]])
    """
    count = _check_data("parents", parents, axes=1, least=-1, below_own_index=True)[-1]
    prefix = backend.integer("prefix", prefix, least=0)

    def rule(i, j):
        xp = backend.namespace(i)
        last = prefix + count - 1
        for name, positions in (("query", i), ("key", j)):
            if bool(xp.any(positions > last)):
                raise ValueError(
                    f"the tree ends at position {last} (prefix + T - 1, for T parents), but a {name} lies past it"
                )
        seen = (j <= i) & (j < prefix)
        up = backend.integers(xp, i, parents=parents)
        if count == 0:
            return seen & xp.all(up == up, axis=-1)[..., None, None]  # all of nothing: True, with the leading axes
        nodes = backend.arange(xp, 0, count, i)
        ancestors = _closure(xp, (up[..., :, None] == nodes) | (nodes[:, None] == nodes))
        # The pair (a, b) is entry a·T + b of the flattened table; pairs outside the tree read entry 0 and are dropped.
        in_tree = (i >= prefix) & (j >= prefix)
        pair = xp.where(in_tree, (i - prefix) * count + (j - prefix), 0)
        table = xp.reshape(ancestors, (*ancestors.shape[:-2], count * count))
        return seen | (in_tree & _lookup(xp, "parents", table, pair, "node"))

    return Mask(rule, "tree", parents=parents, prefix=prefix)


BUILDERS = {
    function.__name__: function
    for function in (
        everything, causal, window, dilated, block, neighbours, chunked, strided, fixed, global_tokens, prefix, padding,
        documents, tree,
    )
}  # fmt: skip


# --- helpers --------------------------------------------------------------------------------------------------------


def _reach(name, value):
    if value is None:
        return None
    value = backend.integer(name, value, most=_BEYOND)
    if value < 0:
        raise ValueError(f"{name} is {value}; it must be at least 0, or None where the side is unbounded")
    return value


def _within(difference, before, after):
    allowed = difference == difference
    if before is not None:
        allowed = allowed & (difference >= -min(before, _FARTHEST))
    if after is not None:
        allowed = allowed & (difference <= min(after, _FARTHEST))
    return allowed


_FARTHEST = 2**63 - 1  # no two int64 positions that a rule can subtract are farther apart


_BEYOND = 2**100  # a reach may be longer than any distance, but not any integer


def _is_array(x):
    return hasattr(x, "dtype") and hasattr(x, "shape") and not isinstance(x, np.generic)


def _check_data(name, values, *, axes=0, least=None, below_own_index=False):
    """The shape of a rule's data, which must be integers; checked when the rule is made, not when it is used."""
    like = values if _is_array(values) else np.empty(0)
    xp = backend.namespace(**{name: like})
    values = backend.integers(xp, like, **{name: values})
    backend.near(xp, **{name: values})
    if values.ndim < axes:
        raise ValueError(f"{name} is a single number; it must be a list, or an array of at least one axis")
    if least is not None and bool(xp.any(values < least)):
        raise ValueError(f"{name} holds a number below {least}")
    if below_own_index and not bool(xp.all(values < backend.arange(xp, 0, values.shape[-1], like))):
        raise ValueError(f"{name} must be smaller than the node's own index, or -1 for a root")
    return tuple(values.shape)


def _per_pair(i, j, axes=0, **data):
    """A rule's data beside positions: int64 arrays (..., 1, 1), before the last `axes` axes of the data's own."""
    xp = backend.namespace(i)
    arrays = {name: backend.integers(xp, i, **{name: x}) for name, x in data.items()}
    leads = {name: x.shape[: x.ndim - axes] for name, x in arrays.items()}
    backend.broadcast("leading axes", **leads, q_positions=i.shape[:-2], k_positions=j.shape[:-2])
    return [x[(..., None, None, *[slice(None)] * axes)] for x in arrays.values()]


def _lookup(xp, name, table, positions, whose):
    """table[..., position] for positions (..., N, M), with leading axes that broadcast."""
    length = table.shape[-1]
    if bool(xp.any((positions < 0) | (positions >= length))):
        raise ValueError(
            f"{name} covers positions 0 to {length - 1}, but a {whose} lies outside;"
            " give q_positions and k_positions, or data for every position"
        )
    pairs = tuple(positions.shape[-2:])
    lead = backend.broadcast("leading axes", **{name: table.shape[:-1], "positions": positions.shape[:-2]})
    positions = xp.reshape(positions, (*positions.shape[:-2], pairs[0] * pairs[1]))
    table = xp.broadcast_to(table, (*lead, length))
    positions = xp.broadcast_to(positions, (*lead, pairs[0] * pairs[1]))
    return xp.reshape(xp.take_along_axis(table, positions, axis=-1), (*lead, *pairs))


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
