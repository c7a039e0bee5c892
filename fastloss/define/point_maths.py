"""Functions of single elements that the calling path itself needs: copies, sums, weights, and checks of domains."""

from __future__ import annotations

import functools
import math
from typing import Any

from fastloss.define.maths import maths, named
from fastloss.define.scalars import exp_nonpositive, tanh, where


@maths
def itself(x):
    """x."""
    T = type(x)
    return x, (T(1),), T(0)


@maths
def negated(x):
    """-x."""
    T = type(x)
    return -x, (T(-1),), T(0)


@maths
def plus(x, y):
    """x + y."""
    T = type(x)
    return x + y, (T(1), T(1)), T(0)


@maths
def times(x, factor):
    """x times a factor."""
    T = type(x)
    return factor * x, (factor,), T(0)


@maths
def plus_times(x, y, factor):
    """x plus a factor times y."""
    T = type(x)
    return x + factor * y, (T(1), factor), T(0)


@functools.cache
def weighted(point: Any) -> Any:
    """Return a loss with its weight as a third operand; `centre`, the last parameter, is the weighted mean or 0."""

    def weighted(x, t, w, *params):
        value, slopes, curvature = point(x, t, *params[:-1])
        return w * value, (w * slopes[0], w * slopes[1], value - params[-1]), w * curvature

    return maths(named(weighted, f"weighted_{point.__name__}"))


@maths
def outside_unit_interval(x):
    """1 where x lies outside [0, 1]."""
    T = type(x)
    return (T(1) if x < T(0) or x > T(1) else T(0)), (T(0),), T(0)


def in_unit_interval(*names: str) -> tuple[tuple[str, Any, str], ...]:
    """Return the domains of arguments that must lie in [0, 1]."""
    return tuple([(name, outside_unit_interval, "must lie in [0, 1], but holds values outside") for name in names])


@maths
def is_negative(x):
    """1 where x is negative."""
    T = type(x)
    return (T(1) if x < T(0) else T(0)), (T(0),), T(0)


@maths
def other(x, y):
    """y, in the type of x."""
    T = type(x)
    return y, (T(0),), T(0)


@maths
def weight_of(s):
    """s, NaN where it is negative; the first derivative is s itself."""
    T = type(s)
    return (s if s >= T(0) else T(math.nan)), (s,), T(0)


@maths
def product(s, u):
    """s u, NaN where s is negative; the first derivative is s u itself."""
    T = type(s)
    return where(s >= T(0), s * u, T(math.nan)), (s * u,), T(0)


@maths
def weighed(v, s):
    """s v; 0 for a weight s of 0, whatever v is."""
    T = type(v)
    return where(s != T(0), s * v, T(0)), (T(0),), T(0)


@maths
def kept(v, s):
    """v, 0 beside a weight s of 0."""
    T = type(v)
    return where(s != T(0), v, T(0)), (T(0),), T(0)


@maths
def finite_if_out(v, s):
    """v; beside a weight s of 0 what is not finite is 0."""
    T = type(v)
    return (v if s != T(0) or v - v == T(0) else T(0)), (T(0),), T(0)


@maths
def is_nonzero(s):
    """1 where a weight is not 0."""
    T = type(s)
    return (T(1) if s != T(0) else T(0)), (T(0),), T(0)


@maths
def are_nonzero(s, u):
    """1 where neither of two weights is 0."""
    T = type(s)
    return (T(1) if s != T(0) and u != T(0) else T(0)), (T(0),), T(0)


@functools.cache
def sampled(point: Any, arity: int, slopes: int) -> Any:
    """Return a loss of `arity` operands with weights of samples as one more; a weight of 0 takes an element out.

    The loss is differentiable in the first `slopes` of its operands.
    """

    def one(x, s, *params):
        T = type(x)
        value, d, curvature = point(x, *params)
        counts, zero = s != T(0), T(0)
        return where(counts, s * value, zero), (where(counts, s * d[0], zero),), where(counts, s * curvature, zero)

    def two(x, t, s, *params):
        T = type(x)
        value, d, curvature = point(x, t, *params)
        counts, zero = s != T(0), T(0)
        return where(counts, s * value, zero), (where(counts, s * d[0], zero),), where(counts, s * curvature, zero)

    def both(x, t, s, *params):
        T = type(x)
        value, d, curvature = point(x, t, *params)
        counts, zero = s != T(0), T(0)
        slopes = where(counts, s * d[0], zero), where(counts, s * d[1], zero)
        return where(counts, s * value, zero), slopes, where(counts, s * curvature, zero)

    kind: Any = one if arity == 1 else two if slopes == 1 else both
    made = named(kind, f"sampled{arity}{slopes}_{point.__name__}")
    if hasattr(point, "hard"):
        made.hard = sampled(point.hard, arity, slopes)
    return maths(made)


@functools.cache
def slopes_of(point: Any) -> Any:
    """Return a loss whose value is 0: of what a gradient alone needs, the compiler leaves out the value's logarithm."""

    def made(x, *rest):
        T = type(x)
        _, slopes, curvature = point(x, *rest)
        return T(0), slopes, curvature

    if hasattr(point, "hard"):
        made.hard = slopes_of(point.hard)  # type: ignore[attr-defined]
    return maths(named(made, f"slopes_of_{point.__name__}"))


@maths
def capped(x, scale, cap):
    """Logits x replaced by c tanh(a x / c)."""
    T = type(x)
    return cap * tanh(scale * x / cap), (T(0),), T(0)


@maths
def scaled_softmax(x, lse, factor, scale):
    """Softmax exp(x - lse) times a factor; 0 where that is 0, whatever x is."""
    T = type(x)
    p = exp_nonpositive(x - lse)
    return where(factor == T(0), T(0), scale * factor * p), (T(0), T(0), T(0)), T(0)


@maths
def sech_squared(u):
    """1 / cosh² u, by an exponential: 1 - tanh² u has no digits left where u is large."""
    T = type(u)
    e = exp_nonpositive(-abs(u + u))
    return T(4) * e / ((T(1) + e) * (T(1) + e))


@maths
def uncapped(g, x, scale, cap):
    """Carry g back: g dz/dx, where z = c tanh(a x / c)."""
    T = type(g)
    return g * (scale * sech_squared(scale * x / cap)), (T(0),), T(0)


@maths
def uncapped_twice(h, g, x, scale, cap):
    """Carry h back: h (dz/dx)² + g d²z/dx², where z = c tanh(a x / c)."""
    T = type(h)
    u = scale * x / cap
    slope = scale * sech_squared(u)
    return slope * (h * slope - T(2) * g * tanh(u) * scale / cap), (T(0),), T(0)


@maths
def shard_softmax(x, lse, g):
    """Softmax exp(x - lse) times g; 0 for a g of 0."""
    T = type(x)
    difference = x - lse
    p = exp_nonpositive(T(0) if difference > T(0) else difference)
    return (g * p if g != T(0) else T(0)), (T(0),), T(0)
