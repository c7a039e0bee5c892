"""The maths of a row loss for packs of entries, whether a group of threads has a row or a block a piece of one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from fastloss.define.descriptions import RowMaths
from fastloss.cuda.device.packs import spread
from fastloss.cuda.device.numba_cuda import jitable
from fastloss.define.scalars import exp_nonpositive


@jitable
def _no_terms(z, p, t, w, hit, zy, wy, params):
    T = type(z)
    return T(0), T(0), T(0)


@functools.cache
def packed(maths: RowMaths, width: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the functions for the terms and for the derivatives of packs of `width` entries, as `spread` makes them.

    Their `rest` is (top, inverse energy, label, zy, wy, params) and (top, inverse energy, label, coefs, g, params).
    """
    terms, entry, softmax, indexed = maths.terms or _no_terms, maths.entry, maths.softmax, maths.indexed

    @jitable
    def terms_of(x, t, c, w, u, j, rest):
        top, inverse, label, zy, wy, numbers = rest
        z = x - top
        p = exp_nonpositive(z) * inverse if softmax else inverse
        return terms(z, p, t, w, indexed and j == label, zy, wy, numbers)

    @jitable
    def entry_of(x, t, c, w, u, j, rest):
        top, inverse, label, coefs, g, numbers = rest
        z = x - top
        p = exp_nonpositive(z) * inverse if softmax else inverse
        slopes, curvature = entry(z, p, t, w, indexed and j == label, coefs, numbers)
        return x, slopes, curvature, g

    return spread(terms_of, width), spread(entry_of, width)
