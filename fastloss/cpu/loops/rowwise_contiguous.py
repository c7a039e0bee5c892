"""The loop over a class axis, row by row, SIMD lanes along its classes. Arguments: see ``rowwise.py``.

A row takes four stages: its maximum and exponentials, its terms (sums that a loss needs beside the one of
exponentials), its value, and its derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastloss.cpu.loops.check_labels import is_counted
from fastloss.cpu.simd.llvm_hints import interleaved, vector_function
from fastloss.cpu.simd.memory import (
    LINE,
    as_type_of,
    fetch,
    fetch_to_write,
    label_at,
    load,
    load_or,
    of_one_type,
    present,
    store,
    store_each,
)
from fastloss.cpu.simd.nontemporal import beyond_line, drain_rest, drain_rows, drain_whole_lines, from_line
from fastloss.cpu.simd.stack_arrays import group_array, lane_array
from fastloss.cpu.simd.sum_exp import BLOCK, TOGETHER, of_blocks, of_rows, row_maxima
from fastloss.define.descriptions import RowMaths
from fastloss.define.scalars import exp_difference, log_sum
from fastloss.runtime.compile import kernel_part

# Terms of a loss that are summed in the row's own precision before they go to float64 sums. A part of BLOCK, whose
# exponentials have one factor.
TERMS_BLOCK = 512

# Bytes of the numbers of a row up to which rows are computed together, as TOGETHER says. Of longer ones more is read
# at once, and then more computed: cross_entropy of 26 MB on two threads, time beside a row at a time, 0.8 at 160
# classes of float32, 0.85 at 200, 0.96 at 256, 1.0 at 300, 1.2 at 384; of float64 in cache 0.93 at 64, 1.05 at 128.
TOGETHER_BYTES = 1100

# Classes of the longest row that is written past the caches at once; longer ones are block by block, since the more
# there is to write the longer the next row waits. Two threads of an EPYC, 131 MB, time beside that of ordinary stores:
# cross_entropy 0.9 to 0.96 from 8000 classes to 128256, softmax 0.77, log_softmax 0.9, multi_margin_loss 0.88,
# symmetric_cross_entropy 1.0. Shorter rows by block took 1.02 to 1.1 of the time of a row at once; those by ordinary
# stores 1.25 times as long at 1000 classes, 1.1 at 256 and 4000, as long at 100.
DRAINED_ROW = 4096

# Bytes of logits from which short rows of a softmax ask the caches for what they need soon, and how many entries ahead
# for what they read and write: the CPU's own prefetching loses its way in rows that are read twice. Two threads of an
# EPYC, 26 MB, time beside that without: 0.7 to 0.95 from 100 classes on, streamed or not. What fits the last cache took
# 1.0 to 1.1 of the time, and multilabel_soft_margin_loss, which has two operands and much to compute, 1.0 to 1.2.
FETCHED_FROM = 16 << 20
READ_AHEAD = 2048
WRITTEN_AHEAD = 512


# Vectors at a time in the loops over short rows. LLVM's four leave up to 63 entries to narrower vectors and to scalar
# code: two take, with AVX-512, 0.77 of the time of four for symmetric_cross_entropy, multi_margin_loss and
# multilabel_soft_margin_loss at 100 classes, 0.95 for cross_entropy, and up to 1.08 where four fit. A single one takes
# 0.75 of that at 80 classes, and 1.2 at 300 with AVX2.
VECTORS = 2


@kernel_part(forceinline=True)
def place_in(label, begin, end):
    """Return where in a block of classes a label lies, -1 where it does not.

    It is an int32: to compare numbers of classes as int64 took twice the lanes, 5 to 10 % of the losses with terms.
    """
    return np.int32(label - begin) if begin <= label < end else np.int32(-1)


class Softmax(NamedTuple):
    """What is found of the softmax of rows that are computed together.

    `exps` holds their exponentials, `padding` rows of zeros that make the last group a whole one. A long row's
    exponentials are relative to the `references` of its blocks, and `factors` is what they are to be multiplied by.
    """

    maxima: Any
    next_maxima: Any
    sums: Any
    exps: Any
    padding: Any
    references: Any
    factors: Any


@kernel_part(forceinline=True)
def _scale_at(j, inverse, scales, relative):
    """Return what the exponential that is kept of class `j` is to be multiplied by for its probability."""
    return scales[j // BLOCK] if relative else inverse


@kernel_part(forceinline=True)
def _fetch_ahead(x, t, grads, base, columns, writes):
    """Ask the caches for entries that are read soon; and those that are written soon, if `writes` go through them."""
    for near in range(base, base + columns, LINE):
        fetch(x, near + READ_AHEAD)
        fetch(t, near + READ_AHEAD)
        if writes:
            fetch_to_write(grads[0], near + WRITTEN_AHEAD)
            fetch_to_write(grads[1], near + WRITTEN_AHEAD)


@kernel_part(forceinline=True)
def _skip_row(ignored, r, base, into, columns, values, grads, hess, like):
    """Write the value and the derivatives of a row that does not count, and return the value.

    It is 0 for a row that is `ignored`, NaN for one whose class does not exist.
    """
    T = type(like)
    number = T(0) if ignored else T(np.nan)
    store(values, r, number)
    for j in range(columns):
        store_each(grads, into + j, (number, number, number), T(1))
        store(hess, base + j, number)
    return number


@kernel_part(forceinline=True)
def _scale_all(factors, number):
    """Multiply the factors of a row's blocks, once: LLVM multiplies in an order that differs from loop to loop."""
    for block in range(factors.size):
        factors[block] *= number


