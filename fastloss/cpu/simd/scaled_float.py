"""Probabilities beyond the range of floats: pairs (m, e) that stand for m * 2**e, e a float that holds a whole number.

A sum over alignments has terms that differ by thousands of orders of magnitude. The usual remedy, logarithms, costs an
exp and a log for every addition, and a logarithm of -1000 has no more than three decimals in float32. Here products add
exponents and sums align them, which takes a handful of instructions and keeps the relative error of every term at that
of its m. 0 is any finite m with e = -inf. NaN is NaN in m, which every operation hands on; e may then be anything.

Sums do not bring m back to [1, 2); :func:`normal` does, when the caller thinks it time.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload, register_jitable

from fastloss.cpu.simd.float_bits import ONE_F32, ONE_F64, power_of_two, split_exponent
from fastloss.cpu.simd.polynomials import CONTRACT, exp_remainder_f32, exp_remainder_f64

f32 = np.float32


def exp_pair(x):
    """Return exp(x) as (m, e), m within [0.7, 1.5]; x may be any number.

    Beyond 2**21 (float32) or 2**50 (float64), x is rounded to a multiple of ln 2, which changes it by no more than its
    own last place is worth.
    """


def power(d):
    """Return 2**d for a whole d <= 127; 0 below -126, for -inf, and for NaN."""


@register_jitable(**CONTRACT)
def _exp_pair_f32(x):
    n = np.rint(x * f32(1.4426950408889634))
    r = (x - n * f32(0.693145751953125)) - n * f32(1.42860682030941723e-6)
    return exp_remainder_f32(f32(0.0) if abs(n) > f32(2097152.0) else r), n


@register_jitable(**CONTRACT)
def _exp_pair_f64(x):
    n = np.rint(x * 1.4426950408889634)
    r = (x - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10
    return exp_remainder_f64(0.0 if abs(n) > 1125899906842624.0 else r), n


# An exponent field of 0 is the number 0, so that the clamp takes care of all that is too small.


@register_jitable(**CONTRACT)
def _power_f32(d):
    return power_of_two((d if d > f32(-127.0) else f32(-127.0)) + ONE_F32)


@register_jitable(**CONTRACT)
def _power_f64(d):
    return power_of_two((d if d > -1023.0 else -1023.0) + ONE_F64)


@overload(exp_pair, jit_options=CONTRACT)
def _exp_pair(x):
    return _exp_pair_f32 if x == types.float32 else _exp_pair_f64


@overload(power, jit_options=CONTRACT)
def _power(d):
    return _power_f32 if d == types.float32 else _power_f64


@register_jitable(**CONTRACT)
def normal(m, e):
    """Return the same number with m near 1; m must lie in [2**-60, 2**60] unless it is 0 or NaN."""
    k, _ = split_exponent(m)
    return m * power(-k), e + k


@register_jitable(**CONTRACT)
def larger(a, b):
    """Return the larger; the second if either is NaN."""
    return a if a > b else b
