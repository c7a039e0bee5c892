"""Focal losses: binary cross-entropy with easy examples scaled down."""

from __future__ import annotations

import functools
import math

from fastloss.api.loss import loss
from fastloss.define.descriptions import Array, Elementwise, MathFunction
from fastloss.define.maths import hard_targets, maths, named
from fastloss.define.options import BELOW_ONE, FINITE_NON_NEGATIVE
from fastloss.define.point_maths import in_unit_interval
from fastloss.define.scalars import exp_nonpositive, log1p_unit, log_unit, power, square

# No power of a number below 1 with a larger exponent is other than 0, and float32 holds this one.
LARGEST_GAMMA = 1e38


def _power_of(gamma: float) -> MathFunction:
    """Return the function that raises to gamma: for the usual 2 without an exponential and a logarithm."""
    return square if gamma == 2 else power


@functools.cache
def sigmoid_focal(raised: MathFunction) -> MathFunction:
    """Return α_t q^γ ce with q = 1 - p_t; every derivative is q^γ times something, r = q'/q, and 0 where q^γ is."""

    def point(x, t, gamma, alpha):
        T = type(x)
        e = exp_nonpositive(-abs(x))
        positive = x > T(0)
        inverse = T(1) / (T(1) + e)
        rest = T(1) - t if positive else -t
        ce = rest * x + log1p_unit(e)
        # With u the larger and v = e u the smaller of p and 1 - p: q = u (a + e b), p (1 - p) / q = e u / (a + e b).
        a = T(1) - t if positive else t
        b = t if positive else T(1) - t
        mix = a + e * b
        r = (T(1) - T(2) * t) * e * inverse / mix if mix > T(0) else T(0)
        factor = raised(inverse * mix, gamma)
        factor *= alpha * t + (T(1) - alpha) * (T(1) - t) if alpha >= T(0) else T(1)
        d = rest + (-e * inverse if positive else e * inverse)  # σ(x) - t, which would cancel
        tilt = (e - T(1) if positive else T(1) - e) * inverse  # 1 - 2 σ(x)
        curvature = e * inverse * inverse + gamma * r * (T(2) * d + ce * ((gamma - T(1)) * r + tilt))
        slope = d + gamma * r * ce
        none = factor == T(0)  # and then a huge gamma may have made what it multiplies infinite
        return factor * ce, (T(0) if none else factor * slope,), (T(0) if none else factor * curvature)

    return maths(named(point, f"sigmoid_focal_{raised.__name__}"))


@loss("elementwise", options={"gamma": FINITE_NON_NEGATIVE, "alpha": BELOW_ONE}, domains={"target": "probability"})
def sigmoid_focal_loss(
    input: Array, target: Array, *, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "mean"
) -> Array:
    r"""Focal loss of logits: binary cross-entropy with easy examples scaled down.

    .. math::

        \ell_i = \alpha_i (1 - p_i)^\gamma \mathrm{CE}(x_i, t_i), \qquad
        p_i = t_i \sigma(x_i) + (1 - t_i) \sigma(-x_i), \quad \alpha_i = \alpha t_i + (1 - \alpha) (1 - t_i)

    Parameters
    ----------
    input : array, shape (*)
        Logits.
    target : array, shape (*)
        0 or 1, or a probability; any integer or floating dtype.
    alpha : float
        Weight of the positive class, at most 1; a negative one turns the weighting off.
    gamma : float
        Focusing exponent, at least 0 and finite.
    reduction : {"mean", "sum", "none"}
        The mean is over the number of elements. torchvision's default is ``"none"``.

    Notes
    -----
    1 - p is never formed by subtraction; value and derivatives are finite for any finite logit and any `gamma`.

    References
    ----------
    T.-Y. Lin et al., "Focal loss for dense object detection", ICCV 2017. ``torchvision.ops.sigmoid_focal_loss``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.sigmoid_focal_loss([0.0], [1.0]).round(4))
    0.0433
    """
    return Elementwise(
        sigmoid_focal(_power_of(gamma)),
        (input, target),
        params=(min(float(gamma), LARGEST_GAMMA), float(alpha)),
        reduction=reduction,
        broadcast="exact",
    )


