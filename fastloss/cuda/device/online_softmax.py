"""The largest entry of a row and the sum of its exponentials, in one pass over it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from fastloss.cuda.device.block import maximum
from fastloss.cuda.device.packs import filled, folded, spread, total_of
from fastloss.cuda.device.shared_rows import reader
from fastloss.cuda.device.numba_cuda import jitable
from fastloss.define.scalars import exp_nonpositive


@jitable
def _energy_of(x, b, c, w, u, j, rest):
    return (exp_nonpositive(x - rest[0]),)


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
