"""The loop of losses that look at nothing but the target's entry. Arguments: see ``rowwise.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastloss._spec import RowMaths
from fastloss.cpu.access import cast, label_at, load, load_or, store, store_each
from fastloss.cpu.instructions import vector_function
from fastloss.cpu.sharing import chunks_of, claim, combined, put, share
from fastloss.cpu.survey import survey


def gather(maths: RowMaths) -> Callable[..., Any]:
    """Return the loop of a sparse loss."""
    finish, entry = maths.finish, maths.entry

    def kernel(
        x, t, y, weight, upstream, values, d0, d1, d2, second,
        params, scale, divisor, count, columns, inner, ignore, check, clear, board, lead,
    ):  # fmt: skip
        vector_function()
        like = load(x, 0)
        T = type(like)
        numbers = cast(params, like)
        grads = (d0, d1, d2)
        if check or divisor == 0.0:
            strange, counted = survey(y, weight, columns, ignore, check, count, board)
            if strange >= 0:
                return strange, 0.0
            divisor = counted if divisor == 0.0 else divisor
        factor = T(scale / divisor)

        chunks = chunks_of(board)
        k = claim(board, 1)
        while k < chunks:
            total = 0.0
            for r in range(share(count, k, chunks), share(count, k + 1, chunks)):
                label = label_at(y, r)
                base = r // inner * columns * inner + r % inner
                known = label >= 0 and label < columns and label != ignore
                zy = load(x, base + label * inner) if known else T(0)
                blank = T(0) if known or label == ignore else T(np.nan)
                if clear or blank != blank:  # after the entry is read: the gradient may replace the input
                    for j in range(columns):
                        store_each(grads, base + j * inner, (blank, blank, blank), T(1))
                        store(second, base + j * inner, blank)
                value = blank
                if known:
                    wy = load_or(weight, label, T(1))
                    value, coefs = finish(T(0), T(0), (T(0), T(0), T(0)), zy, wy, numbers)
                    slopes, curvature = entry(zy, T(0), T(0), wy, True, coefs, numbers)
                    g = load_or(upstream, r, factor)
                    store_each(grads, base + label * inner, slopes, g)
                    store(second, base + label * inner, g * curvature)
                store(values, r, value)
                total += value
            put(board, 1, k, total)
            k = claim(board, 1)
        return -1, combined(board, 1) / divisor if lead else 0.0

    return kernel
