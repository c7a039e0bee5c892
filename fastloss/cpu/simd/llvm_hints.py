"""What a CPU kernel says to LLVM beyond Python: vector widths, and operations on the bits of floats."""

from __future__ import annotations

import numpy as np
from llvmlite import binding, ir
from numba import config, types

from fastloss.cpu.simd.emission import emits


def _has(feature: str) -> bool:
    """Return whether code is compiled for CPUs with a feature of x86; of others, True."""
    named: str | None = getattr(config, "CPU_FEATURES", None)
    if named is None:
        return bool(binding.get_host_cpu_features().get(feature, True))
    return f"+{feature}" in named.split(",")


# Whether a product and a sum round once, and float16 is converted by an instruction, as it is on all but x86 CPUs older
# than 2013.
FUSED = _has("fma")
CONVERTS_HALF = _has("f16c")


# What added to n rounds it to an integer whose biased exponent stands in the low bits: 1.5 * 2**(mantissa bits) + bias.
ONE_F32 = np.float32(12582912 + 127)
ONE_F64 = 6755399441055744.0 + 1023

# What arrays hold: numbers, the bits of half types, or the labels of a tile.
ELEMENTS = (ir.FloatType(), ir.DoubleType(), ir.IntType(16), ir.IntType(32))


def vector_function() -> None:
    """Mark the function that calls it: 512-bit vectors where the CPU has them, and never inlined.

    LLVM prefers 256-bit vectors on CPUs with AVX-512; exp over data in cache runs 1.6 times faster with 512. Not
    inlining keeps the attribute, and makes serial and parallel kernels run the same machine code.
    """


def wide_vectors() -> None:
    """Mark the function that calls it: 512-bit vectors where the CPU has them.

    What a kernel calls is vectorised before the kernel takes it in, so it wants a mark of its own.
    """


def interleaved(count) -> None:
    """Compute so many vectors at a time in the loops above this call, in the function that calls it.

    A loss is a chain of 20 to 60 operations, each of which waits for the one before. Where vectors follow one another,
    a CPU has two or three of them in sight; in step, it has them all. LLVM does so by itself in loops that sum up, and
    in short ones. In cache, time with 4 beside that with 1: binary_cross_entropy_with_logits 0.6 with AVX-512 and 0.75
    with AVX2, sigmoid_focal_loss 0.8 and 0.8, poisson_nll_loss 0.6 and 0.65, binary_cross_entropy 1 and 0.9; with 2
    1 to 1.3 times the time with 4; cross_entropy of 8 to 48 classes 0.92 to 0.98 and 0.92 to 1.04.
    """


def separate_arrays() -> None:
    """Mark the function that calls it: what its array arguments point to does not overlap where one is written.

    LLVM gives up on a loop with more than a handful of arrays to tell apart at run time. Vectors are those of
    :func:`wide_vectors`.
    """


def maximum(a, b):
    """Return the larger, NaN if either is. ``max`` keeps LLVM from vectorising a running maximum; this does not."""


def power_of_two(t):
    """Return 2**n for t = n + ONE_F32 or n + ONE_F64, n no less than -127 or -1023, where the result is 0."""


def split_exponent(x):
    """Return (k, m) with x = 2**k * m and m in [sqrt(1/2), sqrt(2)), k as a float, for normal x > 0."""


def exponent_and_scale(x):
    """Return (k, 2**-k) for the k of :func:`split_exponent`, of x in [0, 1e30]; of 0 that k is -127 or -1023."""


def _widen_vectors(function):
    # llvmlite's attribute set refuses names that it does not know; the plain set's add does not.
    set.add(function.attributes, '"prefer-vector-width"="512"')


@emits(vector_function)
def _vector_function():
    def emit(context, builder, kinds, args):
        _widen_vectors(builder.function)
        set.add(builder.function.attributes, "noinline")

    return types.none, emit


@emits(wide_vectors)
def _wide_vectors():
    def emit(context, builder, kinds, args):
        _widen_vectors(builder.function)

    return types.none, emit


@emits(interleaved)
def _interleaved(count):
    def emit(context, builder, kinds, args):
        places = {block: k for k, block in enumerate(builder.function.blocks)}
        for block, k in places.items():
            end = block.terminator
            targets = () if end is None else [to for to in end.operands if to in places]
            if any(places[to] <= k for to in targets) and "llvm.loop" not in end.metadata:
                hint = builder.module.add_metadata(["llvm.loop.interleave.count", ir.IntType(32)(args[0].constant)])
                name = ir.MDValue(builder.module, [hint], str(len(builder.module.metadata)))
                name.operands = (name, hint)  # a loop's name is the node that refers to itself
                end.set_metadata("llvm.loop", name)

    return types.none, emit


@emits(separate_arrays)
def _separate_arrays():
    def emit(context, builder, kinds, args):
        for argument in builder.function.args:
            kind = argument.type
            if isinstance(kind, ir.PointerType) and kind.pointee in ELEMENTS:
                argument.add_attribute("noalias")
        _widen_vectors(builder.function)

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
