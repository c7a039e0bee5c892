"""Operands of any layout for the loop over contiguous ones: a stretch at a time, they are gathered into buffers."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from fastloss.cpu import in_parts
from fastloss.cpu.simd.memory import either, load_or, of_one_type, part, present, store
from fastloss.cpu.simd.stack_arrays import TILE
from fastloss.cpu.windows import FLAT, flat_window
from fastloss.runtime.compile import kernel_part, written_out
from fastloss.runtime.strides import merged_axes

# Elements that are gathered at a time. One thread of an EPYC, AVX-512: value and gradient of mse_loss of 2**18 float32
# with strided input, or a weight for each row of 64, took 77 and 92 microseconds with 512, 69 and 75 with 1024, 67 and
# 69 with 2048, 64 and 70 with 4096; contiguous 42.
STAGE = 4 * TILE


@written_out
def stage(window, layout, k, start, count, buffers):
    """Return elements start ... start + count of operand `k`, gathered into stretch k of `buffers`, or where they lie.

    `window` is the memory of the operand; row k of `layout` holds the offset of its first element, its strides along
    three axes, and 1 where its elements follow each other and may be read where they lie; the last row holds the
    lengths of those axes. An absent operand stays absent.
    """
    first = layout[k, 0] + start
    buffer = part(buffers, k * STAGE, (k + 1) * STAGE)
    _gather(window, layout, k, start, count, buffer)
    return either(layout[k, 4], part(window, first, first + count), buffer)


@kernel_part()
def _gather(window, layout, k, start, count, buffer):
    """Copy elements of an operand to a buffer, unless it is absent or they are read where they lie."""
    if not present(window) or (of_one_type(window, buffer) and layout[k, 4]):
        return
    like = buffer[0]
    s0, s1, s2 = layout[k, 1], layout[k, 2], layout[k, 3]
    d1, d2 = layout[-1, 1], layout[-1, 2]
    outer, rest = divmod(start, d1 * d2)
    middle, inner = divmod(rest, d2)
    filled = 0
    while filled < count:
        run = min(count - filled, d2 - inner)
        base = layout[k, 0] + outer * s0 + middle * s1 + inner * s2
        if s2 == 1:
            for j in range(run):
                store(buffer, filled + j, load_or(window, base + j, like))
        elif s2 == 0:
            value = load_or(window, base, like)
            for j in range(run):
                store(buffer, filled + j, value)
        else:
            for j in range(run):
                store(buffer, filled + j, load_or(window, base + j * s2, like))
        filled += run
        inner = 0
        middle += 1
        if middle == d1:
            middle = 0
            outer += 1


def staging(arrays: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[tuple[Any, ...], list[Any], Any]:
    """Return what makes a window of each array, the windows of these, and the layout that :func:`stage` reads.

    A window is the memory of an array as a flat one. Neighbouring axes are merged as far as all arrays allow; where
    more than three are left the arrays are copied. Every window has one type, so that one kernel serves all strides.
    """
    whole = tuple([type(a) is tuple or whole_strides(a) for a in arrays])
    copied = tuple([a if is_whole else in_parts.copied(a) for a, is_whole in zip(arrays, whole, strict=True)])
    present = [a for a in copied if type(a) is not tuple]
    lengths, axes = merged_axes(present, shape)
    if len(axes) > 3:
        flat = tuple([a if type(a) is tuple else in_parts.flat(a) for a in copied])
        _, windows, layout = staging(flat, (math.prod(shape),))
        return tuple([copied_window for _ in present]), windows, layout
    missing = [0] * (3 - len(axes))
    layout = np.zeros((len(arrays) + 1, 5), np.int64)
    layout[-1, :3] = [1] * len(missing) + lengths
    reads: list[Any] = []
    windows = []
    for k, a in enumerate(copied):
        if type(a) is tuple:
            windows.append(a)
            continue
        strides = [a.strides[axis] // a.itemsize for axis in axes]
        lowest = sum(s * (n - 1) for s, n in zip(strides, lengths, strict=True) if s < 0)
        extent = 1 + sum(abs(s) * (n - 1) for s, n in zip(strides, lengths, strict=True))
        layout[k] = [-lowest, *missing, *strides, 0]
        read: Any = FLAT if a.flags.c_contiguous else functools.partial(_window, lowest * a.itemsize, extent, whole[k])
        reads.append(read)
        windows.append(read(arrays[k]))
    return tuple(reads), windows, layout


def _window(offset: int, extent: int, whole: bool, array: Any) -> Any:
    """Do what :func:`flat_window` does, of a copy where elements do not lie `whole` numbers of elements apart."""
    return flat_window(array if whole else in_parts.copied(array), offset, extent)


def copied_window(array: Any) -> Any:
    """Return a window of a copy in C order."""
    flat = in_parts.flat(array)
    return flat_window(flat, 0, flat.size)


def whole_strides(array: Any) -> bool:
    """Return whether elements lie whole numbers of elements apart; fields of a record may not."""
    return array.flags.aligned and all(s % array.itemsize == 0 for s in array.strides)
