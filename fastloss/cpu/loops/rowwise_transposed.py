"""The loop over a class axis, a tile of rows at a time, one row for each SIMD lane. Arguments: see ``rowwise.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastloss.cpu.loops.check_labels import is_counted
from fastloss.cpu.simd.llvm_hints import interleaved, vector_function, wide_vectors
from fastloss.cpu.simd.memory import (
    LINE,
    fetch,
    fetch_to_write,
    label_at,
    load,
    load_or,
    pack,
    part,
    present,
    stage_each,
    store,
    unpack,
)
from fastloss.cpu.simd.row_max import column_maxima
from fastloss.cpu.simd.stack_arrays import LANES, lane_array, lane_arrays
from fastloss.cpu.simd.sum_exp import SURE
from fastloss.cpu.simd.transpose import place_of, read_rows, read_strided, write_rows, write_strided
from fastloss.define.descriptions import RowMaths
from fastloss.define.scalars import exp_difference, log1p_unit, log_sum
from fastloss.runtime.compile import FASTMATH, kernel_part, written_out

# Entries that the across loop keeps in each buffer: what it touches fits the L1 cache. Where the class axis is strided
# it fits the L2 cache: the more rows, the longer the stretches that are read of every class. cross_entropy of
# 8x150x128x128 on two threads, with 2**12 to 2**16 entries: 45, 32, 29, 25, 25 ms; of 16x1000x196: 6.3, 6.2, 6.1, 5.9
# and 9.8.
TILE_ENTRIES = 1 << 12
STRIDED_ENTRIES = 1 << 15

# Rows of the smallest tile, a vector of float32 and a cache line where the class axis is strided. Chunks begin at whole
# steps: a line that two of them shared was read and written by both. cross_entropy of 4x4096x256 on two threads: 49 ms
# with chunks of single rows, 9 with this.
STEP = 16

# One in so many rows of a tile from which :func:`_sum_others` sums all of them.
FEW_SURE = 16

# Classes whose terms are summed in the row's own precision before they go to float64 sums, which hold half the lanes.
COLUMNS_BLOCK = 32


class Tile(NamedTuple):
    """The entries of a tile: logits, their exponentials, the second operand, and derivatives.

    Entry j of the row in lane l stands at ``j * lanes + l``; kind after kind of derivatives, `size` entries each.
    """

    z: Any
    exps: Any
    operand: Any
    outs: Any
    lanes: Any
    size: Any


class Rows(NamedTuple):
    """The numbers of each row of a tile: label, maximum, inverse of the sum of exponentials and its logarithm.

    `p_others` is 1 less the largest softmax, `z` and `w` are those of the target's entry; `top` is the row's value in
    the end.
    """

    labels: Any
    top: Any
    inverse: Any
    log_sum: Any
    p_others: Any
    z: Any
    w: Any


@kernel_part(fastmath=False, forceinline=True)
def _plus(x, y):
    """Return x + y, without the contraction that kernels allow, and their parts too unless told otherwise.

    Of a product that is a term in some cases alone, vectors would add the rounded one and the rest of a loop the exact
    one, or the other way round: a row's value would depend on its place in the batch.
    """
    return x + y


@kernel_part(forceinline=True)
def _exp_of(z, place, top, exps):
    """Take the row's maximum from an entry, keep the exponential of what is left, and return it."""
    d = load(z, place) - top
    e = exp_difference(d)
    store(z, place, d)
    store(exps, place, e)
    return e


@kernel_part(forceinline=True)
def _read_labels(y, first, n, columns, ignore, labels):
    """Read the labels of a tile, 0 for those that do not count, and return how many these are."""
    skipped = np.int64(0)  # a literal 0 would change its type in this loop: one more round of inference
    for l in range(n):
        label = label_at(y, first + l)
        known = is_counted(label, columns, ignore)
        skipped += not known
        labels[l] = label if known else 0
    return skipped


@kernel_part(forceinline=True)
def _skip_rows(tile, rows, y, first, n, columns, ignore):
    """Make what the loss returns of rows that do not count 0; NaN where the class does not exist."""
    for l in range(n):
        label = label_at(y, first + l)
        if not is_counted(label, columns, ignore):
            number = type(rows.top[l])(0 if label == ignore else np.nan)
            rows.top[l] = number
            for place in range(l, tile.outs.size, tile.lanes):
                store(tile.outs, place, number)


@kernel_part(forceinline=True)
def _leave_out(tile, rows, weights, first, n):
    """Make what the loss returns of rows of weight 0 zero, whatever they hold."""
    zero = type(rows.top[0])(0)
    for l in range(n):
        if load_or(weights, first + l, zero) == zero:
            rows.top[l] = zero
            for place in range(l, tile.outs.size, tile.lanes):
                store(tile.outs, place, zero)


