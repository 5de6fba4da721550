"""Do the tests bite? Change one thing in the reference at a time, and see a test go red.

    python tests/mutate.py                    every module
    python tests/mutate.py softmax masks      some
    python tests/mutate.py tiled --only reach.py    one file of a package; writes nothing
    python tests/mutate.py --again            only those that survived the last time
    python tests/mutate.py --write            also write tests/mutation.json, and tests/mutation.md from it
    python tests/mutate.py --sample 100 --seed 7 testing/matches testing/mechanisms/attention/bounds tiled
                                              so many mutants of these files and packages, of the kit too: in minutes


A mutant changes one comparison, operator, sign, constant, condition or keyword of one module. The tests of that
module and its golden vectors run against it in a process of its own; a mutant that they pass survives. Survivors that
compute the same function are listed, with the reason, in `EQUIVALENT`; any other survivor is a hole in the tests, and
the exit code says so.

A sample is judged by the tests that enter the mutated function, the quickest first, whatever mechanism they are of. Which
those are is measured first, by running all of TESTS that may; `--entered FILE` keeps that for the next sample.
"""

import argparse
import ast
import copy
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.entered import Chosen, Recorder, entering, function_at, quickest

ROOT = Path(__file__).parents[1]
MODULES = tuple(dict.fromkeys(x.partition("/")[0] for x in (ROOT / "spec" / "mechanisms.txt").read_text().split()))
TESTS = {
    "backend": ["tests/test_backend.py", "tests/test_softmax.py", "tests/test_attention.py", "tests/test_masks.py"],
    "tiled": [
        "tests/test_tiled.py",
        "tests/test_tiled_backward.py",
        "tests/test_tiled_extremes.py",
        "tests/test_packed.py",
    ],
    "gradients": ["tests/test_gradients.py", "tests/test_gradients_of_pieces.py"],
    "latent": ["tests/latent"],
    "sparse": ["tests/sparse"],
    "testing": ["tests/testing"],
}
ON_NUMPY = {True: ["--library", "numpy"], False: []}  # the shim's differences show on the strict library
OPTIONS = "tests/conftest.py"  # doctests alone would not have the options that it adds
RESULTS = ROOT / "tests" / "mutation.json"
LIMIT = 60  # seconds a mutant may take, or five times what the unchanged module takes; an endless loop is found out

SWAPS = {
    ast.Lt: [ast.LtE], ast.LtE: [ast.Lt], ast.Gt: [ast.GtE], ast.GtE: [ast.Gt], ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot], ast.IsNot: [ast.Is], ast.In: [ast.NotIn], ast.NotIn: [ast.In],
    ast.Add: [ast.Sub], ast.Sub: [ast.Add], ast.Mult: [ast.Div], ast.Div: [ast.Mult], ast.FloorDiv: [ast.Mult],
    ast.Mod: [ast.FloorDiv], ast.Pow: [ast.Mult], ast.BitAnd: [ast.BitOr], ast.BitOr: [ast.BitAnd],
    ast.And: [ast.Or], ast.Or: [ast.And],
}  # fmt: skip

