"""How elements of arrays become numbers to compute with, and numbers elements, one by one or by the vector.

float16 arrives as its int16 bits and bfloat16 as its uint16 bits; both are computed in float32.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from fastloss.cpu.simd.llvm_hints import CONVERTS_HALF

FLOAT16_BITS = types.int16
BFLOAT16_BITS = types.uint16


def float_type(kind: Any) -> Any:
    """Return the type to compute with for arrays of a type."""
    return types.float32 if kind.dtype in (FLOAT16_BITS, BFLOAT16_BITS) else kind.dtype


def _shaped(like: Any, element: Any) -> Any:
    """Return the LLVM type of `element`, or of as many as the vector type `like` has."""
    return ir.VectorType(element, like.count) if isinstance(like, ir.VectorType) else element


def _filled(kind: Any, number: float) -> Any:
    """Return a constant, in every lane of a vector type."""
    return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)


def widen(builder: Any, kind: Any, bits: Any) -> Any:
    """Convert the bits of a half type, or a vector of them, to float32; others pass."""
    real = _shaped(bits.type, ir.FloatType())
    if kind == FLOAT16_BITS and not CONVERTS_HALF:
        return _widened(builder, bits, real)
    if kind == FLOAT16_BITS:
        return builder.fpext(builder.bitcast(bits, _shaped(bits.type, ir.HalfType())), real)
    if kind == BFLOAT16_BITS:
        wide = _shaped(bits.type, ir.IntType(32))
        return builder.bitcast(builder.shl(builder.zext(bits, wide), _filled(wide, 16)), real)
    return bits


def narrow(builder: Any, kind: Any, value: Any) -> Any:
    """Round float32, or a vector, to the bits of a half type, to nearest, ties to even; others pass."""
    short = _shaped(value.type, ir.IntType(16))
    if kind == FLOAT16_BITS and not CONVERTS_HALF:
        return _narrowed(builder, value, short)
    if kind == FLOAT16_BITS:
        return builder.bitcast(builder.fptrunc(value, _shaped(value.type, ir.HalfType())), short)
    if kind == BFLOAT16_BITS:
        # Add half of the last kept place, less one when that place is 0. A NaN could round to infinity; it gets a
        # quiet bit instead.
        wide = _shaped(value.type, ir.IntType(32))
        bits = builder.bitcast(value, wide)
        odd = builder.and_(builder.lshr(bits, _filled(wide, 16)), _filled(wide, 1))
        rounded = builder.add(bits, builder.add(odd, _filled(wide, 0x7FFF)))
        quiet = builder.or_(bits, _filled(wide, 0x400000))
        chosen = builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)
        return builder.trunc(builder.lshr(chosen, _filled(wide, 16)), short)
    return value


# Without an instruction for float16 LLVM calls a function that is not there, and the process ends.


def _widened(builder: Any, bits: Any, real: Any) -> Any:
    """Convert float16 to float32 by moving the bits, and 2**112 times more for the other bias of the exponent."""
    wide = _shaped(bits.type, ir.IntType(32))
    whole = builder.zext(bits, wide)
    moved = builder.shl(builder.and_(whole, _filled(wide, 0x7FFF)), _filled(wide, 13))
    scaled = builder.fmul(builder.bitcast(moved, real), _filled(real, 2.0**112))
    special = builder.icmp_unsigned(">=", moved, _filled(wide, 0x0F800000))  # infinity and NaN
    magnitude = builder.select(special, builder.or_(moved, _filled(wide, 0x7F800000)), builder.bitcast(scaled, wide))
    sign = builder.shl(builder.and_(whole, _filled(wide, 0x8000)), _filled(wide, 16))
    return builder.bitcast(builder.or_(magnitude, sign), real)


def _narrowed(builder: Any, value: Any, short: Any) -> Any:
    """Round float32 to float16."""
    wide = _shaped(value.type, ir.IntType(32))
    bits = builder.bitcast(value, wide)
    magnitude = builder.and_(bits, _filled(wide, 0x7FFFFFFF))
    # Half of the last kept place, less one when that place is 0, and the other bias of the exponent.
    odd = builder.and_(builder.lshr(magnitude, _filled(wide, 13)), _filled(wide, 1))
    rounded = builder.add(magnitude, builder.add(odd, _filled(wide, 0xFFF - (112 << 23))))
    result = builder.lshr(rounded, _filled(wide, 13))
    # The last place of 1/2 is that of the smallest float16: below 2**-14 the sum is rounded where it has to be.
    half = builder.fadd(builder.bitcast(magnitude, value.type), _filled(value.type, 0.5))
    small = builder.sub(builder.bitcast(half, wide), _filled(wide, 126 << 23))
    result = builder.select(builder.icmp_unsigned("<", magnitude, _filled(wide, 113 << 23)), small, result)
    infinite = builder.icmp_unsigned(">=", magnitude, _filled(wide, 143 << 23))  # 2**16
    result = builder.select(infinite, _filled(wide, 0x7C00), result)
    quiet = builder.icmp_unsigned(">", magnitude, _filled(wide, 0x7F800000))
    result = builder.select(quiet, _filled(wide, 0x7E00), result)
    sign = builder.and_(builder.lshr(bits, _filled(wide, 16)), _filled(wide, 0x8000))
    return builder.trunc(builder.or_(result, sign), short)


def as_real(builder: Any, kind: Any, bits: Any, real: Any) -> Any:
    """Convert elements of an array of type `kind`, one or a vector, to numbers of the LLVM type `real` or a vector."""
    goal = _shaped(bits.type, real)
    if isinstance(kind, types.Integer) and kind not in (FLOAT16_BITS, BFLOAT16_BITS):
        signed = kind in types.signed_domain
        return builder.sitofp(bits, goal) if signed else builder.uitofp(bits, goal)
    return _resized(builder, widen(builder, kind, bits), goal)


def as_elements(context: Any, builder: Any, array: Any, value: Any) -> Any:
    """Round real numbers, one or a vector, to elements of an array of another floating-point type."""
    own = _shaped(value.type, context.get_data_type(float_type(array)))
    return narrow(builder, array.dtype, _resized(builder, value, own))


def _resized(builder: Any, value: Any, goal: Any) -> Any:
    """Convert real numbers, one or a vector, between float32 and float64."""
    if value.type == goal:
        return value
    is_double = isinstance(getattr(goal, "element", goal), ir.DoubleType)
    return builder.fpext(value, goal) if is_double else builder.fptrunc(value, goal)