@kernel_part(fastmath=FASTMATH)
def _sum_others(exps, lanes, n, columns, sums, others):
    """Write to `others` the sum of each row's exponentials less the one that is 1, of rows whose sum is below SURE.

    Those are found one by one if they are few, else all rows are summed as the lanes have them. Of the other rows
    nothing is said.
    """
    wide_vectors()
    T = type(sums[0])
    sure = 0
    for l in range(n):
        sure += sums[l] < T(SURE)
    if sure * FEW_SURE > n:
        for l in range(n):
            others[l] = T(0)
        for j in range(0, columns * lanes, lanes):
            for l in range(n):
                e = load(exps, j + l)
                others[l] += e if e < T(1) else T(0)
    elif sure > 0:
        for l in range(n):
            if sums[l] < T(SURE):
                total = T(0)
                for j in range(l, columns * lanes, lanes):
                    e = load(exps, j)
                    total += e if e < T(1) else T(0)
                others[l] = total


def _softmax(strided: bool) -> Callable[..., Any]:
    """Return the stage that finds the maxima of the rows, their exponentials and the sums of those."""

    @written_out
    def softmax(tile, rows, n, columns, x, d0, here, ahead, inner):
        lanes = tile.lanes
        one, sure_below = type(rows.top[0])(1), type(rows.top[0])(SURE)
        column_maxima(tile.z, lanes, n, columns, rows.top)
        # Two columns at a time, which share the maxima and the constants of exp: one from each half, since LLVM tests
        # before the outer loop whether what the two streams cover overlaps, and neighbouring columns would. What is
        # left of an odd number of columns comes last.
        half = columns // 2 * lanes
        for j in range(0, half, lanes):
            # The next tile comes into the L2 cache while this one is computed: reading, computing and writing in turn
            # leaves the memory idle. cross_entropy of 2**22 entries in rows of 16, 32 and 47, two threads: 4.3, 4.1 and
            # 4.7 ms without, 3.5, 3.2 and 3.7 with this.
            if strided:
                for near in range(0, lanes, LINE):
                    for column in (2 * j // lanes, 2 * j // lanes + 1):
                        fetch(x, ahead + column * inner + near)
                        fetch_to_write(d0, here + column * inner + near)
            else:
                for near in range(2 * j, 2 * (j + lanes), LINE):
                    fetch(x, ahead + near)
                    fetch_to_write(d0, here + near)
            for l in range(n):
                first = _exp_of(tile.z, j + l, rows.top[l], tile.exps)
                rows.inverse[l] += first + _exp_of(tile.z, half + j + l, rows.top[l], tile.exps)
        interleaved(4)
        for j in range(2 * half, columns * lanes, lanes):
            for l in range(n):
                rows.inverse[l] += _exp_of(tile.z, j + l, rows.top[l], tile.exps)
        _sum_others(tile.exps, lanes, n, columns, rows.inverse, rows.p_others)
        for l in range(n):
            exp_sum, others = rows.inverse[l], rows.p_others[l]
            sure = exp_sum < sure_below
            inverse = one / (one + others if sure else exp_sum)
            rows.log_sum[l] = log1p_unit(others) if sure else log_sum(exp_sum)
            rows.p_others[l] = others * inverse if sure else one - inverse
            rows.inverse[l] = inverse

    return softmax


def _terms_of(maths: RowMaths) -> Callable[..., Any]:
    """Return the stage that sums terms: in the rows' own precision over blocks of `parts`, then in float64 `sums`."""
    terms, softmax, indexed = maths.terms, maths.softmax, maths.indexed

    @written_out
    def terms_of(tile, rows, n, columns, t, weight, parts, sums, numbers):
        T = type(rows.top[0])
        for begin in range(0, columns, COLUMNS_BLOCK):
            for l in range(n):
                pack(parts, LANES, l, (T(0), T(0), T(0)))
            for j in range(begin, min(begin + COLUMNS_BLOCK, columns)):
                base = j * tile.lanes
                w = load_or(weight, j, T(1))
                column = np.int32(j)
                for l in range(n):
                    p = load(tile.exps, base + l) * rows.inverse[l] if softmax else T(0)
                    s = load(tile.operand, base + l) if present(t) else T(1)
                    hit = indexed and rows.labels[l] == column
                    a, b, c = terms(load(tile.z, base + l), p, s, w, hit, rows.z[l], rows.w[l], numbers)
                    store(parts, l, _plus(load(parts, l), a))
                    store(parts, LANES + l, _plus(load(parts, LANES + l), b))
                    store(parts, 2 * LANES + l, _plus(load(parts, 2 * LANES + l), c))
            for l in range(n):
                sums[l] += load(parts, l)
                store(sums, LANES + l, load(sums, LANES + l) + load(parts, LANES + l))
                store(sums, 2 * LANES + l, load(sums, 2 * LANES + l) + load(parts, 2 * LANES + l))

    return terms_of


def across(maths: RowMaths, strided: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the loop over rows `start` ... `last` for few classes, or for a strided class axis, and its buffers."""
    has_terms, has_softmax, indexed = maths.terms is not None, maths.softmax, maths.indexed
    sampled = maths.sampled
    finish, entry = maths.finish, maths.entry
    read_tile, write_tile = (read_strided, write_strided) if strided else (read_rows, write_rows)
    softmax, terms_of = _softmax(strided), _terms_of(maths)

    @written_out
    def buffers_for(x, grads, hess, factor, columns):
        lanes = (STRIDED_ENTRIES if strided else TILE_ENTRIES) // columns // STEP * STEP
        lanes = STEP if lanes < STEP else (LANES if lanes > LANES else lanes)
        size = (columns + STEP - 1) // STEP * STEP * lanes
        kinds = 3 + present(grads[0]) + present(grads[1]) + present(grads[2]) + present(hess)
        return np.empty(kinds * size, type(factor)), lanes, size

    @written_out
    def rows_of_tiles(
        start, last, x, t, y, weight, grad_output, values, grads, hess, numbers, factor, columns, inner, ignore, kept
    ):
        vector_function()
        T = type(factor)
        buffers, lanes, size = kept
        d0, d1, d2 = grads
        z, outs = part(buffers, 0, size), part(buffers, 3 * size, buffers.size)
        tile = Tile(z, part(buffers, size, 2 * size), part(buffers, 2 * size, 3 * size), outs, lanes, size)
        labels, top, inverse = lane_array(np.int32(0)), lane_array(factor), lane_array(factor)
        log_sums, p_others = lane_array(factor), lane_array(factor)
        rows = Rows(labels, top, inverse, log_sums, p_others, lane_array(factor), lane_array(factor))
        after_d0 = present(d0) * size
        after_d1 = after_d0 + present(d1) * size
        after_d2 = after_d1 + present(d2) * size
        g, coefs_of = lane_array(factor), lane_arrays(factor)
        sums, parts = lane_arrays(0.0), lane_arrays(factor)
        total = 0.0
        for first in range(start, last, lanes):
            n = lanes if last - first > lanes else last - first
            read_tile(x, first, n, columns, inner, z, lanes)
            read_tile(t, first, n, columns, inner, tile.operand, lanes)
            skipped = _read_labels(y, first, n, columns, ignore, labels)
            for l in range(n):
                top[l] = T(0)
                inverse[l] = T(0)
                log_sums[l] = T(0)
                p_others[l] = T(0)
                pack(sums, LANES, l, (0.0, 0.0, 0.0))
            if has_softmax:
                here, ahead = place_of(first, columns, inner), place_of(first + lanes, columns, inner)
                softmax(tile, rows, n, columns, x, d0, here, ahead, inner)
            for l in range(n):
                rows.z[l] = load(z, labels[l] * lanes + l) if indexed else T(0)
                rows.w[l] = load_or(weight, labels[l], T(1)) if indexed else T(1)
            if has_terms:
                terms_of(tile, rows, n, columns, t, weight, parts, sums, numbers)

            coefs = finish(T(0), T(0), (T(0), T(0), T(0)), T(0), T(0), T(0), T(0), numbers)[1]  # its type
            for l in range(n):
                abc = (T(sums[l]), T(load(sums, LANES + l)), T(load(sums, 2 * LANES + l)))
                py = load(tile.exps, labels[l] * lanes + l) * inverse[l] if has_softmax and indexed else T(0)
                value, coefs = finish(top[l], log_sums[l], abc, rows.z[l], rows.w[l], p_others[l], py, numbers)
                pack(coefs_of, LANES, l, coefs)
                own = load_or(grad_output, first + l, T(1)) if sampled else T(1)
                top[l] = own * value if sampled else value
                g[l] = own * factor if sampled else load_or(grad_output, first + l, factor)
            for j in range(columns):
                base = j * lanes
                w = load_or(weight, j, T(1))
                column = np.int32(j)
                for l in range(n):
                    p = load(tile.exps, base + l) * inverse[l] if has_softmax else T(0)
                    s = load(tile.operand, base + l) if present(t) else T(1)
                    hit = indexed and labels[l] == column
                    own = unpack(coefs_of, LANES, l, coefs)
                    slopes, curvature = entry(load(z, base + l), p, s, w, hit, own, numbers)
                    stage_each(outs, size, base + l, slopes, g[l], grads)
                    stage_each(outs, size, after_d2 + base + l, (curvature,), g[l], (hess,))
            if indexed and skipped > 0:
                _skip_rows(tile, rows, y, first, n, columns, ignore)
            if sampled:
                _leave_out(tile, rows, grad_output, first, n)
            for l in range(n):
                store(values, first + l, top[l])
                total += top[l]
            # z has been used: the last rows of the tile go by way of it.
            write_tile(outs, 0, d0, first, n, columns, inner, lanes, z)
            write_tile(outs, after_d0, d1, first, n, columns, inner, lanes, z)
            write_tile(outs, after_d1, d2, first, n, columns, inner, lanes, z)
            write_tile(outs, after_d2, hess, first, n, columns, inner, lanes, z)
        return total

    return rows_of_tiles, buffers_for
