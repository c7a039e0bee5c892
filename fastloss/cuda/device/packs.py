"""From a function of one element to one of a pack of neighbouring elements, their number a power of 2.

The calls are written out: a loop over a tuple would put it into local memory wherever the compiler leaves the loop as
it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from fastloss.cuda.device.numba_cuda import jitable


def spread(one: Callable[..., Any], width: int) -> Callable[..., Any]:
    """Return the function that calls ``one(x, b, c, w, u, i, rest)`` for each element of five packs; i counts up."""
    if width == 1:

        @jitable
        def single(x, b, c, w, u, i, rest):
            return (one(x[0], b[0], c[0], w[0], u[0], i, rest),)

        return single

    half = width // 2
    low, high = spread(one, half), spread(one, half)
    first, second = halves(width)

    @jitable
    def both(x, b, c, w, u, i, rest):
        return low(first(x), first(b), first(c), first(w), first(u), i, rest) + high(
            second(x), second(b), second(c), second(w), second(u), i + half, rest
        )

    return both


@functools.cache
def mapped(one: Callable[..., Any], width: int) -> Callable[..., Any]:
    """Return the function that gives the pack of ``one(x, rest)``, x each number of a pack."""
    if width == 1:

        @jitable
        def single(pack, rest):
            return (one(pack[0], rest),)

        return single

    part = mapped(one, width // 2)
    first, second = halves(width)

    @jitable
    def both(pack, rest):
        return part(first(pack), rest) + part(second(pack), rest)

    return both


@functools.cache
def halves(width: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the functions that give the first and the second half of a pack."""
    half = width // 2

    @jitable
    def first(pack):
        return pack[:half]

    @jitable
    def second(pack):
        return pack[half:]

    return first, second


@functools.cache
def filled(width: int) -> Callable[..., Any]:
    """Return the function that gives a pack of one number repeated."""
    if width == 1:

        @jitable
        def single(value):
            return (value,)

        return single

    part = filled(width // 2)

    @jitable
    def both(value):
        return part(value) + part(value)

    return both


@functools.cache
def folded(combine: Callable[..., Any], width: int, place: int | None = None) -> Callable[..., Any]:
    """Return the function that combines the numbers of a pack, or entry `place` of its outcomes, in pairs of halves."""
    if width == 1:

        @jitable
        def single(pack):
            return pack[0]

        @jitable
        def entry(outcomes):
            return outcomes[0][place]

        return single if place is None else entry

    part = folded(combine, width // 2, place)
    first, second = halves(width)

    @jitable
    def both(pack):
        return combine(part(first(pack)), part(second(pack)))

    return both
