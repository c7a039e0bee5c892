"""How the threads that run one kernel share its chunks.

The board is a float64 array that starts as zeros: four counters (their bits are integers), chunks claimed and chunks
completed for each of two phases, then for each phase a slot for the sum of every chunk. A kernel reads::

    k = claim(board, phase)
    while k < chunks_of(board):
        ...
        put(board, phase, k, total)
        k = claim(board, phase)
    total = combined(board, phase)

The second phase has slots of its own, because a fast thread may begin it while a slow one still adds up the first.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types

from fastloss.runtime.compile import BOARD_HEAD, kernel_part
from fastloss.cpu.simd.memory import load
from fastloss.cpu.simd.emission import emits, pointer_to

I64 = ir.IntType(64)


def claim(board, phase):
    """Return the next chunk that nobody has claimed."""


def put(board, phase, k, total):
    """Complete chunk `k` with its sum; whoever sees the count sees all that was written before."""


def chunks_of(board):
    """Return the number of chunks."""


def share(count, k, chunks):
    """Return where chunk `k` of `count` units begins."""


def _completed(board, phase):
    """Return how many chunks are completed."""


@kernel_part()
def combined(board, phase):
    """Wait until every chunk is completed, and return the sum of the slots in their order.

    Each chunk is in the hands of a running thread, so the wait spins.
    """
    chunks = chunks_of(board)
    while _completed(board, phase) < chunks:
        pass
    total = 0.0
    for k in range(chunks):
        total += load(board, BOARD_HEAD + phase * chunks + k)
    return total


def _as_int(context, builder, kinds, args):
    return [context.cast(builder, arg, kind, types.int64) for kind, arg in zip(kinds, args, strict=True)]


def _counter(context, builder, board, array, phase, which):
    place = builder.add(builder.mul(phase, I64(2)), I64(which))
    return builder.bitcast(pointer_to(context, builder, board, array, place), I64.as_pointer())


def _chunks(context, builder, board, array):
    size = context.make_array(board)(context, builder, array).nitems
    return builder.lshr(builder.sub(size, I64(BOARD_HEAD)), I64(1))


@emits(claim)
def _claim(board, phase):
    def emit(context, builder, kinds, args):
        (number,) = _as_int(context, builder, kinds[1:], args[1:])
        counter = _counter(context, builder, board, args[0], number, 0)
        return builder.atomic_rmw("add", counter, I64(1), "acq_rel")

    return types.int64, emit


@emits(_completed)
def _emit_completed(board, phase):
    def emit(context, builder, kinds, args):
        (number,) = _as_int(context, builder, kinds[1:], args[1:])
        return builder.load_atomic(_counter(context, builder, board, args[0], number, 1), "acquire", 8)

    return types.int64, emit


@emits(put)
def _put(board, phase, k, total):
    def emit(context, builder, kinds, args):
        number, chunk = _as_int(context, builder, kinds[1:3], args[1:3])
        place = builder.add(builder.mul(number, _chunks(context, builder, board, args[0])), chunk)
        slot = pointer_to(context, builder, board, args[0], builder.add(place, I64(BOARD_HEAD)))
        builder.store(context.cast(builder, args[3], total, types.float64), slot)
        builder.atomic_rmw("add", _counter(context, builder, board, args[0], number, 1), I64(1), "release")

    return types.none, emit


@emits(chunks_of)
def _chunks_of(board):
    return types.int64, lambda context, builder, kinds, args: _chunks(context, builder, board, args[0])


@emits(share)
def _share(count, k, chunks):
    def emit(context, builder, kinds, args):
        count, k, chunks = _as_int(context, builder, kinds, args)
        return builder.sdiv(builder.mul(count, k), chunks)

    return types.int64, emit
