"""Mask rules, and the patterns of mechanisms, drawn as SVG that takes its colours from the page."""

import inspect
import re
from html import escape

from refattn import masks
from refattn.testing import patterns

# Rule -> an example worth seeing and its numbers of queries and keys. A rule that is not listed is drawn with the
# example of its docstring.
EXAMPLES = {
    "everything": ("everything()", 16, 16),
    "causal": ("causal()", 16, 16),
    "window": ("window(3, 1)", 16, 16),
    "dilated": ("dilated(3, 3, 2)", 16, 16),
    "block": ("block(4)", 16, 16),
    "neighbours": ("neighbours(3, before=1, after=1)", 16, 16),
    "chunked": ("chunked(5)", 16, 16),
    "strided": ("strided(4)", 16, 16),
    "fixed": ("fixed(4)", 16, 16),
    "global_tokens": ("global_tokens([0, 9])", 16, 16),
    "prefix": ("prefix(6)", 16, 16),
    "padding": ("padding(11, starts=2)", 16, 16),
    "documents": ("documents([0] * 5 + [1] * 7 + [2] * 4)", 16, 16),
    "tree": ("tree([-1, 0, 0, 1, 1, 2, 2, 3], prefix=8)", 16, 16),
}
COMBINATIONS = [
    ("causal() & window(3, 0)", 16, 16, "A sliding window of four tokens: rules combine with &, | and ~."),
    ("causal() & window(3, 0) | global_tokens([0])", 16, 16, "The same, and position 0 sees and is seen by all."),
    ("causal()", 5, 16, "Five queries over sixteen keys, as in a step with a cache: the queries are the last five."),
    ("causal()", 16, 9, "More queries than keys: the first seven may attend to nothing."),
]


def example(name):
    """(expression, n, m) for a rule."""
    if name in EXAMPLES:
        return EXAMPLES[name]
    found = re.search(r">>> ?\(?(.+?)\)?\.dense\((\d+), (\d+)\)", getattr(masks, name).__doc__ or "")
    if not found:
        raise LookupError(
            f"refattn.masks.{name} has no picture: its docstring needs an example '>>> {name}(...).dense(n, m)'"
        )
    return found[1], int(found[2]), int(found[3])


def draw(expression, n, m):
    """A mask as SVG: queries are rows, keys are columns, a filled cell is a pair that the mask admits."""
    mask = eval(expression, {"__builtins__": {}}, {name: rule.build for name, rule in masks.RULES.items()})
    dense = mask.dense(n, m)
    while dense.ndim > 2:
        dense = dense[0]
    label = f"{expression}: {n} queries as rows, {m} keys as columns; {int(dense.sum())} of {n * m} pairs are admitted"
    return grid(dense, label)


def grid(dense, label):
    """Pairs as SVG: queries are rows, keys are columns, a cell is filled where a pair counts, with how often where that is more than once."""
    n, m = dense.shape
    cell, left, top = 10, 14, 14
    width, height = left + m * cell + 2, top + n * cell + 2
    out = [
        f'<svg class="mask" role="img" aria-label="{escape(label)}" viewBox="0 0 {width} {height}" width="{width}">',
        f'<text x="{left}" y="9">keys</text>',
        f'<text x="9" y="{top}" transform="rotate(-90 9 {top})" text-anchor="end">queries</text>',
        f'<rect class="field" x="{left}" y="{top}" width="{m * cell}" height="{n * cell}"/>',
    ]
    for i, row in enumerate(dense):
        j = 0
        while j < m:
            if row[j]:
                run = j
                while run < m and row[run]:
                    run += 1
                x, y, w = left + j * cell, top + i * cell, (run - j) * cell
                out.append(f'<rect class="on" x="{x}" y="{y}" width="{w}" height="{cell}"/>')
                j = run
            j += 1
        for j in range(m):
            if row[j] > 1:
                x, y = left + j * cell + cell // 2, top + i * cell + cell - 2
                out.append(f'<text class="often" x="{x}" y="{y}" text-anchor="middle">{row[j]}</text>')
    lines = "".join(f"M{left} {top + i * cell}h{m * cell}" for i in range(n + 1))
    lines += "".join(f"M{left + j * cell} {top}v{n * cell}" for j in range(m + 1))
    return "".join([*out, f'<path class="grid" d="{lines}"/></svg>'])


def pattern(mechanism):
    """The figure of a mechanism that has a pattern: which keys the queries of a call attend to; None of another."""
    subject = patterns.pictured(mechanism)
    if subject is None:
        return None
    n = m = 16
    given = subject.pictured(n, m)
    found = patterns.counts(subject, given, n, m)
    call = f"{subject.name}(q, k, v, {patterns.written(given)})"
    often = " A number says how often a key counts." if found.max() > 1 else ""
    caption = f"<code>{escape(call)}</code> for {n} queries (rows) and {m} keys (columns).{often}"
    label = f"{call}: {n} queries as rows, {m} keys as columns; {int((found > 0).sum())} of {n * m} pairs count"
    return f'<div class="gallery"><figure>{grid(found, label)}<figcaption>{caption}</figcaption></figure></div>'


def gallery(page):
    """A figure for every rule, and for some combinations."""
    out = ['<div class="gallery">']
    for name in masks.RULES:
        expression, n, m = example(name)
        summary = inspect.getdoc(getattr(masks, name)).partition("\n")[0].partition(" Clauses:")[0]
        place = page.link((page.path, f"refattn.masks.{name}"), f'<code class="rule">{escape(expression)}</code>')
        out.append(f"<figure>{draw(expression, n, m)}<figcaption>{place} {page.plain(summary)}</figcaption></figure>")
    out += ["</div>", "<h3>Combinations and alignment</h3>", '<div class="gallery">']
    for expression, n, m, text in COMBINATIONS:
        caption = f'<code class="rule">{escape(expression)}</code> {escape(text)}'
        out.append(f"<figure>{draw(expression, n, m)}<figcaption>{caption}</figcaption></figure>")
    return "\n".join([*out, "</div>"])
