"""What there is, by name: for `refattn list` and `refattn show`."""

from __future__ import annotations

import difflib
import inspect
import re
import textwrap

import refattn
from refattn.testing import adapters, expressions, patterns, presets, vectors
from refattn.testing.conventions import NOT_ASKED, REFUSES, UNKNOWN, points
from refattn.testing.formulas import in_text
from refattn.testing.names import RULES, function_named, rule_named
from refattn.testing.names import functions as reference_functions
from refattn.testing.profiles import PROFILES, Profile
from refattn.testing.subject import mechanisms
from refattn.testing.variants import variants

LONGEST_NAME = 100  # what is longer is no name with a slip in it
LARGEST_PICTURE = 1000  # queries or keys
_CLAUSE = re.compile(r"^### (\S+)\n\n(.*?)(?=\n\n|\n#|\Z)", re.S | re.M)


def text_of(mechanism: str, file: str = "clauses.md") -> str:
    """A file of a mechanism."""
    return (vectors.spec_dir() / mechanism / file).read_text(encoding="utf-8")


def clauses() -> dict[str, tuple[str, str]]:
    """Clause id -> (mechanism, its sentence)."""
    found = {}
    for mechanism in mechanisms():
        for name, body in _CLAUSE.findall(text_of(mechanism)):
            found[name] = (mechanism, " ".join(body.split()))
    return found


def functions() -> dict[str, object]:
    """Public function -> itself; what is not in the first name space comes by its full name, after the others."""
    found = {name: f for name in refattn.__all__ if inspect.isfunction(f := getattr(refattn, name))}
    return found | {name: function_named(name) for name in sorted(reference_functions() - set(found))}


def rules() -> dict[str, object]:
    """The functions of refattn.masks that build a rule."""
    return {name: rule_named(name) for name in RULES}


def _summary(thing):
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def listing(what: str) -> list[tuple[str, str]]:
    """(name, what it is) for every mechanism, function, clause, variant, target, precision or mask."""
    if what == "mechanisms":
        return [(name, text_of(name).partition("\n")[0].lstrip("# ")) for name in mechanisms()]
    if what == "functions":
        return [(name, _summary(f)) for name, f in functions().items()]
    if what == "clauses":
        return [(name, in_text(sentence)) for name, (_, sentence) in clauses().items()]
    if what == "variants":
        return [(v.name, f"{v.function}, {v.clause}: {v.meaning}") for v in variants()]
    if what == "presets":
        known = [presets.get(name) for name in presets.names()]
        return [(p.name, f"{p.evidence} on {p.version}: {p.title}") for p in known]
    if what == "targets":
        installed = adapters.installed()
        return [(name, "installed" if name in installed else "not installed") for name in adapters.NAMES]
    if what == "precisions":
        return [(p.name, _rounding(p)) for p in PROFILES.values()]
    return [(name, _summary(f)) for name, f in rules().items()]


_ORDERS = {"flash": "flash (divides last)", "eager": "eager (divides before the values)"}


def _rounding(p: Profile) -> str:
    """What a kernel of a profile rounds, and where, in one line."""
    steps = (("operands", p.operands), ("scores", p.scores), ("weights", p.weights), ("out", p.out))
    rounded = ", ".join(f"{what} {form.name}" for what, form in steps if form)
    scaled = f"; weights are multiplied by {p.prescale:g} before" if p.prescale != 1 else ""
    return f"{_ORDERS[p.order]}; rounds {rounded}{scaled}"


def shown(name: str, n: int = 16, m: int = 16) -> str:
    """Everything about one name, as text.

    Raises
    ------
    LookupError
        Nothing has that name.
    ValueError
        It is an expression of masks that is wrong, or that cannot be drawn for N queries and M keys.
    """
    known_clauses, known_functions = clauses(), functions()
    if name in known_clauses:
        return _clause(name, *known_clauses[name])
    named = [v for v in variants() if v.name == name]
    if named:
        return "\n\n".join(map(_variant, named))
    if name in presets.names():
        return _preset(presets.get(name))
    mechanism, bracket, own = name.removesuffix(")").partition("(")
    if name in mechanisms():
        return _mechanism(name, known_functions.get(name), n, m)
    if mechanism in mechanisms() and bracket and name.endswith(")"):
        return _pattern(mechanism, own, n, m)
    if name in known_functions:
        return _function(name, known_functions[name])
    for mechanism in vectors.mechanisms():
        for case in vectors.load(mechanism):
            if case.id == name:
                return _case(case)
    if name in RULES or expressions.looks_like_one(name):
        return _drawn(expressions.parse(name), n, m)
    everything = [
        *presets.names(),
        *known_clauses,
        *known_functions,
        *mechanisms(),
        *rules(),
        *(v.name for v in variants()),
    ]
    near = difflib.get_close_matches(name, everything, n=3) if len(name) <= LONGEST_NAME else []
    hint = f"; did you mean {', '.join(near)}?" if near else "; refattn list shows what there is"
    if name in PROFILES:
        raise LookupError(f"{name} is a precision; refattn list precisions says what it rounds")
    if name.count(".") >= 2 and name.partition(".")[0] in known_functions:
        hint = f"; a case of a report is shown by refattn replay {name[:LONGEST_NAME]} TARGET"
    raise LookupError(f"nothing is called {name[:LONGEST_NAME]!r}{hint}")


