"""A sum in place: what a matrix product without an accumulator needs beside it."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastloss.cpu.simd.llvm_hints import vector_function
from fastloss.cpu.simd.memory import load, store
from fastloss.cpu.simd.work_queue import chunks, finish, total_of
from fastloss.runtime.compile import Kernel, is_small


@functools.cache
def _kernel() -> Kernel:
    def add(target, source, rows, columns, step, queue, lead):
        vector_function()
        for k, start, stop in chunks(queue, 0, rows, 1):
            for r in range(start, stop):
                base = r * columns
                other = r * step
                for j in range(columns):
                    store(target, base + j, load(target, base + j) + load(source, other + j))
            finish(queue, 0, k, 0.0)
        return total_of(queue, 0) if lead else 0.0

    return Kernel("add", add)


def run(target: Any, source: Any) -> None:
    """Add `source` to `target`, both contiguous and of one real dtype; one row of `source` is added to every row."""
    if is_small(target.size):
        np.add(target, source.reshape(target.shape) if source.size == target.size else source, out=target)
        return
    rows = 1 if target.ndim < 2 else target.shape[0]
    columns = target.size // max(rows, 1)
    step = columns if source.size == target.size else 0
    _kernel()(rows, target.size, target.reshape(-1), source.reshape(-1), rows, columns, step)
