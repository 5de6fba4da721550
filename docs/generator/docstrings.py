"""A numpydoc docstring as HTML: compact, with its formula rendered and its clauses linked."""

import dataclasses
import inspect
import math
import re
from html import escape
from textwrap import dedent

from . import mathml
from .code import highlight
from .text import paragraphs, table

_SECTION = re.compile(r"^(\S[^\n]*)\n(-{3,})\n", re.M)
_ENTRIES = ("Parameters", "Returns", "Raises", "Attributes", "See Also", "Yields", "Other Parameters")


def sections(doc):
    """[(heading, text)]; what comes before the first heading has the heading ''."""
    parts = _SECTION.split(doc)
    found = [("", parts[0])]
    for heading, _, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        found.append((heading.strip(), text))
    return found


def is_documented(thing):
    """Whether a docstring is meant for readers of the site: it has sections, or names its clauses."""
    doc = thing.__doc__ or ""
    return "Clauses:" in doc or len(sections(inspect.cleandoc(doc))) > 1


def render(thing, page):
    """The docstring of a function or class as one block of HTML."""
    doc = inspect.getdoc(thing) or ""
    out = []
    for heading, text in sections(doc):
        if heading == "":
            out.append(_prose(text, page, lead=True))
        elif heading in _ENTRIES:
            out.append(f'<p class="doc-heading">{heading}</p>\n{_entries(text, page)}')
        elif heading == "Examples":
            out.append(
                f'<p class="doc-heading">Example</p>\n{highlight(dedent(text).strip() + chr(10), page, language="pycon")}'
            )
        else:
            out.append(f'<p class="doc-heading">{heading}</p>\n{_prose(text, page)}')
    return "\n".join(part for part in out if part)


def _prose(text, page, lead=False):
    out = []
    for k, (formula, paragraph) in enumerate(_blocks(text)):
        if formula:
            out.append(mathml.display(formula))
        elif paragraph.startswith("=="):
            out.append(_table(paragraph, page))
        else:
            css = ' class="doc-lead"' if lead and k == 0 else ""
            out.append(f"<p{css}>{page.plain(paragraph)}</p>")
    return "\n".join(out)


def _table(text, page):
    """A simple table of reStructuredText, whose rules of = say where the columns are."""
    lines = text.split("\n")
    columns = [(found.start(), found.end()) for found in re.finditer("=+", lines[0])]
    rows = [[page.plain(line[a:b].strip()) for a, b in columns] for line in lines if not line.startswith("==")]
    return table(rows[0], [(None, row) for row in rows[1:]])


def _blocks(text):
    """(formula, '') or ('', paragraph or table), in order; a formula is a `.. math::` directive."""
    lines, formula = text.strip("\n").split("\n"), []
    prose = []
    for line in [*lines, ""]:
        if formula and (line.startswith("    ") or not line.strip()):
            formula.append(line.strip())
            continue
        if formula:
            yield " ".join(formula).strip(), ""
            formula = []
        if line.startswith(".. math::"):
            yield from (("", p) for p in paragraphs("\n".join(prose)))
            prose = []
            formula = [line.removeprefix(".. math::").strip() or " "]
        else:
            prose.append(line)
    if formula:
        yield " ".join(formula).strip(), ""
    yield from (("", p) for p in paragraphs("\n".join(prose)))


def _entries(text, page):
    """A list of `name : type` with indented descriptions; a paragraph that is not indented ends it."""
    out, opened = [], False
    for entry in re.split(r"\n(?=\S)", dedent(text).strip()):
        head, _, body = entry.partition("\n")
        name, colon, kind = head.partition(" : ")
        if colon:
            names = ", ".join(f"<code>{escape(part.strip())}</code>" for part in name.split(","))
            head_html = f'{names} <span class="kind">{page.plain(kind)}</span>'
        elif re.fullmatch(r"[\w*]+(, ?[\w*]+)*", head):
            head_html = ", ".join(f"<code>{escape(part.strip())}</code>" for part in head.split(","))
        else:
            head_html = f'<span class="kind">{page.plain(head)}</span>'
        if not opened:
            out.append('<dl class="doc">')
            opened = True
        out.append(f"<dt>{head_html}</dt>")
        if body.strip():
            out.append(f"<dd>{page.plain(' '.join(paragraphs(dedent(body))))}</dd>")
    return "\n".join([*out, "</dl>"]) if opened else ""


class _Written(str):
    """A default value as it is written."""

    __repr__ = str.__str__


def _default(parameter, thing):
    """The default of a parameter, such that its repr is the code for it."""
    default = parameter.default
    if default is inspect.Parameter.empty:
        return default
    if isinstance(default, float) and 0 < default < 1e-3 and math.frexp(default)[0] == 0.5:
        return _Written(f"2**{math.frexp(default)[1] - 1}")
    if inspect.isroutine(default) or inspect.isclass(default):
        return _Written(default.__name__)
    if dataclasses.is_dataclass(thing):
        field = next(field for field in dataclasses.fields(thing) if field.name == parameter.name)
        if field.default_factory is not dataclasses.MISSING:
            return field.default_factory()
    return default


def signature(name, thing):
    """`name(arguments)` as one would write it."""
    try:
        shown = inspect.signature(thing)
    except (TypeError, ValueError):
        return name
    parameters = []
    for parameter in shown.parameters.values():
        default = _default(parameter, thing)
        parameters.append(str(parameter.replace(annotation=inspect.Parameter.empty, default=default)))
    kinds = [p.kind for p in shown.parameters.values()]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        parameters.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    if inspect.Parameter.POSITIONAL_ONLY in kinds:
        last = max(k for k, kind in enumerate(kinds) if kind is inspect.Parameter.POSITIONAL_ONLY)
        parameters.insert(last + 1, "/")
    return f"{name}({', '.join(parameters)})"
