"""What the loops over a class axis share: which labels count, and what comes before all else, their survey first."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from fastloss.cpu.simd.memory import cast, label_at, load, load_or, present, store
from fastloss.cpu.simd.work_queue import chunks, finish, total_of
from fastloss.define.descriptions import NO_INDEX, RowMaths
from fastloss.runtime.compile import Kernel, Launch, kernel_part, written_out

# In the place of a bad row: the weight of a sample is negative, or NaN.
NEGATIVE = -2


@kernel_part(forceinline=True)
def is_counted(label, columns, ignore):
    """Return whether a label is a class, and not the one to ignore; without a choice, for loops that vectorise."""
    return (label >= 0) & (label < columns) & (label != ignore)


@kernel_part()
def survey(y, weight, sample, columns, ignore, check, count, queue):
    """Return the first row whose class does not exist (-1: none), and the summed weight of the rows that count.

    A row's weight is that of its class times that of the `sample`; the row is NEGATIVE where one of these is negative.
    A sum of 0 is returned as NaN: it is a divisor, and the mean over nothing is NaN whatever is divided.
    Every thread waits for the whole survey: nothing is computed before all classes are known to exist.
    """
    ignores = ignore != NO_INDEX
    for k, first, last in chunks(queue, 0, count, 1):
        # Counted in integers: a loop that vectorises.
        kept, ignored = 0, 0
        for r in range(first, last):
            label = label_at(y, r)
            ignored += ignores & (label == ignore)
            kept += is_counted(label, columns, ignore)
        bad = check and kept + ignored < last - first
        total = float(kept)
        if present(sample):
            negative = 0
            for r in range(first, last):
                negative += not load_or(sample, r, 1.0) >= 0.0
            bad |= negative > 0
        if present(weight):
            total = 0.0
            for r in range(first, last):
                label = label_at(y, r)
                if is_counted(label, columns, ignore):
                    total += load_or(weight, label, 1.0) * load_or(sample, r, 1.0)
        elif present(sample):
            total = 0.0
            for r in range(first, last):
                own = load_or(sample, r, 1.0)
                total += own if is_counted(label_at(y, r), columns, ignore) else 0.0
        finish(queue, 0, k, np.nan if bad else total)
    total = total_of(queue, 0)
    if total != total:
        for r in range(count):
            label = label_at(y, r)
            if check and not (ignores and label == ignore) and (label < 0 or label >= columns):
                return r, total
        for r in range(count):
            if not load_or(sample, r, 1.0) >= 0.0:
                return NEGATIVE, total
    return -1, total if total != 0.0 else np.nan


def opening(maths: RowMaths) -> Callable[..., Any]:
    """Return the stage that all else of a row loop waits for.

    It returns the row that the survey found (-1: none), the divisor, which is the summed weight of the rows where it
    was 0, the maths's parameters as numbers of the type that it computes in, and the factor of the derivatives.
    """
    indexed, sampled = maths.indexed, maths.sampled

    @written_out
    def open_rows(x, y, weight, grad_output, params, scale, divisor, count, columns, ignore, check, queue):
        bad, counted = -1, 1.0
        if sampled or (indexed and (check or divisor == 0.0)):
            own = weight if indexed else ()
            sample = grad_output if sampled else ()
            bad, counted = survey(y, own, sample, columns, ignore, check and indexed, count, queue)
        divisor = counted if divisor == 0.0 else divisor
        like = load(x, 0)
        return bad, divisor, cast(params, like), type(like)(scale / divisor)

    return open_rows


@functools.cache
def _kernel() -> Kernel:
    def survey_alone(y, weight, columns, ignore, check, count, queue, lead):
        return survey(y, weight, (), columns, ignore, check, count, queue)

    return Kernel("survey", survey_alone)


def run(target: Any, weight: Any, columns: int, ignore: int, check: bool, real: Any) -> tuple[int, float]:
    """Return (first row whose class does not exist or -1, summed weight of the rows that count)."""
    count = target.size
    return _kernel()(count, count, target, weight, columns, ignore, check, count)


@functools.cache
def _weights_kernel() -> Kernel:
    def class_weights(y, weight, columns, ignore, result, count, queue, lead):
        for k, start, stop in chunks(queue, 0, count, 1):
            for r in range(start, stop):
                label = label_at(y, r)
                store(result, r, load_or(weight, label, 1.0) if is_counted(label, columns, ignore) else 0.0)
            finish(queue, 0, k, 0.0)
        return total_of(queue, 0) if lead else 0.0

    return Kernel("class_weights", class_weights)


def class_weights(target: Any, weight: Any, columns: int, ignore: int, real: Any) -> Any:
    """Return the weight of the class of each row, 1 without a `weight`, and 0 for rows that do not count."""
    result = np.empty(target.size, real)
    launch = _weights_launch(target.dtype, None if type(weight) is tuple else weight.dtype, real, target.size)
    launch.code(target, weight, columns, ignore, result, target.size, launch.queue(), True)
    return result


@functools.lru_cache(256)
def _weights_launch(label: Any, weight: Any, real: Any, count: int) -> Launch:
    sample = () if weight is None else np.empty(0, weight)
    return _weights_kernel().launch(count, count, (np.empty(0, label), sample, 1, 1, np.empty(0, real), count))
