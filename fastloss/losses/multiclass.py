"""Cross-entropy and its relatives: losses of a distribution over a class axis."""

from __future__ import annotations

import functools
import math
from typing import Any

from fastloss.api.loss import loss
from fastloss.define.descriptions import Array, RowMaths, Rowwise, Scores
from fastloss.define.maths import maths, named
from fastloss.define.options import INTEGER, SCORED, UNIT_INTERVAL
from fastloss.define.scalars import complement

# The notation of the functions of rows is explained at ``descriptions.RowMaths``. A difference from p takes the digits
# of p_others where p is near 1, and those of p elsewhere: the largest of many entries may have a small softmax. A value
# chooses between factors, not between a product and 0: vectors would round such a product before they add to it, and
# the rest of a loop would not.


@maths
def ce_row(top, logsum, sums, zy, wy, p_others, py, params):
    """-w log p_y; a weight of 0 counts as 0 even where p_y is."""
    T = type(zy)
    surprise = T(0) if wy == T(0) and zy == T(-math.inf) else logsum - zy
    return wy * surprise, (wy, wy * complement(zy, py, p_others), p_others)


@maths
def ce_entry(z, p, t, w, hit, coefs, params):
    """w_y (p - [y]), and w_y p (1 - p)."""
    wy, missed, p_others = coefs
    return ((-missed if hit else wy * p),), wy * p * complement(z, p, p_others)


CROSS_ENTROPY = RowMaths(ce_row, ce_entry, softmax=True, indexed=True, proportional=True)


@maths
def token_row(top, logsum, sums, zy, wy, p_others, py, params):
    """Log p_y."""
    return zy - logsum, (complement(zy, py, p_others),)


@maths
def token_entry(z, p, t, w, hit, coefs, params):
    """[y] - p."""
    T = type(z)
    return ((coefs[0] if hit else -p),), T(0)


TOKEN_LOG_PROBABILITY = RowMaths(token_row, token_entry, softmax=True, indexed=True, proportional=True)


@maths
def smooth_terms(z, p, t, w, hit, zy, wy, params):
    """Σ w and Σ w z; a weight of 0 counts as 0 even where z = -inf."""
    T = type(z)
    return w, (w * z if w != T(0) else T(0)), T(0)


@maths
def smooth_row(top, logsum, sums, zy, wy, p_others, py, params):
    """-(1 - ε) w log p_y - ε/C Σ w log p."""
    T = type(zy)
    smoothing = params[0]
    share = smoothing * params[1]  # ε/C
    kept = (T(1) - smoothing) * wy
    total = kept + share * sums[0]
    surprise = T(0) if kept == T(0) and zy == T(-math.inf) else logsum - zy
    at_target = share * (sums[0] - wy) - total * p_others if py > T(0.5) else total * py - (kept + share * wy)
    return kept * surprise + share * (sums[0] * logsum - sums[1]), (total, at_target, p_others)


@maths
def smooth_entry(z, p, t, w, hit, coefs, params):
    """(Σ mass) p - mass, where the target's mass is (1 - ε) w_y + ε/C w_y and another's ε/C w."""
    total, at_target, p_others = coefs
    other = total * p - params[0] * params[1] * w
    return ((at_target if hit else other),), total * p * complement(z, p, p_others)


SMOOTH_CROSS_ENTROPY = RowMaths(smooth_row, smooth_entry, smooth_terms, softmax=True, indexed=True)


@maths
def soft_terms(z, p, t, w, hit, zy, wy, params):
    """Σ w q and Σ w q z with q the smoothed probability; q = 0 counts as 0 even where z = -inf."""
    T = type(z)
    smoothing = params[0]
    share = smoothing * params[1]
    mass = w * ((T(1) - smoothing) * t + share)
    return mass, (mass * z if mass != T(0) else T(0)), T(0)


@maths
def soft_row(top, logsum, sums, zy, wy, p_others, py, params):
    """-Σ w q log p."""
    return sums[0] * logsum - sums[1], (sums[0], logsum, p_others)


