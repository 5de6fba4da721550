"""Attention in parts: some queries of some heads attend to some of their keys by a rule, and parts are merged.

Where which keys a query sees is regular but not near, as every third of them, parts are slices with steps, in which it is
near: nothing is gathered, and each part is tiled attention on views. A query may be in several parts: their states are
merged by their log-sum-exp, so that a key which two of them hold counts twice. A part may have lists of keys in place of a rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from refattn import backend
from refattn.gradients import AttentionGradients
from refattn.gradients.sums import checked_cotangent, summed_to
from refattn.masks import Mask, everything
from refattn.masks.data import with_data
from refattn.softmax import State, level, merged_states, share_of, sink_shares
from refattn.sparse.lists import Lists
from refattn.sparse.lists import attend as attend_lists
from refattn.sparse.lists import attend_vjp as attend_lists_vjp
from refattn.sparse.rules import by_rule
from refattn.tiled.backward import Cotangents, gradients
from refattn.tiled.forward import states, undefined_rows
from refattn.tiled.problem import Problem, problem_of

EVERY = slice(None)


class Part(NamedTuple):
    """Queries and keys, and the rule between them, which is one of their positions.

    Attributes
    ----------
    head : int or None
        None is all heads.
    rows, keys : slice
    rule : Mask
    width : int or None
        At most so many keys of the part in a row does the rule admit to a query; None is any number.
    lists : Lists, optional
        What there is in place of a rule: lists of keys for the queries of the part, which are in no other then.
    """

    head: int | None
    rows: slice
    keys: slice
    rule: Mask
    width: int | None
    lists: Lists | None = None

    def of(self, x, lead, *core):
        """Where this part lies in an array with some of the leading axes `lead`, and slices of its other axes."""
        if self.head is None or x.ndim == len(core):
            return (..., *core)
        heads = x.shape[x.ndim - len(core) - 1]
        own = self.head * heads // lead[-1]
        return (..., slice(own, own + 1), *core)


# The last axes of every argument, by what they count.
_AXES = {
    "q": "nd", "k": "md", "v": "md", "bias": "nm", "keep": "nm", "q_positions": "n", "k_positions": "m", "sinks": "",
    "d_out": "nd", "out": "nd", "d_lse": "n", "lse": "n",
}  # fmt: skip


@backend.ieee
def attend(q, k, v, parts: Callable[[Problem], Iterable[Part]], mask=None, *, return_lse=False, **options):
    """Attention in the parts that a function makes of the arguments; queries in none have output 0 and lse -infinity."""
    return_lse = backend.flag("return_lse", return_lse)
    of = _whole(q, k, v, mask, options)
    found = _states(of, parts(of))
    out = _output(of, found)
    return (out, level(of.xp, found.total, found.peak)[..., 0]) if return_lse else out


@backend.ieee
def attend_vjp(d_out, q, k, v, parts, mask=None, *, d_lse=None, out=None, lse=None, **options):
    """The gradients of `attend`, as those of attention: sums over the parts."""
    table = None if callable(options.get("bias")) else options.get("bias")
    xp, d_out, d_lse, out, lse, q, k, v, table, sinks = backend.floating(
        d_out=d_out, d_lse=d_lse, out=out, lse=lse, q=q, k=k, v=v, bias=table, sinks=options.get("sinks"),
        optional="d_lse out lse bias sinks",
    )  # fmt: skip
    of = _whole(q, k, v, mask, options | {"sinks": sinks} | ({} if table is None else {"bias": table}))
    more = {"d_out": d_out, "out": out, "d_lse": d_lse, "lse": lse}
    for name, x in more.items():
        checked_cotangent(name, x, "its result", (*of.lead, of.n, of.v.shape[-1])[: len(of.lead) + len(_AXES[name])])
    if (out is None) != (lse is None):
        raise ValueError("out and lse are the results of attention with these arguments: give both, or neither")

    parts = list(parts(of))
    known = Cotangents(d_out, d_lse, out, lse).state(of, EVERY)
    if known is None:
        after = _states(of, parts)
        known = State(_output(of, after), xp.where(after.total == 0, 0.0, after.peak), after.total)
    differentiated = {"q": of.q, "k": of.k, "v": of.v, "bias": None if table is None else of.bias, "sinks": sinks}
    sums = {name: xp.zeros_like(x) for name, x in differentiated.items() if x is not None}
    if sinks is not None:
        left, taken = sink_shares(xp, known.peak, known.total, sinks[..., None, None])
        lost = xp.where(known.total == 0, 0.0, -taken * xp.sum(d_out * known.out, axis=-1, keepdims=True))
        sums["sinks"] = summed_to(xp, xp.sum(lost, axis=(-2, -1)), sinks.shape)
        d_out = left * d_out
    scale = backend.full(xp, (), 0.0, q)
    for part in parts if 0 not in of.lead else ():
        rows = part.of(d_out, of.lead, part.rows, EVERY)
        own_d_lse = None if d_lse is None else d_lse[part.of(d_lse, of.lead, part.rows)]
        own = Cotangents(d_out[rows], own_d_lse, None, None, known=State(*(x[rows] for x in known)))
        found = gradients(_problem(of, part), own) if part.lists is None else _of_lists(of, part, part.lists, more)
        for name in sums.keys() - {"sinks"}:
            place = part.of(sums[name], of.lead, *_slices(part, name, sums[name]))
            sums[name][place] = sums[name][place] + getattr(found, name)
        scale = scale + found.scale
    if table is not None:
        sums["bias"] = xp.reshape(sums["bias"], table.shape)
    return AttentionGradients(**dict.fromkeys(AttentionGradients._fields) | sums | {"scale": scale})


def _whole(q, k, v, mask, options) -> Problem:
    """The problem that parts are taken from: its leading axes are those of positions too, which every part's rule asks for."""
    return replace(problem_of(q, k, v, everything() if mask is None else mask, **options), mask=mask)


