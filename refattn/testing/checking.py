"""check: golden vectors, properties and directed cases against any implementation, reported by clause."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from refattn.masks import Mask
from refattn.testing import vectors
from refattn.testing.adapters import Adapter, Failed, Unsupported
from refattn.testing.allow import Allowance
from refattn.testing.layouts import in_dtype
from refattn.testing.matches import SMALL_VALUES, Comparison, compare
from refattn.testing.recipes import recipes
from refattn.testing.reference import to_numpy
from refattn.testing.rounding import round_to
from refattn.testing.vectors import function_named, results

EFFORTS = ("smoke", "standard", "full")
STATUSES = ("holds", "broken", "known", "unsupported")


def mechanism_of(function: str) -> str:
    """The mechanism to which a reference function belongs: the module that it lives in."""
    parts = function_named(function).__module__.split(".")[1:]
    known = vectors.mechanisms()
    return next((name for n in range(len(parts), 0, -1) if (name := "/".join(parts[:n])) in known), parts[0])


@dataclass(frozen=True)
class CheckCase:
    """One call that an implementation must answer as the reference does."""

    id: str
    function: str
    clauses: tuple[str, ...]
    dtype: str
    arguments: dict
    refuses: bool = False
    comment: str = ""


@dataclass(frozen=True)
class Result:
    """What came of one case.

    Attributes
    ----------
    case : CheckCase
    status : {"holds", "broken", "known", "unsupported"}
        known: it deviates as an allow-list says.
    deviation : str
        What is different: a variant's name, 'refuses valid input', 'accepts wrong input', 'not deterministic', ...
    clause : str
        The clause that is broken.
    message : str
        For people.
    reason : str
        Why it is allowed, or what is not supported.
    """

    case: CheckCase
    status: str
    deviation: str = ""
    clause: str = ""
    message: str = ""
    reason: str = ""
    comparisons: tuple[Comparison, ...] = ()


@dataclass
class Report:
    """What an implementation does, case by case; `refattn.testing.reports` writes it as text, JSON and JUnit XML."""

    target: str
    version: str
    effort: str
    seed: int
    environment: dict
    results: list[Result] = field(default_factory=list)
    stale: list[Allowance] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, status: str) -> int:
        """How many cases have a status."""
        return sum(result.status == status for result in self.results)

    @property
    def ok(self) -> bool:
        """Whether nothing is broken but what an allow-list knows, and something was checked at all."""
        return self.count("broken") == 0 and self.count("holds") + self.count("known") > 0

    def by_clause(self) -> dict[str, dict[str, int]]:
        """Clause -> status -> number of cases. A failure counts against the clause that it breaks."""
        table: dict[str, dict[str, int]] = {}
        for result in self.results:
            for clause in (result.clause,) if result.clause else result.case.clauses:
                row = table.setdefault(clause, dict.fromkeys(STATUSES, 0))
                row[result.status] += 1
        return dict(sorted(table.items()))

    def deviations(self, *statuses: str) -> dict[tuple[str, str], list[Result]]:
        """(function, deviation) -> its results, for one status, 'broken' or 'known', or for both."""
        found: dict[tuple[str, str], list[Result]] = {}
        for result in self.results:
            if result.status in (statuses or ("broken", "known")):
                found.setdefault((result.case.function, result.deviation), []).append(result)
        return dict(sorted(found.items()))


def check(
    target,
    function: str | None = None,
    *,
    mechanism: str | None = None,
    precision: str | None = None,
    layout: str = "bhnd",
    effort: str = "standard",
    seed: int = 0,
    only: str = "*",
    allow: list[Allowance] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Check an implementation against the specification.

    Parameters
    ----------
    target : Adapter, callable or str
        An adapter, the name of one, 'module:function', or a callable with the reference function's signature.
    function : str, optional
        Which reference function a plain callable implements; default 'attention'.
    mechanism : str, optional
        Check only the functions of this mechanism.
    precision : str, optional
        The precision profile of a plain callable, and the dtype of its inputs; default float32.
    layout : {"bhnd", "bnhd"}
        How a plain callable wants its axes.
    effort : {"smoke", "standard", "full"}
        How many cases.
    seed : int
        For the random cases.
    only : str
        A pattern of case ids.
    allow : list of Allowance, optional
        Deviations that are known.
    progress : callable, optional
        Called with the number of cases done and in all.

    Returns
    -------
    Report

    Examples
    --------
    >>> import refattn
    >>> check(refattn.attention, effort="smoke").ok
    True
    """
    from refattn.testing import adapters

    if effort not in EFFORTS:
        raise ValueError(f"effort is {effort!r}; it must be one of {', '.join(EFFORTS)}")
    adapter = adapters.adapt(target, function, precision=precision, layout=layout)
    cases = [c for c in all_cases(adapter, mechanism, effort, seed) if fnmatch.fnmatch(c.id, only)]
    if not cases:
        raise ValueError(f"{adapter.name} offers nothing to check for mechanism {mechanism!r} and cases {only!r}")
    report = Report(adapter.name, adapter.version, effort, seed, adapter.environment())
    started, used = time.perf_counter(), set()
    for number, case in enumerate(cases):
        result = run_case(adapter, case)
        if result.status == "broken":
            known = next((a for a in allow or [] if a.covers(adapter.name, result)), None)
            if known is not None:
                used.add(known)
                result = Result(**{**vars(result), "status": "known", "reason": known.reason})
        report.results.append(result)
        if progress is not None:
            progress(number + 1, len(cases))
    if mechanism is None and only == "*" and effort != "smoke":
        report.stale = [a for a in allow or [] if a.target == adapter.name and a not in used]
    report.seconds = time.perf_counter() - started
    return report


