"""Triplets of vectors."""

from __future__ import annotations

import functools
from collections.abc import Callable

from fastloss.api.loss import loss
from fastloss.define.descriptions import Array, Distance, OfDistances, PairMaths, Pairwise
from fastloss.define.maths import maths, named
from fastloss.define.options import FINITE, FLAG, NUMBER, POSITIVE, Domain
from fastloss.define.scalars import relu, scale_of_squares, step
from fastloss.losses.embedding import COSINE_DISTANCE, SIMILARITY_EPSILON
from fastloss.losses.norms import SQUARED, Norm, norm_of, size


@functools.cache
def triplet(norm: Norm, swap: bool) -> PairMaths:
    """Return max(0, d(a, p) - d(a, n) + margin), with d(p, n) where that is smaller and `swap` is set.

    params: margin, p, eps. At the hinge's kink the gradient is 0; where the two negative distances are equal each gets
    half of it.
    """
    summand, finish, slope, curvature = norm.summand, norm.finish, norm.slope, norm.curvature
    peak = norm.peak or size

    def peaks(a, p, n, params):
        e = params[2]
        return peak(a - p + e), peak(a - n + e), peak(p - n + e)

    def again(sums, params):
        T = type(sums[0])
        return scale_of_squares(sums[0]), scale_of_squares(sums[1]), scale_of_squares(sums[2]) if swap else T(1)

    def terms(a, p, n, tops, params):
        T = type(a)
        _, power, e = params
        third = summand(p - n + e, tops[2], power) if swap else T(0)
        return summand(a - p + e, tops[0], power), summand(a - n + e, tops[1], power), third

    def row(sums, tops, y, params):
        T = type(sums[0])
        margin, power, _ = params
        positive, shape_p = finish(sums[0], tops[0], power)
        negative, shape_n = finish(sums[1], tops[1], power)
        swapped, shape_s = finish(sums[2], tops[2], power)
        share = T(0)  # of the swapped distance
        if swap:
            share = T(1) if swapped < negative else (T(0.5) if swapped == negative else T(0))
        nearest = swapped if swap and swapped < negative else negative
        hinge = positive - nearest + margin
        active = step(hinge)
        return relu(hinge), (active, (T(1) - share) * active, share * active, shape_p, shape_n, shape_s)

    def entry(a, p, n, coefs, params):
        T = type(a)
        active, on_negative, on_swapped, shape_p, shape_n, shape_s = coefs
        _, power, e = params
        u = active * slope(a - p + e, shape_p, power)
        v = on_negative * slope(a - n + e, shape_n, power)
        w = on_swapped * slope(p - n + e, shape_s, power) if swap else T(0)
        second = active * curvature(a - p + e, shape_p, power) - on_negative * curvature(a - n + e, shape_n, power)
        return (u - v, -u - w, v + w), second

    kind = f"triplet_{norm.name}{'_swap' if swap else ''}"
    for function in (peaks, again, terms, row, entry):
        maths(named(function, f"{kind}_{function.__name__}"))
    return PairMaths(terms, row, entry, peaks if norm.peak else None, again if norm.rescaled else None)


@loss(
    "pairwise",
    wrt=("anchor", "positive", "negative"),
    options={"margin": POSITIVE, "p": NUMBER, "eps": FINITE, "swap": FLAG},
    legacy=True,
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
    anchor, positive, negative : array, shape (D,), (N, D) or (..., D)
        Vectors along the last axis; axes of length 1 are broadcast, by a copy.
    margin : float
        The margin m, positive.
    p : float
        Order of the norm, see :func:`pairwise_distance`.
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

    Notes
    -----
    Differentiable with respect to all three; at the hinge's kink the gradient is 0, as in torch since 2.14, and where
    the two distances compared by `swap` are equal each gets half. A zero difference has gradient 0. No power of a
    component overflows or underflows, see :func:`pairwise_distance`. A non-contiguous vector is copied.

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
        triplet(norm_of(float(p)), bool(swap)),
        (anchor, positive, negative),
        ("anchor", "positive", "negative"),
        None,
        (float(margin), float(p), float(eps)),
        reduction,
        broadcast=anchor.ndim == positive.ndim == negative.ndim == 0,
    )


@maths
def hinge_of_distances(positive, negative, margin):
    """max(0, d(a, p) - d(a, n) + m)."""
    T = type(positive)
    h = positive - negative + margin
    k = step(h)
    return relu(h), (k, -k), T(0)


