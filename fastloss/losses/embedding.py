"""Losses of pairs and triplets of vectors."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from fastloss._registry import jitable, loss
from fastloss._spec import (
    FINITE,
    FLAG,
    NORM,
    POSITIVE,
    Array,
    Elementwise,
    MathFunction,
    PairMaths,
    Pairwise,
)
from fastloss.losses.scalars import power, relu, sign, sqrt, step

# torch adds this to each *squared* norm of a cosine embedding.
_COSINE_EPSILON = 1e-12


@jitable
def cosine_terms(a, b, c, peaks, params):
    """a·b, |a|² and |b|²."""
    return a * b, a * a, b * b


@jitable
def cosine_row(sums, peaks, y, params):
    """1 - cos for y = 1, max(0, cos - m) for y = -1, else 0."""
    T = type(y)
    dot, aa, bb = sums
    aa = aa + T(_COSINE_EPSILON)
    bb = bb + T(_COSINE_EPSILON)
    inverse = T(1) / sqrt(aa * bb)
    cosine = dot * inverse
    excess = cosine - params[0]
    value = T(0)
    slope = T(0)
    if y == T(1):
        value = T(1) - cosine
        slope = T(-1)
    elif y == T(-1):
        value = T(0) if excess < T(0) else excess
        slope = T(0) if excess < T(0) else T(1)
    return value, (slope * inverse, slope * cosine / aa, slope * cosine / bb, T(1) / aa)


@jitable
def cosine_entry(a, b, c, coefs, params):
    """±(b / |a||b| - cos a / |a|²), and ±(3 cos a²/|a|⁴ - 2 a b / |a|³|b| - cos / |a|²)."""
    T = type(a)
    inverse, along_a, along_b, inverse_aa = coefs
    curvature = (T(3) * along_a * a - T(2) * inverse * b) * a * inverse_aa - along_a
    return (inverse * b - along_a * a, inverse * a - along_b * b), curvature


COSINE = PairMaths(cosine_terms, cosine_row, cosine_entry)


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
    wrt=("input1", "input2"),
    options={"margin": FINITE},
    domains={"target": "sign"},
)
def cosine_embedding_loss(
    input1: Array, input2: Array, target: Array, *, margin: float = 0.0, reduction: str = "mean"
) -> Array:
    r"""Cosine distance of like pairs, cosine similarity above a margin of unlike ones.

    .. math::

        \ell_n = \begin{cases} 1 - \cos(a_n, b_n) & y_n = 1 \\ \max(0, \cos(a_n, b_n) - m) & y_n = -1 \end{cases}

    Parameters
    ----------
    input1, input2 : array, shape (D,) or (N, D)
        The vectors a and b; axes of length 1 are broadcast, by a copy.
    target : array, shape () or (N,)
        1 for a like pair, -1 for an unlike one; a single one serves all pairs. Any other value gives 0.
    margin : float
        The margin m.
    reduction : {"mean", "sum", "none"}
        The mean is over the number of pairs.

    Returns
    -------
    array
        Zero-dimensional, or one value for each pair for ``reduction="none"``.

    Raises
    ------
    ValueError
        If the shapes do not go together or an option is out of range.
    TypeError
        If a vector is not floating point, or the arrays lie on different devices.

    Notes
    -----
    As in torch, 1e-12 is added to each squared norm, which biases vectors shorter than about 1e-6. Differentiable with
    respect to `input1` and `input2`; at the kink ``cos = margin`` the gradient is that of the active side. A
    non-contiguous vector is copied.

    References
    ----------
    ``torch.nn.functional.cosine_embedding_loss``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.cosine_embedding_loss([[1.0, 0.0]], [[0.0, 1.0]], [1.0]))
    1.0
    """
    return Pairwise(COSINE, (input1, input2), ("input1", "input2"), target, (float(margin),), reduction)


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


@jitable
def margin_ranking(a, b, y, margin):
    """max(0, m - y (a - b))."""
    T = type(a)
    h = margin - y * (a - b)
    k = step(h)
    return relu(h), (-k * y, k * y, k * (b - a)), T(0)


@loss(
    "elementwise",
    wrt=("input1", "input2"),
    differentiable=("input1", "input2", "target"),
    hessian="zero",
    options={"margin": FINITE},
    domains={"target": "sign"},
)
def margin_ranking_loss(
    input1: Array, input2: Array, target: Array, *, margin: float = 0.0, reduction: str = "mean"
) -> Array:
    r"""Hinge on which of two scores is the larger.

    .. math:: \ell_i = \max(0, m - y_i (a_i - b_i))

    Parameters
    ----------
    input1, input2 : array, shape (*)
        The scores a and b.
    target : array, shape (*)
        1 where `input1` should be the larger, -1 where `input2` should. All three have the same number of axes; axes of
        length 1 are broadcast.
    margin : float
        The margin m.
    reduction : {"mean", "sum", "none"}
        The mean is over the number of elements.

    Returns
    -------
    array
        Zero-dimensional, or of the broadcast shape for ``reduction="none"``.

    Raises
    ------
    ValueError
        If the shapes do not go together or an option is out of range.
    TypeError
        If a score is not floating point, or the arrays lie on different devices.

    Notes
    -----
    Differentiable with respect to all three; at the hinge's kink the gradient is that of the active side. The second
    derivative is zero.

    References
    ----------
    ``torch.nn.functional.margin_ranking_loss``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.margin_ranking_loss([1.0], [2.0], [1.0]))
    1.0
    """
    return Elementwise(
        margin_ranking,
        (input1, input2, target),
        ("input1", "input2", "target"),
        (float(margin),),
        reduction=reduction,
        broadcast="same_ndim",
        leads=3,
    )