# (line of source without indentation, mutation) -> why it computes the same function
_FLATTENS = "NumPy takes any negative length for 'what is left'"
_EQUAL = "both lists have one entry for each frequency"
_TIMES_ZERO = "multiplied by a weight of 0: any finite number will do"
_STARTS = "one of many values from which a search refines"
_IS_FLOAT64 = "`bound` hands over float64"
EQUIVALENT: dict[tuple[str, str], str] = {
    (
        "return xp.where(peak == -math.inf, 0.0, peak)  # -inf - (-inf) would be NaN",
        "0.0 -> 1.0",
    ): "subtracted from -infinity: any finite number will do",
    (
        "return xp.where(total == 0, 1.0, total)",
        "1.0 -> 2.0",
    ): "the denominator of a row in which every numerator is 0: any number but 0 will do",
    ("out = xp.matmul(weights, xp.where(finite, v, 0.0))", "0.0 -> 1.0"): (
        "stands for a value that is replaced by infinity or NaN where it counts, and has weight 0 where not"
    ),
    ("return None, 0.0", "0.0 -> 1.0"): "a rate that goes with no draws and is not used",
    (
        "return xp.where(x < 0, 0.0, x)  # not a maximum: NaN stays NaN in every library",
        "Lt -> LtE",
    ): "differs in the sign of zero only, which is not specified",
    ("return xp.where(x < 0, small, 1.0) / (1.0 + small)", "Lt -> LtE"): "at 0 both branches are 1",
    **{
        ("_FARTHEST = 2**63 - 1  # no two int64 positions that a rule can subtract are farther apart", what): (
            "NumPy compares with integers beyond int64 too; the clamp is for libraries that cannot"
        )
        for what in ("Sub -> Add", "1 -> 2", "2 -> 3", "63 -> 64")
    },
    ("while steps < related.shape[-1]:", "Lt -> LtE"): "one squaring more of a relation that is closed already",
    ("while steps < related.shape[-1]:", "1 -> 2"): "the table is square",
    ("return xp.reshape(xp.take_along_axis(table, positions, axis=-1), (*lead, *pairs))", "axis= dropped"): (
        "NumPy's default is this axis; other libraries want it said"
    ),
    ('return Mask(lambda i, j: (i == i) & (j == j), "everything")', "BitAnd -> BitOr"): "both sides are True",
    (
        "lambda i, j: (j <= i) & ((i - j <= stride) | ((i - j) % stride == 0)),",
        "LtE -> Lt",
    ): "a distance of exactly one stride is a multiple of it",
    (
        "return seen & xp.all(up == up, axis=-1)[..., None, None]  # all of nothing: True, with the leading axes",
        "Eq -> NotEq",
    ): "all of nothing is True",
    ("xp, like = backend.floating(like=np.empty(0) if like is None else like)", "0 -> 1"): "only its library counts",
    ('like = positions if hasattr(positions, "dtype") else np.empty(0)', "0 -> 1"): "only its library counts",
    ('bucket = xp.searchsorted(starts, xp.reshape(distance, (-1,)), side="right")', "1 -> 2"): _FLATTENS,
    (
        "return xp.reshape(xp.take(xp.reshape(table, (-1,)), xp.reshape(index, (-1,))), index.shape)",
        "1 -> 2",
    ): _FLATTENS,
    ("flat = xp.reshape(rows, (-1,))", "1 -> 2"): _FLATTENS,
    ("return RopeFrequencies(np.asarray(theta, dtype=np.float64), attention_factor)", "dtype= dropped"): (
        "a list of Python floats is float64"
    ),
    (
        "return theta, math.sqrt(1.0 + math.log(maximum / original) / math.log(original)) if maximum > original else 1.0",
        "Gt -> GtE",
    ): "where both are equal the root is 1",
    ("theta = [t / factor * r + t * (1.0 - r) for t, r in zip(theta, ramp, strict=True)]", "True -> False"): _EQUAL,
    ("return [t / factor * (1.0 - k) + t * k for t, k in zip(theta, kept, strict=True)]", "True -> False"): _EQUAL,
    ("return xp.arange(start, stop, dtype=xp.int64, **_beside(xp, like))", "dtype= dropped"): (
        "the default integer is int64 where this ran"
    ),
    ("@dataclass(frozen=True)", "True -> False"): "nothing writes to it; this keeps it so",
    (
        "return scores < largest and d_inputs * max(1.0, abs(problem.scale)) < largest",
        "Lt -> LtE",
    ): "the largest number itself is no overflow, and both ways give the same there",
    (
        "pool = PagePool(batch * (-(-tokens // page_size) + 1), page_size, heads, d, v.shape[-1], like=k)",
        "FloorDiv -> Mult",
    ): "more pages than are needed",
    # of the testing kit, where samples met them
    (
        "for a, b in itertools.islice(_by_rank(seen), max(int(_PAIRS // cost), 100)):",
        "FloorDiv -> Mult",
    ): "a budget: how long is searched",
    (
        "finite = np.where(np.isfinite(value), value, 0.0)",
        "0.0 -> 1.0",
    ): "infinities and NaN are equal or not, whatever the limit there",
    (
        'if bits.dtype.kind != "u" or f.emin != 2 - 2 ** max(exponent_bits - 1, 1):',
        "1 -> 2",
    ): "no format has an exponent of so few bits",
    (
        "scores = q * k * problem.q.shape[-1] * max(1.0, abs(problem.scale))",
        "1.0 -> 2.0",
    ): "to be careful is never wrong",
    (
        "_MEMBERS = 3  # so many values with different results are tried on all rows",
        "3 -> 4",
    ): "a budget: how long is searched",
    (
        "_MANY = 2**21  # pairs of queries and keys beyond which only usual sizes are tried",
        "21 -> 22",
    ): "a budget: how long is searched",
    (
        "spread = sum(w[..., None] * r * np.abs(o - out) for w, r, o in zip(p, relative, parts, strict=True))",
        "True -> False",
    ): "all three have one entry for each part",
    (
        "drop = np.where(np.isneginf(x), 0.0, np.abs(x - np.where(np.isneginf(peak), 0.0, peak)))",
        "0.0 -> 1.0",
    ): _TIMES_ZERO,
    (
        "logarithm = np.log(np.maximum(count, 1)) + _held_back(profile)",
        "1 -> 2",
    ): "a count of roundings is 8 at least",
    ('order = np.argsort(key, axis=-1, kind="stable")', "axis= dropped"): "NumPy's default is this axis",
    ("key = np.take_along_axis(key, order, axis=-1)", "axis= dropped"): "NumPy's default is this axis",
    (
        "hard = np.reshape(np.sum(np.reshape(hard, (-1, *b.value.shape)), axis=0), b.value.shape)",
        "1 -> 2",
    ): _FLATTENS,
    (
        'lse = xp._stored(lse, xp.profile.out if xp.profile.out.precision > 24 else FORMATS["float32"])',
        "Gt -> GtE",
    ): "what has 24 bits is float32",
    (
        "own = shift * (1 + u) + u * np.abs(centred) + profile.eta_acc",
        "Add -> Sub",
    ): "u is 2^-23 or less: less of the bound than processors differ by",
    (
        "k, v = (draw.integers(-2, 3, size=(1, 2, 5, 16)) / 2.0 for _ in range(2))",
        "2.0 -> 3.0",
    ): "any keys and values will do",
    **{
        ("_GENERAL = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 0.5)", f"{x} -> {x + 1}"): _STARTS
        for x in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 0.5)
    },
    **{
        ('"eps": (0.0, 1e-12, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3),', f"{x} -> {x + 1}"): _STARTS
        for x in (1e-12, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)  # 0 is reached from nowhere
    },
    ("sinks = np.asarray(sinks, dtype=np.float64)[..., None, None]", "dtype= dropped"): _IS_FLOAT64,
    (
        "return np.reshape(np.asarray(weight, dtype=np.float64), [x.shape[n] if n in inside else 1 for n in range(x.ndim)])",
        "dtype= dropped",
    ): _IS_FLOAT64,
}


