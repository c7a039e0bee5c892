"""How elements of arrays become numbers to compute with, and numbers elements, one by one or by the vector.

float16 arrives as its int16 bits and bfloat16 as its uint16 bits; both are computed in float32.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

FLOAT16_BITS = types.int16
BFLOAT16_BITS = types.uint16


def float_type(kind: Any) -> Any:
    """Return the type to compute with for arrays of a type."""
    return types.float32 if kind.dtype in (FLOAT16_BITS, BFLOAT16_BITS) else kind.dtype


def _shaped(like: Any, element: Any) -> Any:
    """Return the LLVM type of `element`, or of as many as the vector type `like` has."""
    return ir.VectorType(element, like.count) if isinstance(like, ir.VectorType) else element


def _filled(kind: Any, number: int) -> Any:
    """Return a constant, in every lane of a vector type."""
    return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)


def widen(builder: Any, kind: Any, bits: Any) -> Any:
    """Convert the bits of a half type, or a vector of them, to float32; others pass."""
    real = _shaped(bits.type, ir.FloatType())
    if kind == FLOAT16_BITS:
        return builder.fpext(builder.bitcast(bits, _shaped(bits.type, ir.HalfType())), real)
    if kind == BFLOAT16_BITS:
        wide = _shaped(bits.type, ir.IntType(32))
        return builder.bitcast(builder.shl(builder.zext(bits, wide), _filled(wide, 16)), real)
    return bits


def narrow(builder: Any, kind: Any, value: Any) -> Any:
    """Round float32, or a vector, to the bits of a half type, to nearest, ties to even; others pass."""
    short = _shaped(value.type, ir.IntType(16))
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
