"""The loop of losses of pairs and triplets of vectors: sums over the vectors, then the derivative of every component.

The second pass finds the row in the L1 cache, so memory is read once and written once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from fastloss.cpu.simd.llvm_hints import apart_or_in_place, maximum, vector_function
from fastloss.cpu.simd.memory import cast, load, load_or, store, store_each, stream, stream_each
from fastloss.cpu.simd.nontemporal import are_streamed, moves_enough, past_caches
from fastloss.cpu.simd.work_queue import chunks, finish, total_of
from fastloss.cpu.windows import ALL_FLAT
from fastloss.define.descriptions import PairMaths
from fastloss.runtime.compile import Kernel, is_small, written_out
from fastloss.runtime.plans import KernelPlan


def _largest(maths: PairMaths) -> Callable[..., Any]:
    """Return the stage that finds the maxima of a pair, which begins at `base`."""
    peaks: Any = maths.peaks

    @written_out
    def largest(a, b, c, base, columns, numbers, factor):
        T = type(factor)
        top_u = top_v = top_w = T(-np.inf) if columns else T(0)
        for j in range(base, base + columns):
            u, v, w = peaks(load(a, j), load_or(b, j, T(0)), load_or(c, j, T(0)), numbers)
            top_u = maximum(top_u, u)
            top_v = maximum(top_v, v)
            top_w = maximum(top_w, w)
        return top_u, top_v, top_w

    return largest


def _sums_of(maths: PairMaths) -> Callable[..., Any]:
    """Return the stage that sums the terms of a pair."""
    terms = maths.terms

    @written_out
    def sums_of(a, b, c, base, columns, tops, numbers, factor):
        T = type(factor)
        sum_u = 0.0
        sum_v = 0.0
        sum_w = 0.0
        for j in range(base, base + columns):
            u, v, w = terms(load(a, j), load_or(b, j, T(0)), load_or(c, j, T(0)), tops, numbers)
            sum_u += u
            sum_v += v
            sum_w += w
        return T(sum_u), T(sum_v), T(sum_w)

    return sums_of


def _write(maths: PairMaths, streamed: bool) -> Callable[..., Any]:
    """Return the stage that writes value and derivatives of pair `r`, and returns the value."""
    close, entry = maths.finish, maths.entry
    put, put_each = (stream, stream_each) if streamed else (store, store_each)

    @written_out
    def write(a, b, c, y, grad_output, results, factor, r, columns, sums, tops, numbers):
        values, grads, hess = results
        T = type(factor)
        value, coefs = close(sums, tops, load_or(y, r, T(0)), numbers)
        store(values, r, value)
        g = load_or(grad_output, r, factor)
        for j in range(r * columns, (r + 1) * columns):
            slopes, curvature = entry(load(a, j), load_or(b, j, T(0)), load_or(c, j, T(0)), coefs, numbers)
            put_each(grads, j, slopes, g)
            put(hess, j, g * curvature)
        apart_or_in_place()
        return value

    return write


@functools.cache
def kernel(maths: PairMaths, streamed: bool = False) -> Kernel:
    """Return the kernel of a loss of vectors; of vectors of whole lines if the derivatives are `streamed`."""
    peaks, again = maths.peaks, maths.again
    has_peaks, has_again = peaks is not None, again is not None
    largest, sums_of, write = _largest(maths) if has_peaks else None, _sums_of(maths), _write(maths, streamed)

    def pairwise(a, b, c, y, grad_output, values, d0, d1, d2, hess, params, scale, count, columns, queue, lead):
        vector_function()
        like = load(a, 0)
        T = type(like)
        numbers, factor, results = cast(params, like), T(scale), (values, (d0, d1, d2), hess)
        ones = (T(1), T(1), T(1))
        for k, start, stop in chunks(queue, 0, count, 1):
            total = 0.0
            for r in range(start, stop):
                base = r * columns
                tops = largest(a, b, c, base, columns, numbers, factor) if has_peaks else ones
                sums = sums_of(a, b, c, base, columns, tops, numbers, factor)
                if has_again:
                    tops = again(sums, numbers)
                    if tops != ones:
                        sums = sums_of(a, b, c, base, columns, tops, numbers, factor)
                if has_peaks or (has_again and tops != ones):
                    total += write(a, b, c, y, grad_output, results, factor, r, columns, sums, tops, numbers)
                else:  # the maths for tops that are the constant 1, which costs nothing
                    total += write(a, b, c, y, grad_output, results, factor, r, columns, sums, ones, numbers)
            finish(queue, 0, k, total)
        return total_of(queue, 0) if lead else 0.0

    return Kernel(f"pairwise_{'streamed_' if streamed else ''}{maths.finish.__name__}_{maths.entry.__name__}", pairwise)


def plan(
    maths: PairMaths,
    operands: tuple[Any, ...],
    results: tuple[Any, ...],
    params: tuple[float, ...],
    shape: tuple[int, int],
) -> KernelPlan:
    """Plan a loss over `shape` = (vectors, components).

    `operands` are a, b, c, the labels and grad_output, `results` the values, three derivatives and the Hessian: flat
    arrays, absent ones ``()``.
    """
    (count, columns), params = shape, tuple(map(float, params))

    def numbers(scale: float, divisor: float, check: bool) -> tuple[Any, ...]:
        return params, scale / divisor, count, columns

    work = count * columns
    launch = kernel(maths).launch(
        count, work, (*operands, *results, *numbers(1.0, 1.0, True)), flat=True, params=len(params)
    )
    if not is_small(work) and moves_enough(work, (*operands[:3], *results)):
        streamed = functools.partial(kernel, maths, True)  # its rows are whole lines
        launch = past_caches(launch, lambda *args: are_streamed(args[:5], args[6:10], columns), streamed, count, work)
    return KernelPlan(launch, ALL_FLAT, numbers)