def mutants(source):
    """(line number, what changed, mutated source) for every mutation of a module."""
    return [(line, what, mutated(source, *place)) for line, what, place in sites(source)]


def mutated(source, number, which):
    """The source with one change at one node."""
    tree = ast.parse(source)
    node = list(ast.walk(tree))[number]
    list(_changes(node))[which][1](node)
    return ast.unparse(ast.fix_missing_locations(tree))


def sites(source):
    """(line number, what changes, (number of the node, of its change)) for every mutation of a module."""
    tree = ast.parse(source)
    docstrings = {
        id(n.body[0].value)
        for n in ast.walk(tree)
        if isinstance(n, ast.Module | ast.FunctionDef | ast.ClassDef) and n.body and isinstance(n.body[0], ast.Expr)
    }
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom)
        for inner in ast.walk(node)
    }
    skipped |= {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.arg | ast.AnnAssign)
        for inner in ast.walk(getattr(node, "annotation", None) or getattr(node, "returns", None) or ast.Pass())
    }
    nodes = list(ast.walk(tree))
    for number, node in enumerate(nodes):
        if id(node) in skipped or id(node) in docstrings:
            continue
        for which, (what, _) in enumerate(_changes(node)):
            yield getattr(node, "lineno", 0), what, (number, which)


def _changes(node):
    if isinstance(node, ast.Compare):
        for n, op in enumerate(node.ops):
            for other in SWAPS.get(type(op), []):
                yield (
                    f"{type(op).__name__} -> {other.__name__}",
                    lambda t, n=n, other=other: t.ops.__setitem__(n, other()),
                )
    elif isinstance(node, ast.BinOp | ast.BoolOp):
        for other in SWAPS.get(type(node.op), []):
            yield f"{type(node.op).__name__} -> {other.__name__}", lambda t, other=other: setattr(t, "op", other())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Invert | ast.Not):
        yield (
            f"{type(node.op).__name__} dropped",
            lambda t: setattr(t, "op", ast.UAdd()) if isinstance(t.op, ast.USub) else _double(t),
        )
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{node.value} -> {not node.value}", lambda t: setattr(t, "value", not t.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield f"{node.value} -> {node.value + 1}", lambda t: setattr(t, "value", t.value + 1)
    elif isinstance(node, ast.If | ast.IfExp):
        yield "condition negated", lambda t: setattr(t, "test", ast.UnaryOp(ast.Not(), t.test))
    elif isinstance(node, ast.Call) and node.keywords:
        for n, keyword in enumerate(node.keywords):
            if keyword.arg in ("keepdims", "axis", "dtype", "least", "positive"):
                yield f"{keyword.arg}= dropped", lambda t, n=n: t.keywords.pop(n)


