"""Tiles of rows, transposed: class j of row l stands at ``tile[j * lanes + l]``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import overload

from fastloss.cpu.simd.half_types import as_elements, as_real
from fastloss.cpu.simd.llvm_hints import emits, is_absent, pointer_to
from fastloss.cpu.simd.memory import load, store
from fastloss.runtime.compile import NJIT_OPTIONS, kernel_part

# Rows and columns of the blocks that are transposed in registers. AVX2 has 16 of 8 floats, which hold 8 x 8.
# cross_entropy and softmax of 6400x10 on AVX2 without half blocks, in ns for an entry: 2.2 and 2.7 with blocks of 16,
# 1.9 and 2.1 with blocks of 8. AVX-512 has 32 of 16: blocks of 16 took 0.93 to 1.1 of the time of blocks of 8 at 2 to
# 48 classes.
BLOCK = 8
HALF = BLOCK // 2


def _transpose(builder: Any, rows: list[Any]) -> list[Any]:
    """Transpose a square of vectors by log2(n) rounds of pairwise exchanges; of fewer vectors, squares side by side."""
    n = rows[0].type.count
    lane = ir.VectorType(ir.IntType(32), n)
    step = 1
    while step < len(rows):
        exchanged = list(rows)
        for i in range(len(rows)):
            if i & step:
                continue
            low = [n + k - step if k & step else k for k in range(n)]
            high = [n + k if k & step else k + step for k in range(n)]
            pair = rows[i], rows[i + step]
            exchanged[i] = builder.shuffle_vector(*pair, ir.Constant(lane, low))
            exchanged[i + step] = builder.shuffle_vector(*pair, ir.Constant(lane, high))
        rows = exchanged
        step *= 2
    return rows


def _mask(builder: Any, count: Any, n: int) -> Any:
    """Return the vector of lane < count."""
    lane = ir.VectorType(ir.IntType(32), n)
    i32 = ir.IntType(32)
    first = builder.insert_element(ir.Constant(lane, ir.Undefined), builder.trunc(count, i32), i32(0))
    spread = builder.shuffle_vector(first, ir.Constant(lane, ir.Undefined), ir.Constant(lane, [0] * n))
    return builder.icmp_signed("<", ir.Constant(lane, list(range(n))), spread)


def _masked_load(builder: Any, vector: Any, pointer: Any, mask: Any) -> Any:
    """Emit llvm.masked.load."""
    i32 = ir.IntType(32)
    element = {"float": "f32", "double": "f64"}.get(str(vector.element), str(vector.element))
    name = f"llvm.masked.load.v{vector.count}{element}.p0"
    signature = ir.FunctionType(vector, [vector.as_pointer(), i32, mask.type, vector])
    function = builder.module.globals.get(name) or ir.Function(builder.module, signature, name)
    return builder.call(function, [pointer, i32(int(element[1:]) // 8), mask, ir.Constant(vector, ir.Undefined)])


# Rows are read and written in whole blocks, though the last block of a row reaches into the rows after it: what it
# reads there is not used, and what it writes there is written over by those rows' own blocks. Where it would reach
# beyond the tile, perhaps into another thread's rows, or the next operands where an output is an input, it is masked to
# read, and rows are written by way of a buffer: masked stores are slow on CPUs without AVX-512. multi_margin_loss of
# 6400x10 on one, in ns for an entry: 1.7 with masks everywhere, 1.0 without.
#
# What whole blocks leave of a row, up to half a block, is read and written by half blocks. With them and without masked
# stores, cross_entropy of 524288x10 takes 0.9 of the time on AVX2.


@kernel_part(forceinline=True)
def place_of(r, columns, inner):
    """Return where the first entry of row `r` of an (outer, columns, inner) array lies."""
    return r * columns if inner == 1 else r // inner * columns * inner + r % inner


def _read_block(source, start, stride, columns, tile, place, lanes):
    """Transpose BLOCK rows, `stride` apart, into the tile: so many columns, or with ``()`` BLOCK."""


def _read_half(source, start, stride, columns, tile, place, lanes):
    """Do the same for HALF columns."""


def _write_block(tile, place, lanes, target, start, stride):
    """Transpose BLOCK columns of the tile back into rows."""


def _write_half(tile, place, lanes, target, start, stride):
    """Do the same for HALF columns."""


def _reader(width: int) -> Callable[..., Any]:
    def resolve(source, start, stride, columns, tile, place, lanes):
        def emit(context, builder, kinds, args):
            origin = pointer_to(context, builder, source, args[0], args[1])
            goal = pointer_to(context, builder, tile, args[4], args[5])
            vector, real = ir.VectorType(context.get_data_type(source.dtype), width), context.get_data_type(tile.dtype)
            mask = None if is_absent(columns) else _mask(builder, args[3], width)
            rows = []
            for r in range(BLOCK):
                pointer = builder.gep(origin, [builder.mul(args[2], args[2].type(r))])
                pointer = builder.bitcast(pointer, vector.as_pointer())
                if mask is not None:
                    rows.append(_masked_load(builder, vector, pointer, mask))
                else:
                    rows.append(builder.load(pointer, align=source.dtype.bitwidth // 8))
            if width < BLOCK:  # two squares side by side
                both = ir.Constant(ir.VectorType(ir.IntType(32), BLOCK), list(range(BLOCK)))
                rows = [builder.shuffle_vector(rows[r], rows[r + width], both) for r in range(width)]
            rows = [as_real(builder, source.dtype, row, real) for row in rows]
            for c, column in enumerate(_transpose(builder, rows)):
                pointer = builder.gep(goal, [builder.mul(args[6], args[6].type(c))])
                stored = builder.store(column, builder.bitcast(pointer, column.type.as_pointer()))
                stored.align = tile.dtype.bitwidth // 8

        return types.none, emit

    return resolve


def _writer(width: int) -> Callable[..., Any]:
    def resolve(tile, place, lanes, target, start, stride):
        def emit(context, builder, kinds, args):
            origin = pointer_to(context, builder, tile, args[0], args[1])
            goal = pointer_to(context, builder, target, args[3], args[4])
            wide = ir.VectorType(context.get_data_type(tile.dtype), BLOCK)
            vector = ir.VectorType(context.get_data_type(target.dtype), width)
            columns = []
            for c in range(width):
                pointer = builder.gep(origin, [builder.mul(args[2], args[2].type(c))])
                columns.append(builder.load(builder.bitcast(pointer, wide.as_pointer())))
                columns[-1].align = tile.dtype.bitwidth // 8
            rows = [as_elements(context, builder, target, row) for row in _transpose(builder, columns)]
            for r in range(BLOCK):
                first = r // width * width
                places = ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(first, first + width)))
                row = builder.shuffle_vector(rows[r % width], rows[r % width], places)
                pointer = builder.gep(goal, [builder.mul(args[5], args[5].type(r))])
                builder.store(row, builder.bitcast(pointer, vector.as_pointer()), align=target.dtype.bitwidth // 8)

        return types.none, emit

    return resolve


emits(_read_block)(_reader(BLOCK))
emits(_read_half)(_reader(HALF))
emits(_write_block)(_writer(BLOCK))
emits(_write_half)(_writer(HALF))


@kernel_part(forceinline=True)
def _in_whole_blocks(columns):
    """Return how many columns whole blocks handle; half a block handles what is left."""
    left = columns % BLOCK
    return columns - left if left <= HALF else columns


@kernel_part(forceinline=True)
def _stays_within(rows, columns):
    """Return whether what blocks cover of the first BLOCK rows, and reach beyond them, lies within so many `rows`."""
    return (rows - BLOCK) * columns >= -columns % HALF


@kernel_part()
def _read_contiguous_rows(source, row, n, columns, inner, tile, lanes):
    whole = n // BLOCK * BLOCK
    wide = _in_whole_blocks(columns)
    for l in range(0, whole, BLOCK):
        start = (row + l) * columns
        if _stays_within(n - l, columns):
            for j in range(0, wide, BLOCK):
                _read_block(source, start + j, columns, (), tile, j * lanes + l, lanes)
            if wide < columns:
                _read_half(source, start + wide, columns, (), tile, wide * lanes + l, lanes)
        else:
            for j in range(0, columns, BLOCK):
                _read_block(source, start + j, columns, columns - j, tile, j * lanes + l, lanes)
    for l in range(whole, n):
        for j in range(columns):
            store(tile, j * lanes + l, load(source, (row + l) * columns + j))


@kernel_part()
def _read_strided_rows(source, row, n, columns, inner, tile, lanes):
    done = 0
    while done < n:
        outer, i = divmod(row + done, inner)
        run = min(n - done, inner - i)
        for j in range(columns):
            base = (outer * columns + j) * inner + i
            for l in range(run):
                store(tile, j * lanes + done + l, load(source, base + l))
        done += run


@kernel_part(forceinline=True)
def _write_block_of_rows(tile, place, lanes, target, start, columns):
    """Transpose BLOCK rows of the tile back, and less than HALF entries beyond: what follows is written later, or free.

    Rows go in order, and from the back of a row to its front, so that each writes over what the one before has left.
    """
    wide = _in_whole_blocks(columns)
    if wide < columns:
        _write_half(tile, place + wide * lanes, lanes, target, start + wide, columns)
    for j in range((wide - 1) // BLOCK * BLOCK, -1, -BLOCK):
        _write_block(tile, place + j * lanes, lanes, target, start + j, columns)


@kernel_part()
def _write_contiguous_rows(tile, place, target, row, n, columns, inner, lanes, free):
    for l in range(0, n, BLOCK):
        start = (row + l) * columns
        if _stays_within(n - l, columns):
            _write_block_of_rows(tile, place + l, lanes, target, start, columns)
        else:
            _write_block_of_rows(tile, place + l, lanes, free, 0, columns)
            for j in range(min(BLOCK, n - l) * columns):
                store(target, start + j, load(free, j))


@kernel_part()
def _write_strided_rows(tile, place, target, row, n, columns, inner, lanes, free):
    done = 0
    while done < n:
        outer, i = divmod(row + done, inner)
        run = min(n - done, inner - i)
        for j in range(columns):
            base = (outer * columns + j) * inner + i
            for l in range(run):
                store(target, base + l, load(tile, place + j * lanes + done + l))
        done += run


def read_rows(source, row, n, columns, inner, tile, lanes):
    """Copy rows row ... row + n of a (rows, columns) array into the tile; nothing when `source` is absent."""


def read_strided(source, row, n, columns, inner, tile, lanes):
    """Do the same for an (outer, columns, inner) array, whose rows are counted over (outer, inner)."""


def write_rows(tile, place, target, row, n, columns, inner, lanes, free):
    """Copy the tile that starts at `place` to rows row ... row + n of `target`; nothing when that is absent.

    `free` is another buffer as large, which is written over.
    """


def write_strided(tile, place, target, row, n, columns, inner, lanes, free):
    """Do the same for an (outer, columns, inner) array."""


def _read_nothing(source, row, n, columns, inner, tile, lanes):
    pass


def _write_nothing(tile, place, target, row, n, columns, inner, lanes, free):
    pass


@overload(read_rows, jit_options=NJIT_OPTIONS)
def _read_rows(source, row, n, columns, inner, tile, lanes):
    return _read_nothing if is_absent(source) else _read_contiguous_rows


@overload(read_strided, jit_options=NJIT_OPTIONS)
def _read_strided(source, row, n, columns, inner, tile, lanes):
    return _read_nothing if is_absent(source) else _read_strided_rows


@overload(write_rows, jit_options=NJIT_OPTIONS)
def _write_rows(tile, place, target, row, n, columns, inner, lanes, free):
    return _write_nothing if is_absent(target) else _write_contiguous_rows


@overload(write_strided, jit_options=NJIT_OPTIONS)
def _write_strided(tile, place, target, row, n, columns, inner, lanes, free):
    return _write_nothing if is_absent(target) else _write_strided_rows
