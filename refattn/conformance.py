"""The specification as a pytest suite for any implementation, one test a case:

    pytest --pyargs refattn.conformance --refattn-impl mypackage.kernels:flash

Tests are named CLAUSE::case, so that `-k MASK-EMPTY` and `--refattn-clause 'MASK-*'` choose among them. What an
implementation does not support is skipped, what an allow-list knows is expected to fail, and an entry of the given
allow-list that no case needs any longer is a failure itself. `refattn_pytest` hands pytest this module.
"""

from __future__ import annotations

import fnmatch
import os
import sys
from collections import Counter

import pytest

from refattn.testing import adapters, allow
from refattn.testing.budget import COVERING, EXPLAINING, Budget, is_golden
from refattn.testing.checking import CheckCase, Report, Result, all_cases, check, run_case, smallest
from refattn.testing.coverage import Coverage, Seen, covered, summed
from refattn.testing.inside import stating
from refattn.testing.matches import assert_matches
from refattn.testing.refusals import AskedAgain
from refattn.testing.report import gist
from refattn.testing.reports import as_text
from refattn.testing.vote import settled

MISSING = "nothing to judge: give --refattn-impl module:function (or torch, jax, onnxruntime, ...)"
LAST_QUARTER = 0.75  # of the time, in which only golden cases are asked: tests come clause by clause
STATE = pytest.StashKey["State"]()


class State:
    """What one run judges, and what it has found."""

    def __init__(self, config):
        self.option = config.option
        if not self.option.refattn_impl:
            raise pytest.UsageError(f"refattn.conformance: {MISSING}")
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())  # module:function may lie in the present folder
        try:
            self.adapter = adapters.get(
                self.option.refattn_impl,
                self.option.refattn_function,
                precision=self.option.refattn_precision,
                layout=self.option.refattn_layout,
            )
        except (ValueError, TypeError, adapters.NotAvailable) as error:
            raise pytest.UsageError(f"--refattn-impl {self.option.refattn_impl}: {error}") from None
        if self.option.refattn_limits is not None:
            try:
                self.adapter = stating(self.adapter, self.option.refattn_limits)
            except ValueError as error:
                raise pytest.UsageError(f"--refattn-limits: {error}") from None
        try:
            self.budget = Budget(self.option.refattn_time)
        except ValueError as error:
            raise pytest.UsageError(f"--refattn-time: {error}") from None
        self.adapter = self.budget.watching(self.adapter)
        self.again = AskedAgain(self.adapter)
        name, version = self.adapter.name, self.adapter.version
        own, shipped = read_allowed(self.option), allow.shipped()
        self.given = allow.in_force(own, name, version)
        self.entries = [*self.given, *allow.in_force(shipped, name, version)]
        self.lists = [
            allow.told(allow.measured_on([*own, *shipped], name, version), version),
            allow.of_others(own, name),
        ]
        self.cases = self._cases()
        self.results: list[Result] = []  # of this process: with xdist each worker has its own
        self.shown: dict[tuple[str, str, str], str] = {}
        self._seen: dict[str, Seen] = {}

    def seen(self, function: str) -> Seen:
        """Which known mistakes of a function were shown."""
        return self._seen.setdefault(function, Seen(function, self.adapter.profile))

    def coverage(self, refused: set[str]) -> list[Coverage]:
        """What all cases have excluded; where that is too little, why a list of known deviations says that it is."""
        found = [each.missing(self.cases, refused) for each in self._seen.values()]
        return [allow.excused(each, self.entries, self.option.refattn_at_least)[0] for each in found if each]

    def _cases(self) -> list[CheckCase]:
        """Every case that was asked for."""
        try:
            option = self.option
            cases = list(all_cases(self.adapter, None, option.refattn_effort, option.refattn_seed, self.budget))
        except ValueError as error:  # an unknown precision
            raise pytest.UsageError(f"refattn: {error}") from None
        if not cases:
            raise pytest.UsageError(
                f"--refattn-function {self.option.refattn_function}: no cases for it; try: refattn list functions"
            )
        patterns = self.option.refattn_clause
        if not patterns:
            return cases
        chosen = [c for c in cases if any(fnmatch.fnmatch(clause, p) for clause in c.clauses for p in patterns)]
        if not chosen:
            clauses = ", ".join(sorted({clause for case in cases for clause in case.clauses}))
            raise pytest.UsageError(f"--refattn-clause {' '.join(patterns)}: there are cases of {clauses}")
        return chosen

    def known(self, result: Result):
        """The entry of an allow-list that covers a broken case, or None."""
        return next((entry for entry in self.entries if entry.covers(self.adapter.name, result)), None)

    def replay(self, case: CheckCase) -> str:
        """The command that runs one case again."""
        option = self.option
        report = Report(self.adapter.name, "", option.refattn_effort, option.refattn_seed, {})
        if isinstance(self.adapter, adapters.CallableAdapter):
            named = ("function", "precision", "layout")
            report.options = {name: getattr(option, f"refattn_{name}") for name in named}
        if option.refattn_limits is not None:
            report.options["limits"] = option.refattn_limits
        return report.replay(case)