def _double(node):
    """~x becomes ~~x, not x becomes not not x: the same as dropping it, for any type."""
    node.operand = ast.UnaryOp(copy.deepcopy(node.op), node.operand)


def files_of(module):
    """The files of a module, or of a package of that name, relative to the repository."""
    package = ROOT / "refattn" / module
    paths = sorted(package.glob("*.py")) if package.is_dir() else [package.with_suffix(".py")]
    return [str(path.relative_to(ROOT)) for path in paths if path.name != "__init__.py"]


def which_tests(module):
    """What judges the mutants of a module beside its golden vectors: its doctests and its tests."""
    own = module.partition("/")[0]
    return [*files_of(module), "tests/test_defaults.py", *TESTS.get(own, [f"tests/test_{own}.py"])]


def _runs(module):
    """What pytest is asked for, one run after the other, until one fails."""
    return [which_tests(module), ["tests/test_vectors.py", "-k", f"{module}: or {module}/"]]


def _pytest(arguments, module, plugins=()):
    common = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--assert=plain"]
    common += ["-W", "ignore::pytest.PytestAssertRewriteWarning", *ON_NUMPY[module != "backend"]]
    code = int(pytest.main([*common, *arguments], plugins=list(plugins)))
    return 0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else code


def _quiet():
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


def _run(folder, module, runs, seconds, file, source, queue):
    """In a child: runs of pytest against a mutated source, of some tests only where `seconds` says what each takes."""
    os.chdir(folder)
    Path(file).write_text(source)
    sys.path.insert(0, str(folder))
    _quiet()
    queue.put(any(_pytest(["-x", *run], module, [] if seconds is None else [Chosen(seconds)]) for run in runs))


def _copy(place):
    left = shutil.ignore_patterns(".git", ".venv*", "__pycache__", "docs", "site", ".hypothesis")
    shutil.copytree(ROOT, place, ignore=left)


def _attempt(task):
    folder, module, runs, seconds, limit, file, line, what, source = task
    place = Path(folder, f"worker-{os.getpid()}")
    if not place.exists():
        _copy(place)
    original = Path(place, file).read_text()
    compiled = Path(place, file).parent / "__pycache__"
    shutil.rmtree(compiled, ignore_errors=True)  # a mutant of the same second and size would be taken for the last one
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_run, args=(place, module, runs, seconds, file, source, queue))
    child.start()
    child.join(limit)
    if child.is_alive():
        child.kill()
        child.join()
    killed = queue.empty() or queue.get()
    Path(place, file).write_text(original)
    return module, file, line, what, killed