@kernel_part(forceinline=True)
def _any_counts(y, first, n, columns, ignore):
    """Return whether any label of a group of rows counts."""
    found = False
    for r in range(first, first + n):
        found |= is_counted(label_at(y, r), columns, ignore)
    return found


def _exponentials_of(maths: RowMaths, long: bool, streamed: bool) -> Callable[..., Any]:
    """Return the stage that finds the exponentials of a group of `n` rows from row `first` on, and their sums."""
    softmax, indexed = maths.softmax, maths.indexed

    @kernel_part(forceinline=True)
    def exponentials(found, x, t, y, grads, first, n, last, columns, ignore, together, stride, keep, at):
        base = first * columns
        needed = not indexed or _any_counts(y, first, n, columns, ignore)
        if softmax and long and needed:
            found.maxima[0], found.sums[0] = of_blocks(
                x, base, columns, keep, found.exps, at, found.references, found.factors, t, grads, streamed
            )
        elif softmax and not long:
            for i in range(n):
                found.maxima[i] = found.next_maxima[i]
            if needed:
                of_rows(
                    x, base, n, together, columns, found.padding, found.maxima, keep, found.exps, at, stride, found.sums
                )
            # The maxima of the group that follows: here neither their last steps nor those of the sums are waited for,
            # 0.9 to 0.95 of the time.
            row_maxima(x, base + n * columns, min(together, last - first - n), columns, found.next_maxima)

    return exponentials


def _writer_of(entry: Any) -> Callable[..., Any]:
    """Return what writes the derivatives of one entry: `i` is its place in `hess`, `into` that in the gradients."""

    @kernel_part(forceinline=True)
    def write(z, p, s, w, hit, coefs, numbers, g, grads, into, hess, i):
        slopes, curvature = entry(z, p, s, w, hit, coefs, numbers)
        store_each(grads, into, slopes, g)
        store(hess, i, g * curvature)

    return write


