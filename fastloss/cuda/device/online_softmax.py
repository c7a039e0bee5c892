"""The largest entry of a row and the sum of its exponentials, in one pass over it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from fastloss.cuda.device.block import maximum
from fastloss.cuda.device.numba_cuda import jitable
from fastloss.cuda.device.packs import filled, folded, spread, total_of
from fastloss.cuda.device.shared_rows import reader
from fastloss.define.scalars import exp_nonpositive, log, log1p_unit


@jitable
def _energy_of(x, b, c, w, u, j, rest):
    return (exp_nonpositive(x - rest[0]),)


# A sum of exponentials below this is nearly all the largest entry's own 1: the others are summed by themselves, or else
# log(1 + their sum) and 1 less the largest softmax would have lost their digits.
SURE = 1.25


@jitable
def _other_of(x, b, c, w, u, j, rest):
    T = type(x)
    return ((exp_nonpositive(x - rest[0]) if x < rest[0] else T(0)),)


@functools.cache
def of_others(lanes: int, width: int, keeps: bool = False) -> Callable[..., Any]:
    """Return the function that sums the exponentials of a thread's share of entries, less those that are 1.

    Its arguments are those of :func:`gauge`'s, with the row's largest entry.
    """
    fill, energies, first_of, read = filled(width), spread(_other_of, width), total_of(0, width), reader(keeps)
    stride = lanes * width

    @jitable
    def others(row, top, start, stop):
        T = type(top)
        zeros, ones = fill(T(0)), fill(T(1))
        energy = T(0)
        for j in range(start, stop, stride):
            energy += first_of(energies(read(row, j, zeros), zeros, zeros, ones, ones, j, (top,)))
        return energy

    return others


@jitable
def of_energy(energy, others):
    """Return (1 / energy, log energy, 1 less the largest softmax); of a sure row by the sum of the others."""
    T = type(energy)
    if energy < T(SURE):
        inverse = T(1) / (T(1) + others)
        return inverse, log1p_unit(others), others * inverse
    inverse = T(1) / energy
    return inverse, T(log(energy)), T(1) - inverse


@functools.cache
def gauge(lanes: int, width: int, keeps: bool = False) -> Callable[..., Any]:
    """Return the function that gauges a thread's share of entries that `lanes` threads share in packs of `width`.

    It reads a row as :func:`fastloss.cuda.device.shared_rows.reader` does.

    A thread keeps the largest entry it has seen, and its exponentials relative to that: where a larger one comes, they
    are scaled down. So a row that no cache holds is read once for both numbers. With `highest` the largest of all
    threads, the row's energy is the sum of ``energy * exp_nonpositive(top - highest)``, which is NaN for a row of
    nothing but -inf, as its softmax is. (The kernel itself sums: shared memory of a function that both it and this one
    call would be linked twice.)
    """
    fill, top_of_pack = filled(width), folded(maximum, width)
    energies, first_of, read = spread(_energy_of, width), total_of(0, width), reader(keeps)
    stride = lanes * width

    @jitable
    def gauged(row, like, start, stop):
        """Return (top, energy) of entries `start`, that of this thread's first pack, to `stop` of a row."""
        T = type(like)
        zeros, ones = fill(T(0)), fill(T(1))
        top = T(-math.inf)
        energy = T(0)
        for j in range(start, stop, stride):
            pack = read(row, j, zeros)
            higher = maximum(top, top_of_pack(pack))
            if higher != top:
                energy *= exp_nonpositive(top - higher)
                top = higher
            shift = top if top != T(-math.inf) else T(0)
            energy += first_of(energies(pack, zeros, zeros, ones, ones, j, (shift,)))
        return top, energy

    return gauged
