"""Every test that takes `library` runs on each array library: NumPy, and array-api-strict as a stand-in for CuPy.

That arrays stay on their device is tested by golden vectors and by each function's cases; by tests of Hypothesis when
slow tests run.

pytest --library cupy     runs them on CuPy instead, where there is a GPU
"""

import os
import sys
from collections import Counter
from types import SimpleNamespace

import hypothesis
import numpy as np
import pytest
import scipy.special

from refattn import backend, masks
from refattn.testing.nested import arrays, mapped
from tests import parts

hypothesis.settings.register_profile("default", max_examples=40, deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("thorough", max_examples=1000, deadline=None)
hypothesis.settings.load_profile("default")

NAMES = ["numpy", "strict", "strict-device1"]
SELECTION = pytest.StashKey[parts.Selection]()
SLOW = pytest.StashKey[list]()


def pytest_addoption(parser):
    parser.addoption("--library", choices=[*NAMES, "cupy"], help="run the tests on this array library only")
    parser.addoption("--part", metavar="K/N", help="of slow tests, those of what changed, and part K of N; or today/N")
    parser.addoption("--since", metavar="COMMIT", help="what changed since (default: where the branch left main)")
    parser.addoption("--where-time-goes", action="store_true", help="print the seconds of each mechanism and test file")


def pytest_configure(config):
    """Processes that tests start keep what they compile, as is usual, also where the environment says otherwise.

    There are a hundred of them, and without it each compiles the package again: a tenth of the time of a run.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    option = config.option
    if getattr(option, "numprocesses", None):  # as many threads each as there are cores would only wait for each other
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if option.part:
        try:
            part, of = parts.read(option.part)
        except ValueError as error:
            raise pytest.UsageError(str(error)) from None
        since = parts.git("rev-parse", "--short", option.since or parts.merged() or "")
        if option.since and not since:
            raise pytest.UsageError(f"--since {option.since}: git knows no such commit")
        option.part, option.since = f"{part}/{of}", since  # so that all processes take the same
        config.stash[SELECTION] = parts.Selection(part, of, since, parts.changed(since))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Drop slow tests that are not of the part."""
    config.stash[SLOW] = slow = [item.nodeid for item in items if item.get_closest_marker("slow")]
    if selection := config.stash.get(SELECTION, None):
        left = {test for test in slow if not selection.takes(test)}
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left])
        items[:] = [item for item in items if item.nodeid not in left]


def pytest_terminal_summary(terminalreporter, config):
    """Which slow tests ran; what each mechanism and each file of tests took, setup included, over all processes."""
    if selection := config.stash.get(SELECTION, None):
        terminalreporter.write_line(str(selection))
    if not config.getoption("--where-time-goes"):
        return
    seconds: dict = {"mechanism": Counter(), "file": Counter()}
    for report in (r for reports in terminalreporter.stats.values() for r in reports if hasattr(r, "duration")):
        seconds["file"][report.nodeid.partition("::")[0]] += report.duration
        seconds["mechanism"][parts.mechanism_of_test(report.nodeid) or "(the kit)"] += report.duration
    for what, taken in seconds.items():
        terminalreporter.section(f"seconds by {what}")
        for name, each in taken.most_common(25):
            terminalreporter.write_line(f"{each:8.1f}  {name}")


def pytest_generate_tests(metafunc):
    if "library" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--library")
        names = [chosen] if chosen else [*NAMES]
        if not chosen and hasattr(metafunc.function, "hypothesis"):  # random numbers find little about a device
            names[-1] = pytest.param(names[-1], marks=pytest.mark.slow)
        metafunc.parametrize("library", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def library(request):
    return Library(request.param)


class Library:
    """One array library: `array` takes NumPy there, `numpy` brings results back, `call` does both around a call."""

    def __init__(self, name):
        self.name = name
        narrow = [] if name.startswith("strict") else ["float16"]  # the array API standard has no float16
        self.dtypes = ["float64", "float32", *narrow]
        if name == "numpy":
            self.xp, self.device = np, None
        elif name == "cupy":
            import cupy

            self.xp, self.device = cupy, None
        else:
            import array_api_strict

            self.xp = array_api_strict
            self.device = array_api_strict.Device("device1" if name == "strict-device1" else "CPU_DEVICE")
            backend.SPECIAL["array_api_strict"] = "tests.strict_special"
            sys.modules["tests.strict_special"] = SimpleNamespace(
                erf=self._by_scipy(scipy.special.erf), ndtr=self._by_scipy(scipy.special.ndtr)
            )

    def _by_scipy(self, function):
        def call(x):
            values = function(np.asarray(self.xp.asarray(x, device=self.xp.Device("CPU_DEVICE"))))
            return self.xp.asarray(values, device=x.device)

        return call

    def array(self, x):
        """An argument with its arrays in this library."""
        return mapped(self._array, x)

    def _array(self, x):
        if isinstance(x, np.ndarray):
            keywords = {} if self.device is None else {"device": self.device}
            return self.xp.asarray(x, **keywords)
        if isinstance(x, masks.Mask):  # a rule may carry arrays
            rebuilt = lambda rule: rule.with_arguments(**self.array(rule.arguments))
            return x.rewritten(rebuilt) if any(isinstance(value, np.ndarray) for value in x._data()) else x
        return x

    def numpy(self, x):
        """A result with its arrays in NumPy."""
        return mapped(self._numpy, x)

    def _numpy(self, x):
        if not hasattr(x, "dtype") or isinstance(x, np.ndarray | np.generic):
            return x
        if self.name == "cupy":
            return self.xp.asnumpy(x)
        return np.asarray(self.xp.asarray(x, device=self.xp.Device("CPU_DEVICE")))

    def call(self, function, /, *args, **kwargs):
        """The function on this library's arrays: NumPy in, NumPy out, inputs checked to be untouched."""
        args, kwargs = self.array(args), self.array(kwargs)
        before = [(path, x.copy()) for path, x in arrays(self.numpy((args, kwargs)))]
        result = function(*args, **kwargs)
        for (path, was), (_, x) in zip(before, arrays(self.numpy((args, kwargs))), strict=True):
            np.testing.assert_equal(x, was, err_msg=f"an input was modified: {path}")
        return self.numpy(result)
