"""Exponents of floats by way of their bits: powers of two, and numbers taken apart."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types

from fastloss.cpu.simd.llvm_hints import emits

# What added to n rounds it to an integer whose biased exponent stands in the low bits: 1.5 * 2**(mantissa bits) + bias.
ONE_F32 = np.float32(12582912 + 127)
ONE_F64 = 6755399441055744.0 + 1023


def power_of_two(t):
    """Return 2**n for t = n + ONE_F32 or n + ONE_F64, n no less than -127 or -1023, where the result is 0."""


def split_exponent(x):
    """Return (k, m) with x = 2**k * m and m in [sqrt(1/2), sqrt(2)), k as a float, for normal x > 0."""


def exponent_and_scale(x):
    """Return (k, 2**-k) for the k of :func:`split_exponent`, of x in [0, 1e30]; of 0 that k is -127 or -1023."""


@emits(power_of_two)
def _emit_power_of_two(t):
    mantissa, bits = (23, 32) if t == types.float32 else (52, 64)

    def emit(context, builder, kinds, args):
        integer = ir.IntType(bits)
        n = builder.shl(builder.bitcast(args[0], integer), integer(mantissa))
        return builder.bitcast(n, args[0].type)

    return t, emit


def _exponent(builder, kind, x):
    """Return bits less those of sqrt(1/2), whose exponent field is k where it steps where the mantissa crosses it."""
    bits = 32 if kind == types.float32 else 64
    integer = ir.IntType(bits)
    return builder.sub(builder.bitcast(x, integer), integer(0x3F3504F3 if bits == 32 else 0x3FE6A09E667F3BCD))


def _as_float(builder, kind, k):
    """Return a small integer as a float by placing it in the low bits of one.

    int64 -> float64 has no vector form before AVX-512.
    """
    real = ir.FloatType() if kind == types.float32 else ir.DoubleType()
    magic, value = (0x4B400000, 12582912.0) if kind == types.float32 else (0x4338000000000000, 6755399441055744.0)
    return builder.fsub(builder.bitcast(builder.add(k, k.type(magic)), real), ir.Constant(real, value))


@emits(split_exponent)
def _emit_split_exponent(x):
    mantissa = 23 if x == types.float32 else 52

    def emit(context, builder, kinds, args):
        above = _exponent(builder, x, args[0])
        k = builder.ashr(above, above.type(mantissa))
        bits = builder.sub(builder.bitcast(args[0], above.type), builder.shl(k, above.type(mantissa)))
        parts = [_as_float(builder, x, k), builder.bitcast(bits, args[0].type)]
        return context.make_tuple(builder, types.UniTuple(x, 2), parts)

    return types.UniTuple(x, 2), emit


@emits(exponent_and_scale)
def _emit_exponent_and_scale(x):
    mantissa, one = (23, 0x3F800000) if x == types.float32 else (52, 0x3FF0000000000000)

    def emit(context, builder, kinds, args):
        above = _exponent(builder, x, args[0])
        field = builder.and_(above, above.type(-(1 << mantissa)))
        scale = builder.bitcast(builder.sub(above.type(one), field), args[0].type)
        k = builder.ashr(above, above.type(mantissa))
        return context.make_tuple(builder, types.UniTuple(x, 2), [_as_float(builder, x, k), scale])

    return types.UniTuple(x, 2), emit
