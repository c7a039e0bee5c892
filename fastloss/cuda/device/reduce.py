"""The end of a reduction: the last block to finish adds the sums of all blocks in their order, and divides.

Which block is last differs from run to run; what it adds, and in which order, does not. One launch is all that a loss
takes. Three things make the sums of other blocks visible to the last one, by the memory model of PTX:

* The first thread of a block stores its sum, then a fence, then it counts itself: an atomic increment. A fence before a
  strong write is a *release pattern*; increments read each other's results, so that the increment of the last block
  observes those of all others, and the fence behind it makes an *acquire pattern*: the two synchronise at the scope of
  the device.
* The barrier of the last block orders what its other threads read behind the fence of its first thread.
* Nothing reads the sums through the read-only path: the kernel itself writes them.

The counter wraps to 0 with the last increment, so that the next launch finds it so. Launches that share a counter must
follow each other: :meth:`fastloss.cuda.backend.Backend.workspace` has one for each stream.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir

from fastloss.cuda.device.block import WARP, added, block, blocks, numbers_of_threads, over, thread, threads
from fastloss.cuda.device.memory import load, load_or, store
from fastloss.cuda.device.numba_cuda import SMALL, cuda, emits, jitable, overload, types

# Threads of a block. The simulator runs a Python thread for each.
THREADS = 8 if SMALL else 256

# Blocks of a launch at most: a constant, so that results do not depend on the size of the device. Eight blocks of 256
# threads on each of 132 multiprocessors are 1056.
MAX_BLOCKS = 3 if SMALL else 2048

# Numbers, or packs of them, that each thread of a lone block looks at rather than leaving them to several blocks, which
# must find out which of them is the last.
TURNS_OF_ONE = 1 if SMALL else 4

U32 = np.dtype(np.uint32)


@jitable
def divided(scale, counted):
    """Return `scale` over the number at `counted`, 1 if it is absent; NaN for 0, as 0/0 is."""
    T = type(scale)
    divisor = load_or(counted, 0, T(1))
    return T(np.nan) if divisor == T(0) else scale / divisor


def count_block(counter, last):
    """Count this block, of which `last` others are counted before the last, and return how many have been before it.

    The last one leaves 0 for the next launch.
    """
    place = counter.at(0)
    before = int(place[0])
    place[0] = 0 if before == last else before + 1
    return before


@emits(count_block)
def _count_block(counter, last):
    def emit(context: Any, builder: Any, args: Any) -> Any:
        word, wide = ir.IntType(32), ir.IntType(64)
        kind = ir.FunctionType(word, [wide, word])
        code = "membar.gl; atom.inc.u32 $0, [$1], $2; membar.gl;"
        given = [builder.ptrtoint(args[0], wide), builder.trunc(args[1], word)]
        return builder.zext(builder.asm(kind, code, "=r,l,r,~{memory}", given, side_effect=True), wide)

    return types.int64, emit


def is_last_block(counter):
    """Return whether all other blocks have counted themselves; all threads call it when what they wrote is written."""
    return numbers_of_threads(thread() == 0 and count_block(counter, blocks() - 1) == blocks() - 1)[0]


@overload(is_last_block)
def _is_last_block(counter):
    def is_last_block(counter):
        last = types.int32(0)
        if thread() == 0 and count_block(counter, blocks() - 1) == blocks() - 1:
            last = types.int32(1)
        return cuda.syncthreads_or(last) != 0

    return is_last_block


def block_total(value):
    """Return the sum over all threads of a block, of any size."""
    return functools.reduce(added, numbers_of_threads(value))


@overload(block_total)
def _block_total(value):
    kind, over_warp, most = value, over(added, WARP), 1024 // WARP

    def block_total(value):
        shared = cuda.shared.array(most, kind)
        value = over_warp(value)
        if thread() % WARP == 0:
            shared[thread() // WARP] = value
        cuda.syncthreads()
        value = shared[0]
        for k in range(1, threads() // WARP):
            value += shared[k]
        return value

    return block_total


@jitable
def _deliver(result, sums, counter, total, counted, divisor):
    T = type(total)
    last = blocks() == 1
    if not last:
        if thread() == 0:
            store(sums, block(), total)
        last = is_last_block(counter)
        if last:
            total = T(0)
            for k in range(thread(), blocks(), threads()):
                total += load(sums, k)
            total = block_total(total)
    if last and thread() == 0:
        by = load_or(counted, 0, divisor)
        store(result, 0, total / by if by != T(0) else T(np.nan))


def deliver(partials, total, counted, divisor):
    """Make the reduced value of the sums of all blocks, over the number at `counted` or else `divisor`.

    All threads of a block call it with the block's sum. `partials` is (address of the value, of a sum for each block,
    of a counter that is 0), or ``()`` where nobody wants the value.
    """
    if partials != ():
        _deliver(*partials, total, counted, divisor)


@overload(deliver)
def _overloaded(partials, total, counted, divisor):
    if len(partials) == 0:
        return lambda partials, total, counted, divisor: None

    def deliver(partials, total, counted, divisor):
        _deliver(partials[0], partials[1], partials[2], total, counted, divisor)

    return deliver


# Bytes in front of the sums in a workspace: the counter, and what keeps the sums aligned. Bytes of a workspace.
COUNTER = 16
WORKSPACE = COUNTER + 8 * MAX_BLOCKS


def grid_of(work: int, threads: int, each: int = 1) -> int:
    """Return the number of blocks for `work` threads that look at `each` numbers or packs of them."""
    blocks = -(-work // threads)
    return 1 if blocks * each <= TURNS_OF_ONE else min(blocks, MAX_BLOCKS)
