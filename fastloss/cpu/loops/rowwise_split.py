"""The loop over a class axis for a few very long rows: each row is cut into pieces, and threads share the pieces.

What a row needs before its first derivative is known over all of it comes in steps, a kernel each: the largest entry
and the exponentials of every piece (*piece_maxima*), the terms of every piece (*piece_terms*), then values and
derivatives (*finish*). Between them the host adds up a handful of numbers. The exponentials are computed twice, for
nobody keeps them from one kernel to the next.

The cut depends on the shape alone, so results do not depend on the number of threads.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastloss.cpu.loops.rowwise_stages import entries_stage, terms_stage
from fastloss.cpu.simd.llvm_hints import vector_function
from fastloss.cpu.simd.memory import cast, label_at, load, load_or, part, store
from fastloss.cpu.simd.sum_exp import SURE, of_others, of_row
from fastloss.cpu.simd.work_queue import chunks, share, total_of
from fastloss.cpu.simd.work_queue import finish as finish_chunk
from fastloss.define.descriptions import RowMaths
from fastloss.define.scalars import exp_difference, log1p_unit, log_sum
from fastloss.runtime.compile import Kernel

# Entries of a piece: 32 KiB of float32, which the first cache holds while it is passed over twice.
PIECE = 1 << 13

# Whole rows keep their exponentials, which takes a third less time on one thread. cross_entropy on two threads, whole
# and in pieces: one row of 2**20 classes 1.2 and 1.6 ms, of 2**21 2.7 and 1.9, of 2**23 41 and 7.8 (its exponentials
# lie in fresh memory); two rows of 2**21 3.1 and 3.1, three 6.0 and 5.5, four 6.0 and 7.1.
FEW_ROWS = 4
SPLIT_FROM = 1 << 21

# Numbers of a piece: its largest entry, the sum of the others' exponentials relative to that, the target's entry if it
# is here.
OF_A_PIECE = 3
# Numbers of a row: largest entry, the sum of the others' exponentials, the target's entry, three sums of terms.
OF_A_ROW = 6


def suits(maths: RowMaths, count: int, columns: int, inner: int) -> bool:
    """Return whether rows are few and long enough to be cut."""
    return count < FEW_ROWS and columns >= SPLIT_FROM and inner == 1 and maths.softmax


@functools.cache
def piece_maxima() -> Kernel:
    """Return the kernel of the first step, the same for all losses."""

    def split_maxima(x, y, found, columns, pieces, units, queue, lead):
        vector_function()
        T = type(load(x, 0))
        for k, start, stop in chunks(queue, 1, units, 1):
            for u in range(start, stop):
                r, s = u // pieces, u % pieces
                base = r * columns
                begin, end = base + share(columns, s, pieces), base + share(columns, s + 1, pieces)
                top, exp_sum = of_row(x, begin, end - begin)
                others = exp_sum - T(1)
                if exp_sum < T(SURE):
                    others = of_others(x, begin, end - begin, top, False, (), 0, (), ())
                store(found, OF_A_PIECE * u, top)
                store(found, OF_A_PIECE * u + 1, others)
                place = base + label_at(y, r)
                store(found, OF_A_PIECE * u + 2, load(x, place) if begin <= place and place < end else T(0))
            finish_chunk(queue, 1, k, 0.0)
        return total_of(queue, 1) if lead else 0.0

    return Kernel("split_maxima", split_maxima)


@functools.cache
def piece_terms(maths: RowMaths) -> Kernel:
    """Return the kernel of the second step, for a loss that has terms."""
    terms: Any = maths.terms
    terms_of, indexed = terms_stage(maths), maths.indexed

    def split_terms(x, t, y, weight, rows, found, params, columns, pieces, units, queue, lead):
        vector_function()
        like = load(x, 0)
        T = type(like)
        numbers = cast(params, like)
        for k, start, stop in chunks(queue, 1, units, 1):
            for u in range(start, stop):
                r, s = u // pieces, u % pieces
                label = label_at(y, r)
                top, inverse, zy = T(rows[r, 0]), T(1) / (T(1) + T(rows[r, 1])), T(rows[r, 2])
                wy = load_or(weight, label, T(1)) if indexed else T(1)
                first, last = share(columns, s, pieces), share(columns, s + 1, pieces)
                a, b, c = terms_of(
                    x, t, part(weight, first, last), r * columns + first, last - first, label - first, top, inverse,
                    (), False, (), 0, zy, wy, numbers,
                )  # fmt: skip
                store(found, 3 * u, a)
                store(found, 3 * u + 1, b)
                store(found, 3 * u + 2, c)
            finish_chunk(queue, 1, k, 0.0)
        return total_of(queue, 1) if lead else 0.0

    return Kernel(f"split_terms_{terms.__name__}", split_terms)


@functools.cache
def finish(maths: RowMaths) -> Kernel:
    """Return the kernel of the last step."""
    close, entries_of, indexed = maths.finish, entries_stage(maths), maths.indexed

    def split_finish(
        x, t, y, weight, grad_output, rows, values, d0, d1, d2, hess,
        params, factor, columns, pieces, units, queue, lead,
    ):  # fmt: skip
        vector_function()
        like = load(x, 0)
        T = type(like)
        numbers, grads = cast(params, like), (d0, d1, d2)
        for k, start, stop in chunks(queue, 1, units, 1):
            total = 0.0
            for u in range(start, stop):
                r, s = u // pieces, u % pieces
                base, label = r * columns, label_at(y, r)
                top, others, zy = T(rows[r, 0]), T(rows[r, 1]), T(rows[r, 2])
                inverse = T(1) / (T(1) + others)
                sure = others < T(SURE - 1)
                logsum = log1p_unit(others) if sure else log_sum(T(1) + others)
                p_others = others * inverse if sure else T(1) - inverse
                py = exp_difference(zy) * inverse
                wy = load_or(weight, label, T(1)) if indexed else T(1)
                sums = (T(rows[r, 3]), T(rows[r, 4]), T(rows[r, 5]))
                value, coefs = close(top, logsum, sums, zy, wy, p_others, py, numbers)
                if s == 0:
                    store(values, r, value)
                    total += value
                g = load_or(grad_output, r, T(factor))
                begin, end = share(columns, s, pieces), share(columns, s + 1, pieces)
                entries_of(
                    x, t, weight, base, begin, end, label, top, inverse, False, (), 0,
                    zy, wy, py, coefs, numbers, g, grads, base, hess,
                )  # fmt: skip
            finish_chunk(queue, 1, k, total)
        return total_of(queue, 1) if lead else 0.0

    return Kernel(f"split_finish_{close.__name__}_{maths.entry.__name__}", split_finish)


def run(
    maths: RowMaths,
    x: Any,
    operand: Any,
    target: Any,
    weight: Any,
    grad_output: Any,
    params: tuple[float, ...],
    scale: float,
    divisor: float,
    count: int,
    columns: int,
    ignore_index: int,
    values: Any,
    grads: tuple[Any, Any, Any],
    hess: Any,
) -> tuple[int, float] | None:
    """Run a row loss, and return what the kernels of ``rowwise.py`` do.

    None, and nothing is written, for rows out of the ordinary: of a class that does not exist or is ignored, or whose
    largest entry is not finite.
    """
    if maths.indexed:
        if ((target < 0) | (target >= columns) | (target == ignore_index)).any():
            return None
        if divisor == 0:
            if type(weight) is not tuple and weight.dtype.kind != "f":  # the bits of a half type
                return None
            divisor = float(count if type(weight) is tuple else weight[target].sum(dtype=np.float64)) or np.nan
    pieces = -(-columns // PIECE)
    units, work = count * pieces, count * columns
    found = np.empty((count, pieces, OF_A_PIECE))
    piece_maxima()(units, work, x, target, found.reshape(-1), columns, pieces, units)
    tops = found[:, :, 0]
    top = tops.max(1)
    if not np.isfinite(top).all():
        return None
    rows = np.zeros((count, OF_A_ROW))
    with np.errstate(all="ignore"):
        exp_sums = np.where(np.isneginf(tops), 0.0, (1.0 + found[:, :, 1]) * np.exp(tops - top[:, None]))
        first = np.arange(count), tops.argmax(1)  # the piece whose largest entry is the row's, and is left out
        exp_sums[first] = found[:, :, 1][first]
        rows[:, 0], rows[:, 1] = top, exp_sums.sum(1)
        if maths.indexed:
            rows[:, 2] = found[:, :, 2].sum(1) - top
    if maths.terms is not None:
        sums = np.empty((count, pieces, 3))
        arrays = (x, operand, target, weight, rows, sums.reshape(-1))
        piece_terms(maths)(units, work, *arrays, params, columns, pieces, units)
        rows[:, 3:] = sums.sum(1)
    total = finish(maths)(
        units, work, x, operand, target, weight, grad_output, rows, values, *grads, hess,
        params, scale / divisor, columns, pieces, units,
    )  # fmt: skip
    return -1, total / divisor
