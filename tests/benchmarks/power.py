"""Power: which wrong kernels each tolerance rule lets pass, and which correct ones it accuses.

Every rule of `rules.py`, on its own project's inputs (`inputs.py`) and on ours (golden vectors and directed recipes),
against every variant of attention, precision mutants and thousands of correct kernels; beside them our two bounds.

A wrong kernel is a variant's exact result plus the rounding error of a correct kernel on the same inputs, rounded to
the rule's dtype. A variant is *shown* by inputs where its exact result differs from the right one by more than the
rounding of the result; it is *missed* where inputs show it and the rule passes every time. Variants that only change the
log-sum-exp are left out: no rule here looks at it.
"""

from __future__ import annotations

import collections
import concurrent.futures
import os
from dataclasses import replace
from typing import Any

import numpy as np

import refattn
from refattn.attention import attention_stages
from refattn.testing.bounds import bound
from refattn.testing.profiles import PROFILES
from refattn.testing.rounding import FORMATS, round_to
from refattn.testing.variants import NotApplicable, variants
from refattn.testing.vectors import results
from tests.benchmarks.inputs import ours, problems
from tests.benchmarks.rules import RULES, Judged
from tests.kernels.attention import flash
from tests.kernels.cases import KINDS, draw_case, draw_style

TIERS = ("hard", "statistical")
DTYPES = ("float16", "bfloat16", "float32")
KERNELS = 671  # correct kernels of each dtype on random inputs: as many of each kind
STYLES = 3  # correct kernels on each problem


class Problem:
    """One problem in one dtype: the truth, our bounds, and the references of the rules."""

    def __init__(self, dtype, name, function, arguments):
        self.profile, self.function = PROFILES[dtype], function
        self.fmt = self.profile.out
        self.arguments = {k: v for k, v in arguments.items() if k != "return_lse"}
        with np.errstate(all="ignore"):
            self.limits = bound(function, self.profile, **self.arguments)["out"]
        self.exact = self.limits.value
        self.plain = _plain(arguments)
        self.judged = Judged(function, self.arguments, self.fmt, self.exact, alibi=name.endswith("ALiBi"))

    def correct(self, style):
        """The output of a correct kernel before its last rounding, and after it."""
        arguments = dict(self.arguments)
        if self.function == "grouped_query_attention":
            group = arguments["q"].shape[-3] // arguments["k"].shape[-3]
            arguments |= {x: np.repeat(arguments[x], group, axis=-3) for x in "kv"}
        wide = flash(**arguments, precision=replace(self.profile, out=FORMATS["float32"]), **style)[0]
        return wide, round_to(wide, self.fmt)

    def wrong(self, variant, error):
        """A variant's output with a correct kernel's rounding error, and whether these inputs show it."""
        with np.errstate(all="ignore"):
            value = np.asarray(results(self.function, variant.call(**self.arguments))["out"], dtype=np.float64)
        if value.shape != self.exact.shape:
            return None, True  # no test passes that
        return round_to(value + error, self.fmt), self._shown(value)

    def _shown(self, value):
        with np.errstate(invalid="ignore"):
            near = np.abs(value - self.exact) <= 2 * self.fmt.u * np.abs(self.exact) + 2 * self.fmt.eta
        return not bool(np.all(near | (value == self.exact) | (np.isnan(value) & np.isnan(self.exact))))

    def within(self, out, tier):
        """Whether one of our bounds takes the output for a correct kernel's."""
        limit = getattr(self.limits, tier)
        with np.errstate(all="ignore"):
            near = np.abs(out - self.exact) <= limit
            overflows = ~np.isfinite(out) & (np.abs(self.exact) + self.limits.hard > self.fmt.largest)
        return bool(np.all(near | (out == self.exact) | (np.isnan(out) & np.isnan(self.exact)) | overflows))

    def passes(self, judges, out):
        """Which judges let an output pass: rules by name, our tiers by theirs."""
        if out is None:
            return set()
        with np.errstate(all="ignore"):
            rules = {rule.name for rule in judges if rule.passes(out, self.judged)}
        return rules | {tier for tier in TIERS if self.within(out, tier)}


