"""How far a check has come, for who waits."""

from __future__ import annotations

import sys
import time

from refattn import console

EVERY = 10.0  # seconds between lines where there is no terminal


def progress_on(stream=None, every: float = EVERY):
    """A progress callback: on a terminal one line that is overwritten, elsewhere a line now and then if it takes long.

    Parameters
    ----------
    stream : file, optional
        Default standard error.
    every : float
        Seconds between two lines where it is no terminal.
    """
    stream = stream or sys.stderr
    return _overwriting(stream) if console.is_terminal(stream) else _lines(stream, every)


def _overwriting(stream):
    def show(done, total):
        end = "\r\033[K" if done == total else ""
        console.tell(stream, f"\r{done}/{total} cases{end}")

    return show


def _lines(stream, every):
    started = last = time.monotonic()

    def show(done, total):
        nonlocal last
        now = time.monotonic()
        if now - last >= every and done < total:
            last = now
            console.tell(stream, f"refattn: {done} of {total} cases in {now - started:.0f} s\n")

    return show
