"""Longformer: a window around every query, and global tokens that attend to all and that all attend to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from refattn import backend, masks
from refattn.gradients.sums import checked_cotangent, summed_to
from refattn.masks import Mask
from refattn.sparse.lists import Lists, attend, attend_vjp
from refattn.sparse.places import added, numbers_at, places_of, rows_at
from refattn.sparse.rules import both, checked_rule, keys_of
from refattn.tiled import tiled_attention, tiled_attention_vjp
from refattn.tiled.problem import Problem, problem_of

ROWS = 128  # queries that share a list of keys, and global queries at a time


class LongformerGradients(NamedTuple):
    """What `longformer_attention_vjp` returns; a field is None where its input was not given.

    Attributes
    ----------
    q : array (..., N, D)
    k : array (..., M, D)
    v : array (..., M, Dv)
    bias : array that broadcasts to (..., N, M), or None
    sinks : array that broadcasts to (...), or None
    scale : array ()
        The derivative by the scale that was used, also where that is the default 1/√D.
    global_q : array (..., N, D), or None
    global_k : array (..., M, D), or None
    global_v : array (..., M, Dv), or None
    """

    q: Any
    k: Any
    v: Any
    bias: Any
    sinks: Any
    scale: Any
    global_q: Any
    global_k: Any
    global_v: Any


@backend.ieee
def longformer_attention(
    q, k, v, left, right, global_tokens, mask=None, *, global_q=None, global_k=None, global_v=None, return_lse=False,
    **options,
):  # fmt: skip
    r"""Attention to a window and to global tokens; those attend to everything, with queries, keys and values of their own.

    .. math:: o_i = \sum_{j \in S_i} \frac{e^{s_{ij}}}{\sum_{l \in S_i} e^{s_{il}}} v_j, \qquad
        S_i = \{ j : t_i - \mathrm{left} \le u_j \le t_i + \mathrm{right} \text{ or } u_j \in G \}
        \quad \text{where } t_i \notin G

    .. math:: o_i = \sum_j \frac{e^{s^g_{ij}}}{\sum_l e^{s^g_{il}}} v^g_j, \qquad
        s^g_{ij} = \tau\, q^g_i \cdot k^g_j \quad \text{where } t_i \in G

    Parameters
    ----------
    q : array (..., H, N, D) or (N, D)
        Queries.
    k : array (..., G, M, D) or (M, D)
        Keys, H a multiple of G.
    v : array (..., G, M, Dv) or (M, Dv)
        Values.
    left, right : int or None
        How many positions beside the query's own, as for `window_attention`.
    global_tokens : int array that broadcasts to (..., H, T), or list of int
        The G above: global positions, of queries and keys; -1 where a sequence has fewer than T. Leading axes
        broadcast with those of q: (B, 1, T) for q of shape (B, H, N, D).
    mask : rule of `refattn.masks`, optional
        What restricts all queries further, global ones too: `padding(lengths)`, or `causal()` for a language model.
    global_q : array (..., H, N, D) or (N, D), optional
        What queries at global positions use in place of q, of the same shape; no other rows are read.
    global_k : array (..., G, M, D) or (M, D), optional
        The keys that they meet, in place of k. All other queries meet k and v, at global positions too.
    global_v : array (..., G, M, Dv) or (M, Dv), optional
        The values that they mix, in place of v.
    **options
        As for `tiled_attention`, which has tiles beside.

    Returns
    -------
    out : array (..., H, N, Dv) or (N, Dv)
    lse : array (..., H, N) or (N,)
        If `return_lse`; as for `attention`.

    Raises
    ------
    TypeError, ValueError
        As for `tiled_attention`; and where the mask is no rule, a side or a global position below 0, or an array for
        global tokens of another shape than the one that it stands for.

    See Also
    --------
    refattn.masks.global_tokens : the rule beside the window, where global tokens have no projections of their own.

    Notes
    -----
    A set: a global key within the window counts once. Time O(N (left + right + T) (D + Dv)) and O(M (D + Dv)) a global
    query, memory O(N) beside the results; where positions are given and not consecutive, time as for dense attention.
    Clauses: LONGFORMER-KEYS, LONGFORMER-ONCE, LONGFORMER-GLOBAL, LONGFORMER-TOKENS, LONGFORMER-MASK,
    LONGFORMER-OPTIONS, LONGFORMER-COST, LONGFORMER-REFUSE.
    Source: Beltagy et al. 2020 (Longformer), section 3.1.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.zeros((5, 2))
    >>> longformer_attention(x, x, np.arange(5.0)[:, None], 1, 0, [0])[:, 0]
    array([2.        , 0.5       , 1.        , 1.66666667, 2.33333333])
    """
    return_lse = backend.flag("return_lse", return_lse)
    of = _checked(q, k, v, left, right, global_tokens, mask, (global_q, global_k, global_v), options)
    out, lse = of.near(attend, tiled_attention, q=of.problem.q, return_lse=True)
    for some in of.global_queries():
        found = tiled_attention(**some.arguments(of), return_lse=True)
        out, lse = some.put(out, found[0], 2), some.put(lse, found[1], 1)
    return (out, lse) if return_lse else out


@backend.ieee
def longformer_attention_vjp(
    d_out, q, k, v, left, right, global_tokens, mask=None, *, global_q=None, global_k=None, global_v=None, d_lse=None,
    out=None, lse=None, **options,
):  # fmt: skip
    """The gradients of attention to a window and global tokens.

    Parameters
    ----------
    d_out : array (..., H, N, Dv) or (N, Dv)
        Cotangent of the output.
    q, k, v, left, right, global_tokens, mask, global_q, global_k, global_v
        As for `longformer_attention`.
    d_lse : array (..., H, N) or (N,), optional
        Cotangent of lse.
    out, lse : array (..., H, N, Dv) or (N, Dv), (..., H, N) or (N,), optional
        What `longformer_attention` returned, as for `tiled_attention_vjp`.
    **options
        As for `tiled_attention_vjp`, which has tiles beside.

    Returns
    -------
    LongformerGradients
        (q, k, v, bias, sinks, scale, global_q, global_k, global_v), each of the shape of its input.

    Raises
    ------
    TypeError, ValueError
        As for `longformer_attention`; and where a cotangent has another shape than its result, or only one of out and
        lse is given.

    Notes
    -----
    Time and memory as for `longformer_attention`. Clauses: LONGFORMER-GRADIENT.
    Source: Dao et al. 2022 (FlashAttention), appendix B.4, over the keys of each query.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.zeros((4, 2))
    >>> longformer_attention_vjp(np.ones((4, 1)), x, x, np.ones((4, 1)), 0, 0, [3]).v[:, 0]
    array([0.75, 0.75, 0.75, 1.75])
    """
    table = None if callable(options.get("bias")) else options.get("bias")
    xp, d_out, d_lse, out, lse, q, k, v, table, sinks, *own = backend.floating(
        d_out=d_out, d_lse=d_lse, out=out, lse=lse, q=q, k=k, v=v, bias=table, sinks=options.get("sinks"),
        global_q=global_q, global_k=global_k, global_v=global_v,
        optional="d_lse out lse bias sinks global_q global_k global_v",
    )  # fmt: skip
    options = options | {"sinks": sinks} | ({} if table is None else {"bias": table})
    of = _checked(q, k, v, left, right, global_tokens, mask, own, options)
    results = {"d_out": (d_out, 2), "out": (out, 2), "d_lse": (d_lse, 1), "lse": (lse, 1)}
    for name, (x, core) in results.items():
        checked_cotangent(
            name, x, "its result", (*of.lead, of.problem.n, of.problem.v.shape[-1])[: len(of.lead) + core]
        )
    if (out is None) != (lse is None):
        raise ValueError("out and lse are the results of longformer_attention: give both, or neither")

    # A global query has no part in what is near: no cotangent, and an lse that says that its weights are to be found again.
    instead = {"d_out": 0.0, "out": 0.0, "d_lse": 0.0, "lse": math.inf}
    of_near = {name: of.elsewhere(x, instead[name], core) for name, (x, core) in results.items()}
    near = of.near(attend_vjp, tiled_attention_vjp, q=of.elsewhere(of.problem.q, 0.0, 2), **of_near)
    sums = near._asdict() | {"q": summed_to(xp, of.elsewhere(near.q, 0.0, 2), q.shape)}
    names = {name: name if x is None else f"global_{name}" for name, x in zip("qkv", own, strict=True)}
    sums |= {f"global_{name}": None if x is None else xp.zeros_like(x) for name, x in zip("qkv", own, strict=True)}
    for some in of.global_queries():
        found = tiled_attention_vjp(
            **some.arguments(of), d_out=some.of(d_out, 2, 0.0), out=some.of(out, 2, 0.0), d_lse=some.of(d_lse, 1, 0.0),
            lse=some.of(lse, 1, -math.inf),
        )  # fmt: skip
        sums[names["q"]] = sums[names["q"]] + some.added(of.global_q, found.q)
        for name in "kv":
            sums[names[name]] = sums[names[name]] + getattr(found, name)
        if table is not None:
            sums["bias"] = sums["bias"] + xp.reshape(some.added(of.problem.bias, found.bias), table.shape)
        if sinks is not None:
            sums["sinks"] = sums["sinks"] + found.sinks
        sums["scale"] = sums["scale"] + found.scale
    return LongformerGradients(**sums)


class Longformer(NamedTuple):
    """The arguments of a call, checked.

    Attributes
    ----------
    problem : Problem
        That of the options, without window and global tokens.
    tokens : int array (..., T)
        Global positions, each once; a position that is none stands for what is none.
    is_global : bool array (..., N)
        Which queries are.
    window, mask : Mask
    global_q, global_k, global_v : arrays
    options : dict
    """

    problem: Problem
    tokens: Any
    is_global: Any
    window: Mask
    mask: Mask | None
    global_q: Any
    global_k: Any
    global_v: Any
    options: dict

    @property
    def lead(self):
        """The leading axes of the results."""
        return backend.broadcast("leading axes", q_k_v=self.problem.lead, global_tokens=self.tokens.shape[:-1])

    def near(self, by_lists, by_tiles, **given):
        """Attention of the other queries, or its gradients; what comes out for global ones has no meaning."""
        rule = self.window | masks.global_tokens(self.tokens) if self.tokens.shape[-1] else self.window
        given |= self.options | {"k": self.problem.k, "v": self.problem.v, "mask": both(rule, self.mask)}
        keys = self._keys()
        return by_tiles(**given) if keys is None else by_lists(**given, lists=Lists(keys, self._rows))

    @property
    def _rows(self):
        return min(ROWS, self.problem.n)

    def _keys(self):
        """The keys of the windows of some queries in a row and, behind those, the global ones that are not among them.

        None where a window is as wide as all keys, or positions are not consecutive.
        """
        of, width = self.problem, keys_of(self.window)
        xp, i, spaced = of.xp, of.q_positions, of.spaced
        if width is None or width > of.m or 0 in (of.n, of.m) or i.ndim > 1 or spaced is None or spaced[1] != 1:
            return None
        if not bool(xp.all(i[1:] - i[:-1] == 1)):
            return None
        lists = -(-of.n // self._rows)
        first = int(i[0]) - self.window.arguments["left"] - spaced[0]
        first = (backend.arange(xp, 0, lists, i) * self._rows + first)[:, None]  # (R, 1)
        near = first + backend.arange(xp, 0, self._rows + width - 1, i)  # (R, L)
        others = (self.tokens - spaced[0])[..., None, :]  # (..., 1, T)
        others = xp.where((others < first) | (others > near[:, -1:]), others, -1)
        keys = xp.concat([xp.broadcast_to(near, (*others.shape[:-1], near.shape[-1])), others], axis=-1)
        return xp.where((keys >= 0) & (keys < of.m), keys, -1)

    def elsewhere(self, x, value, core):
        """An array (..., N) with `core` - 1 more axes, and a value in it where queries are global."""
        if x is None or not bool(self.problem.xp.any(self.is_global)):
            return x
        return self.problem.xp.where(self.is_global[..., None] if core > 1 else self.is_global, value, x)

    def global_queries(self) -> Iterator[GlobalQueries]:
        """The global queries of each sequence, some at a time."""
        xp = self.problem.xp
        if not self.problem.n or not bool(xp.any(self.is_global)):
            return
        order = backend.stable_argsort(xp, backend.cast(~self.is_global, xp.int64))
        number = backend.stable_argsort(xp, order)  # of each query, the global ones first
        count = int(xp.max(xp.sum(backend.cast(self.is_global, xp.int64), axis=-1)))
        for start in range(0, count, ROWS):
            places = order[..., start : min(start + ROWS, count)]
            there = xp.take_along_axis(self.is_global, places, axis=-1)
            here = self.is_global & (number >= start) & (number < start + ROWS)
            yield GlobalQueries(xp, places, there, here, xp.where(here, number - start, 0))


class GlobalQueries(NamedTuple):
    """Some queries of each sequence.

    Attributes
    ----------
    xp : module
    places, there : int and bool array (..., S)
        Which queries, and whether they are global: a sequence may have fewer of them than others.
    here, number : bool and int array (..., N)
        Of each query whether it is among these, and as which.
    """

    xp: Any
    places: Any
    there: Any
    here: Any
    number: Any

    def of(self, x, core=2, otherwise=None):
        """Their part of an array (..., N or 1) with `core` - 1 more axes, and something in place of those that are not there."""
        if x is None or callable(x):
            return x
        at = self._places(x, core)
        found = rows_at(self.xp, x, at) if core > 1 else numbers_at(self.xp, x, at)
        there = self.there[..., None] if core > 1 else self.there
        return found if otherwise is None else self.xp.where(there, found, otherwise)

    def arguments(self, of: Longformer) -> dict:
        """Those of their attention, to all keys."""
        p = of.problem
        i, allowed = self.of(p.q_positions, 1), self.there[..., None]
        if p.mask is not None:
            allowed = allowed & p.mask.block(i, p.k_positions, like=p.q)
        return {
            "q": self.of(of.global_q), "k": of.global_k, "v": of.global_v, "mask": allowed, "bias": self.of(p.bias),
            "sinks": p.sinks, "dropout": None if p.keep is None else (self.of(p.keep), p.rate), "q_positions": i,
            "k_positions": p.k_positions, "scale": p.scale, "softcap": p.softcap or None,
        }  # fmt: skip

    def put(self, x, found, core):
        """An array of all queries with what was found for these."""
        at = places_of(self.xp, found.shape[: found.ndim - core], self.places.shape[-1], self.number, core=1)
        if core > 1:
            return self.xp.where(self.here[..., None], rows_at(self.xp, found, at), x)
        return self.xp.where(self.here, numbers_at(self.xp, found, at), x)

    def added(self, like, found):
        """An array like another, zeros but for what was found for these queries."""
        return added(self.xp, found, self._places(like, 2), like.shape)

    def _places(self, x, core):
        n = x.shape[x.ndim - core]
        return places_of(self.xp, x.shape[: x.ndim - core], n, self.places if n > 1 else self.places * 0, core=1)


def _checked(q, k, v, left, right, global_tokens, mask, own, options) -> Longformer:
    """The arguments, whose global projections are the others where none are given."""
    names = ("global_q", "global_k", "global_v")
    given = dict(zip(names, own, strict=True))
    _, q, k, v, *own = backend.floating(q=q, k=k, v=v, **given, optional=" ".join(names))
    for name, x, like in zip(names, own, (q, k, v), strict=True):
        if x is not None and x.shape != like.shape:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; it must be that of {name[-1]}, {tuple(like.shape)}")
    window, of = masks.window(left, right), problem_of(q, k, v, checked_rule(mask), **options)
    tokens = _tokens(of, global_tokens)
    is_global = of.q_positions != of.q_positions
    for t in range(tokens.shape[-1]):  # one after the other: no array of N T numbers
        is_global = is_global | (of.q_positions == tokens[..., t : t + 1])
    global_q, global_k, global_v = (x if own is None else own for x, own in zip((q, k, v), own, strict=True))
    return Longformer(of, tokens, is_global, window, mask, global_q, global_k, global_v, options)


def _tokens(of: Problem, global_tokens):
    """Global positions, each once; instead of others one beyond all positions that there are."""
    xp = of.xp
    tokens = backend.integers(xp, of.q, global_tokens=global_tokens)
    backend.rank("global_tokens", tokens, 1, "(..., T)")
    backend.near(xp, global_tokens=tokens)
    if bool(xp.any(tokens < -1)):
        raise ValueError(f"global_tokens holds {int(xp.min(tokens))}; it must hold positions from 0, or -1 for none")
    if tokens.shape[-1] == 0:
        return tokens
    last = max((int(xp.max(x)) for x in (of.q_positions, of.k_positions, tokens) if 0 not in x.shape), default=0)
    order = backend.stable_argsort(xp, tokens)
    tokens = xp.take_along_axis(tokens, order, axis=-1)
    again = xp.concat([tokens[..., :1] < 0, (tokens[..., 1:] == tokens[..., :-1]) | (tokens[..., 1:] < 0)], axis=-1)
    return xp.where(again, last + 1, tokens)
