"""Hinges and logistic losses of scores over a class axis."""

from __future__ import annotations

import math

from fastloss.api.loss import loss
from fastloss.define.descriptions import Array, LabelSets, PairMaths, RowMaths, Rowwise
from fastloss.define.maths import maths
from fastloss.define.options import FINITE, ONE_OR_TWO
from fastloss.define.scalars import exp_nonpositive, log1p_unit

# The notation of the functions of rows is explained at ``descriptions.RowMaths``.


@maths
def multi_margin_terms_1(z, p, t, w, hit, zy, wy, params):
    """Σ max(0, m - x_y + x) and how many of them are positive."""
    T = type(z)
    h = params[0] + (z - zy)
    active = h > T(0) and not hit
    return (h if active else T(0)), (T(1) if active else T(0)), T(0)


@maths
def multi_margin_terms_2(z, p, t, w, hit, zy, wy, params):
    """Σ max(0, m - x_y + x)², half its derivative, and how many terms are positive."""
    T = type(z)
    h = params[0] + (z - zy)
    active = h > T(0) and not hit
    a = h if active else T(0)
    return a * a, a, (T(1) if active else T(0))


@maths
def multi_margin_row_1(top, logsum, sums, zy, wy, p_others, py, params):
    """w_y / C times the sum; params are the margin and 1/C."""
    c = wy * params[1]
    return c * sums[0], (zy, c, sums[1])


@maths
def multi_margin_entry_1(z, p, t, w, hit, coefs, params):
    """w_y / C where the hinge is active, less their number at the target."""
    T = type(z)
    zy, c, active = coefs
    if hit:
        return (-c * active,), T(0)
    return (c if params[0] + (z - zy) > T(0) else T(0),), T(0)


@maths
def multi_margin_row_2(top, logsum, sums, zy, wy, p_others, py, params):
    """w_y / C times the sum; the curvature at the target is 2 w_y / C times the number of active hinges."""
    T = type(zy)
    c = T(2) * wy * params[1]
    return wy * params[1] * sums[0], (zy, c, c * sums[1], c * sums[2])


@maths
def multi_margin_entry_2(z, p, t, w, hit, coefs, params):
    """2 w_y / C max(0, m - x_y + x), less their sum at the target."""
    T = type(z)
    zy, c, slope, curvature = coefs
    if hit:
        return (-slope,), curvature
    h = params[0] + (z - zy)
    return (c * h if h > T(0) else T(0),), (c if h > T(0) else T(0))


MULTI_MARGIN = {
    1: RowMaths(multi_margin_row_1, multi_margin_entry_1, multi_margin_terms_1, indexed=True),
    2: RowMaths(multi_margin_row_2, multi_margin_entry_2, multi_margin_terms_2, indexed=True),
}


@maths
def multilabel_soft_terms(z, p, t, w, hit, zy, wy, params):
    """Σ w log(1 + exp((1 - 2 t) z)), written for any t."""
    T = type(z)
    e = exp_nonpositive(-abs(z))
    return w * ((T(1) - t if z > T(0) else -t) * z + log1p_unit(e)), T(0), T(0)


@maths
def multilabel_soft_row(top, logsum, sums, zy, wy, p_others, py, params):
    """The mean over the classes."""
    return params[0] * sums[0], ()


@maths
def multilabel_soft_entry(z, p, t, w, hit, coefs, params):
    """w (σ(z) - t) / C, and the derivatives with respect to target and weight."""
    T = type(z)
    e = exp_nonpositive(-abs(z))
    inverse = T(1) / (T(1) + e)
    smaller = e * inverse  # σ(-|z|)
    rest = T(1) - t if z > T(0) else -t
    slope = rest + (-smaller if z > T(0) else smaller)  # σ(z) - t, which would cancel
    value = rest * z + log1p_unit(e)
    scaled = w * params[0]
    return (scaled * slope, -scaled * z, params[0] * value), scaled * smaller * inverse


MULTILABEL_SOFT = RowMaths(multilabel_soft_row, multilabel_soft_entry, multilabel_soft_terms)


@maths
def multilabel_soft_pair_terms(a, b, c, peaks, params):
    """The terms above, and 1: the classes are counted."""
    T = type(a)
    return multilabel_soft_terms(a, a, b, c, False, a, a, params)[0], T(1), T(0)


@maths
def multilabel_soft_pair_row(sums, peaks, y, params):
    """The mean over the classes."""
    T = type(y)
    return sums[0] / sums[1], (T(1) / sums[1],)


@maths
def multilabel_soft_pair_entry(a, b, c, coefs, params):
    """The derivatives above."""
    return multilabel_soft_entry(a, a, b, c, False, coefs, coefs)


# The same loss with a weight of any shape.
MULTILABEL_SOFT_PAIRS = PairMaths(multilabel_soft_pair_terms, multilabel_soft_pair_row, multilabel_soft_pair_entry)


