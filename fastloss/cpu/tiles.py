"""Tiles of rows, transposed: class j of row l stands at ``tile[j * lanes + l]``."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import overload

from fastloss._jit import LEAN, kernel_part
from fastloss.cpu.access import as_elements, as_real, load, store
from fastloss.cpu.emission import emits, is_absent, pointer_to
from fastloss.cpu.instructions import WIDE_VECTORS

# Rows and columns of the blocks that are transposed in registers. With 16 of them each a row of 8 fits: cross_entropy
# and softmax of 6400x10 on AVX2, in ns for an entry: 2.2 and 2.7 with blocks of 16, 1.9 and 2.1 with blocks of 8.
BLOCK = 16 if WIDE_VECTORS else 8


def _transpose(builder: Any, rows: list[Any]) -> list[Any]:
    """Transpose a square of vectors by log2(n) rounds of pairwise exchanges."""
    n = len(rows)
    lane = ir.VectorType(ir.IntType(32), n)
    step = 1
    while step < n:
        exchanged = list(rows)
        for i in range(n):
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


def _masked(builder: Any, operation: str, vector: Any, pointer: Any, mask: Any, value: Any = None) -> Any:
    """Emit llvm.masked.load or llvm.masked.store."""
    i32 = ir.IntType(32)
    element = {"float": "f32", "double": "f64"}.get(str(vector.element), str(vector.element))
    name = f"llvm.masked.{operation}.v{vector.count}{element}.p0"
    align = i32(int(element[1:]) // 8)
    if operation == "load":
        signature = ir.FunctionType(vector, [vector.as_pointer(), i32, mask.type, vector])
        args = [pointer, align, mask, ir.Constant(vector, ir.Undefined)]
    else:
        signature = ir.FunctionType(ir.VoidType(), [vector, vector.as_pointer(), i32, mask.type])
        args = [value, pointer, align, mask]
    function = builder.module.globals.get(name) or ir.Function(builder.module, signature, name)
    return builder.call(function, args)


# Rows are read and written in whole blocks, though the last block of a row reaches into the rows after it: what it
# reads there is not used, and what it writes there is written over by those rows' own blocks. Only where it would reach
# beyond the tile, perhaps into another thread's rows, it is masked: masked stores are slow on CPUs without AVX-512.
# multi_margin_loss of 6400x10 on one, in ns for an entry: 1.7 with masks everywhere, 1.0 without.


def _read_block(source, start, stride, columns, tile, place, lanes):
    """Transpose BLOCK rows, `stride` apart, into the tile: so many columns, or with ``()`` BLOCK."""


def _write_block(tile, place, lanes, columns, target, start, stride):
    """Transpose BLOCK columns of the tile back into rows, so many of each or with ``()`` all."""


@emits(_read_block)
def _emit_read_block(source, start, stride, columns, tile, place, lanes):
    def emit(context, builder, kinds, args):
        origin = pointer_to(context, builder, source, args[0], args[1])
        goal = pointer_to(context, builder, tile, args[4], args[5])
        vector, real = ir.VectorType(context.get_data_type(source.dtype), BLOCK), context.get_data_type(tile.dtype)
        mask = None if is_absent(columns) else _mask(builder, args[3], BLOCK)
        rows = []
        for r in range(BLOCK):
            pointer = builder.gep(origin, [builder.mul(args[2], args[2].type(r))])
            pointer = builder.bitcast(pointer, vector.as_pointer())
            if mask is not None:
                row = _masked(builder, "load", vector, pointer, mask)
            else:
                row = builder.load(pointer, align=source.dtype.bitwidth // 8)
            rows.append(as_real(builder, source.dtype, row, real))
        for c, column in enumerate(_transpose(builder, rows)):
            pointer = builder.gep(goal, [builder.mul(args[6], args[6].type(c))])
            stored = builder.store(column, builder.bitcast(pointer, column.type.as_pointer()))
            stored.align = tile.dtype.bitwidth // 8

    return types.none, emit


@emits(_write_block)
def _emit_write_block(tile, place, lanes, columns, target, start, stride):
    def emit(context, builder, kinds, args):
        origin = pointer_to(context, builder, tile, args[0], args[1])
        goal = pointer_to(context, builder, target, args[4], args[5])
        wide, vector = (ir.VectorType(context.get_data_type(kind.dtype), BLOCK) for kind in (tile, target))
        mask = None if is_absent(columns) else _mask(builder, args[3], BLOCK)
        rows = []
        for c in range(BLOCK):
            pointer = builder.gep(origin, [builder.mul(args[2], args[2].type(c))])
            row = builder.load(builder.bitcast(pointer, wide.as_pointer()))
            row.align = tile.dtype.bitwidth // 8
            rows.append(row)
        for r, row in enumerate(_transpose(builder, rows)):
            pointer = builder.gep(goal, [builder.mul(args[6], args[6].type(r))])
            pointer = builder.bitcast(pointer, vector.as_pointer())
            row = as_elements(context, builder, target, row)
            if mask is not None:
                _masked(builder, "store", vector, pointer, mask, row)
            else:
                builder.store(row, pointer, align=target.dtype.bitwidth // 8)

    return types.none, emit


@kernel_part()
def _read_contiguous_rows(source, row, n, columns, inner, tile, lanes):
    whole = n // BLOCK * BLOCK
    for l in range(0, whole, BLOCK):
        for j in range(0, columns, BLOCK):
            if (n - l - BLOCK) * columns >= BLOCK:
                _read_block(source, (row + l) * columns + j, columns, (), tile, j * lanes + l, lanes)
            else:
                _read_block(source, (row + l) * columns + j, columns, columns - j, tile, j * lanes + l, lanes)
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


@kernel_part()
def _write_contiguous_rows(tile, place, target, row, n, columns, inner, lanes):
    whole = n // BLOCK * BLOCK
    for l in range(0, whole, BLOCK):
        for j in range((columns - 1) // BLOCK * BLOCK, -1, -BLOCK):  # backwards: the first block of a row comes last
            goal = (row + l) * columns + j
            if (n - l - BLOCK) * columns >= BLOCK:
                _write_block(tile, place + j * lanes + l, lanes, (), target, goal, columns)
            else:
                _write_block(tile, place + j * lanes + l, lanes, columns - j, target, goal, columns)
    for l in range(whole, n):
        for j in range(columns):
            store(target, (row + l) * columns + j, load(tile, place + j * lanes + l))


@kernel_part()
def _write_strided_rows(tile, place, target, row, n, columns, inner, lanes):
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


def write_rows(tile, place, target, row, n, columns, inner, lanes):
    """Copy the tile that starts at `place` to rows row ... row + n of `target`; nothing when that is absent."""


def write_strided(tile, place, target, row, n, columns, inner, lanes):
    """Do the same for an (outer, columns, inner) array."""


def _read_nothing(source, row, n, columns, inner, tile, lanes):
    pass


def _write_nothing(tile, place, target, row, n, columns, inner, lanes):
    pass


@overload(read_rows, jit_options=LEAN)
def _read_rows(source, row, n, columns, inner, tile, lanes):
    return _read_nothing if is_absent(source) else _read_contiguous_rows


@overload(read_strided, jit_options=LEAN)
def _read_strided(source, row, n, columns, inner, tile, lanes):
    return _read_nothing if is_absent(source) else _read_strided_rows


@overload(write_rows, jit_options=LEAN)
def _write_rows(tile, place, target, row, n, columns, inner, lanes):
    return _write_nothing if is_absent(target) else _write_contiguous_rows


@overload(write_strided, jit_options=LEAN)
def _write_strided(tile, place, target, row, n, columns, inner, lanes):
    return _write_nothing if is_absent(target) else _write_strided_rows
