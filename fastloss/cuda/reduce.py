"""The second kernel of a reduction: partial sums of blocks, combined in a fixed order by one block.

It alone computes in float64: a few hundred numbers whatever the size of the problem.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastloss.cuda.access import load, load_or, store
from fastloss.cuda.arrays import DeviceArray
from fastloss.cuda.grid import added, over, thread
from fastloss.cuda.target import SIMULATED, Kernel, jitable

# Threads of a block. The simulator runs a Python thread for each.
THREADS = 8 if SIMULATED else 256

# Blocks of a launch at most: a constant, so that results do not depend on the size of the device. Eight blocks of 256
# threads on each of 132 multiprocessors are 1056.
MAX_BLOCKS = 3 if SIMULATED else 2048

F64 = np.dtype(np.float64)


@jitable
def divided(scale, counted):
    """Return `scale` over the number at `counted`, 1 if it is absent; NaN for 0, as 0/0 is."""
    T = type(scale)
    divisor = load_or(counted, 0, T(1))
    return T(np.nan) if divisor == T(0) else scale / divisor


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


def combine(device: Any, partials: Any, divisor: Any, real: Any) -> Any:
    """Return the sum of `partials` over `divisor`, a number or a device scalar, as a device scalar of dtype `real`.

    Partial sums that are absent, because nobody wants the total, give None.
    """
    if type(partials) is tuple:
        return None
    counted: Any = ()
    if type(divisor) is DeviceArray:
        counted, divisor = divisor, 1.0
    result = device.scalar(real)
    _kernel().launch(device, 1, F64, partials, counted, float(divisor), result, partials.size)
    return result


def grid_of(work: int, threads: int) -> int:
    """Return the number of blocks for `work` threads."""
    return max(1, min(-(-work // threads), MAX_BLOCKS))
