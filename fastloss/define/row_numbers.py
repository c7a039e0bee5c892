"""Functions of rows that are returned beside a loss: see ``descriptions.RowMaths`` for the notation."""

from __future__ import annotations

import functools

from fastloss.define.descriptions import RowMaths
from fastloss.define.maths import maths, named
from fastloss.define.scalars import exp


@maths
def no_slopes(z, p, t, w, hit, coefs, params):
    """0."""
    T = type(z)
    return (T(0),), T(0)


@maths
def log_sum_row(top, logsum, sums, zy, wy, p_others, py, params):
    """log Σ exp x."""
    return top + logsum, (logsum,)


@maths
def sum_exp_row(top, logsum, sums, zy, wy, p_others, py, params):
    """Σ exp(x - max x), which log Σ exp x no longer has all digits of where the maximum is large."""
    return exp(logsum), (logsum,)


@maths
def log_probability_row(top, logsum, sums, zy, wy, p_others, py, params):
    """log p_y."""
    return zy - logsum, (logsum,)


@maths
def entropy_terms(z, p, t, w, hit, zy, wy, params):
    """Σ p z; 0 where p is 0."""
    T = type(z)
    return (p * z if p != T(0) else T(0)), T(0), T(0)


@maths
def entropy_row(top, logsum, sums, zy, wy, p_others, py, params):
    """-Σ p log p."""
    return logsum - sums[0], (logsum,)


@maths
def squared_log_sum_row(top, logsum, sums, zy, wy, p_others, py, params):
    """ζ (log Σ exp x)²."""
    return params[0] * ((top + logsum) * (top + logsum)), (logsum,)


SUM_EXP = RowMaths(sum_exp_row, no_slopes, softmax=True)
_PLAIN = {
    "lse": RowMaths(log_sum_row, no_slopes, softmax=True),
    "log_prob": RowMaths(log_probability_row, no_slopes, softmax=True),
    "entropy": RowMaths(entropy_row, no_slopes, entropy_terms, softmax=True),
    "z_loss": RowMaths(squared_log_sum_row, no_slopes, softmax=True),
}

# By name, and by whether there are class indices: with them, rows that are ignored have 0.
ROW_NUMBERS = {
    (name, indexed): maths._replace(indexed=indexed) for name, maths in _PLAIN.items() for indexed in (False, True)
}


@functools.cache
def factor_of(rows: RowMaths) -> RowMaths:
    """Return the maths of what the softmax is multiplied by in the gradient of a loss that is `proportional` to it."""
    finish, entry = rows.finish, rows.entry

    def factor_row(top, logsum, sums, zy, wy, p_others, py, params):
        T = type(zy)
        _, coefs = finish(top, logsum, sums, zy, wy, p_others, py, params)
        return entry(T(0), T(1), T(0), T(1), False, coefs, params)[0][0], (logsum,)

    made = maths(named(factor_row, f"factor_of_{finish.__name__}"))
    return rows._replace(finish=made, entry=no_slopes, proportional=False)
