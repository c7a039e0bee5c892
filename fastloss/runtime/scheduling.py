"""What threads ask of the operating system: short slices of time, cores apart, the caller's floating-point modes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any

# Helpers up to which they are kept from the caller's core; with more cores than this Linux finds an idle one.
MOST_KEPT_APART = 7

# Calls by one thread without another between, from which its core is kept free. For two threads that call in turn the
# helpers would be moved about with each call.
STEADY = 8

# FASTLOSS_PIN=0 leaves helpers to the system.
PINS = os.environ.get("FASTLOSS_PIN", "").strip().lower() not in ("0", "off", "no", "false")


class Placement:
    """Which cores helper threads may run on: not their caller's.

    Linux wakes a thread where its waker runs more often than not, and leaves it there for milliseconds with the other
    core idle. cross_entropy of 1024x1000 on two cores, one call after another: 0.72 ms on one thread; on two, 0.55
    without this and 0.43 with it.
    """

    def __init__(self) -> None:
        self.ids: list[int] = []  # of the threads that have started, for the operating system
        self._caller = self._calls = 0  # the thread that called last, and how often without another between
        self._core = -1  # where the helpers are kept from

    def keep_apart(self, size: int) -> None:
        """Keep the helpers from the caller's core, `size` when all have started; asked again when it has moved."""
        if current_core is None or len(self.ids) > MOST_KEPT_APART:
            return
        caller = _get_ident()
        if caller != self._caller:
            self._caller, self._calls = caller, 0
            if self._core >= 0:
                self._allow(os.sched_getaffinity(0))
                self._core = -1
        elif self._calls < STEADY:
            self._calls += 1
        elif (core := current_core()) != self._core and self.ids:
            self._allow(os.sched_getaffinity(0) - {core})
            self._core = core if len(self.ids) == size else -1

    def _allow(self, cores: set[int]) -> None:
        with contextlib.suppress(OSError):
            for thread in list(self.ids) if cores else ():
                os.sched_setaffinity(thread, cores)


def ask_for_short_slices() -> None:
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


def _core_reader() -> Callable[[], int] | None:
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


environment, set_environment = _environment_functions()
current_core = _core_reader()
_get_ident = threading.get_ident