@maths
def soft_entry(z, p, t, w, hit, coefs, params):
    """Derivatives with respect to the logit, the probability and the class weight."""
    T = type(z)
    smoothing = params[0]
    share = smoothing * params[1]
    total, logsum, p_others = coefs
    q = (T(1) - smoothing) * t + share
    surprise = logsum - z
    d_weight = q * surprise if q != T(0) else T(0)
    mass = w * q
    slope = (total - mass) - total * p_others if p > T(0.5) else total * p - mass
    return (slope, w * (T(1) - smoothing) * surprise, d_weight), total * p * complement(z, p, p_others)


SOFT_CROSS_ENTROPY = RowMaths(soft_row, soft_entry, soft_terms, softmax=True)


@functools.cache
def with_z_loss(base: RowMaths) -> RowMaths:
    """Return the maths of a cross-entropy plus ζ (log Σ exp x)²; its parameters are the base's first, ζ, and 1/C."""
    terms, finish, entry = base.terms, base.finish, base.entry

    def z_terms(z, p, t, w, hit, zy, wy, params):
        return terms(z, p, t, w, hit, zy, wy, (params[0], params[2]))

    def z_row(top, logsum, sums, zy, wy, p_others, py, params):
        value, coefs = finish(top, logsum, sums, zy, wy, p_others, py, (params[0], params[2]))
        lse = top + logsum
        return value + params[1] * lse * lse, (*coefs, params[1] * (lse + lse))

    def z_entry(z, p, t, w, hit, coefs, params):
        T = type(z)
        slopes, curvature = entry(z, p, t, w, hit, coefs[:-1], (params[0], params[2]))
        pull = coefs[-1] * p
        return (slopes[0] + pull, *slopes[1:]), curvature + pull * (T(1) - p) + (params[1] + params[1]) * p * p

    for function, plain in ((z_terms, terms), (z_row, finish), (z_entry, entry)):
        maths(named(function, f"z_{plain.__name__}" if plain is not None else "z_terms"))
    return base._replace(terms=None if terms is None else z_terms, finish=z_row, entry=z_entry)


def scored(
    rows: Rowwise, scale: float, softcap: float | None, z_loss: float, classes: int | None, returns: Any
) -> Rowwise:
    """Return a cross-entropy with what becomes of its logits, and what is returned beside its value."""
    if scale == 1 and softcap is classes is None and not z_loss and not returns:
        return rows
    names = (returns,) if isinstance(returns, str) else tuple(returns)
    cap = None if softcap is None else float(softcap)
    scores = Scores(float(scale), cap, classes, float(z_loss), names)
    if z_loss:
        rows = rows._replace(
            maths=with_z_loss(rows.maths), soft=with_z_loss(rows.soft), params=(*rows.params, float(z_loss))
        )
    return rows._replace(scores=scores)


@maths
def nll_row(top, logsum, sums, zy, wy, p_others, py, params):
    """-w x_y."""
    return -wy * zy, (wy,)


@maths
def nll_entry(z, p, t, w, hit, coefs, params):
    """-w at the target, 0 elsewhere."""
    T = type(z)
    return (-coefs[0] if hit else T(0),), T(0)


NLL = RowMaths(nll_row, nll_entry, indexed=True, sparse=True)


_ROW_DOMAINS = {"target": "class"}


@loss("rowwise", options={"ignore_index": INTEGER}, domains=_ROW_DOMAINS, hessian="zero", legacy=True)
def nll_loss(
    input: Array, target: Array, weight: Array | None = None, *, ignore_index: int = -100, reduction: str = "mean"
) -> Array:
    r"""Negative log-likelihood of log-probabilities.

    .. math:: \ell_n = -w_{y_n} x_{n, y_n}

    Parameters
    ----------
    input : array, shape (C,), (N, C) or (N, C, d1, ..., dK)
        Log-probabilities.
    target : array of integers, shape (), (N,) or (N, d1, ..., dK)
        Class indices in [0, C).
    weight : array, shape (C,), optional
        Weight of each class.
    ignore_index : int
        Rows with this target count neither in value, gradient nor mean; it may lie outside [0, C).
    reduction : {"mean", "sum", "none"}
        The mean is divided by the summed weight of the rows that count.

    Notes
    -----
    The mean over no rows is NaN, with gradient 0. Only the targets' entries are read. The loss is linear in `input`:
    the Hessian is zero. A non-contiguous `input` is copied, unless it is a contiguous (N, L, C) transposed; its
    gradient then lies in the same way.

    References
    ----------
    ``torch.nn.functional.nll_loss``.

    Examples
    --------
    >>> import numpy as np, fastloss as fl
    >>> print(fl.nll_loss(np.log([[0.5, 0.5]]), [0]).round(4))
    0.6931
    """
    return Rowwise(NLL, input, target, weight=weight, ignore_index=ignore_index, reduction=reduction, mean="weights")


