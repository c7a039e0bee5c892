"""What the loops along a class axis have in common: the stages of a row.

A row takes four stages: its maximum and exponentials, its terms (sums that a loss needs beside the one of
exponentials), its value, and its derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastloss.cpu.simd.memory import load, load_or, store, store_each
from fastloss.cpu.simd.sum_exp import BLOCK, SURE, of_others
from fastloss.define.descriptions import RowMaths
from fastloss.define.scalars import exp_difference, log1p_unit, log_sum
from fastloss.runtime.compile import kernel_part, written_out

# Terms of a loss that are summed in the row's own precision before they go to float64 sums. A part of BLOCK, whose
# exponentials have one factor.
TERMS_BLOCK = 512


@kernel_part(forceinline=True)
def place_in(label, begin, end):
    """Return where in a block of classes a label lies, -1 where it does not.

    It is an int32: to compare numbers of classes as int64 took twice the lanes, 5 to 10 % of the losses with terms.
    """
    return np.int32(label - begin) if begin <= label < end else np.int32(-1)


@kernel_part(forceinline=True)
def skip_row(ignored, own, r, base, into, columns, values, grads, hess, like):
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


def softmax_stage(softmax: bool) -> Callable[..., Any]:
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


def terms_stage(maths: RowMaths) -> Callable[..., Any]:
    """Return the stage that sums the terms of a row: in its own precision over blocks, and those in float64.

    Its exponentials are at `exps` if they are kept, to be multiplied by the `factors` of their blocks, or by `inverse`.
    """
    terms, softmax = maths.terms, maths.softmax

    @written_out
    def terms_of(x, t, weight, base, columns, label, top, inverse, factors, keep, exps, at, zy, wy, numbers):
        T = type(top)
        a = b = c = 0.0
        for begin in range(0, columns, TERMS_BLOCK):
            end = min(begin + TERMS_BLOCK, columns)
            scale = load_or(factors, begin // BLOCK, inverse) if keep else inverse
            target = place_in(label, begin, end)
            of_a = of_b = of_c = T(0)
            for place in range(end - begin):
                j = begin + place
                z = load(x, base + j) - top
                p = (load_or(exps, at + j, T(0)) if keep else exp_difference(z)) * scale if softmax else T(0)
                s, w = load_or(t, base + j, T(1)), load_or(weight, j, T(1))
                u, v, q = terms(z, p, s, w, np.int32(place) == target, zy, wy, numbers)
                of_a, of_b, of_c = of_a + u, of_b + v, of_c + q
            a, b, c = a + of_a, b + of_b, c + of_c
        return a, b, c

    return terms_of


def entries_stage(maths: RowMaths) -> Callable[..., Any]:
    """Return the stage that writes the derivatives of entries `begin` ... `end` of a row.

    Its exponentials are at `exps` if they are kept; all are to be multiplied by `scale`.
    """
    entry, softmax, indexed = maths.entry, maths.softmax, maths.indexed

    @written_out
    def entries_of(
        x, t, weight, base, begin, end, label, top, scale, keep, exps, at,
        zy, wy, py, coefs, numbers, g, grads, into, hess,
    ):  # fmt: skip
        T = type(top)
        for j in range(begin, end):
            z = load(x, base + j) - top
            p = (load_or(exps, at + j, T(0)) if keep else exp_difference(z)) * scale if softmax else T(0)
            s, w = load_or(t, base + j, T(1)), load_or(weight, j, T(1))
            slopes, curvature = entry(z, p, s, w, False, coefs, numbers)
            store_each(grads, into + j, slopes, g)
            store(hess, base + j, g * curvature)
        if indexed and begin <= label < end:
            # The target's entry once more: no test for it in the loop above.
            slopes, curvature = entry(zy, py, T(0), wy, True, coefs, numbers)
            store_each(grads, into + label, slopes, g)
            store(hess, base + label, g * curvature)

    return entries_of
