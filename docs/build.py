"""Build the site.

    python docs/build.py            writes the pages to docs/_gen; then: mkdocs build --strict
    python docs/build.py --site     does both and checks the result
    python docs/build.py --draft    leaves out mechanisms that are not complete, instead of failing

Mechanisms are found by their spec/**/clauses.md. A page is put together from clauses, definition, array code, tests,
golden vectors and variants; the build fails where one of them is missing.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS)]  # the checkout before anything installed

from generator import check, implementations, mechanisms, overviews, power  # noqa: E402
from generator.text import Book, Page, table  # noqa: E402

from refattn.testing import vectors  # noqa: E402

OUT = DOCS / "_gen"
PAGES = OUT / "pages"
SITE = ROOT / "site"


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--site", action="store_true", help="run mkdocs too, and check what it built")
    options.add_argument("--draft", action="store_true", help="leave out incomplete mechanisms")
    options = options.parse_args()
    try:
        once = write_pages(options.draft)
    except mechanisms.Incomplete as lack:
        raise SystemExit(f"a page would miss a part: {lack} (--draft leaves such mechanisms out)") from None
    if options.site:
        build(once)


def write_pages(draft=False):
    """Write every page; returns the anchors that must stand on the site once, and on which page."""
    found = list(complete(draft))
    book = Book()
    for m in found:
        mechanisms.enter(m, book)
    for flag in json.loads((ROOT / "spec" / "flags.json").read_text(encoding="utf-8")):
        book.flags[flag] = ("implementers/flags.md", flag)
    book.strict = not draft

    shutil.rmtree(OUT, ignore_errors=True)
    shutil.copytree(DOCS / "assets", PAGES / "assets")
    parts = {
        "failure": overviews.failure,
        "mechanisms": lambda: listing(found, book),
        "profiles": overviews.profiles,
        "formats": overviews.formats,
        "kit-reference": lambda: overviews.kit_reference(book),
        **power.parts(),
    }
    pages = dict(static(book, parts))
    pages |= {m.path: mechanisms.page_of(m, book) for m in found}
    pages |= dict(
        [overviews.clauses(found, book), overviews.flags(book), overviews.seen(book), overviews.contract(book)]
        + [implementations.page(book)]
    )
    for path, text in pages.items():
        place = PAGES / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    (OUT / "nav.yml").write_text(navigation(found, pages), encoding="utf-8")
    anchors = {**book.clauses, **book.cases, **book.variants}
    print(f"{len(pages)} pages, {len(found)} mechanisms, {len(book.clauses)} clauses, {len(book.cases)} golden cases")
    return {anchor: html(path) for path, anchor in anchors.values()}


def complete(draft):
    for name in vectors.mechanisms():
        try:
            yield mechanisms.read(name)
        except mechanisms.Incomplete as lack:
            if not draft:
                raise
            print(f"left out: {name}: {lack}", file=sys.stderr)


def html(path):
    return path.removesuffix(".md") + ".html"


def static(book, parts):
    """The pages written by hand in docs/, with `<!-- build: name -->` replaced by what is built for it."""
    for source in sorted(DOCS.glob("**/*.md")):
        if OUT in source.parents:
            continue
        path = source.relative_to(DOCS).as_posix()
        path = {name: f"kit/{name}" for name in ("adapters.md", "bounds.md", "ci.md", "power.md")}.get(path, path)
        text = Page(book, path).markdown(source.read_text(encoding="utf-8"))
        for mark in re.findall(r"<!-- build: ?(.*?) ?-->", text):
            if mark not in parts:
                raise SystemExit(f"docs/{source.relative_to(DOCS)} asks for {mark!r}; there are {', '.join(parts)}")
            text = text.replace(f"<!-- build: {mark} -->", parts[mark]())
        yield path, text


def listing(found, book):
    """The mechanisms with a line each, for the front page."""
    page = Page(book, "index.md")
    rows = []
    for m in found:
        counts = f"{len(m.clauses)}&nbsp;clauses<br>{len(m.cases)}&nbsp;cases<br>{len(m.variants)}&nbsp;variants"
        rows.append((None, [page.link((m.path, ""), m.title), ", ".join(mechanisms.offered(m, page)), counts]))
    return table(["Mechanism", "Functions and classes", "It has"], rows)


def navigation(found, pages):
    """The navigation, which mkdocs.yml inherits."""
    groups = {
        "Start": ["index.md", "reading.md", "conventions.md", "multiplicity.md"],
        "Mechanisms": [m.path for m in found],
        "Kit": [
            "kit/index.md",
            "kit/ci.md",
            "kit/adapters.md",
            "kit/bounds.md",
            "kit/power.md",
            "kit/variants.md",
            "kit/implementations.md",
        ],
        "For implementers": ["implementers/index.md", "implementers/clauses.md", "implementers/flags.md"],
        "Errata": ["errata.md"],
    }
    left_out = set(pages) - {path for paths in groups.values() for path in paths}
    if left_out:
        raise SystemExit(f"no place in the navigation for {', '.join(sorted(left_out))}: docs/build.py, navigation()")
    nav = [{group: [p for p in paths if p in pages]} for group, paths in groups.items()]
    return json.dumps({"nav": nav}, indent=1) + "\n"  # JSON is YAML


def build(once):
    """Run mkdocs and check what it built."""
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--clean"], cwd=ROOT, env=environment, check=False
    )
    if done.returncode:
        raise SystemExit(done.returncode)
    problems = check.problems(SITE, once)
    if problems:
        raise SystemExit("\n".join(["the site is not sound:", *problems]))
    size = sum(path.stat().st_size for path in SITE.glob("**/*") if path.is_file())
    print(f"site/index.html: {len(once)} anchors each stand once, no external request, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
