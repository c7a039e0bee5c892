"""The largest entries of rows: what softmax takes its exponentials relative to.

The folds pick by ``a > b``, one instruction where an IEEE maximum takes three. They may pass over a NaN, which is still
among the exponentials and makes NaN of their sum. Only an infinite maximum would outlive that sum, since it is the
log-sum-exp itself, be it inf or -inf: there the row is searched once more, in a way that keeps NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from fastloss.cpu.simd.half_types import widen
from fastloss.cpu.simd.llvm_hints import emits, maximum, pointer_to, stack_slot, stepping
from fastloss.cpu.simd.memory import load
from fastloss.runtime.compile import kernel_part

# Entries of a vector, which LLVM cuts into as many registers as it takes, and of all vectors that a row's fold keeps.
WIDTH = 16
BLOCK = 64


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _vector_at(builder: Any, origin: Any, index: Any, vector: Any) -> Any:
    return builder.bitcast(builder.gep(origin, [index]), vector.as_pointer())


def _fold(array, start, stop, like):
    """Return the largest of ``array[start:stop]``, BLOCK entries or more, with the type of `like`."""


def _fold_columns(tile, lanes, columns, target):
    """Write the largest of the `columns` entries of each of `lanes` rows, a multiple of WIDTH."""


@emits(_fold)
def _emit_fold(array, start, stop, like):
    def emit(context, builder, kinds, args):
        first, last = (context.cast(builder, args[k], kinds[k], types.intp) for k in (1, 2))
        origin = pointer_to(context, builder, array, args[0], first.type(0))
        vector = ir.VectorType(context.get_data_type(array.dtype), WIDTH)

        def block(place):
            loaded = []
            for k in range(0, BLOCK, WIDTH):
                pointer = _vector_at(builder, origin, builder.add(place, place.type(k)), vector)
                entries = builder.load(pointer, align=array.dtype.bitwidth // 8)
                loaded.append(widen(builder, array.dtype, entries))
            return loaded

        kept = []
        for entries in block(first):
            kept.append(stack_slot(builder, entries.type))
            builder.store(entries, kept[-1])

        def take(place):
            for entries, slot in zip(block(place), kept, strict=True):
                builder.store(_larger(builder, entries, builder.load(slot)), slot)

        # The last block ends where the row does, and overlaps the one before.
        ahead, final = builder.add(first, first.type(BLOCK)), builder.sub(last, last.type(BLOCK))
        with stepping(builder, ahead, final, first.type(BLOCK)) as (place, _):
            take(place)
        take(final)
        maxima = [builder.load(slot) for slot in kept]
        while len(maxima) > 1:
            maxima = [_larger(builder, a, b) for a, b in zip(maxima[::2], maxima[1::2], strict=True)]
        top, lane = maxima[0], ir.IntType(32)
        for width in (WIDTH // 2**k for k in range(1, WIDTH.bit_length())):
            places = [(l + width) % WIDTH for l in range(WIDTH)]
            turned = builder.shuffle_vector(top, top, ir.Constant(ir.VectorType(lane, WIDTH), places))
            top = _larger(builder, top, turned)
        return builder.extract_element(top, lane(0))

    return like, emit


@emits(_fold_columns)
def _emit_fold_columns(tile, lanes, columns, target):
    def emit(context, builder, kinds, args):
        vector = ir.VectorType(context.get_data_type(tile.dtype), WIDTH)
        size, word = tile.dtype.bitwidth // 8, args[1].type
        zero = word(0)
        origin, goal = (pointer_to(context, builder, kinds[k], args[k], zero) for k in (0, 3))
        end = builder.mul(args[1], args[2])
        with stepping(builder, zero, args[1], word(WIDTH)) as (l, _):
            kept = stack_slot(builder, vector)
            builder.store(builder.load(_vector_at(builder, origin, l, vector), align=size), kept)
            start = builder.add(l, args[1])
            with stepping(builder, start, end, args[1]) as (place, _):
                entry = builder.load(_vector_at(builder, origin, place, vector), align=size)
                builder.store(_larger(builder, entry, builder.load(kept)), kept)
            builder.store(builder.load(kept), _vector_at(builder, goal, l, vector), align=size)

    return types.none, emit


@kernel_part()
def _keeping_nan(array, start, stop, step):
    top = load(array, start)
    for place in range(start + step, stop, step):
        top = maximum(top, load(array, place))
    return top


@kernel_part(forceinline=True)
def row_maximum(array, start, stop):
    """Return the largest of ``array[start:stop]``; another, when one of them is NaN and none infinite."""
    like = load(array, start)
    if stop - start < BLOCK:
        return _keeping_nan(array, start, stop, 1)
    top = _fold(array, start, stop, like)
    return _keeping_nan(array, start, stop, 1) if abs(top) == type(like)(np.inf) else top


@kernel_part(forceinline=True)
def column_maxima(tile, lanes, n, columns, target):
    """Write what :func:`row_maximum` returns of the `columns` entries of each of the first `n` of `lanes` rows."""
    _fold_columns(tile, lanes, columns, target)
    infinite = 0
    for l in range(n):
        infinite += abs(target[l]) == np.inf
    if infinite > 0:
        for l in range(n):
            target[l] = _keeping_nan(tile, l, columns * lanes, lanes)
