"""The largest entries of rows and the exponentials relative to them, along the rows."""

from __future__ import annotations

import numpy as np

from fastloss.cpu.simd.llvm_hints import interleaved, wide_vectors
from fastloss.cpu.simd.memory import LINE, fetch, fetch_to_write, load, store
from fastloss.cpu.simd.row_max import row_maximum
from fastloss.define.scalars import exp_difference, exp_nonpositive
from fastloss.runtime.compile import FASTMATH, kernel_part

# Entries of a block. Its largest entry and its exponentials are found while it is in the first cache, so a long row is
# read once; and it is summed in the row's own precision before it goes to a float64 sum, which in the loop itself would
# halve the lanes of everything in it.
BLOCK = 2048

# Rows whose exponentials are computed in one loop: while one waits for an operation, the others have some.
# cross_entropy in cache, time beside two rows at a time (64 and 100 classes) or one (120, 200 and 256): 0.9, 0.95, 0.8,
# 0.9 and 0.93 with AVX-512, 0.93, 1.06, 0.8, 0.88 and 0.92 with AVX2.
TOGETHER = 4

# Reading, computing and writing in turn leaves the memory idle: while exponentials are computed, the next block or row
# and the row's place in the results come into the cache, so many entries at a time.
BURST = 256
# Entries of the longest row whose place in the results stays in the cache until it is written.
LONGEST_FETCHED = 1 << 16


@kernel_part(fastmath=FASTMATH, forceinline=True)
def of_row(x, start, count, keep, energies):
    """Return the largest of `count` entries and the sum of their exponentials, which go to `energies` if `keep`."""
    top = row_maximum(x, start, start + count)
    return top, _relative_to(top, x, start, count, keep, energies, 0)


@kernel_part(fastmath=FASTMATH, forceinline=True)
def row_maxima(x, start, n, count, tops):
    """Write to `tops` the largest entry of each of `n` rows of `count` entries that follow each other."""
    for i in range(n):
        tops[i] = row_maximum(x, start + i * count, start + (i + 1) * count)


@kernel_part(fastmath=FASTMATH, forceinline=True)
def of_rows(x, start, n, together, count, spare, tops, keep, energies, at, stride, sums):
    """Write to `sums` the sum of the exponentials of each of `n` rows, relative to its entry of `tops`.

    If `keep`, they go to `energies`, those of the first row from place `at` on, the others' `stride` further each; so
    do numbers of no use for rows that are missing to `together`, TOGETHER or 1. `spare`, a
    :func:`~fastloss.cpu.simd.stack_arrays.group_array` of entries of `x`, has room for them.
    """
    if together == 1:
        sums[0] = _relative_to(tops[0], x, start, count, keep, energies, at)
    elif n == together:
        _of_four(x, start, count, tops, keep, energies, at, stride, sums)
    else:  # as a whole group: every row is summed in the same order, wherever it lies
        for j in range(n * count):
            spare[j] = x[start + j]
        for j in range(n * count, together * count):
            spare[j] = 0
        _of_four(spare, 0, count, tops, keep, energies, at, stride, sums)


@kernel_part(fastmath=FASTMATH, forceinline=True)
def _of_four(x, start, count, tops, keep, energies, at, stride, sums):
    wide_vectors()
    T = type(tops[0])
    top_a, top_b, top_c, top_d = tops[0], tops[1], tops[2], tops[3]
    sum_a = sum_b = sum_c = sum_d = T(0)
    for j in range(count):
        a = exp_difference(load(x, start + j) - top_a)
        b = exp_difference(load(x, start + count + j) - top_b)
        c = exp_difference(load(x, start + 2 * count + j) - top_c)
        d = exp_difference(load(x, start + 3 * count + j) - top_d)
        if keep:
            store(energies, at + j, a)
            store(energies, at + stride + j, b)
            store(energies, at + 2 * stride + j, c)
            store(energies, at + 3 * stride + j, d)
        sum_a += a
        sum_b += b
        sum_c += c
        sum_d += d
    interleaved(1)  # four chains are enough, and longer steps leave more to narrower vectors and to scalar code
    sums[0] = sum_a
    sums[1] = sum_b
    sums[2] = sum_c
    sums[3] = sum_d


@kernel_part(fastmath=FASTMATH, forceinline=True)
def of_blocks(x, start, count, keep, energies, at, references, factors, operand, results, streamed):
    """Return what :func:`of_row` does, of a long row, whose exponentials go to `energies` from place `at` on.

    Exponentials are relative to the largest entry up to and with their block; what they must be multiplied by goes to
    `factors`, a number for each block, and so much room has `references`. `operand` and `results` are what is read and
    written soon in the same places as the entries; past the caches if `streamed`.
    """
    T = type(load(x, start))
    top = T(-np.inf)
    ahead = start + min(count, BLOCK)
    for begin in range(0, count, BLOCK):
        end = min(begin + BLOCK, count)
        highest = row_maximum(x, start + begin, start + end)
        top = highest if highest > top else top
        reference = top if top > T(-np.inf) else T(0)
        total = T(0)
        for burst in range(begin, end, BURST):
            until = min(burst + BURST, end)
            for near in range(burst, until, LINE):
                fetch(x, ahead + near)
                if count <= LONGEST_FETCHED:
                    fetch(operand, start + near)
                    if not streamed:
                        fetch_to_write(results[0], start + near)
                        fetch_to_write(results[1], start + near)
            total += _sum_of(x, start, burst, until, reference, keep, energies, at)
        references[begin // BLOCK] = reference
        factors[begin // BLOCK] = total
    energy = 0.0
    if abs(top) == T(np.inf):
        top = row_maximum(x, start, start + count)
        energy = np.nan
    for block in range((count + BLOCK - 1) // BLOCK):
        below = references[block] - top
        factor = exp_nonpositive(T(0) if below > T(0) else below)
        energy += factors[block] * factor
        factors[block] = factor
    return top, T(energy)


@kernel_part(fastmath=FASTMATH, forceinline=True)
def _relative_to(top, x, start, count, keep, energies, at):
    energy = 0.0
    for begin in range(0, count, BLOCK):
        energy += _sum_of(x, start, begin, min(begin + BLOCK, count), top, keep, energies, at)
    return type(top)(energy)


@kernel_part(fastmath=FASTMATH, forceinline=True)
def _sum_of(x, start, begin, end, reference, keep, energies, at):
    wide_vectors()
    total = type(reference)(0)
    for j in range(begin, end):
        e = exp_difference(load(x, start + j) - reference)
        if keep:
            store(energies, at + j, e)
        total += e
    return total
