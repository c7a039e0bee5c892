"""The loop over rows that are visited in memory: strided rows, a thread for each, and very long ones, each by a block.

A row is visited up to three times: for the largest entry and the exponentials, for the terms, and for the derivatives.
With a strided class axis (N, C, d1 ...) neighbouring threads have neighbouring rows, and their accesses join. Long rows
are read from memory once: what they all take together remains in the L2 cache.
"""

from __future__ import annotations

import functools

from fastloss.cuda.device.block import added, block, blocks, maximum, meet, over, thread
from fastloss.cuda.device.memory import label_at, load, load_or, load_pack, store, store_derivatives, store_pack
from fastloss.cuda.device.numba_cuda import SMALL
from fastloss.cuda.device.online_softmax import SURE, exponential, of_exp_sum, online_sum_exp, sum_of_others
from fastloss.cuda.device.packs import filled, folded, mapped
from fastloss.cuda.device.reduce import THREADS, deliver, divided
from fastloss.cuda.launch import Kernel
from fastloss.cuda.loops.row_maths import at_target, blank_of, packed
from fastloss.define.descriptions import RowMaths

# Threads that share a long row, a block of them.
LONG = 16 if SMALL else 512


@functools.cache
def memory_kernel(maths: RowMaths, lanes: int, width: int) -> Kernel:
    """Return the kernel with `lanes` threads for each row, 1 or a block, which handle packs of `width` entries."""
    finish, has_terms, softmax, indexed = maths.finish, maths.terms is not None, maths.softmax, maths.indexed
    (sums, entries), outcome_at_target, stride = packed(maths, width), at_target(maths), lanes * width
    first_of, second_of, third_of = (folded(added, width, k) for k in range(3))
    top_and_sum, sum_others = online_sum_exp(width, stride), sum_of_others(width, stride)
    exps_of, fill, threads = mapped(exponential, width), filled(width), max(lanes, THREADS)
    top_over, sum_over, total_over = over(maximum, lanes), over(added, lanes), over(added, threads)
    settle, groups = meet(lanes), threads // lanes

    def rowwise(
        x, t, y, weight, grad_output, values, d0, d1, d2, hess,
        params, scale, count, columns, inner, ignore, partials, counted, divisor,
    ):  # fmt: skip
        T = type(scale)
        factor = divided(scale, counted)
        zeros, ones = fill(T(0)), fill(T(1))
        lane = thread() % lanes
        start = lane * width
        total = T(0)
        for r in range(block() * groups + thread() // lanes, count, blocks() * groups):
            base = r * columns if lanes > 1 else r // inner * columns * inner + r % inner
            label = label_at(y, r)
            known = not indexed or (label >= 0 and label < columns and label != ignore)
            place = label if known else 0
            top = inverse = logsum = p_others = T(0)
            if softmax:
                own, exp_sum = top_and_sum(x, base, inner, start, columns, factor)
                top = top_over(own)
                exp_sum = sum_over(exp_sum * exponential(own, top))
                others = T(0)
                if exp_sum < T(SURE):
                    others = sum_over(sum_others(x, base, inner, start, columns, top))
                inverse, logsum, p_others = of_exp_sum(exp_sum, others)
            zy = T(load(x, base + place * inner)) - top if indexed else T(0)
            py = exponential(zy, T(0)) * inverse if indexed and softmax else T(0)
            wy = load_or(weight, place, T(1)) if indexed else T(1)
            a = b = c = T(0)
            if has_terms:
                rest = (top, inverse, label, zy, wy, params)
                for j in range(start, columns, stride):
                    row = load_pack(x, base + j * inner, zeros)
                    exps = exps_of(row, top) if softmax else row
                    parts = sums(
                        row, load_pack(t, base + j * inner, ones), exps, load_pack(weight, j, ones), ones, j, rest
                    )
                    a += first_of(parts)
                    b += second_of(parts)
                    c += third_of(parts)
            terms = (sum_over(a), sum_over(b), sum_over(c)) if has_terms else (a, b, c)
            value, coefs = finish(top, logsum, terms, zy, wy, p_others, py, params)
            blank = blank_of(label, ignore, top)
            value = T(value) if known else blank
            if lane == 0:
                store(values, r, value)
                total += value
            g = load_or(grad_output, r, factor)
            settle()  # the gradient may replace the input
            tail = (top, inverse, coefs, g, params)
            for j in range(start, columns, stride):
                at = base + j * inner
                if known:
                    row = load_pack(x, at, zeros)
                    exps = exps_of(row, top) if softmax else row
                    others_t, weights = load_pack(t, at, ones), load_pack(weight, j, ones)
                    store_derivatives((d0, d1, d2), hess, at, entries(row, others_t, exps, weights, ones, j, tail))
                else:
                    store_pack((d0, d1, d2, hess), at, fill(blank))
            if indexed and known and place // width % lanes == lane:
                outcome = outcome_at_target(zy, py, wy, coefs, g, params)
                store_derivatives((d0, d1, d2), hess, base + place * inner, outcome)
        total = total_over(total)
        deliver(partials, total, counted, divisor)

    layout = "strided" if lanes == 1 else f"long_{width}"
    name = f"rowwise_{layout}_{maths.finish.__name__}_{maths.entry.__name__}"
    return Kernel(name, rowwise, threads, max(1, 768 // threads))
