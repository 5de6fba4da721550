"""Which tests enter which functions, and how long each takes; for `python tests/mutate.py --sample`."""

import ast
import sys
import threading
import time
from itertools import accumulate

import pytest


class Recorder:
    """A pytest plugin that writes down, test by test, which functions of some files are entered."""

    def __init__(self, files):
        self.files = frozenset(files)  # absolute paths
        self.tests = {}  # test -> (seconds, {(file, first line), ...})
        self._entered = set()
        threading.settrace(self._enter)

    def _enter(self, frame, event, argument):
        if frame.f_code.co_filename in self.files:
            self._entered.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        self._entered = set()
        start = time.monotonic()
        sys.settrace(self._enter)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            self.tests[item.nodeid] = (time.monotonic() - start, self._entered)


class Chosen:
    """A pytest plugin that runs some tests only, the quickest first."""

    def __init__(self, seconds):
        self.seconds = seconds  # test -> how long it takes

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        kept = (item for item in items if item.nodeid in self.seconds)
        items[:] = sorted(kept, key=lambda item: self.seconds[item.nodeid])


def function_at(source, line):
    """The first line of the function that a line belongs to, its decorators included; None outside of all functions."""
    around = [
        min([node.lineno, *(d.lineno for d in node.decorator_list)])
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.body[0].lineno <= line <= node.end_lineno
    ]
    return max(around, default=None)


def entering(tests, file, function):
    """The tests that enter a function of a file, with the seconds that they take; without a function, any of the file."""
    return {
        test: seconds
        for test, (seconds, entered) in tests.items()
        if any(path == file and function in (None, line) for path, line in entered)
    }


def quickest(tests, most):
    """The quickest of the tests, which take so many seconds together, or the first alone."""
    ordered = sorted(tests, key=tests.get)
    together = accumulate(tests[test] for test in ordered)
    return {
        test: tests[test] for n, (test, sum_) in enumerate(zip(ordered, together, strict=True)) if sum_ <= most or not n
    }
