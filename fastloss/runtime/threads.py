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

from fastloss.runtime.settings import thread_count

# Counters at the head of a work queue (cpu/simd/work_queue.py): of chunks taken and of chunks finished in each of two
# phases; and what they are set to where there is to be no more.
QUEUE_HEAD = 4
EMPTIED = 1 << 40


class _Task:
    """A function and its arguments, which the caller takes back when nothing is left to do; and who is busy with it.

    `environment` is that of the caller's floating-point unit: rounding, and whether tiny numbers are zeros.
    """

    __slots__ = ("busy", "environment", "work")

    def __init__(self, work: tuple[Callable[..., Any], tuple[Any, ...]]) -> None:
        self.work: Any = work
        self.busy: list[int] = []
        self.environment = _environment()


class _Pool:
    """Daemon threads that run tasks from one queue; more are started when more are asked for."""

    def __init__(self) -> None:
        self.tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self.threads: list[threading.Thread] = []
        self.size = 0  # of which there are so many
        self.lock = threading.Lock()
        self.ids: list[int] = []  # of the threads that have started, for the operating system
        self.caller = self.calls = 0  # the thread that called last, and how often without another between
        self.caller_cpu = -1  # where the helpers are kept from

    def grow(self, size: int) -> None:
        """Start threads until there are `size`, or as many as there can be."""
        with self.lock:
            while self.size < size:
                name = f"fastloss-{self.size}"
                thread = threading.Thread(target=_work, args=(self.tasks, self.ids), name=name, daemon=True)
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
            self.ids.clear()
        for _ in threads:
            self.tasks.put(None)
        until = time.monotonic() + 1
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))


def _work(tasks: queue.SimpleQueue[_Task | None], ids: list[int]) -> None:
    _ask_for_short_slices()
    ids.append(threading.get_native_id())
    while (task := tasks.get()) is not None:
        task.busy.append(0)  # before the look at the work: a caller that takes it back waits, or is not waited for
        try:
            if work := task.work:
                function, args = work
                _set_environment(task.environment)
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

# Calls by one thread without another between, from which its core is kept free. For two threads that call in turn the
# helpers would be moved about with each call.
STEADY = 8

# FASTLOSS_PIN=0 leaves helpers to the system.
PINS = os.environ.get("FASTLOSS_PIN", "").strip().lower() not in ("0", "off", "no", "false")


def _keep_apart(pool: _Pool) -> None:
    """Keep the helpers from the core that the caller runs on.

    Linux wakes a thread where its waker runs more often than not, and leaves it there for milliseconds with the other
    core idle. cross_entropy of 1024x1000 on two cores, one call after another: 0.72 ms on one thread; on two, 0.55
    without this and 0.43 with it. Asked again only when the caller has moved.
    """
    if _current_cpu is None or len(pool.ids) > MOST_KEPT_APART:
        return
    caller = _get_ident()
    if caller != pool.caller:
        pool.caller, pool.calls = caller, 0
        _let_go(pool)
    elif pool.calls < STEADY:
        pool.calls += 1
    elif (cpu := _current_cpu()) != pool.caller_cpu and pool.ids:
        _pin(pool, os.sched_getaffinity(0) - {cpu})
        pool.caller_cpu = cpu if len(pool.ids) == pool.size else -1


def _let_go(pool: _Pool) -> None:
    """Let the helpers run where their caller may."""
    if pool.caller_cpu >= 0:
        _pin(pool, os.sched_getaffinity(0))
        pool.caller_cpu = -1


def _pin(pool: _Pool, cores: set[int]) -> None:
    with contextlib.suppress(OSError):
        for thread in list(pool.ids) if cores else ():
            os.sched_setaffinity(thread, cores)


def _cpu_reader() -> Callable[[], int] | None:
    """Return the function of the C library that names the caller's core; None where there is none, or no need."""
    if sys.platform != "linux" or not hasattr(os, "sched_setaffinity") or not PINS:
        return None
    # Unlike CDLL, PyDLL keeps the interpreter's lock: a tenth of a microsecond.
    return getattr(ctypes.PyDLL(None), "sched_getcpu", None)


def _environment_functions() -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """Return what reads the environment of a thread's floating-point unit, and what sets it: C's own functions.

    Helpers keep that of the thread that started them. After torch.set_flush_denormal(True) the caller's chunks had
    zeros where theirs had tiny numbers, and ten calls ten results.
    """
    try:
        library = ctypes.PyDLL(None)
        read, write = library.fegetenv, library.fesetenv
    except (AttributeError, OSError, TypeError):
        return lambda: None, lambda environment: None
    room = ctypes.c_uint64 * 8  # glibc's takes 32 bytes

    def environment() -> Any:
        read(found := room())
        return found

    return environment, write


_environment, _set_environment = _environment_functions()
_get_ident = threading.get_ident
_current_cpu = _cpu_reader()
_pool = _Pool()


