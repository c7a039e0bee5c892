"""Divergences between distributions."""

from __future__ import annotations

import math

from fastloss.api.loss import loss
from fastloss.define.descriptions import Array, Elementwise
from fastloss.define.maths import maths
from fastloss.define.options import FLAG, KL_REDUCTION
from fastloss.define.scalars import exp, log


@maths
def kl(x, t):
    """t (log t - x), 0 for t = 0 whatever x is (NaN excepted)."""
    T = type(x)
    gap = log(t) - x
    none = t == T(0) and x == x
    return (T(0) if none else t * gap), (-t, T(math.nan) if t == T(0) else gap + T(1)), T(0)


@maths
def kl_log_target(x, t):
    """exp(t) (t - x), 0 for t = -inf whatever x is (NaN excepted)."""
    T = type(x)
    q = exp(t)
    gap = t - x
    none = t == T(-math.inf) and x == x
    return (T(0) if none else q * gap), (-q, T(math.nan) if t == T(-math.inf) else q * (gap + T(1))), T(0)


@loss(
    "elementwise",
    differentiable=("input", "target"),
    hessian="zero",
    options={"reduction": KL_REDUCTION, "log_target": FLAG},
    domains={"input": "log_probability", "target": "probability"},
    legacy=True,
)
def kl_div(input: Array, target: Array, *, reduction: str = "mean", log_target: bool = False) -> Array:
    r"""Kullback-Leibler divergence, the prediction given as log-probabilities.

    .. math:: \ell_i = t_i (\log t_i - x_i), \qquad \text{or } e^{t_i} (t_i - x_i) \text{ with } \texttt{log\_target}

    Parameters
    ----------
    input : array, shape (*)
        Log-probabilities.
    target : array, shape (*)
        Probabilities, or log-probabilities with `log_target`. Broadcast against `input`.
    reduction : {"mean", "batchmean", "sum", "none"}
        ``"batchmean"`` divides the sum by the length of the first axis of `input`, which makes it the divergence of
        the definition; ``"mean"`` divides by the number of elements, as torch does.
    log_target : bool
        Whether `target` holds logarithms.

    Raises
    ------
    TypeError
        If `target` is not floating point.

    Notes
    -----
    A target probability of 0 contributes 0, also beside a log-probability of -inf, and also if it is given by its
    logarithm; torch gives NaN there. Differentiable with respect to `input` and `target`; as in torch the derivative
    with respect to a probability of 0 is NaN. The loss is linear in `input`: the Hessian is zero.

    References
    ----------
    S. Kullback and R. A. Leibler, "On information and sufficiency", Ann. Math. Statist. 22 (1951).
    ``torch.nn.functional.kl_div``.

    Examples
    --------
    >>> import numpy as np, fastloss as fl
    >>> print(fl.kl_div(np.log([[0.5, 0.5]]), [[0.5, 0.5]], reduction="batchmean"))
    0.0
    """
    return Elementwise(kl_log_target if log_target else kl, (input, target), reduction=reduction, reals=2)
