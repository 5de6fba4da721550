"""replay: one case again, by its id, in full; saved for another program, or shrunk to the smallest that still fails."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from refattn.masks import Mask
from refattn.testing import expressions
from refattn.testing.adapters import Adapter
from refattn.testing.bounds import bound
from refattn.testing.checking import EFFORTS, CheckCase, Result, all_cases, run_case, smallest
from refattn.testing.nested import paths
from refattn.testing.profiles import profile
from refattn.testing.reference import oracle
from refattn.testing.vectors import results

# What the last axes of an argument of attention are, so that one axis is cut in all arguments together.
_AXES = {
    "q": "ND", "k": "MD", "v": "MV", "mask": "NM", "bias": "NM", "q_positions": "N", "k_positions": "M",
    "d_out": "NV", "d_lse": "N", "gamma": "F", "beta": "F",
}  # fmt: skip
_REQUIRED = ("q", "k", "v", "x", "d_out", "gamma", "out_a", "out_b", "lse_a", "lse_b")
_LEADING = 4  # more leading axes than this no case has


def find(adapter: Adapter, case_id: str, effort: str = "standard", seed: int = 0) -> CheckCase:
    """The case of that id for an adapter.

    Raises
    ------
    LookupError
        There is none; the text names the nearest.
    """
    known = []
    for case in all_cases(adapter, None, effort, seed):  # those inside the limits last: a kernel must be asked for them
        if case.id == case_id:
            return case
        known.append(case.id)
    for other in EFFORTS:
        if other != effort and any(case.id == case_id for case in all_cases(adapter, None, other, seed)):
            raise LookupError(f"{case_id} is a case of effort {other}, not of {effort}; add --effort {other}")
    near = difflib.get_close_matches(case_id, known, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else f"its functions are {', '.join(adapter.functions)}"
    raise LookupError(f"{adapter.name} has no case {case_id!r}; {hint}")


def described(adapter: Adapter, result: Result) -> str:
    """A case and its verdict in full."""
    case = result.case
    lines = [f"{case.id} on {adapter.name} {adapter.version}".rstrip(), f"  clauses: {', '.join(case.clauses)}"]
    if case.comment:
        lines.append(f"  {case.comment}")
    lines.append(f"  {case.function} is called with")
    for name, value in case.arguments.items():
        lines.append(f"    {name:<12} {_value(value, case.dtype)}")
    status = {"holds": "HOLDS", "broken": "BROKEN", "unsupported": "NOT SUPPORTED", "unjudged": "COULD NOT BE JUDGED"}[
        result.status
    ]
    lines += ["", f"{status}{f': {result.deviation} (clause {result.clause})' if result.deviation else ''}"]
    lines += [f"  {line}" for line in (result.message or result.reason).splitlines()]
    if result.status == "holds":
        lines += [f"  {comparison}" for comparison in result.comparisons]
        lines += [f"  It is refused, as it must be: {result.raised}"] if case.refuses else []
    if result.stages:
        lines += ["", f"  {'stage':<10}{'error / bound':>14}"]
        first = next((s.name for s in result.stages if not s.ok), None)
        for s in result.stages:
            mark = "  <- the first to leave the path" if s.name == first else ""
            lines.append(f"  {s.name:<10}{s.error:>14.3g}  {s.note}{mark}".rstrip())
    return "\n".join(lines)


def _value(x, dtype):
    if isinstance(x, np.ndarray):
        kind = dtype if x.dtype.kind == "f" else x.dtype.name
        strides = "" if x.flags.c_contiguous else ", not contiguous"
        finite = x[np.isfinite(x)] if x.dtype.kind == "f" else x
        span = f", {finite.min():.4g} to {finite.max():.4g}" if finite.size and x.dtype.kind != "b" else ""
        odd = f", {x.size - finite.size} not finite" if finite.size < x.size else ""
        return f"{kind} {x.shape}{span}{odd}{strides}"
    return repr(x) if not isinstance(x, tuple) else f"{type(x).__name__} of {len(x)}"


def save(path: str, adapter: Adapter, case: CheckCase) -> None:
    """Write the inputs, the expected results and their bounds as a NumPy archive.

    Arrays are float64 that hold the inputs exactly: input.q, want.out, bound.out, ...; a rule as the dense mask.
    """
    contents: dict = {"id": case.id, "function": case.function, "dtype": case.dtype}
    for name, value in case.arguments.items():
        if isinstance(value, Mask):
            contents[f"input.{name}"] = _dense(case.arguments)
            contents[f"input.{name}.rule"] = repr(value)
        elif isinstance(value, tuple):
            contents |= {f"input.{path}": x for path, x in paths(value, name) if x is not None}
        elif value is not None:
            contents[f"input.{name}"] = value
    if not case.refuses:
        with np.errstate(all="ignore"):
            limits = bound(case.function, profile(adapter.profile(case.function, case.dtype)), **case.arguments)
        for name, limit in limits.items():
            contents |= {f"want.{name}": limit.value, f"bound.{name}": np.broadcast_to(limit.hard, limit.value.shape)}
    with open(path, "wb") as file:  # an open file, so that no ending is added to the name
        np.savez(file, **contents)


def _dense(arguments):
    places = {name: arguments.get(name) for name in ("q_positions", "k_positions")}
    q, k = (next(arguments[n] for n in names if n in arguments) for names in (("q", "x_q"), ("k", "x_kv", "x_q")))
    return arguments["mask"].dense(q.shape[-2], k.shape[-2], **places)


def minimized(adapter: Adapter, result: Result, budget: int = 400) -> Result:
    """The smallest case found that still fails in the same way; at most `budget` trials.

    Options are dropped, axes are cut (leading ones, queries, keys, features), numbers are made round, as long as the
    reference accepts the call and the implementation deviates from it by the same name.
    """
    case = result.case
    if result.status != "broken" or case.refuses or case.relation:
        return result
    best, trials, tried = result, 0, True
    while tried and trials < budget:
        tried = False
        for arguments in _smaller(best.case.arguments):
            trials += 1
            found = _still(adapter, best, arguments)
            if found is not None:
                best, tried = found, True
                break
            if trials >= budget:
                break
    return best


def told_minimal(adapter: Adapter, result: Result, target: str, options: dict) -> str:
    """The smallest case that fails so, as a program; or why there is none."""
    if result.case.relation:
        return "A case of self-consistency is as small as it is; it cannot be minimized."
    if result.case.refuses:
        return "What must be refused is as small as it is; it cannot be minimized."
    least = minimized(adapter, result)
    size = f"{least.case.size:,} numbers instead of {result.case.size:,}"
    head = f"# the smallest case found that fails so: {size} ({smallest(least.case)})"
    return "\n".join(
        [head, *(f"# {line}" for line in least.message.splitlines()[:1]), snippet(adapter, least.case, target, options)]
    )


def _still(adapter, best, arguments):
    case = replace(best.case, arguments=arguments)
    try:
        with np.errstate(all="ignore"):
            wanted = results(case.function, oracle(case.function, **arguments))
        found = run_case(adapter, case)
    except Exception:  # no case of the specification
        return None
    same = found.status == "broken" and (found.deviation, found.clause) == (best.deviation, best.clause)
    return found if same and all(np.size(x) for x in wanted.values()) else None


def _smaller(arguments) -> Iterator[dict]:
    """Smaller versions of arguments, the boldest first."""
    for name, value in arguments.items():
        if name not in _REQUIRED and value is not None:
            yield {key: x for key, x in arguments.items() if key != name}
    for letter in [*range(_LEADING), "N", "M", "D", "V", "F"]:
        size = max((x.shape[axis] for _, x, axis in _having(arguments, letter)), default=0)
        for kept in _cuts(size):
            yield _cut(arguments, letter, size, kept)
    for axis in range(_LEADING):  # leading axes of length 1 go
        given = {name: _squeezed(name, x) for name, x in arguments.items()}
        if axis == 0 and any(a is not b for a, b in zip(given.values(), arguments.values(), strict=True)):
            yield given
    for digits in (0, 1):
        rounded = {name: _round(x, digits) for name, x in arguments.items()}
        if any(a is not b for a, b in zip(rounded.values(), arguments.values(), strict=True)):
            yield rounded


def _cuts(size):
    """Parts of an axis to keep: halves, then all but one at either end."""
    if size < 2:
        return
    half = size // 2
    seen = set()
    for kept in (slice(0, half), slice(half, size), slice(0, size - 1), slice(1, size)):
        if (kept.start, kept.stop) not in seen:
            seen.add((kept.start, kept.stop))
            yield kept


def _own(name, x):
    """How many of an array's last axes have a meaning of their own; a plain x has its last."""
    return len(_AXES[name]) if name in _AXES else 0 if name == "sinks" else min(1, x.ndim)


