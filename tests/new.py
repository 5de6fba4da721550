"""Write the files of a new mechanism, each failing until it is filled.

python tests/new.py sparse/longformer longformer_attention

The first name is the mechanism's place in spec/, refattn/, the kit and tests/; the second its function. It is also added at
the end of spec/mechanisms.txt, the order in which mechanisms stand on one another: move it up where it belongs. What is left
to do by hand is the export in the `__init__` of its family; CONTRIBUTING.md says what goes into each file.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

CLAUSES = """# {title}

What it is for, in two or three sentences.

## Mathematics

$$
o_i = \\dots
$$

## Clauses

### {prefix}-OUT

One sentence with its force, MUST or SHOULD.

## Sources

Paper, section and equation; official code where it decides.
"""

DEFINITION = '''"""{title}, one number at a time."""

from {dots}exact import exact, mp, mpf


def {function}(q, k, v):
    raise NotImplementedError("write the definition from the mathematics, without looking at the array code")


def second_{function}(q, k, v):
    raise NotImplementedError("write another formulation, which must agree to 40 digits")


FUNCTIONS = {{"{name}": {function}}}
SECOND = {{"{name}": second_{function}}}
'''

CASES = '''"""The inputs of the golden vectors; definition.py says what comes out."""

from {dots}vectors import call, case, grid

CASES = [
    case(
        "{short}.plain.0001: {prefix}-OUT; Basic",
        call(
            "{name}",
            q=grid("{short} q", (3, 4)),
            k=grid("{short} k", (5, 4)),
            v=grid("{short} v", (5, 2)),
        ),
    ),
]
'''

CODE = '''"""{title}."""

from refattn import backend


@backend.ieee
def {function}(q, k, v):
    """One line.

    Parameters
    ----------
    q : array (..., N, D)
    k : array (..., M, D)
    v : array (..., M, Dv)

    Returns
    -------
    out : array (..., N, Dv)

    Notes
    -----
    Time and memory. Clauses: {prefix}-OUT. Source: paper, equation.
    """
    raise NotImplementedError("write it at its real cost")
'''

KIT = '''"""{title}."""

from __future__ import annotations

from refattn.{module} import {function}
from refattn.testing.inputs import Draw
from refattn.testing.subject import Subject


def random(draw: Draw) -> dict:
    """A random call."""
    raise NotImplementedError("draw sizes that differ and every option, the simplest choice first")


# equals=Equal("attention", ...) gives the bound and the variants of attention, parts=("attention",) those of what it calls;
# what only it gets wrong is a function under @variant (refattn.testing.registry).
{constant} = Subject({function}, random, "{prefix}-OUT")
'''

TESTS = '''"""{title}: what holds whatever the numbers are."""

import pytest


@pytest.mark.clause("{prefix}-OUT")
def test_{function}(library):
    pytest.fail("write the properties")
'''


def write(mechanism, function):
    """The six files, their folders, and the line in the list; those that exist stay."""
    family, _, short = mechanism.rpartition("/")
    depth = mechanism.count("/") + 2
    words = {
        "title": short.replace("_", " ").capitalize(),
        "short": short,
        "prefix": short.replace("_", "").upper(),
        "function": function,
        "constant": function.upper(),
        "module": (family or short).replace("/", "."),
        "name": f"{family}.{function}" if family else function,
        "dots": "." * depth,
    }
    files = {
        f"spec/{mechanism}/clauses.md": CLAUSES,
        f"spec/{mechanism}/definition.py": DEFINITION,
        f"spec/{mechanism}/cases.py": CASES,
        f"refattn/{mechanism}.py": CODE,
        f"refattn/testing/mechanisms/{mechanism}.py": KIT,
        f"tests/{family + '/' if family else ''}test_{short}.py": TESTS,
    }
    for folder in ("spec", "refattn", "refattn/testing/mechanisms") if family else ():
        package = ROOT / folder / family / "__init__.py"
        package.parent.mkdir(parents=True, exist_ok=True)
        if not package.exists():
            package.write_text("" if folder == "spec" else f'"""{family.capitalize()}."""\n')
    for name, text in files.items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            print(f"{name} is there already")
        else:
            path.write_text(text.format(**words))
            print(name)
    order = ROOT / "spec" / "mechanisms.txt"
    if mechanism not in order.read_text().split():
        order.write_text(order.read_text() + mechanism + "\n")
    home = f"refattn/{family}/__init__.py" if family else "refattn/__init__.py"
    print(
        f"\nNow: export {function} in {home}, move {mechanism} to its place in spec/mechanisms.txt, and fill the files."
    )


if __name__ == "__main__":
    if len(sys.argv) != 3 or not all(part.isidentifier() for part in (*sys.argv[1].split("/"), sys.argv[2])):
        raise SystemExit(__doc__)
    write(*sys.argv[1:])
