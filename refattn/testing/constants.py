"""A number with which a kernel computes whatever was given: found from the result, by trying others on the reference.

Every number among the arguments of a function is searched for alone: epsilon, base, scale, cap, rate, factor. A search
tries values over many powers of ten and those that are usual, then refines the best by Gauss and Newton's method.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

import refattn
from refattn.testing.narrowing import as_attention, few_rows
from refattn.testing.reference import named_arguments, parameters_of
from refattn.testing.variants import Variant, variants
from refattn.testing.vectors import function_named, results

_SLOW = 0.05  # seconds of one evaluation beyond which none is searched for
_ELEMENTS = 2048  # so many elements of a result are looked at
_NEAR = 8.0  # bounds within which a value is worth holding to the bound around itself
_SHARE = 1e-4  # or so much of what the reference is off: other numbers may have far wider bounds
_CLEARLY = 4.0  # and so many times nearer than the reference
_ROUND = 3  # digits of a number that somebody wrote down
_FEW = 4  # elements with which any number could be met
_REACH = 6.0  # powers of ten around what was given
_STEPS = 10  # of a refinement
_ALIKE = 16  # so many ways to say a factor

_USUAL: dict[str, tuple[float, ...]] = {
    "eps": (0.0, 1e-12, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3),
    "base": (1e4, 5e5, 1e6, 1e5, 5e6, 1e7, 500.0, 100.0),
    "scale": (1.0, 0.125, 0.0, -1.0),
    "softcap": (0.0, 50.0, 30.0, 20.0, 15.0, 10.0),
    "rate": (0.0, 0.1, 0.5, 0.2, 0.25, 0.3),
}
_OPTIONAL = ("scale", "softcap")  # numbers that a kernel may use although none was given
_GENERAL = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 0.5)


@dataclass(frozen=True)
class _Number:
    """A number among the arguments of a call: its name, what was given, and how the call is with another."""

    name: str
    given: float | None
    put: Callable[[dict, float | None], dict]


def constants(judged, ratio) -> list[Variant]:
    """Variants that compute with another number than the one that was given, where one explains a result.

    Parameters
    ----------
    judged : Judged
    ratio : array
        How far each element of the result is off, in units of its bound.
    """
    if judged.got.shape != judged.want.shape or not np.issubdtype(judged.got.dtype, np.floating):
        return []
    function = function_named(judged.function)
    arguments = _forward_defaults(judged.function) | _bound(judged.function, judged.args, judged.kwargs)
    rows, found = few_rows(judged, ratio), []
    for number in _numbers(arguments):
        residual = _residual(judged, rows, function, arguments, number)
        if residual is None:
            continue
        value = _solved(number, residual, judged)
        if value is not None:
            found.append(_variant(judged.function, function, number, value))
    return found


# --- a constant in the log-sum-exp ----------------------------------------------------------------------------------


def of_lse(judged) -> list[Variant]:
    """The variant that adds to the log-sum-exp what was added, where that is one constant."""
    known = [v for v in variants(judged.function) if v.name == "lse/constant_added"]
    usable = np.isfinite(judged.got) & np.isfinite(judged.want)
    if judged.result != "lse" or not known or np.sum(usable) < _FEW:
        return []
    off = judged.got[usable] - judged.want[usable]
    constant = float(np.median(off))
    if np.any(np.abs(off - constant) > _NEAR * judged.limit[usable]):
        return []
    attend = function_named(judged.function)

    def call(*args, **kwargs):
        out, lse = attend(*args, **kwargs)
        return out, lse + constant

    arguments = as_attention(judged) or {}
    said = f"{known[0].meaning} The constant is {constant:.6g}{_in_words(constant, arguments)}."
    return [
        dataclasses.replace(
            known[0],
            call=call,
            equal=None,
            meaning=said,
            value=round(constant, 4),
            said=f"the constant is {constant:.4g}",
        )
    ]


def _in_words(constant, arguments) -> str:
    """Which logarithm a constant is, if it is a usual one."""
    q, k = arguments["q"], arguments["k"]
    sizes = {"2": 2.0, "D": q.shape[-1], "N": q.shape[-2], "M": k.shape[-2], "√D": math.sqrt(q.shape[-1])}
    if arguments.get("scale"):
        sizes["scale"] = abs(arguments["scale"])
    if arguments.get("dropout") is not None:
        sizes["(1 - rate)"] = 1.0 - arguments["dropout"][1]
    for name, size in sizes.items():
        for sign, word in ((1.0, ""), (-1.0, "-")):
            if size > 0 and math.isclose(constant, sign * math.log(size), rel_tol=1e-4) and size != 1:
                return f", {word}log {name}"
    return ""


# --- gradients that are a constant times the right ones ----------------------------------------------------------------


def factors(judgements) -> list[Variant]:
    """The variant in which gradients are the right ones times a constant, where each wrong one is.

    A factor has a name where it is one of the call's: a scale that was left out, log 2 of a kernel that computes in base 2,
    the query heads of a group. So it is the same mistake where the call is another.
    """
    function = judgements[0].function
    wrong = [j for j in judgements if j.wrong]
    if not function.endswith("_vjp") or any(j.got.shape != j.want.shape for j in wrong):
        return []
    known = _sizes(_forward_defaults(function) | _bound(function, judgements[0].args, judgements[0].kwargs))
    found: dict[str, list[str | float]] = {}
    for j in wrong:
        factor = _factor(j)
        if factor is None:
            return []
        words: list[str | float] = [word for word, size in known.items() if math.isclose(size, factor, rel_tol=1e-3)]
        found[j.result] = words or [float(f"{factor:.4g}")]
    best, *others = itertools.islice(itertools.product(*found.values()), _ALIKE)
    return [_times(function, dict(zip(found, best, strict=True)), others)]


def _factor(judged) -> float | None:
    """The number by which a result is multiplied, if it is one number for all its elements."""
    usable = np.isfinite(judged.got) & np.isfinite(judged.want) & np.isfinite(judged.limit)
    if not usable.all() or np.sum(np.abs(judged.want) > judged.limit) < _FEW:
        return None
    got, want = judged.got.ravel(), judged.want.ravel()
    factor = float(got @ want / (want @ want))
    near = np.abs(got - factor * want) <= _NEAR * max(1.0, abs(factor)) * judged.limit.ravel()
    return factor if near.all() else None


def _sizes(given) -> dict[str, float]:
    """Numbers of a call that a factor may be."""
    q, k = given.get("q"), given.get("k")
    known = {"-1": -1.0, "0": 0.0, "2": 2.0, "1/2": 0.5, "log 2": math.log(2.0), "1/log 2": 1.0 / math.log(2.0)}
    if q is None or k is None or not q.shape[-1]:
        return known
    root, scale = math.sqrt(q.shape[-1]), given.get("scale")
    scale = 1.0 / root if scale is None else scale
    sizes = {"the scale": scale, "1/scale": 1.0 / scale if scale else math.inf, "√D": root, "1/√D": 1.0 / root}
    if min(q.ndim, k.ndim) > 2 and k.shape[-3]:
        sizes |= {"H/G": q.shape[-3] / k.shape[-3], "G/H": k.shape[-3] / q.shape[-3]}
    return {word: size for word, size in sizes.items() if size != 1.0} | known


def _times(function, factor, others) -> Variant:
    right = function_named(function)

    def call(*args, **kwargs):
        known = _sizes(_forward_defaults(function) | _bound(function, args, kwargs))
        found = dict(results(function, right(*args, **kwargs)))
        for name, by in factor.items():
            if by in known or not isinstance(by, str):
                found[name] = found[name] * known.get(by, by)
        return found

    said = ", ".join(f"that of {name} is {by} times the right one" for name, by in factor.items())
    return Variant(
        name=f"gradient/{'_and_'.join(factor)}_times_constant", clause=_clause(function, "scale"), function=function, call=call,
        meaning=f"A gradient is the right one times a constant: {said}.", value=tuple(factor.values()), others=tuple(others), said=said,
    )  # fmt: skip


# --- the numbers of a call ------------------------------------------------------------------------------------------


def _bound(function, args, kwargs) -> dict:
    """The arguments of a call by name, defaults included."""
    return _defaults(parameters_of(function)) | named_arguments(function, args, kwargs)


def _defaults(parameters) -> dict:
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _forward_defaults(name) -> dict:
    """The defaults of the function of which this one is the gradient, which it hands on what it does not name itself."""
    forward = getattr(refattn, name.removesuffix("_vjp"), None) if name.endswith("_vjp") else None
    parameters = inspect.signature(forward).parameters.values() if forward else ()
    return _defaults(parameters) if any(p.kind is p.VAR_KEYWORD for p in parameters_of(name)) else {}


def _numbers(arguments) -> list[_Number]:
    """Every number among the arguments that another could stand for; sizes and counts are none."""
    found = []
    for name, value in arguments.items():
        put = lambda given, x, name=name: {**given, name: x}
        if name == "dropout" and value is not None:
            rate = lambda given, x: {**given, "dropout": (given["dropout"][0], x)}
            found.append(_Number("dropout rate", float(value[1]), rate))
        elif name in _OPTIONAL and value is None:
            found.append(_Number(name, None, put))
        else:
            found += _inside(name, value, put)
    return found


def _inside(name, value, put) -> list[_Number]:
    """A number, or those among the fields of a scaling or a rotation."""
    if isinstance(value, float | np.floating) or (type(value) is int and name in (*_OPTIONAL, "base", "eps")):
        return [_Number(name, float(value), put)]
    if not hasattr(value, "_fields"):  # all scalings and rotations of the reference are named tuples
        return []
    return [
        number
        for field, inner in value._asdict().items()
        for number in _inside(field, inner, lambda given, x, field=field: put(given, value._replace(**{field: x})))
    ]


# --- the search -----------------------------------------------------------------------------------------------------


def _residual(judged, rows, function, arguments, number) -> Callable[[float | None], np.ndarray] | None:
    """How far some elements are from the reference with another number, in units of their bound; None if that takes
    too long."""
    if rows is not None:
        from refattn.attention import attention

        arguments = {**rows.options, "q": rows.q, "k": rows.k, "v": rows.v, "mask": rows.seen}
        if number.name in ("scale", "softcap"):
            arguments.setdefault(number.name, None)
        function, got, want, limit = attention, rows.got, rows.want, rows.limit
    else:
        got, want, limit = judged.got, judged.want, judged.limit
    usable = np.isfinite(got) & np.isfinite(want) & np.isfinite(limit) & (limit > 0)
    chosen = np.flatnonzero(usable)
    if len(chosen) > _ELEMENTS:
        off = np.abs(got - want).ravel()[chosen]
        worst = chosen[np.argsort(-off, kind="stable")[: _ELEMENTS // 2]]
        chosen = np.union1d(worst, chosen[:: 2 * len(chosen) // _ELEMENTS])
    if not len(chosen):
        return None
    got, limit = got.ravel()[chosen], limit.ravel()[chosen]

    def residual(x: float | None) -> np.ndarray:
        try:
            with np.errstate(all="ignore"):
                value = results(function, function(**number.put(arguments, x)))[judged.result]
        except Exception:  # a number that the reference refuses is none that a kernel computes with
            return np.full(len(chosen), np.inf)
        return np.nan_to_num(
            (np.asarray(value).ravel()[chosen] - got) / limit, nan=np.inf, posinf=np.inf, neginf=np.inf
        )

    start = time.perf_counter()
    residual(number.given)
    return residual if time.perf_counter() - start < _SLOW else None


def _size(r) -> float:
    """One number for how far all is: the mean is led by all elements, the largest by a few."""
    with np.errstate(over="ignore"):
        return float(np.sqrt(np.mean(np.minimum(np.abs(r), 1e100) ** 2)))


def _solved(number, residual, judged) -> float | None:
    """The value of a number with which the reference gives the result; None where no other does."""
    away = float(np.max(np.abs(residual(number.given))))
    tried = {x: _size(residual(x)) for x in _starts(number)}
    found = []
    for x in _lowest(tried):
        x, r = _refined(x, residual)
        off = float(np.max(np.abs(r)))
        if off <= max(_NEAR, _SHARE * min(away, 1e100)) and off * _CLEARLY <= away:
            found.append((off, x))
    if not found:
        return None
    off, x = min(found)
    fits = lambda y: np.max(np.abs(residual(y))) <= max(1.0, 1.5 * off)
    short = next((float(s) for s in _shorter(x) if fits(float(s))), None)
    if number.given is not None and short == number.given:
        return None
    if _says_little(judged) and (short is None or not _written(short) or any(map(fits, _neighbours(short)))):
        return None
    return x if short is None else short


def _written(x) -> bool:
    """Whether a number has so few digits that somebody wrote it down."""
    return x in (float(f"{x:.1e}"), *itertools.chain(*_USUAL.values()))


def _neighbours(x):
    """The numbers of two digits below and above, which must not do as well where a result says little."""
    unit = 10.0 ** (math.floor(math.log10(abs(x))) - 1) if x else 0.01
    return x - unit, x + unit


def _starts(number) -> list[float]:
    usual = _USUAL.get(number.name.rpartition(" ")[2], _GENERAL)
    middle = abs(number.given) if number.given else 1.0
    powers = middle * 10.0 ** np.linspace(-_REACH, _REACH, 25)
    return list(dict.fromkeys([*usual, *map(float, powers), -middle]))


def _lowest(tried) -> list[float]:
    """The best of the values that were tried, and the best that is no neighbour of it."""
    order = sorted(tried, key=tried.get)
    order = [x for x in order if np.isfinite(tried[x])]
    return [*order[:1], *[x for x in order[1:] if not 0.2 < abs(x / (order[0] or 1e-300)) < 5.0][:1]]


def _refined(x, residual):
    """The value from which no step makes all elements nearer, by Gauss and Newton's method on its logarithm."""
    r = residual(x)
    if x == 0.0:
        return x, r
    for _ in range(_STEPS):
        h = 1e-5
        slope = (residual(x * math.exp(h)) - r) / h
        steep = float(slope @ slope)
        if not np.isfinite(steep) or steep == 0.0:
            break
        step = max(-1.5, min(1.5, -float(slope @ r) / steep))
        further = x * math.exp(step)
        other = residual(further)
        while _size(other) >= _size(r) and abs(step) > 1e-12:
            step /= 4.0
            further = x * math.exp(step)
            other = residual(further)
        if _size(other) >= _size(r):
            break
        x, r = further, other
        if abs(step) < 1e-10:
            break
    return x, r


