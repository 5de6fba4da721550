"""Which conventions does an unknown implementation follow?

Every decision point is asked with one small directed call. Each of the answers that are known is evaluated, on top of
what has been found before, and the one that the result shows is the finding. A refusal is a finding too.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np

from refattn.masks import Mask
from refattn.testing import adapters, presets
from refattn.testing.adapters.guard import guarded
from refattn.testing.conventions import NOT_ASKED, REFUSES, UNKNOWN, Answer, Point, applied, points
from refattn.testing.conventions.elsewhere import AS_ARGUMENTS
from refattn.testing.mechanisms.masks.variants import holds
from refattn.testing.names import function_named
from refattn.testing.nested import mapped
from refattn.testing.presets.composed import attend
from refattn.testing.profiles import profile
from refattn.testing.reference import required_arguments, to_numpy
from refattn.testing.rounding import round_to
from refattn.testing.variants import NotApplicable, variants
from refattn.testing.vectors import results

LAYOUT = "layout"
_SCALE = 0.25  # given to kernels that have no default; what the default would be for the calls that are made
_GROUPED = ("heads/groups", "heads/values")
_ARRAYS = {"causal/square": "causal", "window/left": "window"}  # where it shows that a kernel wants arrays


@dataclass(frozen=True)
class Finding:
    """What an implementation does at one decision point.

    Attributes
    ----------
    point, title, clause : str
    answer : str
        The name of an answer, 'refuses', 'unknown' (the result is none that is known), or 'not asked' (another
        finding makes the question pointless).
    meaning : str
        The answer in words; for a refusal the error's first line, for 'unknown' what was seen.
    own : bool
        Whether it is the reference's own answer.
    variants : tuple of str
        What the answer changes.
    """

    point: str
    title: str
    clause: str
    answer: str
    meaning: str
    own: bool = False
    variants: tuple[str, ...] = ()


@dataclass(frozen=True)
class Agreement:
    """How far findings agree with a preset; `differ` has (point, found, the preset's)."""

    preset: str
    evidence: str
    agree: int
    asked: int
    differ: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class Identification:
    """Everything found about one function of one implementation."""

    target: str
    version: str
    function: str
    layout: str
    findings: list[Finding] = field(default_factory=list)
    agreements: list[Agreement] = field(default_factory=list)

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants that the findings name."""
        return tuple(dict.fromkeys(v for f in self.findings for v in f.variants))

    def finding(self, point: str) -> Finding:
        """The finding at a point."""
        return next(f for f in self.findings if f.point == point)


def identify(target, function=None, *, precision: str = "float32", layout: str = "auto") -> Identification:
    """Probe an implementation at every decision point.

    Parameters
    ----------
    target : str or callable
        The name of an adapter or a preset, 'module:function', or a function with the reference function's signature,
        of which it may take a part.
    function : str, optional
        The reference function that it implements; default: attention.
    precision : str
        The profile of the function: its inputs come in that format.
    layout : {"auto", "bhnd", "bnhd", "reference"}
        The axes that a function of attention takes; auto tries.

    Returns
    -------
    Identification

    Examples
    --------
    >>> import refattn
    >>> found = identify(refattn.attention)
    >>> found.variants, found.finding("causal/fewer_queries").answer
    ((), 'bottom_right')
    """
    adapter, function, call = _resolved(target, function, precision, layout)
    asked = points(function)
    if not asked:
        raise ValueError(f"function is {function!r}, for which there are no decision points")
    findings = []
    if function == "attention" and isinstance(adapter, adapters.CallableAdapter) and layout == "auto":
        finding, call = _layout(adapter, call)
        findings.append(finding)
        layout = finding.answer
    kernel = _Kernel(adapter, function, call, precision)
    for point in asked:
        findings.append(_found(point, kernel, findings))
    agreements = ranked(findings) if function == "attention" else []
    return Identification(adapter.name, adapter.version, function, layout, findings, agreements)


def _resolved(target, function, precision, layout):
    """The adapter of a target, the function to ask, and the callable itself where the layout is still to be found."""
    if isinstance(target, presets.Preset) or target in presets.names():
        preset = target if isinstance(target, presets.Preset) else presets.get(target)
        adapter: adapters.Adapter = adapters.CallableAdapter(
            preset.kernel, layout="reference", name=f"preset {preset.name}"
        )
        adapter.version = preset.version
        return adapter, "attention", preset.kernel
    given = "reference" if layout == "auto" else layout
    adapter = adapters.adapt(target, function, precision=precision, layout=given)
    function = function or next(iter(adapter.functions))
    if function not in adapter.functions:
        raise ValueError(f"{adapter.name} has no {function}; it has {', '.join(adapter.functions)}")
    return adapter, function, adapter.functions[function]


class _Kernel:
    """An implementation with the state of what was learnt about how to call it."""

    def __init__(self, adapter, function, call: Callable, precision):
        self.calls = {name: guarded(f) for name, f in {**adapter.functions, function: call}.items()}
        self.function = function
        self.profile = profile(precision)
        self.scale: float | None = None  # what is passed where a call has none
        self.as_arrays: set[str] = set()  # rules of masks that it takes as arrays only

    def __call__(self, point: Point, arguments: dict):
        """The result that shows the answer, as float64."""
        function = self.function
        if point.name in _GROUPED:
            function = "grouped_query_attention" if "grouped_query_attention" in self.calls else function
        if self.scale is not None and point.function == "attention" and point.name != "scale/default":
            arguments = {"scale": self.scale, **arguments}
        arguments = self._with_arrays(arguments)
        given = mapped(self._cast, arguments)
        with np.errstate(all="ignore"):
            required = [given.pop(name) for name in required_arguments(function)]  # a stranger may name them otherwise
            got = results(function, self.calls[function](*required, **given))
        if point.result not in got:
            raise adapters.Unsupported(f"it returns no {point.result}")
        return np.asarray(to_numpy(got[point.result]), dtype=np.float64)

    def _with_arrays(self, arguments):
        """The arguments with the mask as an array, if it holds a rule that is taken in no other way."""
        mask = arguments.get("mask")
        if not isinstance(mask, Mask) or not holds(mask, *self.as_arrays):
            return arguments
        dense = mask.dense(arguments["q"].shape[-2], arguments["k"].shape[-2])
        return {**arguments, "mask": dense[None, None] if dense.ndim == 2 else dense}

    def _cast(self, x):
        if not isinstance(x, np.ndarray) or x.dtype.kind != "f":
            return x
        out = self.profile.out
        kind = out.name if out.name in ("float16", "float32", "float64") else "float32"
        return round_to(x, out.name).astype(kind)

    @property
    def tolerance(self):
        """Answers differ by far more than this, of the largest number in the result; rounding by less."""
        return 2.0**-4 if self.profile.name.startswith("float8") else max(2.0**-10, 4 * self.profile.out.u)


def _found(point: Point, kernel: _Kernel, before) -> Finding:
    known = {f.point: f for f in before}
    if reason := point.pointless({name: f.answer for name, f in known.items()}):
        refused = known[reason].answer in (REFUSES, NOT_ASKED, UNKNOWN)
        return _finding(point, NOT_ASKED, f"{known[reason].title}: {'no' if refused else known[reason].meaning}")
    arguments = point.ask()
    if "mask/polarity" in (v for f in before for v in f.variants) and arguments.get("mask") is not None:
        arguments["mask"] = ~arguments["mask"]  # so that the question stays what it is
    try:
        got = kernel(point, arguments)
        how = ""
    except Exception as error:  # whatever a stranger's kernel raises
        retried = _retried(point, kernel, arguments)
        if retried is None:
            return _finding(point, REFUSES, _first_line(error), own=point.own.name == REFUSES)
        got, how = retried
    fits = [(_distance(point, a, got, known, arguments), n) for n, a in enumerate(point.answers) if a.name != REFUSES]
    away, nearest = min(fits)
    if not away <= kernel.tolerance:
        return _finding(point, UNKNOWN, f"saw {_numbers(point.part(got))}")
    answer = point.answers[nearest]
    return _finding(point, answer.name, answer.meaning + how, own=answer is point.own, variants=answer.variants)


def _finding(point, answer, meaning, **more):
    return Finding(point.name, point.title, point.clause, answer, meaning, **more)


def _retried(point, kernel, arguments):
    """The call again with what the kernel may want: a scale, or causality or a window as an array."""
    before = kernel.scale, set(kernel.as_arrays)
    if point.name == "mask/default":
        kernel.scale = _SCALE
    elif point.name in _ARRAYS:
        kernel.as_arrays.add(_ARRAYS[point.name])
    else:
        return None
    try:
        return kernel(point, arguments), " (as an array)" if point.name in _ARRAYS else ""
    except Exception:  # whatever a stranger's kernel raises
        kernel.scale, kernel.as_arrays = before
        return None


def _distance(point: Point, answer: Answer, got, known, arguments) -> float:
    """How far a result is from an answer, in units of the largest number."""
    if answer.shows:
        return 0.0 if answer.shows(point.part(got)) else np.inf
    want = _expected(point, answer, known, arguments)
    return np.inf if want is None else distance(point.part(got), point.part(want))


def _expected(point: Point, answer: Answer, known, arguments):
    """What an answer gives, on top of what has been found; None where the reference refuses or answers do not combine."""
    if answer.rewrite:
        arguments = answer.rewrite(arguments)
    answers = {name: f.answer for name, f in known.items() if name != LAYOUT}
    try:
        if point.function == "attention":
            in_question = {v for a in point.answers for v in a.variants}
            before = [v for v in applied(answers, arguments) if v not in in_question]
            value = attend(_ordered([*answer.variants, *before]), **arguments)
        else:
            value = _other(point.function, answer, known, arguments)
    except (ValueError, TypeError, NotApplicable):
        return None
    return np.asarray(results(point.function, value)[point.result], dtype=np.float64)


def _ordered(named):
    """Variants in the order of the points that they answer."""
    order = [v for p in points() for a in p.answers for v in a.variants]
    return sorted(set(named), key=order.index)


def _other(function, answer, known, arguments):
    """A function with one of its variants; those that were found before are said by arguments."""
    for v in (v for f in known.values() for v in f.variants if v not in answer.variants):
        arguments = {**arguments, **AS_ARGUMENTS.get(v, {})}
    call = function_named(function)
    if answer.variants:
        call = next(v.call for v in variants(function) if v.name == answer.variants[0])
    return call(**arguments)


def distance(got, want) -> float:
    """The largest difference in units of the largest number; infinite where shapes, NaN or infinities differ."""
    if got.shape != want.shape:
        return np.inf
    odd = ~np.isfinite(got) | ~np.isfinite(want)
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    if (odd & ~same).any():
        return np.inf
    size = np.max(np.abs(want[~odd]), initial=1.0)
    return float(np.max(np.abs(got[~odd] - want[~odd]), initial=0.0) / size)


def _turned(call, swap=False):
    """A function on (B, H, N, D), or on (B, N, H, D), that is given nothing but what there is."""

    def turn(x):
        return np.ascontiguousarray(np.swapaxes(x, 1, 2)) if swap else x

    def wrapped(q, k, v, **options):
        given = {name: x for name, x in options.items() if x is not None and x is not False}
        result = call(turn(q), turn(k), turn(v), **given)
        out, *lse = result if isinstance(result, tuple) else (result,)
        out = turn(to_numpy(out))
        return (out, *lse) if lse else out

    return wrapped


def _layout(adapter, call):
    """Which axes a function takes. Queries of zeros see every key alike: the output is the mean over tokens."""
    draw = np.random.default_rng(0)
    k, v = (draw.integers(-2, 3, size=(1, 2, 5, 16)) / 2.0 for _ in range(2))
    arguments = {name: x.astype(np.float32) for name, x in (("q", np.zeros_like(k)), ("k", k), ("v", v))}
    wanted = [attend(names, **arguments) for names in ((), ("causal/assumed",))]
    error = None
    for layout in ("bhnd", "bnhd"):
        turned = _turned(call, swap=layout == "bnhd")
        for more in ({}, {"scale": _SCALE}):
            try:
                got = to_numpy(results("attention", turned(**arguments, **more))["out"]).astype(np.float64)
            except Exception as refusal:  # whatever a stranger's kernel raises
                error = error or refusal
                continue
            if any(distance(got, want) <= 2.0**-4 for want in wanted):
                meaning = {"bhnd": "(B, H, N, D)", "bnhd": "(B, N, H, D)"}[layout]
                return Finding(LAYOUT, "axes", "ATTN-BROADCAST", layout, meaning, own=layout == "bhnd"), turned
    saw = f"refused: {_first_line(error)}" if error else "neither order of axes gives the mean over tokens"
    return Finding(LAYOUT, "axes", "ATTN-BROADCAST", UNKNOWN, saw), _turned(call)


def _first_line(error):
    """What an error says, on one line; a feature that is missing needs no name of an exception."""
    if isinstance(error, presets.Refused):
        return error.note or "no such call"
    if isinstance(error, adapters.Unsupported):
        return " ".join(str(error).split())
    first = (str(error).strip().splitlines() or [""])[0]
    return textwrap.shorten(f"{type(error).__name__}: {first}", 160, placeholder=" ...")


def _numbers(x):
    flat = np.ravel(x)
    return " ".join(f"{value:.4g}" for value in flat[:6]) + (" ..." if flat.size > 6 else "") + f", shape {x.shape}"


# --- agreement ------------------------------------------------------------------------------------------------------


def ranked(findings) -> list[Agreement]:
    """The presets by how far the findings agree with them, the nearest first."""
    found = [_agreement(presets.get(name), findings) for name in presets.names()]
    return sorted(found, key=lambda a: (len(a.differ), -a.agree))


def _agreement(preset, findings):
    agree, differ = 0, []
    for f in findings:
        theirs = preset.layout if f.point == LAYOUT else preset.answers[f.point]
        if {NOT_ASKED, UNKNOWN} & {f.answer, theirs}:
            continue
        if f.answer == theirs:
            agree += 1
        else:
            differ.append((f.point, f.answer, theirs))
    return Agreement(preset.name, preset.evidence, agree, agree + len(differ), tuple(differ))


# --- shown ----------------------------------------------------------------------------------------------------------


def as_json(found: Identification) -> str:
    """The identification for programs."""
    return json.dumps({**asdict(found), "variants": found.variants}, indent=2, ensure_ascii=False)


def as_text(found: Identification, width: int = 118) -> str:
    """The identification for people: a line for every decision point, then the presets that it agrees with."""
    lines = [f"{found.target} {found.version}".rstrip() + f": {found.function}", ""]
    title = min(max(len(f.title) for f in found.findings), 52)
    asked = [f for f in found.findings if f.answer != NOT_ASKED]
    for f in asked:
        mark = {REFUSES: "-", UNKNOWN: "?"}.get(f.answer, " " if f.own else "*")
        said = f"refused: {f.meaning}" if f.answer == REFUSES and not f.own else f.meaning
        said = f"unknown: {said}" if f.answer == UNKNOWN else said
        named = f"  {', '.join(f.variants)} ({f.clause})" if f.variants else ""
        room = width - title - 5
        said = textwrap.shorten(said, max(room - len(named), 40), placeholder=" ...")
        lines.append(f" {mark} {f.title:<{title}}  {said}{named}".rstrip())
    lines += [
        "",
        "   as the reference   * another convention, by its variant and clause   - refused   ? none that is known",
    ]
    if left := [f.point for f in found.findings if f.answer == NOT_ASKED]:
        lines += textwrap.wrap(f"not asked, because it lacks what they need: {', '.join(left)}", width)
    if found.agreements:
        lines += ["", *_nearest(found.agreements)]
    return "\n".join(lines)


_SHOWN = 5


def _nearest(agreements):
    """The presets that agree best, and where they differ."""
    first = agreements[0]
    alike = [a for a in agreements if not a.differ and a.asked == first.asked]
    if len(alike) > 1:
        yield f"agrees with {' and '.join(a.preset for a in alike)}, which these questions do not tell apart"
    elif alike:
        yield f"agrees with {first.preset}"
    else:
        yield f"agrees with no preset in everything; the nearest is {first.preset}"
    yield ""
    name = max(len(a.preset) for a in agreements[:_SHOWN])
    for a in agreements[:_SHOWN]:
        points = ", ".join(point for point, _, _ in a.differ[:4]) + (" ..." if len(a.differ) > 4 else "")
        line = f"  {a.preset:<{name}}  {a.evidence:<8}  {a.agree:>2} of {a.asked:>2} points"
        yield line + (f"; not {points}" if points else "")
