"""The loop of losses of pairs and triplets of vectors: sums over the vectors, then the derivative of every component.

The second pass finds the row in the L1 cache, so memory is read once and written once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from fastloss.cpu.simd.llvm_hints import maximum, vector_function, wide_vectors
from fastloss.cpu.simd.memory import cast, load, load_or, store, store_each, stream, stream_each
from fastloss.cpu.simd.nontemporal import are_streamed, moves_enough
from fastloss.cpu.simd.work_queue import shared
from fastloss.cpu.windows import ALL_FLAT
from fastloss.define.descriptions import PairMaths
from fastloss.runtime.compile import FASTMATH, Kernel, is_small, kernel_part
from fastloss.runtime.plans import KernelPlan


@kernel_part(fastmath=FASTMATH, forceinline=True)
def _three(a, b, c, j):
    like = load(a, j)
    zero = type(like)(0)
    return like, load_or(b, j, zero), load_or(c, j, zero)


def _largest(maths: PairMaths) -> Callable[..., Any]:
    """Return the function that gives the maxima of a pair, which begins at `base`."""
    peaks: Any = maths.peaks

    @kernel_part(fastmath=FASTMATH, forceinline=True)
    def largest(a, b, c, base, columns, numbers):
        wide_vectors()
        T = type(load(a, base))
        top_u = top_v = top_w = T(-np.inf) if columns else T(0)
        for j in range(base, base + columns):
            u, v, w = peaks(*_three(a, b, c, j), numbers)
            top_u = maximum(top_u, u)
            top_v = maximum(top_v, v)
            top_w = maximum(top_w, w)
        return top_u, top_v, top_w

    return largest


def _summed(maths: PairMaths) -> Callable[..., Any]:
    """Return the function that gives the sums of a pair."""
    terms = maths.terms

    @kernel_part(fastmath=FASTMATH, forceinline=True)
    def summed(a, b, c, base, columns, maxima, numbers):
        wide_vectors()
        sum_u = 0.0
        sum_v = 0.0
        sum_w = 0.0
        for j in range(base, base + columns):
            u, v, w = terms(*_three(a, b, c, j), maxima, numbers)
            sum_u += u
            sum_v += v
            sum_w += w
        T = type(maxima[0])
        return T(sum_u), T(sum_v), T(sum_w)

    return summed


def _finished(maths: PairMaths, streamed: bool) -> Callable[..., Any]:
    """Return the function that writes value and derivatives of pair `r`, and returns the value.

    It is compiled into the kernel once with maxima that are the constant 1, and cost nothing, and once with others.
    """
    finish, entry = maths.finish, maths.entry
    write, write_each = (stream, stream_each) if streamed else (store, store_each)

    @kernel_part(fastmath=FASTMATH, forceinline=True)
    def finished(a, b, c, y, grad_output, values, grads, hess, factor, r, columns, sums, maxima, numbers):
        wide_vectors()
        T = type(factor)
        value, coefs = finish(sums, maxima, load_or(y, r, T(0)), numbers)
        store(values, r, value)
        g = load_or(grad_output, r, factor)
        for j in range(r * columns, (r + 1) * columns):
            slopes, curvature = entry(*_three(a, b, c, j), coefs, numbers)
            write_each(grads, j, slopes, g)
            write(hess, j, g * curvature)
        return value

    return finished


@functools.cache
def kernel(maths: PairMaths, streamed: bool = False) -> Kernel:
    """Return the kernel of a loss of vectors; of vectors of whole lines if the derivatives are `streamed`."""
    has_peaks, has_again = maths.peaks is not None, maths.again is not None
    summed, finished, largest = _summed(maths), _finished(maths, streamed), _largest(maths) if has_peaks else None
    again = maths.again

    @kernel_part()
    def vectors(start, stop, a, b, c, y, grad_output, values, grads, hess, numbers, factor, columns):
        vector_function()
        T = type(factor)
        ones = (T(1), T(1), T(1))
        total = 0.0
        for r in range(start, stop):
            base = r * columns
            maxima = largest(a, b, c, base, columns, numbers) if has_peaks else ones
            sums = summed(a, b, c, base, columns, maxima, numbers)
            if has_again:
                maxima = again(sums, numbers)
            if has_peaks or (has_again and maxima != ones):
                if has_again:
                    sums = summed(a, b, c, base, columns, maxima, numbers)
                total += finished(
                    a, b, c, y, grad_output, values, grads, hess, factor, r, columns, sums, maxima, numbers
                )
            else:
                total += finished(a, b, c, y, grad_output, values, grads, hess, factor, r, columns, sums, ones, numbers)
        return total

    share_vectors = shared(vectors)

    def pairwise(a, b, c, y, grad_output, values, d0, d1, d2, hess, params, scale, count, columns, queue, lead):
        like = load(a, 0)
        numbers, factor = cast(params, like), type(like)(scale)
        args = (a, b, c, y, grad_output, values, (d0, d1, d2), hess, numbers, factor, columns)
        return share_vectors(queue, 0, count, 1, lead, args)

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
        launch = launch._replace(code=_streaming(maths, count, columns, launch.code))
    return KernelPlan(launch, ALL_FLAT, numbers)


def _streaming(maths: PairMaths, count: int, columns: int, stored: Callable[..., Any]) -> Callable[..., Any]:
    """Return `stored`, or the same with derivatives past the caches where they are large and rows are whole lines."""

    def code(*args: Any) -> Any:
        if not are_streamed(args[:5], args[6:10], columns):
            return stored(*args)
        return kernel(maths, True).launch(count, count * columns, args[:-2]).code(*args)

    return code