def _states(of: Problem, parts) -> State:
    """What is known of each query after all parts."""
    xp, rows = of.xp, (*of.lead, of.n)
    found = State(
        *(backend.full(xp, (*rows, w), x, of.q) for w, x in ((of.v.shape[-1], 0.0), (1, -math.inf), (1, 0.0)))
    )
    for part in parts if 0 not in of.lead else ():
        place = part.of(found.out, of.lead, part.rows, EVERY)
        merged = merged_states(xp, State(*(x[place] for x in found)), _state(of, part))
        for all_rows, own in zip(found, merged, strict=True):
            all_rows[place] = own
    return found


def _state(of: Problem, part: Part) -> State:
    """What is known of the queries of a part after it."""
    if part.lists is None:
        return states(_problem(of, part))
    xp = of.xp
    out, lse = attend_lists(**_arguments(of, part), lists=part.lists, return_lse=True)
    total = xp.where(lse == -math.inf, 0.0, lse - lse + 1.0)  # NaN stays NaN
    return State(out, lse[..., None], total[..., None])


def _of_lists(of: Problem, part: Part, lists: Lists, more):
    """The gradients of a part by lists, whose queries are in no other: sinks are theirs, as `more`, cotangents and results, are."""
    given = _arguments(of, part)
    if of.sinks is not None:
        given["sinks"] = of.sinks[part.of(of.sinks, of.lead)]
    own = {name: x if x is None else x[part.of(x, of.lead, *_slices(part, name, x))] for name, x in more.items()}
    return attend_lists_vjp(**own, **given, lists=lists)


def _output(of: Problem, found: State):
    """The output of each query; a sink enters once, after all parts."""
    out = found.out
    if of.sinks is not None:
        out = share_of(of.xp, sink_shares(of.xp, found.peak, found.total, of.sinks[..., None, None])[0], out)
    return undefined_rows(of, EVERY, out, found.total)


