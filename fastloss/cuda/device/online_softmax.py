"""The largest entry of a row and the sum of its exponentials.

Exponentials are those of differences, :func:`fastloss.define.scalars.exp_difference`: exp(x - top), top the largest.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from fastloss.cuda.device.block import added, maximum
from fastloss.cuda.device.memory import load_pack
from fastloss.cuda.device.numba_cuda import jitable
from fastloss.cuda.device.packs import filled, folded, mapped
from fastloss.cuda.device.polynomials import reciprocal
from fastloss.define.scalars import exp_difference

# A sum of exponentials below this is nearly all the largest entry's own 1: the others are summed by themselves, or else
# log(1 + their sum) and 1 less the largest softmax would have lost their digits. Of these others none is as large as 1,
# so that their exponentials tell them from the largest entry.
SURE = 1.25


@jitable
def exponential(x, top):
    """Return exp(x - top)."""
    return exp_difference(x - top)


@jitable
def _below_1(e, rest):
    T = type(e)
    return e if e < T(1) else T(0)


@functools.cache
def of_others(size: int) -> Callable[..., Any]:
    """Return the function that sums a pack of exponentials, less those that are 1."""
    below, sum_of = mapped(_below_1, size), folded(added, size)

    @jitable
    def others(exps):
        return sum_of(below(exps, exps[0]))

    return others


@jitable
def of_exp_sum(exp_sum, others):
    """Return (1 / exp_sum, log(exp_sum), 1 less the largest softmax); of a sure row by the sum of the others."""
    T = type(exp_sum)
    rest = others if exp_sum < T(SURE) else exp_sum - T(1)
    inverse = T(reciprocal(T(1) + rest))
    return inverse, T(math.log1p(rest)), rest * inverse


@functools.cache
def online_sum_exp(width: int, stride: int) -> Callable[..., Any]:
    """Return the function that finds the largest entry and the sum of exponentials of a thread's part of a row.

    The part consists of packs, `stride` entries apart, read from memory. A thread keeps the largest entry it has seen,
    and its exponentials relative to that: where a larger one comes, they are scaled down. So a row that no cache holds
    is read once for both numbers. With `highest` the largest of all threads, the row's sum is that of ``exp_sum *
    exponential(top, highest)``, which is NaN for a row of nothing but -inf, as its softmax is. (The kernel itself sums:
    shared memory of a function that both it and this one call would be linked twice.)
    """
    fill, top_of, sum_of, exps_of = (
        filled(width),
        folded(maximum, width),
        folded(added, width),
        mapped(exponential, width),
    )

    @jitable
    def top_and_sum(x, base, step, start, stop, like):
        """Return (top, exp_sum) of entries from `start`, that of this thread's first pack, to `stop` of a row."""
        T = type(like)
        zeros = fill(T(0))
        top = T(-math.inf)
        exp_sum = T(0)
        for j in range(start, stop, stride):
            pack = load_pack(x, base + j * step, zeros)
            higher = T(maximum(top, top_of(pack)))
            if higher != top:
                exp_sum *= exponential(top, higher)
                top = higher
            shift = top if top != T(-math.inf) else T(0)
            exp_sum += sum_of(exps_of(pack, shift))
        return top, exp_sum

    return top_and_sum


@functools.cache
def sum_of_others(width: int, stride: int) -> Callable[..., Any]:
    """Return the function that sums the exponentials that :func:`online_sum_exp` sums, less those that are 1."""
    fill, exps_of, others_of = filled(width), mapped(exponential, width), of_others(width)

    @jitable
    def sum_others(x, base, step, start, stop, top):
        T = type(top)
        zeros = fill(T(0))
        exp_sum = T(0)
        for j in range(start, stop, stride):
            exp_sum += others_of(exps_of(load_pack(x, base + j * step, zeros), top))
        return exp_sum

    return sum_others
