"""The loop of losses of single elements: one pass that reads the operands and writes value and derivatives."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.extending import overload

from fastloss.cpu.simd.llvm_hints import interleaved, is_absent, separate_arrays, vector_function, wide_vectors
from fastloss.cpu.simd.memory import cast, load, load_or, part, present, store, store_each, stream, stream_each
from fastloss.cpu.simd.nontemporal import are_streamed
from fastloss.cpu.simd.stack_arrays import TILE, tile_array
from fastloss.cpu.simd.work_queue import chunks, finish, total_of
from fastloss.runtime.compile import NOT_FROM_C, Kernel, is_small, kernel_part
from fastloss.runtime.strides import merged_axes


@kernel_part()
def _one(a, b, c, i):
    return (load(a, i),)


@kernel_part()
def _two(a, b, c, i):
    x = load(a, i)
    return x, load_or(b, i, x)


@kernel_part()
def _three(a, b, c, i):
    x = load(a, i)
    return x, load_or(b, i, x), load_or(c, i, x)


def stage(window, layout, k, start, count, buffers):
    """Return elements start ... start + count of operand `k`, gathered into row k of `buffers`.

    `window` is the memory of the operand; row k of `layout` holds the offset of its first element and its strides
    along three axes, the last row the lengths of those axes. An absent operand stays absent.
    """


@overload(stage, jit_options=NOT_FROM_C)
def _stage(window, layout, k, start, count, buffers):
    if is_absent(window):
        return lambda window, layout, k, start, count, buffers: ()

    def gather(window, layout, k, start, count, buffers):
        buffer = buffers[k]
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
        return buffer

    return gather


def _tile_of(point: Callable[..., Any], arity: int, streamed: bool) -> Callable[..., Any]:
    """Return the loop over `count` elements of contiguous operands; their values go to `tile` too."""
    fetch = (_one, _two, _three)[arity - 1]
    write, write_each = (stream, stream_each) if streamed else (store, store_each)

    @kernel_part()
    def compute(a, b, c, weight, grad_output, tile, values, grads, hess, numbers, factor, first, count):
        separate_arrays()
        T = type(factor)
        for j in range(count):
            i = first + j
            value, slopes, curvature = point(*(fetch(a, b, c, i) + numbers))
            w = load_or(weight, i, T(1))
            g = w * load_or(grad_output, i, factor)
            store(tile, j, w * value)
            write(values, i, w * value)
            write_each(grads, i, slopes, g)
            write(hess, i, g * curvature)
        interleaved(4)

    return compute


@kernel_part()
def _are_hard(targets, first, count, like):
    """Return whether all targets are 0 or 1."""
    wide_vectors()
    hard = True
    for i in range(first, first + count):
        t = load_or(targets, i, like)
        hard &= (t == 0) | (t == 1)
    return hard


def _span_of(point: Callable[..., Any], arity: int, streamed: bool = False) -> Callable[..., Any]:
    """Return the loop over elements start ... stop of contiguous operands; it returns the sum of the values.

    The values of a tile go to the stack before they are summed: a float64 sum in the loop itself would halve the lanes
    of everything in it, because LLVM counts lanes by the widest type.

    The caches find the streams by themselves: asking them for the next tile's operands and results, or for the place of
    the results alone, made losses of 2**24 elements on two threads 10 to 40 % slower.
    """
    compute = _tile_of(point, arity, streamed)
    hard = getattr(point, "hard", None)
    has_hard = hard is not None
    compute_hard = compute if hard is None else _tile_of(hard, arity, streamed)

    @kernel_part()
    def span(start, stop, a, b, c, weight, grad_output, values, grads, hess, numbers, factor):
        vector_function()
        total = 0.0
        tile = tile_array(factor)
        for first in range(start, stop, TILE):
            count = min(TILE, stop - first)
            if has_hard and not present(grads[1]) and _are_hard(b, first, count, factor):
                compute_hard(a, b, c, weight, grad_output, tile, values, grads, hess, numbers, factor, first, count)
            else:
                compute(a, b, c, weight, grad_output, tile, values, grads, hess, numbers, factor, first, count)
            for j in range(count):
                total += load(tile, j)
        return total

    return span


@functools.cache
def contiguous_kernel(point: Callable[..., Any], arity: int, streamed: bool = False) -> Kernel:
    """Return the kernel of a loss over contiguous arrays of one length.

    Chunks are whole tiles, so that the tiles of results that are `streamed` begin at lines.
    """
    span = _span_of(point, arity, streamed)

    def elementwise(a, b, c, weight, grad_output, values, d_a, d_b, d_c, hess, params, scale, queue, lead):
        like = load(a, 0)
        grads, numbers, factor = (d_a, d_b, d_c), cast(params, like), type(like)(scale)
        for k, start, stop in chunks(queue, 0, a.size, TILE):
            total = span(start, stop, a, b, c, weight, grad_output, values, grads, hess, numbers, factor)
            finish(queue, 0, k, total)
        return total_of(queue, 0) if lead else 0.0

    return Kernel(f"elementwise_{'streamed_' if streamed else ''}{point.__name__}", elementwise)


def launcher(point: Callable[..., Any], arity: int, size: int) -> Callable[..., Any]:
    """Return what runs a loss over contiguous arrays of `size` elements, which have the same types each time."""
    if is_small(size):
        return contiguous_kernel(point, arity).launcher(size, size)

    def launch(*args: Any) -> Any:
        streamed = are_streamed(args[:5], args[5:10])
        return contiguous_kernel(point, arity, streamed)(size, size, *args)

    return launch


@functools.cache
def staged_kernel(point: Callable[..., Any], arity: int) -> Kernel:
    """Return the kernel for operands of any layout, given as windows and a table of strides (:func:`stage`).

    Strided, broadcast and overlapping operands are gathered into small buffers, tile by tile, and the contiguous loop
    runs over those: nothing of the operands' size is allocated, and the loop keeps its vectors.
    """
    span = _span_of(point, arity)

    def elementwise(
        a, b, c, weight, grad_output, layout, values, d_a, d_b, d_c, hess, params, scale, size, queue, lead
    ):
        like = load(a, 0)
        numbers, factor = cast(params, like), type(like)(scale)
        buffers = np.empty((5, TILE), type(factor))
        for k, start, stop in chunks(queue, 0, size, TILE):
            total = 0.0
            for i in range(start, stop, TILE):
                n = min(TILE, stop - i)
                total += span(
                    0,
                    n,
                    stage(a, layout, 0, i, n, buffers),
                    stage(b, layout, 1, i, n, buffers),
                    stage(c, layout, 2, i, n, buffers),
                    stage(weight, layout, 3, i, n, buffers),
                    stage(grad_output, layout, 4, i, n, buffers),
                    part(values, i, i + n),
                    (part(d_a, i, i + n), part(d_b, i, i + n), part(d_c, i, i + n)),
                    part(hess, i, i + n),
                    numbers,
                    factor,
                )
            finish(queue, 0, k, total)
        return total_of(queue, 0) if lead else 0.0

    return Kernel(f"elementwise_staged_{point.__name__}", elementwise)


def run(
    point: Callable[..., Any],
    operands: tuple[Any, ...],
    weight: Any,
    upstream: Any,
    params: tuple[float, ...],
    scale: float,
    divisor: float,
    values: Any,
    grads: tuple[Any, Any, Any],
    second: Any,
    aliased: bool,
) -> float:
    """Run a loss over operands of one shape and return the sum of its values over `divisor`.

    `operands`, `weight` and `upstream` are arrays of one shape, of any strides (0 where broadcast); the outputs are
    contiguous. An absent array is ``()``. `aliased`: an output shares memory with an operand. Derivatives are
    multiplied by `scale` over `divisor`; a divisor of 0 (weights that sum to 0) gives NaN, as 0/0 does.
    """
    factor = scale / divisor if divisor else math.nan
    first = operands[0]
    size = first.size
    inputs: tuple[Any, ...] = (*operands, *((),) * (3 - len(operands)), weight, upstream)
    outputs: tuple[Any, ...] = (values, *grads, second)
    if first.ndim != 1:
        outputs = tuple([a if type(a) is tuple else a.reshape(-1) for a in outputs])
    contiguous = not aliased
    for a in inputs:
        if type(a) is not tuple and not a.flags.c_contiguous:
            contiguous = False
            break
    if contiguous:
        if first.ndim != 1:
            inputs = tuple([a if type(a) is tuple else a.reshape(-1) for a in inputs])
        total = launcher(point, len(operands), size)(*inputs, *outputs, params, factor)
    else:
        windows, layout = _windows(inputs, first.shape)
        total = staged_kernel(point, len(operands))(size, size, *windows, layout, *outputs, params, factor, size)
    return total / divisor if divisor else math.nan


def _windows(arrays: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[list[Any], Any]:
    """Return the memory of each array as a flat read-only window, and the layout that :func:`stage` reads.

    Neighbouring axes are merged as far as all arrays allow; where more than three are left the arrays are copied.
    Every window has one type, so that one kernel serves all strides.
    """
    arrays = tuple(a if type(a) is tuple or _has_whole_strides(a) else a.copy() for a in arrays)
    present = [a for a in arrays if type(a) is not tuple]
    lengths, axes = merged_axes(present, shape)
    if len(axes) > 3:
        flat = tuple(a if type(a) is tuple else np.ascontiguousarray(a).reshape(-1) for a in arrays)
        return _windows(flat, (math.prod(shape),))
    missing = [0] * (3 - len(axes))
    layout = np.zeros((len(arrays) + 1, 4), np.int64)
    layout[-1, :3] = [1] * len(missing) + lengths
    windows: list[Any] = []
    for k, a in enumerate(arrays):
        if type(a) is tuple:
            windows.append(a)
            continue
        strides = [a.strides[axis] // a.itemsize for axis in axes]
        lowest = sum(s * (n - 1) for s, n in zip(strides, lengths, strict=True) if s < 0)
        extent = 1 + sum(abs(s) * (n - 1) for s, n in zip(strides, lengths, strict=True))
        layout[k] = [-lowest, *missing, *strides]
        origin = a[tuple(slice(None, None, -1) if s < 0 else slice(None) for s in a.strides)]
        windows.append(np.lib.stride_tricks.as_strided(origin, (extent,), (a.itemsize,), writeable=False))
    return windows, layout


def _has_whole_strides(array: Any) -> bool:
    """Return whether elements lie whole numbers of elements apart; fields of a record may not."""
    return array.flags.aligned and all(s % array.itemsize == 0 for s in array.strides)
