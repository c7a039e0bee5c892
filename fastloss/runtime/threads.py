"""The threads that share a kernel's chunks.

A kernel is one nogil function. Called with an empty board (:func:`board`), it claims chunks from it one by one until
none is left; called by several threads with the same board, it shares them. Each chunk has a slot on the board for its
sum, so the result does not depend on who computed what. A helper that comes late finds nothing to do: the caller never
waits for a thread that has not started, only for chunks in progress. One that is just leaving the kernel may hold the
arrays until it gets the interpreter's lock, some microseconds longer than the caller.

This replaces Numba's ``prange``. Measured on two cores, mse_loss: a launch costs 12 µs more than with OpenMP, and the
same from 2**18 elements on. In return one compiled function serves serial and parallel calls, which halves the time to
the first result; any number of Python threads may call at once (``workqueue`` aborts the process then); a forked child
may call (GNU OpenMP kills it); no second OpenMP pool spins beside torch's; and a core that is busy elsewhere delays
its own chunk, not a fixed share of the work.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import queue
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from fastloss.runtime import settings as _config


class _Task:
    """A function and its arguments, which the caller takes back when nothing is left to do; and who is busy with it."""

    __slots__ = ("busy", "work")

    def __init__(self, work: tuple[Callable[..., Any], tuple[Any, ...]]) -> None:
        self.work: Any = work
        self.busy: list[int] = []


class _Pool:
    """Daemon threads that run tasks from one queue; more are started when more are asked for."""

    def __init__(self) -> None:
        self.tasks: queue.SimpleQueue[_Task] = queue.SimpleQueue()
        self.size = 0
        self.lock = threading.Lock()
        self.ids: list[int] = []  # of the threads that have started, for the operating system
        self.caller_cpu = -1  # where the helpers are kept from

    def grow(self, size: int) -> None:
        with self.lock:
            while self.size < size:
                name = f"fastloss-{self.size}"
                threading.Thread(target=_work, args=(self.tasks, self.ids), name=name, daemon=True).start()
                self.size += 1


def _work(tasks: queue.SimpleQueue[_Task], ids: list[int]) -> None:
    _ask_for_short_slices()
    ids.append(threading.get_native_id())
    while True:
        task = tasks.get()
        task.busy.append(0)  # before the look at the work: a caller that takes it back waits, or is not waited for
        try:
            if work := task.work:
                function, args = work
                # Raised before anything is claimed: the caller then computes what this thread could not.
                with contextlib.suppress(MemoryError):
                    function(*args)
                del function, args  # do not keep the caller's arrays alive until the next task
        finally:
            task.busy.pop()
        del task, work


def _ask_for_short_slices() -> None:
    """Ask Linux to schedule this thread in slices shorter than the default of about 3 ms.

    An OpenMP pool such as torch's spins for some 15 ms after each use and holds its core; from Linux 6.12 on, a thread
    that wakes up with a shorter slice takes the core at once. cross_entropy of 4096x1000 right after one of torch's
    takes 1.3 ms with it and 1.7 ms without (0.95 ms alone, 1.8 ms on one thread). A slice much shorter than 2 ms makes
    helpers lose the core in the middle of a chunk. Where the call does not exist or is refused, nothing changes.
    """
    number = {"x86_64": 314, "aarch64": 274}.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return
    # struct sched_attr: size, policy (0: SCHED_OTHER), flags, nice, priority, runtime (the slice in ns), ...
    attributes = struct.pack("=IIQiIQQQII", 56, 0, 0, os.nice(0), 0, 2_000_000, 0, 0, 0, 0)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).syscall(number, 0, ctypes.c_char_p(attributes), 0)


# Helpers up to which they are kept from the caller's core; with more cores than this Linux finds an idle one.
MOST_KEPT_APART = 7


def _keep_apart(pool: _Pool) -> None:
    """Keep the helpers from the core that the caller runs on.

    Linux wakes a thread where its waker runs more often than not, and leaves it there for milliseconds with the other
    core idle. cross_entropy of 1024x1000 on two cores, one call after another: 0.72 ms on one thread; on two, 0.55
    without this and 0.43 with it. Asked again only when the caller has moved.
    """
    if _current_cpu is None or len(pool.ids) > MOST_KEPT_APART:
        return
    cpu = _current_cpu()
    if cpu == pool.caller_cpu or not pool.ids:
        return
    with contextlib.suppress(OSError):
        others = os.sched_getaffinity(0) - {cpu}
        for thread in list(pool.ids) if others else ():
            os.sched_setaffinity(thread, others)
    pool.caller_cpu = cpu if len(pool.ids) == pool.size else -1


def _cpu_reader() -> Callable[[], int] | None:
    """Return the function of the C library that names the caller's core; None where there is none."""
    if sys.platform != "linux" or not hasattr(os, "sched_setaffinity"):
        return None
    # Unlike CDLL, PyDLL keeps the interpreter's lock: a tenth of a microsecond.
    return getattr(ctypes.PyDLL(None), "sched_getcpu", None)


_current_cpu = _cpu_reader()
_pool = _Pool()


def _after_fork_in_child() -> None:
    global _pool  # the parent's threads do not exist here
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def run_shared(function: Callable[..., Any], args: tuple[Any, ...], chunks: int) -> Any:
    """Call ``function(*args, True)`` here and ``function(*args, False)`` on helper threads."""
    helpers = min(_config.thread_count(), chunks) - 1
    if helpers <= 0:
        return function(*args, True)
    pool = _pool
    if pool.size < helpers:
        pool.grow(helpers)
    _keep_apart(pool)
    task = _Task((function, (*args, False)))
    try:
        for _ in range(helpers):
            pool.tasks.put(task)
        return function(*args, True)
    except BaseException:
        # Ctrl-C before the loop has begun here: helpers may have, and are not to write when the caller has left.
        task.work = None
        while task.busy:
            time.sleep(1e-4)
        raise
    finally:
        task.work = None  # a helper that comes later must not hold the arrays
