"""A report as one HTML page for people: nothing is fetched, no script runs, light and dark, narrow and wide."""

from __future__ import annotations

import math
from html import escape

from refattn.testing.allow import told
from refattn.testing.formulas import in_html
from refattn.testing.reports.matrix import table, word

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #57606a; --page: #fff; --line: #d0d7de; --box: #f6f8fa;
  --good: #1a7f37; --warn: #8a5a00; --bad: #b3261e; --link: #0550ae }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --dim: #9aa4af; --page: #0d1117; --line: #30363d;
  --box: #161b22; --good: #56d364; --warn: #e3b341; --bad: #ff7b72; --link: #79c0ff } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 70rem; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--page); overflow-wrap: anywhere }
h1 { font-size: 1.5rem; line-height: 1.25 } h2 { font-size: 1.2rem; margin-top: 2rem } h3 { font-size: 1rem; margin: 0 }
a { color: var(--link) } .holds { color: var(--good) } .known { color: var(--warn) } .broken { color: var(--bad) }
.none, .dim { color: var(--dim) } .verdict { font-weight: 700; font-size: 1.1rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100% }
caption { text-align: left; color: var(--dim); padding-bottom: .25rem }
th, td { text-align: left; vertical-align: top; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--line) }
section + section { margin-top: 3rem } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
.matrix th, .matrix td { overflow-wrap: normal; white-space: nowrap }
article { border: 1px solid var(--line); border-left: .3rem solid var(--bad); border-radius: .3rem; padding: .7rem 1rem;
  margin: .8rem 0 } article.k { border-left-color: var(--warn) }
pre, code { font: .85rem/1.45 ui-monospace, monospace } pre { white-space: pre-wrap; background: var(--box);
  padding: .6rem; border-radius: .3rem; margin: .5rem 0 }
