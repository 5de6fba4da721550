"""A report as text for a terminal, as versioned JSON, and as JUnit XML."""

from __future__ import annotations

import json
import os
import platform
import sys
import textwrap
import xml.etree.ElementTree as ET

import numpy as np

import refattn
from refattn.testing.checking import Report, Result, mechanism_of, smallest
from refattn.testing.reference import tf32_switches

SCHEMA = "refattn-report/1"
WIDTH = 100


def environment() -> dict:
    """What a report must say about the machine that it was made on."""
    return {
        "refattn": refattn.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "tf32": tf32_switches(),
    }


def as_text(report: Report, *, color: bool = False, verbose: bool = False) -> str:
    """What a person reads: by function, by clause, then every deviation with its worst case."""
    paint = _painter(color)
    lines = [
        f"refattn {refattn.__version__} checks {report.target} {report.version} ({report.effort}, seed {report.seed})",
        "",
    ]
    lines += _functions(report, paint)
    lines += ["", "clause", *_clauses(report, paint)]
    known, broken = report.deviations("known").items(), report.deviations("broken").items()
    if known:
        lines += ["", "known deviations"]
        for (function, deviation), found in known:
            lines += _deviation(function, deviation, found, paint, "yellow", brief=not verbose)
    if broken:
        lines += ["", "NEW deviations" if known else "deviations"]
        for (function, deviation), found in broken:
            lines += _deviation(function, deviation, found, paint, "red", brief=False)
            lines.append(f"    again: refattn check {report.target} --case '{found[0].case.id}' --seed {report.seed}")
    missing = sorted({f"{r.case.function}: {r.reason}" for r in report.results if r.status == "unsupported"})
    if missing:
        lines += ["", "not supported", *(f"  {line}" for line in missing)]
    for entry in report.stale:
        lines.append(
            f"note: {entry.target} no longer shows {entry.deviation} ({entry.function}, {entry.cases}); its entry can go"
        )
    lines += ["", _verdict(report, paint)]
    return "\n".join(lines)


def _painter(color):
    codes = {"red": "31", "green": "32", "yellow": "33", "bold": "1"}
    return (lambda text, name: f"\033[{codes[name]}m{text}\033[0m") if color else (lambda text, name: text)


def _counts(results):
    return {status: sum(r.status == status for r in results) for status in ("holds", "known", "broken", "unsupported")}


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
        elif n["known"]:
            word, color = "deviates, as known", "yellow"
        elif n["holds"]:
            word, color = "holds", "green"
        else:
            word, color = "not supported", "bold"
        cases = ", ".join(f"{count} {'deviate' if s == 'known' else s}" for s, count in n.items() if count)
        lines.append(f"  {clause:<20}{paint(f'{word:<20}', color)}{cases}")
    return lines


def _deviation(function, deviation, found: list[Result], paint, color, *, brief):
    first = found[0]
    dtypes = ", ".join(dict.fromkeys(r.case.dtype for r in found))
    head = f"  {paint(deviation, color)} in {function} (clause {first.clause}): {len(found)} case{'s' * (len(found) > 1)}, {dtypes}"
    lines = [head]
    if first.reason:
        lines += textwrap.wrap(first.reason, WIDTH, initial_indent="    ", subsequent_indent="    ")
    least = min(found, key=lambda r: sum(np.size(x) for x in r.case.arguments.values() if isinstance(x, np.ndarray)))
    lines.append(f"    smallest: {least.case.id} ({smallest(least.case)})")
    if not brief:
        for line in least.message.splitlines():
            lines += textwrap.wrap(line, WIDTH, initial_indent="    ", subsequent_indent="      ")
    return lines


def _verdict(report, paint):
    known, new = len(report.deviations("known")), len(report.deviations("broken"))
    n = _counts(report.results)
    tail = f"{n['holds']} of {len(report.results)} cases hold, {n['unsupported']} are not supported, {report.seconds:.1f} s"
    if new:
        return paint(f"NONCONFORMING: {new} new deviation{'s' * (new > 1)}; {tail}", "red")
    if not report.ok:
        return paint(f"NOTHING CHECKED: {tail}", "red")
    if known:
        return paint(f"CONFORMS but for {known} known deviation{'s' * (known > 1)}; {tail}", "green")
    return paint(f"CONFORMS; {tail}", "green")


def as_json(report: Report) -> str:
    """A versioned JSON document with environment, seed and every case."""
    cases = []
    for r in report.results:
        errors = {
            c.result: {"verdict": c.verdict, "hard": _plain(c.hard), "statistical": _plain(c.statistical)}
            for c in r.comparisons
        }
        cases.append(
            {
                "id": r.case.id,
                "function": r.case.function,
                "mechanism": mechanism_of(r.case.function),
                "clauses": list(r.case.clauses),
                "dtype": r.case.dtype,
                "status": r.status,
                "deviation": r.deviation,
                "broken_clause": r.clause,
                "message": r.message,
                "reason": r.reason,
                "errors_in_bounds": errors,
            }
        )
    document = {
        "schema": SCHEMA,
        "target": {"name": report.target, "version": report.version, **report.environment},
        "environment": environment(),
        "effort": report.effort,
        "seed": report.seed,
        "ok": report.ok,
        "seconds": round(report.seconds, 3),
        "clauses": report.by_clause(),
        "cases": cases,
    }
    return json.dumps(document, indent=1)


def _plain(x):
    return x if np.isfinite(x) else str(x)


def as_junit(report: Report) -> str:
    """JUnit XML: one test a case; known deviations and missing features are skipped tests."""
    suite = ET.Element(
        "testsuite",
        name=f"refattn.{report.target}",
        tests=str(len(report.results)),
        failures=str(report.count("broken")),
        skipped=str(report.count("known") + report.count("unsupported")),
        time=f"{report.seconds:.3f}",
    )
    for r in report.results:
        test = ET.SubElement(suite, "testcase", classname=f"{report.target}.{r.case.function}", name=r.case.id)
        properties = ET.SubElement(test, "properties")
        for clause in r.case.clauses:
            ET.SubElement(properties, "property", name="clause", value=clause)
        if r.status == "broken":
            failure = ET.SubElement(test, "failure", message=f"{r.deviation} ({r.clause})")
            failure.text = r.message
        elif r.status == "known":
            ET.SubElement(test, "skipped", message=f"known deviation {r.deviation}: {r.reason}")
        elif r.status == "unsupported":
            ET.SubElement(test, "skipped", message=f"not supported: {r.reason}")
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def progress_on(stream=None):
    """A progress callback: one line that is overwritten on a terminal, nothing elsewhere."""
    stream = stream or sys.stderr
    if not stream.isatty():
        return None

    def show(done, total):
        end = "\r\033[K" if done == total else ""
        stream.write(f"\r{done}/{total} cases{end}")
        stream.flush()

    return show
