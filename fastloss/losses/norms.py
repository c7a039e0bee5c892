"""Norms of differences, and the distance of pairs of vectors."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from fastloss.api.loss import loss
from fastloss.define.descriptions import Array, MathFunction, PairMaths, Pairwise
from fastloss.define.maths import maths
from fastloss.define.options import FINITE, FLAG, NON_NEGATIVE
from fastloss.define.scalars import power, sign, sqrt


class Norm(NamedTuple):
    """A p-norm of a difference d, by its parts: |d|^p, (Σ |d|^p)^(1/p), and the derivatives with respect to d.

    `slope` and `curvature` get d, the norm, and the number of components that attain the maximum (infinity norm only).
    """

    name: str
    summand: MathFunction
    root: MathFunction
    slope: MathFunction
    curvature: MathFunction


@maths
def l1_summand(d, peak, p):
    """|d|."""
    return abs(d)


@maths
def l1_root(total, peak, p):
    """The sum itself."""
    return total


@maths
def l1_slope(d, norm, ties, p):
    """The sign of d."""
    return sign(d)


@maths
def l1_curvature(d, norm, ties, p):
    """0."""
    T = type(d)
    return T(0)


@maths
def l2_summand(d, peak, p):
    """d²."""
    return d * d


@maths
def l2_root(total, peak, p):
    """The square root."""
    return sqrt(total)


@maths
def l2_slope(d, norm, ties, p):
    """d / |d|, 0 for the zero vector."""
    T = type(d)
    return T(0) if norm == T(0) else d / norm


@maths
def l2_curvature(d, norm, ties, p):
    """(1 - (d/|d|)²) / |d|."""
    T = type(d)
    u = d / norm
    return (T(1) - u * u) / norm if norm > T(0) else T(0)


@maths
def lp_summand(d, peak, p):
    """|d|^p."""
    return power(abs(d), p)


@maths
def lp_root(total, peak, p):
    """The p-th root."""
    T = type(total)
    return power(total, T(1) / p)


@maths
def lp_slope(d, norm, ties, p):
    """sign(d) (|d| / norm)^(p - 1), 0 at 0."""
    T = type(d)
    return T(0) if norm == T(0) or d == T(0) else sign(d) * power(abs(d) / norm, p - T(1))


@maths
def lp_curvature(d, norm, ties, p):
    """(p - 1) |d|^(p - 2) / norm^(p - 1) (1 - (|d| / norm)^p)."""
    T = type(d)
    if norm > T(0) and d != T(0):
        u = abs(d) / norm
        return (p - T(1)) * power(u, p - T(2)) * (T(1) - power(u, p)) / norm
    return T(0)


@maths
def linf_summand(d, peak, p):
    """1 where |d| is the maximum."""
    T = type(d)
    return T(1) if abs(d) == peak else T(0)


@maths
def linf_root(total, peak, p):
    """The maximum."""
    return peak


@maths
def linf_slope(d, norm, ties, p):
    """The sign of d where |d| is the maximum, shared equally between ties."""
    T = type(d)
    return sign(d) / ties if abs(d) == norm else T(0)


@maths
def squared_slope(d, norm, ties, p):
    """2 d."""
    return d + d


@maths
def squared_curvature(d, norm, ties, p):
    """2."""
    T = type(d)
    return T(2)


@maths
def l0_summand(d, peak, p):
    """1 where d is not 0."""
    T = type(d)
    return T(0) if d == T(0) else T(1)


NORMS = {
    0.0: Norm("l0", l0_summand, l1_root, l1_curvature, l1_curvature),
    1.0: Norm("l1", l1_summand, l1_root, l1_slope, l1_curvature),
    2.0: Norm("l2", l2_summand, l2_root, l2_slope, l2_curvature),
    math.inf: Norm("linf", linf_summand, linf_root, linf_slope, l1_curvature),
}
LP = Norm("lp", lp_summand, lp_root, lp_slope, lp_curvature)
SQUARED = Norm("squared", l2_summand, l1_root, squared_slope, squared_curvature)


def norm_of(order: float) -> Norm:
    """Return the norm of an order."""
    return NORMS.get(order, LP)


@functools.cache
def distance(norm: Norm) -> PairMaths:
    """Return the norm of a - b + e; params: the order p and e."""
    summand, root, slope, curvature = norm.summand, norm.root, norm.slope, norm.curvature

    def peaks(a, b, c, params):
        T = type(a)
        return abs(a - b + params[1]), T(0), T(0)

    def terms(a, b, c, tops, params):
        T = type(a)
        return summand(a - b + params[1], tops[0], params[0]), T(0), T(0)

    def row(sums, tops, y, params):
        d = root(sums[0], tops[0], params[0])
        return d, (d, sums[0])

    def entry(a, b, c, coefs, params):
        d = a - b + params[1]
        u = slope(d, coefs[0], coefs[1], params[0])
        return (u, -u), curvature(d, coefs[0], coefs[1], params[0])

    for function in (peaks, terms, row, entry):
        function.__name__ = function.__qualname__ = f"distance_{norm.name}_{function.__name__}"
        maths(function)
    return PairMaths(terms, row, entry, peaks if norm.name == "linf" else None)


@loss(
    "pairwise",
    wrt=("x1", "x2"),
    options={"p": NON_NEGATIVE, "eps": FINITE, "keepdim": FLAG},
)
def pairwise_distance(
    x1: Array, x2: Array, *, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Array:
    r"""Distance of pairs of vectors.

    .. math:: d(u, v) = \lVert u - v + \epsilon \rVert_p

    Parameters
    ----------
    x1, x2 : array, shape (N, D) or (D,), or such as broadcast together
        Vectors along the last axis; broadcasting makes a copy.
    p : float
        Order of the norm, not negative; infinity included. For 0, the number of components that differ.
    eps : float
        Added to each component of the difference.
    keepdim : bool
        Whether the last axis stays in the result, with length 1.

    Returns
    -------
    array
        One distance for each pair.

    Raises
    ------
    ValueError
        If the shapes do not go together or an option is out of range.
    TypeError
        If an array is not floating point, or the arrays lie on different devices.

    Notes
    -----
    A component that is 0 adds nothing to the gradient for p = 1 or p < 1, the zero vector has gradient 0, and for
    p = ∞ components that tie for the maximum share it equally, all as in torch; for p = 0 the gradient is 0. A
    non-contiguous vector is copied.

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
