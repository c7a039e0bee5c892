"""What the control groups of a process let it use: a container has less than its machine."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path


def cores(root: Path = Path("/")) -> float:
    """Return how many cores may be busy on average."""
    return _least(
        root,
        "cpu",
        lambda group: _ratio(_words(group / "cpu.max")),
        lambda group: _ratio([*_words(group / "cpu.cfs_quota_us"), *_words(group / "cpu.cfs_period_us")]),
    )


def memory(root: Path = Path("/")) -> float:
    """Return how many bytes may be in use."""
    return _least(
        root,
        "memory",
        lambda group: _ratio([*_words(group / "memory.max"), "1"]),
        lambda group: _ratio([*_words(group / "memory.limit_in_bytes"), "1"]),
    )


def _least(root: Path, controller: str, v2: Callable[[Path], float], v1: Callable[[Path], float]) -> float:
    """Return the least limit of the groups that a process is in, which versions 1 and 2 have in files of their own."""
    least = math.inf
    with contextlib.suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                folder, read = root / "sys/fs/cgroup", v2
            elif controller in controllers.split(","):
                folder, read = root / "sys/fs/cgroup" / controllers, v1
                folder = folder if folder.exists() else root / "sys/fs/cgroup" / controller
            else:
                continue
            # A container sees its own group at the top, whatever the path says; a group is bound by those around it.
            group = folder / path.strip("/")
            least = min(least, *[read(each) for each in (group, *group.parents) if each.is_relative_to(folder)])
    return least


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _ratio(words: list[str]) -> float:
    """Return a limit in units of another number; ``max``, what is not positive and what is not there are none."""
    if len(words) != 2 or words[0] == "max":
        return math.inf
    limit, unit = map(int, words)
    return limit / unit if limit > 0 and unit > 0 else math.inf
