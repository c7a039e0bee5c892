"""Symmetric cross-entropy: a loss for labels that may be wrong."""

from __future__ import annotations

from fastloss.api.loss import loss
from fastloss.define.descriptions import Array, RowMaths, Rowwise
from fastloss.define.maths import maths
from fastloss.define.options import FINITE_NON_NEGATIVE, INTEGER
from fastloss.define.scalars import complement

# Label and softmax are clamped to it in the reverse cross-entropy, so that log 0 counts as its logarithm.
_SCE_FLOOR = 1e-4
_SCE_SURPRISE = 9.210340371976182  # -log 1e-4


@maths
def sce_terms(z, p, t, w, hit, zy, wy, params):
    """Σ max(p, 1e-4) over the other classes; Σ p over the free ones, neither the target nor clamped, and over the rest.

    The two sum up to 1, and one is small where the row is sure: a difference from 1 would not have its digits.
    """
    T = type(z)
    floor = T(_SCE_FLOOR)
    clamped = p < floor
    counts = T(0) if hit else T(1)
    free = T(0) if clamped else counts * p
    return counts * (floor if clamped else p), free, p - free


@maths
def sce_row(top, logsum, sums, zy, wy, p_others, py, params):
    """-a log p_y + b log(1e4) Σ max(p, 1e-4) over the other classes."""
    T = type(zy)
    a, b = params[0], params[1] * T(_SCE_SURPRISE)
    return a * (logsum - zy) + b * sums[0], (sums[1], sums[2], a * complement(zy, py, p_others), p_others)


@maths
def sce_entry(z, p, t, w, hit, coefs, params):
    """a (p - [y]) + b' p (free - Σ p over the free), where free says neither clamped nor the target."""
    T = type(z)
    a, b = params[0], params[1] * T(_SCE_SURPRISE)
    free, rest, missed, p_others = coefs
    pull = b * p * (-free if hit or p < T(_SCE_FLOOR) else rest)
    miss = complement(z, p, p_others)
    return ((-missed if hit else a * p) + pull,), a * p * miss + pull * (miss - p)


SYMMETRIC = RowMaths(sce_row, sce_entry, sce_terms, softmax=True, indexed=True)


@loss(
    "rowwise",
    options={"ignore_index": INTEGER, "a": FINITE_NON_NEGATIVE, "b": FINITE_NON_NEGATIVE},
    domains={"target": "class"},
)
def symmetric_cross_entropy(
    input: Array,
    target: Array,
    *,
    a: float = 1.0,
    b: float = 1.0,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Array:
    r"""Cross-entropy plus reverse cross-entropy, for noisy labels.

    .. math::

        \ell_n = -a \log p_{n, y_n} - b \sum_c \max(p_{nc}, 10^{-4}) \log \max([c = y_n], 10^{-4})

    Parameters
    ----------
    input : array, shape (C,), (N, C) or (N, C, d1, ..., dK)
        Logits.
    target : array of integers, shape (), (N,) or (N, d1, ..., dK)
        Class indices in [0, C).
    a, b : float
        Weights of the two terms, not negative.
    ignore_index : int
        Rows with this target count neither in value, gradient nor mean.
    reduction : {"mean", "sum", "none"}
        The mean is over the rows that count.

    Notes
    -----
    In the reverse term label and softmax are clamped to 1e-4, so that log 0 counts as log 1e-4; a softmax below it has
    no gradient there. Of a row whose largest entry takes nearly all of the softmax, value and derivatives keep their
    digits. A non-contiguous `input` is copied.

    References
    ----------
    Y. Wang et al., "Symmetric cross entropy for robust learning with noisy labels", ICCV 2019.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.symmetric_cross_entropy([[0.0, 0.0]], [0]).round(4))
    5.2983
    """
    return Rowwise(
        SYMMETRIC,
        input,
        target,
        params=(float(a), float(b)),
        ignore_index=ignore_index,
        reduction=reduction,
        mean="weights",
    )
