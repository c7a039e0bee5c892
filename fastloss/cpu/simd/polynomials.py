"""Vectorisable exponentials and logarithms for float32 and float64.

``math.exp`` is a scalar call that stops LLVM from vectorising the loop around it. The functions here are branch-free:
range reduction, a polynomial, and selects at the edges. They are compiled with ``contract`` alone: reassociation would
merge the high and low parts of ln 2 and lose the accuracy they carry.

Errors, over the full range, against float64 and extended precision (tests/test_math.py): below 1.5 ulp, but
for log1p_unit, below 2.5, and exp_difference in float32, below 2.5 near 0 and 4e-7 of the result at -87.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload, register_jitable

from fastloss.cpu.simd.float_bits import ONE_F32, ONE_F64, exponent_and_scale, power_of_two, split_exponent
from fastloss.cpu.simd.llvm_hints import FUSED
from fastloss.define import scalars
from fastloss.runtime.compile import NJIT_OPTIONS

f32 = np.float32
# Always inlined: a call that LLVM finds too long to inline is a loop that it cannot vectorise.
CONTRACT: Any = {**NJIT_OPTIONS, "fastmath": {"contract"}, "forceinline": True}


# Polynomials below are minimax fits (Remez, 50 digits): q in exp r = 1 + r + r² q(r) on |r| <= ln(2)/2; for float32, p
# in log(1+f) = f - f²/2 + f³ p(f) on [sqrt(1/2) - 1, sqrt(2) - 1], and in log1p(x) = x + x² p(x) on [0, 1]; for
# float64, p in log((1+s)/(1-s)) = 2s + s³ p(s²), on s <= 3 - 2 sqrt(2) for log and on s <= 1/3 for log1p_unit.


@register_jitable(**CONTRACT)
def exp_remainder_f32(r):
    """Return exp r for |r| <= ln(2)/2."""
    q = f32(0.0013814602454714601)
    q = q * r + f32(0.0083687171570509597)
    q = q * r + f32(0.0416683879910206556)
    q = q * r + f32(0.1666652062871695340)
    q = q * r + f32(0.4999999344793832385)
    return (q * r + f32(1.0)) * r + f32(1.0)


@register_jitable(**CONTRACT)
def exp_remainder_f64(r):
    """Return exp r for |r| <= ln(2)/2."""
    q = 2.5000056708160521483e-8
    q = q * r + 2.763024799015508457e-7
    q = q * r + 2.7557586388432950993e-6
    q = q * r + 2.4801493100070981401e-5
    q = q * r + 1.9841269506565711109e-4
    q = q * r + 0.0013888888943628944678
    q = q * r + 0.0083333333334944643549
    q = q * r + 0.041666666666530163
    q = q * r + 0.16666666666666412527
    q = q * r + 0.50000000000000106266
    return (q * r + 1.0) * r + 1.0


@register_jitable(**CONTRACT)
def _exp_parts_f32(x):
    """Return (n + ONE_F32, exp r) with x = n ln 2 + r and |r| <= ln(2)/2."""
    t = x * f32(1.4426950408889634) + ONE_F32
    n = t - ONE_F32
    r = (x - n * f32(0.693145751953125)) - n * f32(1.42860682030941723e-6)
    return t, exp_remainder_f32(r)


@register_jitable(**CONTRACT)
def _exp_parts_f64(x):
    """Return (n + ONE_F64, exp r) with x = n ln 2 + r and |r| <= ln(2)/2."""
    t = x * 1.4426950408889634 + ONE_F64
    n = t - ONE_F64
    r = (x - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10
    return t, exp_remainder_f64(r)


# The clamps are written so that a NaN fails the test and passes through.
#
# exp multiplies by 2**n in two factors: each stays normal while the product may be denormal, or overflow. Infinity is
# chosen, not computed: contracted with what follows, a product that has yet to overflow would lose to infinity.
# exp_nonpositive needs one factor, and is a third faster: below ln(2) (1/2 - 127), or (1/2 - 1023), that is exactly 0.
#
# exp_difference is what most of the time of a softmax goes to. For float32 it does two operations less, 7 to 10 % of
# cross_entropy (AVX2, 10 to 128256 classes): without the low part of ln 2, since n 1.9e-9 is at most an eighth of what
# the rounding of x may have lost, and with a polynomial a degree lower, of relative error 1.05e-7. The gradient of
# cross_entropy stays more accurate than torch's, which rounds the logarithms of probabilities. Without fused operations
# the product with ln 2 would be rounded too, and lose ten times as much.


@register_jitable(**CONTRACT)
def _exp_f32(x):
    c = f32(-104.0) if x < f32(-104.0) else x
    c = f32(89.0) if c > f32(89.0) else c
    t, y = _exp_parts_f32(c)
    n = t - ONE_F32
    half = n * f32(0.5) + ONE_F32
    rest = (n - (half - ONE_F32)) + ONE_F32
    y = y * power_of_two(half) * power_of_two(rest)
    return f32(np.inf) if x >= f32(89.0) else y


@register_jitable(**CONTRACT)
def _exp_f64(x):
    c = -746.0 if x < -746.0 else x
    c = 710.0 if c > 710.0 else c
    t, y = _exp_parts_f64(c)
    n = t - ONE_F64
    half = n * 0.5 + ONE_F64
    rest = (n - (half - ONE_F64)) + ONE_F64
    y = y * power_of_two(half) * power_of_two(rest)
    return np.inf if x >= 710.0 else y


@register_jitable(**CONTRACT)
def _exp_nonpositive_f32(x):
    t, y = _exp_parts_f32(f32(-88.0) if x < f32(-88.0) else x)
    return y * power_of_two(t)


@register_jitable(**CONTRACT)
def _exp_difference_f32(x):
    c = f32(-88.0) if x < f32(-88.0) else x
    t = c * f32(1.4426950408889634) + ONE_F32
    r = c - (t - ONE_F32) * f32(0.6931471805599453)
    q = f32(0.0083125248632686938)
    q = q * r + f32(0.041890113683779267)
    q = q * r + f32(0.16667114466868657)
    q = q * r + f32(0.49999231787635083)
    return ((q * r + f32(1.0)) * r + f32(1.0)) * power_of_two(t)


@register_jitable(**CONTRACT)
def _exp_nonpositive_f64(x):
    t, y = _exp_parts_f64(-709.0 if x < -709.0 else x)
    return y * power_of_two(t)


# log x = k ln 2 + log(1 + f) with 1 + f = 2**-k x in [sqrt(1/2), sqrt(2)). float32 by a polynomial in f. float64 with
# s = f / (2 + f): log(1 + f) = f - (f²/2 - s (f²/2 + s² P(s²))), the form of fdlibm's e_log.c; the polynomial in f
# would have twenty terms. Neither loses anything near x = 1.
#
# log_sum and log_unit have no edges to look at. What log_unit gives of 0, where k is that of 2**-150 or 2**-1075, is
# less than any logarithm. For log(1 - x), f = (2**-k - 1) - 2**-k x is rounded once, where a rounded 1 - x would have
# lost digits.


@register_jitable(**CONTRACT)
def _log_f32(x):
    tiny = x < f32(1.17549435e-38)
    k, m = split_exponent(x * f32(8388608.0) if tiny else x)
    y = _log_parts_f32(k - f32(23.0) if tiny else k, m - f32(1.0))
    y = y if x < f32(np.inf) else x
    return y if x > f32(0.0) else (f32(-np.inf) if x == f32(0.0) else f32(np.nan))


@register_jitable(**CONTRACT)
def _log_sum_f32(x):
    k, s = exponent_and_scale(x)
    return _log_parts_f32(k, x * s - f32(1.0))


@register_jitable(**CONTRACT)
def _log_unit_f32(x, whole):
    rest = f32(1.0) - x
    y = x if whole else rest
    tiny = y < f32(1.17549435e-38)
    y = y * f32(8388608.0) if tiny else y
    k, s = exponent_and_scale(y)
    f = y * s - f32(1.0) if whole else (s - f32(1.0)) - x * s
    return _log_parts_f32(k - f32(23.0) if tiny else k, f)


@register_jitable(**CONTRACT)
def _log_parts_f32(k, f):
    """Return k ln 2 + log(1 + f)."""
    z = f * f
    # By pairs, for one multiplication more than in turn: a row of a class axis waits for its one logarithm.
    first = (f32(-0.25000821586819519) * f + f32(0.33333331705950226)) + z * (
        f32(-0.1662333654210293) * f + f32(0.20001227665477018)
    )
    rest = (f32(-0.13160362927101109) * f + f32(0.14201721380793252)) + z * (
        f32(-0.076344750721243359) * f + f32(0.12761949084602589)
    )
    p = first + z * z * rest
    low = k * f32(1.42860682030941723e-6)
    return k * f32(0.693145751953125) + (f + ((z * f * p + low) - f32(0.5) * z))


@register_jitable(**CONTRACT)
def _log_f64(x):
    tiny = x < 2.2250738585072014e-308
    k, m = split_exponent(x * 4503599627370496.0 if tiny else x)
    y = _log_parts_f64(k - 52.0 if tiny else k, m - 1.0)
    y = y if x < np.inf else x
    return y if x > 0.0 else (-np.inf if x == 0.0 else np.nan)


@register_jitable(**CONTRACT)
def _log_sum_f64(x):
    k, s = exponent_and_scale(x)
    return _log_parts_f64(k, x * s - 1.0)


@register_jitable(**CONTRACT)
def _log_unit_f64(x, whole):
    rest = 1.0 - x
    y = x if whole else rest
    tiny = y < 2.2250738585072014e-308
    y = y * 4503599627370496.0 if tiny else y
    k, s = exponent_and_scale(y)
    f = y * s - 1.0 if whole else (s - 1.0) - x * s
    return _log_parts_f64(k - 52.0 if tiny else k, f)


@register_jitable(**CONTRACT)
def _log_parts_f64(k, f):
    """Return k ln 2 + log(1 + f)."""
    s = f / (2.0 + f)
    z = s * s
    p = 0.13251478847542788036
    p = p * z + 0.13250101700870331408
    p = p * z + 0.15387091485125133986
    p = p * z + 0.18181775648884489613
    p = p * z + 0.22222222647004515555
    p = p * z + 0.28571428569084503107
    p = p * z + 0.40000000000006251207
    p = p * z + 0.66666666666666660971
    h = 0.5 * f * f
    return k * 0.693147180369123816490 - ((h - (s * (h + z * p) + k * 1.90821492927058770002e-10)) - f)


@register_jitable(**CONTRACT)
def _log1p_unit_f32(x):
    p = f32(-0.0033184696549550139)
    p = p * x + f32(0.020204575740378634)
    p = p * x + f32(-0.057664434940083135)
    p = p * x + f32(0.10680555552055716)
    p = p * x + f32(-0.15355397116100483)
    p = p * x + f32(0.19695401243409586)
    p = p * x + f32(-0.24958587696377183)
    p = p * x + f32(0.33330511370008686)
    p = p * x + f32(-0.49999932766663407)
    return x * x * p + x


@register_jitable(**CONTRACT)
def _log1p_unit_f64(x):
    s = x / (2.0 + x)
    z = s * s
    p = 0.17018598677073125996
    p = p * z + 0.083400890923261868295
    p = p * z + 0.12106088019918906004
    p = p * z + 0.13300973251349798686
    p = p * z + 0.1538655994704029555
    p = p * z + 0.1818174392388355181
    p = p * z + 0.22222223969758854731
    p = p * z + 0.28571428547853423082
    p = p * z + 0.40000000000157247603
    p = p * z + 0.66666666666666303779
    return s * z * p + (s + s)


def _by_width(single: Any, double: Any) -> Any:
    """Return an overload that picks by the type of its argument."""

    def choose(x):
        return {types.float32: single, types.float64: double}.get(x)

    return choose


@overload(scalars.log_unit, jit_options=CONTRACT)
def _log_unit(x, whole):
    return {types.float32: _log_unit_f32, types.float64: _log_unit_f64}.get(x)


overload(scalars.exp, jit_options=CONTRACT)(_by_width(_exp_f32, _exp_f64))
overload(scalars.exp_nonpositive, jit_options=CONTRACT)(_by_width(_exp_nonpositive_f32, _exp_nonpositive_f64))
overload(scalars.exp_difference, jit_options=CONTRACT)(
    _by_width(_exp_difference_f32 if FUSED else _exp_nonpositive_f32, _exp_nonpositive_f64)
)
overload(scalars.log, jit_options=CONTRACT)(_by_width(_log_f32, _log_f64))
overload(scalars.log_sum, jit_options=CONTRACT)(_by_width(_log_sum_f32, _log_sum_f64))
overload(scalars.log1p_unit, jit_options=CONTRACT)(_by_width(_log1p_unit_f32, _log1p_unit_f64))


@overload(scalars.sqrt, jit_options=NJIT_OPTIONS)
def _sqrt(x):
    return lambda x: math.sqrt(x)


@overload(scalars.power, jit_options=CONTRACT)
def _power(x, p):
    """x**p = exp(p log x); small whole powers, which are what losses ask for, by multiplication, to the last bit.

    The relative error of the general case is that of the logarithm times |p log x|.
    """

    def power(x, p):
        T = type(x)
        y = scalars.exp(p * scalars.log(x))
        square = x * x
        y = T(1) if p == T(0) else y
        y = x if p == T(1) else y
        y = square if p == T(2) else y
        return square * x if p == T(3) else y

    return power
