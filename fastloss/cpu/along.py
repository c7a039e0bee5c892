"""The loop over a class axis, one row at a time, SIMD lanes along its classes. Arguments: see ``rowwise.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastloss._spec import RowMaths
from fastloss.cpu.access import cast, label_at, load, load_or, present, store, store_each
from fastloss.cpu.exponentials import BLOCK, of_blocks, of_row
from fastloss.cpu.instructions import isolated_function, vector_function
from fastloss.cpu.sharing import chunks_of, claim, combined, put, share
from fastloss.cpu.survey import survey
from fastloss.losses.scalars import exp_nonpositive, log

# Terms of a loss that are summed in the row's own precision before they go to float64 sums.
TERMS_BLOCK = 512


def along(maths: RowMaths, long: bool) -> Callable[..., Any]:
    """Return the loop for a contiguous class axis; for `long` rows block by block, with 512-bit vectors."""
    terms, has_terms = maths.terms, maths.terms is not None
    finish, entry, softmax, indexed = maths.finish, maths.entry, maths.softmax, maths.indexed
    mark = vector_function if long else isolated_function

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
        blocks = (columns + BLOCK - 1) // BLOCK if softmax and long else 0
        references, factors = np.empty(blocks, T), np.empty(blocks, T)
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
                inverse = T(0)
                logsum = T(0)
                if softmax:
                    if long:
                        top, energy = of_blocks(x, base, columns, keep, energies, references, factors, t, grads)
                    else:
                        top, energy = of_row(x, base, columns, keep, energies)
                    inverse = T(1) / T(energy)
                    logsum = log(T(energy))
                zy = load(x, base + label) - top if indexed else T(0)
                wy = load_or(weight, label, T(1)) if indexed else T(1)

                a = 0.0
                b = 0.0
                c = 0.0
                if has_terms:
                    for begin in range(0, columns, TERMS_BLOCK):
                        end = min(begin + TERMS_BLOCK, columns)
                        of_a = T(0)
                        of_b = T(0)
                        of_c = T(0)
                        part = inverse * factors[begin // BLOCK] if keep and long else inverse
                        for j in range(begin, end):
                            z = load(x, base + j) - top
                            p = (load(energies, j) if keep else exp_nonpositive(z)) * part if softmax else T(0)
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
                for begin in range(0, columns, step):
                    part = inverse * factors[begin // BLOCK] if keep and long else inverse
                    for j in range(begin, min(begin + step, columns)):
                        z = load(x, base + j) - top
                        p = load(energies, j) * part if softmax else T(0)
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
