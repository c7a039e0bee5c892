"""The loop of losses of rows with a list of classes: each listed entry against all that are not listed.

A row is copied into scratch memory that stays in the L1 cache, and visited once for each listed class, SIMD lanes along
the classes. Its cost is classes times listed classes; sorting would win for rows that list hundreds.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastloss.cpu.simd.llvm_hints import vector_function
from fastloss.cpu.simd.memory import label_at, load, load_or, present, store
from fastloss.cpu.simd.scratch import free, scratch
from fastloss.cpu.simd.work_queue import chunks, finish, total_of
from fastloss.cpu.windows import ALL_FLAT
from fastloss.runtime.compile import Kernel, kernel_part
from fastloss.runtime.plans import KernelPlan

# Of so many classes one may be listed in a call of the work that its elements are; more make it longer.
MANY_LABELS = 64


@kernel_part()
def listed(y, base, columns):
    """Return how many classes a row lists, and whether they and what ends the list are known."""
    k = 0
    while k < columns:
        label = label_at(y, base + k)
        if label < 0 or label >= columns:
            return k, label == -1
        k += 1
    return k, True


@kernel_part()
def survey(y, count, columns, queue):
    """Return the place of the first entry that is neither a class nor the end of a list, -1 for none.

    Every thread waits for the whole survey: nothing is computed before all classes are known to exist.
    """
    for k, start, stop in chunks(queue, 0, count, 1):
        bad = 0.0
        for r in range(start, stop):
            _, known = listed(y, r * columns, columns)
            bad += 0.0 if known else 1.0
        finish(queue, 0, k, bad)
    if total_of(queue, 0) > 0.0:
        for r in range(count):
            length, known = listed(y, r * columns, columns)
            if not known:
                return r * columns + length
    return -1


@functools.cache
def kernel(point: Any) -> Kernel:
    """Return the kernel of a loss of listed and unlisted entries."""

    def multilabel(x, y, grad_output, values, d0, scale, count, columns, check, queue, lead):
        vector_function()
        T = type(load(x, 0))
        if check:
            bad = survey(y, count, columns, queue)
            if bad >= 0:
                return bad, 0.0
        factor = T(scale)
        scores, outside, slopes = scratch(columns, factor), scratch(columns, factor), scratch(columns, factor)
        part = T(1) / T(columns)
        for k, start, stop in chunks(queue, 1, count, 1):
            total = 0.0
            for r in range(start, stop):
                base = r * columns
                for i in range(columns):
                    store(scores, i, load(x, base + i))
                    store(outside, i, T(1))
                    store(slopes, i, T(0))
                length, known = listed(y, base, columns)
                for n in range(length):
                    store(outside, label_at(y, base + n), T(0))
                value = 0.0
                for n in range(length):
                    label = label_at(y, base + n)
                    inside = load(scores, label)
                    gain = T(0)
                    pull = T(0)
                    for i in range(columns):
                        v, (up, down), _ = point(load(scores, i), inside)
                        counts = load(outside, i) > T(0)
                        gain += v if counts else T(0)
                        if present(d0):
                            pull += down if counts else T(0)
                            store(slopes, i, load(slopes, i) + (up if counts else T(0)))
                    value += gain
                    store(slopes, label, load(slopes, label) + pull)
                blank = T(0) if known else T(np.nan)
                result = T(value) * part + blank
                store(values, r, result)
                total += result
                g = load_or(grad_output, r, factor) * part
                for i in range(columns):
                    store(d0, base + i, g * load(slopes, i) + blank)
            finish(queue, 1, k, total)
        free(scores)
        free(outside)
        free(slopes)
        return -1, total_of(queue, 1) if lead else 0.0

    return Kernel(f"multilabel_{point.__name__}", multilabel)


def plan(point: Any, operands: tuple[Any, ...], results: tuple[Any, ...], shape: tuple[int, int]) -> KernelPlan:
    """Plan a loss over `shape` = (rows, classes).

    `operands` are the input, the class lists and grad_output, `results` the values and the derivative: flat arrays,
    absent ones ``()``.
    """
    count, columns = shape

    def numbers(scale: float, divisor: float, check: bool) -> tuple[Any, ...]:
        return scale / divisor, count, columns, check

    work = count * columns
    launch = kernel(point).launch(
        count, work, (*operands, *results, *numbers(1.0, 1.0, True)), flat=True, most=work * columns // MANY_LABELS
    )
    return KernelPlan(launch, ALL_FLAT, numbers, labelled=True)
