"""The specification is closed: clause, docstring, test, vector and page name each other, and nothing dangles."""

import ast
import graphlib
import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

import refattn
from refattn.testing import vectors
from refattn.testing.variants import variants
from spec.vectors import dump
from tests import lock
from tests.regenerate import regenerate, with_distances

ROOT = Path(__file__).parents[1]
SPEC = ROOT / "spec"
ID = re.compile(r"\b[A-Z][A-Z0-9]*(?:-[A-Z0-9]+)+\b")
MECHANISMS = (SPEC / "mechanisms.txt").read_text().split()


def clauses():
    """Clause id -> (mechanism, its text), from the headings of clauses.md."""
    found = {}
    for mechanism in MECHANISMS:
        text = (SPEC / mechanism / "clauses.md").read_text()
        for heading, body in re.findall(r"^### (\S+)\n\n(.*?)(?=\n#|\Z)", text, re.S | re.M):
            assert heading not in found, f"clause {heading} is stated twice"
            found[heading] = (mechanism, body.strip())
    return found


CLAUSES = clauses()
FAMILIES = {name.split("-")[0] for name in CLAUSES}


def named_in(text):
    return {name for name in ID.findall(text) if name.split("-")[0] in FAMILIES}


def docstrings_and_comments():
    """File -> the clauses that refattn's sources name."""
    return {path: named_in(path.read_text()) for path in (ROOT / "refattn").glob("**/*.py")}