def read_allowed(option) -> list[allow.Allowance]:
    """The entries of the allow-list that was given."""
    try:
        return allow.read(option.refattn_allow) if option.refattn_allow else []
    except (OSError, ValueError) as error:
        raise pytest.UsageError(f"--refattn-allow: {error}") from None


def start(config):
    """Look at the options once, early, so that a wrong one is a usage error and not a hundred test errors."""
    config.stash[STATE] = State(config)
    config.pluginmanager.register(Summary(config.stash[STATE]), "refattn_summary")


class Suite(pytest.File):
    """The suite: its clauses."""

    def collect(self):
        state = self.config.stash.get(STATE, None)
        if state is None:
            raise self.CollectError(MISSING)
        by_clause: dict[str, list[CheckCase]] = {}
        for case in state.cases:
            by_clause.setdefault(case.clauses[0], []).append(case)
        for clause, cases in sorted(by_clause.items()):
            yield Clause.from_parent(self, name=clause, cases=cases)
        if state.given and not state.option.refattn_clause:
            yield AllowList.from_parent(self, name="allow-list", entries=state.given)


class Clause(pytest.Collector):
    """The cases of one clause."""

    def __init__(self, *, cases, **rest):
        super().__init__(**rest)
        self.cases = cases

    def collect(self):
        for case in self.cases:
            yield Case.from_parent(self, name=case.id, case=case)


class Judged(pytest.Item):
    """A test of this suite."""

    def reportinfo(self):
        """What stands above a failure."""
        return self.path, None, self.nodeid.removeprefix("refattn.conformance::").replace("::", ": ")


class Case(Judged):
    """One case."""

    def __init__(self, *, case, **rest):
        super().__init__(**rest)
        self.case = case
        self.extra_keyword_matches.update(case.clauses)
        self.user_properties += [("clause", clause) for clause in case.clauses]
        if case.refuses:
            self.user_properties.append(("refattn_refuses", True))

    def runtest(self):
        """Run it, and say what came of it as pytest does."""
        state = self.config.stash[STATE]
        budget = state.budget
        if budget.over(1.0 if is_golden(self.case) else LAST_QUARTER):
            self.user_properties.append(("refattn_unasked", "golden cases" if is_golden(self.case) else "other cases"))
            pytest.skip(f"not asked: the time was over (--refattn-time {budget.seconds:g})")
        explain = not budget.over(EXPLAINING)
        result = state.again(run_case(state.adapter, self.case, explain=explain))
        if result.wrong and not explain:
            self.user_properties.append(("refattn_unasked", "explanations of cases that are wrong"))
        state.results.append(result)
        if budget.over(COVERING):
            self.user_properties.append(("refattn_unasked", "cases asked how many known mistakes they exclude"))
        elif shown := state.seen(self.case.function).take(result):
            self.user_properties.append(("refattn_excludes", shown))
        self.user_properties.append(("refattn_judged", [c.result for c in result.comparisons]))
        if result.status == "unsupported":
            pytest.skip(f"not supported: {result.reason}")
        if result.status == "unjudged":
            self.user_properties.append(("refattn_unjudged", result.reason))
            pytest.fail(f"could not be judged: {result.reason}\nAgain: {state.replay(self.case)}", pytrace=False)
        if result.status != "broken":
            return
        if entry := state.known(result):
            self.user_properties.append(("refattn_known", result.deviation))
            pytest.xfail(f"{result.deviation}: {entry.reason}")
        again = state.replay(self.case)
        told = f"{result.deviation} (breaks {result.clause})" + (f": {result.raised}" if result.raised else "")
        key = result.deviation, result.clause, gist(result.raised)
        self.user_properties.append(("refattn_deviation", (*key, told, again)))
        pytest.fail(self._message(state, result, again), pytrace=False)

    def _message(self, state, result, again):
        """The whole message for the first case of a deviation; the rest of them refer to it."""
        first = state.shown.setdefault((self.case.function, result.deviation, gist(result.raised)), self.case.id)
        if first != self.case.id:
            return "\n".join([f"{result.deviation}, as in {first}", result.message.splitlines()[0], f"Again: {again}"])
        inputs = f"Inputs: {smallest(result.case)}"
        return "\n".join([f"{result.deviation} (breaks {result.clause})", result.message, inputs, f"Again: {again}"])


