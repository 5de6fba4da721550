"""What changed between two reports of `refattn check --json`: what a release brought, by clause and by name."""

from __future__ import annotations

import textwrap

from refattn.testing import schema
from refattn.testing.printable import printable

WIDTH = 100
_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}


def _object(**properties):
    return {"type": "object", "required": list(properties), "properties": properties}


_COMPARED = schema.compiled({  # what is compared here, which reports of other releases have, too
    "type": "array",
    "items": _object(
        target=_object(name=_TEXT, version=_TEXT), effort=_TEXT, seed={"type": "integer"}, options={"type": "object"},
        cases={"type": "array", "items": _object(
            id=_TEXT, function=_TEXT, status=_TEXT, deviation=_TEXT, broken_clause=_TEXT, clauses=_TEXTS,
        )},
        deviations={"type": "array", "items": _object(
            function=_TEXT, name=_TEXT, clause=_TEXT, message=_TEXT, replay=_TEXT,
        )},
    ),
})  # fmt: skip
_DEVIATES = ("broken", "known")
_MOST = 1_000_000  # characters
_SHOWN = 4  # so many ids of cases stand in a line


def read(path) -> dict[str, dict]:
    """The reports of a file by the name of their target: one of `check --json`, or all of `check --all --json`.

    Raises
    ------
    ValueError
        The file holds no report.
    """
    try:
        found = schema.parsed(schema.read(path))
    except ValueError as error:
        raise ValueError(f"{path} holds no report of refattn check --json: {error}") from None
    reports = found.get("reports") if isinstance(found, dict) and "reports" in found else [found]
    wrong = _COMPARED(reports)
    if wrong or not reports:
        why = f" (report{wrong[0]} {wrong[1]})" if wrong else ""
        raise ValueError(f"{path} holds no report of refattn check --json{why}")
    return {report["target"]["name"]: report for report in reports}


def changes(old: dict, new: dict) -> dict:
    """What changed between two reports of one target.

    Parameters
    ----------
    old, new : dict
        As `as_document` makes them. Their statuses 'broken' and 'known' are one here: it deviates, whatever a list says.

    Returns
    -------
    dict
        `deviations`: (function, name) -> cases before and now, of each that came, went, grew or shrank; `clauses`: by
        clause, cases that deviate before and now; `support`: by function, cases that became supported or ceased to be (or could not be judged);
        `cases`: the ids that only one of them has.
    """
    before, now = ({case["id"]: case for case in report["cases"]} for report in (old, new))
    both = [name for name in now if name in before]
    names: dict[tuple[str, str], tuple[list, list]] = {}
    clauses: dict[str, list[int]] = {}
    support: dict[str, tuple[list, list]] = {}
    for place, cases in enumerate((before, now)):
        for name in both:
            case = cases[name]
            if case["status"] in _DEVIATES:
                names.setdefault((case["function"], case["deviation"]), ([], []))[place].append(name)
                clauses.setdefault(case["broken_clause"], [0, 0])[place] += 1
    for name in both:
        was, is_now = (cases[name]["status"] in ("unsupported", "unjudged") for cases in (before, now))
        if was != is_now:
            support.setdefault(now[name]["function"], ([], []))[int(was)].append(name)
    return {
        "deviations": {k: v for k, v in sorted(names.items()) if set(v[0]) != set(v[1])},
        "clauses": {k: tuple(v) for k, v in sorted(clauses.items()) if v[0] != v[1]},
        "support": support,
        "cases": ([n for n in before if n not in now], [n for n in now if n not in before]),
    }


def as_text(old: dict[str, dict], new: dict[str, dict]) -> tuple[str, bool]:
    """The changes in words, and whether there are any.

    Parameters
    ----------
    old, new : dict
        Target -> report, as `read` returns them.

    Raises
    ------
    ValueError
        They have no target in common, and are not one report each: a kernel that was rewritten may have a new name.
    """
    if len(old) == len(new) == 1:
        found = [(*old.values(), *new.values())]
    else:
        found = [(old[name], new[name]) for name in new if name in old]
    shared = [report["target"]["name"] for pair in found for report in pair]
    if not found:
        raise ValueError(f"the reports have no target in common: {', '.join(old)} and {', '.join(new)}")
    lines: list[str] = []
    for before, now in found:
        lines += [*_told(before, now), ""]
    for only, where in ((old, "OLD"), (new, "NEW")):
        rest = [name for name in only if name not in shared]
        lines += [f"only in {where}: {', '.join(rest)}", ""] if rest else []
    return printable("\n".join(lines).strip("\n"), _MOST), any(_differ(changes(*pair)) for pair in found)


def _differ(found) -> bool:
    return bool(found["deviations"] or found["support"])


def _told(old, new):
    """One target's changes."""
    found = changes(old, new)
    name, was, now = new["target"]["name"], old["target"]["version"], new["target"]["version"]
    if old["target"]["name"] != name:
        name = f"{old['target']['name']} -> {name}"
    lines = [f"{name} {was or '(no version)'} -> {now or '(no version)'}" if was or now else name]
    if other := [name for name in ("effort", "seed", "options") if old[name] != new[name]]:
        lines.append(f"  made with another {', '.join(other)}: what both ran is compared")
    if not _differ(found):
        lines.append(f"  no deviation came or went; {len(new['cases'])} cases")
    for title, wanted in (
        ("new deviations", lambda was, now: now and not was),
        ("gone", lambda was, now: was and not now),
        ("in other cases", lambda was, now: was and now),
    ):
        chosen = {key: pair for key, pair in found["deviations"].items() if wanted(*pair)}
        lines += [f"  {title}"] if chosen else []
        for (function, name), (was, now) in chosen.items():
            came, went = ([x for x in these if x not in those] for these, those in ((now, was), (was, now)))
            places = [f"{word}{_listed(names)}" for word, names in (("", came), ("no longer ", went)) if names]
            head = f"{name} in {function}{_clause(new, function, name)}: {len(was)} -> {len(now)} cases"
            lines += _wrapped(f"{head}: {'; '.join(places)}")
            if not was:
                lines += _why(new, function, name)
    if found["clauses"]:
        lines.append("  by clause, cases that deviate")
        lines += [f"    {clause:<22}{was:>5} -> {now}" for clause, (was, now) in found["clauses"].items()]
    for function, (lost, gained) in found["support"].items():
        lines += _wrapped(f"{function}: no longer supported: {_listed(lost)}") if lost else []
        lines += _wrapped(f"{function}: supported now: {_listed(gained)}") if gained else []
    for names, where in zip(found["cases"], ("OLD", "NEW"), strict=True):
        lines += [f"  {len(names)} cases only in {where}: {_listed(names)}"] if names else []
    return lines


def _found(report, function, name):
    """The deviation of a report that has a name, or None."""
    return next((d for d in report["deviations"] if (d["function"], d["name"]) == (function, name)), None)


def _clause(report, function, name):
    found = _found(report, function, name)
    return f" (clause {found['clause']})" if found else ""


def _why(report, function, name):
    """What is wrong in the smallest case, and how to see it again."""
    found = _found(report, function, name)
    first = (found["message"].splitlines() or [""])[0]
    return [f"  {line}" for line in _wrapped(first)] + [f"      again: {found['replay']}"]


def _listed(names):
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def _wrapped(text):
    return textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent="      ", break_on_hyphens=False)
