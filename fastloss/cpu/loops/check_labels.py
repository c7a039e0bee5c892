"""What the loops over a class axis share: which labels count, and the survey of them that comes before all else."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastloss.runtime.compile import Kernel, kernel_part
from fastloss.define.descriptions import NO_INDEX
from fastloss.cpu.simd.memory import label_at, load_or, present
from fastloss.cpu.simd.work_queue import chunks_of, claim, combined, put, share


@kernel_part(forceinline=True)
def is_counted(label, columns, ignore):
    """Return whether a label is a class, and not the one to ignore; without a choice, for loops that vectorise."""
    return (label >= 0) & (label < columns) & (label != ignore)


@kernel_part()
def survey(y, weight, columns, ignore, check, count, board):
    """Return the first row whose class does not exist (-1: none), and the summed weight of the rows that count.

    A sum of 0 is returned as NaN: it is a divisor, and the mean over nothing is NaN whatever is divided.
    Every thread waits for the whole survey: nothing is computed before all classes are known to exist.
    """
    ignores = ignore != NO_INDEX
    chunks = chunks_of(board)
    k = claim(board, 0)
    while k < chunks:
        first, last = share(count, k, chunks), share(count, k + 1, chunks)
        # Counted in integers: a loop that vectorises.
        kept, ignored = 0, 0
        for r in range(first, last):
            label = label_at(y, r)
            ignored += ignores & (label == ignore)
            kept += is_counted(label, columns, ignore)
        strange = kept + ignored < last - first
        total = float(kept)
        if present(weight):
            total = 0.0
            for r in range(first, last):
                label = label_at(y, r)
                if is_counted(label, columns, ignore):
                    total += load_or(weight, label, 1.0)
        put(board, 0, k, np.nan if strange and check else total)
        k = claim(board, 0)
    total = combined(board, 0)
    if check and total != total:
        for r in range(count):
            label = label_at(y, r)
            if not (ignores and label == ignore) and (label < 0 or label >= columns):
                return r, total
    return -1, total if total != 0.0 else np.nan


@functools.cache
def _kernel() -> Kernel:
    def survey_alone(y, weight, columns, ignore, check, count, board, lead):
        return survey(y, weight, columns, ignore, check, count, board)

    return Kernel("survey", survey_alone)


def run(target: Any, weight: Any, columns: int, ignore: int, check: bool, real: Any) -> tuple[int, float]:
    """Return (first row whose class does not exist or -1, summed weight of the rows that count)."""
    count = target.size
    return _kernel()(count, count, target, weight, columns, ignore, check, count)
