"""What a CPU kernel says to LLVM beyond Python: vector widths, and operations on the bits of floats."""

from __future__ import annotations

import numpy as np
from llvmlite import binding, ir
from numba import types

from fastloss.cpu.emission import emits

_FEATURES = binding.get_host_cpu_features()

# Whether vectors have 512 bits.
WIDE_VECTORS = bool(_FEATURES.get("avx512f"))
# Whether a product and a sum round once, as they do on all but x86 CPUs older than 2013.
FUSED = bool(_FEATURES.get("fma", True))


# What added to n rounds it to an integer whose biased exponent stands in the low bits: 1.5 * 2**(mantissa bits) + bias.
ONE_F32 = np.float32(12582912 + 127)
ONE_F64 = 6755399441055744.0 + 1023


def vector_function() -> None:
    """Mark the function that calls it: 512-bit vectors where the CPU has them, and never inlined.

    LLVM prefers 256-bit vectors on CPUs with AVX-512; exp over data in cache runs 1.6 times faster with 512. Not
    inlining keeps the attribute, and makes serial and parallel kernels run the same machine code.
    """


def separate_arrays() -> None:
    """Mark the function that calls it: what its array arguments point to does not overlap where one is written.

    LLVM gives up on a loop with more than a handful of arrays to tell apart at run time. Vectors are those of
    :func:`vector_function`: a function is vectorised before its caller takes it in.
    """


def isolated_function() -> None:
    """Mark the function that calls it as never inlined, with vectors as wide as LLVM prefers."""


def maximum(a, b):
    """Return the larger, NaN if either is. ``max`` keeps LLVM from vectorising a running maximum; this does not."""


def power_of_two(t):
    """Return 2**n for t = n + ONE_F32 or n + ONE_F64, n no less than -127 or -1023, where the result is 0."""


def split_exponent(x):
    """Return (k, m) with x = 2**k * m and m in [sqrt(1/2), sqrt(2)), k as a float, for normal x > 0."""


def exponent_and_scale(x):
    """Return (k, 2**-k) for the k of :func:`split_exponent`, of x in [0, 1e30]; of 0 that k is -127 or -1023."""


@emits(vector_function)
def _vector_function():
    def emit(context, builder, kinds, args):
        # llvmlite's attribute set refuses names that it does not know; the plain set's add does not.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        set.add(builder.function.attributes, "noinline")

    return types.none, emit


@emits(separate_arrays)
def _separate_arrays():
    def emit(context, builder, kinds, args):
        for argument in builder.function.args:
            kind = argument.type
            if isinstance(kind, ir.PointerType) and isinstance(kind.pointee, ir.FloatType | ir.DoubleType):
                argument.add_attribute("noalias")
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')

    return types.none, emit


@emits(isolated_function)
def _isolated_function():
    def emit(context, builder, kinds, args):
        set.add(builder.function.attributes, "noinline")

    return types.none, emit


@emits(maximum)
def _maximum(a, b):
    def emit(context, builder, kinds, args):
        kind = args[0].type
        function = builder.module.declare_intrinsic("llvm.maximum", [kind], ir.FunctionType(kind, [kind, kind]))
        return builder.call(function, args)

    return a, emit


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
