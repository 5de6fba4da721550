"""What a mask is, and how masks combine: the rule, its dense form, and &, | and ~."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from refattn import arguments, backend
from refattn.masks.data import is_array
from refattn.masks.reach import Reach, anywhere
from refattn.masks.registry import RULES

_BYTES_A_PAIR = 20  # while a rule is evaluated: differences of int64 positions, and truth values

_DEEPEST = 100  # Python's own limit comes later, and says less

# How the parts of a mask with such a name combine: masks, what they admit, and how far they reach.
COMBINED: dict[str, Callable[..., Any]] = {"and": operator.and_, "or": operator.or_, "not": operator.invert}


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
    >>> from refattn.masks import causal, window
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
        like : array of any shape, optional
            As for `dense`.

        Returns
        -------
        bool array (..., N, M)

        Notes
        -----
        Time and memory O(N M). Clauses: MASK-TILES, MASK-POSITIONS.

        Examples
        --------
        >>> from refattn.masks import window
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
        like : array of any shape, optional
            An array whose library and device the result shares. Default: those of the positions, else of the rule's
            data, else NumPy.

        Returns
        -------
        out : bool array (..., N, M)
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
        >>> from refattn.masks import causal
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
        >>> from refattn.masks import causal, padding
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
        return COMBINED[self.name](*(part._rewritten(change) for part in self.parts))

    def with_arguments(self, **changed):
        """The same rule with other arguments; it must be one that a function of this module has built.

        Examples
        --------
        >>> from refattn.masks import padding
        >>> padding(5, 1).with_arguments(lengths=3)
        padding(lengths=3, starts=1)
        """
        if self.name not in RULES:
            raise ValueError(f"{self} has no arguments to change: no function of refattn.masks has built it")
        unknown = changed.keys() - self.arguments.keys()
        if unknown:
            raise TypeError(f"{self} has no argument {', '.join(sorted(unknown))}")
        return RULES[self.name].build(**{**self.arguments, **changed})

    def reach(self, first: int, last: int) -> Reach:
        """Which keys queries at positions `first` to `last` may attend to at all, and which all of them do.

        Parameters
        ----------
        first, last : int

        Returns
        -------
        Reach
            Two intervals of key positions: outside `may` nothing is admitted, inside `must` everything is. A rule that
            is not registered with a reach may admit anything anywhere.

        Notes
        -----
        For skipping what a rule leaves empty. Clauses: TILED-SKIP.

        Examples
        --------
        >>> from refattn.masks import causal, window
        >>> (causal() & window(2, None)).reach(10, 12)
        Reach(may=Interval(low=8, high=12), must=Interval(low=10, high=10))
        """
        if self.parts:
            return COMBINED[self.name](*(part.reach(first, last) for part in self.parts))
        known = RULES[self.name].reach if self.name in RULES else anywhere
        return known(first, last, **self.arguments)

    @property
    def relative(self) -> bool:
        """Whether a pair is decided by the difference of its positions alone, as in a window: False where that is not known."""
        if self.parts:
            return all(part.relative for part in self.parts)
        return self.name in RULES and RULES[self.name].relative

    def _like(self, **candidates):
        """The first array among the candidates and the rule's data, whose library and device decide."""
        like = candidates["like"]
        if like is not None and not is_array(like):
            backend.array("like", like)
        name, x = next((item for item in candidates.items() if is_array(item[1])), ("like", None))
        backend.namespace(**{name: x})
        return next((data for data in (x, *self._data()) if is_array(data)), np.empty(0))

    def _data(self):
        yield from self.arguments.values()
        for part in self.parts:
            yield from part._data()

    def __and__(self, other):
        return _combine(self, other, "and")

    def __or__(self, other):
        return _combine(self, other, "or")

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


def _combine(a, b, name):
    if not isinstance(b, Mask):
        raise TypeError(
            f"{a} {'&' if name == 'and' else '|'} {type(b).__name__}: a rule combines with rules;"
            " for an array, combine it with the rule's dense(n, m) and pass that"
        )

    operation = COMBINED[name]

    def rule(i, j):
        of_a, of_b = a._rule(i, j), b._rule(i, j)
        if of_a.shape != of_b.shape:  # names are long for rules of many parts
            backend.broadcast("shapes of two rules", **{repr(a): of_a.shape, repr(b): of_b.shape})
        return operation(of_a, of_b)

    return Mask(rule, name, (a, b))


def _shown(data):
    if not hasattr(data, "shape") or data.ndim == 0:
        return str(data)
    return f"<{' x '.join(map(str, data.shape))} array>"


# --- positions and mask arguments ---------------------------------------------------------------------------------------


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
    backend.fits_scores("mask", mask, n, m)
    return mask
