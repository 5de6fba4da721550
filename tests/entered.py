"""Which tests enter which functions, and how long each takes; for `python tests/mutate.py --sample`."""

import sys
import time

import pytest


class Recorder:
    """A pytest plugin that writes down, test by test, which functions of some files are entered."""

    def __init__(self, files):
        self.files = frozenset(files)  # absolute paths
        self.tests = {}  # test -> [seconds, [(file, first line), ...]]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        entered = set()

        def enter(frame, event, arg):
            if frame.f_code.co_filename in self.files:
                entered.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))

        start = time.monotonic()
        sys.settrace(enter)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            self.tests[item.nodeid] = [time.monotonic() - start, sorted(entered)]


class Chosen:
    """A pytest plugin that runs some tests only, the quickest first."""

    def __init__(self, seconds):
        self.seconds = seconds  # test -> how long it takes

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        kept = (item for item in items if item.nodeid in self.seconds)
        items[:] = sorted(kept, key=lambda item: self.seconds[item.nodeid])
