"""A row in registers: each thread of a group holds packs of neighbouring entries, `lanes` packs apart.

The functions are written out for each pack. Their places in the row are constants, which cost no instruction: an access
adds them to the address of the thread's first pack. `left` is how many entries the row has from there on, in 32 bits.
There are as many packs, a power of 2, as rows need: the first half of them is always there, and is not asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from fastloss.cuda.device.block import added
from fastloss.cuda.device.memory import load_pack, store_derivatives, store_pack
from fastloss.cuda.device.numba_cuda import jitable
from fastloss.cuda.device.packs import folded, halves


@functools.cache
def reading(packs: int, stride: int, at: int = 0, sure: bool = False) -> Callable[..., Any]:
    """Return the function that reads a thread's packs, `stride` entries apart, as one tuple.

    Its arguments are (array, place of the first pack, left, what packs beyond the row hold).
    """
    if packs == 1:

        @jitable
        def one(array, place, left, beyond):
            return load_pack(array, place + at, beyond) if sure or left > at else beyond

        return one

    half = packs // 2
    low, high = reading(half, stride, at, sure or at == 0), reading(half, stride, at + half * stride, sure)

    @jitable
    def both(array, place, left, beyond):
        return low(array, place, left, beyond) + high(array, place, left, beyond)

    return both


@functools.cache
def filling(packs: int, stride: int, at: int = 0, sure: bool = False) -> Callable[..., Any]:
    """Return the function that writes one pack in the place of each of a thread's: (arrays, place, left, pack)."""
    if packs == 1:

        @jitable
        def one(arrays, place, left, pack):
            if sure or left > at:
                store_pack(arrays, place + at, pack)

        return one

    half = packs // 2
    low, high = filling(half, stride, at, sure or at == 0), filling(half, stride, at + half * stride, sure)

    @jitable
    def both(arrays, place, left, pack):
        low(arrays, place, left, pack)
        high(arrays, place, left, pack)

    return both


@functools.cache
def adding_up(
    sums: Callable[..., Any], packs: int, width: int, stride: int, at: int = 0, sure: bool = False
) -> Callable[..., Any]:
    """Return the function that adds up the three terms of a thread's entries.

    `sums` is what :func:`fastloss.cuda.loops.row_maths.packed` returns first. The arguments are (entries, exponentials,
    second operand, class weights, place of the first pack, its place in the row, left, a pack of 1, `rest`).
    """
    if packs == 1:
        first_of, second_of, third_of = (folded(added, width, k) for k in range(3))

        @jitable
        def one(row, exps, t, weight, place, first, left, ones, rest):
            T = type(ones[0])
            if sure or left > at:
                others, weights = load_pack(t, place + at, ones), load_pack(weight, first + at, ones)
                parts = sums(row, others, exps, weights, ones, at, rest)
                return T(first_of(parts)), T(second_of(parts)), T(third_of(parts))
            return T(0), T(0), T(0)

        return one

    half = packs // 2
    low = adding_up(sums, half, width, stride, at, sure or at == 0)
    high = adding_up(sums, half, width, stride, at + half * stride, sure)
    head, tail = halves(packs * width)

    @jitable
    def both(row, exps, t, weight, place, first, left, ones, rest):
        a, b, c = low(head(row), head(exps), t, weight, place, first, left, ones, rest)
        d, e, f = high(tail(row), tail(exps), t, weight, place, first, left, ones, rest)
        return a + d, b + e, c + f

    return both


@functools.cache
def deriving(
    entries: Callable[..., Any], packs: int, width: int, stride: int, at: int = 0, sure: bool = False
) -> Callable[..., Any]:
    """Return the function that writes the derivatives of a thread's entries.

    `entries` is what :func:`fastloss.cuda.loops.row_maths.packed` returns last. The arguments are those of
    :func:`adding_up`'s, with the arrays of derivatives before `rest`.
    """
    if packs == 1:

        @jitable
        def one(row, exps, t, weight, place, first, left, ones, grads, hess, rest):
            if sure or left > at:
                others, weights = load_pack(t, place + at, ones), load_pack(weight, first + at, ones)
                outcomes = entries(row, others, exps, weights, ones, at, rest)
                store_derivatives(grads, hess, place + at, outcomes)

        return one

    half = packs // 2
    low = deriving(entries, half, width, stride, at, sure or at == 0)
    high = deriving(entries, half, width, stride, at + half * stride, sure)
    head, tail = halves(packs * width)

    @jitable
    def both(row, exps, t, weight, place, first, left, ones, grads, hess, rest):
        low(head(row), head(exps), t, weight, place, first, left, ones, grads, hess, rest)
        high(tail(row), tail(exps), t, weight, place, first, left, ones, grads, hess, rest)

    return both
