"""The leaves of ``define/scalars.py`` for CUDA: libdevice, in the type of the argument.

Errors are libdevice's, at most 2 ulp, but those of :func:`exp_difference` and :func:`reciprocal` in float32. exp
flushes nothing: results below the smallest normal number are subnormal, where the CPU's :func:`exp_nonpositive` soon
gives 0.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir

from fastloss.cuda.device.numba_cuda import emits, overload, types
from fastloss.define import scalars

_UNARY = ir.FunctionType(ir.FloatType(), [ir.FloatType()])


def power_of_2(x):
    """Return 2**x; in float32 to 2 ulp, and 0 instead of subnormal numbers."""
    return np.exp2(x)


def reciprocal(x):
    """Return 1 / x; in float32 to 1 ulp, and 0 instead of subnormal numbers."""
    return 1 / x


@emits(power_of_2)
def _power_of_2(x):
    def emit(context, builder, args):
        return builder.asm(_UNARY, "ex2.approx.ftz.f32 $0, $1;", "=f,f", args, side_effect=False)

    return types.float32, emit


@emits(reciprocal)
def _reciprocal(x):
    def emit(context, builder, args):
        if x == types.float32:
            return builder.asm(_UNARY, "rcp.approx.ftz.f32 $0, $1;", "=f,f", args, side_effect=False)
        return builder.fdiv(ir.Constant(ir.DoubleType(), 1.0), args[0])

    return x, emit


@overload(scalars.exp_difference)
def _exp_difference(x):
    """Relative error in float32: 2**-22 + 2**-24 |x|."""
    if x == types.float32:
        return lambda x: power_of_2(x * np.float32(1.4426950408889634))
    return lambda x: math.exp(x)


@overload(scalars.exp)
@overload(scalars.exp_nonpositive)
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
