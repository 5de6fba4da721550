"""Every adapter that is installed, each in a process of its own, as many at once as there are processors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from refattn import console
from refattn.testing.allow import told
from refattn.testing.reports.html import verdict
from refattn.testing.reports.matrix import as_matrix
from refattn.testing.reports.progress import EVERY

SLOW_FIRST = ("jax", "torch.flex", "onnx", "torch", "keras", "transformers")  # the longest must not start last
INTERRUPTED = 130
_GRACE = 2.0  # seconds in which those that got Ctrl-C themselves may write their reports


@dataclass
class Everything:
    """The reports of several implementations, and what could not be reported."""

    documents: list[dict] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    codes: list[int] = field(default_factory=list)
    interrupted: bool = False

    @property
    def code(self) -> int:
        """The worst exit code: not available counts for more than a deviation, an interruption for most."""
        return INTERRUPTED if self.interrupted else max(self.codes, default=2)

    def text(self, *, verbose: bool = False) -> str:
        """The new deviations, the matrices and one line for each implementation."""
        lines = []
        for document in self.documents:
            for d in document["deviations"]:
                if d["status"] == "broken" or verbose:
                    lines.append(f"{document['target']['name']}: {d['name']} in {d['function']} (clause {d['clause']})")
                    lines += [f"    {line}" for line in d["message"].splitlines()[: None if verbose else 3]]
                    lines.append(f"    again: {d['replay']}")
            lines += [f"{document['target']['name']}: weak: {c['sentence']}" for c in document["coverage"] if c["weak"]]
        lines += ["", as_matrix(self.documents, by="mechanism"), "", as_matrix(self.documents, by="clause"), ""]
        for document in self.documents:
            target = document["target"]
            title = f"{target['name']} {target['version']}"
            lines.append(
                f"{title:<28} {verdict(document)[1]}; {len(document['cases'])} cases, {document['seconds']:.1f} s"
            )
            if target["version"] not in document["measured"].get("releases", [target["version"]]):
                lines.append(f"{'':<28} {told(document['measured'], target['version'])}")
        lines += [f"{name:<28} FAILED: {text}" for name, text in self.failures.items()]
        return "\n".join(lines).strip("\n")


def check_all(names: list[str], options: list[str], stream=None) -> Everything:
    """Check several adapters.

    Parameters
    ----------
    names : list of str
    options : list of str
        Further options of `refattn check`.
    stream : file, optional
        Where progress goes; default standard error.
    """
    stream = stream or sys.stderr
    order = sorted(names, key=lambda name: SLOW_FIRST.index(name) if name in SLOW_FIRST else len(SLOW_FIRST))
    found, done = Everything(), {}
    workers = max(1, min(len(names), os.cpu_count() or 1))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool:
        running: list[subprocess.Popen] = []
        jobs = {pool.submit(_one, name, options, Path(folder) / f"{name}.json", running): name for name in order}
        try:
            waiting = set(jobs)
            while waiting:
                finished, waiting = wait(waiting, timeout=EVERY, return_when=FIRST_COMPLETED)
                said = f"{time.perf_counter() - started:.0f} s"
                for job in finished:
                    name = jobs[job]
                    done[name] = job.result()
                    console.tell(stream, f"[{len(done)}/{len(names)}] {name}: {_said(*done[name])} ({said})\n")
                if not finished:
                    names_running = ", ".join(jobs[job] for job in jobs if job.running())
                    console.tell(stream, f"[{len(done)}/{len(names)}] after {said}: {names_running}\n")
        except KeyboardInterrupt:
            found.interrupted = True
            for job in jobs:
                job.cancel()
            _end(running)
            wait(job for job in jobs if not job.cancelled())  # what was found until then is reported
            done |= {name: job.result() for job, name in jobs.items() if not job.cancelled()}
    for name in names:
        if name in done:
            code, document, text = done[name]
            found.codes.append(code)
            if document is None:
                found.failures[name] = text
            else:
                found.documents.append(document)
        else:
            found.failures[name] = "interrupted"
    return found


def _end(running):
    """End processes that do not end by themselves."""
    last = time.monotonic() + _GRACE
    while time.monotonic() < last and any(process.poll() is None for process in running):
        time.sleep(0.05)
    for process in running:
        process.terminate()


def _one(name, options, path, running):
    """(exit code, document or None, what it printed last)."""
    # One thread each: several processes that all use every processor would only wait for each other.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, "-m", "refattn.cli", "check", name, *options, "--json", str(path)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", errors="replace",
        env={**threads, **os.environ, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    running.append(process)
    _, errors = process.communicate()
    document = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return process.returncode, document, (errors.strip().splitlines() or ["it ended without a word"])[-1]


def _said(code, document, text):
    return text if document is None else verdict(document)[1]
