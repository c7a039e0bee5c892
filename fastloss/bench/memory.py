"""How much memory a call takes at its peak beyond what was there before."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import fastloss
from fastloss.bench.contenders import Call
from fastloss.bench.places import HOST, Host

# Whose arrays NumPy allocates, and tells Python about: exact to the byte, on every system.
_TRACED = ("fresh", "reused", "unchecked", "copy", "numpy", "sklearn")
# Pages come and go for many reasons, and allocators keep what is smaller: the resident size tells from here on.
_RESIDENT_FROM = 1 << 25


def peak_extra(name: str, call: Call, moved: int, place: Host = HOST) -> float | None:
    """Return the bytes a warm call of a contender allocates at its peak, its results included; None: not known.

    `moved` is the size of the problem, which says whether the resident size of the process can tell.
    """
    gc.collect()
    if place is not HOST:
        return place.peak(call)
    if name in _TRACED:
        return _traced(call)
    return resident_extra(call) if moved >= _RESIDENT_FROM else None


def _traced(call: Call) -> float:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        with fastloss.config(recycled_bytes=0):  # what a call needs, not what earlier ones left
            call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        # A helper thread that just leaves the call allocates without the interpreter's lock, and crashes Python before
        # 3.12.9 if the tracing ends meanwhile (python/cpython issue 128679).
        time.sleep(HOST.settle)
        tracemalloc.stop()
    return float(peak - before)


def resident_extra(call: Call) -> float | None:
    """Return the rise of the resident peak, which Linux lets a process reset; None elsewhere."""
    with contextlib.suppress(OSError, AttributeError):
        libc: Any = ctypes.CDLL(None)
        libc.malloc_trim(0)  # what the allocator kept from earlier calls would hide this one's
        Path("/proc/self/clear_refs").write_text("5")
        before = status("VmRSS")
        call()
        return max(0.0, float(status("VmHWM") - before))
    return None


def status(key: str) -> int:
    """Return a size in bytes from the kernel's account of this process."""
    for line in Path(f"/proc/{os.getpid()}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"no {key} here")
