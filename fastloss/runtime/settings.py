"""The settings in force: number of threads, index checks, memory kept for the next results."""

from __future__ import annotations

import contextlib
import os


def _default_recycled() -> int:
    """Return a gigabyte, or an eighth of the machine's memory where that is less."""
    with contextlib.suppress(AttributeError, ValueError, OSError):
        return min(1 << 30, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8)
    return 1 << 28


class _Settings:
    """The values in force."""

    num_threads: int | None = None
    check_indices: bool = True
    recycled_bytes: int = _default_recycled()


settings = _Settings()


def _default_threads() -> int:
    """Return NUMBA_NUM_THREADS if it is set, else the number of cores this process may use."""
    given = os.environ.get("NUMBA_NUM_THREADS")
    if given:
        return max(1, int(given))
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


DEFAULT_THREADS = _default_threads()


def thread_count() -> int:
    """Return how many threads a large call uses."""
    return settings.num_threads or DEFAULT_THREADS
