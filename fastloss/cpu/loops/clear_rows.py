"""Zeros in the gradients of samples whose weight is 0."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastloss.cpu.simd.memory import clear, load
from fastloss.cpu.simd.work_queue import chunks, finish, total_of
from fastloss.runtime.compile import Kernel, Launch


@functools.cache
def _kernel() -> Kernel:
    def clear_rows(weights, gradient, rows, columns, inner, width, queue, lead):
        for k, start, stop in chunks(queue, 0, rows, 1):
            for r in range(start, stop):
                if load(weights, r) == 0:
                    outer, i = divmod(r, inner)
                    if inner == 1:
                        clear(gradient, outer * columns * width, columns * width)
                    else:
                        for c in range(columns):
                            clear(gradient, ((outer * columns + c) * inner + i) * width, width)
            finish(queue, 0, k, 0.0)
        return total_of(queue, 0) if lead else 0.0

    return Kernel("clear_rows", clear_rows)


def run(weights: Any, gradient: Any, rows: int, layout: tuple[int, int, int]) -> None:
    """Write zeros to the entries of rows whose weight is 0; see :class:`fastloss.call.weighting.RowLayout`."""
    launch = _launch(weights.dtype, gradient.dtype, rows)
    launch.code(weights, gradient, rows, *layout, launch.queue(), True)


@functools.lru_cache(256)
def _launch(weight: Any, gradient: Any, rows: int) -> Launch:
    return _kernel().launch(rows, rows, (np.empty(0, weight), np.empty(0, gradient), rows, 1, 1, 1))
