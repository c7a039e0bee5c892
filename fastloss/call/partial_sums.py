"""Partial sums of means: a sum of values, what a mean would divide it by, and how many values count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastloss.call.array_ops import mapping
from fastloss.call.planning import Planning
from fastloss.define.point_maths import itself

_NUMBERS = frozenset((int, float))


def partial_of(planning: Planning, size: int, real: Any) -> Callable[[tuple[Any, ...], Any], tuple[float, ...]]:
    """Return what makes a partial sum of a call's arrays and of the sum of its `size` values."""
    backend, counts, counted = planning.library.backend, planning.counts, planning.counted
    denominator, how_many = planning.denominator, planning.how_many or (lambda arrays: size)
    if counted is None or not size:
        return lambda arrays, total: numbers(
            backend, total, denominator(arrays) if callable(denominator) else denominator, how_many(arrays)
        )
    add_up = mapping(backend, itself, (backend.empty((size,), real),))

    def partial(arrays: tuple[Any, ...], total: Any) -> tuple[float, ...]:
        count = weight = add_up((counted(arrays),))
        if counts is not counted:
            weight = add_up((counts(arrays),))  # type: ignore[misc]
        return numbers(backend, total, weight, count)

    return partial


def numbers(backend: Any, *sums: Any) -> tuple[float, ...]:
    """Return sums as numbers; those of a device are waited for."""
    if _NUMBERS.issuperset(map(type, sums)):
        return sums
    return tuple([one if isinstance(one, int | float) else backend.number(one) for one in sums])
