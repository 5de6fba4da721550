"""The page that says which implementation follows which convention, from the presets."""

from html import escape

from refattn.testing import presets
from refattn.testing.conventions import NOT_ASKED, REFUSES, UNKNOWN, points

from .text import Page, table

_GROUPS = {
    "Scale, shapes and heads": ("scale", "values", "keys", "heads"),
    "Masks": ("mask",),
    "Biases": ("bias",),
    "Causality": ("causal",),
    "Windows": ("window",),
    "Softcap, sinks and dropout": ("softcap", "sink", "dropout"),
    "Log-sum-exp": ("lse",),
}


def page(book):
    """Implementation by decision point: what it does, the variant that this is, and where it stands."""
    here = Page(book, "kit/implementations.md")
    known = [presets.get(name) for name in presets.names()]
    out = [
        "# Conventions of implementations",
        "What each implementation decides at each point where implementations differ. *Measured* ones were run on a CPU "
        "and asked by the same questions as `refattn identify` asks; *read* ones were read in their sources, and what those "
        "do not settle is unknown. An answer that is not the reference's own is a variant, by the name under it. "
        "`refattn identify TARGET` fills in such a row for any function.",
    ]
    rows = [
        (
            p.name,
            [f"<code>{p.name}</code>", escape(p.title), p.evidence, here.plain(p.version), " ".join(p.layout.upper())],
        )
        for p in known
    ]
    out.append(table(["Preset", "Implementation", "Evidence", "Version", "Axes"], rows))
    for title, families in _GROUPS.items():
        asked = [p for p in points() if p.name.partition("/")[0] in families]
        headings = ["Preset", *(f"{escape(p.title)}<br>{here.clause(p.clause)}" for p in asked)]
        rows = [
            (None, [here.link((here.path, p.name), f"<code>{p.name}</code>"), *(_cell(here, p, a) for a in asked)])
            for p in known
        ]
        out += [f"## {title}", table(headings, rows)]
    return here.path, "\n\n".join(out) + "\n"


def _cell(here, preset, point):
    answer = preset.answers[point.name]
    parts = [escape(point.meaning(answer))]
    if answer not in (REFUSES, UNKNOWN, NOT_ASKED):
        for name in point.answer(answer).variants:
            place = next((key for key in here.book.variants if key[0] == name), None)
            parts.append(here.variant(*place) if place else f"<code>{name}</code>")
    if note := preset.notes.get(point.name):
        parts.append(f"<small>{here.plain(note)}</small>")
    return "<br>".join(parts)
