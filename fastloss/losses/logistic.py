"""The logistic function and its logarithm."""

from __future__ import annotations

from fastloss.api.loss import loss
from fastloss.define.descriptions import Array, Elementwise
from fastloss.define.maths import maths
from fastloss.define.scalars import exp_nonpositive, log1p_unit, tanh


@maths
def sigmoid_block(x):
    """σ(x), σ(x) σ(-x), and σ' (1 - 2 σ), in which 1 - 2 σ(x) = -tanh(x / 2) would cancel near 0."""
    T = type(x)
    e = exp_nonpositive(-abs(x))
    inverse = T(1) / (T(1) + e)
    positive = x > T(0)
    d = e * inverse * inverse
    return (inverse if positive else e * inverse), (d,), -d * tanh(T(0.5) * x)


@maths
def log_sigmoid_block(x):
    """-log(1 + exp(-x)), σ(-x), and -σ(x) σ(-x)."""
    T = type(x)
    e = exp_nonpositive(-abs(x))
    inverse = T(1) / (T(1) + e)
    value = (T(0) if x > T(0) else x) - log1p_unit(e)
    return value, (e * inverse if x > T(0) else inverse,), -e * inverse * inverse


@loss("elementwise")
def sigmoid(input: Array) -> Array:
    r"""Logistic function, element by element.

    .. math:: \sigma(x) = 1 / (1 + e^{-x})

    Parameters
    ----------
    input : array, shape (*)
        Logits.

    Returns
    -------
    array
        Of the shape and dtype of `input`.

    References
    ----------
    ``torch.sigmoid``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.sigmoid([0.0]))
    [0.5]
    """
    return Elementwise(sigmoid_block, (input,), ("input",), reduction="none", leads=1)


@loss("elementwise")
def logsigmoid(input: Array) -> Array:
    r"""Logarithm of the logistic function, element by element.

    .. math:: \log \sigma(x) = \min(x, 0) - \log(1 + e^{-|x|})

    Parameters
    ----------
    input : array, shape (*)
        Logits.

    Returns
    -------
    array
        Of the shape and dtype of `input`.

    References
    ----------
    ``torch.nn.functional.logsigmoid``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.logsigmoid([0.0]).round(4))
    [-0.6931]
    """
    return Elementwise(log_sigmoid_block, (input,), ("input",), reduction="none", leads=1)
