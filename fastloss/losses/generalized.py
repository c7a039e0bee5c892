"""Generalised cross-entropy: between cross-entropy and the absolute error of a probability."""

from __future__ import annotations

from typing import Annotated

from fastloss.custom import INTEGER, UNIT_ABOVE_ZERO, Array, RowMaths, Rowwise, complement, exp, loss, maths

# Terms of the series of 1 - exp(u) for u from -0.5 on: the first one left out is below half an ulp of float64.
_TERMS = 15


@maths
def one_minus_power(log_p, q):
    """(1 - p**q) / q for log p <= 0, near 0 by its series: the difference would lose the digits that log p has."""
    T = type(log_p)
    u = q * log_p
    series = T(1)
    for n in range(_TERMS, 1, -1):
        series = T(1) + u * series / T(n)
    return -log_p * series if u > T(-0.5) else (T(1) - exp(u)) / q


@maths
def gce_value(row, p):
    """w (1 - p_y^q) / q; and w p_y^q, 1 - p_y and 1 less the largest softmax."""
    log_p = row.z - row.logsum
    missed = complement(row.z, exp(log_p), row.p_others)
    return row.w * one_minus_power(log_p, p.q), (row.w * exp(p.q * log_p), missed, row.p_others)


@maths
def gce_grad(entry, kept, p):
    """p_y^q (p - [y]), and p_y^q (p (1 - p) - q (p - [y])²)."""
    power, missed, p_others = kept
    d = -missed if entry.hit else entry.p
    return (power * d,), power * (entry.p * complement(entry.z, entry.p, p_others) - p.q * d * d)


GENERALIZED = RowMaths(gce_value, gce_grad, softmax=True)


@loss
def generalized_cross_entropy(
    input: Array,
    target: Array,
    weight: Array | None = None,
    *,
    q: Annotated[float, UNIT_ABOVE_ZERO] = 0.7,
    ignore_index: Annotated[int, INTEGER] = -100,
    reduction: str = "mean",
) -> Array:
    r"""Cross-entropy that saturates, for labels that may be wrong.

    .. math:: \ell_n = w_{y_n} \frac{1 - p_{n, y_n}^q}{q}, \qquad p_n = \mathrm{softmax}(x_n)

    Parameters
    ----------
    input : array, shape (C,), (N, C) or (N, C, d1, ..., dK)
        Logits.
    target : array of integers, shape (), (N,) or (N, d1, ..., dK)
        Class indices in [0, C).
    weight : array, shape (C,), optional
        Weight of each class.
    q : float
        In (0, 1]: 1 gives the absolute error of the probability, towards 0 it becomes the cross-entropy.
    ignore_index : int
        Rows with this class index count neither in value, gradient nor mean.
    reduction : {"mean", "sum", "none"}
        The mean is divided by the summed weight of the rows that count.

    Notes
    -----
    The diagonal of the Hessian is p_y^q (p (1 - p) - q (p - [y])²) times the row's weight, which may be negative. A
    small loss and the derivatives of a row that is sure keep their digits, for any q.

    References
    ----------
    Z. Zhang and M. R. Sabuncu, "Generalized cross entropy loss for training deep neural networks with noisy labels",
    NeurIPS 2018.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.generalized_cross_entropy([[0.0, 0.0]], [0], q=1.0))
    0.5
    """
    return Rowwise(GENERALIZED, q=q)
