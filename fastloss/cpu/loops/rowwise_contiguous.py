"""The loop over a class axis, row by row, SIMD lanes along its classes. Arguments: see ``rowwise.py``.

A row takes four stages: its maximum and exponentials, its terms (sums that a loss needs beside the one of
exponentials), its value, and its derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
from fastloss.cpu.simd.sum_exp import BLOCK, SURE, TOGETHER, of_blocks, of_others, of_rows, row_maxima
from fastloss.define.descriptions import RowMaths
from fastloss.define.scalars import exp_difference, log1p_unit, log_sum
from fastloss.runtime.compile import kernel_part, written_out

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
def _skip_row(ignored, own, r, base, into, columns, values, grads, hess, like):
    """Write the value and the derivatives of a row that does not count, and return the value.

    It is 0 for a row that is `ignored` or whose own weight is 0, NaN for one whose class does not exist.
    """
    T = type(like)
    number = T(0) if ignored or own == T(0) else T(np.nan)
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


def _of_softmax(softmax: bool) -> Callable[..., Any]:
    """Return what makes of a row's sum of exponentials its inverse, its logarithm, and 1 less the largest softmax.

    Where that sum is hardly more than 1 they come of a sum without the largest exponential.
    """

    @written_out
    def of_softmax(x, base, columns, top, exp_sum, keep, exps, at, references, factors):
        T = type(exp_sum)
        inverse = T(1) / exp_sum if softmax else T(0)
        logsum, p_others = log_sum(exp_sum) if softmax else T(0), T(1) - inverse if softmax else T(0)
        if softmax and exp_sum < T(SURE):
            others = of_others(x, base, columns, top, keep, exps, at, references, factors)
            inverse = T(1) / (T(1) + others)
            logsum, p_others = log1p_unit(others), others * inverse
        return inverse, logsum, p_others

    return of_softmax


def along(
    maths: RowMaths, long: bool, replaces: bool = False, streamed: bool = False
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the loop over rows `start` ... `last` for a contiguous class axis, and its buffers.

    `long` rows are computed block by block, of others several are computed together; the first result may `replace` an
    operand.

    Rows may be `streamed` past the caches: their first two results, which begin at a line and have the type of the
    arithmetic. They are computed where the exponentials lie, and in a buffer of their own. ``written`` and ``held`` are
    the elements of these buffers up to which all has been written, and all is known.
    """
    return _long_rows(maths, replaces, streamed) if long else _short_rows(maths, streamed)


