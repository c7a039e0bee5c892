"""The settings in force: number of threads, index checks, memory kept for the next results."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Iterator
from typing import Any

from fastloss.runtime import control_groups


def _default_recycled() -> int:
    """Return a gigabyte, or an eighth of the memory of the machine or the container where that is less."""
    with contextlib.suppress(AttributeError, ValueError, OSError):
        memory = min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), control_groups.memory())
        return min(1 << 30, int(memory) // 8)
    return 1 << 28


class _Settings(threading.local):
    """The values in force: those of the class for the process, of the instance for the thread that set them."""

    num_threads: int | None = None
    check_indices: bool = True
    recycled_bytes: int = _default_recycled()


settings = _Settings()


def put_in_force(name: str, value: Any) -> Any:
    """Set a value for the process, and return the one before."""
    before = getattr(_Settings, name)
    setattr(_Settings, name, value)
    return before


@contextlib.contextmanager
def in_this_thread(**values: Any) -> Iterator[None]:
    """Set values for this thread, whatever the process has."""
    own = vars(settings)
    before = dict(own)
    own.update(values)
    try:
        yield
    finally:
        own.clear()
        own.update(before)


def _default_threads() -> int:
    """Return NUMBA_NUM_THREADS if it is set, else the number of cores that this process may use."""
    given = os.environ.get("NUMBA_NUM_THREADS", "").strip()
    if given:
        if not given.isdecimal() or int(given) < 1:
            raise ValueError(f"the environment variable NUMBA_NUM_THREADS must be a positive integer, got {given!r}")
        return int(given)
    return available_cores()


def available_cores() -> int:
    """Return the cores that the system lets this process run on, no more than its container may keep busy."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, control_groups.cores())))


DEFAULT_THREADS = _default_threads()


def thread_count() -> int:
    """Return how many threads a large call uses."""
    return settings.num_threads or DEFAULT_THREADS
