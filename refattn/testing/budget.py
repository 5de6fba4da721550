"""A limit of time for a run, and what is left out first where a kernel is slow.

Of the time of a run the first half goes to anything; then broken cases are no longer explained one by one and sizes are no
longer asked about; in the last quarter nothing but cases is run; and where cases themselves must be left out, golden ones are
the last. A run says what it left out.
"""

from __future__ import annotations

import copy
import functools
import sys
import time
from collections.abc import Callable, Iterable
from functools import cache

from refattn import console
from refattn.testing import vectors
from refattn.testing.adapters import Adapter
from refattn.testing.outcome import CheckCase

EXPLAINING = ASKING = 0.5  # so much of the time may have gone when a case is explained, or sizes are first asked about
ASKED = COVERING = 0.75  # ... when asking ends, or it is last looked at which mistakes would have shown
SLOW = 0.1  # seconds of a call, beyond which it is said how many are to come
SIZES_UNASKED = "which sizes it takes, as it refuses some calls, and the cases at these sizes"
_FIRST = 5  # calls, after which that is known
_RELATED = 4  # calls of a case of self-consistency, about


class OutOfTime(KeyboardInterrupt):
    """The time for a part of a run is over: no answer of a kernel, whatever asks it."""


class Budget:
    """The time of a run.

    Parameters
    ----------
    seconds : float, optional
        How long it may take; default as long as it takes.
    """

    def __init__(self, seconds: float | None = None):
        if seconds is not None and not 0 < seconds < float("inf"):
            raise ValueError(f"seconds is {seconds}; it must be a number above 0")
        self.seconds, self.started = seconds, time.monotonic()
        self.calls, self.waited = 0, 0.0
        self.unasked: list[str] = []  # what was left out, in words
        self._until = 1e9

    def over(self, share: float = 1.0) -> bool:
        """Whether so much of the time has gone."""
        return self.seconds is not None and time.monotonic() - self.started >= share * self.seconds

    def watching(self, adapter: Adapter) -> Adapter:
        """The adapter with its calls timed; they raise OutOfTime beyond what `until` sets."""
        found = copy.copy(adapter)
        call = found.call  # of the copy: an adapter may remember what it was told while it is asked
        found.__dict__["call"] = lambda function, dtype: self._timed(call(function, dtype))
        return found

    def _timed(self, call: Callable) -> Callable:
        @functools.wraps(call)
        def timed(*args, **options):
            if self.over(self._until):
                raise OutOfTime
            began = time.monotonic()
            try:
                return call(*args, **options)
            finally:
                self.calls += 1
                self.waited += time.monotonic() - began

        return timed

    def until(self, share: float, ask: Callable):
        """What `ask()` returns; None where it has not ended when so much of the time has gone."""
        before, self._until = self._until, share
        try:
            return ask()
        except OutOfTime:
            return None
        finally:
            self._until = before

    def tell_if_slow(self, cases: Iterable[CheckCase]) -> bool:
        """Say on standard error how many calls are to come, where each takes long; whether that is known by now."""
        if self.calls < _FIRST:
            return False
        each = self.waited / self.calls
        if each > SLOW and self.seconds is None:
            count = sum(_RELATED if c.relation else 1 if c.refuses else 2 for c in cases)
            console.tell(
                sys.stderr,
                f"refattn: a call takes {each:.2g} s, and about {count} are to come, {count * each / 60:.1f} minutes (where sizes"
                " are refused, some hundred more): --time SECONDS sets a limit, --limits says what need not be asked\n",
            )
        return True


def is_golden(case) -> bool:
    """Whether a case is one of the golden vectors."""
    return case.id.removesuffix(f".{case.dtype}") in _golden_ids()


@cache
def _golden_ids() -> frozenset[str]:
    return frozenset(case.id for name in vectors.mechanisms() for case in vectors.load(name))


def left_out(some, cases) -> list[str]:
    """What is said of cases that were not run."""
    counts = {"golden": sum(map(is_golden, some)), "of self-consistency": sum(bool(c.relation) for c in some)}
    counts["directed and random"] = len(some) - sum(counts.values())
    said = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    return [f"{len(some)} of {len(cases)} cases: {said}"]
