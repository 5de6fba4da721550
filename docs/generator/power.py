"""The tables of the page on power, from tests/benchmarks/results/power.json."""

import functools
import json
from html import escape
from pathlib import Path

from .text import table

RESULTS = Path(__file__).resolve().parents[2] / "tests" / "benchmarks" / "results" / "power.json"


@functools.cache
def results():
    """What the benchmark measured."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def parts():
    """The parts of docs/power.md that are built."""
    return {
        "power-summary": summary,
        "power-own": own,
        "power-ours": ours,
        "power-missed": missed,
        "power-simplified": simplified,
    }


def summary():
    """What was measured, when and with what."""
    found = results()
    where, versions = found["environment"], found["environment"]["versions"]
    hard = [row for row in found["bounds"] if row["name"] == "refattn hard"]
    random = sum(row["random"]["kernels"] for row in hard)
    accused = sum(row["random"]["false_alarms"] + row["ours"]["false_alarms"] for row in hard)
    unseen = found["variants_not_shown"]
    lines = [
        f"Here: {found['variants_of_the_output']} variants that change the output"
        f" ({len(found['variants_of_lse_only'])} more change only the log-sum-exp, at which none of these rules looks),"
        f" {len(found['rules'])} rules, {random:,} correct kernels on random problems"
        f" ({accused} accused by our hard bound). Measured {where['date']} with Python {where['python']},"
        f" NumPy {versions['numpy']}, seed {found['seed']}, in {max(1, found['seconds'] // 60)} minutes on"
        f" {where['cores']} cores."
    ]
    if unseen:
        names = ", ".join(f"`{name}`" for name in unseen)
        lines.append(f"Not shown by these inputs of ours, and so not judged: {names}.")
    return "\n\n".join(lines)


def own():
    """Every rule on its own project's inputs."""
    rows = []
    for row in results()["rules"]:
        here, there = row["own"], row["bounds_there"]
        rows.append(
            (
                None,
                [
                    _rule(row),
                    str(here["shown"]),
                    _share(len(here["missed"]), here["shown"]),
                    _list(here["missed_precision"]),
                    _share(here["false_alarms"], here["kernels"]),
                    f"{len(there['hard']['missed'])} / {len(there['statistical']['missed'])}",
                ],
            )
        )
    return table(["Rule", "Variants shown", "Missed", "Less precise, missed", "Correct, accused", "Bound misses"], rows)


def ours():
    """Every rule, and our bounds, on our inputs and on random ones."""
    rows = []
    for row in [*results()["bounds"], *results()["rules"]]:
        here, random = row["ours"], row["random"]
        name = _rule(row) if "states" in row else f"<strong>{row['name']}</strong> {row['dtype']}"
        kinds = sorted(random["by_kind"], key=lambda kind: -random["by_kind"][kind])[:3]
        cells = [
            name,
            _share(len(here["missed"]), here["shown"]),
            _list(here["missed_precision"]),
            _share(here["false_alarms"], here["kernels"]),
            _share(random["false_alarms"], random["kernels"]) + (f"<br>{', '.join(kinds)}" if kinds else ""),
        ]
        rows.append((None, cells))
    headings = [
        "Rule",
        "Variants missed",
        "Less precise, missed",
        "Correct, accused",
        "Correct on random inputs, accused",
    ]
    return table(headings, rows)


def missed():
    """The names of what each rule misses on its own inputs."""
    rows = []
    for row in results()["rules"]:
        names = ", ".join(f"<code>{name}</code>" for name in row["own"]["missed"]) or "nothing"
        rows.append((None, [f"{escape(row['name'])}<br>{escape(row['inputs'])} inputs", names]))
    return table(["Rule and inputs", "Misses"], rows)


def simplified():
    """What is simplified, rule by rule."""
    lines = {row["project"]: row["simplified"] for row in results()["rules"] if row["simplified"]}
    return "\n".join(f"- {project}: {text}." for project, text in lines.items())


def _rule(row):
    path = f"<code>{escape(row['path'])}</code>"
    return f'{escape(row["name"])}<div class="of">{escape(row["states"])}</div><div class="of">{path}</div>'


def _share(count, total):
    return f"{count} of {total}" if count else "0"


def _list(names):
    return "<br>".join(map(escape, names)) or "none"
