"""The stages of the loop over tiles of rows, one row for each SIMD lane; see ``rowwise_transposed.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastloss.cpu.loops.check_labels import is_counted
from fastloss.cpu.simd.llvm_hints import interleaved, wide_vectors
from fastloss.cpu.simd.memory import (
    LINE,
    fetch,
    fetch_to_write,
    label_at,
    load,
    load_or,
    pack,
    present,
    stage_each,
    store,
    unpack,
)
from fastloss.cpu.simd.row_max import column_maxima
from fastloss.cpu.simd.stack_arrays import LANES
from fastloss.cpu.simd.sum_exp import SURE
from fastloss.define.descriptions import RowMaths
from fastloss.define.scalars import exp_difference, log1p_unit, log_sum
from fastloss.runtime.compile import FASTMATH, kernel_part, written_out

# One in so many rows of a tile from which :func:`_sum_others` sums all of them.
FEW_SURE = 16

# Classes whose terms are summed in the row's own precision before they go to float64 sums, which hold half the lanes.
COLUMNS_BLOCK = 32

# Classes whose exponentials are: a second sum for each costs nothing then, and the sum of 100,000 has its last digits.
EXPS_BLOCK = 512


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
def read_labels(y, first, n, columns, ignore, labels):
    """Read the labels of a tile, 0 for those that do not count, and return how many these are."""
    skipped = np.int64(0)  # a literal 0 would change its type in this loop: one more round of inference
    for l in range(n):
        label = label_at(y, first + l)
        known = is_counted(label, columns, ignore)
        skipped += not known
        labels[l] = label if known else 0
    return skipped


@written_out
def clear(rows, sums, n):
    """Make the numbers of rows 0 that are summed, or that a loss without a softmax does not compute.

    As a function of its own, not written out, small calls took 1.05 of the time.
    """
    zero = type(rows.top[0])(0)
    for l in range(n):
        rows.top[l] = zero
        rows.inverse[l] = zero
        rows.log_sum[l] = zero
        rows.p_others[l] = zero
        pack(sums, LANES, l, (0.0, 0.0, 0.0))


@kernel_part(forceinline=True)
def skip_rows(tile, rows, y, first, n, columns, ignore):
    """Make what the loss returns of rows that do not count 0; NaN where the class does not exist."""
    for l in range(n):
        label = label_at(y, first + l)
        if not is_counted(label, columns, ignore):
            number = type(rows.top[l])(0 if label == ignore else np.nan)
            rows.top[l] = number
            for place in range(l, tile.outs.size, tile.lanes):
                store(tile.outs, place, number)


@kernel_part(forceinline=True)
def leave_out(tile, rows, weights, first, n):
    """Make what the loss returns of rows of weight 0 zero, whatever they hold."""
    zero = type(rows.top[0])(0)
    for l in range(n):
        if load_or(weights, first + l, zero) == zero:
            rows.top[l] = zero
            for place in range(l, tile.outs.size, tile.lanes):
                store(tile.outs, place, zero)


@kernel_part(fastmath=FASTMATH)
def _sum_others(exps, lanes, n, columns, sums, others, wide):
    """Write to `others` the sum of each row's exponentials less the one that is 1, of rows whose sum is below SURE.

    Those are found one by one if they are few, else all rows are summed as the lanes have them, in the same order. Of
    the other rows nothing is said.
    """
    wide_vectors()
    T = type(sums[0])
    sure = 0
    for l in range(n):
        sure += sums[l] < T(SURE)
    if sure * FEW_SURE > n:
        for l in range(n):
            wide[l] = 0.0
        for begin in range(0, columns, EXPS_BLOCK):
            for l in range(n):
                others[l] = T(0)
            for j in range(begin * lanes, min(begin + EXPS_BLOCK, columns) * lanes, lanes):
                for l in range(n):
                    e = load(exps, j + l)
                    others[l] += e if e < T(1) else T(0)
            for l in range(n):
                wide[l] += others[l]
        for l in range(n):
            others[l] = T(wide[l])
    elif sure > 0:
        for l in range(n):
            if sums[l] < T(SURE):
                whole = 0.0
                for begin in range(0, columns, EXPS_BLOCK):
                    total = T(0)
                    for j in range(begin * lanes + l, min(begin + EXPS_BLOCK, columns) * lanes, lanes):
                        e = load(exps, j)
                        total += e if e < T(1) else T(0)
                    whole += total
                others[l] = T(whole)


def softmax_stage(strided: bool) -> Callable[..., Any]:
    """Return the stage that finds the maxima of the rows, their exponentials and the sums of those."""

    @written_out
    def softmax(tile, rows, n, columns, x, d0, here, ahead, inner, wide):
        lanes = tile.lanes
        T = type(rows.top[0])
        one, sure_below = T(1), T(SURE)
        column_maxima(tile.z, lanes, n, columns, rows.top)
        # Two columns at a time, which share the maxima and the constants of exp: one from each half, since LLVM tests
        # before the outer loop whether what the two streams cover overlaps, and neighbouring columns would. What is
        # left of an odd number of columns comes last.
        half, block = columns // 2 * lanes, EXPS_BLOCK // 2 * lanes
        for l in range(n):
            wide[l] = 0.0
        for begin in range(0, half, block):
            for l in range(n):
                rows.inverse[l] = T(0)
            for j in range(begin, min(begin + block, half), lanes):
                # The next tile comes into the L2 cache while this one is computed: reading, computing and writing in
                # turn leaves the memory idle. cross_entropy of 2**22 entries in rows of 16, 32 and 47, two threads:
                # 4.3, 4.1 and 4.7 ms without, 3.5, 3.2 and 3.7 with this.
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
            for l in range(n):
                wide[l] += rows.inverse[l]
        for l in range(n):
            rows.inverse[l] = T(wide[l])
        interleaved(4)
        for j in range(2 * half, columns * lanes, lanes):
            for l in range(n):
                rows.inverse[l] += _exp_of(tile.z, j + l, rows.top[l], tile.exps)
        _sum_others(tile.exps, lanes, n, columns, rows.inverse, rows.p_others, wide)
        for l in range(n):
            exp_sum, others = rows.inverse[l], rows.p_others[l]
            sure = exp_sum < sure_below
            inverse = one / (one + others if sure else exp_sum)
            rows.log_sum[l] = log1p_unit(others) if sure else log_sum(exp_sum)
            rows.p_others[l] = others * inverse if sure else one - inverse
            rows.inverse[l] = inverse

    return softmax


def terms_stage(maths: RowMaths) -> Callable[..., Any]:
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


def values_stage(maths: RowMaths) -> Callable[..., Any]:
    """Return the stage that computes values: of each row, what its entries need, and the factor of its derivatives.

    It returns the last row's of the former, whose type all have.
    """
    finish, softmax, indexed, sampled = maths.finish, maths.softmax, maths.indexed, maths.sampled

    @written_out
    def values_of(tile, rows, first, n, grad_output, sums, numbers, factor, coefs_of, g):
        T = type(factor)
        coefs = finish(T(0), T(0), (T(0), T(0), T(0)), T(0), T(0), T(0), T(0), numbers)[1]  # its type
        for l in range(n):
            abc = (T(sums[l]), T(load(sums, LANES + l)), T(load(sums, 2 * LANES + l)))
            label = rows.labels[l]
            py = load(tile.exps, label * tile.lanes + l) * rows.inverse[l] if softmax and indexed else T(0)
            top, z, w = rows.top[l], rows.z[l], rows.w[l]
            value, coefs = finish(top, rows.log_sum[l], abc, z, w, rows.p_others[l], py, numbers)
            pack(coefs_of, LANES, l, coefs)
            own = load_or(grad_output, first + l, T(1)) if sampled else T(1)
            rows.top[l] = own * value if sampled else value
            g[l] = own * factor if sampled else load_or(grad_output, first + l, factor)
        return coefs

    return values_of


def entries_stage(maths: RowMaths) -> Callable[..., Any]:
    """Return the stage that computes the derivatives of a tile's entries; the second ones lie from `after` on."""
    entry, softmax, indexed = maths.entry, maths.softmax, maths.indexed

    @written_out
    def entries_of(tile, rows, n, columns, t, weight, grads, hess, after, numbers, coefs_of, coefs, g):
        T = type(rows.top[0])
        for j in range(columns):
            base = j * tile.lanes
            w = load_or(weight, j, T(1))
            column = np.int32(j)
            for l in range(n):
                p = load(tile.exps, base + l) * rows.inverse[l] if softmax else T(0)
                s = load(tile.operand, base + l) if present(t) else T(1)
                hit = indexed and rows.labels[l] == column
                own = unpack(coefs_of, LANES, l, coefs)
                slopes, curvature = entry(load(tile.z, base + l), p, s, w, hit, own, numbers)
                stage_each(tile.outs, tile.size, base + l, slopes, g[l], grads)
                stage_each(tile.outs, tile.size, after + base + l, (curvature,), g[l], (hess,))

    return entries_of
