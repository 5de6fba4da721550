"""One page a mechanism, put together from its parts; a part that is missing is an error."""

import ast
import functools
import importlib
import inspect
import json
import math
import pkgutil
import re
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np

import refattn
from refattn.masks import Mask
from refattn.testing import vectors
from refattn.testing.names import function_named
from refattn.testing.variants import variants

from . import docstrings, measured, pictures
from .code import Shelf, highlight, roots_of
from .text import CLAUSE, Page, table

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "spec"


class Incomplete(Exception):
    """A mechanism lacks a part of its page."""


@dataclass
class Mechanism:
    """The parts of one mechanism."""

    name: str
    title: str
    purpose: str
    sections: dict  # heading -> Markdown
    clauses: dict  # id -> Markdown
    definition: object = None  # the module spec.<name>.definition
    cases: tuple = ()
    modules: list = field(default_factory=list)  # of refattn, the array code
    functions: dict = field(
        default_factory=dict
    )  # name in FUNCTIONS -> (module, name there), or None if another page's
    api: list = field(default_factory=list)  # (public name, object)
    tests: dict = field(default_factory=dict)  # clause -> [(file, test)]
    variants: list = field(default_factory=list)

    @property
    def path(self):
        return f"mechanisms/{self.name}.md"


def read(name):
    """A mechanism with all its parts; Incomplete where one is missing."""
    m = _read_clauses(name)
    folder = SPEC / name
    for part in ("definition.py", "vectors.json"):
        if not (folder / part).is_file():
            raise Incomplete(f"spec/{name} lacks {part}")
    m.definition = importlib.import_module(f"spec.{name.replace('/', '.')}.definition")
    m.cases = vectors.load(name)
    m.modules = _modules(name)
    _place_functions(m)
    m.api = _public(m)
    m.tests = {clause: TESTS.get(clause, []) for clause in m.clauses}
    m.variants = [v for v in variants() if v.clause in m.clauses]
    _check(m)
    return m


def _read_clauses(name):
    where = f"spec/{name}/clauses.md"
    text = (SPEC / name / "clauses.md").read_text(encoding="utf-8")
    head, *parts = re.split(r"^## ", text, flags=re.M)
    found = re.fullmatch(r"# (\S[^\n]*)\n\n(\S.*)", head.strip(), re.S)
    if not found:
        raise Incomplete(f"{where} does not begin with a title and a paragraph that says what the mechanism is for")
    sections = {}
    for part in parts:
        heading, _, body = part.partition("\n")
        sections[heading.strip()] = body.strip()
    for heading in ("Mathematics", "Clauses", "Sources"):
        if not sections.get(heading):
            raise Incomplete(f"{where} lacks the section {heading}")
    clauses = {}
    before, *bodies = re.split(r"^### ", sections.pop("Clauses"), flags=re.M)
    if before.strip():
        raise Incomplete(f"{where}: there is text between '## Clauses' and the first clause")
    for body in bodies:
        clause, _, sentence = body.partition("\n")
        if not re.fullmatch(CLAUSE, clause) or not sentence.strip() or clause in clauses:
            raise Incomplete(f"{where}: '### {clause}' is no clause id, is empty or comes twice")
        clauses[clause] = sentence.strip()
    return Mechanism(name, found[1], found[2], sections, clauses)


def _modules(name):
    """The modules of refattn that hold a mechanism's array code."""
    dotted = f"refattn.{name.replace('/', '.')}"
    try:
        module = importlib.import_module(dotted)
    except ModuleNotFoundError:
        raise Incomplete(f"{dotted} does not exist: spec/{name} has no array code") from None
    inside = [f"{dotted}.{info.name}" for info in pkgutil.iter_modules(getattr(module, "__path__", []))]
    return [dotted, *inside]


def _place_functions(m):
    """For every function that the definition defines, the module and name of its array code."""
    for name in getattr(m.definition, "FUNCTIONS", {}):
        function = inspect.unwrap(function_named(name))
        owner = next((other for other in vectors.mechanisms() if _owns(other, function.__module__)), None)
        if owner not in (None, m.name):
            m.functions[name] = None  # shown on the other page
            continue
        if function.__module__ not in m.modules:
            m.modules.append(function.__module__)
        m.functions[name] = (function.__module__, function.__qualname__)


