"""The measured cost of a mechanism, from tests/benchmarks/results: tables for its page."""

import functools
import importlib
import json
from pathlib import Path

from .text import table

RESULTS = Path(__file__).resolve().parents[2] / "tests" / "benchmarks" / "results"


@functools.cache
def results(name):
    """What a benchmark measured."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def of(mechanism):
    """The section of a mechanism's page, or nothing where nothing is measured."""
    parts = {
        "attention": [memory("attention", "attention_vjp")],
        "gradients": [memory("attention_vjp", "tiled_attention_vjp")],
        "tiled": [speed(), memory("attention", "tiled_attention", "attention_vjp", "tiled_attention_vjp")],
        "cache": [decode()],
    }.get(mechanism)
    if mechanism.startswith("sparse/"):
        parts = sparse(mechanism.removeprefix("sparse/"))
    return ["## Measured", *parts] if parts else []


def memory(*functions):
    """Bytes against tokens."""
    found = results("memory")
    exponent = importlib.import_module("tests.benchmarks.memory").exponent
    sizes = sorted({row["tokens"] for name in functions for row in found["functions"][name]})
    rows = []
    for name in functions:
        held = {row["tokens"]: row["bytes"] for row in found["functions"][name]}
        cells = [f"{held[n] / 2**20:,.1f}" if n in held else "" for n in sizes]
        rows.append((None, [f"<code>{name}</code>", *cells, f"{exponent(found['functions'][name]):.2f}"]))
    about = (
        "**Memory** in MiB beside arguments and results, one causal head of size"
        f" {found['head_dim']}, float32, by the number of tokens; the exponent is its slope at the two largest sizes."
    )
    headings = ["", *(f"{n:,}" for n in sizes), "exponent"]
    return "\n\n".join([about, table(headings, rows), _how("memory")])


def speed():
    """Time beside torch's kernels."""
    found = results("speed")
    ratios = {dtype: found["dtypes"][dtype]["ratios"] for dtype in found["dtypes"]}
    seconds = {dtype: found["dtypes"][dtype]["seconds"] for dtype in found["dtypes"]}
    rows = [(None, [name, *(f"{1e3 * seconds[d][name]:,.0f} ms" for d in seconds)]) for name in seconds["float32"]]
    rows += [(None, [name, *(f"{ratios[d][name]:.2f}" for d in ratios)]) for name in ratios["float32"]]
    about = (
        f"**Time** with {found['heads']} heads of size {found['head_size']} and {found['size']:,} queries and keys, in"
        " rounds that take turns: medians, then their ratios. torch's MATH kernel makes the array of all scores, FLASH is"
        " its fused kernel for the CPU. *Products alone* are the two matrix products of every tile and nothing else: with"
        " NumPy's matrix products nothing can be faster than that."
    )
    return "\n\n".join([about, table(["", *seconds], rows), _how("speed")])


def decode():
    """A step against the tokens in the cache."""
    found = results("decode")
    exponent = importlib.import_module("tests.benchmarks.decode").exponent
    sizes = [row["tokens"] for row in next(iter(found["caches"].values()))]
    rows = []
    for name, measured in found["caches"].items():
        steps = [f"{row['ms']:.2f} ms<br>{row['bytes'] / 1e6:,.1f} MB" for row in measured]
        rows.append((None, [name, *steps, f"{exponent(measured):.2f}"]))
    about = (
        f"**A step of decoding**: one token is appended and attends, with {found['heads']} heads of size"
        f" {found['head_dim']}, float32, by the tokens seen before; below, the bytes that the cache holds. The exponent"
        " is the slope of time at the two largest sizes: 1 is linear, 0 constant."
    )
    return "\n\n".join([about, table(["", *(f"{n:,}" for n in sizes), "exponent"], rows), _how("decode")])


def sparse(name):
    """Time and memory of a sparse mechanism against tokens; nothing where it is not measured."""
    found = results("sparse")
    measured = found["mechanisms"].get(name)
    if measured is None:
        return []
    exponent = importlib.import_module("tests.benchmarks.sparse").exponent
    dense = found["dense"]
    fields = {
        "forward": ("seconds", 1e3, "ms"),
        "backward": ("backward_seconds", 1e3, "ms"),
        "memory": ("bytes", 2**-20, "MiB"),
        "memory, backward": ("backward_bytes", 2**-20, "MiB"),
    }
    rows = []
    for title, (field, factor, unit) in fields.items():
        cells = [f"{row[field] * factor:,.1f} {unit}" for row in measured]
        rows.append((None, [title, *cells, f"{exponent(measured, field):.2f}"]))
    beside = next(dense["seconds"] / row["seconds"] for row in measured if row["tokens"] == dense["tokens"])
    about = (
        f"**Time and memory** beside arguments and results, by the number of tokens: one head of size {found['head_dim']},"
        " float32, medians. The exponent is the slope over all sizes: 1 is linear, 2 quadratic. With"
        f" {dense['tokens']:,} tokens it is {beside:.0f} times as fast as `attention`. What it attends to:"
        f" `{measured[0]['call']}`."
    )
    headings = ["", *(f"{row['tokens']:,}" for row in measured), "exponent"]
    return [about, table(headings, rows), _how("sparse")]


def _how(name):
    """When and with what it was measured."""
    where = results(name)["environment"]
    versions = ", ".join(
        f"{package} {where['versions'][package]}" for package in ("numpy", "torch") if package in where["versions"]
    )
    return (
        f"Measured {where['date']} on {where['cores']} cores with {versions}: `python tests/benchmarks/run.py {name}`."
    )
