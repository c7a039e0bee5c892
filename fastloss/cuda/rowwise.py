"""The loops of losses over a class axis.

A row belongs to a group of threads: one thread, part of a warp, a warp or a block, by the number of classes. The group
reads its row up to three times (maximum and exponentials in one pass, sums, entries); all visits but the first find it
in the L1 cache where the rows of a multiprocessor's blocks fit it, and else in the L2 cache. With a strided class axis
(N, C, d1 ...) neighbouring threads have neighbouring rows, and their accesses join. Losses that look at the target's
entry alone have a loop of their own (``gather.py``), and so have a few very long rows, of which blocks share pieces
(``split.py``).

Entry (o, c, i) stands at ``(o * columns + c) * inner + i``; row ``r = o * inner + i`` has its label, upstream factor
and value at place r.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from fastloss._spec import RowMaths
from fastloss.cuda.access import (
    label_at,
    load,
    load_or,
    load_pack,
    store,
    store_derivatives,
    store_pack,
)
from fastloss.cuda.arrays import DeviceArray
from fastloss.cuda.elementwise import pack_width
from fastloss.cuda.gather import gather_kernel
from fastloss.cuda.gauge import gauge
from fastloss.cuda.grid import added, block, blocks, maximum, meet, over, thread, threads
from fastloss.cuda.lanes import filled, total_of
from fastloss.cuda.reduce import THREADS, Total, deliver, divided, grid_of
from fastloss.cuda.row_maths import packed
from fastloss.cuda.split import run_split, suits
from fastloss.cuda.survey import survey
from fastloss.cuda.target import SIMULATED, Kernel
from fastloss.cuda.views import real_of
from fastloss.losses.scalars import exp_nonpositive, log

# Threads of a group, and the packs of a row up to which a group is that small. Beyond the last, a block has the row.
GROUPS = ((1, 2), (4, 12)) if SIMULATED else ((1, 4), (8, 32), (32, 1024))

I64 = np.dtype(np.int64)


@functools.cache
def group_kernel(maths: RowMaths, lanes: int, width: int, strided: bool) -> Kernel:
    """Return the kernel with `lanes` threads for each row, which handle packs of `width` entries."""
    finish, has_terms, softmax, indexed = maths.finish, maths.terms is not None, maths.softmax, maths.indexed
    (sums, entries), fill = packed(maths, width), filled(width)
    gauged = gauge(lanes, width)
    first_of, second_of, third_of = (total_of(k, width) for k in range(3))
    top_over, sum_over, total_over = over(maximum, lanes), over(added, lanes), over(added, THREADS)
    settle = meet(lanes)

    def rowwise(
        x, t, y, weight, upstream, values, d0, d1, d2, second,
        params, scale, count, columns, inner, ignore, partials, counted, divisor,
    ):  # fmt: skip
        T = type(scale)
        factor = divided(scale, counted)
        zeros, ones = fill(T(0)), fill(T(1))
        grads = (d0, d1, d2)
        step = inner if strided else 1
        lane = thread() % lanes
        groups = threads() // lanes
        total = T(0)
        # Every thread takes as many turns, those past the last row with the last row once more, unwritten.
        for first in range(block() * groups, count, blocks() * groups):
            r = first + thread() // lanes
            here = r < count
            r = r if here else count - 1
            base = r * columns
            if strided:
                base = r // inner * columns * inner + r % inner
            label = label_at(y, r)
            known = not indexed or (label >= 0 and label < columns and label != ignore)
            place = label if known else 0

            top = T(0)
            inverse = T(0)
            logsum = T(0)
            if softmax:
                own, energy = gauged(x, factor, base, lane * width, columns, step)
                top = top_over(own)
                energy = sum_over(energy * exp_nonpositive(own - top))
                inverse = T(1) / energy
                logsum = T(log(energy))
            zy = T(load(x, base + place * step)) - top if indexed else T(0)
            wy = load_or(weight, place, T(1)) if indexed else T(1)

            a = T(0)
            b = T(0)
            c = T(0)
            if has_terms:
                rest = (top, inverse, label, zy, wy, params)
                for j in range(lane * width, columns, lanes * width):
                    parts = sums(
                        load_pack(x, base + j * step, zeros),
                        load_pack(t, base + j * step, ones),
                        zeros,
                        load_pack(weight, j, ones),
                        ones,
                        j,
                        rest,
                    )
                    a += first_of(parts)
                    b += second_of(parts)
                    c += third_of(parts)
                a = sum_over(a)
                b = sum_over(b)
                c = sum_over(c)

            value, coefs = finish(top, logsum, (a, b, c), zy, wy, params)
            blank = T(0) if label == ignore else T(math.nan)
            value = T(value) if known else blank
            if here and lane == 0:
                store(values, r, value)
                total += value
            g = load_or(upstream, r, factor)
            settle()  # the gradient may replace the input
            if here and known:
                tail = (top, inverse, label, coefs, g, params)
                for j in range(lane * width, columns, lanes * width):
                    outcomes = entries(
                        load_pack(x, base + j * step, zeros),
                        load_pack(t, base + j * step, ones),
                        zeros,
                        load_pack(weight, j, ones),
                        ones,
                        j,
                        tail,
                    )
                    store_derivatives(grads, second, base + j * step, outcomes)
            elif here:
                for j in range(lane * width, columns, lanes * width):
                    store_pack((d0, d1, d2, second), base + j * step, fill(blank))
        total = total_over(total)
        deliver(partials, total, counted, divisor)

    layout = "strided" if strided else f"{lanes}x{width}"
    return Kernel(f"rowwise_{layout}_{maths.finish.__name__}_{maths.entry.__name__}", rowwise, THREADS)


def group_of(packs: int) -> int:
    """Return how many threads share a row."""
    for lanes, most in GROUPS:
        if packs <= most:
            return lanes
    return THREADS


def run(
    device: Any,
    maths: RowMaths,
    x: Any,
    operand: Any,
    target: Any,
    weight: Any,
    upstream: Any,
    params: tuple[float, ...],
    scale: float,
    divisor: float,
    shape: tuple[int, int, int],
    ignore_index: int,
    check: bool,
    values: Any,
    grads: tuple[Any, Any, Any],
    second: Any,
    clear: bool,
) -> tuple[int, Any]:
    """Run a row loss and return (row of the first class index that does not exist or -1, reduced value).

    The parameters are those of :func:`fastloss.cpu.rowwise.run`; the reduced value is a device scalar. Only the check
    of the class indices waits for the device.
    """
    outer, columns, inner = shape
    count = outer * inner
    real = real_of(x.dtype)
    by: Any = divisor
    if maths.indexed and (check or divisor == 0):
        strange, counted = survey(device, real, target, weight, columns, ignore_index, check)
        if strange >= 0:
            return strange, None
        by = divisor or counted
    factor = scale if type(by) is DeviceArray else scale / by
    numbers = tuple([float(p) for p in params])
    arrays = (x, operand, target, weight, upstream, values, *grads, second)
    if maths.sparse:
        if clear and all(type(d) is tuple or d.pointer != x.pointer for d in grads):
            for gradient in grads:
                if type(gradient) is DeviceArray:
                    device.fill(gradient, 0.0)
            clear = False
        grid = grid_of(count, THREADS)
        total = Total(device, grid, real, values == (), by)
        gather_kernel(maths).launch(
            device, grid, real, *arrays, numbers, factor, count, columns, inner, ignore_index, int(clear),
            *total.arguments,
        )  # fmt: skip
        return -1, total.result()
    in_packs = [a for a in (x, operand, weight, *grads, second) if type(a) is DeviceArray]
    width = 1 if inner > 1 else pack_width(x.itemsize, in_packs, columns)
    if suits(maths, count, columns, inner):
        total = run_split(device, maths, width, real, arrays, numbers, factor, by, count, columns, ignore_index)
    else:
        lanes = 1 if inner > 1 else group_of(columns // width)
        grid = grid_of(count * lanes, THREADS, -(-columns // (width * lanes)))
        total = Total(device, grid, real, values == (), by)
        group_kernel(maths, lanes, width, inner > 1).launch(
            device, grid, real, *arrays, numbers, factor, count, columns, inner, ignore_index, *total.arguments
        )
    return -1, total.result()
