"""How kernels read and write memory: absent arrays, half types and integers alike.

An absent array is ``()``. Reading it gives the neutral element, writing to it does nothing. Half types arrive as
integers (``half_types.py``); true integers of those widths never reach a kernel, see ``cpu/arrays.py``.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import TypingError, types

from fastloss.cpu.simd.half_types import float_type, narrow, widen
from fastloss.cpu.simd.llvm_hints import (
    array_part,
    emits,
    is_absent,
    pointer_to,
    store_past,
    unpacked,
    write_zeros,
)

# Bytes of a cache line, and its entries of float32, the steps in which lines are fetched. Buffers begin at lines: a
# vector across two of them is stored at half the speed.
LINE_BYTES = 64
LINE = 16


def load(array, i):
    """Return element `i` as the number to compute with: float32 for the half types."""


def load_or(array, i, default):
    """Return element `i` as a number of the type of `default`; an absent array gives `default`."""


def label_at(array, i):
    """Return the class index at `i` as int64; 0 of an absent array."""


def store(array, i, value):
    """Write element `i`, rounding to the array's type; nothing for an absent array."""


def fetch(array, i):
    """Ask for the cache line of element `i`, which may lie beyond the array, to be read soon."""


def fetch_to_write(array, i):
    """Ask for the cache line of element `i`, which may lie beyond the array, to be written soon."""


def store_each(arrays, i, values, factor):
    """Write ``factor * values[k]`` to element `i` of ``arrays[k]``, for as many values and arrays as there are."""


def stream(array, i, value):
    """Do what :func:`store` does, past the caches, in a loop whose first element lies at the start of a line.

    LLVM writes vectors that way which it knows to be aligned, and learns it from what it is told of their elements.
    """


def stream_each(arrays, i, values, factor):
    """Do what :func:`store_each` does in the way of :func:`stream`."""


def stage_each(buffer, stride, i, values, factor, arrays):
    """Write ``factor * values[k]`` to ``buffer[i]`` and on by `stride`, for every k whose ``arrays[k]`` is present."""


def clear(array, start, count):
    """Write zeros to `count` elements from place `start` on, in the way that the C library knows to be the fastest.

    On CPUs of today that reads nothing of what it writes over. 2**20 floats in the last cache, one thread of an EPYC:
    32 microseconds, and 62 by a loop of vectors; 2**26 floats 2.8 and 7.6 ms.
    """


def pack(buffer, stride, i, numbers):
    """Write number k of a tuple to ``buffer[k * stride + i]``."""


def unpack(buffer, stride, i, like):
    """Return what :func:`pack` stored, a tuple of as many numbers as `like`."""


def part(array, start, stop):
    """Return ``array[start:stop]`` of a flat array; an absent one stays absent."""


def present(array):
    """Return whether the array is not absent; a constant to the optimiser."""


def of_one_type(array, other):
    """Return whether two arrays, absent ones too, are of one type; a constant to the optimiser."""


def as_type_of(array, other):
    """Return `other` if both are of one type, else `array`."""


def either(condition, array, other):
    """Return `array` under a condition that is not 0, else or where it has another type `other`; () if it is absent."""


def cast(params, like):
    """Return the tuple of parameters, each with the type of `like`."""