def _warm():
    """Import what every child needs once, before forking; refattn must stay out, and Hypothesis, which imports it."""
    import array_api_strict
    import jsonschema
    import ml_dtypes
    import mpmath
    import numpy
    import pytest
    import scipy.special

    assert "refattn" not in sys.modules, "children would test it, and no mutant"
    return [array_api_strict, jsonschema, ml_dtypes, mpmath, numpy, pytest, scipy.special]


def main():
    """Run the mutants; exit code 1 if one survives that is not known to be equivalent."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="*", default=MODULES, metavar="module")
    parser.add_argument("--again", action="store_true", help="only the survivors in tests/mutation.json")
    parser.add_argument("--write", action="store_true", help="write tests/mutation.json and tests/mutation.md")
    parser.add_argument(
        "--only", metavar="FILE", help="mutants of this file alone, for a quick look: nothing is written"
    )
    parser.add_argument("--sample", type=int, metavar="N", help="so many mutants only: nothing is written")
    parser.add_argument("--seed", type=int, default=0, help="which ones (default: 0)")
    parser.add_argument(
        "--seconds", type=float, default=60, help="of a sample: what the tests of a mutant may take (60)"
    )
    parser.add_argument("--entered", metavar="FILE", type=Path, help="of a sample: read, or written if it is not there")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    if options.sample and (options.again or options.only or options.write):
        parser.error("--sample goes with none of --again, --only, --write")
    if options.only and options.write:
        parser.error("--only judges a part of a module; --write wants all of it")
    if options.only and not any(Path(f).name == options.only for m in options.modules for f in files_of(m)):
        parser.error(f"no file of {', '.join(options.modules)} is called {options.only}")
    _warm()
    if options.sample:
        return _sample(options)
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() and not options.only else {}
    known = {m: found for m, found in known.items() if m in MODULES}
    for module in options.modules:
        if module not in known or not options.again:
            known[module] = {"mutants": 0, "survivors": []}
        _judge(module, known[module], options)
    text, holes = _report(known)
    print(text)
    if options.write:
        RESULTS.write_text(json.dumps(known, indent=1) + "\n")
        RESULTS.with_suffix(".md").write_text(text)
    return 1 if holes else 0


def _judge(module, found, options):
    """Run the mutants of a module and write down which survive."""
    files = [file for file in files_of(module) if options.only in (None, Path(file).name)]
    sources = {file: (ROOT / file).read_text() for file in files}
    before = [tuple(survivor) for survivor in found["survivors"]]
    with tempfile.TemporaryDirectory() as folder:
        limit = LIMIT
        for file, source in sources.items():
            start = time.monotonic()
            if _attempt((folder, module, _runs(module), None, 20 * LIMIT, file, 0, "unchanged", source))[-1]:
                sys.exit(f"the tests of {module} fail on the unchanged module")
            limit = max(limit, 5 * (time.monotonic() - start))
        tasks = [
            (folder, module, _runs(module), None, limit, file, *mutant)
            for file, source in sources.items()
            for mutant in mutants(source)
        ]
        found["mutants"] = len(tasks)
        if options.again:
            tasks = [t for t in tasks if (t[5], sources[t[5]].splitlines()[t[6] - 1].strip(), t[7]) in before]
        found["survivors"] = []
        with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("fork")) as pool:
            for done, (_, file, line, what, killed) in enumerate(pool.map(_attempt, tasks), start=1):
                if not killed:
                    found["survivors"].append([file, sources[file].splitlines()[line - 1].strip(), what])
                if sys.stderr.isatty():
                    print(f"\r{module}: {done}/{len(tasks)}", end="", file=sys.stderr)


def _sample(options):
    """Judge some mutants of all files at once, each by the tests that enter its function; say which survive."""
    modules = {file: module for module in options.modules for file in files_of(module)}
    sources = {file: (ROOT / file).read_text() for file in modules}
    everything = [(file, *site) for file, source in sources.items() for site in sites(source)]
    chosen = random.Random(options.seed).sample(everything, min(options.sample, len(everything)))
    tests = _entered(options, sorted({path for module in options.modules for path in which_tests(module)}))
    with tempfile.TemporaryDirectory() as folder:
        tasks, passed = [], []
        for file, line, what, place in chosen:
            able = entering(tests, file, function_at(sources[file], line))
            seconds = quickest(able, options.seconds)
            files = {test.partition("::")[0] for test in seconds}
            runs = [sorted({*files, OPTIONS})] if files else []
            limit = LIMIT + 3 * sum(seconds.values())
            mutant = mutated(sources[file], *place)
            tasks.append((folder, modules[file], runs, seconds, limit, file, line, what, mutant))
            passed.append(f"{len(seconds)} of {len(able)} tests that enter it pass")
        survive = 0
        with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("fork")) as pool:
            for tests_passed, (_, file, line, what, killed) in zip(passed, pool.map(_attempt, tasks), strict=True):
                source = sources[file].splitlines()[line - 1].strip()
                if not killed and (source, what) not in EQUIVALENT:
                    survive += 1
                    print(f"{file}:{line}: {what}: `{source}` ({tests_passed})", flush=True)
    print(f"{survive} of {len(tasks)} mutants survive that are not known to be equivalent")
    return 1 if survive else 0


def _entered(options, paths):
    """For each test how long it takes, and which functions it enters, as (file, first line)."""
    with tempfile.TemporaryDirectory() as folder:
        kept = (options.entered or Path(folder, "entered.json")).absolute()
        if not kept.exists():
            measuring = multiprocessing.get_context("fork").Process(target=_measure, args=(paths, kept))
            measuring.start()
            measuring.join()
            if measuring.exitcode:
                sys.exit("the tests fail on the unchanged modules")
        return json.loads(kept.read_text())


def _measure(paths, kept):
    """In a child: run tests where mutants will run them, and write down what each enters."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "unchanged").resolve()
        _copy(place)
        os.chdir(place)
        sys.path.insert(0, str(place))
        _quiet()
        recorder = Recorder(str(path) for path in place.glob("refattn/**/*.py"))
        failed = _pytest([*paths, "tests/test_vectors.py"], "", [recorder])
        relative = lambda file: str(Path(file).relative_to(place))
        if not failed:
            tests = {
                test: (seconds, [(relative(file), line) for file, line in entered])
                for test, (seconds, entered) in recorder.tests.items()
            }
            kept.write_text(json.dumps(tests))
    sys.exit(failed)


