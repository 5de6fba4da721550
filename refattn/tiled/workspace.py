"""Memory that one tile after another is written into, and threads that work on tiles side by side."""

from __future__ import annotations

import contextvars
import functools
import importlib.util
import math
import os
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import numpy as np

from refattn import backend


class Workspace:
    """The steps that are as large as a tile of scores, written in place where the array library can.

    A new array for each tile would cost a third of the time, in page faults. The array API standard has no `out`, so
    that other libraries than NumPy and CuPy get new arrays.
    """

    def __init__(self, xp):
        self.xp, self.memory, self.views = xp, {}, {}
        self.in_place = xp.__name__ in ("numpy", "cupy")

    def matmul(self, name, a, b):
        """a @ b, in the memory of that name."""
        if not self.in_place:
            return self.xp.matmul(a, b)
        shapes = name, a.shape, b.shape  # a view is kept for each: threads that make one wait for one another
        if shapes not in self.views:
            self.views[shapes] = self._view(name, a, b)
        return self.xp.matmul(a, b, out=self.views[shapes])

    def _view(self, name, a, b):
        shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
        size = math.prod(shape)
        if name not in self.memory or self.memory[name].size < size:
            self.memory[name] = self.xp.empty(size, dtype=a.dtype)
            self.views = {shapes: view for shapes, view in self.views.items() if shapes[0] != name}
        return self.memory[name][:size].reshape(shape)

    def row_sums(self, p):
        """Σ over keys (..., n, 1), as a product with ones: a third of the time of `sum`."""
        shapes = "ones", p.shape[-1]
        if shapes not in self.views:
            self.views[shapes] = backend.full(self.xp, (p.shape[-1], 1), 1.0, p)
        return self.xp.matmul(p, self.views[shapes])

    def exp(self, x):
        """exp(x), over x."""
        return self.xp.exp(x, out=x) if self.in_place else self.xp.exp(x)

    def select(self, allowed, s):
        """`s` where it is allowed and -inf elsewhere, over s."""
        if not self.in_place:
            return self.xp.where(allowed, s, -math.inf)
        self.xp.copyto(s, -math.inf, where=~allowed)
        return s

    def tanh(self, x):
        """tanh(x), over x."""
        return self.xp.tanh(x, out=x) if self.in_place else self.xp.tanh(x)


def ticker(progress, total):
    """What a worker calls when a tile of queries is done: it calls progress(done, total)."""
    done = count(1)
    return lambda: None if progress is None else progress(next(done), total)


def run(xp, tasks, work):
    """Call work(task, workspace) for every task: on threads where that pays, else one after the other.

    Threads pay with NumPy on several cores, if each does its own matrix products: that takes threadpoolctl (the extra
    `fast`), which holds the library of matrix products to one thread meanwhile. Without it, that library uses all cores
    for products, and everything else runs on one.
    """
    tasks = list(tasks)
    threads = min(_cores(), len(tasks))
    if xp is not np or threads < 2 or _thread_control() is None:
        workspace = Workspace(xp)
        for task in tasks:
            work(task, workspace)
        return

    waiting = deque(tasks)

    def worker():
        workspace = Workspace(xp)
        while True:
            try:
                task = waiting.pop()
            except IndexError:  # none left; one that work raises is the caller's
                return
            work(task, workspace)

    with _one_thread_a_product, ThreadPoolExecutor(threads) as pool:
        try:
            contexts = [
                contextvars.copy_context() for _ in range(threads)
            ]  # the caller's functions find it as it is here
            list(pool.map(lambda context: context.run(worker), contexts))
        finally:
            waiting.clear()  # after an error nobody waits for the rest


class _OneThreadAProduct:
    """Holds the library of matrix products to one thread as long as anybody needs it, for all callers together.

    Each caller for itself would put back what another has set.
    """

    def __init__(self):
        self._lock, self._inside = threading.Lock(), 0
        self._limit: Any = None

    def __enter__(self):
        with self._lock:
            if not self._inside:
                self._limit = _thread_control().limit(limits=1, user_api="blas")
                self._limit.__enter__()
            self._inside += 1

    def __exit__(self, *error):
        with self._lock:
            if self._inside == 1:
                self._limit.__exit__(*error)
            self._inside = max(self._inside - 1, 0)  # 0 already where the caller's function has forked

    def after_fork(self):
        """A child has none of its parent's threads, so that none of them will ever leave."""
        self._lock = threading.Lock()
        if self._inside:
            self._inside = 0
            self._limit.__exit__(None, None, None)


_one_thread_a_product = _OneThreadAProduct()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_one_thread_a_product.after_fork)


def _cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _thread_control():
    """What holds the library of matrix products to one thread, if it is installed."""
    if importlib.util.find_spec("threadpoolctl") is None:
        return None
    return importlib.import_module("threadpoolctl").ThreadpoolController()
