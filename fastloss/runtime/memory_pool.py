"""Memory of large results: what a result leaves behind when it is dropped serves the next one of about its size.

The pages of a fresh array are zeroed by the operating system one by one as they are first written, which costs about
as much as the loss itself. Allocators keep small arrays; from some tens of megabytes on they give every array back at
once, and smaller ones where several are dropped together. Here a large result lies in an anonymous mapping. When the
last array that shows it is gone, the mapping stays for the next result. A very large one is marked as free: the system
may take its pages at any time when it needs memory, and only then they are zeroed again.

mse_loss, value and gradient of 2**24 float32 on two threads, each gradient dropped before the next call: 12 to 17 ms
with fresh arrays, 7.2 ms with this, and 7.1 ms with one array written again and again. triplet_margin_loss, three
gradients of 4 and 16 MiB: 4.1 and 9.6 ms with fresh arrays, 0.8 and 3.9 ms with this.
"""

from __future__ import annotations

import contextlib
import mmap
import weakref
from typing import Any

import numpy as np

from fastloss.runtime.settings import settings

# Bytes of the smallest array that is recycled; below this allocators keep memory at hand, and ask for 0.5 microseconds
# instead of 8. Where several arrays of 3 to 4 MiB are dropped at once they do not: an objective of a million float32
# rows, called in turns with NumPy's, took 2.1 ms from 4 MiB on and 1.0 ms from 3 MiB on, where mse_loss is no slower.
RECYCLED_FROM = 3 << 20

# A mapping may be larger than the array it serves by this factor.
MOST_SLACK = 1.25

_HUGE_PAGES_FROM = 4 << 20

# Bytes of a mapping from which it is marked as free. The mark costs 0.05 to 0.15 ms, which a loss of fewer bytes feels:
# cross_entropy of 26 MB took 1.12 of the time without, mse_loss of 17, 31 and 64 MB 1.1, 1.05 and 1.03. Allocators keep
# as much without a mark.
_MARKED_FROM = 32 << 20

# Mappings that nobody uses, the oldest first. Several threads and finalisers change it without a lock: each step is one
# operation on the dictionary, which the interpreter does not interrupt.
_idle: dict[int, mmap.mmap] = {}


def empty(shape: tuple[int, ...], dtype: Any) -> Any:
    """Return an array of undefined contents."""
    try:
        array = np.empty(shape, dtype)
    except MemoryError:  # a limit on the process's address space counts idle mappings too
        _idle.clear()
        array = np.empty(shape, dtype)
    return array if array.nbytes < RECYCLED_FROM else _recycled(array)


def _recycled(like: Any) -> Any:
    """Return an array in recycled memory in place of a fresh one, which has not cost a page yet."""
    size = like.nbytes
    if size > settings.recycled_bytes:
        return like
    try:
        memory = _taken(size) or _mapped(size)
    except OSError:  # no room for a mapping beside the array
        return like
    # Views of the result refer to `whole`, which refers to the mapping: when it goes, all have gone.
    whole = np.frombuffer(memory, like.dtype, like.size)
    weakref.finalize(whole, _give_back, memory).atexit = False
    return whole.reshape(like.shape)


def _taken(size: int) -> mmap.mmap | None:
    """Return the smallest idle mapping that will do, no longer idle."""
    fitting = [(len(memory), key) for key, memory in list(_idle.items()) if size <= len(memory) <= size * MOST_SLACK]
    for _, key in sorted(fitting):
        memory = _idle.pop(key, None)
        if memory is not None:  # else another thread was faster
            return memory
    return None


def _mapped(size: int) -> mmap.mmap:
    """Return a new mapping."""
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return mmap.mmap(-1, size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= _HUGE_PAGES_FROM:
        _advise(memory, "MADV_HUGEPAGE")
    return memory


def _give_back(memory: mmap.mmap) -> None:
    """Keep a mapping that is no longer used, and let go of the oldest ones that are too many."""
    if len(memory) >= _MARKED_FROM:
        _advise(memory, "MADV_FREE")
    _idle[id(memory)] = memory
    trim()


def trim() -> None:
    """Release idle mappings, the oldest first, until the rest is within the limit."""
    mappings = list(_idle.items())
    excess = sum(len(memory) for _, memory in mappings) - settings.recycled_bytes
    for key, memory in mappings:
        if excess <= 0:
            return
        excess -= len(memory)
        _idle.pop(key, None)


def _advise(memory: mmap.mmap, advice: str) -> None:
    """Tell the operating system about a mapping, if it listens."""
    number = getattr(mmap, advice, None)
    if number is not None:
        with contextlib.suppress(OSError):
            memory.madvise(number)
