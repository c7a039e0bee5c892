"""When results are written past the caches, by non-temporal stores.

An ordinary store into memory that no cache holds first reads the line that it is about to write over: a quarter of what
a loss of two operands and one gradient moves. A non-temporal store of a whole line does not, but neither does the
result lie in a cache for whoever reads it next. So it is for calls that the caches would not hold anyway, and for
results that begin at a line, whose vectors are whole lines then. Large fresh results do: they lie in mappings of their
own (``runtime/memory_pool.py``).

Value and gradient on two threads of an EPYC with AVX-512 and 32 MiB of last-level cache, time beside that with ordinary
stores. 2**24 float32: l2_penalty 0.75, losses of pairs of vectors 0.75, huber_loss, mse_loss, logsigmoid and
gaussian_nll_loss 0.8, soft_margin_loss 0.86, sigmoid 0.93, binary_focal_loss, which is bound by its arithmetic, 0.99.
16384 rows of 1000: softmax 0.7, multi_margin_loss 0.78, cross_entropy 0.8. A Xeon whose memory controller spares most
of the reads gained 3 % in mse_loss.

The results of single elements are streamed from the loop that computes them. To compute them in a tile and copy it from
there was slower where there is much arithmetic, sigmoid_focal_loss 1.3 times: stores are drained in their order, and
those of the next tile's intermediate numbers waited behind the copy.

A thread that sees in the work queue that a chunk is finished sees what was streamed: on x86 the queue's counters change
by locked instructions, which wait for non-temporal stores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from llvmlite import ir
from numba import types

from fastloss.cpu.simd.llvm_hints import emits, is_absent, pointer_to, stepping, store_past
from fastloss.cpu.simd.memory import LINE_BYTES, load, present, store
from fastloss.runtime.compile import Kernel, Launch, kernel_part

# Bytes that a call reads and writes from which its results are streamed. Time beside that with ordinary stores, as
# above: mse_loss with 12, 24 and 48 MiB 1.2, 0.96 and 0.86, l2_penalty with 8, 16 and 32 MiB 1.5, 1.5 and 0.83,
# gaussian_nll_loss with 10, 20 and 40 MiB 1.2, 0.96 and 0.72.
STREAMED_FROM = 32 << 20


def moves_enough(size: int, arrays: Iterable[Any]) -> bool:
    """Return whether arrays of `size` elements and of these types, absent ones ``()``, may be streamed at all."""
    return size * sum([a.itemsize for a in arrays if type(a) is not tuple]) >= STREAMED_FROM


def are_streamed(inputs: Iterable[Any], outputs: Iterable[Any], columns: int = LINE_BYTES) -> bool:
    """Return whether a call of these arrays, absent ones ``()``, writes past the caches.

    `columns`: it is written row by row, each of so many elements, and every row has to begin at a line.
    """
    present = [a for a in outputs if type(a) is not tuple]
    total = sum([a.nbytes for a in present])
    if not total or total + sum([a.nbytes for a in inputs if type(a) is not tuple]) < STREAMED_FROM:
        return False
    return all(
        a.__array_interface__["data"][0] % LINE_BYTES == 0 and columns * a.itemsize % LINE_BYTES == 0 for a in present
    )


def past_caches(
    launch: Launch, is_streamed: Callable[..., bool], kernel_of: Callable[[], Kernel], units: int, work: int
) -> Launch:
    """Return a launch that runs the kernel which streams instead, where `is_streamed` says so of a call's arguments."""
    stored = launch.code

    def code(*args: Any) -> Any:
        if not is_streamed(*args):
            return stored(*args)
        return kernel_of().launch(units, work, args[:-2]).code(*args)

    return launch._replace(code=code)


# -- rows that are no whole lines --------------------------------------------------------------------------------------
#
# They go past the caches by way of a buffer, where what a row leaves of a line waits for the row after: the buffer
# holds the elements of a line that is not whole, and then those of the row, or of several.


def per_line(array):
    """Return the elements of a line."""


def beyond_line(array, i):
    """Return how many elements element `i` lies beyond the start of its line."""


def _copy_lines(buffer, start, array, first, count):
    """Copy `count` elements, whole lines, to place `first` of `array`, which is the start of a line."""


@kernel_part()
def drain(buffer, written, held, array, start, end):
    """Write elements `written` to `held` of `buffer` to the places of `array` before `end`, as far as they fill lines.

    Return up to which element of the buffer all has been written then. What the buffer holds of places before `start`
    is none of the array's, and less than the line that it belongs to.
    """
    lanes = per_line(array)
    first = end - held  # the place of the buffer's first element
    whole = held // lanes * lanes
    if first + written < start and whole > written:
        for k in range(start - first, lanes):
            store(array, first + k, load(buffer, k))
        written = lanes
    _copy_lines(buffer, written, array, first + written, whole - written)
    return whole


@kernel_part()
def drain_rows(buffers, arrays, written, held, start, end):
    """Do what :func:`drain` does, of two buffers to the first two of `arrays`."""
    drain(buffers[1], written, held, arrays[1], start, end)
    return drain(buffers[0], written, held, arrays[0], start, end)


@kernel_part()
def drain_whole_lines(buffers, arrays, written, held, start, end):
    """Do the same, move what is left in the buffers to their start, and return how many elements of each that is."""
    written = drain_rows(buffers, arrays, written, held, start, end)
    for k in range(held - written):
        store(buffers[0], k, load(buffers[0], written + k))
        if present(arrays[1]):
            store(buffers[1], k, load(buffers[1], written + k))
    return held - written


@kernel_part()
def drain_rest(buffers, arrays, left, end):
    """Write the elements that are left in the buffers, which end before place `end` of the arrays."""
    for k in range(left):
        store(arrays[0], end - left + k, load(buffers[0], k))
        store(arrays[1], end - left + k, load(buffers[1], k))


@emits(per_line)
def _per_line(array):
    lanes = 1 if is_absent(array) else LINE_BYTES * 8 // array.dtype.bitwidth
    return types.int64, lambda context, builder, kinds, args: ir.IntType(64)(lanes)


@emits(beyond_line)
def _beyond_line(array, i):
    def emit(context, builder, kinds, args):
        index = context.cast(builder, args[1], i, types.int64)
        address = builder.ptrtoint(pointer_to(context, builder, array, args[0], index), index.type)
        within = builder.and_(address, index.type(LINE_BYTES - 1))
        return builder.udiv(within, index.type(array.dtype.bitwidth // 8))

    return types.int64, emit


@emits(_copy_lines)
def _emit_copy_lines(buffer, start, array, first, count):
    def emit(context, builder, kinds, args):
        if is_absent(array):
            return
        begin, place, number = (context.cast(builder, args[k], kinds[k], types.int64) for k in (1, 3, 4))
        source = pointer_to(context, builder, buffer, args[0], begin)
        target = pointer_to(context, builder, array, args[2], place)
        size = array.dtype.bitwidth // 8
        line = ir.VectorType(context.get_data_type(array.dtype), LINE_BYTES // size)
        zero, step = number.type(0), number.type(line.count)
        with stepping(builder, zero, number, step) as (k, _):
            pointer = builder.bitcast(builder.gep(source, [k]), line.as_pointer())
            entries = builder.load(pointer, align=size)
            pointer = builder.bitcast(builder.gep(target, [k]), line.as_pointer())
            store_past(builder, entries, pointer, LINE_BYTES)

    return types.none, emit
