"""The loop over a class axis for a few very long rows: each row is cut into pieces, a block for each piece.

In steps, a kernel each: *gauge* finds the largest entry and the exponentials of every piece, *tally* the terms of every
piece for losses that have some, *finish* writes values and derivatives. After gauge and after tally a block for each
row adds up what its pieces have found. Nothing waits for the device, and the cut depends on the shape alone.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from fastloss.cuda.device.block import added, block, maximum, minimum, over, thread
from fastloss.cuda.device.memory import label_at, load, load_or, load_pack, store, store_derivatives, store_pack
from fastloss.cuda.device.numba_cuda import SIMULATED
from fastloss.cuda.device.online_softmax import SURE, gauge, of_energy, of_others
from fastloss.cuda.device.packs import filled, total_of
from fastloss.cuda.device.reduce import THREADS, Total, deliver, divided
from fastloss.cuda.launch import Kernel
from fastloss.cuda.loops.row_maths import packed
from fastloss.define.descriptions import RowMaths
from fastloss.define.scalars import exp_nonpositive

# Entries of a piece, a multiple of every pack's width: enough work for a block of 256 threads, few enough for a single
# row of a language model's vocabulary to keep the multiprocessors of a large device busy.
PIECE = 32 if SIMULATED else 4096

# Rows from which a block for each row occupies the device, and classes up to which nothing is gained by a cut.
FEW_ROWS = 4 if SIMULATED else 128
SPLIT_FROM = 2 * PIECE if SIMULATED else 8 * PIECE

# Numbers of a row: largest entry, sum of the others' exponentials, three sums of terms.
OF_A_ROW = 5


def suits(maths: RowMaths, count: int, columns: int, inner: int) -> bool:
    """Return whether rows are few and long enough to be cut."""
    return count < FEW_ROWS and columns >= SPLIT_FROM and inner == 1 and maths.softmax


@functools.cache
def gauge_kernel(width: int) -> Kernel:
    """Return the kernel of the first step, the same for all losses; two numbers for each piece."""
    gauged, others_of, size = gauge(THREADS, width), of_others(THREADS, width), PIECE
    top_over, sum_over = over(maximum, THREADS), over(added, THREADS)

    def split_gauge(x, like, found, columns, pieces):
        base, start = block() // pieces * columns, block() % pieces * size
        stop = min(start + size, columns)
        T = type(like)
        row = (x, base, 1, (), 0, 0)
        own, energy = gauged(row, like, start + thread() * width, stop)
        top = top_over(own)
        energy = sum_over(energy * exp_nonpositive(own - top))
        others = energy - T(1)
        if energy < T(SURE):
            others = sum_over(others_of(row, top, start + thread() * width, stop))
        if thread() == 0:
            store(found, 2 * block(), top)
            store(found, 2 * block() + 1, others)

    return Kernel(f"split_gauge_{width}", split_gauge, THREADS)


@functools.cache
def gauge_rows() -> Kernel:
    """Return the kernel that combines what the pieces of a row have found in the first step."""
    top_over, first_over, sum_over = over(maximum, THREADS), over(minimum, THREADS), over(added, THREADS)
    step, size = THREADS, OF_A_ROW

    def split_gauge_rows(found, like, rows, pieces):
        T = type(like)
        first = block() * pieces
        top = T(-math.inf)
        for s in range(thread(), pieces, step):
            top = maximum(top, load(found, 2 * (first + s)))
        top = top_over(top)
        holder = pieces  # of the largest entry: the first piece, for there may be several
        for s in range(thread(), pieces, step):
            if load(found, 2 * (first + s)) == top:
                holder = minimum(holder, s)
        holder = first_over(holder)
        others = T(0)
        for s in range(thread(), pieces, step):
            its, rest = load(found, 2 * (first + s)), load(found, 2 * (first + s) + 1)
            # A piece of nothing but -inf has no energy, unless the row is nothing else.
            if its != T(-math.inf) or top == its:
                others += (rest if s == holder else T(1) + rest) * exp_nonpositive(its - top)
        others = sum_over(others)
        if thread() == 0:
            store(rows, block() * size, top)
            store(rows, block() * size + 1, others)

    return Kernel("split_gauge_rows", split_gauge_rows, THREADS)


@functools.cache
def tally_kernel(maths: RowMaths, width: int) -> Kernel:
    """Return the kernel of the second step, for a loss that has terms; three numbers for each piece."""
    indexed = maths.indexed
    (sums, _), fill, sum_over = packed(maths, width), filled(width), over(added, THREADS)
    first_of, second_of, third_of = (total_of(k, width) for k in range(3))
    step, size, of_a_row = THREADS * width, PIECE, OF_A_ROW

    def split_tally(x, t, y, weight, rows, found, params, like, columns, pieces):
        T = type(like)
        zeros, ones = fill(T(0)), fill(T(1))
        r = block() // pieces
        base, start = r * columns, block() % pieces * size
        stop = min(start + size, columns)
        label = label_at(y, r)
        place = label if label >= 0 and label < columns else 0
        top, inverse = load(rows, r * of_a_row), T(1) / (T(1) + load(rows, r * of_a_row + 1))
        zy = T(load(x, base + place)) - top if indexed else T(0)
        wy = load_or(weight, place, T(1)) if indexed else T(1)
        rest = (top, inverse, label, zy, wy, params)
        a = T(0)
        b = T(0)
        c = T(0)
        for j in range(start + thread() * width, stop, step):
            parts = sums(
                load_pack(x, base + j, zeros), load_pack(t, base + j, ones), zeros, load_pack(weight, j, ones), ones,
                j, rest,
            )  # fmt: skip
            a += first_of(parts)
            b += second_of(parts)
            c += third_of(parts)
        a = sum_over(a)
        b = sum_over(b)
        c = sum_over(c)
        if thread() == 0:
            store(found, 3 * block(), a)
            store(found, 3 * block() + 1, b)
            store(found, 3 * block() + 2, c)

    terms: Any = maths.terms
    return Kernel(f"split_tally_{width}_{terms.__name__}", split_tally, THREADS)


@functools.cache
def tally_rows() -> Kernel:
    """Return the kernel that adds up what the pieces of a row have found in the second step."""
    sum_over, step, size = over(added, THREADS), THREADS, OF_A_ROW

    def split_tally_rows(found, like, rows, pieces):
        T = type(like)
        first = block() * pieces
        a = T(0)
        b = T(0)
        c = T(0)
        for s in range(thread(), pieces, step):
            a += load(found, 3 * (first + s))
            b += load(found, 3 * (first + s) + 1)
            c += load(found, 3 * (first + s) + 2)
        a = sum_over(a)
        b = sum_over(b)
        c = sum_over(c)
        if thread() == 0:
            store(rows, block() * size + 2, a)
            store(rows, block() * size + 3, b)
            store(rows, block() * size + 4, c)

    return Kernel("split_tally_rows", split_tally_rows, THREADS)


@functools.cache
def hits_kernel() -> Kernel:
    """Return the kernel that keeps each row's target entry, which a gradient over the input would overwrite."""
    step = THREADS

    def split_hits(x, y, like, hits, count, columns):
        for r in range(thread(), count, step):
            label = label_at(y, r)
            place = label if label >= 0 and label < columns else 0
            store(hits, r, load(x, r * columns + place))

    return Kernel("split_hits", split_hits, THREADS)


