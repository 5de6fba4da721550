"""Benchmarks: one command for all.

    python tests/benchmarks/run.py                   lists them
    python tests/benchmarks/run.py power             runs one, prints it, and writes results/power.json
    python tests/benchmarks/run.py power --quick     a small sample: shows that it works, writes nothing

A benchmark is a module beside this file with

    run(quick, seed) -> dict      measures; what it returns is written as JSON, with `environment` and `seed` added
    show(results) -> str          the results as text, for the terminal

and a docstring whose first line says what it measures. Add its name to BENCHMARKS; docs/generator turns the JSON into a
page of the site. Results are measured, never edited: to change them, run again. Times are medians over rounds, and
comparisons are ratios of medians, since machines differ (`median` below); a test never times.
"""

import argparse
import datetime
import importlib
import json
import os
import platform
import statistics
import sys
import time
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).resolve().parent / "results"
BENCHMARKS = ("power", "speed", "memory", "decode", "sparse")
PACKAGES = ("numpy", "scipy", "cupy-cuda12x", "cupy-cuda13x", "torch", "jax", "onnxruntime", "dask")


def main(arguments=None):
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("name", nargs="?", choices=available(), help="which benchmark")
    options.add_argument("--quick", action="store_true", help="a small sample; nothing is written")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, help="where to write; default: tests/benchmarks/results/NAME.json")
    options = options.parse_args(arguments)
    if options.name is None:
        for name in available():
            print(f"{name:10} {(benchmark(name).__doc__ or '').splitlines()[0]}")
        return
    found = benchmark(options.name)
    started = time.perf_counter()
    results = found.run(options.quick, options.seed)
    results |= {"seed": options.seed, "seconds": round(time.perf_counter() - started), "environment": environment()}
    print(found.show(results))
    if not options.quick or options.out:
        place = options.out or RESULTS / f"{options.name}.json"
        place.parent.mkdir(exist_ok=True)
        place.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        print(f"written: {place}")


def available():
    """The benchmarks that there are; the other names are reserved."""
    return [name for name in BENCHMARKS if (Path(__file__).parent / f"{name}.py").exists()]


def benchmark(name):
    """The module of a benchmark."""
    sys.path[:0] = [p for p in (str(ROOT),) if p not in sys.path]
    return importlib.import_module(f"tests.benchmarks.{name}")


def environment():
    """What a figure depends on: versions, machine, date."""
    versions = {}
    for package in ("refattn", *PACKAGES):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "versions": versions,
    }


def median(call, rounds=7):
    """Median seconds of a call, after one that warms up."""
    call()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


if __name__ == "__main__":
    main()
