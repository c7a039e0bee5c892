"""The loop of row losses that look at the target's entry alone: a thread for each row."""

from __future__ import annotations

import functools
import math

from fastloss.cuda.device.block import added, block, blocks, over, thread, threads
from fastloss.cuda.device.memory import label_at, load, load_or, store, store_derivatives, store_pack
from fastloss.cuda.device.packs import filled
from fastloss.cuda.device.reduce import THREADS, deliver, divided
from fastloss.cuda.launch import Kernel
from fastloss.define.descriptions import RowMaths


@functools.cache
def gather_kernel(maths: RowMaths) -> Kernel:
    """Return the kernel of losses whose derivatives are 0 but at the target; a thread for each row."""
    finish, entry = maths.finish, maths.entry
    total_over, fill = over(added, THREADS), filled(1)

    def gather(
        x, t, y, weight, grad_output, values, d0, d1, d2, hess,
        params, scale, count, columns, inner, ignore, clear, partials, counted, divisor,
    ):  # fmt: skip
        T = type(scale)
        factor = divided(scale, counted)
        total = T(0)
        for r in range(block() * threads() + thread(), count, threads() * blocks()):
            label = label_at(y, r)
            known = label >= 0 and label < columns and label != ignore
            base = r // inner * columns * inner + r % inner
            place = base + (label if known else 0) * inner
            zy = T(load(x, place))
            blank = T(0) if known or label == ignore else T(math.nan)
            if clear != 0 or blank != blank:  # after the entry is read: the gradient may replace the input
                for j in range(columns):
                    store_pack((d0, d1, d2, hess), base + j * inner, fill(blank))
            value = blank
            if known:
                wy = load_or(weight, label, T(1))
                value, coefs = finish(T(0), T(0), (T(0), T(0), T(0)), zy, wy, T(0), T(0), params)
                slopes, curvature = entry(zy, T(0), T(0), wy, True, coefs, params)
                g = load_or(grad_output, r, factor)
                store_derivatives((d0, d1, d2), hess, place, ((value, slopes, curvature, g),))
            store(values, r, value)
            total += value
        total = total_over(total)
        deliver(partials, total, counted, divisor)

    return Kernel(f"rowwise_gather_{maths.finish.__name__}_{maths.entry.__name__}", gather, THREADS)