@maths
def hinge_of_nearest(positive, negative, swapped, margin):
    """max(0, d(a, p) - min(d(a, n), d(p, n)) + m); equal distances share the gradient."""
    T = type(positive)
    share = T(1) if swapped < negative else (T(0.5) if swapped == negative else T(0))  # of the swapped one
    h = positive - (swapped if swapped < negative else negative) + margin
    k = step(h)
    return relu(h), (k, -(T(1) - share) * k, -share * k), T(0)


def _cosine_distance(a: Array, b: Array) -> Pairwise:
    return Pairwise(
        COSINE_DISTANCE, (a, b), ("x1", "x2"), params=(SIMILARITY_EPSILON,), reduction="none", broadcast=True
    )


# The norm, its order, and what is added to each component of a difference; for "euclidean", torch's default.
NAMED_DISTANCES = {"euclidean": (2.0, 1e-6), "manhattan": (1.0, 0.0), "squared_euclidean": (2.0, 0.0)}
DISTANCE = Domain(
    "None, 'euclidean', 'squared_euclidean', 'manhattan', 'cosine' or a callable",
    lambda v: v is None or callable(v) or (isinstance(v, str) and (v == "cosine" or v in NAMED_DISTANCES)),
    (None, "euclidean", "squared_euclidean", "manhattan", "cosine"),
)
CALLABLE = Domain("None or a callable", lambda v: v is None or callable(v), (None,))


@loss(
    "pairwise",
    wrt=("anchor", "positive", "negative"),
    options={"distance_function": DISTANCE, "margin": POSITIVE, "swap": FLAG, "distance_vjp": CALLABLE},
)
def triplet_margin_with_distance_loss(
    anchor: Array,
    positive: Array,
    negative: Array,
    *,
    distance_function: Callable[[Array, Array], Array] | str | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
    distance_vjp: Callable[[Array, Array, Array], tuple[Array, Array]] | None = None,
) -> Array:
    r"""Hinge on how much nearer the anchor is to the positive than to the negative, by a distance of one's choice.

    .. math:: \ell_n = \max(0, d(a_n, p_n) - d(a_n, n_n) + m)

    Parameters
    ----------
    anchor, positive, negative : array, shape (D,), (N, D) or (..., D)
        Vectors along the last axis; a callable may see them otherwise, but all have the same number of axes.
    distance_function : None, str or callable
        None or ``"euclidean"``: :func:`pairwise_distance` with its defaults, as in torch. ``"squared_euclidean"``:
        Σ(u - v)²; ``"manhattan"``: Σ|u - v|; ``"cosine"``: 1 - :func:`cosine_similarity`. A callable gets two of the
        arrays and returns their distances, an array of the same library.
    margin : float
        The margin m, positive.
    swap : bool
        Whether d(p, n) takes the place of d(a, n) where it is smaller.
    reduction : {"mean", "sum", "none"}
        The mean is over the number of triplets.
    distance_vjp : callable, optional
        The vector-Jacobian product of a callable distance: ``distance_vjp(u, v, upstream)`` returns the gradients with
        respect to u and v of Σ upstream · d(u, v).

    Returns
    -------
    array
        Zero-dimensional, or one value for each triplet for ``reduction="none"``.

    Raises
    ------
    ValueError
        If a gradient is asked for through a callable without `distance_vjp`, or a second derivative through a callable.

    Notes
    -----
    Differentiable with respect to all three; kinks as in :func:`triplet_margin_loss`. The norms run in one fused pass;
    the cosine distance and callables in one pass for each distance.

    References
    ----------
    V. Balntas et al., "Learning shallow convolutional feature descriptors with triplet losses", BMVC 2016.
    ``torch.nn.functional.triplet_margin_with_distance_loss``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.triplet_margin_with_distance_loss(
    ...     [[0.0, 0.0]], [[0.0, 1.0]], [[0.0, 3.0]], distance_function="squared_euclidean", margin=10.0))
    2.0
    """
    arrays, names = (anchor, positive, negative), ("anchor", "positive", "negative")
    name = "euclidean" if distance_function is None else distance_function
    if isinstance(name, str) and name != "cosine":
        order, eps = NAMED_DISTANCES[name]
        norm = SQUARED if name == "squared_euclidean" else norm_of(order)
        return Pairwise(triplet(norm, bool(swap)), arrays, names, None, (float(margin), order, eps), reduction)
    pairs = ((0, 1), (0, 2), (1, 2)) if swap else ((0, 1), (0, 2))
    described = _cosine_distance if name == "cosine" else None
    distances = tuple([Distance(pair, described, distance_function, distance_vjp) for pair in pairs])
    point = hinge_of_nearest if swap else hinge_of_distances
    return OfDistances(point, distances, arrays, names, (float(margin),), reduction)
