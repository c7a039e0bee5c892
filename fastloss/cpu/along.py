"""The loop over a class axis, one row at a time, SIMD lanes along its classes. Arguments: see ``rowwise.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.extending import register_jitable

from fastloss._jit import FASTMATH
from fastloss._spec import RowMaths
from fastloss.cpu.access import cast, fetch, fetch_to_write, label_at, load, load_or, present, store, store_each
from fastloss.cpu.instructions import isolated_function, vector_function
from fastloss.cpu.maxima import row_maximum
from fastloss.cpu.sharing import chunks_of, claim, combined, put, share
from fastloss.cpu.survey import no_terms, survey
from fastloss.losses.scalars import exp_nonpositive, log

# Entries that are summed in the row's own precision before they go to a float64 sum: exponentials, which are all
# positive, and the terms of a loss. A float64 sum in the loop itself would halve the lanes of everything in it.
BLOCK = 4096
TERMS_BLOCK = 512

# Reading, computing and writing in turn leaves the memory idle: while exponentials are computed, the next row and the
# row's place in the results come into the cache, so many entries at a time, and 16 to a line. Two threads, share of a
# copy, without and with this: cross_entropy of 1000 classes 56 and 74 %, of 32000 53 and 65 %, of 128256 55 and 62 %.
# A longer next row would push this one out.
BURST = 256
LINE = 16
LONGEST_FETCHED = 1 << 14


@register_jitable(fastmath=FASTMATH, forceinline=True)
def exponentials(x, start, count, top, energies, keep, operand, results):
    """Return the sum of the exponentials of `count` entries less `top`; write them to `energies` if `keep`.

    `operand` and `results` are what is read and written soon in the same places as these entries.
    """
    T = type(top)
    energy = 0.0
    for begin in range(0, count, BLOCK):
        block = T(0)
        for burst in range(begin, min(begin + BLOCK, count), BURST):
            until = min(burst + BURST, count)
            for near in range(start + burst, start + until, LINE):
                if count <= LONGEST_FETCHED:
                    fetch(x, near + count)
                fetch(operand, near)
                fetch_to_write(results[0], near)
                fetch_to_write(results[1], near)
            for j in range(burst, until):
                e = exp_nonpositive(load(x, start + j) - top)
                if keep:
                    store(energies, j, e)
                block += e
        energy += block
    return energy


def along(maths: RowMaths, wide: bool) -> Callable[..., Any]:
    """Return the loop for a contiguous class axis, with 512-bit vectors if `wide`."""
    terms, has_terms = maths.terms or no_terms, maths.terms is not None
    finish, entry, softmax, indexed = maths.finish, maths.entry, maths.softmax, maths.indexed
    mark = vector_function if wide else isolated_function

    def kernel(
        x, t, y, weight, upstream, values, d0, d1, d2, second,
        params, scale, divisor, count, columns, inner, ignore, check, clear, board, lead,
    ):  # fmt: skip
        mark()
        like = load(x, 0)
        T = type(like)
        numbers = cast(params, like)
        grads = (d0, d1, d2)
        keep = softmax and (present(d0) or present(d1) or present(d2) or present(second))
        energies = np.empty(columns if keep else 0, T)
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
            for r in range(share(count, k, chunks), share(count, k + 1, chunks)):
                base = r * columns
                label = label_at(y, r)
                if indexed and (label == ignore or label < 0 or label >= columns):
                    blank = T(0) if label == ignore else T(np.nan)
                    store(values, r, blank)
                    total += blank
                    for j in range(columns):
                        store_each(grads, base + j, (blank, blank, blank), T(1))
                        store(second, base + j, blank)
                    continue

                top = T(0)
                if softmax:
                    top = row_maximum(x, base, base + columns)
                zy = load(x, base + label) - top if indexed else T(0)
                wy = load_or(weight, label, T(1)) if indexed else T(1)

                inverse = T(0)
                logsum = T(0)
                if softmax:
                    energy = exponentials(x, base, columns, top, energies, keep, t, grads)
                    inverse = T(1) / T(energy)
                    logsum = log(T(energy))

                a = 0.0
                b = 0.0
                c = 0.0
                for begin in range(0, columns if has_terms else 0, TERMS_BLOCK):
                    end = min(begin + TERMS_BLOCK, columns)
                    of_a = T(0)
                    of_b = T(0)
                    of_c = T(0)
                    for j in range(begin, end):
                        z = load(x, base + j) - top
                        p = (load(energies, j) if keep else exp_nonpositive(z)) * inverse if softmax else T(0)
                        w = load_or(weight, j, T(1))
                        u, v, q = terms(z, p, load_or(t, base + j, T(1)), w, j == label, zy, wy, numbers)
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
                for j in range(columns):
                    z = load(x, base + j) - top
                    p = load(energies, j) * inverse if softmax else T(0)
                    w = load_or(weight, j, T(1))
                    slopes, curvature = entry(z, p, load_or(t, base + j, T(1)), w, False, coefs, numbers)
                    store_each(grads, base + j, slopes, g)
                    store(second, base + j, g * curvature)
                if indexed:
                    # The target's entry once more: no test for it in the loop above.
                    slopes, curvature = entry(zy, exp_nonpositive(zy) * inverse, T(0), wy, True, coefs, numbers)
                    store_each(grads, base + label, slopes, g)
                    store(second, base + label, g * curvature)
            put(board, 1, k, total)
            k = claim(board, 1)
        return -1, combined(board, 1) / divisor if lead else 0.0

    return kernel
