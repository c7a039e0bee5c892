"""Losses of a prediction against a real-valued target."""

from __future__ import annotations

import math

from fastloss._registry import jitable, loss
from fastloss._spec import FLAG, NON_NEGATIVE, POSITIVE, Array, Elementwise
from fastloss.losses.scalars import exp, log, sign


@jitable
def mse(x, t):
    """r² with r = x - t."""
    T = type(x)
    r = x - t
    d = T(2) * r
    return r * r, (d, -d), T(2)


@jitable
def l1(x, t):
    """|r| with r = x - t."""
    T = type(x)
    r = x - t
    d = sign(r)
    return abs(r), (d, -d), T(0)


@jitable
def smooth_l1(x, t, beta):
    """r²/(2 β) if |r| < β, else |r| - β/2, with r = x - t."""
    T = type(x)
    r = x - t
    a = abs(r)
    if a >= beta:
        d = sign(r)
        return a - T(0.5) * beta, (d, -d), T(0)
    d = r / beta
    return T(0.5) * r * d, (d, -d), T(1) / beta


@jitable
def huber(x, t, delta):
    """r²/2 if |r| <= δ, else δ(|r| - δ/2), with r = x - t."""
    T = type(x)
    r = x - t
    a = abs(r)
    if a > delta:
        d = delta * sign(r)
        return delta * (a - T(0.5) * delta), (d, -d), T(0)
    return T(0.5) * r * r, (r, -r), T(1)


@loss("elementwise", differentiable=("input", "target", "weight"))
def mse_loss(input: Array, target: Array, weight: Array | None = None, *, reduction: str = "mean") -> Array:
    r"""Squared error.

    .. math:: \ell_i = w_i (x_i - t_i)^2

    Parameters
    ----------
    input, target : array, shape (*)
        Predictions and targets. Shapes that differ are broadcast, with a warning.
    weight : array, shape of `input`, optional
        Weight of each element.
    reduction : {"mean", "sum", "none"}
        With a `weight` the mean is divided by its sum, otherwise by the number of elements.

    Returns
    -------
    array
        Zero-dimensional, or of the broadcast shape for ``reduction="none"``.

    Raises
    ------
    ValueError
        If the shapes do not go together, `weight` has another shape than `input`, or `reduction` is unknown.
    TypeError
        If `input` is not floating point, or the arrays lie on different devices.

    Notes
    -----
    Differentiable with respect to `input`, `target` and `weight`; the second derivative is 2 w. Strided and broadcast
    arguments are read in place.

    References
    ----------
    ``torch.nn.functional.mse_loss``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.mse_loss([1.0, 3.0], [1.0, 1.0]))
    2.0
    """
    return Elementwise(
        mse, (input, target), weight=weight, reduction=reduction, mean="weights", broadcast="warn", exact_weight=True
    )


@loss("elementwise", differentiable=("input", "target", "weight"), options={"delta": POSITIVE}, legacy=False)
def huber_loss(
    input: Array, target: Array, weight: Array | None = None, *, reduction: str = "mean", delta: float = 1.0
) -> Array:
    r"""Huber loss: quadratic near zero, linear far away.

    .. math::

        \ell_i = w_i \begin{cases} r_i^2 / 2 & |r_i| \le \delta \\ \delta (|r_i| - \delta / 2) & \text{otherwise}
        \end{cases}, \qquad r_i = x_i - t_i

    Parameters
    ----------
    input, target : array, shape (*)
        Predictions and targets. Shapes that differ are broadcast, with a warning.
    weight : array, shape of `input`, optional
        Weight of each element.
    reduction : {"mean", "sum", "none"}
        The mean is over the number of elements; weights do not enter its divisor (those of :func:`mse_loss` do).
    delta : float
        Where the loss turns from quadratic to linear; positive, infinity included.

    Returns
    -------
    array
        Zero-dimensional, or of the broadcast shape for ``reduction="none"``.

    Raises
    ------
    ValueError
        If the shapes do not go together, `weight` has another shape than `input`, `reduction` is unknown, or `delta`
        is not positive.
    TypeError
        If `input` is not floating point, or the arrays lie on different devices.

    Notes
    -----
    Differentiable with respect to `input`, `target` and `weight`. The second derivative is w where ``|r| <= delta``,
    else 0.

    References
    ----------
    P. J. Huber, "Robust estimation of a location parameter", Ann. Math. Statist. 35 (1964).
    ``torch.nn.functional.huber_loss``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.huber_loss([0.5, 3.0], [0.0, 0.0], reduction="none"))
    [0.125 2.5  ]
    """
    return Elementwise(
        huber, (input, target), params=(delta,), weight=weight, reduction=reduction, broadcast="warn", exact_weight=True
    )


