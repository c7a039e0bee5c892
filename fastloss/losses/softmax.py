"""Softmax, its logarithm, and log-sum-exp."""

from __future__ import annotations

import math

from fastloss.api.loss import loss
from fastloss.define.descriptions import Array, RowMap, RowMaths, Rowwise
from fastloss.define.maths import maths
from fastloss.define.options import FLAG
from fastloss.define.scalars import complement

# The notation of the functions of rows is explained at ``descriptions.RowMaths``.


@maths
def logsumexp_row(top, logsum, sums, zy, wy, p_others, py, params):
    """Maximum + log Σ exp z; an infinite maximum is the result itself."""
    return (top if top - top != top - top else top + logsum), (p_others,)


@maths
def logsumexp_entry(z, p, t, w, hit, coefs, params):
    """p, and p (1 - p); 0 where z = -inf, be it a number below an infinite maximum."""
    T = type(z)
    p = T(0) if z == T(-math.inf) else p
    return (p,), p * complement(z, p, coefs[0])


LOGSUMEXP = RowMaths(logsumexp_row, logsumexp_entry, softmax=True)


@maths
def softmax_row(top, logsum, sums, zy, wy, p_others, py, params):
    """The g of a class more likely than all others, and what it is above Σ p g; 0 and -Σ p g without one."""
    return type(top)(0), (sums[1], sums[1] * p_others - sums[0], p_others)


@maths
def softmax_terms(z, p, t, w, hit, zy, wy, params):
    """Σ p g without a class more likely than all others, and its g."""
    T = type(z)
    above = p > T(0.5)
    return (T(0) if above else p * t), (t if above else T(0)), T(0)


@maths
def softmax_entry(z, p, t, w, hit, coefs, params):
    """p; p (g - Σ p g), and p (1 - 2 p) (g - Σ p g): of a class nearly certain, g itself would cancel."""
    slope = params[0] * p * ((t - coefs[0]) + coefs[1])
    return (p, slope), slope * (complement(z, p, coefs[2]) - p)


@maths
def log_softmax_row(top, logsum, sums, zy, wy, p_others, py, params):
    """log Σ exp z, and Σ g."""
    T = type(top)
    return T(0), (logsum, sums[0], p_others)


@maths
def log_softmax_terms(z, p, t, w, hit, zy, wy, params):
    """Σ g."""
    T = type(z)
    return t, T(0), T(0)


@maths
def log_softmax_entry(z, p, t, w, hit, coefs, params):
    """z - log Σ exp z; g - p Σ g, and -p (1 - p) Σ g."""
    T = type(z)
    g, total = params[0] * t, params[0] * coefs[1]
    slope = (g - total) + coefs[2] * total if p > T(0.5) else g - p * total
    return (z - coefs[0], slope), -p * complement(z, p, coefs[2]) * total


SOFTMAX = RowMaths(softmax_row, softmax_entry, softmax_terms, softmax=True)
LOG_SOFTMAX = RowMaths(log_softmax_row, log_softmax_entry, log_softmax_terms, softmax=True)


@loss("rowmap")
def softmax(input: Array, dim: int | None = None, *, dtype: object = None) -> Array:
    r"""Softmax along an axis.

    .. math:: p_c = e^{x_c} / \sum_k e^{x_k}

    Parameters
    ----------
    input : array, shape (*)
        Logits.
    dim : int
        The axis that sums to one. Without it, as in torch: the first of one or three, else the second, and a warning.
    dtype : dtype, optional
        Converts `input` first; a gradient has the dtype that `input` had.

    Returns
    -------
    array
        Of the shape of `input`.

    Raises
    ------
    ValueError
        If `dim` is not an axis of `input`.

    Notes
    -----
    A transform's `grad_output` is the gradient with respect to the result; ones, its default, give a gradient of zero.
    A row that holds +inf, or nothing but -inf, gives NaN. A non-contiguous `input` is copied, unless it is a contiguous
    (N, L, C) transposed; results then lie in the same way.

    References
    ----------
    ``torch.softmax``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.softmax([[0.0, 0.0]], dim=1))
    [[0.5 0.5]]
    """
    return RowMap(SOFTMAX, input, dim, dtype)


@loss("rowmap")
def log_softmax(input: Array, dim: int | None = None, *, dtype: object = None) -> Array:
    r"""Logarithm of the softmax along an axis.

    .. math:: \log p_c = x_c - \log \sum_k e^{x_k}

    Parameters
    ----------
    input : array, shape (*)
        Logits.
    dim : int
        The axis along which the exponentials sum to one. Without it, as in torch: the first of one or three, else the
        second, and a warning.
    dtype : dtype, optional
        Converts `input` first; a gradient has the dtype that `input` had.

    Returns
    -------
    array
        Of the shape of `input`.

    Raises
    ------
    ValueError
        If `dim` is not an axis of `input`.

    Notes
    -----
    A transform's `grad_output` is the gradient with respect to the result (ones by default). A row that holds +inf, or
    nothing but -inf, gives NaN. A non-contiguous `input` is copied, unless it is a contiguous (N, L, C) transposed;
    results then lie in the same way.

    References
    ----------
    ``torch.log_softmax``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.log_softmax([[0.0, 0.0]], dim=1).round(4))
    [[-0.6931 -0.6931]]
    """
    return RowMap(LOG_SOFTMAX, input, dim, dtype)


@loss("rowwise", options={"keepdim": FLAG})
def logsumexp(input: Array, dim: int | tuple[int, ...], *, keepdim: bool = False) -> Array:
    r"""Logarithm of the sum of exponentials along an axis.

    .. math:: \log \sum_c e^{x_c}

    Parameters
    ----------
    input : array, shape (*)
        Real numbers.
    dim : int or tuple of int
        The axis, or neighbouring axes, to sum over; an empty tuple names all.
    keepdim : bool
        Whether the axis stays, with length 1.

    Returns
    -------
    array
        Of the shape of `input` without `dim`.

    Raises
    ------
    ValueError
        If `dim` is not an axis of `input`, or names axes twice or apart.

    Notes
    -----
    The gradient is the softmax, times `grad_output`; the diagonal of the Hessian is p (1 - p). A row of nothing but
    -inf, or of nothing, gives -inf, one that holds +inf gives +inf. A non-contiguous `input` is copied.

    References
    ----------
    ``torch.logsumexp``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.logsumexp([[0.0, 0.0]], dim=1).round(4))
    [0.6931]
    """
    if dim is None:
        raise TypeError("dim must be an integer or a tuple of integers, got None")
    return Rowwise(LOGSUMEXP, input, reduction="none", axis=dim, keepdim=keepdim, empty=-math.inf)
