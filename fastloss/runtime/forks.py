"""Forks while another thread compiles: the child is to find Numba's and LLVM's tables whole, and their locks free."""

from __future__ import annotations

import os
import threading
from typing import Any

# Seconds that a fork waits for a compilation to end. One that takes longer is cut in half in the child, which then has
# at least locks that nobody holds.
PATIENCE = 20.0


def guard(*holders: Any) -> None:
    """Take the locks of `holders`, their `_lock`, in this order before every fork, and free them after it."""
    if not hasattr(os, "register_at_fork"):
        return
    held: list[Any] = []

    def take() -> None:
        held[:] = [holder._lock for holder in holders if holder._lock.acquire(timeout=PATIENCE)]

    def free_in_parent() -> None:
        locks, held[:] = held[:], []  # before another thread that forks can have the first
        for lock in reversed(locks):
            lock.release()

    def free_in_child() -> None:
        held.clear()
        for holder in holders:
            holder._lock = threading.RLock()

    os.register_at_fork(before=take, after_in_parent=free_in_parent, after_in_child=free_in_child)
