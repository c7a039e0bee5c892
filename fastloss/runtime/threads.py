"""The threads that share a kernel's chunks.

A kernel is one nogil function. Called with a new work queue (``cpu/simd/work_queue.py``), it takes chunks from it one
by one until none is left; called by several threads with the same queue, it shares them. Each chunk has a slot in the
queue for its sum, so the result does not depend on who computed what. A helper that comes late finds nothing to do: the
caller never waits for a thread that has not started, only for chunks in progress. One that is just leaving the kernel
may hold the arrays until it gets the interpreter's lock, some microseconds longer than the caller.

This replaces Numba's ``prange``. Measured on two cores, mse_loss: a launch costs 12 µs more than with OpenMP, and the
same from 2**18 elements on. In return one compiled function serves serial and parallel calls, which halves the time to
the first result; any number of Python threads may call at once (``workqueue`` aborts the process then); a forked child
may call (GNU OpenMP kills it); no second OpenMP pool spins beside torch's; and a core that is busy elsewhere delays
its own chunk, not a fixed share of the work.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from fastloss.runtime.scheduling import Placement, ask_for_short_slices, environment, set_environment
from fastloss.runtime.settings import thread_count

# Counters at the head of a work queue (cpu/simd/work_queue.py): of chunks taken and of chunks finished in each of two
# phases.
QUEUE_HEAD = 4

# Their value by which threads find no chunk left.
EMPTIED = 1 << 40


class Task:
    """A function and its arguments, which the caller takes back when nothing is left to do; and who is busy with it.

    `environment` is that of the caller's floating-point unit: rounding, and whether tiny numbers are zeros.
    """

    __slots__ = ("busy", "environment", "work")

    def __init__(self, work: tuple[Callable[..., Any], tuple[Any, ...]]) -> None:
        self.work: Any = work
        self.busy: list[int] = []
        self.environment = environment()


# What helpers raised in the middle of a chunk, until the caller knows.
_failures: dict[Task, BaseException] = {}


class _Pool:
    """Daemon threads that run tasks from one queue; more are started when more are asked for."""

    def __init__(self) -> None:
        self.tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self.threads: list[threading.Thread] = []
        self.size = 0  # how many threads there are: len(self.threads), looked at by every call
        self.lock = threading.Lock()
        self.placement = Placement()

    def grow(self, size: int) -> None:
        """Start threads until there are `size`, or as many as there can be."""
        with self.lock:
            while self.size < size and not sys.is_finalizing():  # a thread would never begin then
                name = f"fastloss-{self.size}"
                thread = threading.Thread(target=_work, args=(self.tasks, self.placement.ids), name=name, daemon=True)
                try:
                    thread.start()
                except (RuntimeError, OSError, MemoryError):  # a limit of the system's, or the interpreter shuts down
                    return
                self.threads.append(thread)
                self.size += 1

    def stop(self) -> None:
        """Let the threads end, and wait for them, a second at most.

        The interpreter ends threads that want its lock while it shuts down. torch wants it at the end of freeing a
        tensor, where a thread must not end: the process aborted where a helper held the last reference to one.
        """
        with self.lock:
            threads, self.threads, self.size = self.threads, [], 0
            self.placement.ids.clear()
        for _ in threads:
            self.tasks.put(None)
        until = time.monotonic() + 1
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))


def _work(tasks: queue.SimpleQueue[Task | None], ids: list[int]) -> None:
    ask_for_short_slices()
    ids.append(threading.get_native_id())
    while (task := tasks.get()) is not None:
        task.busy.append(0)  # before the look at the work: a caller that takes it back waits, or is not waited for
        try:
            if work := task.work:
                function, args = work
                set_environment(task.environment)
                try:
                    function(*args)
                except MemoryError:
                    pass  # before anything is claimed: the caller then computes what this thread could not
                except BaseException as error:  # of maths that raises: nobody is to wait for the end of its chunk
                    _failures[task] = error
                    empty_queue(args[-2])
                del function, args  # do not keep the caller's arrays alive until the next task
        finally:
            task.busy.pop()
        del task, work


_pool = _Pool()


def _after_fork_in_child() -> None:
    global _pool  # the parent's threads do not exist here
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(lambda: _pool.stop())


def run_shared(
    function: Callable[..., Any], args: tuple[Any, ...], chunks: int, tasks: list[Task] | None = None
) -> Any:
    """Call ``function(*args, True)`` here and ``function(*args, False)`` on helper threads.

    The last of `args` is the work queue. What the helpers are given is appended to `tasks`.
    """
    helpers = min(thread_count(), chunks) - 1
    if helpers <= 0:
        return function(*args, True)
    pool = _pool
    if pool.size < helpers:
        pool.grow(helpers)
        helpers = min(helpers, pool.size)
    pool.placement.keep_apart(pool.size)
    task = Task((function, (*args, False)))
    if tasks is not None:
        tasks.append(task)
    try:
        for _ in range(helpers):
            pool.tasks.put(task)
        result = function(*args, True)
        if _failures and task in _failures:
            raise _failures[task]
        return result
    except BaseException:
        # Ctrl-C before the loop has begun here: helpers may have, and are not to write when the caller has left.
        whatever_is_pressed(lambda: take_back(task))
        raise
    finally:
        task.work = None  # a helper that comes later must not hold the arrays


def empty_queue(queue: Any) -> None:
    """Let the threads at a work queue find nothing more to do, nor to wait for."""
    counters = queue.view("i8")[:QUEUE_HEAD]
    counters[::2] = EMPTIED
    time.sleep(1e-4)  # a thread that waits for the end of the first phase is to find no chunk of the second
    counters[1::2] = EMPTIED


def take_back(task: Task) -> None:
    """Wait until nobody works on a task any more."""
    task.work = None
    while task.busy:
        time.sleep(1e-4)
    _failures.pop(task, None)


def whatever_is_pressed(leave: Callable[[], None]) -> None:
    """Call a function until it has come to its end: a thread left at half a work queue would wait for ever."""
    for _ in range(100):
        with contextlib.suppress(BaseException):  # of a signal's handler; what it interrupted is to be raised
            leave()
            return
    leave()