@loss(
    "rowwise",
    differentiable=("input", "target", "weight"),
    options={"ignore_index": INTEGER, "label_smoothing": UNIT_INTERVAL, **SCORED},
    domains=_ROW_DOMAINS,
    legacy=True,
)
def cross_entropy(
    input: Array,
    target: Array,
    weight: Array | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    valid_classes: int | None = None,
    returns: tuple[str, ...] = (),
) -> Array:
    r"""Cross-entropy of logits against class indices or class probabilities.

    .. math::

        \ell_n = -\sum_c w_c q_{nc} \log p_{nc}, \qquad p_n = \mathrm{softmax}(x_n)

    With class indices :math:`q_{nc} = (1 - \varepsilon) [c = y_n] + \varepsilon / C` for the label smoothing
    :math:`\varepsilon`, with probabilities :math:`q_{nc} = (1 - \varepsilon) t_{nc} + \varepsilon / C`.

    Parameters
    ----------
    input : array, shape (C,), (N, C) or (N, C, d1, ..., dK)
        Logits.
    target : array, shape (), (N,) or (N, d1, ..., dK), or the shape of `input`
        Class indices of any integer dtype; or, in the shape of `input`, class probabilities.
    weight : array, shape (C,), optional
        Weight of each class.
    ignore_index : int
        Rows with this class index count neither in value, gradient nor mean; it may lie outside [0, C).
    reduction : {"mean", "sum", "none"}
        With class indices the mean is divided by the summed weight of the rows that count, with probabilities by the
        number of rows.
    label_smoothing : float
        In [0, 1].
    logit_scale, softcap : float
        Logits x are replaced by :math:`c \tanh(a x / c)`, with a the scale and c the cap; without a cap by a x.
    z_loss : float
        Adds this times the square of the log-sum-exp to the loss of each row that counts, whatever its class weighs.
    valid_classes : int, optional
        Classes from this one on are padding: their probability and their gradient are 0.
    returns : tuple of str
        Numbers of each row to return beside the loss: ``"lse"``, the log-sum-exp of its logits; ``"log_prob"``, the
        log-probability of its class; ``"entropy"``; ``"argmax"``; ``"z_loss"``. Ignored rows have 0, but for the
        argmax.

    Returns
    -------
    array
        Zero-dimensional, or of the shape of `input` without its class axis for ``reduction="none"``. With `returns` a
        named tuple of the loss and what was asked for, of that shape.

    Raises
    ------
    ValueError
        If a non-negative `ignore_index` meets class probabilities.

    Notes
    -----
    Stable for any finite logits: log-sum-exp about the row's maximum. Softmax, value and gradient come from one visit
    to each row while it is in cache; log-probabilities are never stored. Of a row whose largest entry takes nearly all
    of the softmax the rest is summed by itself, so that a small loss and its gradient keep their digits; torch's are 0
    in the end. A row that is ignored has gradient 0 even where it holds NaN or infinity, and a probability of 0, or a
    smoothed class of weight 0, contributes 0 beside a logit of -inf; torch gives NaN for all of these.
    Differentiable with respect to `input`, and with class probabilities to `target` and `weight`. The diagonal of the
    Hessian is p (1 - p) times the row's weight. A non-contiguous `input` is copied, unless it is a contiguous (N, L, C)
    transposed; its gradient then lies in the same way.

    References
    ----------
    C. Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016 (label smoothing).
    ``torch.nn.functional.cross_entropy``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.cross_entropy([[2.0, 0.0]], [0]).round(4))
    0.1269
    """
    smooth = label_smoothing > 0
    rows = Rowwise(
        SMOOTH_CROSS_ENTROPY if smooth else CROSS_ENTROPY,
        input,
        target,
        SOFT_CROSS_ENTROPY,
        weight,
        (float(label_smoothing),),
        ignore_index,
        reduction,
        "weights",
    )
    return scored(rows, logit_scale, softcap, z_loss, valid_classes, returns)
