"""A kernel at the other end of two pipes: started, asked, and ended whatever it does.

It is trusted with nothing: not to answer, to answer shortly or in time, to read what it is asked, to end its children.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shlex
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Callable
from typing import NoReturn

from refattn.testing import schema
from refattn.testing.adapters.base import Failed
from refattn.testing.printable import printable

_PATIENCE = 3  # so many cases in a row without an answer in time, and the kernel is asked no more
_LONGEST = 1 << 16  # bytes of a line
_AHEAD = 8  # lines that are kept before they are wanted; more wait in the pipe
_WORDS = 2000  # bytes of what it said last on standard error
_ANSWERS = ("out", "unsupported", "error")


class Process:
    """A kernel's process, started again when it has died.

    Parameters
    ----------
    command : list of str
    timeout : float
        Seconds in which a line must come.
    checked : callable
        Takes what the kernel says of itself, and raises ValueError where it may not.
    """

    def __init__(self, command: list[str], timeout: float, checked: Callable[[dict], dict]):
        self.command, self.timeout, self._checked = command, timeout, checked
        self.name = printable(shlex.join(command))
        self._late = 0
        self._running: subprocess.Popen | None = None

    def start(self) -> dict:
        """Run the command and return what it says first.

        Raises
        ------
        Failed
            It cannot be run, or does not introduce itself.
        """
        try:
            self._running = subprocess.Popen(
                self.command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True,  # so that it can be ended with its children
            )  # fmt: skip
        except (OSError, IndexError, ValueError) as error:
            raise Failed("does not start", f"it cannot be run: {getattr(error, 'strerror', None) or error}") from None
        if os.name == "posix" and self._running.stdin is not None:
            os.set_blocking(self._running.stdin.fileno(), False)  # who does not read must not stop us
        self._said: queue.Queue = queue.Queue(maxsize=_AHEAD)
        self._words = bytearray()
        listeners = (
            threading.Thread(target=_listen, args=(self._running.stdout, self._said), daemon=True),
            threading.Thread(target=_overhear, args=(self._running.stderr, self._words), daemon=True),
        )
        for listener in listeners:
            listener.start()
        self._overhearing = listeners[1]
        self._finish = weakref.finalize(self, _end, self._running, listeners, self._said)
        hello = self._object(self._line())
        try:
            return self._checked(hello)
        except ValueError as error:
            self.stop()
            raise Failed("garbage", str(error)) from None

    def ask(self, request: dict) -> dict:
        """Send one line and return the answer.

        Raises
        ------
        Failed
            There is none, or it is none.
        """
        if self._late >= _PATIENCE:
            raise Failed("hangs", f"not asked: {_PATIENCE} cases in a row had no answer within {self.timeout:g} s")
        if self._running is None:
            self.start()
        if not self._said.empty():
            line = self._said.get()
            if line is None:
                self._died()
            self._garbage(f"it spoke without being asked: {_shown(line)}")
        self._send(json.dumps(request).encode() + b"\n")
        answer = self._object(self._line())
        self._late = 0
        kinds = [kind for kind in _ANSWERS if kind in answer]
        if len(kinds) != 1:
            self._garbage(f"an answer has one of out, unsupported and error: {schema.short(answer)}")
        if not isinstance(answer[kinds[0]], str):
            self._garbage(f"{kinds[0]} is {schema.short(answer[kinds[0]])}; it must be a text")
        return answer

    def _send(self, line):
        assert self._running is not None
        assert self._running.stdin is not None
        try:
            written = self._running.stdin.write(line)
        except OSError:
            self._died()
        if written != len(line):
            self._garbage("it answers without reading what it is asked")

    def _line(self):
        try:
            line = self._said.get(timeout=self.timeout)
        except queue.Empty:
            self._late += 1
            self.stop()
            raise Failed("hangs", f"no answer within {self.timeout:g} s; it was ended") from None
        if line is None:
            self._died()
        return line

    def _object(self, line):
        try:
            found, why = schema.parsed(line), ""
        except ValueError as error:
            found, why = None, f" ({error})"
        if not isinstance(found, dict):
            self._garbage(f"this line is no JSON object: {_shown(line)}{why}")
        return found

    def _garbage(self, text) -> NoReturn:
        self.stop()
        raise Failed("garbage", text)

    def _died(self) -> NoReturn:
        """Say how it ended."""
        assert self._running is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._running.wait(timeout=1.0)
        code = self._running.poll()
        self._overhearing.join(timeout=0.5)
        words = " ".join(bytes(self._words).decode(errors="replace").split())
        self.stop()
        if code is None:
            how = "it closed its output"
        elif code < 0:
            how = f"it was ended by {signal.Signals(-code).name} ({signal.strsignal(-code)})"
        else:
            how = f"it ended with exit code {code}"
        raise Failed(
            "crashes", f"{how} instead of an answer" + (f"; its last words: {words[-300:]!r}" if words else "")
        )

    def stop(self):
        """End it; the next case starts it again."""
        if self._running is not None:
            self._finish()
        self._running = None


def _listen(stream, said):
    """Put every line into a queue, and None at the end; a line without end is cut, and who floods waits."""
    with contextlib.suppress(ValueError, OSError), open(stream.fileno(), "rb", closefd=False) as lines:
        while line := lines.readline(_LONGEST):
            said.put(line)
    said.put(None)


def _overhear(stream, words):
    """Read standard error to its end, so that it never blocks the kernel, and keep the last of it."""
    with contextlib.suppress(ValueError, OSError):
        while more := stream.read(_LONGEST):
            words += more
            del words[:-_WORDS]


def _end(process, listeners, said):
    """End a process and its children, wait until it is gone, and close what is open."""
    with contextlib.suppress(OSError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        elif process.poll() is None:
            process.kill()
    process.wait()
    with contextlib.suppress(OSError):
        process.stdin.close()
    late = time.monotonic() + 2.0
    while any(listener.is_alive() for listener in listeners) and time.monotonic() < late:
        with contextlib.suppress(queue.Empty):
            said.get(timeout=0.02)  # a listener may wait for room
    for listener, stream in zip(listeners, (process.stdout, process.stderr), strict=True):
        if not listener.is_alive():  # a child that left the group may still hold the other end
            stream.close()


def _shown(line, most=120):
    text = line.decode(errors="replace").strip()
    return repr(text if len(text) <= most else f"{text[:most]} ...")