def _shorter(x) -> Iterator[str]:
    """The value with fewer digits, the fewest first."""
    yield from dict.fromkeys(f"{x:.{digits - 1}e}" for digits in range(1, _ROUND + 1))


def _says_little(judged) -> bool:
    """Whether any of several numbers could make the result: it is the right one times a factor, or a few numbers."""
    usable = np.isfinite(judged.got) & np.isfinite(judged.want) & (judged.want != 0)
    got, want, limit = (x[usable] for x in (judged.got, judged.want, judged.limit))
    if got.size < _FEW:
        return True
    factor = float(got @ want / (want @ want))
    return bool(np.all(np.abs(got - factor * want) <= (1.0 + abs(factor)) * limit))


# --- what was found -------------------------------------------------------------------------------------------------


def _variant(name, function, number, value) -> Variant:
    label = number.name.replace(" ", "_")

    def arguments(args, kwargs):
        return number.put(_forward_defaults(name) | _bound(name, args, kwargs), value)

    def call(*args, **kwargs):
        return function(**arguments(args, kwargs))

    given = "none given" if number.given is None else f"given {number.given:.6g}"
    return Variant(
        name=f"{label}/other", clause=_clause(name, number.name), function=name, call=call,
        meaning=f"It computes as if {number.name} were {value:.6g} ({given}).", value=value,
        arguments=arguments, said=f"{number.name} is {value:.6g} whatever is given",
    )  # fmt: skip


def _clause(function, name) -> str:
    """The clause that speaks of a number: one that is called after it, or else the one of which most bugs are known."""
    known = [v.clause for v in variants(function)]
    word = name.partition(" ")[0].upper()
    named = [c for c in known if c.endswith(f"-{word}")]
    return (named or sorted(known, key=known.count, reverse=True) or [""])[0]
