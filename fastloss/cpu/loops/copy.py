"""The yardstick: one read of a call's inputs and one write of its gradients, by the threads that run the losses.

It writes past the caches where losses of elements do (``cpu/simd/nontemporal.py``).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastloss.cpu.simd.memory import LINE_BYTES, load_or, present, store, stream
from fastloss.cpu.simd.nontemporal import are_streamed
from fastloss.cpu.simd.work_queue import chunks, chunks_of, finish, share, total_of
from fastloss.runtime.compile import Kernel, kernel_part

SLOTS = 4

# Words of a cache line. Chunks are whole lines.
LINE = LINE_BYTES // 8


@functools.cache
def _kernel(streamed: bool) -> Kernel:
    write = stream if streamed else store

    @kernel_part()
    def pass_over(source, sink, words, k, chunks):
        """Copy part `k` of `source`, or read it where there is no sink; the sum keeps the reading alive."""
        lines = (words + LINE - 1) // LINE
        start, stop = share(lines, k, chunks) * LINE, min(share(lines, k + 1, chunks) * LINE, words)
        total = np.uint64(0)
        if present(sink):
            for i in range(start, stop):
                write(sink, i, load_or(source, i, total))
        else:
            for i in range(start, stop):
                total += load_or(source, i, total)
        return total

    def copy(a, b, c, d, to_a, to_b, to_c, to_d, sizes, queue, lead):
        number = chunks_of(queue)  # each a part of every array
        for k, _, _ in chunks(queue, 0, number, 1):
            total = pass_over(a, to_a, sizes[0], k, number)
            total += pass_over(b, to_b, sizes[1], k, number)
            total += pass_over(c, to_c, sizes[2], k, number)
            total += pass_over(d, to_d, sizes[3], k, number)
            finish(queue, 0, k, np.float64(total))
        return total_of(queue, 0) if lead else 0.0

    return Kernel("copy_streamed" if streamed else "copy", copy)


def run(sources: Sequence[Any], sinks: Sequence[Any]) -> None:
    """Copy each contiguous array of `sources` to the one of `sinks` beside it.

    Where the sink is None the source is only read, where the source is None the sink is only written.
    """
    if len(sources) > SLOTS:
        raise ValueError(f"at most {SLOTS} arrays, got {len(sources)}")
    missing = [()] * (SLOTS - len(sources))
    read = [() if source is None else _words(source) for source in sources]
    written = [() if sink is None else _words(sink) for sink in sinks]
    words = [len(one) or len(other) for one, other in zip(read, written, strict=True)]
    sizes = (*words, *[0] * len(missing))
    # Kernels count work in elements of a plain loss, one float32 read: half a word.
    _kernel(are_streamed(read, written))(max(sizes), 2 * sum(sizes), *read, *missing, *written, *missing, sizes)


def _words(array: Any) -> Any:
    """Return the memory of a contiguous array as 64-bit words, the bytes of a last incomplete one left out."""
    flat = array.reshape(-1).view(np.uint8)
    return flat[: flat.size - flat.size % 8].view(np.uint64)