def _after_fork_in_child() -> None:
    global _pool  # the parent's threads do not exist here
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(lambda: _pool.stop())


def run_shared(
    function: Callable[..., Any], args: tuple[Any, ...], chunks: int, tasks: list[_Task] | None = None
) -> Any:
    """Call ``function(*args, True)`` here and ``function(*args, False)`` on helper threads.

    What the helpers are given is appended to `tasks`.
    """
    helpers = min(thread_count(), chunks) - 1
    if helpers <= 0:
        return function(*args, True)
    pool = _pool
    if pool.size < helpers:
        pool.grow(helpers)
        helpers = min(helpers, pool.size)
    _keep_apart(pool)
    task = _Task((function, (*args, False)))
    if tasks is not None:
        tasks.append(task)
    try:
        for _ in range(helpers):
            pool.tasks.put(task)
        return function(*args, True)
    except BaseException:
        # Ctrl-C before the loop has begun here: helpers may have, and are not to write when the caller has left.
        _whatever_is_pressed(lambda: _take_back(task))
        raise
    finally:
        task.work = None  # a helper that comes later must not hold the arrays


def _take_back(task: _Task) -> None:
    """Wait until nobody works on a task any more."""
    task.work = None
    while task.busy:
        time.sleep(1e-4)


def _whatever_is_pressed(leave: Callable[[], None]) -> None:
    """Call a function until it has come to its end: a thread left at half a work queue would wait for ever."""
    for _ in range(100):
        with contextlib.suppress(BaseException):  # of a signal's handler; what it interrupted is to be raised
            leave()
            return
    leave()


def _empty(queue: Any) -> None:
    """Let the threads at a work queue find nothing more to do, nor to wait for."""
    counters = queue.view("i8")[:QUEUE_HEAD]
    counters[::2] = EMPTIED
    time.sleep(1e-4)  # a thread that waits for the end of the first phase is to find no chunk of the second
    counters[1::2] = EMPTIED


class _Elsewhere:
    """A function that another thread calls while the main one waits: only there Python handles signals."""

    def __init__(self, function: Callable[[], Any], daemon: bool) -> None:
        self._function = function
        self._thread = threading.Thread(target=self._run, name="fastloss-leader", daemon=daemon)
        self._result: Any = None
        self._failure: BaseException | None = None
        self._begun = self._ended = False
        self._end = threading.Lock()  # an event that is waited for breaks when Ctrl-C comes at the wrong moment
        self._end.acquire()

    def _run(self) -> None:
        self._begun = True
        try:
            self._result = self._function()
        except BaseException as error:
            self._failure = error
        finally:
            del self._function
            self._ended = True
            self._end.release()

    def outcome(self) -> Any:
        """Start it, wait for its end, and return or raise what it does; what a signal's handler raises goes first."""
        try:
            self._thread.start()
        except (RuntimeError, OSError, MemoryError):  # no thread to be had
            self._run()
        while not self._ended:
            self._end.acquire(timeout=0.2)  # on Windows no wait is interrupted
        if self._failure is not None:
            raise self._failure
        return self._result

    def wait(self) -> None:
        """Wait for its end if it has begun."""
        while self._begun and not self._ended:
            self._end.acquire(timeout=0.2)


def _is_main() -> bool:
    return _get_ident() == threading.main_thread().ident


def run_interruptible(function: Callable[..., Any], args: tuple[Any, ...], chunks: int) -> Any:
    """Do the same where Ctrl-C is heard meanwhile: an exception of a signal's handler leaves when all threads have.

    Python handles signals in its main thread, between two of its instructions, and a kernel is one instruction. So the
    main thread has another one lead the kernel, and waits. It empties the work queue, the last of `args`, when it is
    interrupted: every thread leaves after the chunk that it is at.
    """
    if not _is_main():
        return run_shared(function, args, chunks)
    environment, tasks = _environment(), list[_Task]()
    chunks = min(chunks, thread_count())  # which the leader may be given another number of

    def lead() -> Any:
        _set_environment(environment)
        return run_shared(function, args, chunks, tasks)

    leader = _Elsewhere(lead, daemon=True)

    def leave() -> None:
        _empty(args[-1])
        leader.wait()
        for task in tasks:
            _take_back(task)

    try:
        return leader.outcome()
    except BaseException:
        _whatever_is_pressed(leave)
        raise


def run_to_the_end(function: Callable[[], Any]) -> Any:
    """Return what a function returns, which goes on to its end when Ctrl-C has made the caller leave.

    A compilation is not to be interrupted: Numba's tables would be left half filled, and the next one fail. While a
    module is imported it may need what this thread has locked.
    """
    if not _is_main() or _is_importing():
        return function()
    return _Elsewhere(function, daemon=False).outcome()


def _is_importing() -> bool:
    """Return whether this thread is importing a module."""
    frame: Any = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            return True
        frame = frame.f_back
    return False
