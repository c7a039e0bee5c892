"""The loop of losses of rows with a list of classes: each listed entry against all that are not listed.

A warp or a block has a row, by the number of classes. The gradient is gathered in scratch memory, because it may
replace the row that is still read.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from fastloss.cuda.device.block import WARP, added, block, blocks, meet, minimum, over, thread, threads
from fastloss.cuda.device.memory import label_at, load, load_or, present, store
from fastloss.cuda.device.numba_cuda import SIMULATED, jitable
from fastloss.cuda.device.reduce import THREADS, Total, deliver, grid_of
from fastloss.cuda.launch import Kernel
from fastloss.cuda.loops.check_labels import first_of
from fastloss.cuda.views import real_of

I64 = np.dtype(np.int64)

# Classes up to which a warp has a row; the simulator's blocks are smaller than a warp.
WARP_UP_TO = 0 if SIMULATED else 1024

# Elements of scratch memory at most, two for each class of every row that is being worked on.
SCRATCH = 1 << 25


@jitable
def listed(y, base, columns):
    """Return how many classes a row lists, and whether they and what ends the list are known."""
    k = 0
    while k < columns:
        label = label_at(y, base + k)
        if label < 0 or label >= columns:
            return k, label == -1
        k += 1
    return k, True


@functools.cache
def _survey_kernel() -> Kernel:
    first_over = over(minimum, THREADS)

    def survey(y, firsts, count, columns):
        first = count * columns
        for r in range(block() * threads() + thread(), count, threads() * blocks()):
            length, known = listed(y, r * columns, columns)
            if not known:
                first = minimum(first, r * columns + length)
        first = first_over(first)
        if thread() == 0:
            store(firsts, block(), first)

    return Kernel("survey_lists", survey, THREADS)


@functools.cache
def kernel(point: Any, lanes: int) -> Kernel:
    """Return the kernel with `lanes` threads for each row."""
    sum_over, total_over, settle = over(added, lanes), over(added, THREADS), meet(lanes)

    def label_sets(x, y, upstream, values, d0, scratch, factor, count, columns, partials, counted, divisor):
        T = type(factor)
        lane = thread() % lanes
        groups = threads() // lanes
        group = thread() // lanes
        part = T(1) / T(columns)
        # Scratch memory of a group: whether each class is unlisted, then its slope.
        outside = (block() * groups + group) * 2 * columns
        slopes = outside + columns
        total = T(0)
        # Every group takes as many turns, those past the last row with the last row once more, unwritten.
        for first in range(block() * groups, count, blocks() * groups):
            here = first + group < count
            r = first + group if here else count - 1
            base = r * columns
            length, known = listed(y, base, columns)
            for i in range(lane, columns, lanes):
                store(scratch, outside + i, T(1))
            settle()
            for n in range(lane, length, lanes):
                store(scratch, outside + label_at(y, base + n), T(0))
            settle()
            value = T(0)
            for i in range(lane, columns, lanes):
                slope = T(0)
                if load(scratch, outside + i) > T(0):
                    score = T(load(x, base + i))
                    for n in range(length):
                        v, (up, _), _ = point(score, T(load(x, base + label_at(y, base + n))))
                        value += v
                        slope += up
                store(scratch, slopes + i, slope)
            value = sum_over(value)
            settle()  # lane 0 reads the slopes of others, and shuffles do not order memory
            if present(d0):
                for n in range(length):
                    label = label_at(y, base + n)
                    inside = T(load(x, base + label))
                    pull = T(0)
                    for i in range(lane, columns, lanes):
                        _, (_, down), _ = point(T(load(x, base + i)), inside)
                        pull += down * T(load(scratch, outside + i))
                    pull = sum_over(pull)
                    if lane == 0:  # a class that is listed twice adds up
                        store(scratch, slopes + label, load(scratch, slopes + label) + pull)
            settle()
            blank = T(0) if known else T(math.nan)
            value = value * part + blank
            if here and lane == 0:
                store(values, r, value)
                total += value
            g = load_or(upstream, r, factor) * part
            for i in range(lane, columns if here else 0, lanes):
                store(d0, base + i, g * load(scratch, slopes + i) + blank)
            settle()
        total = total_over(total)
        deliver(partials, total, counted, divisor)

    return Kernel(f"label_sets_{lanes}_{point.__name__}", label_sets, THREADS)


def run(
    device: Any,
    point: Any,
    x: Any,
    target: Any,
    upstream: Any,
    scale: float,
    divisor: float,
    shape: tuple[int, int],
    check: bool,
    values: Any,
    grad: Any,
) -> tuple[int, Any]:
    """Run a loss of listed and unlisted entries; only the check of the classes waits for the device.

    The parameters are those of :func:`fastloss.cpu.loops.multilabel.run`; the value is a device scalar.
    """
    count, columns = shape
    real = real_of(x.dtype)
    if check:
        grid = grid_of(count, THREADS)
        firsts = device.scratch(grid, I64)
        _survey_kernel().launch(device, grid, real, target, firsts, count, columns)
        strange = first_of(device, real, firsts, grid)
        if strange < count * columns:
            return strange, None
    lanes = WARP if columns <= WARP_UP_TO else THREADS
    groups = THREADS // lanes
    grid = min(grid_of(count * lanes, THREADS, columns), max(1, SCRATCH // (2 * columns * groups)))
    scratch = device.scratch(grid * groups * 2 * columns, real)
    total = Total(device, grid, real, values == (), divisor)
    kernel(point, lanes).launch(
        device, grid, real, x, target, upstream, values, grad, scratch, scale / divisor, count, columns,
        *total.arguments,
    )
    return -1, total.result()
