"""The largest entry of a row and the exponentials relative to it, along the row."""

from __future__ import annotations

import numpy as np

from fastloss._jit import FASTMATH, kernel_part
from fastloss.cpu.access import LINE, fetch, fetch_to_write, load, store
from fastloss.cpu.instructions import interleaved, wide_vectors
from fastloss.cpu.maxima import row_maximum
from fastloss.losses.scalars import exp_difference, exp_nonpositive

# Entries of a block. Its largest entry and its exponentials are found while it is in the first cache, so a long row is
# read once; and it is summed in the row's own precision before it goes to a float64 sum, which in the loop itself would
# halve the lanes of everything in it.
BLOCK = 2048

# Reading, computing and writing in turn leaves the memory idle: while exponentials are computed, the next block or row
# and the row's place in the results come into the cache, so many entries at a time.
BURST = 256
# Entries of the longest row whose place in the results stays in the cache until it is written.
LONGEST_FETCHED = 1 << 16


@kernel_part(fastmath=FASTMATH, forceinline=True)
def of_row(x, start, count, keep, energies):
    """Return the largest of `count` entries and the sum of their exponentials, which go to `energies` if `keep`."""
    top = row_maximum(x, start, start + count)
    energy = 0.0
    for begin in range(0, count, BLOCK):
        energy += _sum_of(x, start, begin, min(begin + BLOCK, count), top, keep, energies, 0)
    return top, type(top)(energy)


@kernel_part(fastmath=FASTMATH, forceinline=True)
def of_two_rows(x, start, count, keep, energies):
    """Return what :func:`of_row` does of each of two rows that follow each other, of BLOCK entries at most."""
    wide_vectors()
    other = start + count
    T = type(load(x, start))
    top = row_maximum(x, start, other)
    top_of_second = row_maximum(x, other, other + count)
    energy = T(0)
    energy_of_second = T(0)
    for j in range(count):
        first = exp_difference(load(x, start + j) - top)
        second = exp_difference(load(x, other + j) - top_of_second)
        if keep:
            store(energies, j, first)
            store(energies, count + j, second)
        energy += first
        energy_of_second += second
    # Two vectors of each row. Time beside that with LLVM's four, which leave up to 63 entries to narrower vectors and
    # to scalar code, at 64, 80, 100 and 112 classes on two threads: 1.01, 1.01, 0.94 and 0.93 with AVX-512; 0.85, 0.85
    # and 1.0 with AVX2 (not measured at 112).
    interleaved(2)
    return top, energy, top_of_second, energy_of_second


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
def _sum_of(x, start, begin, end, reference, keep, energies, at):
    wide_vectors()
    total = type(reference)(0)
    for j in range(begin, end):
        e = exp_difference(load(x, start + j) - reference)
        if keep:
            store(energies, at + j, e)
        total += e
    return total
