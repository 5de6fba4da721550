"""A report as text for a terminal."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import refattn
from refattn.testing.allow import told
from refattn.testing.coverage import summed
from refattn.testing.outcome import STATUSES, Result, smallest

if TYPE_CHECKING:
    from refattn.testing.report import Report

WIDTH = 100


def as_text(report: Report, *, color: bool = False, verbose: bool = False) -> str:
    """What a person reads: by function, by clause, then every deviation with its worst case."""
    paint = _painter(color)
    lines = [
        f"refattn {refattn.__version__} checks {report.target} {report.version} ({report.effort}, seed {report.seed})",
        *filter(None, [told(report.measured, report.version)]),
        "",
    ]
    lines += _functions(report, paint)
    lines += ["", "clause", *_clauses(report, paint)]
    known, broken, unjudged = (report.findings(status) for status in ("known", "broken", "unjudged"))
    if known:
        lines += ["", "known deviations"]
        for found in known:
            lines += _deviation(found, paint, "yellow", brief=not verbose)
    if broken:
        lines += _causes(report, paint)
        lines += ["", "NEW deviations" if known else "deviations"]
        for found in broken:
            lines += _deviation(found, paint, "red", brief=False)
            lines.append(f"    again: {report.replay(found[0].case)}")
    if unjudged:
        lines += ["", "could not be judged"]
        for found in unjudged:
            lines += _unjudged(found, paint)
            lines.append(f"    again: {report.replay(found[0].case)}")
    unsaid = [r for r in report.results if r.status == "unsupported" or (r.status == "holds" and r.reason)]
    missing = sorted({f"{r.case.function}: {r.reason}" for r in unsaid})
    if missing:
        lines += ["", "not supported", *(f"  {line}" for line in missing)]
    if report.limits:
        said = [f"{function}: {text}" for function, text in report.limits.items()]
        lines += ["", "cases were made inside its limits"]
        lines += [x for s in said for x in textwrap.wrap(s, WIDTH, initial_indent="  ", subsequent_indent="    ")]
    if report.unasked:
        lines += ["", f"not asked, for the time was over (--time {report.budget:g})"]
        lines += [
            x for s in report.unasked for x in textwrap.wrap(s, WIDTH, initial_indent="  ", subsequent_indent="    ")
        ]
    if report.problems:
        lines += [
            "",
            "allow-list out of date" + (" (fails: strict)" if report.strict else " (--strict makes this fail)"),
        ]
        for problem in report.problems:
            lines += textwrap.wrap(problem, WIDTH, initial_indent="  ", subsequent_indent="    ")
    if lacking := [found for found in report.coverage if found.missed]:
        lines += ["", "known mistakes that can occur and that these cases would not have shown"]
        for each in lacking:
            said = textwrap.wrap(each.told(report.at_least), WIDTH, initial_indent="  ", subsequent_indent="    ")
            lines += [paint(line, "red") if each in report.weak else line for line in said]
    lines += ["", verdict(report, paint)]
    return "\n".join(lines)


def _causes(report, paint):
    """What the broken cases come to together, each function's most frequent cause first."""
    lines = ["", "causes of wrong numbers"] if report.causes else []
    for cause in report.causes:
        said = textwrap.wrap(f"{cause.function}: {cause}", WIDTH, initial_indent="  ", subsequent_indent="    ")
        lines += [paint(line, "bold") for line in said]
    return lines


def _painter(color):
    codes = {"red": "31", "green": "32", "yellow": "33", "bold": "1"}
    return (lambda text, name: f"\033[{codes[name]}m{text}\033[0m") if color else (lambda text, name: text)


def _counts(results):
    return {status: sum(r.status == status for r in results) for status in STATUSES}


