"""The logistic function and its logarithm."""

from __future__ import annotations

from fastloss.api.loss import loss
from fastloss.define.descriptions import Array, Elementwise
from fastloss.define.maths import maths
from fastloss.define.scalars import exp_nonpositive, log1p_unit


@maths
def sigmoid_block(x):
    """σ(x), σ(x) σ(-x), and σ' (1 - 2 σ)."""
    T = type(x)
    e = exp_nonpositive(-abs(x))
    inverse = T(1) / (T(1) + e)
    positive = x > T(0)
    d = e * inverse * inverse
    tilt = (e - T(1) if positive else T(1) - e) * inverse  # 1 - 2 σ(x)
    return (inverse if positive else e * inverse), (d,), d * tilt


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
