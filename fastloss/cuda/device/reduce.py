"""The end of a reduction: a lone block divides its sum; those of several are combined in a fixed order by one block.

The combining kernel alone computes in float64: at most a few thousand numbers whatever the size of the problem.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from fastloss.cuda.device.block import added, block, blocks, over, thread
from fastloss.cuda.device.memory import load, load_or, store
from fastloss.cuda.device.numba_cuda import SIMULATED, jitable
from fastloss.cuda.device_array import DeviceArray, addresses, like
from fastloss.cuda.launch import Kernel, prepared

# Threads of a block. The simulator runs a Python thread for each.
THREADS = 8 if SIMULATED else 256

# Blocks of a launch at most: a constant, so that results do not depend on the size of the device. Eight blocks of 256
# threads on each of 132 multiprocessors are 1056.
MAX_BLOCKS = 3 if SIMULATED else 2048

# Numbers, or packs of them, that each thread of a lone block looks at rather than leaving sums of several blocks to be
# combined: another kernel costs microseconds.
TURNS_OF_ONE = 1 if SIMULATED else 4

F64 = np.dtype(np.float64)


@jitable
def divided(scale, counted):
    """Return `scale` over the number at `counted`, 1 if it is absent; NaN for 0, as 0/0 is."""
    T = type(scale)
    divisor = load_or(counted, 0, T(1))
    return T(np.nan) if divisor == T(0) else scale / divisor


@jitable
def deliver(partials, total, counted, divisor):
    """Store the sum of a block, or the reduced value if there is no other block."""
    T = type(total)
    if thread() == 0:
        if blocks() == 1:
            by = load_or(counted, 0, divisor)
            total = total / by if by != T(0) else T(np.nan)
        store(partials, block(), total)


@functools.cache
def _kernel() -> Kernel:
    total_over = over(added, THREADS)
    step = THREADS

    def combine(partials, counted, divisor, result, size):
        total = 0.0
        for k in range(thread(), size, step):
            total += load(partials, k)
        total = total_over(total)
        if thread() == 0:
            by = load_or(counted, 0, divisor)
            store(result, 0, total / by if by != 0.0 else np.nan)

    return Kernel("combine", combine, THREADS)


class Total:
    """The reduced value of a launch: where its blocks leave their sums, and what the sum of these is divided by.

    Attributes
    ----------
    arguments
        What a kernel hands to :func:`deliver`.
    """

    def __init__(self, device: Any, grid: int, real: Any, wanted: bool, divisor: Any) -> None:
        """Take memory for `grid` blocks; `divisor` is a number or a device scalar."""
        on_device = type(divisor) is DeviceArray
        counted, number = (divisor, 1.0) if on_device else ((), float(divisor))
        self._device, self._real, self._grid, self._wanted = device, real, grid, wanted
        partials: Any = ()
        if wanted:
            partials = device.scalar(real) if grid == 1 else device.scratch(grid, real)
        self.arguments = (partials, counted, number)

    def result(self) -> Any:
        """Return the value as a device scalar, None if nobody wants it; a second kernel combines several blocks."""
        partials, counted, number = self.arguments
        if not self._wanted:
            return None
        return partials if self._grid == 1 else combine(self._device, partials, counted, number, self._real)


# Makes the reduced value of the sums of blocks, and of the address and number that a divisor consists of.
Combine = Callable[[DeviceArray, tuple[Any, ...]], DeviceArray]


def combining(device: Any, size: int, real: Any, counted: Any) -> Combine:
    """Return what launches the kernel that combines `size` sums; `counted`: like a divisor on the device."""
    make = device.maker((), real)
    start = prepared(_kernel(), device, 1, F64, (like(real), counted, 1.0, like(real), size))

    def combine(partials: DeviceArray, divisor: tuple[Any, ...]) -> DeviceArray:
        result: DeviceArray = make()
        start((partials.pointer, *divisor, result.pointer, size))
        return result

    return combine


def combine(device: Any, partials: DeviceArray, counted: Any, divisor: float, real: Any) -> DeviceArray:
    """Return the sum of `partials` over the number at `counted`, over `divisor` where that is absent."""
    return combining(device, partials.size, real, counted)(partials, (*addresses((counted,)), divisor))


def grid_of(work: int, threads: int, each: int = 1) -> int:
    """Return the number of blocks for `work` threads that look at `each` numbers or packs of them."""
    blocks = -(-work // threads)
    return 1 if blocks * each <= TURNS_OF_ONE else min(blocks, MAX_BLOCKS)