def _emit_load(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    pointer = pointer_to(context, builder, kind, array, index)
    return widen(builder, kind.dtype, context.unpack_value(builder, kind.dtype, pointer))


def _emit_store(
    context: Any, builder: Any, kind: Any, array: Any, index: Any, value_type: Any, value: Any, past: bool = False
) -> None:
    pointer = pointer_to(context, builder, kind, array, index)
    bits = narrow(builder, kind.dtype, context.cast(builder, value, value_type, float_type(kind)))
    if past:
        store_past(builder, bits, pointer, LINE_BYTES)
    else:
        context.pack_value(builder, kind.dtype, bits, pointer)


def _as_index(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    return context.cast(builder, value, kind, types.intp)


@emits(load)
def _load(array, i):
    def emit(context, builder, kinds, args):
        return _emit_load(context, builder, array, args[0], _as_index(context, builder, i, args[1]))

    return float_type(array), emit


@emits(load_or)
def _load_or(array, i, default):
    def emit(context, builder, kinds, args):
        if is_absent(array):
            return args[2]
        value = _emit_load(context, builder, array, args[0], _as_index(context, builder, i, args[1]))
        return context.cast(builder, value, float_type(array), default)

    return default, emit


@emits(label_at)
def _label_at(array, i):
    def emit(context, builder, kinds, args):
        if is_absent(array):
            return ir.IntType(64)(0)
        pointer = pointer_to(context, builder, array, args[0], _as_index(context, builder, i, args[1]))
        label = context.unpack_value(builder, array.dtype, pointer)
        if array.dtype == types.uint64:
            # 2**63 and above are no class, and must not turn into a negative number that equals ignore_index.
            largest = ir.IntType(64)(2**63 - 1)
            label = builder.select(builder.icmp_unsigned(">", label, largest), largest, label)
        return context.cast(builder, label, array.dtype, types.int64)

    return types.int64, emit


def _fetching(write: int) -> Any:
    def resolve(array, i):
        def emit(context, builder, kinds, args):
            if is_absent(array):
                return
            # Not "inbounds", as pointer_to says: the element may lie beyond the array.
            data = context.make_array(array)(context, builder, args[0]).data
            pointer = builder.gep(data, [_as_index(context, builder, i, args[1])])
            byte, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)
            signature = ir.FunctionType(ir.VoidType(), [byte, i32, i32, i32])
            function = builder.module.declare_intrinsic("llvm.prefetch", [byte], signature)
            # Into the L2 cache: L1 is full of the tile.
            builder.call(function, [builder.bitcast(pointer, byte), i32(write), i32(2), i32(1)])

        return types.none, emit

    return resolve


emits(fetch)(_fetching(0))
emits(fetch_to_write)(_fetching(1))


def _storing(past: bool) -> Any:
    def resolve(array, i, value):
        def emit(context, builder, kinds, args):
            if not is_absent(array):
                index = _as_index(context, builder, i, args[1])
                _emit_store(context, builder, array, args[0], index, value, args[2], past)

        return types.none, emit

    return resolve


emits(store)(_storing(False))
emits(stream)(_storing(True))


def _check_each(arrays: Any, values: Any) -> None:
    """Raise if there are arrays beyond the values: nothing would be written to them."""
    if not all(is_absent(kind) for kind in list(arrays)[len(values) :]):
        raise TypingError(f"a gradient is asked for that the maths does not return: it returns {len(values)}")


def _storing_each(past: bool) -> Any:
    def resolve(arrays, i, values, factor):
        _check_each(arrays, values)

        def emit(context, builder, kinds, args):
            index = _as_index(context, builder, i, args[1])
            pairs = zip(arrays, unpacked(builder, args[0], len(arrays)), strict=True)
            numbers = unpacked(builder, args[2], len(values))
            for (kind, array), value_type, number in zip(pairs, values, numbers, strict=False):
                if not is_absent(kind):
                    number = context.cast(builder, number, value_type, factor)
                    _emit_store(context, builder, kind, array, index, factor, builder.fmul(args[3], number), past)

        return types.none, emit

    return resolve


emits(store_each)(_storing_each(False))
emits(stream_each)(_storing_each(True))


@emits(clear)
def _clear(array, start, count):
    def emit(context, builder, kinds, args):
        if not is_absent(array):
            place, number = (_as_index(context, builder, kinds[k], args[k]) for k in (1, 2))
            size = builder.mul(number, number.type(array.dtype.bitwidth // 8))
            write_zeros(builder, pointer_to(context, builder, array, args[0], place), size)

    return types.none, emit


@emits(stage_each)
def _stage_each(buffer, stride, i, values, factor, arrays):
    _check_each(arrays, values)

    def emit(context, builder, kinds, args):
        step, index = (_as_index(context, builder, kind, arg) for kind, arg in ((stride, args[1]), (i, args[2])))
        numbers = unpacked(builder, args[3], len(values))
        for kind, value_type, number in zip(arrays, values, numbers, strict=False):
            if not is_absent(kind):
                number = context.cast(builder, number, value_type, factor)
                _emit_store(context, builder, buffer, args[0], index, factor, builder.fmul(args[4], number))
                index = builder.add(index, step)

    return types.none, emit


@emits(pack)
def _pack(buffer, stride, i, numbers):
    def emit(context, builder, kinds, args):
        step, index = (_as_index(context, builder, kind, arg) for kind, arg in ((stride, args[1]), (i, args[2])))
        for kind, number in zip(numbers, unpacked(builder, args[3], len(numbers)), strict=True):
            _emit_store(context, builder, buffer, args[0], index, kind, number)
            index = builder.add(index, step)

    return types.none, emit


@emits(unpack)
def _unpack(buffer, stride, i, like):
    result = types.UniTuple(buffer.dtype, len(like)) if len(like) else types.Tuple(())

    def emit(context, builder, kinds, args):
        step, index = (_as_index(context, builder, kind, arg) for kind, arg in ((stride, args[1]), (i, args[2])))
        numbers = []
        for _ in like:
            numbers.append(_emit_load(context, builder, buffer, args[0], index))
            index = builder.add(index, step)
        return context.make_tuple(builder, result, numbers)

    return result, emit


@emits(part)
def _part(array, start, stop):
    if is_absent(array):
        return array, lambda context, builder, kinds, args: args[0]

    def emit(context, builder, kinds, args):
        first, last = (_as_index(context, builder, kind, arg) for kind, arg in ((start, args[1]), (stop, args[2])))
        return array_part(context, builder, array, args[0], first, last)

    return array, emit


@emits(present)
def _present(array):
    return types.boolean, lambda context, builder, kinds, args: ir.IntType(1)(not is_absent(array))


@emits(of_one_type)
def _of_one_type(array, other):
    return types.boolean, lambda context, builder, kinds, args: ir.IntType(1)(array == other)


@emits(as_type_of)
def _as_type_of(array, other):
    return array, lambda context, builder, kinds, args: args[array == other]


@emits(either)
def _either(condition, array, other):
    if array != other:
        return (array, lambda *args: None) if is_absent(array) else (other, lambda *args: args[3][2])

    def emit(context, builder, kinds, args):
        chosen = builder.icmp_signed("!=", args[0], args[0].type(0))
        return builder.select(chosen, args[1], args[2])

    return other, emit


@emits(cast)
def _cast(params, like):
    result = types.UniTuple(like, len(params)) if len(params) else types.Tuple(())

    def emit(context, builder, kinds, args):
        numbers = unpacked(builder, args[0], len(params))
        converted = [context.cast(builder, n, kind, like) for kind, n in zip(params, numbers, strict=True)]
        return context.make_tuple(builder, result, converted)

    return result, emit