class AllowList(pytest.Collector):
    """The entries of the allow-list that was given."""

    def __init__(self, *, entries, **rest):
        super().__init__(**rest)
        self.entries = entries

    def collect(self):
        for number, entry in enumerate(self.entries, start=1):
            yield Entry.from_parent(self, name=f"{number}:{entry.function}:{entry.deviation}", entry=entry)


class Entry(Judged):
    """An entry must be in force and still be needed: a deviation that is gone must not come back unseen."""

    def __init__(self, *, entry, **rest):
        super().__init__(**rest)
        self.entry = entry

    def runtest(self):
        """Look for a case that needs it."""
        state, entry = self.config.stash[STATE], self.entry
        if entry.expired:
            pytest.fail(f"this entry ended on {entry.until}: look at the deviation again", pytrace=False)
        if state.budget.over():
            pytest.skip("not asked: the time was over")
        if state.option.refattn_effort == "smoke":
            pytest.skip("too few cases to tell whether it is still needed")
        chosen = [c for c in state.cases if c.function == entry.function and fnmatch.fnmatch(c.id, entry.cases)]
        if entry.excuses(entry.function):
            found = covered([run_case(state.adapter, case) for case in chosen], chosen, state.adapter.profile)
            if not any(each.weak(state.option.refattn_at_least) for each in found):
                pytest.fail("enough known mistakes are excluded: the entry can go", pytrace=False)
            return
        for case in chosen:
            result = run_case(state.adapter, case)
            if result.status == "broken" and entry.covers(state.adapter.name, result):
                return
        pytest.fail(f"none of {len(chosen)} cases shows it any longer: the entry can go", pytrace=False)


