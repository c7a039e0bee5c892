"""The loops of losses over a class axis.

A row belongs to a group of threads, by its number of classes: one thread, part of a warp, a warp or a block, which read
it once and keep it in registers (``rowwise_registers.py``). Strided rows and those that registers do not hold are
visited in memory (``rowwise_memory.py``). Losses that look at the target's entry alone have a loop of their own
(``rowwise_target_only.py``). Which way a row takes, and with it the order of its sums, follows from the loss, the
number of classes, the types and the alignment, not from the other rows.

Entry (o, c, i) stands at ``(o * columns + c) * inner + i``; row ``r = o * inner + i`` has its label, grad_output
and value at place r.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from fastloss.cuda.device.memory import WIDEST
from fastloss.cuda.device.reduce import THREADS, grid_of
from fastloss.cuda.device_array import DeviceArray
from fastloss.cuda.loops import check_labels
from fastloss.cuda.loops.rowwise_memory import LONG, memory_kernel
from fastloss.cuda.loops.rowwise_registers import layout_of, register_kernel
from fastloss.cuda.loops.rowwise_target_only import gather_kernel
from fastloss.cuda.planned import (
    At,
    Form,
    Looping,
    Run,
    divisor_of,
    factor_of,
    itself,
    never,
    plan_of,
    unaligned,
)
from fastloss.define.descriptions import RowMaths
from fastloss.runtime.dtypes import real_of
from fastloss.runtime.plans import KernelPlan, count_present

# Which of the operands and results are read and written in packs: not labels, grad_output and values.
IN_PACKS = frozenset((0, 1, 3, 6, 7, 8, 9))


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
    run = _launching(device, maths, real, arrays, 1 if params is None else len(params), shape, ignore_index)
    survey: Any = None
    if maths.indexed:
        survey = check_labels.plan(device, real, operands[2], operands[3], columns, ignore_index)
    labels = slice(count_present(operands[:2]), count_present(operands[:4]))  # and the weights of classes

    def bound(scale: float, divisor: Any) -> At:
        counts = type(divisor) is not DeviceArray and divisor == 0  # divided by the weight of the rows that count
        by = divisor_of(divisor)
        # A map of rows has one parameter, the factor of its derivative.
        given = (scale, 1.0) if params is None else (*numbers, scale if counts else factor_of(scale, divisor))
        if not maths.indexed:
            return lambda pointers, check: (-1, run(pointers, given, *by))

        def at(pointers: tuple[int, ...], check: bool) -> tuple[int, Any]:
            if check or counts:
                bad, counted = survey(pointers[labels], check)
                if bad >= 0:
                    return bad, None
                if counts:
                    return -1, run(pointers, given, counted.dtype, (counted.pointer, 1.0))
            return -1, run(pointers, given, *by)

        return at

    reads = tuple([itself if a.is_contiguous() else device.flat for a in operands if type(a) is not tuple])
    return plan_of(device, bound, reads, labelled=True)


def _launching(
    device: Any,
    maths: RowMaths,
    real: Any,
    arrays: tuple[Any, ...],
    params: int,
    shape: tuple[int, int, int],
    ignore: int,
) -> Run:
    """Return what launches a row loss over `arrays` like these."""
    (outer, columns, inner), itemsize = shape, arrays[0].itemsize
    count, first = outer * inner, count_present(arrays[:6])
    widest = 1 if inner > 1 else math.gcd(columns, WIDEST // itemsize)
    packed = [a.itemsize if k in IN_PACKS else 0 for k, a in enumerate(arrays) if type(a) is not tuple]
    misaligned = unaligned(widest, packed) if widest > 1 else never
    # Terms and second derivatives take the entries beside their exponentials; those of float64 need as many more.
    copies = (1 + (maths.terms is not None or type(arrays[9]) is not tuple)) * (real.itemsize // 4) ** 2

    def gather(replaces: bool, second: bool) -> Form:
        sizes = (count, columns, inner, ignore, int(replaces))
        return Form(gather_kernel(maths), grid_of(count, THREADS), sizes)

    def group(single: bool) -> Form:
        width, sizes = 1 if single else widest, (count, columns, inner, ignore)
        layout = layout_of(columns, width, copies) if inner == 1 else None
        if layout is not None:
            grid = grid_of(count * layout.lanes, layout.threads, layout.packs)
            return Form(register_kernel(maths, layout), grid, sizes)
        lanes = LONG if inner == 1 else 1
        grid = grid_of(count * lanes, max(lanes, THREADS), -(-columns // (width * lanes)))
        return Form(memory_kernel(maths, lanes, width), grid, sizes)

    if not maths.sparse:
        return Looping(device, real, arrays, params, misaligned, group).run
    # Zeros first, but where the gradient lies over the input: there an entry is read before zeros take its place.
    size = math.prod(shape)
    zeros = [device.filling(size, a.dtype) for a in arrays[6:] if type(a) is not tuple]
    replacing, gathering = (
        Looping(device, real, arrays, params, never, functools.partial(gather, replaces)).run
        for replaces in (True, False)
    )

    def gathered(pointers: tuple[int, ...], numbers: tuple[float, ...], counted: Any, by: tuple[Any, ...]) -> Any:
        written = pointers[first:]
        if pointers[0] in written:
            return replacing(pointers, numbers, counted, by)
        for fill, pointer in zip(zeros, written, strict=True):
            fill((pointer, 0.0, size))
        return gathering(pointers, numbers, counted, by)

    return gathered