def along(
    maths: RowMaths, long: bool, replaces: bool = False, streamed: bool = False
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the loop over rows `start` ... `last` for a contiguous class axis, and its buffers.

    `long` rows are computed block by block.

    A long row's exponentials lie where its first result will, and not in a buffer beside it: what the second cache has
    to hold until they are read again is half as much. cross_entropy on two threads with AVX-512, 1 MiB of cache a core,
    share of a copy: 58 and 70 % at 128256 classes, 70 and 78 % at 32000, 70 and 72 % at 1000. They need a buffer if the
    result is of another type, or `replaces` an operand.

    Rows may be `streamed` past the caches: their first two results, which begin at a line and have the type of the
    arithmetic. They are computed where the exponentials lie, and in a buffer of their own. ``written`` and ``held`` are
    the elements of these buffers up to which all has been written, and all is known.

    Of short rows several are computed together, and the maxima of those that follow before these are finished.
    """
    terms, has_terms, finish = maths.terms, maths.terms is not None, maths.finish
    softmax, indexed = maths.softmax, maths.indexed
    exponentials, write = _exponentials_of(maths, long, streamed), _writer_of(maths.entry)

    @kernel_part(forceinline=True)
    def keeps(grads, hess):
        """Return whether exponentials are kept for derivatives; a constant to the optimiser."""
        return softmax and (present(grads[0]) or present(grads[1]) or present(grads[2]) or present(hess))

    @kernel_part(forceinline=True)
    def are_in_result(result, buffer):
        """Return whether exponentials lie where the first result will; a constant to the optimiser."""
        return long and not replaces and not streamed and of_one_type(result, buffer)

    @kernel_part(forceinline=True)
    def layout_of(columns, like):
        """Return how many rows are computed together, and how far apart their exponentials lie in a buffer.

        Rows whose exponentials begin at a line are stored faster, but streamed ones have to follow each other.
        """
        together = TOGETHER if not long and columns * like.itemsize <= TOGETHER_BYTES else 1
        return together, columns if streamed else (columns + LINE - 1) // LINE * LINE

    @kernel_part()
    def buffers_for(x, grads, hess, factor, columns):
        T = type(factor)
        blocks = (columns + BLOCK - 1) // BLOCK if softmax and long else 0
        references, factors = np.empty(blocks, T), np.empty(blocks, T)
        together, stride = layout_of(columns, factors)
        room = together * stride + LINE
        kept = streamed or (keeps(grads, hess) and not are_in_result(grads[0], factors))
        first = from_line(np.empty((room if kept else 0) + LINE, T))
        second = from_line(np.empty((room if streamed and present(grads[1]) else 0) + LINE, T))
        return references, factors, (first, second)

    @kernel_part()
    def rows(
        start, last, x, t, y, weight, grad_output, values, results, hess, numbers, factor, columns, inner, ignore, kept
    ):
        vector_function()
        T = type(factor)
        d0, d1, d2 = results
        references, factors, buffers = kept
        keep, in_result = keeps(results, hess), are_in_result(d0, factors)
        relative = keep and long  # to what :func:`of_blocks` took for each block
        far = softmax and not long and x.size * x.itemsize >= FETCHED_FROM
        together, stride = layout_of(columns, factors)
        maxima, next_maxima, sums = lane_array(factor), lane_array(factor), lane_array(factor)
        exps = as_type_of(buffers[0], d0) if in_result else buffers[0]
        grads = (as_type_of(d0, buffers[0]), as_type_of(d1, buffers[1]), d2) if streamed else results
        found = Softmax(maxima, next_maxima, sums, exps, group_array(x[0]), references, factors)
        step = BLOCK if long else columns
        held = beyond_line(d0, start * columns) if streamed else 0
        written, total = 0, 0.0
        if softmax and not long:
            row_maxima(x, start * columns, min(together, last - start), columns, next_maxima)
        for first in range(start, last, together):
            n = min(together, last - first)
            at = first * columns if in_result else held
            exponentials(found, x, t, y, grads, first, n, last, columns, ignore, together, stride, keep, at)
            for i in range(n):
                r, base = first + i, (first + i) * columns
                at = base if in_result else held + i * stride
                into = at if streamed else base
                if far:
                    _fetch_ahead(x, t, grads, base, columns, not streamed)
                label = label_at(y, r)
                if indexed and not is_counted(label, columns, ignore):
                    total += _skip_row(label == ignore, r, base, into, columns, values, grads, hess, factor)
                    continue
                top, exp_sum = (maxima[i], sums[i]) if softmax else (T(0), T(0))
                inverse = T(1) / exp_sum if softmax else T(0)
                if relative:
                    _scale_all(factors, inverse)
                zy = load(x, base + label) - top if indexed else T(0)
                wy = load_or(weight, label, T(1)) if indexed else T(1)
                py = load(exps, at + label) * _scale_at(label, inverse, factors, relative) if keep else T(0)
                a = b = c = 0.0
                if has_terms:
                    for begin in range(0, columns, TERMS_BLOCK):
                        end = min(begin + TERMS_BLOCK, columns)
                        scale, target = _scale_at(begin, inverse, factors, relative), place_in(label, begin, end)
                        of_a = of_b = of_c = T(0)
                        for place in range(end - begin):
                            j = begin + place
                            z = load(x, base + j) - top
                            p = (load(exps, at + j) if keep else exp_difference(z)) * scale if softmax else T(0)
                            s, w = load_or(t, base + j, T(1)), load_or(weight, j, T(1))
                            u, v, q = terms(z, p, s, w, np.int32(place) == target, zy, wy, numbers)
                            of_a, of_b, of_c = of_a + u, of_b + v, of_c + q
                        a, b, c = a + of_a, b + of_b, c + of_c
                value, coefs = finish(top, log_sum(exp_sum) if softmax else T(0), (T(a), T(b), T(c)), zy, wy, numbers)
                store(values, r, value)
                total += value
                g = load_or(grad_output, r, factor)
                for begin in range(0, columns, step):
                    end = min(begin + step, columns)
                    scale = _scale_at(begin, inverse, factors, relative)
                    for j in range(begin, end):
                        z = load(x, base + j) - top
                        p = load(exps, at + j) * scale if softmax else T(0)
                        s, w = load_or(t, base + j, T(1)), load_or(weight, j, T(1))
                        write(z, p, s, w, False, coefs, numbers, g, grads, into + j, hess, base + j)
                    if indexed and begin <= label < end:  # once more: no test for it in the loop above
                        write(zy, py, T(0), wy, True, coefs, numbers, g, grads, into + label, hess, base + label)
                    if streamed and long and columns > DRAINED_ROW:
                        written = drain_rows(buffers, results, written, held + end, start * columns, base + end)
            if not long:
                interleaved(VECTORS)
            if streamed:
                end = (first + n) * columns
                held = drain_whole_lines(buffers, results, written, held + n * columns, start * columns, end)
                written = 0
        if streamed:
            drain_rest(buffers, results, held, last * columns)
        return total

    return rows, buffers_for