@functools.cache
def finish_kernel(maths: RowMaths, width: int) -> Kernel:
    """Return the kernel of the last step."""
    close, entry, indexed, has_terms = maths.finish, maths.entry, maths.indexed, maths.terms is not None
    (_, entries), fill, total_over = packed(maths, width), filled(width), over(added, THREADS)
    step, size, of_a_row = THREADS * width, PIECE, OF_A_ROW

    def split_finish(
        x, t, y, weight, upstream, values, d0, d1, d2, second,
        rows, hits, params, scale, columns, pieces, ignore, partials, counted, divisor,
    ):  # fmt: skip
        T = type(scale)
        factor = divided(scale, counted)
        zeros, ones = fill(T(0)), fill(T(1))
        r = block() // pieces
        base, start = r * columns, block() % pieces * size
        stop = min(start + size, columns)
        label = label_at(y, r)
        known = not indexed or (label >= 0 and label < columns and label != ignore)
        top, others = load(rows, r * of_a_row), load(rows, r * of_a_row + 1)
        inverse, logsum, p_others = of_energy(T(1) + others, others)
        zy = load_or(hits, r, T(0)) - top if indexed else T(0)
        wy = load_or(weight, label if known else 0, T(1)) if indexed else T(1)
        sums = (T(0), T(0), T(0))
        if has_terms:
            sums = (load(rows, r * of_a_row + 2), load(rows, r * of_a_row + 3), load(rows, r * of_a_row + 4))
        value, coefs = close(top, logsum, sums, zy, wy, p_others, exp_nonpositive(zy) * inverse, params)
        blank = T(0) if label == ignore else T(math.nan)
        value = T(value) if known else blank
        total = T(0)
        if start == 0 and thread() == 0:
            store(values, r, value)
            total += value
        g = load_or(upstream, r, factor)
        if known:
            tail = (top, inverse, label, coefs, g, params)
            for j in range(start + thread() * width, stop, step):
                outcomes = entries(
                    load_pack(x, base + j, zeros), load_pack(t, base + j, ones), zeros, load_pack(weight, j, ones),
                    ones, j, tail,
                )  # fmt: skip
                store_derivatives((d0, d1, d2), second, base + j, outcomes)
        else:
            for j in range(start + thread() * width, stop, step):
                store_pack((d0, d1, d2, second), base + j, fill(blank))
        deliver(partials, total_over(total), counted, divisor)

    return Kernel(f"split_finish_{width}_{close.__name__}_{entry.__name__}", split_finish, THREADS)


def run_split(
    device: Any,
    maths: RowMaths,
    width: int,
    real: Any,
    arrays: tuple[Any, ...],
    params: tuple[float, ...],
    scale: float,
    divisor: Any,
    count: int,
    columns: int,
    ignore_index: int,
) -> Total:
    """Run a row loss over `arrays`, those that :func:`fastloss.cuda.loops.rowwise.run` hands to its kernel."""
    x, operand, target, weight, _, values, *_ = arrays
    pieces = -(-columns // PIECE)
    grid = count * pieces
    rows = device.scratch(count * OF_A_ROW, real)
    found = device.scratch(3 * grid, real)
    hits = device.scratch(count, real) if maths.indexed else ()
    gauge_kernel(width).launch(device, grid, real, x, 1.0, found, columns, pieces)
    gauge_rows().launch(device, count, real, found, 1.0, rows, pieces)
    if maths.terms is not None:
        tally_kernel(maths, width).launch(
            device, grid, real, x, operand, target, weight, rows, found, params, 1.0, columns, pieces
        )
        tally_rows().launch(device, count, real, found, 1.0, rows, pieces)
    if maths.indexed:
        hits_kernel().launch(device, 1, real, x, target, 1.0, hits, count, columns)
    total = Total(device, grid, real, values == (), divisor)
    finish_kernel(maths, width).launch(
        device, grid, real, *arrays, rows, hits, params, scale, columns, pieces, ignore_index, *total.arguments
    )
    return total