.strip { display: flex; flex-wrap: wrap; gap: 1px; margin: .3rem 0 1rem }
.strip i { width: .7rem; height: 1.1rem; background: var(--line); font-style: normal }
.strip .h0 { background: #b7e3c0 } .strip .h1 { background: #6fc081 } .strip .h2 { background: #2f8f46 }
.strip .h3 { background: #d9a400 } .strip .k { background: repeating-linear-gradient(45deg, #d98f00 0 3px, #fff3 3px 5px) }
.strip .b { background: #d1242f; height: 1.1rem; border-top: .35rem solid #000 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 0 } dt { color: var(--dim) } dd { margin: 0 }
"""


def as_html(documents: list[dict]) -> str:
    """One page for one or several reports.

    Parameters
    ----------
    documents : list of dict
        As `as_document` makes them.
    """
    from refattn.testing.catalogue import clauses

    names = ", ".join(document["target"]["name"] for document in documents)
    bodies = [_report(document, n, clauses()) for n, document in enumerate(documents)]
    matrix = _matrix(documents) if len(documents) > 1 else ""
    used = sorted(set().union(*(document["clauses"] for document in documents)))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>refattn: {escape(names)}</title><style>{_STYLE}</style></head>\n<body><main>"
        + matrix
        + "\n".join(bodies)
        + _texts(used, clauses())
        + "</main></body></html>\n"
    )


def verdict(document: dict) -> tuple[str, str]:
    """(class, sentence): what came of it in one line."""
    new = sum(d["status"] == "broken" for d in document["deviations"])
    known = len(document["deviations"]) - new
    unjudged = document["counts"]["unjudged"]
    if document["interrupted"]:
        return "broken", f"Interrupted; {new} new deviations until then"
    if unjudged:
        more = f"; {new} new deviation{'s' * (new != 1)} in the others" if new else ""
        return "broken", f"Could not be judged: {unjudged} case{'s' * (unjudged != 1)}{more}"
    if new:
        return "broken", f"Does not conform: {new} new deviation{'s' * (new != 1)}"
    weak = [found["function"] for found in document["coverage"] if found["weak"]]
    if not document["ok"]:
        if document["strict"] and document["allow_list_problems"]:
            return "broken", "Allow-list out of date"
        said = f"Weak: too little of {', '.join(weak)} was checked"
        return "broken", said if weak else "Nothing was checked"
    so_far = " as far as was asked" if document["time"]["unasked"] else ""
    if known:
        return "known", f"Conforms{so_far} but for {known} known deviation{'s' * (known != 1)}"
    return "holds", f"Conforms{so_far}"


def _matrix(documents):
    head = "".join(
        f'<th scope="col"><a href="#r{n}">{escape(d["target"]["name"])}</a></th>' for n, d in enumerate(documents)
    )
    rows = "".join(
        f'<tr><th scope="row"><a href="#{clause}">{clause}</a></th>'
        + "".join(f'<td class="{_class(cell)}">{cell}</td>' for cell in cells)
        + "</tr>"
        for clause, cells in table(documents).items()
    )
    return (
        '<h1>Implementations side by side</h1><div class="scroll"><table class="matrix"><caption>Cases by clause</caption>'
        f'<thead><tr><th scope="col">clause</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _class(cell):
    return {"BROKEN": "broken", "UNJUDGED": "broken", "known": "known", "holds": "holds"}.get(cell.split()[0], "none")


def _report(document, number, clauses):
    target, counts = document["target"], document["counts"]
    kind, sentence = verdict(document)
    title = f"{target['name']} {target['version']}".strip()
    facts = {"refattn": document["environment"]["refattn"], "effort": document["effort"], "seed": document["seed"]}
    facts |= document["options"] | target["details"]
    facts |= {k: v for k, v in document["environment"].items() if k != "refattn" and v not in (None, {}, "")}
    listed = "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items())
    parts = [
        f'<section id="r{number}"><h1>{escape(title)}</h1>',
        f'<p class="verdict {kind}">{escape(sentence)}</p>',
        f"<p>{counts['holds']} cases hold, {counts['known']} deviate as known, {counts['broken']} deviate newly,"
        f" {counts['unsupported']} are not supported{_also(counts)}; {document['seconds']:.1f} s.</p>",
        *(
            [f"<p>{escape(listed_on.capitalize())}.</p>"]
            if (listed_on := told(document["measured"], target["version"]))
            else []
        ),
        f"<details><summary>Environment</summary><dl>{listed}</dl></details>",
        _causes(document),
        _deviations(document, "broken", "New deviations"),
        _unjudged(document),
        _deviations(document, "known", "Known deviations"),
        _clauses(document),
        _strips(document),
        _unasked(document),
        _coverage(document),
        _missing(document),
    ]
    if document["allow_list_problems"]:
        items = "".join(f"<li>{escape(p)}</li>" for p in document["allow_list_problems"])
        parts.append(f"<h2>Allow-list out of date</h2><ul>{items}</ul>")
    return "".join(parts) + "</section>"


def _also(counts):
    return f", {counts['unjudged']} could not be judged" if counts["unjudged"] else ""


def _unjudged(document):
    items = "".join(
        f'<article class="b"><h3>{escape(u["text"])}</h3><p>in {len(u["cases"])} cases of {escape(u["function"])}</p>'
        f"<pre>{escape(u['replay'])}</pre></article>"
        for u in document["unjudged"]
    )
    return f"<h2>Could not be judged</h2>{items}" if items else ""


def _causes(document):
    causes = document.get("causes", [])
    items = "".join(f"<li><b>{escape(c['function'])}</b>: {escape(c['sentence'])}</li>" for c in causes)
    return f"<h2>Causes</h2><ul>{items}</ul>" if items else ""


def _deviations(document, status, title):
    found = [d for d in document["deviations"] if d["status"] == status]
    if not found:
        return ""
    return f"<h2>{title}</h2>" + "".join(map(_deviation, found))


def _deviation(d):
    count = len(d["cases"])
    reason = f"<p>{escape(d['reason'])}</p>" if d["reason"] else ""
    body = (
        f"<p>Smallest case: <code>{escape(d['smallest']['id'])}</code>"
        f' <span class="dim">({escape(d["smallest"]["arguments"])})</span></p>'
        f"<pre>{escape(d['message'])}</pre><p>See it again:</p><pre>{escape(d['replay'])}</pre>"
    )
    if d["status"] == "known":
        body = f"<details><summary>What is measured</summary>{body}</details>"
    return (
        f'<article class="{d["status"][0]}"><h3>{escape(d["name"])} in {escape(d["function"])}</h3>'
        f'<p>breaks <a href="#{d["clause"]}">{d["clause"]}</a> in {count} case{"s" * (count != 1)}</p>{reason}{body}</article>'
    )


def _clauses(document):
    rows = []
    for clause, n in document["clauses"].items():
        cell = word(n)
        said = {"holds": "holds", "none": "not supported"}.get(_class(cell), cell)
        rows.append(
            f'<tr><th scope="row"><a href="#{clause}">{clause}</a></th><td class="{_class(cell)}">{said}</td>'
            + "".join(
                f'<td class="n">{n[s] or ""}</td>' for s in ("holds", "known", "broken", "unsupported", "unjudged")
            )
            + "</tr>"
        )
    head = '<th scope="col">clause</th><th scope="col">verdict</th>'
    head += "".join(
        f'<th scope="col" class="n">{x}</th>' for x in ("hold", "known", "new", "not supported", "not judged")
    )
    return (
        f'<h2>Clauses</h2><div class="scroll"><table><caption>Cases by clause</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _strips(document):
    """One mark a case: how much of the bound its worst error used."""
    functions: dict[str, list] = {}
    for case in document["cases"]:
        functions.setdefault(case["function"], []).append(case)
    parts = [
        "<h2>Worst error in units of the bound</h2><p class='dim'>One mark a case, in the order of the checks: the darker the"
        " green, the more of the bound is used; amber above 90 %; striped, known; red with a black edge, new; grey, nothing"
        " measured. Point at a mark for its name.</p>"
    ]
    for function, cases in functions.items():
        worst = max(
            (float(c["worst"]) for c in cases if c["status"] == "holds" and c["worst"] is not None), default=math.nan
        )
        said = "no number was compared" if math.isnan(worst) else f"{worst:.2f} of the bound at most where it holds"
        marks = "".join(f'<i class="{_mark(c)}" title="{escape(_hover(c))}"></i>' for c in cases)
        parts.append(
            f"<div><strong>{escape(function)}</strong> <span class='dim'>{len(cases)} cases, {said}</span></div>"
            f'<div class="strip" role="img" aria-label="{escape(function)}: {len(cases)} cases, {said}">{marks}</div>'
        )
    return "".join(parts)


def _mark(case):
    if case["status"] != "holds":
        return {"broken": "b", "known": "k"}.get(case["status"], "")
    if case["worst"] is None:
        return ""
    worst = float(case["worst"])
    return "h3" if worst > 0.9 else "h2" if worst > 0.3 else "h1" if worst > 0.03 else "h0"


def _hover(case):
    worst = "" if case["worst"] is None else f", {float(case['worst']):.3g}x of the bound"
    return f"{case['id']}: {case['status']}{worst}" + (f", {case['deviation']}" if case["deviation"] else "")


def _unasked(document):
    """What was left out because the time was over."""
    items = "".join(f"<li>{escape(text)}</li>" for text in document["time"]["unasked"])
    return f"<h2>Not asked in {document['time']['limit']:g} s</h2><ul>{items}</ul>" if items else ""


def _coverage(document):
    """How many known mistakes are excluded, and which are not."""
    found = document["coverage"]
    if not found:
        return ""
    excluded, missed = (sum(len(c[name]) for c in found) for name in ("excluded", "missed"))
    items = "".join(
        f'<li class="{"broken" if c["weak"] else ""}">{escape(c["sentence"])}</li>' for c in found if c["missed"]
    )
    said = (
        f"<p>{excluded} of the {excluded + missed} that can occur would have been seen; not these:</p><ul>{items}</ul>"
    )
    return f"<h2>Known mistakes excluded</h2>{said if items else f'<p>All {excluded} that can occur.</p>'}"


def _missing(document):
    found = sorted(
        {
            f"{c['function']}: {c['reason']}"
            for c in document["cases"]
            if c["reason"] and c["status"] not in ("known", "unjudged")
        }
    )
    items = "".join(f"<li>{escape(line)}</li>" for line in found)
    return f"<h2>Not supported</h2><ul>{items}</ul>" if found else ""


def _texts(used, clauses):
    items = "".join(
        f'<dt id="{name}">{name}</dt><dd>{in_html(clauses[name][1])} <span class="dim">({escape(clauses[name][0])})</span></dd>'
        for name in used
        if name in clauses
    )
    return f"<section><h2>The clauses</h2><dl>{items}</dl></section>"
