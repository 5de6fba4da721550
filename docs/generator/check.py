"""Checks of the built site: nothing is fetched from elsewhere, every link leads somewhere, no anchor is lost."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

_FETCHED = {  # attributes that make a browser fetch something
    "script": ("src",),
    "img": ("src", "srcset"),
    "link": ("href",),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "embed": ("src",),
    "object": ("data",),
    "use": ("href", "xlink:href"),
    "image": ("href", "xlink:href"),
    "form": ("action",),
}
_EXTERNAL = re.compile(r"^\s*(?:[a-z]+:)?//", re.I)


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.ids, self.links, self.fetched, self.text, self._skip = [], [], [], [], 0

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        for name in _FETCHED.get(tag, ()):
            if given.get(name):
                self.fetched.append(given[name])
        if "style" in given:
            self.fetched += _urls(given["style"])
        if tag in ("script", "style", "code"):
            self._skip += 1

    def handle_endtag(self, tag):
        if tag in ("script", "style", "code"):
            self._skip -= 1

    def handle_data(self, data):
        if not self._skip:
            self.text.append(data)


def _urls(css):
    return re.findall(r"url\(\s*['\"]?([^'\")]+)", css) + re.findall(r"@import\s+['\"]([^'\"]+)", css)


def read(site):
    """Every page of a built site, by path."""
    pages = {}
    for path in sorted(Path(site).glob("**/*.html")):
        reader = _Reader()
        reader.feed(path.read_text(encoding="utf-8"))
        pages[path.relative_to(site).as_posix()] = reader
    return pages


def problems(site, once):
    """What is wrong with a built site. `once` maps ids to the page on which each must stand, once."""
    pages, found = read(site), []
    for name, page in pages.items():
        found += [f"{name} fetches {address}" for address in page.fetched if _EXTERNAL.match(address)]
        doubled = {i for i in page.ids if page.ids.count(i) > 1}
        found += [f"{name} has the id {i} more than once" for i in sorted(doubled)]
        left = re.findall(r"\$\$|\\(?:frac|mathrm|sum|begin)\b|<!-- build", "".join(page.text))
        found += [f"{name} shows raw {mark}" for mark in sorted(set(left))]
        found += [f"{name}: {problem}" for address in page.links if (problem := _dead(pages, site, name, address))]
    for path in Path(site).glob("**/*.css"):
        found += [
            f"{path.relative_to(site)} fetches {u}"
            for u in _urls(path.read_text(encoding="utf-8"))
            if _EXTERNAL.match(u)
        ]
    for anchor, home in once.items():
        places = [name for name, page in pages.items() for i in page.ids if i == anchor]
        if places != [home]:
            found.append(f"{anchor} must stand once, on {home}; it stands on {places or 'no page'}")
    return found


def _dead(pages, site, name, address):
    """Why an internal link leads nowhere, or None."""
    if re.match(r"[a-z][a-z0-9+.-]*:", address, re.I) or _EXTERNAL.match(address):
        return None
    path, _, anchor = unquote(address).partition("#")
    target = Path(site) / path.lstrip("/") if path.startswith("/") else (Path(site) / name).parent / path
    target = target if path else Path(site) / name
    if target.is_dir():
        target = target / "index.html"
    if not target.is_file():
        return f"{address} leads to no file"
    key = target.resolve().relative_to(Path(site).resolve()).as_posix()
    if anchor and key in pages and anchor not in pages[key].ids:
        return f"{address} leads to no such place"
    return None