def _owns(mechanism, module):
    dotted = f"refattn.{mechanism.replace('/', '.')}"
    return module == dotted or module.startswith(dotted + ".")


def _public(m):
    """The documented functions and classes of a mechanism by the names that users write."""
    found = {}
    own = {inspect.unwrap(function_named(name)) for name, place in m.functions.items() if place}
    for dotted in m.modules:
        module = importlib.import_module(dotted)
        for name, thing in vars(module).items():
            if name.startswith("_") or not (inspect.isfunction(thing) or inspect.isclass(thing)):
                continue
            if thing.__module__ != dotted or not docstrings.is_documented(thing):
                continue
            if _owns(m.name, dotted) or inspect.unwrap(thing) in own:
                found[_written(name, thing)] = thing
    defined = [f"{place[0]}.{place[1].partition('.')[0]}" for place in m.functions.values() if place]

    def order(item):  # what the definition defines first, in its order
        _, thing = item
        place = f"{thing.__module__}.{thing.__qualname__}"
        first = defined.index(place) if place in defined else len(defined)
        return first, m.modules.index(thing.__module__), _line(thing)

    return sorted(found.items(), key=order)


def _line(thing):
    return inspect.getsourcelines(inspect.unwrap(thing))[1]


def _written(name, thing):
    """The shortest public name under which refattn offers something."""
    if name in refattn.__all__ and getattr(refattn, name) is thing:
        return f"refattn.{name}"
    module = thing.__module__
    for end in range(2, module.count(".") + 2):
        package = ".".join(module.split(".")[:end])
        if getattr(importlib.import_module(package), name, None) is thing:
            return f"{package}.{name}"
    return f"{module}.{name}"


def _check(m):
    """Every part is there, and every part names only what exists."""
    where = f"spec/{m.name}"
    if not m.functions:
        raise Incomplete(f"{where}/definition.py defines no FUNCTIONS")
    if not m.api:
        raise Incomplete(f"{m.modules[0]} has no documented function")
    without_test = [clause for clause, found in m.tests.items() if not found]
    without_case = [clause for clause in m.clauses if clause not in pinned()]
    if without_test or without_case:
        raise Incomplete(f"{where}: no test pins {without_test}; no golden case pins {without_case}")
    without_case = [name for name in m.functions if not any(case.function == name for case in m.cases)]
    if without_case:
        raise Incomplete(f"{where}: no golden case calls {', '.join(without_case)}")


@functools.cache
def pinned():
    """Every clause that a golden case pins."""
    return {clause for name in vectors.mechanisms() for case in vectors.load(name) for clause in case.clauses}


