"""The loop of losses of single elements: one pass that reads the operands and writes value and derivatives."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from fastloss.cpu.loops.staging import STAGE, copied_window, stage, staging, whole_strides
from fastloss.cpu.simd.llvm_hints import interleaved, separate_arrays, vector_function, wide_vectors
from fastloss.cpu.simd.memory import (
    cast,
    load,
    load_or,
    part,
    present,
    store,
    store_each,
    stream,
    stream_each,
)
from fastloss.cpu.simd.nontemporal import are_streamed, moves_enough, past_caches
from fastloss.cpu.simd.scratch import free, scratch
from fastloss.cpu.simd.stack_arrays import TILE, tile_array
from fastloss.cpu.simd.work_queue import chunks, finish, total_of
from fastloss.cpu.windows import ALL_FLAT
from fastloss.runtime.compile import Kernel, is_small, kernel_part
from fastloss.runtime.plans import KernelPlan, count_present


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


@functools.cache
def staged_kernel(point: Callable[..., Any], arity: int) -> Kernel:
    """Return the kernel for operands of any layout, given as windows and a table of strides (``staging.py``).

    Strided, broadcast and overlapping operands are gathered into small buffers, a few tiles at a time, and the
    contiguous loop runs over those: nothing of the operands' size is allocated, and the loop keeps its vectors. Results
    past the caches brought 3 % of the time of 2**24 elements.
    """
    span = _span_of(point, arity)

    def elementwise(
        a, b, c, weight, grad_output, values, d_a, d_b, d_c, hess, layout, params, scale, size, queue, lead
    ):
        like = load(a, 0)
        numbers, factor = cast(params, like), type(like)(scale)
        buffers = scratch(5 * STAGE, factor)
        for k, start, stop in chunks(queue, 0, size, TILE):
            total = 0.0
            for i in range(start, stop, STAGE):
                n = min(STAGE, stop - i)
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
        free(buffers)
        return total_of(queue, 0) if lead else 0.0

    return Kernel(f"elementwise_staged_{point.__name__}", elementwise)


def plan(
    point: Callable[..., Any],
    operands: tuple[Any, ...],
    results: tuple[Any, ...],
    params: tuple[float, ...],
    aliased: bool,
) -> KernelPlan:
    """Plan a loss over operands of one shape.

    `operands` are the arrays a, b, c, weight and grad_output, of any strides (0 where broadcast), `results` flat arrays
    of the types of values, three derivatives and the Hessian; absent ones are ``()``. `aliased`: a result shares memory
    with an operand.
    """
    arity = count_present(operands[:3])
    first = operands[0]
    size, params = first.size, tuple(map(float, params))
    present = [a for a in operands if type(a) is not tuple]
    if not aliased and all(a.flags.c_contiguous for a in present):

        def arguments(scale: float, divisor: float, check: bool) -> tuple[Any, ...]:
            return params, scale / divisor if divisor else math.nan

        sample = (*operands, *results, *arguments(1.0, 1.0, True))
        launch = contiguous_kernel(point, arity).launch(size, size, sample, flat=True, params=len(params))
        if not is_small(size) and moves_enough(size, (*operands, *results)):
            streamed = functools.partial(contiguous_kernel, point, arity, True)
            launch = past_caches(launch, lambda *args: are_streamed(args[:5], args[5:10]), streamed, size, size)
        return KernelPlan(launch, ALL_FLAT, arguments)
    reads, windows, layout = staging(operands, first.shape)
    if not aliased:  # a result that is an operand is told apart from it by what is gathered
        for k, a in enumerate(operands):
            layout[k, 4] = type(a) is not tuple and a.flags.c_contiguous

    def staged(scale: float, divisor: float, check: bool) -> tuple[Any, ...]:
        return layout, params, scale / divisor if divisor else math.nan, size

    sample = (*windows, *results, *staged(1.0, 1.0, True))
    raw = copied_window not in reads and all(whole_strides(a) for a in present)
    launch = staged_kernel(point, arity).launch(size, size, sample, params=len(params))
    return KernelPlan(launch, reads, staged, raw=raw)
