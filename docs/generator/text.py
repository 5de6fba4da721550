"""Markdown and docstrings made ready for the site: formulas rendered, references linked, code left alone."""

import posixpath
import re
from dataclasses import dataclass, field
from html import escape

import markdown

from . import mathml

CLAUSE = r"[A-Z][A-Z0-9]*(?:-[A-Z0-9]+)+"
THREAD = r"[A-Za-z0-9][\w.-]*/[\w.-]+\#[0-9]+"
ARXIV = r"arXiv[:\s]\s*[0-9]{4}\.[0-9]{4,5}(?:v[0-9]+)?"

_MARKDOWN = re.compile(
    rf"""
      (?P<fence>^[ ]*(?P<ticks>```+|~~~+)[^\n]*\n.*?^[ ]*(?P=ticks)[ ]*$)
    | (?P<code>(?P<tick>`+)(?!`)(?:(?!\n\n).)+?(?<!`)(?P=tick)(?!`))
    | (?P<kept>\]\([^)\n]*\) | <[^<>\n]+>)
    | \$\$(?P<display>.+?)\$\$
    | (?<![\\$\w])\$(?!\s)(?P<inline>[^$]+?)(?<!\s)\$(?!\d)
    | (?<![\w`-])(?P<clause>{CLAUSE})(?![\w-])
    | (?<![\w`/])(?P<thread>{THREAD})\b
    | \b(?P<arxiv>{ARXIV})\b
    """,
    re.X | re.M | re.S,
)
_REFERENCE = re.compile(
    rf"(?<![\w-])(?P<clause>{CLAUSE})(?![\w-])|(?<![\w/])(?P<thread>{THREAD})\b|\b(?P<arxiv>{ARXIV})\b"
)
_PLAIN = re.compile(rf"(?P<tick>``?)(?P<code>.+?)(?P=tick)|{_REFERENCE.pattern}", re.S)


@dataclass
class Book:
    """Where everything that can be linked lives: name -> (page, anchor)."""

    clauses: dict = field(default_factory=dict)
    cases: dict = field(default_factory=dict)
    variants: dict = field(default_factory=dict)  # by (name, function)
    functions: dict = field(default_factory=dict)
    flags: dict = field(default_factory=dict)
    strict: bool = True  # a name that looks like a clause of a known family, and is none, is an error


class Page:
    """One page: its place, and links from it to everything else."""

    def __init__(self, book, path):
        self.book, self.path = book, path

    def to(self, path, anchor=""):
        """The address of another page, as seen from this one."""
        if path == self.path and anchor:
            return f"#{anchor}"
        address = posixpath.relpath(path, posixpath.dirname(self.path) or ".").removesuffix(".md") + ".html"
        return f"{address}#{anchor}" if anchor else address

    def link(self, place, label, css="", title=""):
        """An HTML link to a (page, anchor)."""
        attributes = (f' class="{css}"' if css else "") + (f' title="{escape(title)}"' if title else "")
        return f'<a{attributes} href="{escape(self.to(*place))}">{label}</a>'

    def clause(self, name):
        place = self.book.clauses.get(name)
        if place:
            return self.link(place, name, "clause-ref")
        if self.book.strict and name.split("-")[0] in {known.split("-")[0] for known in self.book.clauses}:
            raise LookupError(f"{self.path} names {name}, which is no clause")
        return name

    def case(self, name):
        return self.link(self.book.cases[name], f"<code>{name}</code>")

    def variant(self, name, function):
        return self.link(self.book.variants[name, function], f"<code>{name}</code>")

    def flag(self, name, title=""):
        return self.link(self.book.flags[name], name, "flag", title)

    def function(self, name):
        place = self.book.functions.get(name)
        return self.link(place, f"<code>{name}</code>") if place else f"<code>{name}</code>"

    def markdown(self, source):
        """Markdown with its formulas, clauses and threads turned into HTML."""

        def replace(found):
            if found["display"] is not None:
                return "\n" + mathml.display(found["display"]) + "\n"
            if found["inline"] is not None:
                return mathml.inline(found["inline"])
            if found["clause"] or found["thread"] or found["arxiv"]:
                return self.reference(found)
            if found["code"] and (named := found["code"].strip("`")) in self.book.clauses:
                return self.clause(named)
            return found[0]

        try:
            return _MARKDOWN.sub(replace, source)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None

    def inline(self, source):
        """One paragraph of Markdown as HTML, for places where Markdown is not looked at."""
        html = markdown.markdown(self.markdown(" ".join(source.split())))
        return html.removeprefix("<p>").removesuffix("</p>")

    def plain(self, source):
        """One paragraph of a docstring or a comment as HTML: `code`, clauses, threads, papers."""
        out, end = [], 0
        for found in _PLAIN.finditer(source):
            out.append(escape(source[end : found.start()], quote=False))
            code = found["code"]
            out.append(f"<code>{escape(code, quote=False)}</code>" if code else self.reference(found))
            end = found.end()
        return "".join(out) + escape(source[end:], quote=False)

    def references(self, html):
        """HTML without tags, in which clauses, threads and papers become links."""
        return _REFERENCE.sub(self.reference, html)

    def reference(self, found):
        """The link that a match of a clause, a thread or a paper stands for."""
        if found["clause"]:
            return self.clause(found["clause"])
        return thread(found["thread"]) if found["thread"] else paper(found["arxiv"])


def thread(name):
    """owner/repository#number as a link to its thread."""
    repository, number = name.split("#")
    return f'<a class="thread" href="https://github.com/{repository}/issues/{number}">{name}</a>'


def paper(name):
    """`arXiv 1234.56789` as a link to the paper."""
    number = re.sub(r"^arXiv[:\s]\s*", "", name)
    return f'<a class="paper" href="https://arxiv.org/abs/{number}">{name}</a>'


def paragraphs(source):
    """The paragraphs of a docstring, each on one line; a table keeps its lines."""
    parts = (part.strip("\n") for part in re.split(r"\n\s*\n", source) if part.strip())
    return [part if part.startswith("==") else " ".join(part.split()) for part in parts]


_TAG = re.compile(r"<[^>]+>")


def table(headings, rows):
    """An HTML table; a row is (id, cells). On narrow screens each cell stands under its heading."""
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    out = [f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>']
    for anchor, cells in rows:
        inside = "".join(
            f'<td data-label="{escape(_TAG.sub("", h))}">{c}</td>' for h, c in zip(headings, cells, strict=True)
        )
        out.append(f'<tr id="{escape(anchor)}">{inside}</tr>' if anchor else f"<tr>{inside}</tr>")
    return "\n".join([*out, "</tbody></table></div>"])