def _having(arguments, letter):
    """(name, array, axis) of the arrays with an axis: a letter, or the number of a leading axis from the right."""
    for name, x in arguments.items():
        if not isinstance(x, np.ndarray) or not x.ndim:
            continue
        if isinstance(letter, int):
            axis = x.ndim - _own(name, x) - 1 - letter
            if axis >= 0:
                yield name, x, axis
        elif letter in _AXES.get(name, "F" if name == "x" else ""):
            axis = x.ndim - _own(name, x) + _AXES.get(name, "F").index(letter)
            if axis >= 0:
                yield name, x, axis


def _cut(arguments, letter, size, kept):
    changed = dict(arguments)
    for name, x, axis in _having(arguments, letter):
        if x.shape[axis] == size:
            changed[name] = x[(slice(None),) * axis + (kept,)]
    return changed


def _squeezed(name, x):
    if not isinstance(x, np.ndarray):
        return x
    own = _own(name, x)
    while x.ndim > own and x.ndim > 1 and x.shape[0] == 1:
        x = x[0]
    return x


def _round(x, digits):
    if not (isinstance(x, np.ndarray) and x.dtype.kind == "f"):
        return x
    step = 2.0 ** (3 * digits)  # whole numbers, then eighths
    rounded = np.round(x * step) / step
    return x if np.array_equal(rounded, x, equal_nan=True) else rounded


