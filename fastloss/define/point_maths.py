"""Functions of single elements that the calling path itself needs: copies, sums, weights, and checks of domains."""

from __future__ import annotations

import functools
from typing import Any

from fastloss.define.maths import maths


@maths
def itself(x):
    """X."""
    T = type(x)
    return x, (T(1),), T(0)


@maths
def negated(x):
    """-x."""
    T = type(x)
    return -x, (T(-1),), T(0)


@maths
def plus(x, y):
    """X + y."""
    T = type(x)
    return x + y, (T(1), T(1)), T(0)


@maths
def times(x, factor):
    """X times a factor."""
    T = type(x)
    return factor * x, (factor,), T(0)


@maths
def plus_times(x, y, factor):
    """X plus a factor times y."""
    T = type(x)
    return x + factor * y, (T(1), factor), T(0)


@functools.cache
def weighted(point: Any) -> Any:
    """Return a loss with its weight as a third operand; `centre`, the last parameter, is the weighted mean or 0."""

    def weighted(x, t, w, *params):
        value, slopes, curvature = point(x, t, *params[:-1])
        return w * value, (w * slopes[0], w * slopes[1], value - params[-1]), w * curvature

    weighted.__name__ = weighted.__qualname__ = f"weighted_{point.__name__}"
    return maths(weighted)


@maths
def outside_unit_interval(x):
    """1 where x lies outside [0, 1]."""
    T = type(x)
    return (T(1) if x < T(0) or x > T(1) else T(0)), (T(0),), T(0)


@maths
def is_negative(x):
    """1 where x is negative."""
    T = type(x)
    return (T(1) if x < T(0) else T(0)), (T(0),), T(0)
