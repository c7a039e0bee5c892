"""The instructions of :mod:`fastloss.cuda.device.memory`, put in the place of each call; importing registers them."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import TypingError

from fastloss.cuda.device.memory import (
    WIDEST,
    copy_element,
    label_at,
    load,
    load_or,
    load_pack,
    present,
    store,
    store_derivatives,
    store_pack,
    store_values,
)
from fastloss.cuda.device.numba_cuda import capability, cgutils, emits, types

_I16, _I32, _HALF, _FLOAT = ir.IntType(16), ir.IntType(32), ir.HalfType(), ir.FloatType()
_HALVES = (types.int16, types.uint16)

# The first devices that round pairs of numbers, and keep NaN in a maximum.
_AMPERE = (8, 0)


def _absent(kind: Any) -> bool:
    return isinstance(kind, types.BaseTuple)


def _number_type(kind: Any) -> Any:
    """Return the type that elements of a pointer are computed in."""
    return types.float32 if kind.dtype in _HALVES else kind.dtype


def _widen(builder: Any, kind: Any, bits: Any) -> Any:
    """Convert the bits of a half type to float32; others pass."""
    if kind == types.int16:
        return builder.fpext(builder.bitcast(bits, _HALF), _FLOAT)
    if kind == types.uint16:
        return builder.bitcast(builder.shl(builder.zext(bits, _I32), _I32(16)), _FLOAT)
    return bits


def _narrow(builder: Any, kind: Any, value: Any) -> Any:
    """Convert float32 to the bits of a half type, rounding to nearest, ties to even; others pass."""
    if kind == types.int16:
        return builder.bitcast(builder.fptrunc(value, _HALF), _I16)
    if kind != types.uint16:
        return value
    if capability() >= _AMPERE:
        return builder.trunc(_rounded_pair(builder, kind, value, value), _I16)
    # Add half of the last kept place, less one when that place is 0. A NaN could round to infinity; it gets a quiet
    # bit instead.
    bits = builder.bitcast(value, _I32)
    odd = builder.and_(builder.lshr(bits, _I32(16)), _I32(1))
    rounded = builder.add(bits, builder.add(odd, _I32(0x7FFF)))
    quiet = builder.or_(bits, _I32(0x400000))
    chosen = builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)
    return builder.trunc(builder.lshr(chosen, _I32(16)), _I16)


def _rounded_pair(builder: Any, kind: Any, low: Any, high: Any) -> Any:
    """Convert two float32 to a word of two numbers of a half type, by the instruction that devices from 8.0 on have."""
    name = "bf16x2" if kind == types.uint16 else "f16x2"
    signature = ir.FunctionType(_I32, [_FLOAT, _FLOAT])
    return builder.asm(signature, f"cvt.rn.{name}.f32 $0, $1, $2;", "=r,f,f", [high, low], side_effect=False)


def _words(builder: Any, kind: Any, numbers: list[Any], word_type: Any) -> list[Any]:
    """Return the words that hold numbers of a half type, the first in the lowest bits."""
    if capability() >= _AMPERE:
        return [_rounded_pair(builder, kind, *numbers[k : k + 2]) for k in range(0, len(numbers), 2)]
    narrow = [_narrow(builder, kind, number) for number in numbers]
    each = word_type.width // 16
    return [_joined(builder, word_type, narrow[k : k + each], 16) for k in range(0, len(narrow), each)]


def _element_type(kind: Any) -> Any:
    if isinstance(kind, types.Integer):
        return ir.IntType(kind.bitwidth)
    return _FLOAT if kind == types.float32 else ir.DoubleType()


def _pieces(kind: Any, count: int) -> tuple[int, int, Any]:
    """Return (number of loads, bytes of one, its type) for `count` elements of a type.

    Elements below 32 bits travel in words that shifts take apart: as a vector of such elements the compiler would
    split the load in two.
    """
    size = kind.bitwidth // 8
    piece = min(count * size, WIDEST)
    if size >= 4:
        wide = ir.VectorType(_element_type(kind), piece // size)
    else:
        wide = ir.VectorType(_I32, piece // 4) if piece > 4 else ir.IntType(8 * piece)
    return count * size // piece, piece, wide


def _emit_load(context: Any, builder: Any, kind: Any, pointer: Any, index: Any, count: int) -> list[Any]:
    """Return `count` elements from `index` on, as numbers to compute with."""
    address = builder.gep(pointer, [index])
    width = kind.dtype.bitwidth
    if count == 1:
        return [_widen(builder, kind.dtype, builder.load(address, align=width // 8))]
    loads, piece, wide = _pieces(kind.dtype, count)
    base = builder.bitcast(address, wide.as_pointer())
    words = []
    for k in range(loads):
        loaded = builder.load(builder.gep(base, [_I32(k)]), align=piece)
        if isinstance(wide, ir.VectorType):
            words += [builder.extract_element(loaded, _I32(j)) for j in range(wide.count)]
        else:
            words.append(loaded)
    if width < 32:
        narrow = ir.IntType(width)
        words = [
            builder.trunc(builder.lshr(word, word.type(place)), narrow)
            for word in words
            for place in range(0, word.type.width, width)
        ]
    return [_widen(builder, kind.dtype, word) for word in words]


def _emit_store(
    context: Any, builder: Any, kind: Any, pointer: Any, index: Any, value_types: Any, values: list[Any]
) -> None:
    """Write numbers from `index` on."""
    number_type = _number_type(kind)
    words = [
        context.cast(builder, value, value_type, number_type)
        for value_type, value in zip(value_types, values, strict=True)
    ]
    address = builder.gep(pointer, [index])
    if len(words) == 1:
        builder.store(_narrow(builder, kind.dtype, words[0]), address, align=kind.dtype.bitwidth // 8)
        return
    stores, piece, wide = _pieces(kind.dtype, len(words))
    if kind.dtype in _HALVES:
        words = _words(builder, kind.dtype, words, wide.element if isinstance(wide, ir.VectorType) else wide)
    base = builder.bitcast(address, wide.as_pointer())
    each = len(words) // stores
    for k in range(stores):
        whole = words[k * each]
        if isinstance(wide, ir.VectorType):
            whole = ir.Constant(wide, ir.Undefined)
            for j in range(each):
                whole = builder.insert_element(whole, words[k * each + j], _I32(j))
        builder.store(whole, builder.gep(base, [_I32(k)]), align=piece)


def _joined(builder: Any, word_type: Any, parts: list[Any], width: int) -> Any:
    """Return the word that holds narrow integers, the first in the lowest bits."""
    word = builder.zext(parts[0], word_type)
    for k, part in enumerate(parts[1:], 1):
        word = builder.or_(word, builder.shl(builder.zext(part, word_type), word_type(k * width)))
    return word


def _index(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    return context.cast(builder, value, kind, types.int64)


def _items(builder: Any, kind: Any, value: Any) -> list[Any]:
    return cgutils.unpack_tuple(builder, value, len(kind))


@emits(load)
def _load(array, i):
    def emit(context, builder, args):
        return _emit_load(context, builder, array, args[0], _index(context, builder, i, args[1]), 1)[0]

    return _number_type(array), emit


@emits(load_or)
def _load_or(array, i, default):
    def emit(context, builder, args):
        if _absent(array):
            return args[2]
        number = _emit_load(context, builder, array, args[0], _index(context, builder, i, args[1]), 1)[0]
        return context.cast(builder, number, _number_type(array), default)

    return default, emit


@emits(load_pack)
def _load_pack(array, i, defaults):
    def emit(context, builder, args):
        if _absent(array):
            return args[2]
        place = _index(context, builder, i, args[1])
        numbers = _emit_load(context, builder, array, args[0], place, len(defaults))
        cast = [
            context.cast(builder, number, _number_type(array), wanted)
            for number, wanted in zip(numbers, defaults, strict=True)
        ]
        return context.make_tuple(builder, defaults, cast)

    return defaults, emit


@emits(label_at)
def _label_at(array, i):
    def emit(context, builder, args):
        if _absent(array):
            return ir.IntType(64)(0)
        address = builder.gep(args[0], [_index(context, builder, i, args[1])])
        label = builder.load(address)
        if array.dtype == types.uint64:
            # 2**63 and above are no class, and must not turn into a negative number that equals ignore_index.
            largest = ir.IntType(64)(2**63 - 1)
            label = builder.select(builder.icmp_unsigned(">", label, largest), largest, label)
        return context.cast(builder, label, array.dtype, types.int64)

    return types.int64, emit


@emits(store)
def _store(array, i, value):
    def emit(context, builder, args):
        if not _absent(array):
            place = _index(context, builder, i, args[1])
            _emit_store(context, builder, array, args[0], place, [value], [args[2]])

    return types.none, emit


@emits(store_derivatives)
def _store_derivatives(arrays, hess, i, outcomes):
    known = len(outcomes[0][1])
    if not all(_absent(kind) for kind in list(arrays)[known:]):
        raise TypingError(f"a gradient is asked for that the maths does not return: it returns {known}")

    def emit(context, builder, args):
        place = _index(context, builder, i, args[2])
        parts = [
            _items(builder, kind, outcome)
            for kind, outcome in zip(outcomes, _items(builder, outcomes, args[3]), strict=True)
        ]
        factor = outcomes[0][3]

        def write(target: Any, pointer: Any, kind: Any, entries: list[Any]) -> None:
            products = [
                builder.fmul(part[3], context.cast(builder, entry, kind, factor))
                for part, entry in zip(parts, entries, strict=True)
            ]
            _emit_store(context, builder, target, pointer, place, [factor] * len(parts), products)

        slopes = outcomes[0][1]
        for k, (kind, pointer) in enumerate(zip(arrays, _items(builder, arrays, args[0]), strict=True)):
            if not _absent(kind) and k < len(slopes):
                write(kind, pointer, slopes[k], [builder.extract_value(part[1], k) for part in parts])
        if not _absent(hess):
            write(hess, args[1], outcomes[0][2], [part[2] for part in parts])

    return types.none, emit


@emits(store_values)
def _store_values(array, i, outcomes):
    def emit(context, builder, args):
        if not _absent(array):
            place = _index(context, builder, i, args[1])
            values = [builder.extract_value(one, 0) for one in _items(builder, outcomes, args[2])]
            _emit_store(context, builder, array, args[0], place, [one[0] for one in outcomes], values)

    return types.none, emit


@emits(store_pack)
def _store_pack(arrays, i, numbers):
    def emit(context, builder, args):
        place = _index(context, builder, i, args[1])
        values = _items(builder, numbers, args[2])
        for kind, pointer in zip(arrays, _items(builder, arrays, args[0]), strict=True):
            if not _absent(kind):
                _emit_store(context, builder, kind, pointer, place, list(numbers), values)

    return types.none, emit


@emits(copy_element)
def _copy_element(target, i, source, j):
    def emit(context, builder, args):
        read = builder.gep(args[2], [_index(context, builder, j, args[3])])
        builder.store(builder.load(read), builder.gep(args[0], [_index(context, builder, i, args[1])]))

    return types.none, emit


@emits(present)
def _present(array):
    return types.boolean, lambda context, builder, args: ir.IntType(1)(not _absent(array))
