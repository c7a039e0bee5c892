"""Losses of a score against a yes or no."""

from __future__ import annotations

from fastloss._registry import jitable, loss
from fastloss._spec import Array, Elementwise
from fastloss.losses.scalars import exp_nonpositive, log1p_unit


@jitable
def bce_with_logits(x, t):
    """(1 - t) x + log(1 + exp(-x)); the second derivative is σ(x) σ(-x)."""
    T = type(x)
    e = exp_nonpositive(-abs(x))
    positive = x > T(0)
    inverse = T(1) / (T(1) + e)
    p = inverse if positive else e * inverse
    value = (x if positive else T(0)) - t * x + log1p_unit(e)
    return value, (p - t, -x), e * inverse * inverse


@jitable
def bce_with_logits_pos_weight(x, t, q):
    """(1 - t) x + (1 + (q - 1) t) log(1 + exp(-x)), q the weight of the positive class."""
    T = type(x)
    e = exp_nonpositive(-abs(x))
    positive = x > T(0)
    inverse = T(1) / (T(1) + e)
    p = inverse if positive else e * inverse
    log_weight = T(1) + (q - T(1)) * t
    softplus_minus = log1p_unit(e) - (T(0) if positive else x)
    value = (T(1) - t) * x + log_weight * softplus_minus
    return value, (log_weight * p - q * t, (q - T(1)) * softplus_minus - x), log_weight * e * inverse * inverse


@loss("elementwise", differentiable=("input", "target"), domains={"target": "probability", "pos_weight": "positive"})
def binary_cross_entropy_with_logits(
    input: Array,
    target: Array,
    weight: Array | None = None,
    *,
    reduction: str = "mean",
    pos_weight: Array | None = None,
) -> Array:
    r"""Binary cross-entropy of logits.

    .. math:: \ell_i = -w_i \left[ q_i t_i \log \sigma(x_i) + (1 - t_i) \log \sigma(-x_i) \right]

    Parameters
    ----------
    input : array, shape (*)
        Logits.
    target : array, shape (*)
        Probabilities of the positive class, any integer or floating dtype; values outside [0, 1] are computed with.
    weight : array, broadcastable to `input`, optional
        Weight of each element.
    reduction : {"mean", "sum", "none"}
        The mean is over the number of elements; weights do not enter its divisor.
    pos_weight : array, broadcastable to `input`, optional
        Weight q of the positive class, usually one for each column.

    Returns
    -------
    array
        Zero-dimensional, or of the shape of `input` for ``reduction="none"``.

    Raises
    ------
    ValueError
        If `input` and `target` differ in shape, `weight` or `pos_weight` does not broadcast to it, or `reduction` is
        unknown.
    TypeError
        If `input` is not floating point, or the arrays lie on different devices.

    Notes
    -----
    Computed from ``exp(-|x|)``: no overflow for any finite logit. Infinite logits follow torch: NaN where the exact
    value would be 0 times infinity. Differentiable with respect to `input` and `target`.

    References
    ----------
    ``torch.nn.functional.binary_cross_entropy_with_logits``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.binary_cross_entropy_with_logits([0.0], [1.0]).round(4))
    0.6931
    """
    if pos_weight is None:
        return Elementwise(bce_with_logits, (input, target), weight=weight, reduction=reduction, broadcast="exact")
    return Elementwise(
        bce_with_logits_pos_weight,
        (input, target, pos_weight),
        ("input", "target", "pos_weight"),
        weight=weight,
        reduction=reduction,
        broadcast="exact",
    )


@jitable
def sigmoid_block(x):
    """σ(x), σ(x) σ(-x), and σ' (1 - 2 σ)."""
    T = type(x)
    e = exp_nonpositive(-abs(x))
    inverse = T(1) / (T(1) + e)
    p = inverse if x > T(0) else e * inverse
    d = e * inverse * inverse
    return p, (d,), d * (T(1) - T(2) * p)


@jitable
def log_sigmoid_block(x):
    """-log(1 + exp(-x)), σ(-x), and -σ(x) σ(-x)."""
    T = type(x)
    e = exp_nonpositive(-abs(x))
    inverse = T(1) / (T(1) + e)
    value = (T(0) if x > T(0) else x) - log1p_unit(e)
    return value, (e * inverse if x > T(0) else inverse,), -e * inverse * inverse


@loss("elementwise", legacy=False)
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

    Raises
    ------
    TypeError
        If `input` is not floating point.

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


@loss("elementwise", legacy=False)
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

    Raises
    ------
    TypeError
        If `input` is not floating point.

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