def all_cases(adapter: Adapter, mechanism: str | None, effort: str, seed: int) -> Iterator[CheckCase]:
    """Every case for the functions that an adapter offers, golden vectors first."""
    for function in adapter.functions:
        if mechanism is not None and mechanism_of(function) != mechanism:
            continue
        dtypes = adapter.dtypes(function)
        for dtype in dtypes[:1] if effort == "smoke" else dtypes:
            yield from _golden(function, dtype)
            for name, clauses, arguments in recipes(function, fmt=dtype, effort=effort, seed=seed):
                yield CheckCase(f"{function}.{name}.{dtype}", function, clauses, dtype, arguments)


def _golden(function, dtype):
    for name in vectors.mechanisms():
        for case in vectors.load(name):
            if case.function == function and _fits(case.arguments, dtype):
                yield CheckCase(
                    f"{case.id}.{dtype}", function, case.clauses, dtype, case.arguments, case.refuses, case.comment
                )


def _fits(arguments, dtype):
    """Whether every array input survives the dtype (scalars are never arrays of that dtype)."""
    floats = [x for x in arguments.values() if isinstance(x, np.ndarray) and x.dtype.kind == "f"]
    return all(np.array_equal(round_to(x, dtype), x, equal_nan=True) for x in floats)


def run_case(adapter: Adapter, case: CheckCase) -> Result:
    """One case: call, call again, compare."""
    call, precision = adapter.call(case.function, case.dtype), adapter.profile(case.function, case.dtype)
    arguments = {name: cast(value, case.dtype) for name, value in case.arguments.items()}
    before = {name: copy(value) for name, value in arguments.items()}
    try:
        with np.errstate(all="ignore"):
            got = call(**arguments)
            again = None if case.refuses else call(**arguments)
    except Unsupported as missing:
        without_lse = tuple(clause for clause in case.clauses if clause != "ATTN-LSE")
        if case.arguments.get("return_lse") and without_lse:  # its output can be checked all the same
            rest = {name: value for name, value in case.arguments.items() if name != "return_lse"}
            return run_case(adapter, replace(case, clauses=without_lse, arguments=rest))
        return Result(case, "unsupported", reason=str(missing))
    except Failed as failure:  # no refusal, even of what must be refused
        return Result(case, "broken", failure.deviation, case.clauses[0], str(failure))
    except Exception as error:
        if case.refuses:
            return Result(case, "holds")
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        text = text if len(text) <= 200 else f"{text[:60]} ... {text[-130:]}"  # what went wrong is said last
        return Result(case, "broken", "refuses valid input", case.clauses[0], f"raises {text}")
    if case.refuses:
        message = f"accepts what must be refused ({case.comment.rstrip('.').lower()})"
        return Result(case, "broken", "accepts wrong input", case.clauses[0], message)
    for name, value in arguments.items():
        if isinstance(value, np.ndarray) and not np.array_equal(value, before[name], equal_nan=value.dtype.kind == "f"):
            return Result(case, "broken", "modifies an input", "BACKEND-PURE", f"{name} was changed by the call")
    try:
        first, second = ({name: to_numpy(x) for name, x in results(returned).items()} for returned in (got, again))
        if case.arguments.get("return_lse") and "lse" not in first:
            raise ValueError("return_lse=True was given, and it returns no lse")
    except (TypeError, ValueError) as error:
        return Result(case, "broken", "wrong kind of result", case.clauses[0], str(error))
    for name, value in first.items():
        same = np.array_equal(value.astype(np.float64), second[name].astype(np.float64), equal_nan=True)
        if not same:
            return Result(case, "broken", "not deterministic", "BACKEND-PURE", f"{name} differs between two calls")
    comparisons = tuple(compare(got, case.function, precision=precision, tier="hard", **case.arguments))
    wrong = [c for c in comparisons if not c.ok]
    if not wrong:
        return Result(case, "holds", comparisons=comparisons)
    deviation, clause = diagnosis(case, wrong[0])
    return Result(case, "broken", deviation, clause, "\n".join(map(str, wrong)), comparisons=comparisons)


def diagnosis(case: CheckCase, wrong: Comparison) -> tuple[str, str]:
    """The name of what is different, and the clause that it breaks."""
    best = next((e for e in wrong.explanations if e.fit <= 2.0), None)
    if best is None:
        kind = {"special values": "unexplained NaN or infinity", "shape": "wrong shape"}.get(
            wrong.verdict, "unexplained difference"
        )
        return kind, case.clauses[0]
    if best.variant is None:
        return best.name if best.name == SMALL_VALUES else f"precision {best.name}", case.clauses[0]
    return best.name, best.variant.clause


def cast(value, dtype):
    """Floating-point arrays in an implementation's dtype; formats that NumPy lacks as float32, which holds them exactly."""
    if isinstance(value, tuple):
        items = [cast(item, dtype) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return in_dtype(value, dtype if dtype in ("float64", "float32", "float16") else "float32")
    return value


def copy(value):
    """A copy of an array, to see later whether it was written to."""
    return value.copy() if isinstance(value, np.ndarray) else None


def smallest(case: CheckCase) -> str:
    """A case in one line: the shapes and options that it is made of."""
    parts = []
    for name, value in case.arguments.items():
        if isinstance(value, np.ndarray):
            parts.append(f"{name} {'x'.join(map(str, value.shape)) or 'scalar'}")
        elif isinstance(value, Mask):
            parts.append(f"mask={value!r}")
        elif isinstance(value, tuple):
            parts.append(name)
        elif value is not None:
            parts.append(f"{name}={value!r}")
    return ", ".join(parts)
