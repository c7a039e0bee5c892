"""Losses of a score against a yes or no."""

from __future__ import annotations

import math

from fastloss.api.loss import loss
from fastloss.define.descriptions import Array, Elementwise
from fastloss.define.maths import hard_targets, maths
from fastloss.define.options import FINITE
from fastloss.define.point_maths import in_unit_interval
from fastloss.define.scalars import exp_nonpositive, log1p_unit, log_unit, relu, step


@maths
def bce_with_logits(x, t):
    """(1 - t) x + log(1 + exp(-x)), NaN at -inf as torch has it; the second derivative is σ(x) σ(-x).

    The slope σ(x) - t is (1 - t) - σ(-x) for x > 0: nothing cancels for a sure positive, as for a sure negative.
    """
    T = type(x)
    e = exp_nonpositive(-abs(x))
    positive = x > T(0)
    inverse = T(1) / (T(1) + e)
    smaller = e * inverse  # σ(-|x|)
    rest = T(1) - t if positive else -t
    value = rest * x + log1p_unit(e)
    value = T(math.nan) if x == T(-math.inf) else value
    return value, (rest + (-smaller if positive else smaller), -x), smaller * inverse


@maths
def bce_with_logits_pos_weight(x, t, q):
    """(1 - t) log(1 + exp(x)) + q t log(1 + exp(-x)), q the weight of the positive class; NaN at -inf as in torch.

    With log(1 + exp(-|x|)) in both logarithms, so that they share what is small and nothing cancels.
    """
    T = type(x)
    e = exp_nonpositive(-abs(x))
    positive = x > T(0)
    inverse = T(1) / (T(1) + e)
    smaller = e * inverse
    both = (T(1) - t) + q * t
    rest = T(1) - t if positive else -q * t
    u = log1p_unit(e)
    value = rest * x + both * u
    value = T(math.nan) if x == T(-math.inf) else value
    slope = rest + both * (-smaller if positive else smaller)
    d_target = (q - T(1)) * u - (x if positive else q * x)
    return value, (slope, d_target), both * smaller * inverse


@loss(
    "elementwise",
    differentiable=("input", "target"),
    domains={"target": "probability", "pos_weight": "positive"},
    legacy=True,
)
def binary_cross_entropy_with_logits(
    input: Array,
    target: Array,
    weight: Array | None = None,
    *,
    reduction: str = "mean",
    pos_weight: Array | None = None,
) -> Array:
    r"""Binary cross-entropy of logits.

    .. math:: \ell_i = -w_i \left[ q_i t_i \log \sigma(x_i) + (1 - t_i) \log \sigma(-x_i) \right]

    Parameters
    ----------
    input : array, shape (*)
        Logits.
    target : array, shape (*)
        Probabilities of the positive class, any integer or floating dtype; values outside [0, 1] are computed with.
    weight : array, broadcastable to `input`, optional
        Weight of each element.
    reduction : {"mean", "sum", "none"}
        The mean is over the number of elements; weights do not enter its divisor.
    pos_weight : array, broadcastable to `input`, optional
        Weight q of the positive class, usually one for each column.

    Notes
    -----
    Computed from ``exp(-|x|)``: no overflow for any finite logit, and no digits lost where the prediction is sure,
    neither in the loss nor in the gradient; torch subtracts 1 from a probability near 1, and loses them. Exchanging
    classes and the sign of the logit changes no bit. Infinite logits follow torch: NaN where the exact value would be 0
    times infinity. Differentiable with respect to `input` and `target`.

    References
    ----------
    ``torch.nn.functional.binary_cross_entropy_with_logits``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.binary_cross_entropy_with_logits([0.0], [1.0]).round(4))
    0.6931
    """
    if pos_weight is None:
        return Elementwise(bce_with_logits, (input, target), weight=weight, reduction=reduction, broadcast="exact")
    return Elementwise(
        bce_with_logits_pos_weight,
        (input, target, pos_weight),
        ("input", "target", "pos_weight"),
        weight=weight,
        reduction=reduction,
        broadcast="exact",
    )


@maths
def bce(x, t):
    """-t log x - (1 - t) log(1 - x), the logarithms not below -100; NaN outside [0, 1]."""
    T = type(x)
    low = log_unit(x, True)
    high = log_unit(x, False)
    # Not clamped; inf and -inf where x is 0 or 1.
    d_target = (high if x < T(1) else T(-math.inf)) - (low if x > T(0) else T(-math.inf))
    low = T(-100) if low < T(-100) else low
    high = T(-100) if high < T(-100) else high
    value = (t - T(1)) * high - t * low
    q = x * (T(1) - x)
    q = T(1e-12) if q < T(1e-12) else q
    spread = T(1) - x
    curvature = t / _floor(x * x) + (T(1) - t) / _floor(spread * spread)
    in_range = x >= T(0) and x <= T(1) and t >= T(0) and t <= T(1)
    return (value if in_range else T(math.nan)), ((x - t) / q, d_target), curvature


