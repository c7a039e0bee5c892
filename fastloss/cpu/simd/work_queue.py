"""How the threads that run one kernel share its chunks: a work queue without locks.

The queue is a float64 array that starts as zeros. Its head is four counters (their bits are integers), the chunks taken
and the chunks finished in each of two phases; then come, for each phase, a slot for the sum of every chunk. The second
phase has slots of its own, because a fast thread may begin it while a slow one still adds up the first.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types

from fastloss.cpu.simd.llvm_hints import emits, pointer_to
from fastloss.cpu.simd.memory import load
from fastloss.runtime.compile import kernel_part
from fastloss.runtime.threads import QUEUE_HEAD

I64 = ir.IntType(64)


@kernel_part()
def chunks(queue, phase, count, step):
    """Take chunks of `count` rows or elements until none is left: yield their numbers, and where they start and stop.

    They begin at multiples of `step`. Each is to be marked as finished, see :func:`finish`.
    """
    number = chunks_of(queue)
    steps = (count + step - 1) // step
    k = _next_chunk(queue, phase)
    while k < number:
        yield k, share(steps, k, number) * step, min(share(steps, k + 1, number) * step, count)
        k = _next_chunk(queue, phase)


def _next_chunk(queue, phase):
    """Return the next chunk that no thread has taken."""


def finish(queue, phase, k, total):
    """Mark chunk `k` as finished, with its sum; whoever sees the mark sees all that was written before."""


def chunks_of(queue):
    """Return the number of chunks."""


def share(count, k, chunks):
    """Return where chunk `k` of `count` units begins."""


def _finished(queue, phase):
    """Return how many chunks are finished."""


@kernel_part()
def total_of(queue, phase):
    """Wait until every chunk is finished, and return the sum of the slots in their order.

    The wait spins: each chunk that is not finished is in the hands of a thread that is running.
    """
    chunks = chunks_of(queue)
    while _finished(queue, phase) < chunks:
        pass
    total = 0.0
    for k in range(chunks):
        total += load(queue, QUEUE_HEAD + phase * chunks + k)
    return total


def _as_int(context, builder, kinds, args):
    return [context.cast(builder, arg, kind, types.int64) for kind, arg in zip(kinds, args, strict=True)]


def _counter(context, builder, queue, array, phase, which):
    place = builder.add(builder.mul(phase, I64(2)), I64(which))
    return builder.bitcast(pointer_to(context, builder, queue, array, place), I64.as_pointer())


def _chunk_number(context, builder, queue, array):
    size = context.make_array(queue)(context, builder, array).nitems
    return builder.lshr(builder.sub(size, I64(QUEUE_HEAD)), I64(1))


@emits(_next_chunk)
def _emit_next_chunk(queue, phase):
    def emit(context, builder, kinds, args):
        (number,) = _as_int(context, builder, kinds[1:], args[1:])
        counter = _counter(context, builder, queue, args[0], number, 0)
        return builder.atomic_rmw("add", counter, I64(1), "acq_rel")

    return types.int64, emit


@emits(_finished)
def _emit_finished(queue, phase):
    def emit(context, builder, kinds, args):
        (number,) = _as_int(context, builder, kinds[1:], args[1:])
        return builder.load_atomic(_counter(context, builder, queue, args[0], number, 1), "acquire", 8)

    return types.int64, emit


@emits(finish)
def _emit_finish(queue, phase, k, total):
    def emit(context, builder, kinds, args):
        number, chunk = _as_int(context, builder, kinds[1:3], args[1:3])
        place = builder.add(builder.mul(number, _chunk_number(context, builder, queue, args[0])), chunk)
        slot = pointer_to(context, builder, queue, args[0], builder.add(place, I64(QUEUE_HEAD)))
        builder.store(context.cast(builder, args[3], total, types.float64), slot)
        builder.atomic_rmw("add", _counter(context, builder, queue, args[0], number, 1), I64(1), "release")

    return types.none, emit


@emits(chunks_of)
def _emit_chunks_of(queue):
    return types.int64, lambda context, builder, kinds, args: _chunk_number(context, builder, queue, args[0])


@emits(share)
def _emit_share(count, k, chunks):
    def emit(context, builder, kinds, args):
        count, k, chunks = _as_int(context, builder, kinds, args)
        return builder.sdiv(builder.mul(count, k), chunks)

    return types.int64, emit