def picture(mask, n: int, m: int) -> str:
    """A mask drawn with one character a pair."""
    dense = mask.dense(n, m)
    if 0 in dense.shape[:-2]:
        raise ValueError("it is a rule for no sequence at all")
    while dense.ndim > 2:
        dense = dense[0]
    return "\n".join("  " + " ".join("■" if cell else "·" for cell in row) for row in dense)


def _drawable(n, m):
    if n > LARGEST_PICTURE or m > LARGEST_PICTURE:
        raise ValueError(f"a picture of {n} x {m} is too large: {LARGEST_PICTURE} x {LARGEST_PICTURE} is the most")


def _pattern(mechanism, own, n, m):
    """Which keys the queries of a mechanism attend to, in the call of its example or with other arguments."""
    subject = patterns.pictured(mechanism)
    if subject is None:
        raise LookupError(f"{mechanism} has no pattern to draw")
    _drawable(n, m)
    given = patterns.call_of(subject, own, n, m)
    try:
        found = patterns.counts(subject, given, n, m)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{mechanism} for {n} queries and {m} keys (--size): {error}") from None
    numbers = "; a number says how often a key counts" if found.max(initial=0) > 1 else ""
    call = f"{subject.name}(q, k, v, {patterns.written(given)})"
    return f"{call}\n{n} queries (rows) over {m} keys (columns){numbers}\n\n{patterns.drawn(found)}"


def _drawn(mask, n, m):
    _drawable(n, m)
    try:
        drawn = picture(mask, n, m)
    except ValueError as error:  # its data do not go with these sizes
        raise ValueError(f"{mask!r} for {n} queries and {m} keys (--size): {error}") from None
    return f"{mask!r}, {n} queries (rows) over {m} keys (columns)\n\n{drawn}"


def _clause(name, mechanism, sentence):
    lines = [f"{name}  ({mechanism})", "", textwrap.fill(in_text(sentence), 100), ""]
    cases = [c.id for m in vectors.mechanisms() for c in vectors.load(m) if name in c.clauses]
    broken_by = sorted({v.name for v in variants() if v.clause == name})
    lines.append(f"golden cases: {', '.join(cases) or 'none'}")
    lines.append(f"broken by:    {', '.join(broken_by) or 'no known variant'}")
    return "\n".join(lines)


def _variant(v):
    lines = [f"{v.name}  (variant of {v.function}; breaks {v.clause})", "", textwrap.fill(v.meaning, 100)]
    if v.seen:
        lines.append(f"\nseen in: {', '.join(v.seen)}")
    if v.advice:
        lines.append(f"if you mean that: {v.advice}")
    caught = [
        c.id for m in vectors.mechanisms() for c in vectors.load(m) if c.function == v.function and v.name in c.catches
    ]
    lines.append(f"caught by: {', '.join(caught)}")
    return "\n".join(lines)


def _preset(p):
    lines = [f"{p.name}  ({p.evidence} on {p.version})", "", p.title]
    lines += [
        f"axes: {' '.join(p.layout.upper())}; precision: {', '.join(f'{k} as {v}' for k, v in p.profiles.items())}",
        "",
    ]
    for point in points():
        answer = p.answers[point.name]
        if answer == NOT_ASKED:
            continue
        named = () if answer in (REFUSES, UNKNOWN) else point.answer(answer).variants
        mark = "*" if named else "-" if answer == REFUSES else "?" if answer == UNKNOWN else " "
        note = f"  [{p.notes[point.name]}]" if point.name in p.notes else ""
        lines.append(f" {mark} {point.title:<52}  {point.meaning(answer)}  {', '.join(named)}".rstrip() + note)
    lines += ["", f"variants: {', '.join(p.variants) or 'none'}"]
    return "\n".join(lines)


def _function(name, function):
    return f"{name}{inspect.signature(function)}\n\n{inspect.getdoc(function) or '(python -OO has dropped its text)'}"


def _mechanism(name, function, n, m):
    parts = [
        text_of(name).strip(),
        f"--- definition (spec/{name}/definition.py) ---",
        text_of(name, "definition.py").strip(),
    ]
    if patterns.pictured(name):
        parts.insert(0, _pattern(name, "", n, m))
    if function is not None:
        parts.insert(0, f"{name}{inspect.signature(function)}")
    return "\n\n".join(parts)


def _case(case):
    lines = [f"{case.id}  ({case.function}; {', '.join(case.clauses)})"]
    lines += [textwrap.fill(case.comment, 100)] if case.comment else []
    for name, value in case.arguments.items():
        lines.append(f"{name} = {value!r}")
    lines += (
        ["must be refused"] if case.refuses else [f"expect {name} = {value!r}" for name, value in case.expect.items()]
    )
    lines += [f"catches {name} at {at} bounds" for name, at in case.catches.items()]
    return "\n".join(lines)
