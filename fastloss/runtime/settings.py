"""The settings in force: number of threads, index checks, memory kept for the next results."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def _default_recycled() -> int:
    """Return a gigabyte, or an eighth of the machine's memory where that is less."""
    with contextlib.suppress(AttributeError, ValueError, OSError):
        return min(1 << 30, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8)
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
    return max(1, math.ceil(min(cores, _quota(Path("/")))))


def _quota(root: Path) -> float:
    """Return how many cores the control groups of this process may keep busy on average."""
    quota = math.inf
    with contextlib.suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                folder, read = root / "sys/fs/cgroup", _quota_of_v2
            elif "cpu" in controllers.split(","):
                folder, read = root / "sys/fs/cgroup" / controllers, _quota_of_v1
                folder = folder if folder.exists() else root / "sys/fs/cgroup/cpu"
            else:
                continue
            # A container sees its own group at the top, whatever the path says; a group is bound by those around it.
            group = folder / path.strip("/")
            quota = min(quota, *[read(each) for each in (group, *group.parents) if each.is_relative_to(folder)])
    return quota


def _quota_of_v2(group: Path) -> float:
    return _ratio(*_words(group / "cpu.max"))


def _quota_of_v1(group: Path) -> float:
    return _ratio(*_words(group / "cpu.cfs_quota_us"), *_words(group / "cpu.cfs_period_us"))


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _ratio(quota: str = "max", period: str = "0") -> float:
    """Return the quota in periods; ``max`` and what is not positive are none."""
    if quota == "max" or int(quota) <= 0 or int(period) <= 0:
        return math.inf
    return int(quota) / int(period)


DEFAULT_THREADS = _default_threads()


def thread_count() -> int:
    """Return how many threads a large call uses."""
    return settings.num_threads or DEFAULT_THREADS
