"""The leaves of ``losses/scalars.py`` for CUDA: libdevice, in the type of the argument.

Errors are libdevice's, at most 2 ulp. exp flushes nothing: results below the smallest normal number are subnormal,
where the CPU's :func:`exp_nonpositive` soon gives 0.
"""

from __future__ import annotations

import math

from fastloss.cuda.device.numba_cuda import overload
from fastloss.define import scalars


@overload(scalars.exp)
@overload(scalars.exp_nonpositive)
@overload(scalars.exp_difference)
def _exp(x):
    return lambda x: math.exp(x)


@overload(scalars.log)
@overload(scalars.log_sum)
def _log(x):
    return lambda x: math.log(x)


@overload(scalars.log_unit)
def _log_unit(x, whole):
    return lambda x, whole: math.log(x) if whole else math.log1p(-x)


@overload(scalars.log1p_unit)
def _log1p_unit(x):
    return lambda x: math.log1p(x)


@overload(scalars.sqrt)
def _sqrt(x):
    return lambda x: math.sqrt(x)


@overload(scalars.power)
def _power(x, p):
    return lambda x, p: math.pow(x, p)
