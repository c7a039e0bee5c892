"""Zeros in the gradients of samples whose weight is 0."""

from __future__ import annotations

import functools
from typing import Any

from fastloss.cpu.simd.memory import clear, load
from fastloss.cpu.simd.work_queue import chunks, finish, total_of
from fastloss.runtime.compile import Kernel


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
    """Write zeros to the entries of rows whose weight is 0; see :class:`fastloss.call.weighting.Layout`."""
    _kernel()(rows, rows, weights, gradient, rows, *layout)
