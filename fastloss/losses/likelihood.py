"""Negative log-likelihoods of counts and of real numbers with a variance."""

from __future__ import annotations

import math

from fastloss.api.loss import loss
from fastloss.define.descriptions import Array, Elementwise
from fastloss.define.maths import maths
from fastloss.define.options import FLAG, NON_NEGATIVE, POSITIVE
from fastloss.define.point_maths import is_negative
from fastloss.define.scalars import exp, log, smallest_normal

_HALF_LOG_TWO_PI = 0.9189385332046727


@maths
def poisson_deviance(t, rate, log_rate, ratio):
    """rate - t + t log(t / rate), and the logarithm in it; for t > 0 to nearly all digits, t near the rate included.

    With v = (t - rate) / (t + rate) the logarithm is 2 artanh v = 2 v + v³ P(v²), and the deviance
    v (t - rate + t v² P(v²)), in which nothing cancels. P is a minimax fit for t / rate in [1/2, 2].
    """
    T = type(t)
    excess = t - rate
    v = excess / (t + rate)
    z = v * v
    p = T(0.17018598677073125996)
    p = p * z + T(0.083400890923261868295)
    p = p * z + T(0.12106088019918906004)
    p = p * z + T(0.13300973251349798686)
    p = p * z + T(0.1538655994704029555)
    p = p * z + T(0.1818174392388355181)
    p = p * z + T(0.22222223969758854731)
    p = p * z + T(0.28571428547853423082)
    p = p * z + T(0.40000000000157247603)
    p = p * z + T(0.66666666666666303779)
    p = z * p
    known = ratio > T(1e-30) and ratio < T(1e30)
    far = log(ratio if known else t) - (T(0) if known else log_rate)
    near = z < T(0.11)
    u = v + v + v * p if near else far
    return (v * (excess + t * p) if near else t * far - excess), u


@maths
def half_log_two_pi_of(t):
    """log(2 π t) / 2, what Stirling's approximation of log t! has beside t log t - t."""
    T = type(t)
    return T(0.5) * log(t) + T(_HALF_LOG_TWO_PI)


@maths
def poisson_log(x, t, eps):
    """exp(x) - t x, x the logarithm of the rate."""
    rate = exp(x)
    return rate - t * x, (rate - t, -x), rate


@maths
def poisson_log_full(x, t, eps):
    """The same, for t > 1 with Stirling's term."""
    T = type(x)
    rate = exp(x)
    counts = t > T(1)
    deviance, u = poisson_deviance(t, rate, x, t / rate)
    value = deviance + half_log_two_pi_of(t) if counts else rate - t * x
    return value, (rate - t, u + T(0.5) / t if counts else -x), rate


@maths
def rest_of_log(x, eps, y, inverse):
    """Return log(x + ε) - log y, y the rounded sum, which near 1 is most of the logarithm; 0 of an infinite x."""
    T = type(x)
    rest = (x - y) + eps if x > eps else (eps - y) + x
    return rest * inverse if abs(rest) > T(0) else T(0)


@maths
def poisson_rate(x, t, eps):
    """x - t log(x + ε), x the rate; a count of 0 takes no part of the logarithm, even where that is infinite.

    The derivative is 1 - t / (x + ε), by a difference that cancels only where the exact one does. There is one division
    by x + ε: of several a vector would make one, and the rest of a loop would not, so that bits depended on the place.
    """
    T = type(x)
    y = x + eps
    inverse = T(1) / y
    u = log(y) + rest_of_log(x, eps, y, inverse)
    none = t == T(0)
    excess = (x - t) + eps
    slope = T(1) if y == T(math.inf) or (none and y == y) else (excess if excess == T(0) else excess * inverse)
    curvature = T(0) if none and y == y else t * inverse * inverse
    return x - (T(0) if none and u == u else t * u), (slope, -u), curvature


@maths
def poisson_rate_full(x, t, eps):
    """The same, for t > 1 with Stirling's term."""
    T = type(x)
    y = x + eps
    counts = t > T(1)
    value, (slope, plain), curvature = poisson_rate(x, t, eps)
    inverse = T(1) / y
    deviance, u = poisson_deviance(t, y, -plain, t * inverse)
    u -= rest_of_log(x, eps, y, inverse)
    value = deviance - eps + half_log_two_pi_of(t) if counts else value
    return value, (slope, u + T(0.5) / t if counts else plain), curvature


_POISSON = {
    (True, False): poisson_log,
    (True, True): poisson_log_full,
    (False, False): poisson_rate,
    (False, True): poisson_rate_full,
}


