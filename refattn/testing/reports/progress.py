"""How far a check has come, for who waits."""

from __future__ import annotations

import sys


def progress_on(stream=None):
    """A progress callback: one line that is overwritten on a terminal, nothing elsewhere."""
    stream = stream or sys.stderr
    if not stream.isatty():
        return None

    def show(done, total):
        end = "\r\033[K" if done == total else ""
        stream.write(f"\r{done}/{total} cases{end}")
        stream.flush()

    return show
