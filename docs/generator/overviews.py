"""Pages that look across mechanisms: clauses, flags, variants, the kit, and what a failure looks like."""

import inspect
import json
import re
from html import escape

import numpy as np

import refattn
from refattn import masks, testing
from refattn.testing.profiles import PROFILES
from refattn.testing.rounding import FORMATS, round_to
from refattn.testing.variants import variants

from . import docstrings
from .code import highlight
from .mechanisms import ROOT, SPEC, force, number
from .text import THREAD, Page, table


def failure():
    """What the kit says about a causal kernel that aligns its queries with the first keys instead of the last."""
    draw = np.random.default_rng(2017)
    q, k, v = (round_to(draw.normal(size=(2, 4, n, 64)), "bfloat16") for n in (128, 160, 160))
    wrong = next(variant for variant in variants("attention") if variant.name == "causal/top_left")
    out = round_to(wrong.call(q, k, v, mask=masks.causal()), "bfloat16")
    try:
        testing.assert_matches(out, refattn.attention, q, k, v, mask=masks.causal(), precision="bfloat16")
    except AssertionError as error:
        return f'<div class="highlight wrapped message"><pre><code>{_lines(str(error))}</code></pre></div>'
    raise RuntimeError("assert_matches accepts causal/top_left: the front page has no failure to show")


def _lines(text):
    return "".join(
        f'<span class="line" style="--i:{len(line) - len(line.lstrip())}">{escape(line, quote=False)}\n</span>'
        for line in text.split("\n")
    )


def clauses(mechanisms, book):
    """Every clause with its sentence."""
    page = Page(book, "implementers/clauses.md")
    out = [
        "# All clauses",
        "A clause is one sentence. MUST is judged, SHOULD is reported. A name is never reused: a wrong clause is retired with "
        "an erratum.",
    ]
    for m in mechanisms:
        rows = [(None, [page.clause(name), force(page.inline(text))]) for name, text in m.clauses.items()]
        out += [f"## {m.title}", table(["Clause", "Statement"], rows)]
    return page.path, "\n\n".join(out) + "\n"


def flags(book):
    """What the flags of golden cases mean."""
    page = Page(book, "implementers/flags.md")
    rows = []
    for name, flag in json.loads((SPEC / "flags.json").read_text(encoding="utf-8")).items():
        links = "<br>".join(page.plain(link) for link in flag["links"])
        kind = flag["kind"].replace("_", " ").lower()
        rows.append(
            (
                name,
                [
                    f'<a href="#{name}"><code>{name}</code></a><div class="of">{kind}</div>',
                    flag["meaning"],
                    flag["effect"],
                    links,
                ],
            )
        )
    text = (
        "# Flags\n\nA golden case carries flags that say what kind of mistake it was made for, so that a failure reads as a "
        "diagnosis. `spec/flags.json` holds them for programs.\n\n"
    )
    return page.path, text + table(["Flag", "The case has", "What goes wrong", "Where it was seen"], rows) + "\n"


def seen(book):
    """The variants by where they were seen."""
    page = Page(book, "kit/variants.md")
    places = {}
    for v in variants():
        if (v.name, v.function) not in book.variants:
            continue
        for where in v.seen:
            found = re.match(rf"({THREAD})(.*)", where)
            key = found[1].partition("#")[0] if found else where
            places.setdefault(key, {}).setdefault((v.name, v.function), []).append(where if found else "")
    out = [
        "# Variants by where they were seen",
        "Not every row is a bug: many are another convention, kept on purpose. What a variant does and what to pass if you mean "
        "it stands on the page of its mechanism. A project is listed where a public thread of it describes the variant; it may "
        "have changed since. Libraries and interfaces come first, then repositories with their threads.",
    ]
    for title, is_repository in (("Libraries and interfaces", False), ("Repositories", True)):
        rows = []
        for key in sorted(
            (k for k in places if bool(re.fullmatch(r"[\w.-]+/[\w.-]+", k)) is is_repository), key=str.lower
        ):
            items = []
            for (name, function), threads in places[key].items():
                links = ", ".join(page.plain(thread) for thread in dict.fromkeys(threads) if thread)
                items.append(
                    f"<li>{page.variant(name, function)} of <code>{function}</code>{': ' + links if links else ''}</li>"
                )
            rows.append((None, [escape(key), f"<ul>{''.join(items)}</ul>"]))
        out += [f"## {title}", table(["Where", "Variants"], rows)]
    return page.path, "\n\n".join(out) + "\n"


def profiles():
    """The precision profiles as a table."""
    rows = []
    for p in PROFILES.values():
        rows.append(
            (
                None,
                [
                    f"<code>{p.name}</code>",
                    p.order,
                    p.operands.name if p.operands else "as given",
                    p.scores.name if p.scores else "not stored",
                    p.weights.name if p.weights else "not rounded",
                    _power(p.u_acc),
                    p.out.name,
                ],
            )
        )
    return table(["Profile", "Order", "Operands", "Scores", "Weights", "Accumulator u", "Output"], rows)


def formats():
    rows = [
        (None, [f"<code>{f.name}</code>", str(f.precision), _power(f.u), str(f.emin), f"{f.largest:.6g}", f.overflow])
        for f in FORMATS.values()
    ]
    return table(["Format", "Significant bits", "Unit roundoff", "Least exponent", "Largest", "Beyond it"], rows)


def _power(x):
    exponent = int(np.log2(x))
    return f"2<sup>{exponent}</sup>" if 2.0**exponent == x else f"{number(x)}"


def kit_reference(book):
    """The public functions and classes of refattn.testing."""
    page = Page(book, "kit/index.md")
    out = []
    for name in sorted(testing.__all__, key=lambda name: (inspect.isclass(getattr(testing, name)), name)):
        thing = getattr(testing, name)
        if not (inspect.isfunction(thing) or inspect.isclass(thing)) or not thing.__doc__:
            continue
        out += [
            '<section class="api" markdown="1">',
            f"### refattn.testing.{name} {{ #refattn.testing.{name} }}",
            highlight(docstrings.signature(f"testing.{name}", thing) + "\n", page, "signature"),
            docstrings.render(thing, page),
            "</section>",
        ]
    return "\n\n".join(out)


def contract(book):
    """spec/README.md, for implementers in other languages."""
    page = Page(book, "implementers/index.md")
    text = (ROOT / "spec" / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"^ {3}(?=\S)", "    ", text, flags=re.M)  # Markdown here nests by four spaces
    return page.path, page.markdown(text)