def _report(known):
    """The score as Markdown, and the survivors that nothing excuses."""
    lines = ["# Mutation score", "", "Written by `python tests/mutate.py --write`.", ""]
    lines += ["| module | mutants | killed | equivalent | survive |", "|---|---|---|---|---|"]
    excused, holes, total = [], [], 0
    for module in sorted(known):
        survivors = [tuple(survivor) for survivor in known[module]["survivors"]]
        mine = [s for s in survivors if s[1:] in EQUIVALENT]
        open_ = [s for s in survivors if s[1:] not in EQUIVALENT]
        count = known[module]["mutants"]
        lines.append(f"| {module} | {count} | {count - len(survivors)} | {len(mine)} | {len(open_)} |")
        excused, holes, total = excused + mine, holes + open_, total + count
    killed = total - len(excused) - len(holes)
    share = 100 * killed / max(1, total - len(excused))
    lines += ["", f"Killed: {killed} of {total}; of those that compute another function {share:.1f} %.", ""]
    if excused:
        rows = [
            f"- {file}: `{line}` with {what}: {EQUIVALENT[line, what]}" for file, line, what in dict.fromkeys(excused)
        ]
        lines += ["## Equivalent", "", *rows, ""]
    if holes:
        lines += ["## Surviving", "", *(f"- {file}: `{line}` with {what}" for file, line, what in holes), ""]
    return "\n".join(lines), holes


if __name__ == "__main__":
    sys.exit(main())
