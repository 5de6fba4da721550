"""A report as a versioned document: JSON, and what the HTML page is made of."""

from __future__ import annotations

import json
import os
import platform
from typing import TYPE_CHECKING

import numpy as np

import refattn
from refattn.testing.outcome import STATUSES, Result, mechanism_of, smallest
from refattn.testing.reference import tf32_switches

if TYPE_CHECKING:
    from refattn.testing.report import Report

SCHEMA = "refattn-report/3"


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


def as_document(report: Report) -> dict:
    """The report as plain data: environment, seed, every case, every deviation with its smallest case."""
    return {
        "schema": SCHEMA,
        "target": {
            "name": report.target,
            "version": report.version,
            "details": {k: str(v) for k, v in report.environment.items()},
        },
        "environment": environment(),
        "effort": report.effort,
        "seed": report.seed,
        "options": {name: str(value) for name, value in report.options.items() if value is not None},
        "ok": report.ok,
        "strict": report.strict,
        "interrupted": bool(report.interrupted),
        "time": {"limit": report.budget, "unasked": report.unasked},
        "seconds": round(report.seconds, 3),
        "counts": {status: report.count(status) for status in STATUSES},
        "clauses": report.by_clause(),
        "causes": [_cause(cause) for cause in report.causes],
        "deviations": [
            _deviation(report, found) for status in ("broken", "known") for found in report.findings(status)
        ],
        "unjudged": [_unjudged(report, found) for found in report.findings("unjudged")],
        "measured": report.measured,
        "limits": report.limits,
        "at_least": report.at_least,
        "coverage": [_coverage(report, found) for found in report.coverage],
        "allow_list_problems": report.problems,
        "cases": [_case(report, result) for result in report.results],
    }


def _coverage(report: Report, found) -> dict:
    return {
        "function": found.function,
        "cases": found.cases,
        "excluded": list(found.excluded),
        "missed": list(found.missed),
        "often": list(found.often),
        "weak": found in report.weak,
        "known": found.known,
        "sentence": found.told(report.at_least) if found.missed else "",
    }


def _cause(cause) -> dict:
    return {
        "function": cause.function,
        "name": cause.name,
        "sentence": str(cause),
        "cases": list(cause.cases),
        "of": cause.total,
        "partly": list(cause.partly),
        "holding": list(cause.holding),
        "shared": list(cause.shared),
    }


def _deviation(report: Report, found: list[Result]) -> dict:
    least = found[0]
    return {
        "function": least.case.function,
        "name": least.deviation,
        "status": least.status,
        "clause": least.clause,
        "reason": least.reason,
        "cases": [result.case.id for result in found],
        "smallest": {"id": least.case.id, "arguments": smallest(least.case)},
        "message": least.message,
        "replay": report.replay(least.case),
    }


def _unjudged(report: Report, found: list[Result]) -> dict:
    least = found[0]
    return {
        "function": least.case.function,
        "text": least.reason,
        "cases": [result.case.id for result in found],
        "smallest": {"id": least.case.id, "arguments": smallest(least.case)},
        "replay": report.replay(least.case),
    }


def _case(report: Report, r: Result) -> dict:
    errors = {
        c.result: {"verdict": c.verdict, "hard": _plain(c.hard), "statistical": _plain(c.statistical)}
        for c in r.comparisons
    }
    return {
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
        "lacks": list(r.lacks),
        "replay": report.replay(r.case) if r.status in ("broken", "unjudged") else "",
        "worst": None if r.worst is None else _plain(r.worst),
        "stages": [{"name": s.name, "ok": s.ok, "error": _plain(s.error), "note": s.note} for s in r.stages],
        "errors_in_bounds": errors,
    }


def as_json(report: Report) -> str:
    """The document as JSON; what is not finite stands as a string."""
    return json.dumps(as_document(report), indent=1)


def _plain(x):
    return float(x) if np.isfinite(x) else str(float(x))
