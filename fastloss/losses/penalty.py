"""Penalties on parameters."""

from __future__ import annotations

from fastloss.api.loss import loss
from fastloss.define.descriptions import Array, Penalty
from fastloss.define.maths import maths
from fastloss.define.options import FINITE_NON_NEGATIVE
from fastloss.define.scalars import sign


@maths
def absolute(p, c):
    """c |p|."""
    T = type(p)
    return c * abs(p), (c * sign(p),), T(0)


@maths
def half_square(p, c):
    """c p² / 2."""
    T = type(p)
    slope = c * p
    return T(0.5) * slope * p, (slope,), c


@loss("penalty", wrt=("params",), hessian="zero", options={"coefficient": FINITE_NON_NEGATIVE})
def l1_penalty(params: Array, coefficient: float) -> Array:
    r"""L1 penalty, the lasso's.

    .. math:: c \sum_i |p_i|

    Parameters
    ----------
    params : array, or iterable of arrays
        One array of any shape, or several, such as the parameters of a model; all on one device.
    coefficient : float
        The factor c, not negative.

    Returns
    -------
    array
        Zero-dimensional. The gradient is one array for one array, and a list for several, in their order, ready to be
        added to that of a loss.

    Notes
    -----
    At 0 the gradient is 0; the second derivative is zero almost everywhere.

    References
    ----------
    R. Tibshirani, "Regression shrinkage and selection via the lasso", J. R. Stat. Soc. B 58 (1996).

    Examples
    --------
    >>> import numpy as np, fastloss as fl
    >>> print(fl.l1_penalty(np.array([1.0, -2.0]), 0.5))
    1.5
    """
    FINITE_NON_NEGATIVE.check("coefficient", coefficient)  # given by position, it has not been checked
    return Penalty(absolute, params, coefficient)


@loss("penalty", wrt=("params",), options={"coefficient": FINITE_NON_NEGATIVE})
def l2_penalty(params: Array, coefficient: float) -> Array:
    r"""Squared L2 penalty, weight decay.

    .. math:: \frac{c}{2} \sum_i p_i^2

    Parameters
    ----------
    params : array, or iterable of arrays
        One array of any shape, or several, such as the parameters of a model; all on one device.
    coefficient : float
        The factor c, not negative.

    Returns
    -------
    array
        Zero-dimensional. The gradient is one array for one array, and a list for several, in their order, ready to be
        added to that of a loss.

    Notes
    -----
    Its gradient is c p: added to the gradient of a loss, it is the weight decay of stochastic gradient descent.

    References
    ----------
    A. Krogh and J. A. Hertz, "A simple weight decay can improve generalization", NIPS 1991.

    Examples
    --------
    >>> import numpy as np, fastloss as fl
    >>> print(fl.grad(fl.l2_penalty)([np.array([1.0, -2.0]), np.array([4.0])], 0.5))
    [array([ 0.5, -1. ]), array([2.])]
    """
    FINITE_NON_NEGATIVE.check("coefficient", coefficient)  # given by position, it has not been checked
    return Penalty(half_square, params, coefficient)
