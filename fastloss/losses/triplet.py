"""Triplets of vectors, and the norms that measure their distances."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from fastloss._registry import jitable, loss
from fastloss._spec import FINITE, FLAG, NORM, POSITIVE, Array, MathFunction, PairMaths, Pairwise
from fastloss.losses.scalars import power, sign, sqrt


class Norm(NamedTuple):
    """A p-norm of a difference d, by its parts: |d|^p, (Σ |d|^p)^(1/p), and the derivatives with respect to d.

    `slope` and `curvature` get d, the norm, and the number of components that attain the maximum (infinity norm only).
    """

    name: str
    summand: MathFunction
    root: MathFunction
    slope: MathFunction
    curvature: MathFunction


@jitable
def l1_summand(d, peak, p):
    """|d|."""
    return abs(d)


@jitable
def l1_root(total, peak, p):
    """The sum itself."""
    return total


@jitable
def l1_slope(d, norm, ties, p):
    """The sign of d."""
    return sign(d)


@jitable
def l1_curvature(d, norm, ties, p):
    """0."""
    T = type(d)
    return T(0)


@jitable
def l2_summand(d, peak, p):
    """d²."""
    return d * d


@jitable
def l2_root(total, peak, p):
    """The square root."""
    return sqrt(total)


@jitable
def l2_slope(d, norm, ties, p):
    """d / |d|, 0 for the zero vector."""
    T = type(d)
    return d / norm if norm > T(0) else T(0)


@jitable
def l2_curvature(d, norm, ties, p):
    """(1 - (d/|d|)²) / |d|."""
    T = type(d)
    u = d / norm
    return (T(1) - u * u) / norm if norm > T(0) else T(0)


@jitable
def lp_summand(d, peak, p):
    """|d|^p."""
    return power(abs(d), p)


@jitable
def lp_root(total, peak, p):
    """The p-th root."""
    T = type(total)
    return power(total, T(1) / p)


@jitable
def lp_slope(d, norm, ties, p):
    """sign(d) (|d| / norm)^(p - 1), 0 at 0."""
    T = type(d)
    return sign(d) * power(abs(d) / norm, p - T(1)) if norm > T(0) and d != T(0) else T(0)


@jitable
def lp_curvature(d, norm, ties, p):
    """(p - 1) |d|^(p - 2) / norm^(p - 1) (1 - (|d| / norm)^p)."""
    T = type(d)
    if norm > T(0) and d != T(0):
        u = abs(d) / norm
        return (p - T(1)) * power(u, p - T(2)) * (T(1) - power(u, p)) / norm
    return T(0)


@jitable
def linf_summand(d, peak, p):
    """1 where |d| is the maximum."""
    T = type(d)
    return T(1) if abs(d) == peak else T(0)


@jitable
def linf_root(total, peak, p):
    """The maximum."""
    return peak


@jitable
def linf_slope(d, norm, ties, p):
    """The sign of d where |d| is the maximum, shared equally between ties."""
    T = type(d)
    return sign(d) / ties if abs(d) == norm else T(0)


NORMS = {
    1.0: Norm("l1", l1_summand, l1_root, l1_slope, l1_curvature),
    2.0: Norm("l2", l2_summand, l2_root, l2_slope, l2_curvature),
    math.inf: Norm("linf", linf_summand, linf_root, linf_slope, l1_curvature),
}
LP = Norm("lp", lp_summand, lp_root, lp_slope, lp_curvature)


@functools.cache
def triplet(norm: Norm, swap: bool) -> PairMaths:
    """Return max(0, d(a, p) - d(a, n) + margin), with d(p, n) where that is smaller and `swap` is set.

    params: margin, p, eps. At the hinge's kink the gradient is that of the active side; where the two negative
    distances are equal each gets half of it.
    """
    summand, root, slope, curvature = norm.summand, norm.root, norm.slope, norm.curvature

    def peaks(a, p, n, params):
        e = params[2]
        return abs(a - p + e), abs(a - n + e), abs(p - n + e)

    def terms(a, p, n, tops, params):
        T = type(a)
        _, power, e = params
        third = summand(p - n + e, tops[2], power) if swap else T(0)
        return summand(a - p + e, tops[0], power), summand(a - n + e, tops[1], power), third

    def row(sums, tops, y, params):
        T = type(sums[0])
        margin, power, _ = params
        positive = root(sums[0], tops[0], power)
        negative = root(sums[1], tops[1], power)
        swapped = root(sums[2], tops[2], power) if swap else T(0)
        share = T(0)  # of the swapped distance
        if swap:
            share = T(1) if swapped < negative else (T(0.5) if swapped == negative else T(0))
        nearest = swapped if swap and swapped < negative else negative
        hinge = positive - nearest + margin
        active = T(0) if hinge < T(0) else T(1)
        value = T(0) if hinge < T(0) else hinge
        return value, (active, (T(1) - share) * active, share * active, (positive, negative, swapped), sums)

    def entry(a, p, n, coefs, params):
        T = type(a)
        active, on_negative, on_swapped, norms, sums = coefs
        _, power, e = params
        u = active * slope(a - p + e, norms[0], sums[0], power)
        v = on_negative * slope(a - n + e, norms[1], sums[1], power)
        w = on_swapped * slope(p - n + e, norms[2], sums[2], power) if swap else T(0)
        second = active * curvature(a - p + e, norms[0], sums[0], power) - on_negative * curvature(
            a - n + e, norms[1], sums[1], power
        )
        return (u - v, -u - w, v + w), second

    kind = f"triplet_{norm.name}{'_swap' if swap else ''}"
    for function in (peaks, terms, row, entry):
        function.__name__ = function.__qualname__ = f"{kind}_{function.__name__}"
        jitable(function)
    return PairMaths(terms, row, entry, peaks if norm.name == "linf" else None)


@loss(
    "pairwise",
    wrt=("anchor", "positive", "negative"),
    options={"margin": POSITIVE, "p": NORM, "eps": FINITE, "swap": FLAG},
)
def triplet_margin_loss(
    anchor: Array,
    positive: Array,
    negative: Array,
    *,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Array:
    r"""Hinge on how much nearer the anchor is to the positive than to the negative.

    .. math:: \ell_n = \max(0, d(a_n, p_n) - d(a_n, n_n) + m), \qquad d(u, v) = \lVert u - v + \epsilon \rVert_p

    Parameters
    ----------
    anchor, positive, negative : array, shape (D,), (N, D) or (*, D)
        Vectors along the last axis; axes of length 1 are broadcast, by a copy.
    margin : float
        The margin m, positive.
    p : float
        Order of the norm, positive; infinity included.
    eps : float
        Added to each component of the differences.
    swap : bool
        Whether d(p, n) takes the place of d(a, n) where it is smaller.
    reduction : {"mean", "sum", "none"}
        The mean is over the number of triplets.

    Returns
    -------
    array
        Zero-dimensional, or one value for each triplet for ``reduction="none"``.

    Raises
    ------
    ValueError
        If the shapes do not go together or an option is out of range.
    TypeError
        If an array is not floating point, or the arrays lie on different devices.

    Notes
    -----
    Differentiable with respect to all three; at the hinge's kink the gradient is that of the active side, and where the
    two distances compared by `swap` are equal each gets half. A zero difference has gradient 0. A non-contiguous vector
    is copied.

    References
    ----------
    V. Balntas et al., "Learning shallow convolutional feature descriptors with triplet losses", BMVC 2016.
    ``torch.nn.functional.triplet_margin_loss``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.triplet_margin_loss([[0.0, 0.0]], [[0.0, 1.0]], [[0.0, 3.0]], margin=4.0).round(3))
    2.0
    """
    return Pairwise(
        triplet(NORMS.get(float(p), LP), bool(swap)),
        (anchor, positive, negative),
        ("anchor", "positive", "negative"),
        None,
        (float(margin), float(p), float(eps)),
        reduction,
    )