@hard_targets(bce)
def bce_hard(x, t):
    """-log x or -log(1 - x): one logarithm instead of two."""
    T = type(x)
    positive = t > T(0)
    u = log_unit(x, positive)
    rest = T(1) - x
    q = x * rest
    q = T(1e-12) if q < T(1e-12) else q
    curvature = t / _floor(x * x) + (T(1) - t) / _floor(rest * rest)
    in_range = x >= T(0) and x <= T(1)
    value = T(100) if u < T(-100) else -u
    return (value if in_range else T(math.nan)), ((x - t) / q, T(0)), curvature


@maths
def _floor(x):
    """Return x, or 1e-24 where it is smaller."""
    T = type(x)
    return T(1e-24) if x < T(1e-24) else x


@loss(
    "elementwise",
    differentiable=("input", "target"),
    domains={"input": "probability", "target": "probability"},
    legacy=True,
)
def binary_cross_entropy(input: Array, target: Array, weight: Array | None = None, *, reduction: str = "mean") -> Array:
    r"""Binary cross-entropy of probabilities.

    .. math:: \ell_i = -w_i \left[ t_i \log x_i + (1 - t_i) \log(1 - x_i) \right]

    Parameters
    ----------
    input : array, shape (*)
        Probabilities of the positive class, in [0, 1].
    target : array, shape (*)
        Their targets in [0, 1].
    weight : array, broadcastable to `input`, optional
        Weight of each element.
    reduction : {"mean", "sum", "none"}
        The mean is over the number of elements; weights do not enter its divisor.

    Raises
    ------
    ValueError
        If `input` or `target` holds values outside [0, 1].

    Notes
    -----
    As in torch, the logarithms are clamped to -100 from below, and the gradient's divisor x (1 - x) to 1e-12; the
    derivative with respect to a target is not clamped, and infinite beside 0 and 1. NaN gives NaN. Prefer
    :func:`binary_cross_entropy_with_logits` where there are logits. On a GPU values outside [0, 1] give NaN.
    Differentiable with respect to `input` and `target`.

    References
    ----------
    ``torch.nn.functional.binary_cross_entropy``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.binary_cross_entropy([0.5], [1.0]).round(4))
    0.6931
    """
    return Elementwise(
        bce,
        (input, target),
        weight=weight,
        reduction=reduction,
        broadcast="exact",
        domains=in_unit_interval("input", "target"),
    )


@maths
def soft_margin(x, t):
    """log(1 + exp(-t x))."""
    T = type(x)
    z = t * x
    e = exp_nonpositive(-abs(z))
    inverse = T(1) / (T(1) + e)
    value = (T(0) if z > T(0) else -z) + log1p_unit(e)
    miss = e * inverse if z > T(0) else inverse
    return value, (-t * miss,), t * t * e * inverse * inverse


@loss("elementwise", domains={"target": "sign"}, legacy=True)
def soft_margin_loss(input: Array, target: Array, *, reduction: str = "mean") -> Array:
    r"""Logistic loss of a score against a sign.

    .. math:: \ell_i = \log(1 + e^{-t_i x_i})

    Parameters
    ----------
    input : array, shape (*)
        Scores.
    target : array, shape (*)
        1 or -1, any integer or floating dtype. Broadcast against `input`.
    reduction : {"mean", "sum", "none"}
        The mean is over the number of elements.

    Notes
    -----
    Stable for any score; torch's overflows for ``t x`` below -88 in float32.

    References
    ----------
    ``torch.nn.functional.soft_margin_loss``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.soft_margin_loss([0.0], [1.0]).round(4))
    0.6931
    """
    return Elementwise(soft_margin, (input, target), reduction=reduction)


@maths
def hinge_embedding(x, y, margin):
    """x for y = 1, max(0, m - x) for y = -1, both for any other y."""
    T = type(x)
    h = margin - x
    value = (T(0) if y == T(-1) else x) + (T(0) if y == T(1) else relu(h))
    slope = (T(0) if y == T(-1) else T(1)) - (T(0) if y == T(1) else step(h))
    return value, (slope,), T(0)


@loss("elementwise", hessian="zero", options={"margin": FINITE}, domains={"target": "sign"}, legacy=True)
def hinge_embedding_loss(input: Array, target: Array, *, margin: float = 1.0, reduction: str = "mean") -> Array:
    r"""Distance of like pairs, hinge on the distance of unlike ones.

    .. math:: \ell_i = \begin{cases} x_i & y_i = 1 \\ \max(0, m - x_i) & y_i = -1 \end{cases}

    Parameters
    ----------
    input : array, shape (*)
        Distances.
    target : array, shape (*)
        1 or -1, any integer or floating dtype; as in torch any other value gets both terms. Broadcast against `input`.
    margin : float
        The margin m.
    reduction : {"mean", "sum", "none"}
        The mean is over the number of elements.

    Notes
    -----
    At the kink ``input = margin`` the hinge's gradient is 0, as in torch since 2.14. The second derivative is zero.

    References
    ----------
    ``torch.nn.functional.hinge_embedding_loss``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.hinge_embedding_loss([0.25, 0.25], [1.0, -1.0], reduction="none"))
    [0.25 0.75]
    """
    return Elementwise(hinge_embedding, (input, target), params=(float(margin),), reduction=reduction)
