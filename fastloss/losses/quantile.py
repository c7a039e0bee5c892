"""A loss whose minimiser is a quantile."""

from __future__ import annotations

from typing import Annotated

from fastloss.custom import OPEN_UNIT, Array, Elementwise, loss, maths


@maths
def pinball(x, t, q):
    """q r if r > 0, else (q - 1) r, with r = t - x."""
    T = type(x)
    r = t - x
    slope = q if r > T(0) else (q - T(1) if r < T(0) else T(0))
    return slope * r, (-slope, slope), T(0)


@loss
def quantile_loss(
    input: Array, target: Array, *, q: Annotated[float, OPEN_UNIT] = 0.5, reduction: str = "mean"
) -> Array:
    r"""Pinball loss, which a quantile of the target minimises.

    .. math:: \ell_i = \max(q (t_i - x_i), (q - 1) (t_i - x_i))

    Parameters
    ----------
    input, target : array, shape (*)
        Predictions and targets. Shapes that differ are broadcast, with a warning.
    q : float
        The quantile, in (0, 1); 0.5 gives half the absolute error.
    reduction : {"mean", "sum", "none"}
        The mean is over the number of elements.

    Notes
    -----
    Differentiable with respect to `input` and `target`; at ``input == target`` the gradient is 0. The second derivative
    is zero.

    References
    ----------
    R. Koenker and G. Bassett, "Regression quantiles", Econometrica 46 (1978).

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.quantile_loss([1.0, 3.0], [2.0, 2.0], q=0.75, reduction="none"))
    [0.75 0.25]
    """
    return Elementwise(pinball, q=q)