def _plain(arguments):
    """Whether an emulated kernel can take the inputs: no poison, nothing at the end of the range of numbers."""
    finite = all(np.isfinite(arguments[x]).all() for x in "qkv")
    bias = arguments.get("bias", 0.0)
    return finite and bool(np.all((np.abs(bias) < 1e30) | np.isneginf(bias)))


def narrow_kernels(problem):
    """Right in every step, and less precise than promised: what a precision mutant returns."""
    fmt = problem.fmt
    below = "tf32" if fmt.name == "float32" else fmt.name
    yield "weights narrower", _narrow(problem, weights="tf32" if fmt.name == "float32" else "float8_e4m3fn")
    yield "scores stored", _narrow(problem, weights=fmt, scores=below)
    yield "sums stored", _narrow(problem, weights=fmt, sums=below)


def _narrow(problem, weights, scores=None, sums=None, tile=64):
    """Online softmax that rounds weights, scores, and the sums after every tile, to these formats."""
    arguments = dict(problem.arguments)
    q, k, v = (arguments[x] for x in "qkv")
    if problem.function == "grouped_query_attention":
        k, v = (np.repeat(x, q.shape[-3] // k.shape[-3], axis=-3) for x in (k, v))
    with np.errstate(all="ignore"):
        stages = attention_stages(**{**arguments, "q": q, "k": k, "v": v})
        s = stages.mask if scores is None else round_to(stages.mask, scores)
        sinks, dropout = arguments.get("sinks"), arguments.get("dropout")
        kept = 1.0 if dropout is None else np.where(dropout[0], 1.0 / (1.0 - dropout[1]), 0.0)
        kept = np.broadcast_to(kept, s.shape)
        top = np.full((*s.shape[:-1], 1), -np.inf)
        total, acc = np.zeros_like(top), np.zeros(problem.exact.shape)
        if sinks is not None:
            top, total = np.broadcast_to(np.asarray(sinks)[..., None, None], top.shape), total + 1.0
        for start in range(0, s.shape[-1], tile):
            part = s[..., start : start + tile]
            new = np.maximum(top, part.max(axis=-1, keepdims=True))
            level = np.where(np.isneginf(new), 0.0, new)
            w, shrink = np.exp(part - level), np.exp(top - level)
            total = total * shrink + w.sum(axis=-1, keepdims=True)
            stored = round_to(w * kept[..., start : start + tile], weights)
            acc = acc * shrink + stored @ v[..., start : start + tile, :]
            acc = acc if sums is None else round_to(acc, sums)
            top = new
        return round_to(acc / np.where(total == 0, 1.0, total), problem.fmt)


class Tally:
    """What became of every variant, mutant and correct kernel on one set of problems, judge by judge."""

    def __init__(self, judges):
        self.judges, self.problems, self.kernels = judges, 0, 0
        self.shown, self.caught = set(), collections.defaultdict(set)  # caught: by judge
        self.alarms = collections.Counter()

    def __getstate__(self):  # rules are functions, which do not travel between processes; figures do
        return {**vars(self), "judges": []}

    def settled(self, name):
        """Whether every judge has caught a wrong kernel already: then it need not be tried on more problems."""
        return name in self.shown and all(name in self.caught[judge] for judge in self._names())

    def _names(self):
        return (*(rule.name for rule in self.judges), *TIERS)

    def add(self, problem, seed):
        """All variants, mutants and some correct kernels on one problem."""
        draw = np.random.default_rng(seed)
        self.problems += 1
        error = np.zeros_like(problem.exact)
        for _ in range(STYLES if problem.plain else 0):
            style = draw_style(problem.profile.name, draw, problem.arguments["k"].shape[-2])
            wide, out = problem.correct({**style, "sums": "library"})
            self.correct(problem, out)
            error = wide - problem.exact
        for variant in variants(problem.function):
            if self.settled(variant.name):
                continue
            try:
                out, shown = problem.wrong(variant, error)
            except NotApplicable:
                continue
            if shown:
                self.judge(problem, variant.name, out)
        if problem.plain and problem.exact.size:
            for name, out in narrow_kernels(problem):
                self.judge(problem, f"precision/{name}", out)

    def judge(self, problem, name, out):
        self.shown.add(name)
        passed = problem.passes(self.judges, out)
        for judge in self._names():
            if judge not in passed:
                self.caught[judge].add(name)

    def correct(self, problem, out):
        self.kernels += 1
        passed = problem.passes(self.judges, out)
        for judge in self._names():
            self.alarms[judge] += judge not in passed

    def of(self, judge) -> dict[str, Any]:
        """The figures of one judge."""
        missed = sorted(self.shown - self.caught[judge])
        return {
            "problems": self.problems,
            "shown": sum(not _precision(name) for name in self.shown),
            "missed": [name for name in missed if not _precision(name)],
            "missed_precision": [name.partition("/")[2] for name in missed if _precision(name)],
            "kernels": self.kernels,
            "false_alarms": self.alarms[judge],
        }


def _precision(name):
    return name.startswith("precision/")


def own_inputs(job):
    """One project's inputs in one dtype, under its own rules."""
    project, dtype, seed, quick = job
    tally = Tally([rule for rule in RULES if (rule.inputs, rule.dtype) == (project, dtype)])
    for number, (name, function, arguments) in enumerate(problems(project, dtype, seed)):
        if quick and number >= 2:
            break
        tally.add(Problem(dtype, name, function, arguments), [seed, number])
    return tally


def our_inputs(job):
    """Our inputs in one dtype, under every rule for it."""
    dtype, seed, quick = job
    tally = Tally([rule for rule in RULES if rule.dtype == dtype])
    for number, (name, function, arguments) in enumerate(ours(dtype, seed, "smoke" if quick else "standard")):
        tally.add(Problem(dtype, name, function, arguments), [seed, number])
    return tally


def random_inputs(job):
    """False alarms on correct kernels of every style, on every kind of input, under every rule for one dtype."""
    dtype, seed, quick = job
    judges = [rule for rule in RULES if rule.dtype == dtype]
    tallies = {kind: Tally(judges) for kind in KINDS}
    for number in range(22 if quick else KERNELS):
        case = draw_case(dtype, 10_000 * (seed + 1) + number)
        tallies[case.kind].correct(Problem(dtype, "", case.function, case.arguments), case.run()[0])
    return tallies


def run(quick, seed):
    """All figures."""
    wanted = sorted({(rule.inputs, rule.dtype) for rule in RULES})
    if quick:
        wanted = [job for job in wanted if job in (("flash-attn 3", "bfloat16"), ("ONNX", "float32"))]
    dtypes = ("bfloat16",) if quick else DTYPES
    jobs = [(own_inputs, (*job, seed, quick)) for job in wanted]
    jobs += [(work, (dtype, seed, quick)) for work in (our_inputs, random_inputs) for dtype in dtypes]
    found = dict(zip(((work, job[:-2]) for work, job in jobs), _all(jobs, quick), strict=True))
    rows = []
    for rule in RULES:
        own = found.get((own_inputs, (rule.inputs, rule.dtype)))
        here = found.get((our_inputs, (rule.dtype,)))
        if own is None or here is None:
            continue
        row = {
            key: getattr(rule, key) for key in ("name", "project", "path", "dtype", "states", "inputs", "simplified")
        }
        row |= {"own": own.of(rule.name), "bounds_there": {tier: own.of(tier) for tier in TIERS}}
        row |= {"ours": here.of(rule.name), "random": _random(found[random_inputs, (rule.dtype,)], rule.name)}
        rows.append(row)
    bounds = [
        {
            "name": f"refattn {tier}",
            "dtype": dtype,
            "ours": found[our_inputs, (dtype,)].of(tier),
            "random": _random(found[random_inputs, (dtype,)], tier),
        }
        for dtype in dtypes
        for tier in TIERS
    ]
    shown = set().union(*(found[our_inputs, (dtype,)].shown for dtype in dtypes))
    everything = {v.name for v in variants("grouped_query_attention")}
    of_lse = _of_lse(everything - shown, seed)
    return {
        "refattn": refattn.__version__,
        "variants": len(everything),
        "variants_of_the_output": sum(not _precision(name) for name in shown),
        "variants_of_lse_only": sorted(of_lse),
        "variants_not_shown": sorted(everything - shown - of_lse),
        "correct_kernels": sum(sum(t.kernels for t in found[random_inputs, (d,)].values()) for d in dtypes),
        "rules": rows,
        "bounds": bounds,
    }


def _of_lse(names, seed):
    """Those of some variants that change a log-sum-exp on our inputs."""
    found = set()
    for _, function, arguments in ours("float32", seed):
        arguments = {**arguments, "return_lse": True}
        with np.errstate(all="ignore"):
            want = reference(function, **arguments)[1]
            for variant in (v for v in variants(function) if v.name in names - found):
                try:
                    got = np.asarray(variant.call(**arguments)[1])
                except NotApplicable:
                    continue
                if got.shape != want.shape or not np.allclose(got, want, rtol=1e-5, atol=1e-5, equal_nan=True):
                    found.add(variant.name)
    return found


def reference(function, **arguments):
    """A reference function by name."""
    return getattr(refattn, function)(**arguments)


def _random(tallies, judge):
    by_kind = {kind: tally.alarms[judge] for kind, tally in tallies.items() if tally.alarms[judge]}
    return {
        "kernels": sum(tally.kernels for tally in tallies.values()),
        "false_alarms": sum(by_kind.values()),
        "by_kind": by_kind,
    }


def _all(jobs, quick):
    if quick:
        return [work(job) for work, job in jobs]
    with concurrent.futures.ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        running = [pool.submit(work, job) for work, job in jobs]
        return [done.result() for done in running]


def show(results):
    """The table of the terminal."""
    lines = [
        f"{results['variants_of_the_output']} variants that change the output ({len(results['variants_of_lse_only'])} more"
        f" only the log-sum-exp, {len(results['variants_not_shown'])} not shown by our inputs), 3 precision mutants,"
        f" {results['correct_kernels']} correct kernels on random inputs",
        f"{'':26} | {'its own inputs':^35} | {'our inputs':^18} | {'random inputs':^13} | our bounds on its inputs",
        f"{'rule':26} | {'shown':>5} {'missed':>6} {'precision':>9} {'accused':>12} | {'missed':>6} {'precision':>9} "
        f"  | {'accused':>13} | {'hard':>6} {'statistical':>11}",
    ]
    for row in results["rules"]:
        own, here, there, random = row["own"], row["ours"], row["bounds_there"], row["random"]
        lines.append(
            f"{row['name']:26} | {own['shown']:5} {len(own['missed']):6} {len(own['missed_precision']):9}"
            f" {own['false_alarms']:6}/{own['kernels']:5} | {len(here['missed']):6} {len(here['missed_precision']):9}   |"
            f" {random['false_alarms']:6}/{random['kernels']:6} | {len(there['hard']['missed']):6}"
            f" {len(there['statistical']['missed']):11}"
        )
    for row in results["bounds"]:
        here, random = row["ours"], row["random"]
        lines.append(
            f"{row['name'] + ' ' + row['dtype']:26} | {'':35} | {len(here['missed']):6} {len(here['missed_precision']):9}"
            f"   | {random['false_alarms']:6}/{random['kernels']:6} |  shown: {here['shown']}, accused:"
            f" {here['false_alarms']}/{here['kernels']}"
        )
    return "\n".join(lines)