def _tests():
    """Clause -> [(file, test)], from the marks in tests/."""
    found = {}
    for path in sorted((ROOT / "tests").glob("**/test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                for call in (c for d in node.decorator_list for c in ast.walk(d) if isinstance(c, ast.Call)):
                    if getattr(call.func, "attr", "") == "clause":
                        for argument in call.args:
                            place = (str(path.relative_to(ROOT)), node.name)
                            if place not in found.setdefault(ast.literal_eval(argument), []):
                                found[ast.literal_eval(argument)].append(place)
    return found


TESTS = _tests()


def enter(m, book):
    """Tell the book where a mechanism's clauses, cases, variants and functions will be."""
    for clause in m.clauses:
        if clause in book.clauses:
            raise Incomplete(f"clause {clause} is stated twice: on {book.clauses[clause][0]} and in spec/{m.name}")
        book.clauses[clause] = (m.path, clause)
    for case in m.cases:
        book.cases[case.id] = (m.path, case.id)
    for v in m.variants:
        book.variants[v.name, v.function] = (m.path, f"variant-{v.function}-{v.name.replace('/', '-')}")
    public = {id(inspect.unwrap(thing)): name for name, thing in m.api}
    for name in m.functions:
        function = function_named(name)
        place = public.get(id(inspect.unwrap(function)))
        if place is None and "." in function.__qualname__:  # a method: its class
            place = next(
                n for n, thing in m.api if getattr(thing, "__qualname__", "") == function.__qualname__.split(".")[0]
            )
        if place:
            book.functions[name] = (m.path, place)


# --- the page -------------------------------------------------------------------------------------------------------


def page_of(m, book):
    """The Markdown of a mechanism's page."""
    page = Page(book, m.path)
    out = [f"# {m.title}", page.markdown(m.purpose), _facts(m, page)]
    out += ["## Mathematics", page.markdown(m.sections["Mathematics"])]
    out += ["## Clauses", _index(m, page), *(_clause(m, clause, page) for clause in m.clauses)]
    if m.name == "masks":
        out += [
            "## Pictures",
            "A row is a query, a column a key. A filled cell is a pair that the mask admits. Key position 0 is at the left.",
            pictures.gallery(page),
        ]
    elif figure := pictures.pattern(m.name):
        out += ["## Picture", figure]
    out += _definition_and_code(m, page)
    out += ["## Reference", *(_entry(m, name, thing, page) for name, thing in m.api)]
    out += ["## Golden cases", _about_cases(m, page), _cases(m, page)]
    out += ["## Variants", _about_variants(page), _variants(m, page)]
    out += measured.of(m.name)
    rest = [heading for heading in m.sections if heading not in ("Mathematics", "Sources")]
    for heading in [*rest, "Sources"]:
        out += [f"## {heading}", page.markdown(m.sections[heading])]
    return "\n\n".join(out) + "\n"


def _count(number, singular, plural=None):
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def _facts(m, page):
    tests = {test for found in m.tests.values() for test in found}
    facts = [
        f'<a href="#clauses">{_count(len(m.clauses), "clause")}</a>',
        f'<a href="#golden-cases">{_count(len(m.cases), "golden case")}</a>',
        f'<a href="#variants">{_count(len(m.variants), "variant")}</a>',
        _count(len(tests), "property test"),
    ]
    return f'<p class="facts">{" · ".join(facts)}<br>{", ".join(offered(m, page))}</p>'


def offered(m, page):
    """What a mechanism offers, as links to its reference."""
    return [page.link((m.path, name), f"<code>{name.removeprefix('refattn.')}</code>") for name, _ in m.api]


def _index(m, page):
    links = "\n".join(f"<li>{page.clause(clause)}</li>" for clause in m.clauses)
    return f'<ul class="clause-index">\n{links}\n</ul>'


def _clause(m, clause, page):
    sentence = force(page.markdown(m.clauses[clause]))
    return (
        f'<section class="clause" markdown="1">\n\n'
        f"### [{clause}](#{clause}) {{ #{clause} }}\n\n{sentence}\n\n"
        f"{_pins(m, clause, page)}\n\n</section>"
    )


def force(sentence):
    """A sentence with its MUST or SHOULD set off."""
    return re.sub(
        r"\b(MUST|SHOULD)( NOT)?\b",
        lambda found: f'<strong class="force {found[1].lower()}">{found[0]}</strong>',
        sentence,
    )


def _pins(m, clause, page):
    cases = [
        page.case(c.id) for other in vectors.mechanisms() for c in vectors.load(other) if _pinned_by(c, clause, page)
    ]
    tests = [
        f'<span class="test" title="{escape(file)}::{test}">{test.removeprefix("test_").replace("_", " ")}</span>'
        for file, test in m.tests[clause]
    ]
    broken = [page.variant(v.name, v.function) for v in _distinct(v for v in m.variants if v.clause == clause)]
    rows = [("Cases", cases), ("Tests", tests), ("Broken by", broken or ["no variant is known"])]
    return '<dl class="pins">' + "".join(f"<dt>{label}</dt><dd>{_list(items)}</dd>" for label, items in rows) + "</dl>"


def _list(items):
    return ", ".join(items) if items else "none"


def _pinned_by(case, clause, page):
    return clause in case.clauses and case.id in page.book.cases


def _distinct(found):
    """One variant of each name."""
    return list({v.name: v for v in reversed(list(found))}.values())[::-1]


def _definition_and_code(m, page):
    own = f"spec.{m.name.replace('/', '.')}.definition"
    definition, array = Shelf([own]), Shelf(m.modules)
    paired = [place for place in m.functions.values() if place]
    about = (
        f'Left the <a href="{page.to("reading.md")}">definition</a>, equations over 50-digit numbers; right the code on '
        "arrays. They share nothing. What several functions use is shown with the first of them; docstrings are under "
        '<a href="#reference">Reference</a>.'
    )
    out = ["## Definition and code", f"<p>{about}</p>"]
    for name, place in m.functions.items():
        if place is None:
            out.append(f"<p>{page.function(name)} is defined on its own page; the cases below call it.</p>")
            continue
        nodes = definition.sources[own].nodes
        roots = [(own, n) for n in roots_of(m.definition.FUNCTIONS[name], m.definition) if n in nodes]
        all_left = definition.closure(roots)
        left = [p for p in all_left if not (p[1].startswith("_") and inspect.isfunction(getattr(m.definition, p[1])))]
        left = definition.take(sorted(left, key=definition.line))
        all_right = array.closure([place], stop=paired)
        right = array.take(all_right)
        if not all_right:
            raise Incomplete(f"{m.name}: {name} has no code to show on the right")
        out.append(f"### {name} {{ #code-{name} }}")
        second = getattr(m.definition, "SECOND", {}).get(name)
        roots = [(own, n) for n in roots_of(second, m.definition) if n in nodes] if second else []
        more = [place for place in definition.closure(roots) if not place[1].startswith("_")]
        more = definition.take(sorted(more, key=definition.line))
        borrowed = "" if all_left else '<p class="above">Defined by the definition of another mechanism, unchanged.</p>'
        out.append(_beside(m, (definition, left, more), (array, right), page, borrowed))
    return out


def _beside(m, left, right, page, borrowed):
    definition, shown_left, second = left
    array, places = right
    shown = [p for p in places if p == places[0] or array.sources[p[0]].touches_arrays(p[1])]
    folded = [p for p in places if p not in shown]
    files = list(dict.fromkeys(array.sources[p[0]].path.relative_to(ROOT).as_posix() for p in places))
    above = '<p class="above">Shown above.</p>'
    left_html = highlight(definition.text(shown_left), page) if shown_left else borrowed or above
    right_html = highlight(array.text(shown), page) if shown else above
    if second:
        left_html += _folded("A second formulation, which has to agree to 40 digits", definition.text(second), page)
    if folded:
        names = ", ".join(f"<code>{name}</code>" for _, name in folded)
        right_html += _folded(f"Checks and other helpers: {names}", array.text(folded), page)
    return (
        '<div class="beside">'
        f'<div><p class="file">Definition <code>spec/{m.name}/definition.py</code></p>{left_html}</div>'
        f'<div><p class="file">Array code <code>{", ".join(files)}</code></p>{right_html}</div>'
        "</div>"
    )


def _folded(summary, source, page):
    return f"<details><summary>{summary}</summary>{highlight(source, page)}</details>"


def _entry(m, name, thing, page):
    out = ['<section class="api" markdown="1">', f"### {name} {{ #{name} }}"]
    written = name.removeprefix("refattn.")
    out.append(highlight(docstrings.signature(written, thing) + "\n", page, "signature"))
    out.append(docstrings.render(thing, page))
    shown = {place for place in m.functions.values() if place}
    place = (thing.__module__, thing.__qualname__)
    if inspect.isfunction(thing) and inspect.unwrap(thing).__qualname__ and place not in shown:
        code = Shelf([thing.__module__])
        out.append(_folded("Code", code.text([place]), page))
    if inspect.isclass(thing):
        for method, function in vars(thing).items():
            if inspect.isfunction(function) and not method.startswith("_") and function.__doc__:
                call = docstrings.signature(f"{thing.__name__}.{method}", function)
                out.append(highlight(call + "\n", page, "signature"))
                out.append(docstrings.render(function, page))
    return "\n\n".join([*out, "</section>"])


# --- tables ---------------------------------------------------------------------------------------------------------


def _about_cases(m, page):
    return (
        f"<p>The exact results are in <code>spec/{m.name}/vectors.json</code>. The last column says which wrong variants a case "
        "sees, and how far they lie from the right result in units of the error bound; ∞ means that a shape, an integer, a "
        f'NaN or an infinity differs. <a href="{page.to("reading.md")}">How to read it</a>.</p>'
    )


def _cases(m, page):
    flags = json.loads((SPEC / "flags.json").read_text(encoding="utf-8"))
    rows = []
    for case in m.cases:
        labels = " ".join(page.flag(flag, flags[flag]["meaning"]) for flag in case.flags)
        comment = f'<div class="comment">{page.plain(case.comment)}</div>' if case.comment else ""
        first = (
            f'<a class="case" href="#{case.id}"><code>{case.id}</code></a>{comment}<div class="flags">{labels}</div>'
        )
        arguments = "".join(f"<li><code>{name}</code> {shown(value)}</li>" for name, value in case.arguments.items())
        second = f'{page.function(case.function)}<ul class="arguments">{arguments}</ul>'
        pins = "<br>".join(page.clause(clause) for clause in case.clauses)
        rows.append((case.id, [first, second, pins, _catches(case, page)]))
    bounds = '<span class="distance"><span class="f32">float32</span> <span class="bf16">bfloat16</span></span>'
    return table(["Case", "Call", "Pins", f"Catches, at how many bounds of {bounds}"], rows)


def _catches(case, page):
    if case.refuses:
        return "must be refused"
    if not case.catches:
        return '<span class="dim">claims none</span>'
    items = []
    for name, at in case.catches.items():
        label = (
            page.variant(name, case.function) if (name, case.function) in page.book.variants else f"<code>{name}</code>"
        )
        distances = (
            f'<span class="distance"><span class="f32" title="bounds of float32">{number(at["float32"])}</span> '
            f'<span class="bf16" title="bounds of bfloat16">{number(at["bfloat16"])}</span></span>'
        )
        items.append(f"<li>{label} {distances}</li>")
    return f'<ul class="catches">{"".join(items)}</ul>'


def number(x):
    """A distance for reading."""
    if x == "inf" or x == math.inf:
        return "∞"
    if x >= 1e4:
        exponent = math.floor(math.log10(x))
        return f"{x / 10**exponent:.2g}·10<sup>{exponent}</sup>"
    return f"{x:.2g}" if x < 10 else f"{x:.0f}"


def shown(value):
    """An argument in a few words: arrays by shape, rules as they are written."""
    if isinstance(value, np.ndarray):
        kind = "" if value.dtype == np.float64 else f" {value.dtype}"
        if value.ndim == 1 and value.size <= 6 and value.dtype != np.float64:
            return f"[{', '.join(map(str, value.tolist()))}]"
        return f"({', '.join(map(str, value.shape))}{',' if value.ndim == 1 else ''}){kind}"
    if isinstance(value, Mask):
        text = re.sub(r"\[[^\[\]]{40,}\]", "[...]", repr(value).replace("\n", " "))
        return f"<code>{escape(text)}</code>"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {shown(item)}' for key, item in value.items())}}}"
    if hasattr(value, "_asdict"):
        fields = ", ".join(f"{name} {shown(item)}" for name, item in value._asdict().items() if item is not None)
        return f"{type(value).__name__}({fields})"
    if isinstance(value, list) and len(value) > 6:
        return f"list of {len(value)}"
    return f"<code>{escape(repr(value))}</code>"


def _about_variants(page):
    return (
        "<p>Other conventions and known bugs, each a function of the testing kit. Links lead to public threads in which they "
        f'were met; <a href="{page.to("kit/variants.md")}">another page</a> lists them by where they were seen.</p>'
    )


def _variants(m, page):
    rows = []
    for v in m.variants:
        place = page.book.variants[v.name, v.function]
        caught = [
            c.id
            for other in vectors.mechanisms()
            for c in vectors.load(other)
            if c.function == v.function and v.name in c.catches
        ]
        if not caught:
            raise Incomplete(f"no golden case catches the variant {v.name} of {v.function}")
        name = f'<a href="#{place[1]}"><code>{v.name}</code></a><div class="of">of {page.function(v.function)}</div>'
        meaning = page.plain(v.meaning)
        if v.advice:
            meaning += f'<div class="advice">If you mean that: {page.plain(v.advice)}.</div>'
        cases = ", ".join(page.case(c) if c in page.book.cases else c for c in caught)
        meaning += f'<div class="caught">Caught by {cases}</div>'
        seen = "<br>".join(page.plain(where) for where in v.seen) or '<span class="dim">not seen in public</span>'
        rows.append((place[1], [name, page.clause(v.clause), meaning, seen]))
    return table(["Variant", "Breaks", "What it does", "Seen in"], rows)
