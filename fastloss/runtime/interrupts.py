"""Long calls and Ctrl-C: the main thread hears it while another one computes.

Python handles signals in its main thread, between two of its instructions, and a kernel is one instruction.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

from fastloss.runtime.scheduling import environment, set_environment
from fastloss.runtime.settings import thread_count
from fastloss.runtime.threads import Task, empty_queue, run_shared, take_back, whatever_is_pressed


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


def _waits() -> bool:
    """Return whether this thread is the main one, and may wait for another: at shutdown none would ever begin."""
    return threading.get_ident() == threading.main_thread().ident and not sys.is_finalizing()


def run_interruptible(function: Callable[..., Any], args: tuple[Any, ...], chunks: int) -> Any:
    """Call a kernel as ``run_shared`` does; an exception of a signal's handler leaves when all threads have.

    The main thread has another one lead the kernel, and waits. When it is interrupted it empties the work queue, the
    last of `args`: every thread leaves after the chunk that it is at.
    """
    if not _waits():
        return run_shared(function, args, chunks)
    modes, tasks = environment(), list[Task]()
    chunks = min(chunks, thread_count())  # which the leader may be given another number of

    def lead() -> Any:
        set_environment(modes)
        return run_shared(function, args, chunks, tasks)

    leader = _Elsewhere(lead, daemon=True)

    def leave() -> None:
        empty_queue(args[-1])
        leader.wait()
        for task in tasks:
            take_back(task)

    try:
        return leader.outcome()
    except BaseException:
        whatever_is_pressed(leave)
        raise


def run_to_the_end(function: Callable[[], Any]) -> Any:
    """Return what a function returns, which goes on to its end when Ctrl-C has made the caller leave.

    A compilation is not to be interrupted: Numba's tables would be left half filled, and the next one fail. While a
    module is imported it may need what this thread has locked.
    """
    if not _waits() or _is_importing():
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
