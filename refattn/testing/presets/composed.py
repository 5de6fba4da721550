"""Several variants of attention at once.

A variant of attention changes the arguments that it evaluates, or replaces a step of the evaluation, or both. Changes
of arguments follow one another. Different steps are replaced side by side; a change of what comes out at the end
follows another; two replacements of one step do not combine, unless one variant is both of them (`_BOTH`).
"""

from __future__ import annotations

from functools import cache

import numpy as np

from refattn.attention import mixed
from refattn.masks import Mask
from refattn.testing.mechanisms.attention.variants import STEPS, evaluate, recorded
from refattn.testing.steps import together
from refattn.testing.variants import VARIANTS, NotApplicable, variants

# Pairs that replace one step, and the variant that is both.
_BOTH = {frozenset(("empty_row/mean", "mask/adds")): "fill/lowest_added"}


class Uncombinable(ValueError):
    """Two variants replace the same step, or one does more than to evaluate attention with changes."""


def attend(names, q, k, v, mask=None, *, return_lse=False, **options):
    """Attention, grouped-query attention too, as the named variants have it.

    Parameters
    ----------
    names : sequence of str
        Variants of attention or grouped-query attention, in the order in which they are applied. One that the
        arguments do not exercise changes nothing.
    q, k, v, mask, return_lse, **options
        As for `refattn.grouped_query_attention`, in float64. k and v may have different numbers of heads.

    Returns
    -------
    out, or (out, lse)

    Raises
    ------
    Uncombinable
        Two of the variants cannot act at once.
    """
    k, v = _repeated(q, k, v, "gqa/tiled" in names)
    args, options = (q, k, v, mask), {**options, "return_lse": return_lse}
    steps: dict = {}
    owner: dict = {}
    for name in _merged(names):
        try:
            args, options = recorded(_only_evaluating(name), *args, **options)
        except NotApplicable:
            continue
        more = {step: options.pop(step) for step in sorted(STEPS & options.keys())}
        if "mixed" in steps:  # there is one other way to mix: 0 times NaN
            more.pop("mixed", None)
        if "finish" in steps and "finish" in more:
            more["finish"] = _after(steps.pop("finish"), more["finish"])
        try:
            steps = together(steps, more)
        except ValueError as step:
            raise Uncombinable(f"{owner[str(step)]} and {name} both change {str(step)!r}") from None
        owner |= dict.fromkeys(more, name)
    return evaluate(*args, **options, **({"mixed": mixed} | steps))


def _merged(names):
    """The names without 'gqa/tiled', which is done before them, and with pairs that are one variant replaced by it."""
    merged = [name for name in dict.fromkeys(names) if name != "gqa/tiled"]
    for pair, both in _BOTH.items():
        if pair <= set(merged):
            merged = [both if name == min(pair) else name for name in merged if name != max(pair)]
    return merged


@cache
def _calls():
    """The variants of attention by name; a change of rules leaves rules, so that another can follow it."""
    changes = {v.name: v.call.__wrapped__ for v in variants("Mask.dense") if hasattr(v.call, "__wrapped__")}
    found = {v.name: v.call for v in variants("attention")}
    own = {name for name, function in VARIANTS if function == "attention"}
    return found | {name: _of_rules(change) for name, change in changes.items() if name not in own}


def _of_rules(change):
    def call(q, k, v, mask=None, **options):
        if not isinstance(mask, Mask):
            raise NotApplicable
        return evaluate(q, k, v, change(mask), **options)

    return call


def _only_evaluating(name):
    """The variant's call, which must end in an evaluation: what it would do with the result would be lost."""

    def call(*args, **options):
        _calls()[name](*args, **options)
        raise Uncombinable(f"{name} does more than to evaluate attention otherwise")

    return call


def _repeated(q, k, v, tiled):
    """Keys and values with as many heads as the queries."""
    if q.ndim < 3:
        return k, v
    heads = q.shape[-3]

    def repeated(x):
        if x.ndim < 3 or x.shape[-3] in (1, heads) or heads % x.shape[-3]:
            return x
        read = np.arange(heads) % x.shape[-3] if tiled else np.arange(heads) // (heads // x.shape[-3])
        return np.take(x, read, axis=-3)

    return repeated(k), repeated(v)


def _after(first, second):
    """Two changes of what is returned, one after the other."""
    return lambda out, lse, *stages: second(*first(out, lse, *stages), *stages)