class Summary:
    """What the run comes to: each deviation once, and a failure where nothing could be judged."""

    def __init__(self, state):
        self.state = state
        self.counts = {"passed": 0, "failed": 0, "known": 0, "skipped": 0}
        self.unjudged = 0
        self.asked = self.answered = 0  # calls that must be answered, and those that were
        self.deviations: dict[tuple[str, ...], list[tuple[str, str]]] = {}
        self.cases = {case.id: case for case in state.cases}
        self.done: set[str] = set()
        self.refused: set[str] = set()
        self.coverage: list[Coverage] = []
        self.unasked: Counter[str] = Counter()

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report):
        """Count; with xdist this runs in the process that reports."""
        if not report.nodeid.startswith("refattn.conformance::") or (report.when != "call" and report.passed):
            return
        known = hasattr(report, "wasxfail")
        outcome = "known" if known else report.outcome
        self.counts[outcome] += 1
        must_be_answered = ("refattn_refuses", True) not in map(tuple, report.user_properties)
        self.asked += must_be_answered
        self.answered += must_be_answered and outcome in ("passed", "known")
        case = self.cases.get(report.nodeid.rpartition("::")[2])
        properties = dict(report.user_properties)
        if case is not None:
            self.done.add(case.id)
            self.refused |= {case.id} if outcome == "skipped" else set()
        if case is not None and properties.get("refattn_judged"):  # with xdist another process has seen it
            shown, judged = properties.get("refattn_excludes", ()), properties["refattn_judged"]
            self.state.seen(case.function).note(case, shown, judged)
        for name, value in report.user_properties:
            if name == "refattn_deviation":
                *key, told, again = value
                self.deviations.setdefault(tuple(key), []).append((told, again))
            self.unjudged += name == "refattn_unjudged"
            if name == "refattn_unasked":
                self.unasked[value] += 1

    @property
    def checked(self) -> bool:
        """Whether a call was answered, or none was made that must be."""
        return bool(self.answered) if self.asked else bool(self.counts["passed"] + self.counts["known"])

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session):
        """A run in which nothing was judged, or too little, is no success."""
        option = self.state.option
        if (
            self.done == set(self.cases)
            and not +self.unasked
            and option.refattn_effort != "smoke"
            and not option.refattn_clause
        ):
            self.coverage = self.state.coverage(self.refused)
        fails = self.weak or (self.counts["skipped"] and not self.checked)
        if fails and not self.counts["failed"]:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @property
    def weak(self) -> list[Coverage]:
        """The functions of which too little is excluded."""
        return [found for found in self.coverage if found.weak(self.state.option.refattn_at_least)]

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter):
        """Each deviation once, with its cases counted and a command."""
        if not any(self.counts.values()):
            return
        write, option = terminalreporter.write_line, self.state.option
        terminalreporter.section(f"refattn: {self.state.adapter.name}")
        for line in filter(None, self.state.lists):
            write(line)
        for cause in settled([r for r in self.state.results if not self.state.known(r)])[1]:
            write(f"{cause.function}: {cause}", bold=True)
        for cases in sorted(self.deviations.values(), key=len, reverse=True):
            told, again = cases[0]
            write(f"{told}: {len(cases)} case{'s' * (len(cases) > 1)}", red=True)
            write(f"  again: {again}")
        n = self.counts
        left_out = [*self.state.budget.unasked, *(f"{count} {what}" for what, count in self.unasked.items())]
        for text in left_out:
            write(f"not asked, for the time was over (--refattn-time {option.refattn_time:g}): {text}", red=True)
        for found in self.coverage:
            if found.missed:
                missed = f"not excluded, {found.told(self.state.option.refattn_at_least)}"
                write(missed, red=found in self.weak)
        judged = "WEAK" if self.weak else "CONFORMS" if self.checked else "NOTHING WAS CHECKED"
        verdict = "NONCONFORMING" if n["failed"] else judged
        verdict = "COULD NOT BE JUDGED" if self.unjudged else verdict
        unjudged = f", {self.unjudged} could not be judged" if self.unjudged else ""
        excluded = f"; {summed(self.coverage)}" if self.coverage else ""
        write(
            f"{verdict}: {n['passed']} hold, {n['failed'] - self.unjudged} broken, {n['known']} known,"
            f" {n['skipped']} not supported{unjudged}{excluded}",
            green=verdict == "CONFORMS",
            red=verdict != "CONFORMS",
        )


def checker(config):
    """The fixture `refattn_check`."""

    def refattn_check(target, function=None, **options):
        given = [*options.pop("allow", []), *read_allowed(config.option)]
        options = {"effort": config.option.refattn_effort, "seed": config.option.refattn_seed, **options}
        report = check(target, function, allow=[*given, *allow.shipped()], strict=bool(given), **options)
        if not report.ok:
            pytest.fail(as_text(report), pytrace=False)
        return report

    return refattn_check


def matches(*args, **kwargs):
    """The fixture `refattn_matches`."""
    __tracebackhide__ = True
    try:
        return assert_matches(*args, **kwargs)
    except AssertionError as verdict:
        message = str(verdict)
    pytest.fail(message, pytrace=False)
