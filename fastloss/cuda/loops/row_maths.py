"""The maths of a row loss: for packs of entries, for the target's entry, and for the end of a row."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from fastloss.cuda.device.numba_cuda import jitable
from fastloss.cuda.device.packs import spread
from fastloss.define.descriptions import RowMaths


@jitable
def _no_terms(z, p, t, w, hit, zy, wy, params):
    T = type(z)
    return T(0), T(0), T(0)


@functools.cache
def packed(maths: RowMaths, width: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the functions for the terms and for the derivatives of packs of `width` entries, as `spread` makes them.

    Their packs are entries, second operand, exponentials and class weights; their `rest` is (top, inverse sum of
    exponentials, label, zy, wy, params) and (top, inverse sum of exponentials, coefs, g, params). The derivatives are
    those of entries that are not the target's: :func:`at_target` replaces that one's.
    """
    terms, entry, softmax, indexed = maths.terms or _no_terms, maths.entry, maths.softmax, maths.indexed

    @jitable
    def terms_of(x, t, e, w, u, j, rest):
        top, inverse, label, zy, wy, numbers = rest
        p = e * inverse if softmax else inverse
        return terms(x - top, p, t, w, indexed and j == label, zy, wy, numbers)

    @jitable
    def entry_of(x, t, e, w, u, j, rest):
        top, inverse, coefs, g, numbers = rest
        p = e * inverse if softmax else inverse
        slopes, curvature = entry(x - top, p, t, w, False, coefs, numbers)
        return x, slopes, curvature, g

    return spread(terms_of, width), spread(entry_of, width)


@functools.cache
def at_target(maths: RowMaths) -> Callable[..., Any]:
    """Return the function that gives the outcome of the target's entry, a pack of one."""
    entry = maths.entry

    @jitable
    def outcome(zy, py, wy, coefs, g, params):
        T = type(zy)
        slopes, curvature = entry(zy, py, T(0), wy, True, coefs, params)
        return ((zy, slopes, curvature, g),)

    return outcome


@jitable
def blank_of(label, ignore, like):
    """Return what a row without a known class has for its value and derivatives: 0 if it is ignored, else NaN."""
    T = type(like)
    return T(0) if label == ignore else T(math.nan)
