"""Cases at the sizes that an implementation takes, where it refuses some of those that it is asked for."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np

from refattn.masks import causal
from refattn.testing import consistency, limits
from refattn.testing.adapters import Adapter, Unsupported
from refattn.testing.adapters.guard import guarded
from refattn.testing.fitted import fitted, holds_poison
from refattn.testing.foothold import Asked, options_of, survey
from refattn.testing.layouts import cast
from refattn.testing.nested import arrays, mapped
from refattn.testing.outcome import CheckCase
from refattn.testing.rounding import round_to
from refattn.testing.stated import Stated, foreign, parse, statements
from refattn.testing.within import contradiction

_MASKS, _MASK = 6, 40  # so many masks get harder cases; characters by which one is told from another


class Inside(NamedTuple):
    """What an implementation takes, in words, by function; and the cases that were made there."""

    limits: dict[str, str]
    cases: list[CheckCase]


def call_of(adapter: Adapter, function: str, dtype: str) -> Callable:
    """An implementation of a function, which is not called beyond the limits that are stated for it."""
    call, stated = guarded(adapter.call(function, dtype)), stated_of(adapter, function)
    if stated is None:
        return call

    def limited(**arguments):
        if beyond := stated.beyond(arguments):
            raise Unsupported(f"beyond its stated limits: {beyond}")
        return call(**arguments)

    return limited


def stating(adapter: Adapter, text: str) -> Adapter:
    """An adapter that states these limits, and no others; ValueError where they are no limits of its functions."""
    found = copy.copy(adapter)
    found.limits = text
    statements(text)
    for function in adapter.functions:
        stated_of(found, function)
    return found


def stated_of(adapter: Adapter, function: str) -> Stated | None:
    """The limits that an adapter states for a function; None where it states none.

    Raises
    ------
    TypeError, ValueError
        They are no statements, or are about something that the function has not.
    """
    given = adapter.limits
    if callable(given):
        given = {function: given(function)}
    if isinstance(given, dict):
        if unknown := sorted(set(given) - set(adapter.functions)):
            raise ValueError(f"limits has {unknown[0]!r}; it must be one of {', '.join(adapter.functions)}")
        text = given.get(function)
        return _possible(parse(text, function)) if text else None
    if not given:
        return None
    # one text for all functions: each statement is about those that have what it names
    why = {s.text: [foreign(s, each) for each in adapter.functions] for s in statements(given)}
    if wrong := next((said for said in why.values() if all(said)), None):
        raise ValueError(wrong[0])
    kept = tuple(s for s in statements(given) if not foreign(s, function))
    return _possible(Stated(function, kept)) if kept else None


def _possible(stated: Stated) -> Stated:
    """Limits that some call meets; ValueError where none does."""
    if why := _why_not(str(stated), stated.function):
        raise ValueError(f"limits has {why}; some call of {stated.function} must meet them")
    return stated


@cache
def _why_not(text: str, function: str) -> str:
    return contradiction(parse(text, function))


def takes(call: Callable, case: CheckCase) -> bool:
    """Whether an implementation takes a case, or what is left of it without a result that it does not return."""
    try:
        with np.errstate(all="ignore"):
            call(**cast(case.arguments, case.dtype))
    except Unsupported:
        less = without_lse(case)
        return less is not None and takes(call, less)
    except Exception:  # whether it is a fault, too, is for `check` to say
        return False
    return True


def without_lse(case: CheckCase) -> CheckCase | None:
    """A case that does not ask for the log-sum-exp; None where nothing would be left of it."""
    clauses = tuple(clause for clause in case.clauses if clause != "ATTN-LSE")
    if not case.arguments.get("return_lse") or not clauses:
        return None
    rest = {name: value for name, value in case.arguments.items() if name != "return_lse"}
    return replace(case, clauses=clauses, arguments=rest)


def inside(
    adapter: Adapter, function: str, dtype: str, cases: list[CheckCase], seed: int, known: Mapping[str, bool]
) -> Inside:
    """Cases of one function and dtype where an implementation has limits; none where it has none.

    Parameters
    ----------
    adapter : Adapter
    function, dtype : str
    cases : list of CheckCase
        Those that there are whatever an implementation takes.
    seed : int
    known : dict
        Whether a case was taken, by id, of those that were run; the implementation is not asked again for these.
    """
    found = Inside({}, [])
    call, stated = call_of(adapter, function, dtype), stated_of(adapter, function)
    if stated is None and not adapter.asked:
        return found
    plain = [c for c in cases if (c.function, c.dtype) == (function, dtype) and not c.refuses and not c.relation]
    is_taken = [known[c.id] if c.id in known else takes(call, c) for c in plain]
    refused = [c for c, yes in zip(plain, is_taken, strict=True) if not yes]
    if not refused:
        return found
    asked = Asked(lambda **arguments: call(**cast(arguments, dtype)), stated)
    taken = [c.arguments for c, yes in zip(plain, is_taken, strict=True) if yes]
    at = survey(asked, function, [c.arguments for c in refused], taken)
    if at is None and not taken and adapter.other_axes(True):  # who refuses four axes may take two or three
        call = call_of(adapter, function, dtype)
        at = survey(asked, function, [c.arguments for c in refused])
        if at is None:
            adapter.other_axes(False)
    if at is None or (stated is None and _free(asked, function, at, refused)):
        return found
    named = [(c.id.removeprefix(f"{function}.").removesuffix(f".{dtype}"), c.clauses, c.arguments) for c in refused]
    for name, clauses, arguments in fitted(asked, function, at, named, seed):
        found.cases.append(CheckCase(f"{function}.{name}.{dtype}", function, clauses, dtype, arguments))
    masked = [c for c, yes in zip(plain, is_taken, strict=True) if yes and c.arguments.get("mask") is not None]
    found.cases.extend(_harder(function, dtype, [*found.cases, *masked]))
    if function == "attention":
        found.cases.extend(_drawn(function, dtype, limits.pairs(asked, at), seed))
    if found.cases:
        found.limits[function] = f"{at} (asked in {asked.calls} calls)" if stated is None else f"{stated} (stated)"
    return found


def _free(asked, function, at, refused) -> bool:
    """Whether a kernel takes every size and mask, and needs no option: what it refuses are options, and it has no limits."""
    return at.free and _any_mask(asked, at) and _any_record(asked, function, refused)


def _any_mask(asked, at) -> bool:
    """Whether a kernel takes masks that are arrays, or has none: where it takes any size, too, it refuses only options."""
    if not {"N", "M"} <= at.sizes.keys():
        return True
    return asked.has({**at.arguments, "mask": np.ones((at.sizes["N"], at.sizes["M"]), bool)})


def _any_record(asked, function, refused) -> bool:
    """Whether a kernel takes what was refused without its options, or only its records hold nothing it could refuse."""
    options = options_of(function)
    bare = ({name: x for name, x in c.arguments.items() if name not in options} for c in refused)
    return all(asked.has(some) for some in bare if any("." in path for path, _ in arrays(some)))


def _harder(function, dtype, cases) -> list[CheckCase]:
    """One case of each mask again with scores far from 0, and asked what the last key holds that a causal mask hides."""
    found, of_mask = [], dict[str, CheckCase]()
    for case in cases:
        given = case.arguments
        sized = all(np.ndim(given.get(name)) > 1 and min(given[name].shape[-2:]) > 0 for name in ("q", "k"))
        if sized and "d_out" not in given and not holds_poison(given):
            of_mask.setdefault(repr(given.get("mask"))[:_MASK], case)
    for case in itertools.islice(of_mask.values(), _MASKS):
        given = case.arguments
        for level in limits.LEVELS:
            high = {**given, **limits.rising(given["q"], given["k"], level, given.get("scale"))}
            if held := _held(high, dtype):
                name = case.id.removeprefix(f"{function}.").removeprefix("inside_")
                id_ = f"{function}.inside_level_{level:g}_{name}"
                found.append(CheckCase(id_, function, case.clauses, dtype, held))
        if function != "attention" and "v" in given:  # attention is asked at each of its sizes
            found += _future(case)
    return found


def _future(case) -> list[CheckCase]:
    """What the last key holds asked about, where a causal mask hides it from some rows."""
    given = case.arguments
    n, m = (given[name].shape[-2] for name in ("q", "k"))
    if repr(given.get("mask")) != repr(causal()) or not 1 < n <= m:
        return []
    id_ = case.id.replace(".inside", ".inside_future", 1)
    return [consistency.related("future", id_, case.function, case.dtype, given)]


def _held(arguments, dtype) -> dict | None:
    """Arguments in the numbers of a format; None where it does not hold some, such as large scores."""
    with np.errstate(over="ignore"):
        real = lambda x: isinstance(x, np.ndarray) and x.dtype.kind == "f"
        held = mapped(lambda x: round_to(x, dtype) if real(x) else x, arguments)
    return None if holds_poison(held) else held


def _drawn(function, dtype, taken, seed) -> Iterator[CheckCase]:
    for name, arguments in limits.drawn(taken, seed):
        held = _held(arguments, dtype)
        if held is None:
            continue
        case = CheckCase(f"{function}.{name}.{dtype}", function, ("ATTN-OUT",), dtype, held)
        yield case
        if "level" not in name:
            yield from _future(case)
