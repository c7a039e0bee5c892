"""Losses of a prediction against a real-valued target."""

from __future__ import annotations

from fastloss.api.loss import loss
from fastloss.define.descriptions import Array, Elementwise
from fastloss.define.maths import maths
from fastloss.define.options import NON_NEGATIVE, POSITIVE
from fastloss.define.scalars import sign


@maths
def mse(x, t):
    """r² with r = x - t."""
    T = type(x)
    r = x - t
    d = T(2) * r
    return r * r, (d, -d), T(2)


@maths
def l1(x, t):
    """|r| with r = x - t."""
    T = type(x)
    r = x - t
    d = sign(r)
    return abs(r), (d, -d), T(0)


@maths
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


@maths
def huber(x, t, delta):
    """r²/2 if |r| <= δ, else δ(|r| - δ/2), with r = x - t."""
    T = type(x)
    r = x - t
    a = abs(r)
    if a > delta:
        d = delta * sign(r)
        return delta * (a - T(0.5) * delta), (d, -d), T(0)
    return T(0.5) * r * r, (r, -r), T(1)


@loss("elementwise", differentiable=("input", "target", "weight"), legacy=True)
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


@loss("elementwise", differentiable=("input", "target", "weight"), options={"delta": POSITIVE})
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
        The mean is over the number of elements; `weight` does not enter its divisor, as that of :func:`mse_loss` does,
        unless samples are weighted: then it is the sum of the products of both weights.
    delta : float
        Where the loss turns from quadratic to linear; positive, infinity included.

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
        huber,
        (input, target),
        params=(float(delta),),
        weight=weight,
        reduction=reduction,
        mean="products",
        broadcast="warn",
        exact_weight=True,
    )


@loss("elementwise", differentiable=("input", "target", "weight"), hessian="zero", legacy=True)
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


@loss("elementwise", differentiable=("input", "target"), options={"beta": NON_NEGATIVE}, legacy=True)
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
    if beta == 0:
        return Elementwise(l1, (input, target), reduction=reduction, broadcast="warn")
    return Elementwise(smooth_l1, (input, target), params=(float(beta),), reduction=reduction, broadcast="warn")