def _short_rows(maths: RowMaths, streamed: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the loop over rows of which several are computed together, and the maxima of those that follow before."""
    terms, has_terms, finish, entry = maths.terms, maths.terms is not None, maths.finish, maths.entry
    softmax, indexed, sampled, of_softmax = maths.softmax, maths.indexed, maths.sampled, _of_softmax(maths.softmax)

    @written_out
    def buffers_for(x, grads, hess, factor, columns):
        T = type(factor)
        together = TOGETHER if columns * lane_array(factor).itemsize <= TOGETHER_BYTES else 1
        # Rows whose exponentials begin at a line are stored faster, but streamed ones have to follow each other.
        stride = columns if streamed else (columns + LINE - 1) // LINE * LINE
        room = together * stride + LINE
        d0, d1, d2 = grads
        keep = softmax and (present(d0) or present(d1) or present(d2) or present(hess))
        first = from_line(np.empty((room if streamed or keep else 0) + LINE, T))
        second = from_line(np.empty((room if streamed and present(d1) else 0) + LINE, T))
        return (first, second), keep, together, stride

    @written_out
    def rows(
        start, last, x, t, y, weight, grad_output, values, results, hess, numbers, factor, columns, inner, ignore, kept
    ):
        vector_function()
        T = type(factor)
        d0, d1, d2 = results
        buffers, keep, together, stride = kept
        exps = buffers[0]
        far = softmax and x.size * x.itemsize >= FETCHED_FROM
        padding = group_array(x[0])
        maxima, next_maxima, sums = lane_array(factor), lane_array(factor), lane_array(factor)
        grads = (as_type_of(d0, exps), as_type_of(d1, buffers[1]), d2) if streamed else results
        held = beyond_line(d0, start * columns) if streamed else 0
        total = 0.0
        if softmax:
            row_maxima(x, start * columns, min(together, last - start), columns, next_maxima)
        for first in range(start, last, together):
            n = min(together, last - first)
            base, size = first * columns, n * columns
            needed = not indexed
            for i in range(n):
                maxima[i] = next_maxima[i]
                needed |= is_counted(label_at(y, first + i), columns, ignore)
            if softmax:
                if needed:
                    of_rows(x, base, n, together, columns, padding, maxima, keep, exps, held, stride, sums)
                # Here neither their last steps nor those of the sums are waited for: 0.9 to 0.95 of the time.
                row_maxima(x, base + size, min(together, last - first - n), columns, next_maxima)
            for i in range(n):
                r, base, at = first + i, (first + i) * columns, held + i * stride
                into = at if streamed else base
                if far:
                    _fetch_ahead(x, t, grads, base, columns, not streamed)
                label = label_at(y, r)
                own = load_or(grad_output, r, T(1)) if sampled else T(1)
                if (indexed and not is_counted(label, columns, ignore)) or (sampled and own == T(0)):
                    total += _skip_row(label == ignore, own, r, base, into, columns, values, grads, hess, factor)
                    continue
                top, exp_sum = (maxima[i], sums[i]) if softmax else (T(0), T(0))
                inverse, logsum, p_others = of_softmax(x, base, columns, top, exp_sum, keep, exps, at, (), ())
                zy = load(x, base + label) - top if indexed else T(0)
                wy = load_or(weight, label, T(1)) if indexed else T(1)
                py = load(exps, at + label) * inverse if keep else T(0)
                a = b = c = 0.0
                if has_terms:
                    for begin in range(0, columns, TERMS_BLOCK):
                        end = min(begin + TERMS_BLOCK, columns)
                        target = place_in(label, begin, end)
                        of_a = of_b = of_c = T(0)
                        for place in range(end - begin):
                            j = begin + place
                            z = load(x, base + j) - top
                            p = (load(exps, at + j) if keep else exp_difference(z)) * inverse if softmax else T(0)
                            s, w = load_or(t, base + j, T(1)), load_or(weight, j, T(1))
                            u, v, q = terms(z, p, s, w, np.int32(place) == target, zy, wy, numbers)
                            of_a, of_b, of_c = of_a + u, of_b + v, of_c + q
                        a, b, c = a + of_a, b + of_b, c + of_c
                value, coefs = finish(top, logsum, (T(a), T(b), T(c)), zy, wy, p_others, py, numbers)
                value = own * value if sampled else value
                store(values, r, value)
                total += value
                g = own * factor if sampled else load_or(grad_output, r, factor)
                for j in range(columns):
                    z = load(x, base + j) - top
                    p = load(exps, at + j) * inverse if softmax else T(0)
                    s, w = load_or(t, base + j, T(1)), load_or(weight, j, T(1))
                    slopes, curvature = entry(z, p, s, w, False, coefs, numbers)
                    store_each(grads, into + j, slopes, g)
                    store(hess, base + j, g * curvature)
                if indexed:
                    # The target's entry once more: no test for it in the loop above.
                    slopes, curvature = entry(zy, py, T(0), wy, True, coefs, numbers)
                    store_each(grads, into + label, slopes, g)
                    store(hess, base + label, g * curvature)
            interleaved(VECTORS)
            if streamed:
                held = drain_whole_lines(buffers, results, 0, held + size, start * columns, first * columns + size)
        if streamed:
            drain_rest(buffers, results, held, last * columns)
        return total

    return rows, buffers_for


def _long_rows(maths: RowMaths, replaces: bool, streamed: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the loop over rows that are computed block by block.

    A row's exponentials lie where its first result will, and not in a buffer beside it: what the second cache has to
    hold until they are read again is half as much. cross_entropy on two threads with AVX-512, 1 MiB of cache a core,
    share of a copy: 58 and 70 % at 128256 classes, 70 and 78 % at 32000, 70 and 72 % at 1000. They need a buffer if the
    result is of another type, or `replaces` an operand.
    """
    terms, has_terms, finish, entry = maths.terms, maths.terms is not None, maths.finish, maths.entry
    softmax, indexed, sampled, of_softmax = maths.softmax, maths.indexed, maths.sampled, _of_softmax(maths.softmax)

    @written_out
    def buffers_for(x, grads, hess, factor, columns):
        T = type(factor)
        blocks = (columns + BLOCK - 1) // BLOCK if softmax else 0
        references, factors = np.empty(blocks, T), np.empty(blocks, T)
        room = (columns if streamed else (columns + LINE - 1) // LINE * LINE) + LINE
        d0, d1, d2 = grads
        keep = softmax and (present(d0) or present(d1) or present(d2) or present(hess))
        in_result = not replaces and not streamed and of_one_type(d0, factors)
        first = from_line(np.empty((room if streamed or (keep and not in_result) else 0) + LINE, T))
        second = from_line(np.empty((room if streamed and present(d1) else 0) + LINE, T))
        return references, factors, (first, second), keep, in_result

    @written_out
    def rows(
        start, last, x, t, y, weight, grad_output, values, results, hess, numbers, factor, columns, inner, ignore, kept
    ):
        vector_function()
        T = type(factor)
        d0, d1, d2 = results
        # `keep`: exponentials are kept, relative to what :func:`of_blocks` took for each block.
        references, factors, buffers, keep, in_result = kept
        exps = as_type_of(buffers[0], d0) if in_result else buffers[0]
        grads = (as_type_of(d0, buffers[0]), as_type_of(d1, buffers[1]), d2) if streamed else results
        held = beyond_line(d0, start * columns) if streamed else 0
        total = 0.0
        for r in range(start, last):
            base = r * columns
            at = base if in_result else held
            into = at if streamed else base
            written = 0
            label = label_at(y, r)
            own = load_or(grad_output, r, T(1)) if sampled else T(1)
            if (indexed and not is_counted(label, columns, ignore)) or (sampled and own == T(0)):
                total += _skip_row(label == ignore, own, r, base, into, columns, values, grads, hess, factor)
            else:
                top, exp_sum = T(0), T(0)
                if softmax:
                    top, exp_sum = of_blocks(x, base, columns, keep, exps, at, references, factors, t, grads, streamed)
                inverse, logsum, p_others = of_softmax(
                    x, base, columns, top, exp_sum, keep, exps, at, references, factors
                )
                if keep:
                    _scale_all(factors, inverse)
                zy = load(x, base + label) - top if indexed else T(0)
                wy = load_or(weight, label, T(1)) if indexed else T(1)
                py = load(exps, at + label) * factors[label // BLOCK] if keep else T(0)
                a = b = c = 0.0
                if has_terms:
                    for begin in range(0, columns, TERMS_BLOCK):
                        end = min(begin + TERMS_BLOCK, columns)
                        scale, target = factors[begin // BLOCK] if keep else inverse, place_in(label, begin, end)
                        of_a = of_b = of_c = T(0)
                        for place in range(end - begin):
                            j = begin + place
                            z = load(x, base + j) - top
                            p = (load(exps, at + j) if keep else exp_difference(z)) * scale if softmax else T(0)
                            s, w = load_or(t, base + j, T(1)), load_or(weight, j, T(1))
                            u, v, q = terms(z, p, s, w, np.int32(place) == target, zy, wy, numbers)
                            of_a, of_b, of_c = of_a + u, of_b + v, of_c + q
                        a, b, c = a + of_a, b + of_b, c + of_c
                value, coefs = finish(top, logsum, (T(a), T(b), T(c)), zy, wy, p_others, py, numbers)
                value = own * value if sampled else value
                store(values, r, value)
                total += value
                g = own * factor if sampled else load_or(grad_output, r, factor)
                for begin in range(0, columns, BLOCK):
                    end = min(begin + BLOCK, columns)
                    scale = factors[begin // BLOCK] if keep else inverse
                    for j in range(begin, end):
                        z = load(x, base + j) - top
                        p = load(exps, at + j) * scale if softmax else T(0)
                        s, w = load_or(t, base + j, T(1)), load_or(weight, j, T(1))
                        slopes, curvature = entry(z, p, s, w, False, coefs, numbers)
                        store_each(grads, into + j, slopes, g)
                        store(hess, base + j, g * curvature)
                    if indexed and begin <= label < end:
                        # The target's entry once more: no test for it in the loop above.
                        slopes, curvature = entry(zy, py, T(0), wy, True, coefs, numbers)
                        store_each(grads, into + label, slopes, g)
                        store(hess, base + label, g * curvature)
                    if streamed and columns > DRAINED_ROW:
                        written = drain_rows(buffers, results, written, held + end, start * columns, base + end)
            if streamed:
                held = drain_whole_lines(buffers, results, written, held + columns, start * columns, base + columns)
        if streamed:
            drain_rest(buffers, results, held, last * columns)
        return total

    return rows, buffers_for