@loss(
    "elementwise",
    differentiable=("input", "target"),
    options={"log_input": FLAG, "full": FLAG, "eps": NON_NEGATIVE},
    domains={"input": "positive", "target": "count"},
    legacy=True,
)
def poisson_nll_loss(
    input: Array,
    target: Array,
    *,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Array:
    r"""Negative log-likelihood of counts under a Poisson distribution.

    .. math:: \ell_i = e^{x_i} - t_i x_i, \qquad \text{or } x_i - t_i \log(x_i + \epsilon)

    Parameters
    ----------
    input : array, shape (*)
        Logarithm of the rate, or the rate itself with ``log_input=False``.
    target : array, shape (*)
        Counts, any integer or floating dtype. Broadcast against `input`.
    log_input : bool
        Whether `input` is the logarithm.
    full : bool
        Whether to add Stirling's approximation of log t!, :math:`t \log t - t + \tfrac12 \log 2 \pi t`, where t > 1.
    eps : float
        Keeps the logarithm finite; used with ``log_input=False`` only.
    reduction : {"mean", "sum", "none"}
        The mean is over the number of elements.

    Notes
    -----
    Differentiable with respect to `input` and `target`; with `full` the derivative with respect to a target of 0 is
    finite, where torch's is NaN. With `full` value and derivatives keep their digits where a count is near its rate,
    however large both are; torch adds up terms of the size of t log t. A count of 0 beside a rate and an `eps` of 0
    gives 0, where torch gives NaN.

    References
    ----------
    ``torch.nn.functional.poisson_nll_loss``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.poisson_nll_loss([0.0], [2.0]))
    1.0
    """
    return Elementwise(
        _POISSON[bool(log_input), bool(full)], (input, target), params=(float(eps),), reduction=reduction
    )


@maths
def gaussian(x, t, v, eps, constant):
    """(log v + r²/v)/2 + constant, with v clamped at ε from below, unseen by the derivative; NaN for v < 0.

    The derivative (1 - r²/v) / 2 v cancels where v is near r², unless the difference is taken before the division, as a
    product and a sum that round once. Elsewhere it is (1/v - (r/v)²) / 2, which overflows only where the result does.
    The product in the value has no other use, so that it is rounded alike whether derivatives are wanted or not.
    """
    T = type(x)
    r = x - t
    negative = v < T(0)
    v = eps if v < eps else v
    q = T(1) / v
    d = r * q
    ratio = r * d
    value = T(0.5) * log(v) + r * (T(0.5) * d) + constant
    near = ratio > T(0.5) and ratio < T(2) and v * smallest_normal(x) < T(1)  # r² does not overflow
    d_var = (v - r * r) * q * q if near else q - d * d
    return (T(math.nan) if negative else value), (d, -d, T(0.5) * d_var), q


@loss(
    "elementwise",
    wrt=("input", "var"),
    differentiable=("input", "target", "var"),
    options={"full": FLAG, "eps": POSITIVE},
    domains={"var": "positive"},
)
def gaussian_nll_loss(
    input: Array, target: Array, var: Array | float, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Array:
    r"""Negative log-likelihood under a Gaussian distribution of given variance.

    .. math::

        \ell_i = \tfrac12 \left( \log v_i + \frac{(x_i - t_i)^2}{v_i} \right), \qquad
        v_i = \max(\mathrm{var}_i, \epsilon)

    Parameters
    ----------
    input : array, shape (*)
        Expected values.
    target : array, shape (*)
        Observations, broadcast against `input`.
    var : array or float
        Variances, not negative: of the shape of `input`, the same with axes of length 1, or without its last axis.
    full : bool
        Whether to add the constant :math:`\tfrac12 \log 2 \pi`.
    eps : float
        The variance is clamped to it from below.
    reduction : {"mean", "sum", "none"}
        The mean is over the number of elements.

    Raises
    ------
    ValueError
        If a variance is negative.

    Notes
    -----
    As in torch, the clamp is invisible to the gradient: that of a variance below `eps` is taken at `eps`. An `eps`
    below the smallest normal number of the computing type counts as that number. Differentiable with respect to
    `input`, `target` and `var`.

    References
    ----------
    D. A. Nix and A. S. Weigend, "Estimating the mean and variance of the target probability distribution", ICNN 1994.
    ``torch.nn.functional.gaussian_nll_loss``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.gaussian_nll_loss([1.0], [0.0], [1.0]))
    0.5
    """
    return Elementwise(
        gaussian,
        (input, target, var),
        ("input", "target", "var"),
        (float(eps), _HALF_LOG_TWO_PI if full else 0.0),
        reduction=reduction,
        variance="var",
        domains=(("var", is_negative, "must not be negative, but holds negative values"),),
    )
