"""The largest entries of rows and the exponentials relative to them, along the rows."""

from __future__ import annotations

import numpy as np

from fastloss.cpu.simd.llvm_hints import interleaved, wide_vectors
from fastloss.cpu.simd.memory import LINE, fetch, fetch_to_write, load, load_or, store
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


@kernel_part(fastmath=FASTMATH)
def of_row(x, start, count):
    """Return the largest of `count` entries and the sum of their exponentials relative to it."""
    top = row_maximum(x, start, start + count)
    return top, _relative_to(top, x, start, count, False, (), 0)


@kernel_part(fastmath=FASTMATH)
def row_maxima(x, start, n, count, maxima):
    """Write to `maxima` the largest entry of each of `n` rows of `count` entries that follow each other."""
    for i in range(n):
        maxima[i] = row_maximum(x, start + i * count, start + (i + 1) * count)


@kernel_part(fastmath=FASTMATH)
def of_rows(x, start, n, together, count, padding, maxima, keep, exps, at, stride, sums):
    """Write to `sums` the sum of the exponentials of each of `n` rows, relative to its entry of `maxima`.

    If `keep`, they go to `exps`, those of the first row from place `at` on, the others' `stride` further each. A group
    of fewer than `together` rows, TOGETHER or 1, is padded with zeros in `padding`, a
    :func:`~fastloss.cpu.simd.stack_arrays.group_array` of entries of `x`, so that a row is rounded alike wherever it
    stands; the exponentials of the padding are stored too.
    """
    if together == 1:
        sums[0] = _relative_to(maxima[0], x, start, count, keep, exps, at)
    elif n == together:
        _of_four(x, start, count, maxima, keep, exps, at, stride, sums)
    else:
        for j in range(n * count):
            padding[j] = x[start + j]
        for j in range(n * count, together * count):
            padding[j] = 0
        _of_four(padding, 0, count, maxima, keep, exps, at, stride, sums)


@kernel_part(fastmath=FASTMATH)
def _of_four(x, start, count, maxima, keep, exps, at, stride, sums):
    wide_vectors()
    T = type(maxima[0])
    top_a, top_b, top_c, top_d = maxima[0], maxima[1], maxima[2], maxima[3]
    sum_a = sum_b = sum_c = sum_d = T(0)
    for j in range(count):
        a = exp_difference(load(x, start + j) - top_a)
        b = exp_difference(load(x, start + count + j) - top_b)
        c = exp_difference(load(x, start + 2 * count + j) - top_c)
        d = exp_difference(load(x, start + 3 * count + j) - top_d)
        if keep:
            store(exps, at + j, a)
            store(exps, at + stride + j, b)
            store(exps, at + 2 * stride + j, c)
            store(exps, at + 3 * stride + j, d)
        sum_a += a
        sum_b += b
        sum_c += c
        sum_d += d
    interleaved(1)  # four chains are enough, and longer steps leave more to narrower vectors and to scalar code
    sums[0] = sum_a
    sums[1] = sum_b
    sums[2] = sum_c
    sums[3] = sum_d


@kernel_part(fastmath=FASTMATH)
def of_blocks(x, start, count, keep, exps, at, references, factors, operand, results, streamed):
    """Return what :func:`of_row` does, of a long row, whose exponentials go to `exps` from place `at` on.

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
            total += _sum_of(x, start, burst, until, reference, keep, exps, at)
        references[begin // BLOCK] = reference
        factors[begin // BLOCK] = total
    exp_sum = 0.0
    if abs(top) == T(np.inf):
        top = row_maximum(x, start, start + count)
        exp_sum = np.nan
    for block in range((count + BLOCK - 1) // BLOCK):
        below = references[block] - top
        factor = exp_nonpositive(T(0) if below > T(0) else below)
        exp_sum += factors[block] * factor
        factors[block] = factor
    return top, T(exp_sum)


# A sum of exponentials below this is nearly all the largest entry's own 1: the others are summed by themselves, or else
# log(1 + their sum) and 1 less the largest softmax would have lost their digits.
SURE = 1.25


@kernel_part(fastmath=FASTMATH)
def of_others(x, start, count, top, keep, exps, at, references, factors):
    """Return the sum of the exponentials of a row whose sum is below SURE, less the one that is 1.

    They are those that :func:`of_rows` or :func:`of_blocks` kept, or are computed once more: relative to the `factors`
    and `references` of blocks if there are any, else to `top`.
    """
    wide_vectors()
    T = type(top)
    exp_sum = 0.0
    for begin in range(0, count, BLOCK):
        factor = load_or(factors, begin // BLOCK, T(1))
        reference = load_or(references, begin // BLOCK, top)
        limit = T(1) if factor == T(1) else T(2)  # a block's own largest entry counts where it is not the row's
        total = T(0)
        for j in range(begin, min(begin + BLOCK, count)):
            e = load_or(exps, at + j, T(0)) if keep else exp_difference(load(x, start + j) - reference)
            total += e if e < limit else T(0)
        exp_sum += total * factor
    return T(exp_sum)


@kernel_part(fastmath=FASTMATH)
def _relative_to(top, x, start, count, keep, exps, at):
    exp_sum = 0.0
    for begin in range(0, count, BLOCK):
        exp_sum += _sum_of(x, start, begin, min(begin + BLOCK, count), top, keep, exps, at)
    return type(top)(exp_sum)


@kernel_part(fastmath=FASTMATH)
def _sum_of(x, start, begin, end, reference, keep, exps, at):
    wide_vectors()
    total = type(reference)(0)
    for j in range(begin, end):
        e = exp_difference(load(x, start + j) - reference)
        if keep:
            store(exps, at + j, e)
        total += e
    return total
