"""The loop over a class axis, row by row, SIMD lanes along its classes. Arguments: see ``rowwise.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastloss._jit import kernel_part
from fastloss._spec import RowMaths
from fastloss.cpu.access import (
    LINE,
    as_type_of,
    borrowed,
    cast,
    fetch,
    label_at,
    load,
    load_or,
    of_one_type,
    present,
    store,
    store_each,
)
from fastloss.cpu.exponentials import BLOCK, of_blocks, of_row, of_two_rows
from fastloss.cpu.instructions import vector_function
from fastloss.cpu.sharing import chunks_of, claim, combined, put, share
from fastloss.cpu.streaming import beyond_line, close, drain
from fastloss.cpu.survey import is_counted, survey
from fastloss.losses.scalars import exp_difference, log_sum

# Terms of a loss that are summed in the row's own precision before they go to float64 sums. A part of BLOCK, whose
# exponentials have one factor.
TERMS_BLOCK = 512

# Bytes of exponentials up to which those of two rows are computed in one loop: the one hides how long the other's
# maximum and sum take. cross_entropy with AVX2, two threads, beside a row at a time: 0.87 to 0.94 of the time at 64
# classes of float32, 0.92 to 0.95 at 100, 0.9 at both of float16; 1.05 at both of float64, and from 128 on of float32
# as much or more, since more is read at once and then more computed.
TWO_ROWS_BYTES = 448

# Entries ahead of a short row at which the caches are asked for what is read next, and bytes of logits from which that
# is done: a CPU's own prefetching seems to lose its way in rows. Time beside that without, two threads of an EPYC,
# 6.5 million entries in rows of 100, 112 and 256: cross_entropy 0.9 to 1.0, 0.55 to 0.7 and 0.6 to 0.7;
# multilabel_soft_margin_loss 0.6, 0.7 and 1.04; multi_margin_loss 0.63, 0.8 and 0.93. In the last cache 1.0 to 1.1.
# To ask for the place in the results too gained cross_entropy nothing, and cost the one with two operands 1.3.
FETCHED_AHEAD = 1024
FETCHED_FROM = 16 << 20


@kernel_part(forceinline=True)
def place_in(label, begin, end):
    """Return where in a block of classes a label lies, -1 where it does not.

    It is an int32: to compare numbers of classes as int64 took twice the lanes, 5 to 10 % of the losses with terms.
    """
    return np.int32(label - begin) if begin <= label < end else np.int32(-1)


@kernel_part(forceinline=True)
def _scale_at(j, inverse, factors, relative):
    """Return what the exponential that is kept of class `j` is to be multiplied by for its probability."""
    return inverse * factors[j // BLOCK] if relative else inverse


def along(maths: RowMaths, long: bool, replaces: bool = False, streamed: bool = False) -> Callable[..., Any]:
    """Return the loop for a contiguous class axis; for `long` rows block by block.

    A long row's exponentials lie where its first result will, and not in a buffer beside it: what the second cache has
    to hold until they are read again is half as much. cross_entropy on two threads with AVX-512, 1 MiB of cache a core,
    share of a copy: 58 and 70 % at 128256 classes, 70 and 78 % at 32000, 70 and 72 % at 1000. They need a buffer if the
    result is of another type, or `replaces` an operand.

    Long rows may be `streamed` past the caches: their first two results, which begin at a line and have the type of the
    arithmetic. They are computed where the exponentials lie, and in a buffer of their own.
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
        far = not long and x.size * x.itemsize >= FETCHED_FROM
        together = 2 if softmax and not long and columns * factors.itemsize <= TWO_ROWS_BYTES else 1
        room = together * columns + (LINE if streamed else 0)
        buffer = np.empty(room if streamed or (keep and not in_result) else 0, T)
        buffer_of_second = np.empty(room if streamed and present(d1) else 0, T)
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
            waiting = beyond_line(d0, start * columns) if streamed else 0
            for first in range(start, last, together):
                n = min(together, last - first)
                top = top_of_second = T(0)
                energy = energy_of_second = T(0)
                needed = not indexed or is_counted(label_at(y, first), columns, ignore)
                if far:
                    for near in range(first * columns + FETCHED_AHEAD, (first + n) * columns + FETCHED_AHEAD, LINE):
                        fetch(x, near)
                        fetch(t, near)
                if softmax and (needed or (n == 2 and is_counted(label_at(y, first + 1), columns, ignore))):
                    base = first * columns
                    if long:
                        at = base if in_result else waiting
                        top, energy = of_blocks(
                            x, base, columns, keep, energies, at, references, factors, t, grads, streamed
                        )
                    elif n == 2:
                        top, energy, top_of_second, energy_of_second = of_two_rows(x, base, columns, keep, energies)
                    else:
                        top, energy = of_row(x, base, columns, keep, energies)
                for i in range(n):
                    if i > 0:
                        top, energy = top_of_second, energy_of_second
                    r = first + i
                    base = r * columns
                    at = base if in_result else (waiting if streamed else i * columns)
                    into = at if streamed else base
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
                        part = _scale_at(begin, inverse, factors, relative)
                        for j in range(begin, min(begin + step, columns)):
                            z = load(x, base + j) - top
                            p = load(energies, at + j) * part if softmax else T(0)
                            w = load_or(weight, j, T(1))
                            slopes, curvature = entry(z, p, load_or(t, base + j, T(1)), w, False, coefs, numbers)
                            store_each(grads, into + j, slopes, g)
                            store(second, base + j, g * curvature)
                    if indexed:
                        # The target's entry once more: no test for it in the loop above.
                        slopes, curvature = entry(zy, py, T(0), wy, True, coefs, numbers)
                        store_each(grads, into + label, slopes, g)
                        store(second, base + label, g * curvature)
                if streamed:
                    drain(buffer_of_second, waiting, columns, d1, first * columns, first == start)
                    waiting = drain(buffer, waiting, columns, d0, first * columns, first == start)
            if streamed:
                close(buffer_of_second, waiting, d1, last * columns)
                close(buffer, waiting, d0, last * columns)
            put(board, 1, k, total)
            k = claim(board, 1)
        return -1, combined(board, 1) / divisor if lead else 0.0

    return kernel