def snippet(adapter: Adapter, case: CheckCase, target: str, options: dict) -> str:
    """A case as a Python program that runs by itself and fails as the case does."""
    given = "".join(f", {name}={value!r}" for name, value in options.items() if value is not None)
    dtype = case.dtype if case.dtype in ("float64", "float32", "float16") else "float32"
    modules = {type(x).__module__ for x in case.arguments.values() if hasattr(x, "_fields")}
    lines = [
        "import numpy as np",
        *(f"import {module}" for module in sorted({"refattn", *modules})),
        "from refattn import masks",
        "from refattn.testing import adapters, assert_matches",
        "",
        "nan, inf = np.nan, np.inf",
        f"target = adapters.get({target!r}{given})",
        "arguments = {",
        *(f'    "{name}": {_source(name, value, case.arguments, dtype)},' for name, value in case.arguments.items()),
        "}",
        f"got = target.call({case.function!r}, {case.dtype!r})(**arguments)",
        f"precision = target.profile({case.function!r}, {case.dtype!r})",
        f"assert_matches(got, {case.function!r}, precision=precision, tier='hard', **arguments)",
    ]
    return "\n".join(lines)


def _source(name, value, arguments, dtype):
    if isinstance(value, Mask):
        text = re.sub(r"\b([a-z_]+)\(", r"masks.\1(", repr(value))
        try:
            again = expressions.parse(text)
            if np.array_equal(_dense({**arguments, "mask": again}), _dense(arguments)):
                return text
        except ValueError:  # its data are too many to print, or it is no expression: the dense form says the same
            pass
        value = _dense(arguments)
    if isinstance(value, np.ndarray):
        kind = dtype if value.dtype.kind == "f" else value.dtype.name
        if not value.size:
            return f"np.zeros({value.shape}, dtype={kind!r})"
        return f"np.array({value.tolist()!r}, dtype={kind!r})"
    if hasattr(value, "_fields"):
        inner = ", ".join(_source(name, x, arguments, dtype) for x in value)
        return f"refattn.{type(value).__module__.split('.', 1)[1]}.{type(value).__name__}({inner})"
    if isinstance(value, tuple):
        return "(" + "".join(f"{_source(name, x, arguments, dtype)}, " for x in value) + ")"
    return repr(value)
