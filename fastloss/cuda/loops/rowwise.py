"""The loops of losses over a class axis.

A row belongs to a group of threads: one thread, part of a warp, a warp or a block, by the number of classes. The group
visits its row up to three times (maximum and exponentials in one pass, sums, entries), and reads it once: warps and
blocks keep it in shared memory (``shelf.py``), the rows of smaller groups, at most half a kilobyte each, are still in
the L1 cache. Of a row that is too long for a block's shared memory the beginning is kept, and the rest is left to the
L2 cache. With a strided class axis (N, C, d1 ...) neighbouring threads have neighbouring rows, and their accesses join.
Losses that look at the target's entry alone have a loop of their own (``gather.py``), and so have a few very long rows,
of which blocks share pieces (``split.py``).

Entry (o, c, i) stands at ``(o * columns + c) * inner + i``; row ``r = o * inner + i`` has its label, upstream factor
and value at place r.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from fastloss.cuda.device.block import added, anyone, block, blocks, maximum, meet, over, thread, threads
from fastloss.cuda.device.memory import WIDEST, label_at, load, load_or, load_pack, store, store_derivatives, store_pack
from fastloss.cuda.device.numba_cuda import SIMULATED
from fastloss.cuda.device.online_softmax import SURE, gauge, of_energy, of_others
from fastloss.cuda.device.packs import filled, total_of
from fastloss.cuda.device.reduce import THREADS, deliver, divided, grid_of
from fastloss.cuda.device.shared_rows import put_on_shelf, reader, room, shelf_is_full, shelf_like
from fastloss.cuda.device_array import DeviceArray, like
from fastloss.cuda.launch import Kernel, with_values
from fastloss.cuda.loops import check_labels
from fastloss.cuda.loops.row_maths import packed
from fastloss.cuda.loops.rowwise_split import run_split, suits
from fastloss.cuda.loops.rowwise_target_only import gather_kernel
from fastloss.cuda.planned import Form, Looping, Run, itself, never, plan_of, run_once, unaligned
from fastloss.cuda.views import real_of
from fastloss.define.descriptions import RowMaths
from fastloss.define.scalars import exp_nonpositive
from fastloss.runtime.plans import KernelPlan, count_present

# Threads of a group, and the packs of a row up to which a group is that small. Registers let a multiprocessor have 1024
# threads, and its 228 KB are to hold what they keep: the warps of a block of 256 keep 32 KB at most, four blocks
# 128 KB; a row of 64 KB leaves room for three blocks. Of longer rows two or one fit, and a block has more threads.
GROUPS = ((1, 2), (4, 6), (8, 24)) if SIMULATED else ((1, 4), (8, 32), (32, 256), (256, 4096))
LARGEST_GROUP = 16 if SIMULATED else 512

# Which of the operands and results are read and written in packs: not labels, upstream factors and values.
IN_PACKS = frozenset((0, 1, 3, 6, 7, 8, 9))

# Groups from this size on keep their row.
KEEPING = 4 if SIMULATED else 32

I64 = np.dtype(np.int64)


@functools.cache
def group_kernel(maths: RowMaths, lanes: int, width: int, strided: bool, keeps: bool) -> Kernel:
    """Return the kernel with `lanes` threads for each row, which handle packs of `width` entries.

    With `keeps` the first `kept` entries of a row are on the shelf from the first visit on.
    """
    finish, has_terms, softmax, indexed = maths.finish, maths.terms is not None, maths.softmax, maths.indexed
    (sums, entries), fill = packed(maths, width), filled(width)
    gauged, others_of, read = gauge(lanes, width, keeps), of_others(lanes, width, keeps), reader(keeps)
    first_of, second_of, third_of = (total_of(k, width) for k in range(3))
    top_over, sum_over, total_over = over(maximum, lanes), over(added, lanes), over(added, block_of(lanes))
    settle, someone = meet(lanes), anyone(lanes)

    def rowwise(
        x, t, y, weight, upstream, values, d0, d1, d2, second,
        params, scale, count, columns, inner, kept, ignore, partials, counted, divisor,
    ):  # fmt: skip
        T = type(scale)
        factor = divided(scale, counted)
        zeros, ones = fill(T(0)), fill(T(1))
        grads = (d0, d1, d2)
        shelf = shelf_like(x) if keeps else ()
        place_on_shelf = thread() // lanes * kept
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
            row = (x, base, step, shelf, place_on_shelf, kept)
            if keeps:
                for j in range(lane * width, kept, lanes * width):
                    put_on_shelf(shelf, place_on_shelf + j, x, base + j, zeros)
                shelf_is_full()

            top = T(0)
            inverse = T(0)
            logsum = T(0)
            p_others = T(0)
            if softmax:
                own, energy = gauged(row, factor, lane * width, columns)
                top = top_over(own)
                energy = sum_over(energy * exp_nonpositive(own - top))
                others = T(0)
                if someone(energy < T(SURE)):
                    if energy < T(SURE):
                        others = others_of(row, top, lane * width, columns)
                    others = sum_over(others)
                inverse, logsum, p_others = of_energy(energy, others)
            zy = T(load(x, base + place * step)) - top if indexed else T(0)
            py = exp_nonpositive(zy) * inverse if indexed and softmax else T(0)
            wy = load_or(weight, place, T(1)) if indexed else T(1)

            a = T(0)
            b = T(0)
            c = T(0)
            if has_terms:
                rest = (top, inverse, label, zy, wy, params)
                for j in range(lane * width, columns, lanes * width):
                    parts = sums(
                        read(row, j, zeros),
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

            value, coefs = finish(top, logsum, (a, b, c), zy, wy, p_others, py, params)
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
                        read(row, j, zeros),
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

    layout = "strided" if strided else f"{'kept_' if keeps else ''}{lanes}x{width}"
    name = f"rowwise_{layout}_{maths.finish.__name__}_{maths.entry.__name__}"
    return Kernel(name, rowwise, *bounds_of(lanes, width, keeps, maths))


def bounds_of(lanes: int, width: int, keeps: bool, maths: RowMaths) -> tuple[int, int]:
    """Return the threads of a block, and how many blocks a multiprocessor must hold at once.

    While a block computes, others are to fetch their rows. 64 registers for each thread let 1024 threads be there at
    once, 80 let 768; the assembler needs the 80 for the kernels that visit a row three times, or else it spills. Of 128
    it makes use by unrolling, on sm_80 until it spills; single entries need that many all the same, and sums in double
    precision more.
    """
    block = block_of(lanes)
    if width >= 4:
        threads = 1024 if keeps and maths.terms is None else 768
    else:
        threads = 512 if width == 1 or maths.terms is None else 256
    return block, max(1, threads // block)


def group_of(packs: int) -> int:
    """Return how many threads share a row."""
    for lanes, most in GROUPS:
        if packs <= most:
            return lanes
    return LARGEST_GROUP


def block_of(lanes: int) -> int:
    """Return the threads of a block whose groups have `lanes` threads."""
    return max(lanes, THREADS)


def kept_of(space: int, lanes: int, width: int, columns: int) -> int:
    """Return how many entries of a row its group keeps, where a block has space for as many as `space`.

    All of them, or as many as all threads of the group have whole packs of.
    """
    share = space // (block_of(lanes) // lanes)
    return columns if columns <= share else share // (lanes * width) * lanes * width


def plan(
    device: Any,
    maths: RowMaths,
    operands: tuple[Any, ...],
    results: tuple[Any, ...],
    params: tuple[float, ...] | None,
    shape: tuple[int, int, int],
    ignore_index: int,
) -> KernelPlan:
    """Plan a row loss, see :func:`fastloss.cpu.loops.rowwise.plan`.

    The reduced value is a device scalar. Only the check of the class indices waits for the device.
    """
    x, arrays, columns = operands[0], (*operands, *results), shape[1]
    real, numbers = real_of(x.dtype), () if params is None else tuple([float(p) for p in params])
    launch = _launching(device, maths, real, arrays, 1 if params is None else len(params), shape, ignore_index)
    survey: Any = None
    if maths.indexed:
        survey = check_labels.plan(device, real, operands[2], operands[3], columns, ignore_index)
    labels = slice(count_present(operands[:2]), count_present(operands[:4]))  # and the weights of classes

    def at(pointers: tuple[int, ...], scale: float, by: Any, check: bool) -> tuple[int, Any]:
        if check or by == 0:
            strange, counted = survey(pointers[labels], check)
            if strange >= 0:
                return strange, None
            if by == 0:
                return -1, launch(pointers, numbers, scale, counted)
        return -1, launch(pointers, numbers, scale if type(by) is DeviceArray else scale / by, by)

    def without_labels(pointers: tuple[int, ...], scale: float, by: Any, check: bool) -> tuple[int, Any]:
        if params is None:  # a map of rows, whose parameter is the factor
            return -1, launch(pointers, (scale,), 1.0, 1)
        return -1, launch(pointers, numbers, scale if type(by) is DeviceArray else scale / by, by)

    reads = tuple([itself if a.is_contiguous() else device.flat for a in operands if type(a) is not tuple])
    return plan_of(device, at if maths.indexed else without_labels, reads, labelled=True)


def _launching(
    device: Any,
    maths: RowMaths,
    real: Any,
    arrays: tuple[Any, ...],
    params: int,
    shape: tuple[int, int, int],
    ignore: int,
) -> Run:
    """Return what launches a row loss over `arrays` like these, and returns the reduced value."""
    (outer, columns, inner), itemsize = shape, arrays[0].itemsize
    count, first = outer * inner, count_present(arrays[:6])
    widest = 1 if inner > 1 or columns % (WIDEST // itemsize) else WIDEST // itemsize
    packed = [a.itemsize if k in IN_PACKS else 0 for k, a in enumerate(arrays) if type(a) is not tuple]
    misaligned = unaligned(widest, packed) if widest > 1 else never
    if suits(maths, count, columns, inner) and not maths.sparse:
        typed = tuple([a if type(a) is tuple else like(a.dtype) for a in arrays])

        def split(pointers: tuple[int, ...], numbers: tuple[float, ...], factor: float, by: Any) -> Any:
            width, given = 1 if misaligned(pointers) else widest, with_values(typed, iter(pointers))
            return run_split(device, maths, width, real, given, numbers, factor, by, count, columns, ignore).owner()

        return split
    visits = maths.softmax + (maths.terms is not None) + any(type(a) is not tuple for a in arrays[6:])

    def gather(replaces: bool) -> Form:
        sizes = (count, columns, inner, ignore, int(replaces))
        return Form(gather_kernel(maths), grid_of(count, THREADS), sizes)

    def group(single: bool) -> Form:
        width = 1 if single else widest
        lanes = 1 if inner > 1 else group_of(columns // width)
        kept = kept_of(room(device) // itemsize, lanes, width, columns) if lanes >= KEEPING and visits > 1 else 0
        shared = kept * itemsize * (block_of(lanes) // lanes)
        grid = grid_of(count * lanes, block_of(lanes), -(-columns // (width * lanes)))
        kernel = group_kernel(maths, lanes, width, inner > 1, kept > 0)
        return Form(kernel, grid, (count, columns, inner, kept, ignore), shared=shared)

    if not maths.sparse:
        return Looping(device, real, arrays, params, misaligned, group)
    # Zeros first, but where the gradient lies over the input: there an entry is read before zeros take its place.
    zeros = [device.filling(math.prod(shape), a.dtype) for a in arrays[6:] if type(a) is not tuple]
    gathered = Looping(device, real, arrays, params, lambda pointers: pointers[0] in pointers[first:], gather)

    def fill_and_gather(pointers: tuple[int, ...], numbers: tuple[float, ...], factor: float, by: Any) -> Any:
        if pointers[0] not in pointers[first:]:
            for fill, pointer in zip(zeros, pointers[first:], strict=True):
                fill((pointer, 0.0, math.prod(shape)))
        return gathered(pointers, numbers, factor, by)

    return fill_and_gather


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
) -> tuple[int, Any]:
    """Run a row loss and return (row of the first class index that does not exist or -1, reduced value).

    The parameters are those of :func:`fastloss.cpu.loops.rowwise.run`; the reduced value is a device scalar.
    """
    operands, results = (x, operand, target, weight, upstream), (values, *grads, second)
    planned = plan(device, maths, operands, results, params, shape, ignore_index)
    return run_once(planned, operands, results, scale, divisor, check)
