"""Negative log-likelihoods of counts and of real numbers with a variance."""

from __future__ import annotations

import math

from fastloss.api.loss import loss
from fastloss.define.descriptions import Array, Elementwise
from fastloss.define.maths import maths
from fastloss.define.options import FLAG, NON_NEGATIVE, POSITIVE
from fastloss.define.scalars import exp, log

_HALF_LOG_TWO_PI = 0.9189385332046727


@maths
def stirling(t):
    """Stirling's approximation of log t! for t > 1, else 0; and its derivative."""
    T = type(t)
    u = log(t)
    counts = t > T(1)
    value = t * u - t + T(0.5) * u + T(_HALF_LOG_TWO_PI)
    return (value if counts else T(0)), (u + T(0.5) / t if counts else T(0))


@maths
def poisson_log(x, t, eps):
    """exp(x) - t x, x the logarithm of the rate."""
    rate = exp(x)
    return rate - t * x, (rate - t, -x), rate


@maths
def poisson_log_full(x, t, eps):
    """The same, with Stirling's term."""
    rate = exp(x)
    constant, slope = stirling(t)
    return rate - t * x + constant, (rate - t, slope - x), rate


@maths
def poisson_rate(x, t, eps):
    """x - t log(x + ε), x the rate."""
    T = type(x)
    u = log(x + eps)
    q = T(1) / (x + eps)
    return x - t * u, (T(1) - t * q, -u), t * q * q


@maths
def poisson_rate_full(x, t, eps):
    """The same, with Stirling's term."""
    T = type(x)
    u = log(x + eps)
    q = T(1) / (x + eps)
    constant, slope = stirling(t)
    return x - t * u + constant, (T(1) - t * q, slope - u), t * q * q


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

    Returns
    -------
    array
        Zero-dimensional, or of the broadcast shape for ``reduction="none"``.

    Raises
    ------
    ValueError
        If the shapes do not go together or an option is out of range.
    TypeError
        If `input` is not floating point, or the arrays lie on different devices.

    Notes
    -----
    Differentiable with respect to `input` and `target`; with `full` the derivative with respect to a target of 0 is
    finite, where torch's is NaN.

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
    """(log v + r²/v)/2 + constant, with v clamped at ε from below, unseen by the derivative; NaN for v < 0."""
    T = type(x)
    r = x - t
    negative = v < T(0)
    v = eps if v < eps else v
    q = T(1) / v
    d = r * q
    value = T(0.5) * (log(v) + r * d) + constant
    return (T(math.nan) if negative else value), (d, -d, T(0.5) * (q - d * d)), q


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
        Variances, not negative: of the shape of `input`, the same with one axis of length 1, or without its last axis.
    full : bool
        Whether to add the constant :math:`\tfrac12 \log 2 \pi`.
    eps : float
        The variance is clamped to it from below.
    reduction : {"mean", "sum", "none"}
        The mean is over the number of elements.

    Returns
    -------
    array
        Zero-dimensional, or of the shape of `input` for ``reduction="none"``.

    Raises
    ------
    ValueError
        If the shapes do not go together, a variance is negative, or an option is out of range.
    TypeError
        If `input` or `var` is not floating point, or the arrays lie on different devices.

    Notes
    -----
    As in torch, the clamp is invisible to the gradient: that of a variance below `eps` is taken at `eps`.
    Differentiable with respect to `input`, `target` and `var`.

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
        non_negative="var",
    )
