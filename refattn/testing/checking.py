"""check: golden vectors, properties and directed cases against any implementation, reported by clause."""

from __future__ import annotations

import fnmatch
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace

import numpy as np

from refattn.testing import consistency, coverage, inputs, matches, profiles, vectors, vote
from refattn.testing.adapters import Adapter, CallableAdapter, Failed, Unsupported
from refattn.testing.adapters.guard import guarded, no_refusal
from refattn.testing.adapters.guard import told as text_of
from refattn.testing.allow import Allowance, excused, in_force, measured_on, problems
from refattn.testing.budget import ASKED, ASKING, COVERING, EXPLAINING, SIZES_UNASKED, Budget, is_golden, left_out
from refattn.testing.inside import Inside, call_of, inside, stating, without_lse
from refattn.testing.layouts import cast
from refattn.testing.matches import FITS, Incomplete, compare
from refattn.testing.names import function_named, functions, hint
from refattn.testing.nested import arrays
from refattn.testing.outcome import STATUSES, CheckCase, Result, mechanism_of, smallest
from refattn.testing.reference import to_numpy
from refattn.testing.refusals import AskedAgain, at_random, not_by_chance, once
from refattn.testing.report import Report
from refattn.testing.returned import GRADIENTS, SEVERAL, by_name
from refattn.testing.rounding import round_to
from refattn.testing.stages import stages_of
from refattn.testing.vectors import results

__all__ = [
    "EFFORTS", "STATUSES", "CheckCase", "Report", "Result", "all_cases", "check", "mechanism_of", "run_case", "smallest",
]  # fmt: skip

EFFORTS = ("smoke", "standard", "full")


