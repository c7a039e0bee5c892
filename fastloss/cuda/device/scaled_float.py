"""Pairs (m, e) that stand for m * 2**e: probabilities beyond the range of floats, see ``cpu/simd/scaled_float.py``."""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba.cuda import libdevice

from fastloss.cuda.device.numba_cuda import emits, jitable, overload, types
from fastloss.define.scalars import exp

_I32, _I64 = ir.IntType(32), ir.IntType(64)


def nearest(x):
    """Return the nearest whole number."""
    return np.rint(x)


def power(d):
    """Return 2**d for a whole d <= 127; 0 below -126, for -inf, and for NaN."""
    T = type(d)
    lowest = -126 if T is np.float32 else -1022
    return T(math.ldexp(1.0, int(d))) if d >= lowest else T(0)


def exponent_of(m):
    """Return e with |m| in [1, 2) * 2**e, for a normal number; for others a number without a meaning."""
    T = type(m)
    return T(math.frexp(m)[1] - 1)


@overload(nearest)
def _nearest(x):
    if x == types.float32:
        return lambda x: libdevice.rintf(x)
    return lambda x: libdevice.rint(x)


def _fields(kind):
    """Return (integer type, bits of the mantissa, bias, IR type) of a float type."""
    return (_I32, 23, 127, ir.FloatType()) if kind == types.float32 else (_I64, 52, 1023, ir.DoubleType())


# An exponent field of 0 is the number 0, so that the clamp takes care of all that is too small.
@emits(power)
def _power(d):
    integer, mantissa, bias, real = _fields(d)

    def emit(context, builder, args):
        lowest = ir.Constant(real, -float(bias))
        clamped = builder.select(builder.fcmp_ordered(">", args[0], lowest), args[0], lowest)
        field = builder.add(builder.fptosi(clamped, integer), integer(bias))
        return builder.bitcast(builder.shl(field, integer(mantissa)), real)

    return d, emit


@emits(exponent_of)
def _exponent_of(m):
    integer, mantissa, bias, real = _fields(m)

    def emit(context, builder, args):
        field = builder.lshr(builder.bitcast(args[0], integer), integer(mantissa))
        field = builder.and_(field, integer(2 * bias + 1))
        return builder.sitofp(builder.sub(field, integer(bias)), real)

    return m, emit


@jitable
def exp_pair(x):
    """Return exp(x) as (m, e), m within [0.7, 1.5]; x may be any number."""
    T = type(x)
    n = nearest(x * T(1.4426950408889634))
    r = (x - n * T(0.693145751953125)) - n * T(1.42860682030941723e-6)
    # Beyond, x is rounded to a multiple of ln 2, which is no more than its own last place.
    r = T(0) if n > T(2097152) or n < T(-2097152) else r
    return exp(r), n


@jitable
def normal(m, e):
    """Return the same number with m near 1; m must be positive and far from the ends of the range, unless 0 or NaN."""
    k = exponent_of(m)
    return m * power(-k), e + k


@jitable
def larger(a, b):
    """Return the larger; the second if either is NaN."""
    return a if a > b else b
