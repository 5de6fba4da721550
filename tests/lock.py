"""spec/vectors.lock: a line a mechanism, the digest of all that its golden vectors were written from, and of them.

`python tests/regenerate.py` writes it together with the vectors. A default test compares digests, which takes no time: where
they agree, nothing has changed since definitions and vectors were last found to agree. The slow run evaluates every
definition again, whatever the lock says.

What a vector says of variants (`catches`) follows from the kit as well; it is measured in every run, and not locked.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
SPEC = ROOT / "spec"
LOCK = SPEC / "vectors.lock"


def sources(mechanism, spec=SPEC):
    """The files of spec/ that the vectors follow from: those of the mechanism, and all modules that they import."""
    own = spec / mechanism
    packages = [p / "__init__.py" for p in own.parents if p.is_relative_to(spec) and (p / "__init__.py").is_file()]
    found, open_ = {own / "clauses.md"}, [own / "definition.py", own / "cases.py", *packages]
    while open_:
        path = open_.pop()
        if path not in found:
            found.add(path)
            open_.extend(imported(path, spec))
    return sorted(found)


def imported(path, spec=SPEC):
    """The modules of spec/ that a file imports anywhere, packages on the way included."""
    for level, name in names(path.read_text(encoding="utf-8")):
        start = path.parents[level - 1] if level else spec.parent
        parts = name.split(".")
        for place in (start.joinpath(*parts[:n]) for n in range(1, len(parts) + 1)):
            for file in (place.with_suffix(".py"), place / "__init__.py"):
                if file.is_file() and file.is_relative_to(spec):
                    yield file


@cache
def names(text):
    """What a file imports, as (number of leading dots, name); of `from package import x` it is package.x."""
    statements = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    return [
        (getattr(node, "level", 0), ".".join(filter(None, [getattr(node, "module", None), alias.name])))
        for node in statements
        for alias in node.names
    ]


def digest(mechanism, spec=SPEC):
    """Of the names and the text of sources and vectors; line endings do not count."""
    whole = hashlib.sha256()
    for path in [*sources(mechanism, spec), spec / mechanism / "vectors.json"]:
        text = path.read_text(encoding="utf-8")
        whole.update(f"{path.relative_to(spec).as_posix()} {len(text)}\n{text}".encode())
    return whole.hexdigest()


def locked():
    """Mechanism -> digest, as committed."""
    return dict(line.split() for line in LOCK.read_text(encoding="utf-8").splitlines()) if LOCK.exists() else {}


def write(changed, mechanisms):
    """Lock the vectors of some mechanisms as they are now; the lines of the others stay."""
    lines = locked() | {name: digest(name) for name in changed}
    LOCK.write_text("".join(f"{name} {lines[name]}\n" for name in mechanisms if name in lines), encoding="utf-8")