@maths
def multilabel_hinge(outside, inside):
    """max(0, 1 - x_y + x), 0 at the kink."""
    T = type(outside)
    h = T(1) + (outside - inside)
    active = h > T(0)
    return (h if active else T(0)), ((T(1) if active else T(0)), (T(-1) if active else T(0))), T(0)


@loss("rowwise", options={"p": ONE_OR_TWO, "margin": FINITE}, domains={"target": "class"}, legacy=True)
def multi_margin_loss(
    input: Array,
    target: Array,
    weight: Array | None = None,
    *,
    p: int = 1,
    margin: float = 1.0,
    reduction: str = "mean",
) -> Array:
    r"""Multi-class hinge loss.

    .. math:: \ell_n = \frac{w_{y_n}}{C} \sum_{c \ne y_n} \max(0, m - x_{n, y_n} + x_{nc})^p

    Parameters
    ----------
    input : array, shape (C,) or (N, C)
        Scores.
    target : array of integers, shape () or (N,)
        Class indices in [0, C).
    weight : array, shape (C,), optional
        Weight of each class.
    p : {1, 2}
        Power of the hinge.
    margin : float
        The margin m.
    reduction : {"mean", "sum", "none"}
        The mean is over the number of rows; weights do not enter its divisor.

    Notes
    -----
    At the hinge's kink the gradient is 0. Over no rows the mean is NaN and the sum 0; torch returns uninitialised
    memory. The second derivative is zero for p = 1.

    References
    ----------
    K. Crammer and Y. Singer, "On the algorithmic implementation of multiclass kernel-based vector machines", JMLR 2
    (2001). ``torch.nn.functional.multi_margin_loss``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.multi_margin_loss([[0.1, 0.2, 0.4, 0.8]], [3]).round(4))
    0.325
    """
    return Rowwise(
        MULTI_MARGIN[int(p)],
        input,
        target,
        weight=weight,
        params=(float(margin),),
        reduction=reduction,
        axis=-1,
        max_ndim=2,
    )


@loss("rowwise", differentiable=("input", "target", "weight"), domains={"target": "probability"}, legacy=True)
def multilabel_soft_margin_loss(
    input: Array, target: Array, weight: Array | None = None, *, reduction: str = "mean"
) -> Array:
    r"""Mean over the classes of the binary cross-entropy of logits.

    .. math:: \ell_n = -\frac1C \sum_c w_c \left[ t_{nc} \log \sigma(x_{nc}) + (1 - t_{nc}) \log \sigma(-x_{nc}) \right]

    Parameters
    ----------
    input : array, shape (C,), (N, C) or (..., C)
        Logits, the classes along the last axis.
    target : array, shape of `input`
        Probabilities of the labels.
    weight : array, shape (C,), optional
        Weight of each class. As in torch any shape that broadcasts to that of `input` will do; it is then copied.
    reduction : {"mean", "sum", "none"}
        The mean is over the rows.

    Notes
    -----
    Differentiable with respect to `input`, `target` and `weight`. A non-contiguous `input` is copied.

    References
    ----------
    ``torch.nn.functional.multilabel_soft_margin_loss``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.multilabel_soft_margin_loss([[0.0, 0.0]], [[1.0, 0.0]]).round(4))
    0.6931
    """
    return Rowwise(
        MULTILABEL_SOFT,
        input,
        target,
        weight=weight,
        reduction=reduction,
        axis=-1,
        empty=math.nan,
        pairs=MULTILABEL_SOFT_PAIRS,
    )


@loss("label_sets", hessian="zero", domains={"target": "class_list"}, legacy=True)
def multilabel_margin_loss(input: Array, target: Array, *, reduction: str = "mean") -> Array:
    r"""Hinge loss of several labels for a row.

    .. math:: \ell_n = \frac1C \sum_{y \in Y_n} \sum_{c \notin Y_n} \max(0, 1 - x_{ny} + x_{nc})

    Parameters
    ----------
    input : array, shape (C,) or (N, C)
        Scores.
    target : array of integers, shape of `input`
        A row lists its classes from the start and ends the list with -1; what follows is ignored.
    reduction : {"mean", "sum", "none"}
        The mean is over the number of rows.

    Raises
    ------
    IndexError
        If a listed label is not a class, or a list ends with a number below -1.

    Notes
    -----
    A class that is listed twice counts twice, as in torch. At the hinge's kink the gradient is 0; the second derivative
    is zero almost everywhere. Over no rows the mean is NaN and the sum 0; torch returns uninitialised memory.

    References
    ----------
    ``torch.nn.functional.multilabel_margin_loss``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.multilabel_margin_loss([[0.1, 0.2, 0.4, 0.8]], [[3, 0, -1, 1]]).round(4))
    0.85
    """
    return LabelSets(multilabel_hinge, input, target, reduction)
