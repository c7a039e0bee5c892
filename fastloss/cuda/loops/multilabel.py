"""The loop of losses of rows with a list of classes: each listed entry against all that are not listed.

A warp or a block has a row, by the number of classes. The gradient is gathered in scratch memory, because it may
replace the row that is still read.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from fastloss.cuda.device.block import WARP, added, block, blocks, meet, minimum, over, thread, threads
from fastloss.cuda.device.memory import label_at, load, load_or, present, store
from fastloss.cuda.device.numba_cuda import SMALL, jitable
from fastloss.cuda.device.reduce import THREADS, deliver, divided, grid_of
from fastloss.cuda.device_array import DeviceArray, like
from fastloss.cuda.launch import Kernel, prepared
from fastloss.cuda.loops.check_labels import first_of
from fastloss.cuda.planned import At, Form, Looping, divisor_of, factor_of, itself, never, plan_of
from fastloss.runtime.dtypes import I64, real_of
from fastloss.runtime.plans import KernelPlan

# Classes up to which a warp has a row; the simulator's blocks are smaller than a warp.
WARP_UP_TO = 0 if SMALL else 1024

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

    def label_sets(
        x, _t, y, _weight, grad_output, values, d0, scratch, _d2, _hess,
        params, scale, count, columns, partials, counted, divisor,
    ):  # fmt: skip
        T = type(scale)
        factor = divided(scale, counted)
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
            g = load_or(grad_output, r, factor) * part
            for i in range(lane, columns if here else 0, lanes):
                store(d0, base + i, g * load(scratch, slopes + i) + blank)
            settle()
        total = total_over(total)
        deliver(partials, total, counted, divisor)

    return Kernel(f"label_sets_{lanes}_{point.__name__}", label_sets, THREADS)


def plan(
    device: Any, point: Any, operands: tuple[Any, ...], results: tuple[Any, ...], shape: tuple[int, int]
) -> KernelPlan:
    """Plan a loss of listed and unlisted entries, see :func:`fastloss.cpu.loops.multilabel.plan`.

    The reduced value is a device scalar. Only the check of the classes waits for the device.
    """
    (count, columns), (x, target, grad_output), (values, gradient) = shape, operands, results
    real = real_of(x.dtype)
    lanes = WARP if columns <= WARP_UP_TO else THREADS
    groups = THREADS // lanes
    grid = min(grid_of(count * lanes, THREADS, columns), max(1, SCRATCH // (2 * columns * groups)))
    maker = device.maker((grid * groups * 2 * columns,), real)
    make, address = maker.bare, maker.address
    arrays = (x, (), target, (), grad_output, values, gradient, like(real), (), ())
    form = Form(kernel(point, lanes), grid, (count, columns))
    run = Looping(device, real, arrays, 0, never, lambda second: form).run
    survey = _surveying(device, real, target, shape)

    def bound(scale: float, divisor: Any) -> At:
        numbers, by = (factor_of(scale, divisor),), divisor_of(divisor)

        def at(pointers: tuple[int, ...], check: bool) -> tuple[int, Any]:
            if check:
                bad = survey(pointers[1])
                if bad < count * columns:
                    return bad, None
            scratch = make()
            return -1, run((*pointers, address(scratch)), numbers, *by)

        return at

    reads = tuple([itself if a.is_contiguous() else device.flat for a in operands if type(a) is not tuple])
    return plan_of(device, bound, reads, arrays=5, labelled=True)


def _surveying(device: Any, real: Any, target: DeviceArray, shape: tuple[int, int]) -> Callable[[int], int]:
    """Return what finds, given an address, the first entry that is no class and ends no list; it waits for the device.

    Where there is none that is the number of entries.
    """
    grid = grid_of(shape[0], THREADS)
    start = prepared(_survey_kernel(), device, grid, real, (like(target.dtype), like(I64), *shape))
    maker = device.maker((grid,), I64)
    make, address = maker.bare, maker.address

    def look(pointer: int) -> int:
        firsts = make()
        place = address(firsts)
        start((pointer, place, *shape))
        return first_of(device, real, place, grid)

    return look
