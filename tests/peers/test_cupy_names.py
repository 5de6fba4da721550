"""What the code asks of CuPy is there and takes those arguments: its names are checked where no GPU can run it."""

import ast
import inspect
from pathlib import Path

import numpy as np
import pytest

import refattn
from refattn import backend

cupy = pytest.importorskip("cupy")
pytestmark = pytest.mark.peers

HOME = Path(refattn.__file__).parent
KIT = ("testing", "_spec")
SOURCES = [p for p in sorted(HOME.glob("**/*.py")) if p.relative_to(HOME).parts[0] not in KIT]
LIBRARY = "xp"  # how the code calls the library of its arguments


def dotted(node):
    """'xp.linalg.norm' of an expression of names; None of another."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := dotted(node.value)):
        return f"{before}.{node.attr}"
    return None


def asked():
    """Name -> the ways in which it is called: (numbers of positional arguments, keywords, place)."""
    found = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = dotted(node) if isinstance(node, ast.Attribute) else None
            if name and name.startswith(f"{LIBRARY}.") and "__" not in name:
                found.setdefault(name.partition(".")[2], [])
            called = dotted(node.func) or "" if isinstance(node, ast.Call) else ""
            if called.startswith(f"{LIBRARY}.") and "__" not in called:
                starred = any(isinstance(x, ast.Starred) for x in node.args) or any(
                    k.arg is None for k in node.keywords
                )
                if not starred:
                    place = f"{path.relative_to(HOME)}:{node.lineno}"
                    call = len(node.args), tuple(k.arg for k in node.keywords), place
                    found.setdefault(called.partition(".")[2], []).append(call)
    return found


ASKED = asked()


@pytest.mark.parametrize("name", sorted(ASKED))
def test_cupy_has_it_and_takes_the_arguments(name):
    thing = cupy
    for part in name.split("."):
        thing = getattr(thing, part)
    for positional, keywords, place in ASKED[name]:
        if isinstance(thing, cupy.ufunc):
            assert positional <= thing.nargs, place
            assert set(keywords) <= {"out", "dtype", "casting", "where"}, place
        elif not isinstance(thing, type):
            inspect.signature(thing).bind(*range(positional), **dict.fromkeys(keywords))


def test_the_code_asks_for_something():
    assert len(ASKED) > 20
    assert any(ASKED.values())


def test_arrays_have_the_methods_that_are_used():
    used = {
        node.attr
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and not node.attr.startswith("_") and hasattr(np.ndarray, node.attr)
    }
    assert used - set(dir(cupy.ndarray)) == set()


def test_special_functions_are_there():
    import cupyx.scipy.special

    assert backend.SPECIAL["cupy"] == "cupyx.scipy.special"
    for name in ("erf", "ndtr"):
        assert hasattr(cupyx.scipy.special, name)
