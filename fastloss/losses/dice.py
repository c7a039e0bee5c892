"""Losses of overlap, of segmentations."""

from __future__ import annotations

from typing import Annotated

from fastloss.custom import FINITE_NON_NEGATIVE, INTEGER, Array, SumMaths, Sums, loss, maths
from fastloss.losses.softmax import softmax


@maths
def dice_terms(x, t, p):
    """x (1 - t) + t (1 - x) and x t: what differs, and what agrees."""
    T = type(x)
    return x * (T(1) - t) + t * (T(1) - x), x * t


@maths
def dice_value(sums, p):
    """What differs over d = Σ (x + t) + s, the sum of that and n = 2 Σ x t + s; n / d² and 2 / d."""
    T = type(sums[0])
    apart, overlap = sums
    numerator = overlap + overlap + p.smooth
    whole = apart + numerator
    inverse = T(1) / whole
    return apart / whole, (numerator / whole * inverse, inverse + inverse)


@maths
def dice_grad(x, t, coefs, p):
    """n / d² - 2 t / d, the same with x, and -2 / d times the first."""
    pull, twice = coefs
    slope = pull - twice * t
    return (slope, pull - twice * x), -twice * slope


DICE = SumMaths(dice_terms, dice_value, dice_grad)


@loss
def dice_loss(
    input: Annotated[Array, "probability"],
    target: Annotated[Array, "probability"],
    *,
    smooth: Annotated[float, FINITE_NON_NEGATIVE] = 1.0,
    reduction: str = "mean",
) -> Array:
    r"""One less the Dice coefficient, of probabilities.

    .. math:: \ell_{nc} = 1 - \frac{2 \sum_i x_{nci} t_{nci} + s}{\sum_i (x_{nci} + t_{nci}) + s}

    Parameters
    ----------
    input, target : array, shape (N, C, d1, ..., dK) or (N, D)
        Probabilities, such as those of :func:`softmax`, and the classes that are there, 0 or 1 or probabilities. The
        sums are over the axes behind the second, of two axes over the last one.
    smooth : float
        The s of the formula, not negative; with 0 the loss of two empty masks is NaN.
    reduction : {"mean", "sum", "none"}
        The mean is over samples and classes.

    Returns
    -------
    array
        Zero-dimensional, or of shape (N, C) or (N,) for ``reduction="none"``.

    Notes
    -----
    Computed from the sum of x (1 - t) + t (1 - x), so that the loss of masks that nearly agree keeps its digits.
    Differentiable with respect to `input` and `target`. A non-contiguous array is copied.

    References
    ----------
    F. Milletari, N. Navab and S.-A. Ahmadi, "V-Net: fully convolutional neural networks for volumetric medical image
    segmentation", 3DV 2016.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.dice_loss([[1.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]], smooth=0.0).round(4))
    0.3333
    """
    return Sums(DICE, axes=range(min(2, input.ndim - 1), input.ndim), smooth=smooth)


@loss
def soft_dice_loss(
    input: Array,
    target: Annotated[Array, "probability"],
    *,
    dim: Annotated[int, INTEGER] = 1,
    smooth: Annotated[float, FINITE_NON_NEGATIVE] = 1.0,
    reduction: str = "mean",
) -> Array:
    r"""One less the Dice coefficient, of logits.

    .. math::

        \ell_{nc} = 1 - \frac{2 \sum_i p_{nci} t_{nci} + s}{\sum_i (p_{nci} + t_{nci}) + s}, \qquad
        p = \mathrm{softmax}(x)

    Parameters
    ----------
    input : array, shape (N, C, d1, ..., dK)
        Logits.
    target : array, shape of `input`
        The classes that are there, 0 or 1 or probabilities.
    dim : int
        The axis that the softmax sums to one over.
    smooth : float
        The s of the formula, not negative.
    reduction : {"mean", "sum", "none"}
        The mean is over samples and classes.

    Returns
    -------
    array
        Zero-dimensional, or of shape (N, C) for ``reduction="none"``.

    Raises
    ------
    ValueError
        If a second derivative is asked for.

    Notes
    -----
    ``dice_loss(softmax(input, dim), target)``, and its gradient; the probabilities are stored, in the dtype of `input`.
    Differentiable with respect to `input` and `target`.

    References
    ----------
    F. Milletari, N. Navab and S.-A. Ahmadi, "V-Net: fully convolutional neural networks for volumetric medical image
    segmentation", 3DV 2016.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.soft_dice_loss([[[0.0], [0.0]]], [[[1.0], [0.0]]]).round(4))
    0.2667
    """
    return dice_loss(softmax(input, dim), target, smooth=smooth, reduction=reduction)
