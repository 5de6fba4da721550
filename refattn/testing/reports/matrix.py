"""Several implementations side by side: rows are mechanisms or clauses, columns implementations."""

from __future__ import annotations


def as_matrix(documents: list[dict], *, by: str = "clause") -> str:
    """The matrix as text.

    Parameters
    ----------
    documents : list of dict
        Reports, as `as_document` makes them.
    by : {"clause", "mechanism"}
    """
    rows = table(documents, by=by)
    names = [document["target"]["name"] for document in documents]
    first = max(map(len, [by, *rows]))
    widths = [max(12, len(name)) for name in names]
    lines = ["  ".join([by.ljust(first), *(name.ljust(w) for name, w in zip(names, widths, strict=True))])]
    for row, cells in rows.items():
        lines.append("  ".join([row.ljust(first), *(c.ljust(w) for c, w in zip(cells, widths, strict=True))]))
    return "\n".join(line.rstrip() for line in lines)


def table(documents: list[dict], *, by: str = "clause") -> dict[str, list[str]]:
    """Row -> one word for each implementation: 'holds', 'known 3', 'BROKEN 2', 'UNJUDGED 1', or '-' where nothing was checked."""
    counts = [_counts(document, by) for document in documents]
    rows = sorted(set().union(*counts))
    return {row: [word(found.get(row, {})) for found in counts] for row in rows}


def word(count: dict) -> str:
    """What one cell says."""
    if count.get("broken"):
        return f"BROKEN {count['broken']}"
    if count.get("unjudged"):
        return f"UNJUDGED {count['unjudged']}"
    if count.get("known"):
        return f"known {count['known']}"
    return "holds" if count.get("holds") else "-"


def _counts(document, by):
    if by == "clause":
        return document["clauses"]
    found: dict[str, dict[str, int]] = {}
    for case in document["cases"]:
        row = found.setdefault(case["mechanism"], {})
        row[case["status"]] = row.get(case["status"], 0) + 1
    return found
