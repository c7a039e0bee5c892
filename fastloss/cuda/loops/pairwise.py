"""The loop of losses of pairs and triplets of vectors: sums over the vectors, then the derivative of every component.

A warp or a block has a pair, by the length of the vectors; its second and third visit find them in the cache.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from fastloss.cuda.device.block import added, anyone, block, blocks, maximum, meet, over, thread, threads
from fastloss.cuda.device.memory import WIDEST, load_or, load_pack, store, store_derivatives
from fastloss.cuda.device.numba_cuda import SMALL, jitable
from fastloss.cuda.device.packs import filled, folded, spread
from fastloss.cuda.device.reduce import THREADS, deliver, divided, grid_of
from fastloss.cuda.launch import Kernel
from fastloss.cuda.planned import Form, Looping, itself, never, plan_of, unaligned
from fastloss.define.descriptions import PairMaths
from fastloss.runtime.dtypes import real_of
from fastloss.runtime.plans import KernelPlan

# Which of the operands and results are read and written in packs: not labels, grad_output and values.
IN_PACKS = frozenset((0, 1, 2, 6, 7, 8, 9))

# Threads that share a pair, and the packs of a vector up to which it is so few of them.
GROUPS = ((1, 2), (2, 24)) if SMALL else ((1, 4), (8, 32), (32, 256))


@jitable
def _no_peaks(a, b, c, params):
    T = type(a)
    return T(0), T(0), T(0)


@jitable
def _once(sums, params):
    T = type(sums[0])
    return T(1), T(1), T(1)


@functools.cache
def kernel(maths: PairMaths, lanes: int, width: int) -> Kernel:
    """Return the kernel with `lanes` threads for each pair, which handle packs of `width` components."""
    peaks, has_peaks = maths.peaks or _no_peaks, maths.peaks is not None
    terms, finish, entry = maths.terms, maths.finish, maths.entry
    again, has_again = maths.again or _once, maths.again is not None

    @jitable
    def peaks_of(a, b, c, w, u, j, rest):
        return peaks(a, b, c, rest[0])

    @jitable
    def terms_of(a, b, c, w, u, j, rest):
        return terms(a, b, c, rest[0], rest[1])

    @jitable
    def entry_of(a, b, c, w, u, j, rest):
        coefs, g, params = rest
        slopes, curvature = entry(a, b, c, coefs, params)
        return a, slopes, curvature, g

    maxima, sums, entries = spread(peaks_of, width), spread(terms_of, width), spread(entry_of, width)
    fill = filled(width)
    top_u, top_v, top_w = (folded(maximum, width, k) for k in range(3))
    sum_u, sum_v, sum_w = (folded(added, width, k) for k in range(3))
    top_over, sum_over, total_over = over(maximum, lanes), over(added, lanes), over(added, THREADS)
    settle, someone = meet(lanes), anyone(lanes)

    def pairwise(
        a, b, c, y, grad_output, values, d0, d1, d2, hess, params, scale, count, columns, partials, counted, divisor,
    ):  # fmt: skip
        T = type(scale)
        factor = divided(scale, counted)
        zeros, ones = fill(T(0)), fill(T(1))
        grads = (d0, d1, d2)
        lane = thread() % lanes
        groups = threads() // lanes
        total = T(0)
        # Every thread takes as many turns, those past the last pair with the last pair once more, unwritten.
        for first in range(block() * groups, count, blocks() * groups):
            r = first + thread() // lanes
            here = r < count
            r = r if here else count - 1
            base = r * columns
            u = v = w = T(1)
            if has_peaks:
                u = v = w = T(-math.inf) if columns else T(0)
                for j in range(base + lane * width, base + columns, lanes * width):
                    parts = maxima(
                        load_pack(a, j, zeros), load_pack(b, j, zeros), load_pack(c, j, zeros), ones, ones, j, (params,)
                    )
                    u = maximum(u, top_u(parts))
                    v = maximum(v, top_v(parts))
                    w = maximum(w, top_w(parts))
                u = top_over(u)
                v = top_over(v)
                w = top_over(w)
            tops = (u, v, w)
            visits = 1
            visit = 0
            while visit < visits:
                visit += 1
                u = v = w = T(0)
                rest = tops, params
                for j in range(base + lane * width, base + columns, lanes * width):
                    parts = sums(
                        load_pack(a, j, zeros), load_pack(b, j, zeros), load_pack(c, j, zeros), ones, ones, j, rest
                    )
                    u += sum_u(parts)
                    v += sum_v(parts)
                    w += sum_w(parts)
                u = sum_over(u)
                v = sum_over(v)
                w = sum_over(w)
                if has_again and visit == 1:
                    wanted = again((u, v, w), params)
                    if someone(wanted != tops):
                        tops = wanted
                        visits = 2
            value, coefs = finish((u, v, w), tops, load_or(y, r, T(0)), params)
            value = T(value)
            if here and lane == 0:
                store(values, r, value)
                total += value
            tail = (coefs, load_or(grad_output, r, factor), params)
            settle()  # a gradient may replace a vector
            if here:
                for j in range(base + lane * width, base + columns, lanes * width):
                    outcomes = entries(
                        load_pack(a, j, zeros), load_pack(b, j, zeros), load_pack(c, j, zeros), ones, ones, j, tail
                    )
                    store_derivatives(grads, hess, j, outcomes)
        total = total_over(total)
        deliver(partials, total, counted, divisor)

    name = f"pairwise_{lanes}x{width}_{maths.finish.__name__}_{maths.entry.__name__}"
    return Kernel(name, pairwise, THREADS)


def plan(
    device: Any,
    maths: PairMaths,
    operands: tuple[Any, ...],
    results: tuple[Any, ...],
    params: tuple[float, ...],
    shape: tuple[int, int],
) -> KernelPlan:
    """Plan a loss over `shape` = (vectors, components), see :func:`fastloss.cpu.loops.pairwise.plan`.

    The reduced value is a device scalar.
    """
    (count, columns), first, arrays = shape, operands[0], (*operands, *results)
    widest = WIDEST // first.itemsize
    widest = 1 if columns % widest else widest
    packed = [a.itemsize if k in IN_PACKS else 0 for k, a in enumerate(arrays) if type(a) is not tuple]

    def form(single: bool) -> Form:
        width = 1 if single else widest
        lanes = next((lanes for lanes, most in GROUPS if columns // width <= most), THREADS)
        grid = grid_of(count * lanes, THREADS, -(-columns // (width * lanes)))
        return Form(kernel(maths, lanes, width), grid, (count, columns))

    numbers = tuple([float(p) for p in params])
    look = unaligned(widest, packed) if widest > 1 else never
    launch = Looping(device, real_of(first.dtype), arrays, len(numbers), look, form)

    reads = tuple([itself if a.is_contiguous() else device.flat for a in operands if type(a) is not tuple])
    return plan_of(device, functools.partial(launch.bound, numbers), reads)
