"""The loop over a class axis, row by row, SIMD lanes along its classes. Arguments: see ``rowwise.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastloss.runtime.compile import kernel_part
from fastloss.define.descriptions import RowMaths
from fastloss.cpu.simd.memory import (
    LINE,
    as_type_of,
    borrowed,
    cast,
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
from fastloss.cpu.simd.sum_exp import BLOCK, TOGETHER, of_blocks, of_rows, tops_of_rows
from fastloss.cpu.simd.llvm_hints import interleaved, vector_function
from fastloss.cpu.simd.work_queue import chunks_of, claim, combined, put, share
from fastloss.cpu.simd.stack_arrays import group_array, lane_array
from fastloss.cpu.simd.nontemporal import beyond_line, carry, close, drain, from_line, keep_until_here
from fastloss.cpu.loops.check_labels import is_counted, survey
from fastloss.define.scalars import exp_difference, log_sum

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


@kernel_part(forceinline=True)
def place_in(label, begin, end):
    """Return where in a block of classes a label lies, -1 where it does not.

    It is an int32: to compare numbers of classes as int64 took twice the lanes, 5 to 10 % of the losses with terms.
    """
    return np.int32(label - begin) if begin <= label < end else np.int32(-1)


@kernel_part(forceinline=True)
def _scale_at(j, inverse, scales, relative):
    """Return what the exponential that is kept of class `j` is to be multiplied by for its probability."""
    return scales[j // BLOCK] if relative else inverse


def along(maths: RowMaths, long: bool, replaces: bool = False, streamed: bool = False) -> Callable[..., Any]:
    """Return the loop for a contiguous class axis; for `long` rows block by block.

    A long row's exponentials lie where its first result will, and not in a buffer beside it: what the second cache has
    to hold until they are read again is half as much. cross_entropy on two threads with AVX-512, 1 MiB of cache a core,
    share of a copy: 58 and 70 % at 128256 classes, 70 and 78 % at 32000, 70 and 72 % at 1000. They need a buffer if the
    result is of another type, or `replaces` an operand.

    Rows may be `streamed` past the caches: their first two results, which begin at a line and have the type of the
    arithmetic. They are computed where the exponentials lie, and in a buffer of their own. ``written`` and ``held`` are
    the elements of these buffers up to which all has been written, and all is known.

    Of short rows several are computed together, and the largest entries of those that follow before these are finished.
    """
    terms, has_terms = maths.terms, maths.terms is not None
    finish, entry, softmax, indexed = maths.finish, maths.entry, maths.softmax, maths.indexed

    def kernel(
        x, t, y, weight, upstream, values, d0, d1, d2, second,
        params, scale, divisor, count, columns, inner, ignore, check, board, lead,
    ):  # fmt: skip
        vector_function()
        x, t, d0, d1, d2 = borrowed((x, t, d0, d1, d2))
        like = load(x, 0)
        T = type(like)
        numbers = cast(params, like)
        grads = (d0, d1, d2)
        keep = softmax and (present(d0) or present(d1) or present(d2) or present(second))
        relative = keep and long  # to what :func:`of_blocks` took for each block
        blocks = (columns + BLOCK - 1) // BLOCK if softmax and long else 0
        references, factors = np.empty(blocks, T), np.empty(blocks, T)
        in_result = long and not replaces and not streamed and of_one_type(d0, factors)
        far = softmax and not long and x.size * x.itemsize >= FETCHED_FROM
        together = TOGETHER if not long and columns * factors.itemsize <= TOGETHER_BYTES else 1
        # Rows whose exponentials begin at a line are stored faster, but streamed ones have to follow each other.
        stride = columns if streamed else (columns + LINE - 1) // LINE * LINE
        room = together * stride + LINE
        first_buffer = from_line(np.empty((room if streamed or (keep and not in_result) else 0) + LINE, T))
        second_buffer = from_line(np.empty((room if streamed and present(d1) else 0) + LINE, T))
        buffer, buffer_of_second = borrowed((first_buffer, second_buffer))
        spare = group_array(x[0])
        tops, next_tops, sums = lane_array(like), lane_array(like), lane_array(like)
        energies = as_type_of(buffer, d0) if in_result else buffer
        if streamed:
            grads = (as_type_of(d0, buffer), as_type_of(d1, buffer_of_second), d2)
        step = BLOCK if long else columns
        if indexed and (check or divisor == 0.0):
            strange, counted = survey(y, weight, columns, ignore, check, count, board)
            if strange >= 0:
                return strange, 0.0
            divisor = counted if divisor == 0.0 else divisor
        factor = T(scale / divisor)

        chunks = chunks_of(board)
        k = claim(board, 1)
        while k < chunks:
            total = 0.0
            start, last = share(count, k, chunks), share(count, k + 1, chunks)
            held = beyond_line(d0, start * columns) if streamed else 0
            written = 0
            if softmax and not long:
                tops_of_rows(x, start * columns, min(together, last - start), columns, next_tops)
            for first in range(start, last, together):
                n = min(together, last - first)
                base = first * columns
                needed = not indexed
                for i in range(n):
                    tops[i] = next_tops[i]
                    needed |= is_counted(label_at(y, first + i), columns, ignore)
                if softmax and long and needed:
                    at = base if in_result else held
                    tops[0], sums[0] = of_blocks(
                        x, base, columns, keep, energies, at, references, factors, t, grads, streamed
                    )
                elif softmax and not long:
                    if needed:
                        of_rows(x, base, n, together, columns, spare, tops, keep, energies, held, stride, sums)
                    # Here neither their last steps nor those of the sums are waited for: 0.9 to 0.95 of the time.
                    rest = min(together, last - first - n)
                    tops_of_rows(x, base + n * columns, rest, columns, next_tops)
                for i in range(n):
                    top, energy = (tops[i], sums[i]) if softmax else (T(0), T(0))
                    r = first + i
                    base = r * columns
                    at = base if in_result else held + i * stride
                    into = at if streamed else base
                    if far:
                        for near in range(base, base + columns, LINE):
                            fetch(x, near + READ_AHEAD)
                            fetch(t, near + READ_AHEAD)
                            if softmax and not streamed:
                                fetch_to_write(d0, near + WRITTEN_AHEAD)
                                fetch_to_write(d1, near + WRITTEN_AHEAD)
                    label = label_at(y, r)
                    if indexed and not is_counted(label, columns, ignore):
                        blank = T(0) if label == ignore else T(np.nan)
                        store(values, r, blank)
                        total += blank
                        for j in range(columns):
                            store_each(grads, into + j, (blank, blank, blank), T(1))
                            store(second, base + j, blank)
                        continue

                    inverse = T(1) / energy if softmax else T(0)
                    if relative:  # once for the row, for LLVM multiplies in an order that differs from loop to loop
                        for block in range(blocks):
                            factors[block] *= inverse
                    logsum = log_sum(energy) if softmax else T(0)
                    zy = load(x, base + label) - top if indexed else T(0)
                    wy = load_or(weight, label, T(1)) if indexed else T(1)
                    py = load(energies, at + label) * _scale_at(label, inverse, factors, relative) if keep else T(0)

                    a = 0.0
                    b = 0.0
                    c = 0.0
                    if has_terms:
                        for begin in range(0, columns, TERMS_BLOCK):
                            end = min(begin + TERMS_BLOCK, columns)
                            of_a = T(0)
                            of_b = T(0)
                            of_c = T(0)
                            part = _scale_at(begin, inverse, factors, relative)
                            target = place_in(label, begin, end)
                            for place in range(end - begin):
                                j = begin + place
                                z = load(x, base + j) - top
                                p = (load(energies, at + j) if keep else exp_difference(z)) * part if softmax else T(0)
                                w = load_or(weight, j, T(1))
                                hit = np.int32(place) == target
                                u, v, q = terms(z, p, load_or(t, base + j, T(1)), w, hit, zy, wy, numbers)
                                of_a += u
                                of_b += v
                                of_c += q
                            a += of_a
                            b += of_b
                            c += of_c

                    value, coefs = finish(top, logsum, (T(a), T(b), T(c)), zy, wy, numbers)
                    store(values, r, value)
                    total += value
                    g = load_or(upstream, r, factor)
                    for begin in range(0, columns, step):
                        end = min(begin + step, columns)
                        part = _scale_at(begin, inverse, factors, relative)
                        for j in range(begin, end):
                            z = load(x, base + j) - top
                            p = load(energies, at + j) * part if softmax else T(0)
                            w = load_or(weight, j, T(1))
                            slopes, curvature = entry(z, p, load_or(t, base + j, T(1)), w, False, coefs, numbers)
                            store_each(grads, into + j, slopes, g)
                            store(second, base + j, g * curvature)
                        if indexed and begin <= label < end:
                            # The target's entry once more: no test for it in the loop above.
                            slopes, curvature = entry(zy, py, T(0), wy, True, coefs, numbers)
                            store_each(grads, into + label, slopes, g)
                            store(second, base + label, g * curvature)
                        if streamed and long and columns > DRAINED_ROW:
                            drain(buffer_of_second, written, held + end, d1, start * columns, base + end)
                            written = drain(buffer, written, held + end, d0, start * columns, base + end)
                # Not LLVM's four vectors at a time in the loops above, which leave up to 63 entries to narrower ones
                # and to scalar code: with AVX-512 0.77 of the time of symmetric_cross_entropy, multi_margin_loss and
                # multilabel_soft_margin_loss at 100 classes, 0.95 of cross_entropy, and up to 1.08 where four fit.
                # A single one would be 0.75 of that at 80 classes, and 1.2 at 300 with AVX2.
                if not long:
                    interleaved(2)
                if streamed:
                    held += n * columns
                    end = (first + n) * columns
                    drain(buffer_of_second, written, held, d1, start * columns, end)
                    written = drain(buffer, written, held, d0, start * columns, end)
                    carry(buffer_of_second, written, held)
                    held = carry(buffer, written, held)
                    written = 0
            if streamed:
                close(buffer_of_second, held, d1, last * columns)
                close(buffer, held, d0, last * columns)
            put(board, 1, k, total)
            k = claim(board, 1)
        keep_until_here((first_buffer, second_buffer))
        return -1, combined(board, 1) / divisor if lead else 0.0

    return kernel