def check(
    target,
    function: str | None = None,
    *,
    mechanism: str | None = None,
    precision: str | None = None,
    layout: str = "bhnd",
    limits: str | None = None,
    effort: str = "standard",
    seed: int = 0,
    only: str = "*",
    allow: list[Allowance] | None = None,
    strict: bool = False,
    at_least: float = coverage.AT_LEAST,
    seconds: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Check an implementation against the specification.

    Parameters
    ----------
    target : Adapter, callable or str
        An adapter, the name of one, 'module:function', or a callable with the reference function's signature.
    function : str, optional
        Which reference function a plain callable implements; default 'attention'. Of an adapter, check only this one.
    mechanism : str, optional
        Check only the functions of this mechanism.
    precision : str, optional
        The precision profile of a plain callable, and the dtype of its inputs; default float32. Of an adapter, check
        only this dtype.
    layout : {"bhnd", "bnhd"}
        How a plain callable wants its axes.
    limits : str, optional
        What it takes, in the words of `refattn.testing.stated`: "D in 64, 128; M % 16 == 0; N == M; causal". It is
        called with nothing beyond. Default: what an adapter states; where nothing is stated, it is asked.
    effort : {"smoke", "standard", "full"}
        How many cases.
    seed : int
        For the random cases.
    only : str
        A pattern of case ids.
    allow : list of Allowance, optional
        Deviations that are known.
    strict : bool
        Whether an allow-list that is out of date fails the check: an entry that has expired, one that names what does
        not exist, and, where everything is checked, one whose deviation no longer shows.
    at_least : float
        The share of the known mistakes that can occur which must be excluded.
    seconds : float, optional
        How long it may take, about; default as long as it takes. What is left out first says `refattn.testing.budget`; the
        report lists it.
    progress : callable, optional
        Called with the number of cases done and in all.

    Returns
    -------
    Report
        Of what was checked until then if it is interrupted from the keyboard.

    Examples
    --------
    >>> import refattn
    >>> check(refattn.attention, effort="smoke").ok
    True
    """
    from refattn.testing import adapters

    if effort not in EFFORTS:
        raise ValueError(f"effort is {effort!r}; it must be one of {', '.join(EFFORTS)}")
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be a whole number of 0 or more")
    if not 0 <= at_least <= 1:
        raise ValueError(f"at_least is {at_least}; it must be a share between 0 and 1")
    budget = Budget(seconds)
    adapter = adapters.adapt(target, function, precision=precision, layout=layout)
    if limits is not None:
        adapter = stating(adapter, limits)
    adapter = budget.watching(adapter)
    offered = list(_standing(adapter, mechanism, effort, seed))
    dtype = None if precision is None else profiles.profile(precision).inputs

    wanted = lambda of, kind: function in (None, of) and dtype in (None, kind)

    def chosen(some):
        asked = (c for c in some if wanted(c.function, c.dtype))
        return [c for c in asked if fnmatch.fnmatch(c.id, only)]

    cases = chosen(offered)
    if seconds is not None:
        cases.sort(key=lambda case: not is_golden(case))
    within = None
    if not cases or "inside" in only:
        within = budget.until(ASKED, lambda: _inside(adapter, mechanism, effort, seed, offered, wanted))
    if not (cases or (within and chosen(within.cases))):
        unknown = "" if function is None or function in functions() else hint(function)
        asked = {"function": function, "mechanism": mechanism, "precision": precision}
        asked["cases"] = None if only == "*" else only
        parts = [f"{name} {value!r}" for name, value in asked.items() if value is not None]
        raise ValueError(f"{adapter.name} offers nothing to check for {' and '.join(parts) or 'any function'}{unknown}")
    report = Report(adapter.name, adapter.version, effort, seed, adapter.environment(), strict=strict, budget=seconds)
    if isinstance(adapter, CallableAdapter):
        report.options = {"function": function, "precision": precision, "layout": layout}
    if limits is not None:
        report.options["limits"] = limits
    entries = in_force(allow or [], adapter.name, adapter.version)
    report.measured = measured_on(allow or [], adapter.name, adapter.version)
    started = time.perf_counter()
    used: set[Allowance] = set()
    wrong: Counter[str] = Counter()
    listed = {entry.function for entry in entries}  # what may be known is looked up by its name, so it must have one

    slow, again = False, AskedAgain(adapter)
    unexplained: list[CheckCase] = []

    def run(some):
        nonlocal slow
        for number, case in enumerate(some):
            if budget.over():
                budget.unasked += left_out(some[number:], cases)
                return
            each = case.function in listed or wrong[case.function] < vote.EXPLAINED
            explain = each and not budget.over(EXPLAINING)
            result = again(run_case(adapter, case, explain=explain, suspected=_listed(entries, case)))
            wrong[case.function] += bool(result.wrong)
            unexplained.extend([case] if result.wrong and each and not explain else [])
            report.results.append(_allowed(entries, adapter, result, used))
            slow = slow or budget.tell_if_slow(some[number + 1 :])
            if progress is not None:
                progress(len(report.results), len(cases))

    try:
        run(cases)
        if within is None and any(sign in only for sign in "*?[") and any(r.refused for r in report.results):
            taken = {r.case.id: not r.refused for r in report.results}  # what it refuses is known: what does it take?
            if not budget.over(ASKING):
                ask = lambda: _inside(adapter, mechanism, effort, seed, offered, wanted, taken)
                within = budget.until(ASKED, ask)
            if within is None and effort != "smoke":
                budget.unasked.append(SIZES_UNASKED)
        if within is not None:
            report.limits = within.limits
            offered += within.cases
            more = chosen(within.cases)
            cases += more
            run(more)
        if only == "*" and effort != "smoke" and budget.over(COVERING):
            budget.unasked.append("how many known mistakes are excluded")
        elif only == "*" and effort != "smoke":
            report.at_least = 0.0 if budget.unasked else at_least  # what there was no time for is not weak
            for each in coverage.covered(report.results, offered, adapter.profile):
                found, entry = excused(each, entries, at_least)
                report.coverage.append(found)
                used |= {entry} if entry else set()
        if unexplained:
            budget.unasked.append(f"what explains each of {len(unexplained)} cases that are wrong")
    except KeyboardInterrupt:
        report.interrupted = len(cases)
    report.results, causes = vote.settled(not_by_chance(_in_full(report.results, entries)))
    report.results = once([_allowed(entries, adapter, result, used) for result in report.results])
    new = {(r.case.function, r.case.id) for r in report.results if r.status == "broken"}
    report.causes = [cause for cause in causes if new & {(cause.function, case) for case in cause.cases}]
    whole = mechanism is None and len(cases) == len(offered) and effort != "smoke" and not report.interrupted
    whole = whole and len(report.results) == len(cases)
    if whole:
        report.stale = [entry for entry in entries if entry not in used and not entry.expired]
    report.unasked = budget.unasked
    report.problems = problems(entries, report, [case.id for case in cases] if whole else None)
    report.seconds = time.perf_counter() - started
    return report


def _allowed(entries, adapter, result, used):
    """A broken result as known, where an entry covers it."""
    known = next((e for e in entries if e.covers(adapter.name, result)), None) if result.status == "broken" else None
    if known is None:
        return result
    used.add(known)
    return replace(result, status="known", reason=known.reason)


def _listed(entries, case) -> set[str]:
    """The deviations of a case that are known."""
    return {e.deviation for e in entries if e.function == case.function and fnmatch.fnmatch(case.id, e.cases)}


def _in_full(results, entries):
    """The results; known ones with all that fits them, where it decides what new ones of their function are called."""
    new = {r.case.function for r in results if r.status == "broken" and r.wrong}
    return [
        r.called(tuple(matches.named(list(r.comparisons))))
        if r.status == "known" and r.case.function in new and r.deviation in _listed(entries, r.case) and _judged(r)
        else r
        for r in results
    ]


def _judged(result) -> bool:
    """Whether numbers were compared, and are wrong."""
    return any(c.judged is not None and c.explanations for c in result.wrong)


def all_cases(
    adapter: Adapter, mechanism: str | None, effort: str, seed: int, budget: Budget | None = None
) -> Iterator[CheckCase]:
    """Every case for the functions that an adapter offers, golden vectors first, those inside its limits last.

    With a budget they are left out where asking for the limits does not end in time, which the budget says.
    """
    standing = list(_standing(adapter, mechanism, effort, seed))
    yield from standing
    budget = budget or Budget()
    found = budget.until(ASKING, lambda: _inside(adapter, mechanism, effort, seed, standing))
    if found is None:
        budget.unasked.append(SIZES_UNASKED)
    else:
        yield from found.cases


def _offered(adapter, mechanism, effort):
    """Each function that an adapter offers with each of its dtypes."""
    for function in adapter.functions:
        if mechanism in (None, mechanism_of(function)):
            dtypes = adapter.dtypes(function)
            yield from ((function, dtype) for dtype in (dtypes[:1] if effort == "smoke" else dtypes))


def _standing(adapter, mechanism, effort, seed) -> Iterator[CheckCase]:
    """The cases that there are whatever an implementation takes: golden ones first, self-consistency last."""
    for function, dtype in _offered(adapter, mechanism, effort):
        yield from _golden(function, dtype)
        for name, clauses, arguments in inputs.cases(function, fmt=dtype, effort=effort, seed=seed):
            yield CheckCase(f"{function}.{name}.{dtype}", function, clauses, dtype, arguments)
        yield from consistency.relations(function, dtype, seed)


def _inside(adapter, mechanism, effort, seed, standing, wanted=lambda *_: True, known=None) -> Inside:
    """Cases at the sizes that an implementation takes, of the functions and dtypes that are wanted."""
    found = Inside({}, [])
    if effort == "smoke":
        return found
    for function, dtype in _offered(adapter, mechanism, effort):
        if wanted(function, dtype):
            more = inside(adapter, function, dtype, standing, seed, known or {})
            found.limits.update(more.limits)
            found.cases.extend(more.cases)
    return found


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


def run_case(adapter: Adapter, case: CheckCase, *, explain: bool = True, suspected: Collection[str] = ()) -> Result:
    """One case: call, call again, compare; or, for a relation, the calls that must agree.

    With explain = False a failure is not explained; it can be later, by what explains others. With suspected variants
    these are asked about first.
    """
    if case.relation:
        return _related(adapter, case)
    call, precision = call_of(adapter, case.function, case.dtype), adapter.profile(case.function, case.dtype)
    arguments = cast(case.arguments, case.dtype)
    before = [(path, x, x.copy()) for path, x in arrays(arguments)]
    taken = False
    try:
        with np.errstate(all="ignore"):
            got = call(**arguments)
            taken = not case.refuses
            again = call(**arguments) if taken else None
    except Unsupported as missing:
        if taken:
            return at_random(case, missing)
        less = without_lse(case)
        if less is not None:  # its output can be checked all the same
            return run_case(adapter, less, explain=explain, suspected=suspected)
        return Result(case, "unsupported", reason=str(missing), refused=True)
    except Failed as failure:  # no refusal, even of what must be refused
        return _failed(case, failure)
    except Exception as error:
        return at_random(case, error) if taken and not no_refusal(error, adapter) else _raised(adapter, case, error)
    if case.refuses:
        message = f"accepts what must be refused ({case.comment.rstrip('.').lower()})"
        return Result(case, "broken", "accepts wrong input", case.clauses[0], message)
    for path, x, was in before:
        if not np.array_equal(x, was, equal_nan=x.dtype.kind == "f"):
            return Result(case, "broken", "modifies an input", "BACKEND-PURE", f"{path} was changed by the call")
    try:
        first, second = (guarded(_read)(case, returned) for returned in (got, again))
        if case.arguments.get("return_lse") and "lse" not in first:
            raise ValueError("return_lse=True was given, and it returns no lse")
    except Exception as error:  # an array of a stranger's class may raise anything when it is read
        return Result(case, "broken", "wrong kind of result", case.clauses[0], _message(error))
    for name, value in first.items():
        if name not in second or not np.array_equal(_wide(value), _wide(second[name]), equal_nan=True):
            return Result(case, "broken", "not deterministic", "BACKEND-PURE", f"{name} differs between two calls")
    several = case.function.endswith(SEVERAL)
    if several and not first:
        return Result(case, "unsupported", reason="returns none of the results")
    returned = first if several else got  # of those that must come together none may be missing
    try:
        found = compare(returned, case.function, precision=precision, tier="hard", explain=False, **case.arguments)
        comparisons = tuple(matches.explained(found, returned, suspected) if explain else found)
    except Incomplete as error:
        return Result(case, "broken", "wrong kind of result", case.clauses[0], str(error))
    except NotImplementedError as error:  # nothing says how far a correct kernel may be off
        return Result(case, "unsupported", reason=f"cannot be judged: {error}")
    wrong = [c for c in comparisons if not c.ok]
    if not wrong:
        lacks = _lacking(case, first) if several else ()
        reason = f"returns no {', '.join(lacks)}" if lacks else ""
        return Result(case, "holds", reason=reason, lacks=lacks, comparisons=comparisons)
    if all(c.verdict == "cannot be judged" for c in wrong):
        reason = f"cannot be judged at {wrong[0].precision}, whose bound is wider than the values are apart"
        return Result(case, "unsupported", reason=reason, comparisons=comparisons)
    stages = stages_of(adapter, case, lambda x: cast(x, case.dtype), precision)
    return Result(case, "broken", stages=stages).called(comparisons)


def _read(case, returned):
    """The results by name, as arrays of numbers; None where a gradient was returned as None."""
    named = by_name(case.function, returned, lambda: function_named(case.function)(**case.arguments))
    gradients = case.function.endswith(GRADIENTS)
    found = {name: None if x is None and gradients else to_numpy(x) for name, x in named.items()}
    for name, x in found.items():
        if x is not None and x.dtype.kind not in "fiub":
            raise TypeError(f"{name} is of dtype {x.dtype}, which holds no numbers")
    return found


def _wide(x):
    return np.zeros(0) if x is None else x.astype(np.float64)


def _lacking(case, first):
    """The results that the reference returns here and the implementation does not."""
    with np.errstate(all="ignore"):
        wanted = results(case.function, function_named(case.function)(**case.arguments))
    return tuple(name for name in wanted if first.get(name) is None)


def _failed(case, failure):
    return Result(case, "broken", failure.deviation, case.clauses[0], str(failure), refused=True)


def _raised(adapter, case, error):
    """What an exception comes to: the case could not be judged, or its input was refused, rightly or not."""
    text = text_of(error)
    if no_refusal(error, adapter):
        return Result(case, "unjudged", reason=text, refused=True)
    if case.refuses:
        return Result(case, "holds", raised=text)
    return Result(case, "broken", "refuses valid input", case.clauses[0], f"raises {text}", raised=text, refused=True)


def _message(error):
    """What an error of our own says; of another kind, with its name."""
    return str(error) if isinstance(error, TypeError | ValueError | Failed) and str(error) else text_of(error)


def _related(adapter, case):
    """A case of self-consistency. What disagrees is named by a variant where one explains the result."""
    call, precision = call_of(adapter, case.function, case.dtype), adapter.profile(case.function, case.dtype)
    try:
        with np.errstate(all="ignore"):
            comparisons, found = consistency.judge(call, case, lambda x: cast(x, case.dtype), precision)
    except Unsupported as missing:
        return Result(case, "unsupported", reason=str(missing), refused=True)
    except Failed as failure:
        return _failed(case, failure)
    except Exception as error:
        return _raised(adapter, case, error)
    if found is None:
        return Result(case, "holds", comparisons=comparisons)
    explained = [e for c in _alone(case, found, precision) for e in c.explanations if e.fit <= FITS and e.variant]
    fitting = {e.variant.name: e.variant for e in explained if e.variant.clause in case.clauses}
    fitting = {name: v for name, v in fitting.items() if consistency.gives(v, case, found.first, precision)}
    result = Result(case, "broken", f"inconsistent: {case.relation}", case.clauses[0], found.message)
    result = replace(result, comparisons=comparisons, fitting=tuple(fitting.values()))
    return result.named(result.fitting[0]) if fitting else result


def _alone(case, found, precision):
    try:
        return compare(found.got, case.function, precision=precision, tier="hard", **found.arguments)
    except (TypeError, ValueError):  # a result that cannot be read was reported by its shape
        return []
