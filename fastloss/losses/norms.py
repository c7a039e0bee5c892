"""Norms of differences, and the distance of pairs of vectors."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from fastloss.api.loss import loss
from fastloss.define.descriptions import Array, MathFunction, PairMaths, Pairwise
from fastloss.define.maths import maths, named
from fastloss.define.options import FINITE, FLAG, NUMBER
from fastloss.define.scalars import power, scale_of_size, scale_of_squares, sign, smallest_normal, sqrt


class Norm(NamedTuple):
    """A p-norm of a difference d, by its parts, which see d with a `top` for the whole vector.

    `peak`: the number whose largest value over the vector is the top, ``None`` where the sum is taken without one; the
    top is then what d is multiplied by. It is 1 unless `rescaled` is set and the sum of squares leaves the range in
    which it is accurate (:func:`fastloss.define.scalars.scale_of_squares`).

    summand(d, top, p)
        What is summed up.
    finish(total, top, p) -> (norm, shape)
        The norm, and what the derivatives need, three numbers.
    slope(d, shape, p), curvature(d, shape, p)
        The derivatives with respect to d.
    """

    name: str
    summand: MathFunction
    finish: MathFunction
    slope: MathFunction
    curvature: MathFunction
    peak: MathFunction | None = None
    rescaled: bool = False


@maths
def l1_summand(d, top, p):
    """|d|."""
    return abs(d)


@maths
def sum_finish(total, top, p):
    """The sum itself."""
    return total, (top, top, top)


@maths
def l1_slope(d, shape, p):
    """The sign of d."""
    return sign(d)


@maths
def zero(d, shape, p):
    """0."""
    T = type(d)
    return T(0)


@maths
def l2_summand(d, top, p):
    """The square of d, scaled."""
    u = d * top
    return u * u


@maths
def l2_finish(total, top, p):
    """The square root, and its inverse, both before the scale is taken back; 0 for the zero vector."""
    T = type(total)
    root = sqrt(total)
    inverse = T(1) / root if total != T(0) else T(0)
    return root / top, (top, inverse, inverse)


@maths
def l2_slope(d, shape, p):
    """d / |d|."""
    return d * shape[0] * shape[1]


@maths
def l2_curvature(d, shape, p):
    """(1 - (d / |d|)²) / |d|."""
    T = type(d)
    u = d * shape[0] * shape[1]
    rest = T(1) - u * u
    return (T(0) if rest < T(0) else rest) * shape[1] * shape[0]


@maths
def size(d):
    """|d|."""
    return abs(d)


@maths
def negative_size(d):
    """-|d|, whose largest value is that of the smallest |d|."""
    return -abs(d)


@maths
def ratio(d, top):
    """|d| / top for a top that is the size of a component, or minus it; 0 if the top is 0."""
    T = type(d)
    reference = abs(top)
    scale = scale_of_size(reference)  # the inverse of a subnormal number would be infinite
    inverse = T(1) / (reference * scale) if reference != T(0) else T(0)
    return abs(d) * scale * inverse


@maths
def power_of_ratio(d, top, q):
    """(|d| / top)^q; where the ratio underflows by way of the powers of both, which for |q| < 1 do not."""
    T = type(d)
    u = ratio(d, top)
    apart = u < smallest_normal(d) and q < T(1) and q > T(-1)
    y = power(abs(d) if apart else u, q)
    return y * (power(abs(top), -q) if apart else T(1))


@maths
def lp_summand(d, top, p):
    """(|d| / top)^p."""
    return power_of_ratio(d, top, p)


@maths
def lp_finish(total, top, p):
    """top S^(1/p) for S = Σ (|d| / top)^p; and the top, S^(1/p - 1) and 1 / S."""
    T = type(total)
    reference = abs(top)
    known = reference > T(0) and reference < T(math.inf)
    inverse = T(1) / total
    norm = reference * power(total, T(1) / p) if known else reference
    return norm, (top, T(0) if reference == T(0) else power(inverse, T(1) - T(1) / p), inverse)


@maths
def lp_slope(d, shape, p):
    """sign(d) (|d| / norm)^(p - 1), 0 at 0."""
    T = type(d)
    u = power_of_ratio(d, shape[0], p - T(1))
    return T(0) if d == T(0) or shape[1] == T(0) else sign(d) * u * shape[1]


@maths
def lp_curvature(d, shape, p):
    """(p - 1) |d|^(p - 2) / norm^(p - 1) (1 - (|d| / norm)^p)."""
    T = type(d)
    scale = scale_of_size(abs(shape[0]))
    rest = T(1) - power_of_ratio(d, shape[0], p) * shape[2]
    bend = (p - T(1)) * power_of_ratio(d, shape[0], p - T(2)) * shape[1] * (T(0) if rest < T(0) else rest)
    return T(0) if d == T(0) or shape[1] == T(0) else bend / (abs(shape[0]) * scale) * scale


@maths
def linf_summand(d, top, p):
    """1 where |d| is the maximum, or the minimum."""
    T = type(d)
    return T(1) if abs(d) == abs(top) else T(0)


@maths
def linf_finish(total, top, p):
    """The maximum or the minimum, and how many components attain it."""
    return abs(top), (top, total, total)


@maths
def linf_slope(d, shape, p):
    """The sign of d where |d| is the maximum, shared equally between ties."""
    T = type(d)
    return sign(d) / shape[1] if abs(d) == abs(shape[0]) else T(0)


@maths
def squared_slope(d, shape, p):
    """2 d."""
    return d + d


@maths
def squared_curvature(d, shape, p):
    """2."""
    T = type(d)
    return T(2)


@maths
def l0_summand(d, top, p):
    """1 where d is not 0."""
    T = type(d)
    return T(0) if d == T(0) else T(1)


_LP = (lp_summand, lp_finish, lp_slope, lp_curvature)
_LINF = (linf_summand, linf_finish, linf_slope, zero)
NORMS = {
    0.0: Norm("l0", l0_summand, sum_finish, zero, zero),
    1.0: Norm("l1", l1_summand, sum_finish, l1_slope, zero),
    2.0: Norm("l2", l2_summand, l2_finish, l2_slope, l2_curvature, rescaled=True),
    math.inf: Norm("linf", *_LINF, size),
    -math.inf: Norm("lminf", *_LINF, negative_size),
}
LP = Norm("lp", *_LP, size)
NEGATIVE = Norm("lminp", *_LP, negative_size)
SQUARED = Norm("squared", l2_summand, sum_finish, squared_slope, squared_curvature)

# Orders from here on are infinite: the norm is the largest component in any precision, ties share the gradient.
LARGEST_ORDER = 1e30


def norm_of(order: float) -> Norm:
    """Return the norm of an order."""
    if abs(order) > LARGEST_ORDER:
        return NORMS[math.copysign(math.inf, order)]
    return NORMS.get(order, LP if order > 0 else NEGATIVE)


@functools.cache
def distance(norm: Norm) -> PairMaths:
    """Return the norm of a - b + e; params: the order p and e."""
    summand, finish, slope, curvature = norm.summand, norm.finish, norm.slope, norm.curvature
    peak = norm.peak or size

    def peaks(a, b, c, params):
        T = type(a)
        return peak(a - b + params[1]), T(0), T(0)

    def again(sums, params):
        T = type(sums[0])
        return scale_of_squares(sums[0]), T(1), T(1)

    def terms(a, b, c, tops, params):
        T = type(a)
        return summand(a - b + params[1], tops[0], params[0]), T(0), T(0)

    def row(sums, tops, y, params):
        return finish(sums[0], tops[0], params[0])

    def entry(a, b, c, coefs, params):
        d = a - b + params[1]
        u = slope(d, coefs, params[0])
        return (u, -u), curvature(d, coefs, params[0])

    for function in (peaks, again, terms, row, entry):
        maths(named(function, f"distance_{norm.name}_{function.__name__}"))
    return PairMaths(terms, row, entry, peaks if norm.peak else None, again if norm.rescaled else None)


@loss("pairwise", wrt=("x1", "x2"), options={"p": NUMBER, "eps": FINITE, "keepdim": FLAG})
def pairwise_distance(x1: Array, x2: Array, *, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Array:
    r"""Distance of pairs of vectors.

    .. math:: d(u, v) = \lVert u - v + \epsilon \rVert_p

    Parameters
    ----------
    x1, x2 : array, shape (N, D) or (D,), or such as broadcast together
        Vectors along the last axis; broadcasting makes a copy.
    p : float
        Order of the norm, infinities included. For 0, the number of components that differ; a negative order sums up
        inverses, so that the smallest component decides, and -infinity takes that one.
    eps : float
        Added to each component of the difference.
    keepdim : bool
        Whether the last axis stays in the result, with length 1.

    Returns
    -------
    array
        One distance for each pair.

    Notes
    -----
    A component that is 0 adds nothing to the gradient for p = 1 or p < 1, the zero vector has gradient 0, and for
    p = ∞ components that tie for the maximum share it equally, all as in torch; for p = 0 the gradient is 0. Powers of
    components neither overflow nor underflow: any finite differences have the distance and the gradient that is theirs,
    where torch gives infinity, 0 or NaN. A non-contiguous vector is copied.

    References
    ----------
    ``torch.nn.functional.pairwise_distance``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.pairwise_distance([[3.0, 0.0]], [[0.0, 4.0]]).round(4))
    [5.]
    """
    return Pairwise(
        distance(norm_of(float(p))),
        (x1, x2),
        ("x1", "x2"),
        params=(float(p), float(eps)),
        reduction="none",
        broadcast=True,
        keepdim=keepdim,
    )