def marked_in_tests():
    found = {}
    for path in (ROOT / "tests").glob("**/test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "clause":
                for argument in node.args:
                    found.setdefault(ast.literal_eval(argument), []).append(path.name)
    return found


def all_cases():
    return [case for mechanism in vectors.mechanisms() for case in vectors.load(mechanism)]


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_mechanism_is_whole(mechanism):
    for name in ("clauses.md", "definition.py", "cases.py", "vectors.json"):
        assert (SPEC / mechanism / name).is_file(), f"spec/{mechanism} lacks {name}"
    text = (SPEC / mechanism / "clauses.md").read_text()
    for section in ("## Mathematics", "## Clauses", "## Sources"):
        assert section in text, f"spec/{mechanism}/clauses.md lacks {section}"


@pytest.mark.parametrize("name", CLAUSES)
def test_a_clause_is_one_sentence_with_its_force(name):
    _, body = CLAUSES[name]
    assert re.search(r"\b(MUST|SHOULD)\b", body), f"{name} says neither MUST nor SHOULD"
    assert body.endswith("."), f"{name} does not end with a full stop"
    assert len(re.findall(r"\. [A-Z]", body)) == 0, f"{name} has more than one sentence"


def test_every_clause_has_a_docstring_a_test_and_a_vector():
    in_code = set().union(*docstrings_and_comments().values())
    in_tests = set(marked_in_tests())
    in_vectors = {name for case in all_cases() for name in case.clauses}
    missing = {
        name: [
            what for what, where in (("code", in_code), ("test", in_tests), ("vector", in_vectors)) if name not in where
        ]
        for name in CLAUSES
    }
    assert not {name: what for name, what in missing.items() if what}


def test_nothing_names_a_clause_that_does_not_exist():
    named = {name for names in docstrings_and_comments().values() for name in names}
    named |= set(marked_in_tests()) | {name for case in all_cases() for name in case.clauses}
    named |= {v.clause for v in variants()}
    named |= named_in("\n".join(p.read_text() for p in SPEC.glob("**/*.py")))
    assert named <= set(CLAUSES), sorted(named - set(CLAUSES))


def public_functions():
    for name in refattn.__all__:
        thing = getattr(refattn, name)
        if inspect.isfunction(thing):
            yield name, thing


def test_every_public_function_names_its_clauses_and_its_source():
    for name, function in public_functions():
        text = inspect.getdoc(function) or ""
        assert named_in(text) & set(CLAUSES), f"the docstring of {name} names no clause"
        assert "Source" in text, f"the docstring of {name} names no source"


def test_every_flag_is_explained_and_used():
    flags = json.loads((SPEC / "flags.json").read_text())
    used = {flag for case in all_cases() for flag in case.flags}
    assert used == set(flags)


def test_every_variant_is_caught_by_a_golden_case():
    caught = {(name, case.function) for case in all_cases() for name in case.catches}
    known = {(v.name, v.function) for v in variants()}
    assert caught == known


@pytest.mark.parametrize("mechanism", vectors.mechanisms())
def test_vectors_follow_the_schema(mechanism):
    schema = json.loads((SPEC / "schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    contents = json.loads((SPEC / mechanism / "vectors.json").read_text())
    jsonschema.validate(contents, schema)
    contents["cases"][0]["unheard-of"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(contents, schema)


def test_case_ids_are_unique():
    ids = [case.id for case in all_cases()]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("mechanism", vectors.mechanisms())
def test_vectors_were_written_from_what_stands_here(mechanism):
    """The definitions take half a minute; where no file changed since they wrote the vectors, the slow run will do."""
    assert lock.locked().get(mechanism) == lock.digest(mechanism), (
        f"spec/{mechanism}, or a module that it imports, changed after its vectors were written: "
        f"run python tests/regenerate.py {mechanism}"
    )


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", vectors.mechanisms())
def test_vectors_are_what_the_definitions_write(mechanism):
    written = (SPEC / mechanism / "vectors.json").read_text()
    assert dump(regenerate(mechanism)) == written, "run: python tests/regenerate.py"


@pytest.mark.parametrize("mechanism", vectors.mechanisms())
def test_variants_are_as_far_from_the_vectors_as_they_say(mechanism):
    written = (SPEC / mechanism / "vectors.json").read_text()
    assert dump(with_distances(mechanism, json.loads(written))) == written, "run: python tests/regenerate.py"


@pytest.mark.parametrize("mechanism", vectors.mechanisms())
def test_vectors_explain_flags_as_the_table_does(mechanism):
    table = json.loads((SPEC / "flags.json").read_text())
    flags = json.loads((SPEC / mechanism / "vectors.json").read_text())["flags"]
    assert flags == {flag: table[flag] for flag in flags}, "run: python tests/regenerate.py"


def test_the_lock_has_a_line_for_each_mechanism():
    assert list(lock.locked()) == MECHANISMS


LOADED = """
import importlib, json, sys
found = {}
for mechanism in sys.argv[1:]:
    for name in [name for name in sys.modules if name.split(".")[0] == "spec"]:
        del sys.modules[name]
    for part in ("definition", "cases"):
        importlib.import_module(f"spec.{mechanism.replace('/', '.')}.{part}")
    files = [getattr(module, "__file__", None) for name, module in sys.modules.items() if name.startswith("spec.")]
    found[mechanism] = sorted(file for file in files if file)
print(json.dumps(found))
"""


def test_the_lock_follows_every_module_that_python_loads():
    done = subprocess.run([sys.executable, "-c", LOADED, *MECHANISMS], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for mechanism, files in json.loads(done.stdout).items():
        assert {Path(file) for file in files} <= set(lock.sources(mechanism)), mechanism


def test_no_change_escapes_the_lock(tmp_path):
    """Of each kind of file; a module changes the digest of those that import it, and of no others."""
    copy = tmp_path / "spec"
    shutil.copytree(SPEC, copy, ignore=shutil.ignore_patterns("__pycache__"))
    before = {name: lock.digest(name, copy) for name in MECHANISMS}
    assert before == {name: lock.digest(name) for name in MECHANISMS}
    for file in ("definition.py", "cases.py", "clauses.md", "vectors.json", "../exact.py", "../vectors.py"):
        path = (copy / "positions" / file).resolve()
        users = {name for name in MECHANISMS if path in lock.sources(name, copy)} | {"positions"}
        text = path.read_text()
        path.write_text(text + "\n")
        assert {name for name in MECHANISMS if lock.digest(name, copy) != before[name]} == users, file
        path.write_text(text)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""


def test_definitions_and_algorithms_are_independent():
    for path in SPEC.glob("**/*.py"):
        assert not [m for m in imports(path) if m.split(".")[0] in ("refattn", "numpy", "scipy")], path
    for path in (ROOT / "refattn").glob("**/*.py"):
        if "testing" not in path.relative_to(ROOT).parts:
            assert not [m for m in imports(path) if m.split(".")[0] in ("spec", "mpmath")], path


KIT = ("testing", "conformance", "cli", "console")
COMMON = ("arguments",)  # what every mechanism uses, and backend with it
FIRST = {
    m.partition("/")[0]: m for m in reversed(MECHANISMS) if "/" in m
}  # of each family: what all of it uses is there


def home(module):
    """The mechanism that a module of refattn belongs to; of a family the last. The name of what is no mechanism."""
    own = "/".join(module.removesuffix(".__init__").split(".")[1:])
    of = [m for m in MECHANISMS if own == m or own.startswith(f"{m}/") or m.startswith(f"{own}/")]
    return of[-1] if of else own.partition("/")[0]


def imported(path):
    """The modules of refattn that a file imports: `from refattn import masks` is one of refattn.masks."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("refattn."))
        elif isinstance(node, ast.ImportFrom) and node.module == "refattn":
            found = ((alias.name, getattr(refattn, alias.name)) for alias in node.names)
            yield from (f"refattn.{name}" if inspect.ismodule(x) else x.__module__ for name, x in found)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("refattn."):
            yield node.module
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path} imports from where it stands"


def test_the_list_of_mechanisms_is_whole():
    assert sorted(MECHANISMS) == sorted(str(p.parent.relative_to(SPEC)) for p in SPEC.glob("**/clauses.md"))


def test_imports_go_one_way():
    """A module imports only what stands above it in spec/mechanisms.txt; the kit may import all of them, none of them the kit."""
    floor = {name: n for n, name in enumerate(MECHANISMS)} | dict.fromkeys(COMMON, 0)
    floor |= {family: floor[first] for family, first in FIRST.items()}
    for path in (ROOT / "refattn").glob("**/*.py"):
        own = home(".".join(path.relative_to(ROOT).with_suffix("").parts))
        if own in KIT or own == "":  # the package itself offers them all
            continue
        for module in imported(path):
            other = home(module)
            assert other in floor, f"{path.name} imports {module}"
            assert floor[other] <= floor[own], (
                f"{path.name} imports {module}, which stands below it in spec/mechanisms.txt"
            )


def test_nothing_imports_what_imports_it():
    """Imports inside functions count; those for types alone do not."""
    paths = {}
    for path in (ROOT / "refattn").glob("**/*.py"):
        paths[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    graph = {name: set(needed(path, paths)) - {name} for name, path in paths.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def needed(path, modules):
    """The modules that a file imports to run: of `from package import x` the module x, if it is one."""
    tree = ast.parse(path.read_text())
    typing = [
        x
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for x in ast.walk(node)
    ]
    for node in set(ast.walk(tree)) - set(typing):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in modules else node.module for name in inside)