def _slices(part, name, x):
    """Those of a part along the last axes of an argument; an axis of 1 of a table stands for all."""
    own = [{"n": part.rows, "m": part.keys, "d": EVERY}[axis] for axis in _AXES[name]]
    one = [name in ("bias", "keep") and size == 1 for size in x.shape[x.ndim - len(own) :]]
    return [EVERY if each else part for each, part in zip(one, own, strict=True)]


def _problem(of: Problem, part: Part) -> Problem:
    """That of a part by a rule, which knows nothing of sinks."""
    given = _arguments(of, part)
    return problem_of(**by_rule(part.rule, given.pop("mask"), part.width, given))


def _arguments(of: Problem, part: Part) -> dict:
    """Those of attention for a part, with what restricts it further as its mask, and without sinks."""

    def cut(x, *core):
        return x[part.of(x, of.lead, *core)]

    def own(function):
        return lambda i, j: cut(function(i, j), EVERY, EVERY)

    given: dict[str, Any] = {name: getattr(of, name) for name in _AXES if hasattr(of, name)}
    for name, x in given.items():
        if x is not None:
            given[name] = own(x) if callable(x) else cut(x, *_slices(part, name, x))
    keep, further = given.pop("keep"), of.mask
    if further is not None and part.head is not None:
        further = with_data(further, lambda x, axes: cut(x, *[EVERY] * axes))
    dropout = None if keep is None else (keep, of.rate)
    return given | {"mask": further, "dropout": dropout, "sinks": None, "scale": of.scale, "softcap": of.softcap}


def of_heads(of: Problem, **given) -> list[tuple[int | None, Any]]:
    """(head, integer) for each head, of one integer for each; (None, integer), which is all heads, of one for all."""
    [(name, x)] = given.items()
    x = backend.integers(of.xp, of.q, **given)
    if x.ndim > 1 or (x.ndim == 1 and x.shape != of.lead[-1:]):
        heads = f"a number for each of {of.lead[-1]} heads" if of.lead else "one number, as there are no heads"
        raise ValueError(f"{name} has shape {tuple(x.shape)}; it must be {heads}")
    return [(None, int(x))] if x.ndim == 0 else [(head, int(x[head])) for head in range(x.shape[0])]


def keys_are_consecutive(of: Problem) -> bool:
    """Whether each key stands one position after the one before."""
    return of.spaced is not None and of.spaced[1] == 1


def at_remainder(of: Problem, remainder, step) -> slice:
    """The keys whose positions leave a remainder modulo a step; keys must be consecutive."""
    first = 0 if of.spaced is None else of.spaced[0]
    return slice(min((remainder - first) % step, of.m), None, step)


def first_of_consecutive(of: Problem) -> int | None:
    """The position of the first query, where queries stand at consecutive positions and keys do; else None."""
    if of.q_spaced is None or not keys_are_consecutive(of):
        return None
    first, step = of.q_spaced
    return first if step == 1 else None


def named_for_heads(of: Problem, part, names) -> list[tuple[int | None, str]]:
    """(head, name) for each head, of a list of names; (None, name), which is all heads, of one name."""
    if isinstance(part, str):
        return [(None, backend.choice("part", part, names))]
    heads = of.lead[-1] if of.lead else None
    if not isinstance(part, list | tuple) or len(part) != heads:
        wanted = "one name" if heads is None else f"a name, or a list of {heads}, one for each head"
        raise ValueError(f"part is {backend.shown(part)}; it must be {wanted}: {', '.join(names)}")
    return [(head, backend.choice("part", name, names)) for head, name in enumerate(part)]


def by_head(*choices) -> Iterator[tuple]:
    """(head, one of each) of what stands for all heads, or for each."""
    heads = max(map(len, choices))
    for row in zip(*(x if len(x) == heads else x * heads for x in choices), strict=False):
        yield next((head for head, _ in row if head is not None), None), *(x for _, x in row)
