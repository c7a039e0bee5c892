"""Where a thread stands in the grid, and how the threads of a block exchange numbers.

Every reduction combines in one fixed order, so that results have the same bits from run to run. All threads of a
block must call a reduction together: loops around one have the same number of turns in all of them.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from llvmlite import ir

from fastloss.cuda.device.numba_cuda import SMALL, capability, cuda, emits, jitable, overload, types

int64 = types.int64

# Threads of a warp. The simulator has none: there it is how many exchange numbers without being a block of their own.
WARP = 2 if SMALL else 32
EVERY_LANE = 0xFFFFFFFF


def simulated() -> Any:
    """Return the simulator's stand-in for the cuda module, in the block that is running."""
    return sys.modules["numba.cuda.simulator.kernel"]._get_kernel_context()


def thread() -> int:
    """Return the thread's number in its block."""
    return int(simulated().threadIdx.x)


def threads() -> int:
    """Return the number of threads of a block."""
    return int(simulated().blockDim.x)


def block() -> int:
    """Return the block's number in the grid."""
    return int(simulated().blockIdx.x)


def blocks() -> int:
    """Return the number of blocks of the grid."""
    return int(simulated().gridDim.x)


def numbers_of_threads(value: Any) -> list[Any]:
    """Return, in the simulator, the values that all threads of the block call this with."""
    context = simulated()
    # What a block shares hangs on the launch's context: blocks run one after another.
    shared = context.__dict__.setdefault("fastloss_shared", {})
    shared[thread()] = value
    context.syncthreads()
    numbers = [shared[k] for k in range(threads())]
    context.syncthreads()  # before anybody writes the next one
    return numbers


@overload(thread)
def _thread():
    return lambda: int64(cuda.threadIdx.x)


@overload(threads)
def _threads():
    return lambda: int64(cuda.blockDim.x)


@overload(block)
def _block():
    return lambda: int64(cuda.blockIdx.x)


@overload(blocks)
def _blocks():
    return lambda: int64(cuda.gridDim.x)


def maximum(a, b):
    """Return the larger, NaN if either is."""
    return a if a > b or a != a else b


@emits(maximum)
def _maximum(a, b):
    def emit(context, builder, args):
        if a == types.float32 and capability() >= (8, 0):
            signature = ir.FunctionType(ir.FloatType(), [ir.FloatType()] * 2)
            return builder.asm(signature, "max.NaN.f32 $0, $1, $2;", "=f,f,f", args, side_effect=False)
        first = builder.or_(builder.fcmp_ordered(">", *args), builder.fcmp_unordered("uno", args[0], args[0]))
        return builder.select(first, *args)

    return a, emit


@jitable
def minimum(a, b):
    """Return the smaller."""
    return a if a < b else b


@jitable
def added(a, b):
    """Return the sum."""
    return a + b


@functools.cache
def over(combine: Callable[..., Any], lanes: int) -> Callable[..., Any]:
    """Return the function that combines one number of each of `lanes` neighbouring threads; all of them get the result.

    `lanes` is a power of two: up to a warp through shuffles, beyond it through shared memory, and then they must be all
    threads of the block.
    """
    if lanes == 1:

        @jitable
        def alone(value):
            return value

        return alone

    reach = min(lanes, WARP) // 2

    def group(value):
        assert lanes <= WARP or lanes == threads()
        first = thread() // lanes * lanes
        numbers = numbers_of_threads(value)[first : first + lanes]
        while len(numbers) > 1:
            half = len(numbers) // 2
            numbers = [combine(numbers[k], numbers[k + half]) for k in range(half)]
        return numbers[0]

    if lanes <= WARP:

        @overload(group)
        def _warp(value):
            def warp(value):
                distance = reach
                while distance > 0:
                    value = combine(value, cuda.shfl_xor_sync(EVERY_LANE, value, distance))
                    distance //= 2
                return value

            return warp

    else:
        warps = lanes // WARP

        @overload(group)
        def _block_of_warps(value):
            kind = value

            def block_of_warps(value):
                shared = cuda.shared.array(warps, kind)
                distance = reach
                while distance > 0:
                    value = combine(value, cuda.shfl_xor_sync(EVERY_LANE, value, distance))
                    distance //= 2
                place = cuda.threadIdx.x
                if place % 32 == 0:
                    shared[place // 32] = value
                cuda.syncthreads()
                value = shared[0]
                for k in range(1, warps):
                    value = combine(value, shared[k])
                cuda.syncthreads()
                return value

            return block_of_warps

    return group


@functools.cache
def anyone(lanes: int) -> Callable[..., Any]:
    """Return the function that says whether it is true in any thread that must go the way of this one.

    Those are the threads that meet in a reduction over `lanes` of them: of the warp, or of the block.
    """

    def group(said: Any) -> Any:
        return any(numbers_of_threads(said))

    @overload(group)
    def _group(said):
        if lanes == 1 or lanes > WARP:  # nobody else, or all of the block, which know the same
            return lambda said: said
        return lambda said: cuda.any_sync(EVERY_LANE, said) != 0

    return group


@functools.cache
def meet(lanes: int) -> Callable[..., Any]:
    """Return the barrier of `lanes` threads: what they read before it is read before any of them writes after it."""

    def barrier() -> None:
        if lanes > 1:
            simulated().syncthreads()

    @overload(barrier)
    def _barrier():
        if lanes == 1:
            return lambda: None
        if lanes <= WARP:
            return lambda: cuda.syncwarp(EVERY_LANE)
        return lambda: cuda.syncthreads()

    return barrier
