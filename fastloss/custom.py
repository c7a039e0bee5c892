"""The public door for losses of one's own: all that a loss of this package is written in.

::

    from typing import Annotated
    from fastloss.custom import OPEN_UNIT, Array, Elementwise, loss, maths

    @maths
    def pinball(x, t, q):
        T = type(x)
        r = t - x
        slope = q if r > T(0) else (q - T(1) if r < T(0) else T(0))
        return slope * r, (-slope, slope), T(0)

    @loss
    def quantile_loss(input, target, *, q: Annotated[float, OPEN_UNIT] = 0.5, reduction="mean"):
        return Elementwise(pinball, q=q)

``@loss`` makes a function of one that describes: it sees the shapes and dtypes of its arrays, never their numbers, and
returns one of :class:`Elementwise`, :class:`Sums`, :class:`Rowwise` and :class:`Linear`; or a loss called on its
arguments, or on what a loss returns of them, such as ``dice_loss(softmax(input, 1), target)``; or a sum of losses times
numbers. The result computes on the CPU and on CUDA devices, and is what all transforms take.

``@maths`` marks the scalar functions that kernels call. They take numbers and return numbers of the same type: a number
of their own goes through ``T = type(x)``, and they may call each other and the functions below.
"""

from fastloss.api.loss import loss
from fastloss.define.descriptions import Array
from fastloss.define.drafts import Elementwise, Linear, Rowwise, Sums, row_index
from fastloss.define.maths import maths
from fastloss.define.named_arguments import Entry as Entry
from fastloss.define.named_arguments import Row as Row
from fastloss.define.named_arguments import RowMaths, SumMaths
from fastloss.define.options import (
    FINITE,
    FINITE_NON_NEGATIVE,
    FLAG,
    INTEGER,
    NON_NEGATIVE,
    OPEN_UNIT,
    POSITIVE,
    UNIT_ABOVE_ZERO,
    UNIT_INTERVAL,
    Domain,
)
from fastloss.define.scalars import (
    complement,
    exp,
    exp_nonpositive,
    log,
    log1p_unit,
    log_sigmoid,
    power,
    relu,
    sigmoid,
    sign,
    softplus,
    sqrt,
    step,
    where,
    xlogy,
)

__all__ = [
    "FINITE", "FINITE_NON_NEGATIVE", "FLAG", "INTEGER", "NON_NEGATIVE", "OPEN_UNIT", "POSITIVE", "UNIT_ABOVE_ZERO",
    "UNIT_INTERVAL", "Array", "Domain", "Elementwise", "Linear", "RowMaths", "Rowwise", "SumMaths", "Sums",
    "complement", "exp", "exp_nonpositive", "log", "log1p_unit", "log_sigmoid", "loss", "maths", "power", "relu",
    "row_index", "sigmoid", "sign", "softplus", "sqrt", "step", "where", "xlogy",
]  # fmt: skip