def _functions(report, paint):
    lines = [
        f"{'function':<26}{'cases':>7}{'hold':>7}{'known':>7}{'new':>6}{'not supported':>15}   worst error / bound"
    ]
    for function in dict.fromkeys(r.case.function for r in report.results):
        chosen = [r for r in report.results if r.case.function == function]
        n = _counts(chosen)
        worst = max((c.hard for r in chosen if r.status == "holds" for c in r.comparisons), default=0.0)
        new = paint(f"{n['broken']:>6}", "red") if n["broken"] else f"{0:>6}"
        lines.append(
            f"{function:<26}{len(chosen):>7}{n['holds']:>7}{n['known']:>7}{new}{n['unsupported']:>15}   {worst:.2f}"
        )
    return lines


def _clauses(report, paint):
    lines = []
    for clause, n in report.by_clause().items():
        if n["broken"]:
            word, color = "BROKEN", "red"
        elif n["unjudged"]:
            word, color = "could not be judged", "red"
        elif n["known"]:
            word, color = "deviates, as known", "yellow"
        elif n["holds"]:
            word, color = "holds", "green"
        else:
            word, color = "not supported", "bold"
        cases = ", ".join(f"{count} {'deviate' if s == 'known' else s}" for s, count in n.items() if count)
        lines.append(f"  {clause:<20}{paint(f'{word:<20}', color)}{cases}")
    return lines


def _unjudged(found: list[Result], paint):
    first = found[0]
    head = f"  {paint(first.reason, 'red')} in {first.case.function}: {_cases(found)}"
    return [head, f"    smallest: {first.case.id} ({smallest(first.case)})"]


def _cases(found):
    dtypes = ", ".join(dict.fromkeys(r.case.dtype for r in found))
    return f"{len(found)} case{'s' * (len(found) > 1)}, {dtypes}"


def _deviation(found: list[Result], paint, color, *, brief):
    first = found[0]
    lines = [f"  {paint(first.deviation, color)} in {first.case.function} (clause {first.clause}): {_cases(found)}"]
    if first.reason:
        lines += textwrap.wrap(first.reason, WIDTH, initial_indent="    ", subsequent_indent="    ")
    lines.append(f"    smallest: {first.case.id} ({smallest(first.case)})")
    if not brief:
        for line in first.message.splitlines():
            lines += textwrap.wrap(line, WIDTH, initial_indent="    ", subsequent_indent="      ")
    return lines


def verdict(report: Report, paint=None) -> str:
    """What came of a check, in one line."""
    paint = paint or _painter(False)
    known, new = len(report.findings("known")), len(report.findings("broken"))
    n = _counts(report.results)
    tail = f"{n['holds']} of {len(report.results)} cases hold, {n['unsupported']} are not supported, {report.seconds:.1f} s"
    if report.unasked:
        tail = f"not all was asked in {report.budget:g} s; {tail}"
    if report.interrupted:
        done = f"{len(report.results)} of {report.interrupted} cases"
        return paint(f"INTERRUPTED after {done}: {new} new deviation{'s' * (new != 1)} until then; {tail}", "red")
    if n["unjudged"]:
        more = f"; {new} new deviation{'s' * (new != 1)} in the others" if new else ""
        return paint(
            f"COULD NOT BE JUDGED: {n['unjudged']} cases ended in an error that is no refusal{more}; {tail}", "red"
        )
    if new:
        return paint(f"NONCONFORMING: {new} new deviation{'s' * (new > 1)}; {tail}", "red")
    if report.strict and report.problems:
        return paint(
            f"ALLOW-LIST OUT OF DATE: no new deviation, but {len(report.problems)} of its entries; {tail}", "red"
        )
    if not report.checked:
        return paint(f"NOTHING CHECKED: {tail}; where it takes some calls, say which by --limits", "red")
    if report.coverage:
        tail = f"{summed(report.coverage)}; {tail}"
    if report.weak:
        functions = ", ".join(found.function for found in report.weak)
        return paint(f"WEAK: too little of {functions} was checked; {tail}", "red")
    if known:
        return paint(f"CONFORMS but for {known} known deviation{'s' * (known > 1)}; {tail}", "green")
    return paint(f"CONFORMS; {tail}", "green")