@maths
def _inverse(x):
    """Return 1 / x, and 1e12 where x is smaller than 1e-12."""
    T = type(x)
    return T(1) / (T(1e-12) if x < T(1e-12) else x)


@functools.cache
def binary_focal(raised: MathFunction) -> MathFunction:
    """Return α t (1 - x)^γ (-log x) + (1 - α) (1 - t) x^γ (-log(1 - x))."""

    def side(u, y, over_x, over_y, gamma):
        """-y^γ u for u = log x, x = 1 - y, and its first two derivatives with respect to x; u not below -100.

        All are 0 where y^γ is, for a huge γ may have made what it multiplies infinite.
        """
        T = type(y)
        u = T(-100) if u < T(-100) else u
        w = raised(y, gamma)
        s = gamma * over_y
        slope = w * (s * u - over_x)
        curvature = w * (T(2) * s * over_x - s * (gamma - T(1)) * over_y * u + over_x * over_x)
        none = w == T(0)
        return -w * u, (T(0) if none else slope), (T(0) if none else curvature)

    maths(named(side, f"focal_side_{raised.__name__}"))

    def point(x, t, gamma, alpha):
        T = type(x)
        y = T(1) - x
        over_x, over_y = _inverse(x), _inverse(y)
        v1, d1, h1 = side(log_unit(x, True), y, over_x, over_y, gamma)
        v0, d0, h0 = side(log_unit(x, False), x, over_y, over_x, gamma)
        a = alpha * t if alpha >= T(0) else t
        b = (T(1) - alpha) * (T(1) - t) if alpha >= T(0) else T(1) - t
        in_range = x >= T(0) and x <= T(1) and t >= T(0) and t <= T(1)
        return (a * v1 + b * v0 if in_range else T(math.nan)), (a * d1 - b * d0,), a * h1 + b * h0

    def hard(x, t, gamma, alpha):
        T = type(x)
        y = T(1) - x
        positive = t > T(0)
        u = log_unit(x, positive)
        x, y = (x if positive else y), (y if positive else x)
        value, slope, curvature = side(u, y, _inverse(x), _inverse(y), gamma)
        a = (alpha if positive else T(1) - alpha) if alpha >= T(0) else T(1)
        in_range = x >= T(0) and x <= T(1)
        return (a * value if in_range else T(math.nan)), (a * slope if positive else -a * slope,), a * curvature

    hard_targets(point)(named(hard, f"binary_focal_hard_{raised.__name__}"))
    return maths(named(point, f"binary_focal_{raised.__name__}"))


@loss(
    "elementwise",
    options={"gamma": FINITE_NON_NEGATIVE, "alpha": BELOW_ONE},
    domains={"input": "probability", "target": "probability"},
)
def binary_focal_loss(
    input: Array, target: Array, *, gamma: float = 2.0, alpha: float = 0.75, reduction: str = "mean"
) -> Array:
    r"""Focal loss of probabilities.

    .. math:: \ell_i = -\alpha t_i (1 - x_i)^\gamma \log x_i - (1 - \alpha) (1 - t_i) x_i^\gamma \log(1 - x_i)

    Parameters
    ----------
    input : array, shape (*)
        Probabilities of the positive class, in [0, 1].
    target : array, shape (*)
        0 or 1, or a probability.
    gamma : float
        Focusing exponent, at least 0 and finite.
    alpha : float
        Weight of the positive class, at most 1; a negative one turns the weighting off.
    reduction : {"mean", "sum", "none"}
        The mean is over the number of elements.

    Raises
    ------
    ValueError
        If `input` or `target` holds values outside [0, 1].

    Notes
    -----
    Logarithms are clamped to -100 from below, and divisors in the derivatives to 1e-12: everything is finite on [0, 1].
    Prefer :func:`sigmoid_focal_loss` where there are logits. On a GPU values outside [0, 1] give NaN.

    References
    ----------
    T.-Y. Lin et al., "Focal loss for dense object detection", ICCV 2017.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.binary_focal_loss([0.5], [1.0]).round(4))
    0.13
    """
    return Elementwise(
        binary_focal(_power_of(gamma)),
        (input, target),
        params=(min(float(gamma), LARGEST_GAMMA), float(alpha)),
        reduction=reduction,
        broadcast="exact",
        domains=in_unit_interval("input", "target"),
    )
