"""Checks of the built site: nothing is fetched from elsewhere, links lead somewhere, code is code, colours are legible."""

import ast
import doctest
import json
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
_REFERENCE = re.compile(r"arXiv[:\s]\s*[0-9.]+[0-9]|(?<![\w/])[\w.-]+/[\w.-]+#[0-9]+\b")
_COLORS = {  # that a scheme gives to code: --md-code-...
    "bg-color", "fg-color", "hl-comment-color", "hl-constant-color", "hl-function-color", "hl-generic-color",
    "hl-keyword-color", "hl-name-color", "hl-number-color", "hl-operator-color", "hl-punctuation-color",
    "hl-special-color", "hl-string-color", "hl-variable-color",
}  # fmt: skip


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.ids, self.links, self.fetched, self.text, self._skip = [], [], [], [], 0
        self.unlinked, self._link = [], 0
        self.blocks, self._language, self._block = [], None, None

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
        if tag == "a":
            self._link += 1
        if language := re.search(r"(?:^|\s)language-(\S+)", given.get("class") or ""):
            self._language = language[1], given.get("data-copy")
        if tag == "pre" and self._language:
            self._block = []

    def handle_endtag(self, tag):
        if tag in ("script", "style", "code"):
            self._skip -= 1
        if tag == "a":
            self._link -= 1
        if self._block is not None and tag == "pre":
            language, copied = self._language
            self.blocks.append((language, "".join(self._block), copied))
            self._language = self._block = None

    def handle_data(self, data):
        if self._block is not None:
            self._block.append(data)
        if not self._skip:
            self.text.append(data)
            if not self._link:
                self.unlinked.append(data)


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
        found += [f"{name} names {mark} without a link" for mark in _REFERENCE.findall(" ".join(page.unlinked))]
        found += [f"{name}: {problem}" for block in page.blocks if (problem := no_code(*block))]
    for path in Path(site).glob("**/*.css"):
        css, name = path.read_text(encoding="utf-8"), path.relative_to(site)
        found += [f"{name} fetches {address}" for address in _urls(css) if _EXTERNAL.match(address)]
    found += illegible((Path(site) / "assets" / "refattn.css").read_text(encoding="utf-8"))
    found += unsearchable(Path(site) / "search" / "search_index.json")
    for anchor, home in once.items():
        places = [name for name, page in pages.items() for i in page.ids if i == anchor]
        if places != [home]:
            found.append(f"{anchor} must stand once, on {home}; it stands on {places or 'no page'}")
    return found


def no_code(language, text, copied=None):
    """Why a published block is no Python, or a doctest is not copied as the code that it shows; None if all is well."""
    code = text
    if language == "signature":  # refattn.f(x, *, scale=None): a bare * stands in definitions alone
        code = re.sub(r"^[\w.]+", "def f", text.rstrip()) + ": ..."
    elif language == "pycon":
        try:
            code = "".join(example.source for example in doctest.DocTestParser().get_examples(text))
        except ValueError as error:
            return f"a doctest is malformed, {error}: {text[:60]!r}"
        if not code or copied != code:
            return f"a doctest is copied as {copied!r}: {text[:60]!r}"
    elif language != "python":
        return None
    try:
        ast.parse(code)
    except SyntaxError as error:
        return f"a block is no Python, {error}: {text[:60]!r}"
    return None


def unsearchable(path):
    """Whether the search takes a name for one word, although one looks for its parts."""
    separator = json.loads(path.read_text(encoding="utf-8"))["config"]["separator"]
    words = re.split(separator, "a_b.c,d:e;f=g(h)i[j]k/l#m`n-o p")
    return [f"the search does not cut {word!r}" for word in words if len(word) > 1]


def illegible(css):
    """The colours of code, of those that a style sheet declares for each scheme, with too little contrast."""
    found = []
    for scheme in ("default", "slate"):
        rules = re.findall(rf'\[data-md-color-scheme="{scheme}"\]\s*{{([^}}]*)}}', css)
        colors = dict(re.findall(r"--md-code-(\S+):\s*(#[0-9a-f]{6})\b", "".join(rules)))
        missing = _COLORS - set(colors)
        found += [f"the scheme {scheme} gives no six-digit --md-code-{name}" for name in sorted(missing)]
        if "bg-color" in colors:
            back = _luminance(colors["bg-color"])
            for name in sorted(set(colors) - {"bg-color"}):
                low, high = sorted((back, _luminance(colors[name])))
                contrast = (high + 0.05) / (low + 0.05)
                if contrast < 4.5:
                    found.append(f"--md-code-{name} of the scheme {scheme} has a contrast of {contrast:.2f}, not 4.5")
    return found


def _luminance(color):
    """The relative luminance of #rrggbb, by the Web Content Accessibility Guidelines 2."""
    channels = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


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