@loss("elementwise", differentiable=("input", "target", "weight"), hessian="zero")
def l1_loss(input: Array, target: Array, weight: Array | None = None, *, reduction: str = "mean") -> Array:
    r"""Absolute error.

    .. math:: \ell_i = w_i |x_i - t_i|

    Parameters
    ----------
    input, target : array, shape (*)
        Predictions and targets. Shapes that differ are broadcast, with a warning.
    weight : array, shape of `input`, optional
        Weight of each element.
    reduction : {"mean", "sum", "none"}
        With a `weight` the mean is divided by its sum, otherwise by the number of elements.

    Returns
    -------
    array
        Zero-dimensional, or of the broadcast shape for ``reduction="none"``.

    Raises
    ------
    ValueError
        If the shapes do not go together, `weight` has another shape than `input`, or `reduction` is unknown.
    TypeError
        If `input` is not floating point, or the arrays lie on different devices.

    Notes
    -----
    Differentiable with respect to `input`, `target` and `weight`; at ``input == target`` the gradient is 0. The second
    derivative is zero.

    References
    ----------
    ``torch.nn.functional.l1_loss``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.l1_loss([1.0, 3.0], [1.0, 1.0]))
    1.0
    """
    return Elementwise(
        l1, (input, target), weight=weight, reduction=reduction, mean="weights", broadcast="warn", exact_weight=True
    )


@loss("elementwise", differentiable=("input", "target"), options={"beta": NON_NEGATIVE})
def smooth_l1_loss(input: Array, target: Array, *, reduction: str = "mean", beta: float = 1.0) -> Array:
    r"""Absolute error, rounded off near zero.

    .. math::

        \ell_i = \begin{cases} r_i^2 / (2 \beta) & |r_i| < \beta \\ |r_i| - \beta / 2 & \text{otherwise} \end{cases},
        \qquad r_i = x_i - t_i

    Parameters
    ----------
    input, target : array, shape (*)
        Predictions and targets. Shapes that differ are broadcast, with a warning.
    reduction : {"mean", "sum", "none"}
        The mean is over the number of elements.
    beta : float
        Where the loss turns from quadratic to linear; 0 gives the absolute error.

    Returns
    -------
    array
        Zero-dimensional, or of the broadcast shape for ``reduction="none"``.

    Raises
    ------
    ValueError
        If the shapes do not go together, `reduction` is unknown, or `beta` is negative.
    TypeError
        If `input` is not floating point, or the arrays lie on different devices.

    Notes
    -----
    Differentiable with respect to `input` and `target`. The second derivative is 1/beta where ``|r| < beta``, else 0.

    References
    ----------
    R. Girshick, "Fast R-CNN", ICCV 2015. ``torch.nn.functional.smooth_l1_loss``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.smooth_l1_loss([0.5, 3.0], [0.0, 0.0], reduction="none"))
    [0.125 2.5  ]
    """
    return Elementwise(
        smooth_l1, (input, target), params=(float(beta),), reduction=reduction, broadcast="warn"
    )


_HALF_LOG_TWO_PI = 0.9189385332046727


@jitable
def stirling(t):
    """Stirling's approximation of log t! for t > 1, else 0; and its derivative."""
    T = type(t)
    if t > T(1):
        u = log(t)
        return t * u - t + T(0.5) * u + T(_HALF_LOG_TWO_PI), u + T(0.5) / t
    return T(0), T(0)


@jitable
def poisson_log(x, t, eps):
    """exp(x) - t x, x the logarithm of the rate."""
    rate = exp(x)
    return rate - t * x, (rate - t, -x), rate


@jitable
def poisson_log_full(x, t, eps):
    """The same, with Stirling's term."""
    rate = exp(x)
    constant, slope = stirling(t)
    return rate - t * x + constant, (rate - t, slope - x), rate


@jitable
def poisson_rate(x, t, eps):
    """x - t log(x + ε), x the rate."""
    T = type(x)
    u = log(x + eps)
    q = T(1) / (x + eps)
    return x - t * u, (T(1) - t * q, -u), t * q * q


@jitable
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


@jitable
def gaussian(x, t, v, eps, constant):
    """(log v + r²/v)/2 + constant, with v clamped at ε from below, unseen by the derivative; NaN for v < 0."""
    T = type(x)
    r = x - t
    negative = v < T(0)
    v = eps if v < eps else v
    q = T(1) / v
    d = r * q
    value = T(math.nan) if negative else T(0.5) * (log(v) + r * d) + constant
    return value, (d, -d, T(0.5) * (q - d * d)), q


@loss(
    "elementwise",
    wrt=("input", "var"),
    differentiable=("input", "target", "var"),
    options={"full": FLAG, "eps": POSITIVE},
    domains={"var": "positive"},
    legacy=False,
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
        real_operands=True,
        broadcast="input",
        non_negative="var",
    )
