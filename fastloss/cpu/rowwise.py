"""The loops of losses over a class axis.

Three loops run the same maths. *Along*: one row at a time, SIMD lanes along its classes; for a contiguous class axis.
*Across*: a tile of rows at a time, one row per lane, the tile transposed so that the classes follow each other; for few
classes, where a row does not fill the lanes, and for a strided class axis (N, C, d1 ...), where the rows lie side by
side already. *Gather*: for losses that look at the target's entry alone.

All kernels take the same arguments. Arrays are flat, absent ones are ``()``: x the logits, t a second operand of the
same shape, y the class indices, and the outputs. Entry (o, c, i) stands at ``(o * columns + c) * inner + i``; row
``r = o * inner + i`` has its label, upstream factor and value at place r. They return (row of the first label that
does not exist or -1, reduced value).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.extending import register_jitable

from fastloss._jit import Kernel
from fastloss._spec import RowMaths
from fastloss.cpu.access import (
    LANES,
    cast,
    label_at,
    lane_array,
    lane_arrays,
    load,
    load_or,
    pack,
    part,
    present,
    stage_each,
    store,
    store_each,
    unpack,
)
from fastloss.cpu.math import isolated_function, maximum, vector_function
from fastloss.cpu.sharing import chunks_of, claim, combined, put, share
from fastloss.cpu.tiles import read_rows, read_strided, write_rows, write_strided
from fastloss.losses.scalars import exp_nonpositive, log

# Classes from which a row fills the lanes by itself. Value and gradient of cross_entropy over a copy of the same
# bytes, across against along: 2.6 and 6.3 at 10 classes, 2.1 and 2.3 at 32, 2.4 and 1.5 at 64.
ALONG_FROM = 48

# Classes from which 512-bit vectors win: LLVM's loop handles 64 entries at a time and leaves up to 63 to a scalar
# loop. 256 against 512 bits: 1.6 and 2.1 copies at 100 classes, 1.4 and 1.1 at 200, 1.05 and 0.86 at 1000.
WIDE_FROM = 160

# Entries that the across loop keeps in each buffer: what it touches fits the L1 cache.
TILE_ENTRIES = 4096

# Entries whose exponentials are summed in the row's own precision before they go to the float64 sum.
BLOCK = 4096


@register_jitable
def _no_terms(z, p, t, w, hit, zy, wy, params):
    T = type(z)
    return T(0), T(0), T(0)


@register_jitable
def _survey(y, weight, columns, ignore, check, count, board):
    """Return the first row whose class does not exist (-1: none), and the summed weight of the rows that count.

    Every thread waits for the whole survey: nothing is computed before all classes are known to exist.
    """
    chunks = chunks_of(board)
    k = claim(board, 0)
    while k < chunks:
        strange = False
        total = 0.0
        for r in range(share(count, k, chunks), share(count, k + 1, chunks)):
            label = label_at(y, r)
            known = label >= 0 and label < columns
            strange |= not known and label != ignore
            if known and label != ignore:
                total += load_or(weight, label, 1.0)
        put(board, 0, k, np.nan if strange and check else total)
        k = claim(board, 0)
    total = combined(board, 0)
    if check and total != total:
        for r in range(count):
            label = label_at(y, r)
            if label != ignore and (label < 0 or label >= columns):
                return r, total
    return -1, total


def _along(maths: RowMaths, wide: bool) -> Callable[..., Any]:
    terms = maths.terms or _no_terms
    finish, entry, softmax, indexed = maths.finish, maths.entry, maths.softmax, maths.indexed
    mark = vector_function if wide else isolated_function

    def along(
        x, t, y, weight, upstream, values, d0, d1, d2, second,
        params, scale, divisor, count, columns, inner, ignore, check, clear, board, lead,
    ):  # fmt: skip
        mark()
        like = load(x, 0)
        T = type(like)
        numbers = cast(params, like)
        grads = (d0, d1, d2)
        keep = softmax and (present(d0) or present(d1) or present(d2) or present(second))
        energies = np.empty(columns if keep else 0, T)
        if indexed and (check or divisor == 0.0):
            strange, counted = _survey(y, weight, columns, ignore, check, count, board)
            if strange >= 0:
                return strange, 0.0
            divisor = counted if divisor == 0.0 else divisor
        factor = T(scale / divisor)

        chunks = chunks_of(board)
        k = claim(board, 1)
        while k < chunks:
            total = 0.0
            for r in range(share(count, k, chunks), share(count, k + 1, chunks)):
                base = r * columns
                label = label_at(y, r)
                if indexed and (label == ignore or label < 0 or label >= columns):
                    blank = T(0) if label == ignore else T(np.nan)
                    store(values, r, blank)
                    total += blank
                    for j in range(columns):
                        store_each(grads, base + j, (blank, blank, blank), T(1))
                        store(second, base + j, blank)
                    continue

                top = T(0)
                if softmax:
                    top = load(x, base)
                    for j in range(1, columns):
                        top = maximum(top, load(x, base + j))
                zy = load(x, base + label) - top if indexed else T(0)
                wy = load_or(weight, label, T(1)) if indexed else T(1)

                inverse = T(0)
                logsum = T(0)
                if softmax:
                    energy = 0.0
                    for begin in range(0, columns, BLOCK):
                        block = T(0)
                        end = begin + BLOCK if begin + BLOCK < columns else columns
                        for j in range(begin, end):
                            e = exp_nonpositive(load(x, base + j) - top)
                            if keep:
                                store(energies, j, e)
                            block += e
                        energy += block
                    inverse = T(1) / T(energy)
                    logsum = log(T(energy))

                a = 0.0
                b = 0.0
                c = 0.0
                for j in range(columns):
                    z = load(x, base + j) - top
                    p = (load(energies, j) if keep else exp_nonpositive(z)) * inverse if softmax else T(0)
                    w = load_or(weight, j, T(1))
                    u, v, q = terms(z, p, load_or(t, base + j, T(0)), w, j == label, zy, wy, numbers)
                    a += u
                    b += v
                    c += q

                value, coefs = finish(top, logsum, (T(a), T(b), T(c)), zy, wy, numbers)
                store(values, r, value)
                total += value
                g = load_or(upstream, r, factor)
                for j in range(columns):
                    z = load(x, base + j) - top
                    p = load(energies, j) * inverse if softmax else T(0)
                    w = load_or(weight, j, T(1))
                    slopes, curvature = entry(z, p, load_or(t, base + j, T(0)), w, False, coefs, numbers)
                    store_each(grads, base + j, slopes, g)
                    store(second, base + j, g * curvature)
                if indexed:
                    # The target's entry once more: no test for it in the loop above.
                    slopes, curvature = entry(zy, exp_nonpositive(zy) * inverse, T(0), wy, True, coefs, numbers)
                    store_each(grads, base + label, slopes, g)
                    store(second, base + label, g * curvature)
            put(board, 1, k, total)
            k = claim(board, 1)
        return -1, combined(board, 1) / divisor if lead else 0.0

    return along


def _gather(maths: RowMaths) -> Callable[..., Any]:
    finish, entry = maths.finish, maths.entry

    def gather(
        x, t, y, weight, upstream, values, d0, d1, d2, second,
        params, scale, divisor, count, columns, inner, ignore, check, clear, board, lead,
    ):  # fmt: skip
        isolated_function()
        like = load(x, 0)
        T = type(like)
        numbers = cast(params, like)
        grads = (d0, d1, d2)
        if check or divisor == 0.0:
            strange, counted = _survey(y, weight, columns, ignore, check, count, board)
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

    return gather


def _across(maths: RowMaths, strided: bool) -> Callable[..., Any]:
    terms, has_terms = maths.terms or _no_terms, maths.terms is not None
    finish, entry, softmax, indexed = maths.finish, maths.entry, maths.softmax, maths.indexed
    read_tile, write_tile = (read_strided, write_strided) if strided else (read_rows, write_rows)

    def across(
        x, t, y, weight, upstream, values, d0, d1, d2, second,
        params, scale, divisor, count, columns, inner, ignore, check, clear, board, lead,
    ):  # fmt: skip
        vector_function()
        like = load(x, 0)
        T = type(like)
        numbers = cast(params, like)
        grads = (d0, d1, d2)
        lanes = TILE_ENTRIES // columns // 16 * 16
        lanes = 16 if lanes < 16 else (LANES if lanes > LANES else lanes)
        # Entry j of the row in lane l stands at j * lanes + l of its buffer.
        padded = (columns + 15) // 16 * 16 * lanes
        buffers = np.empty((3 + present(d0) + present(d1) + present(d2) + present(second)) * padded, T)
        z = part(buffers, 0, padded)
        energies = part(buffers, padded, 2 * padded)
        operand = part(buffers, 2 * padded, 3 * padded)
        outs = part(buffers, 3 * padded, buffers.size)
        after = (present(d0) + present(d1) + present(d2)) * padded
        top = lane_array(like)
        logsum = lane_array(like)
        inverse = lane_array(like)
        zy = lane_array(like)
        wy = lane_array(like)
        g = lane_array(like)
        kept = lane_arrays(like)
        labels = lane_array(np.int32(0))
        sums = lane_arrays(0.0)
        if indexed and (check or divisor == 0.0):
            strange, counted = _survey(y, weight, columns, ignore, check, count, board)
            if strange >= 0:
                return strange, 0.0
            divisor = counted if divisor == 0.0 else divisor
        factor = T(scale / divisor)

        chunks = chunks_of(board)
        k = claim(board, 1)
        while k < chunks:
            total = 0.0
            last = share(count, k + 1, chunks)
            for tile in range(share(count, k, chunks), last, lanes):
                n = lanes if last - tile > lanes else last - tile
                read_tile(x, tile, n, columns, inner, z, lanes)
                read_tile(t, tile, n, columns, inner, operand, lanes)

                skipped = 0
                for l in range(n):
                    label = label_at(y, tile + l)
                    strange = label < 0 or label >= columns or label == ignore
                    skipped += indexed and strange
                    labels[l] = 0 if strange else label
                    top[l] = load(z, l) if softmax else T(0)
                    inverse[l] = T(0)
                    logsum[l] = T(0)
                    sums[l] = 0.0
                    store(sums, LANES + l, 0.0)
                    store(sums, 2 * LANES + l, 0.0)

                if softmax:
                    for j in range(lanes, columns * lanes, lanes):
                        for l in range(n):
                            top[l] = maximum(top[l], load(z, j + l))
                    for j in range(0, columns * lanes, lanes):
                        for l in range(n):
                            d = load(z, j + l) - top[l]
                            e = exp_nonpositive(d)
                            store(z, j + l, d)
                            store(energies, j + l, e)
                            inverse[l] += e
                    for l in range(n):
                        logsum[l] = log(inverse[l])
                        inverse[l] = T(1) / inverse[l]
                for l in range(n):
                    zy[l] = load(z, labels[l] * lanes + l) if indexed else T(0)
                    wy[l] = load_or(weight, labels[l], T(1)) if indexed else T(1)

                if has_terms:
                    for j in range(columns):
                        base = j * lanes
                        w = load_or(weight, j, T(1))
                        column = np.int32(j)
                        for l in range(n):
                            p = load(energies, base + l) * inverse[l] if softmax else T(0)
                            s = load(operand, base + l) if present(t) else T(0)
                            hit = indexed and labels[l] == column
                            a, b, c = terms(load(z, base + l), p, s, w, hit, zy[l], wy[l], numbers)
                            sums[l] += a
                            store(sums, LANES + l, load(sums, LANES + l) + b)
                            store(sums, 2 * LANES + l, load(sums, 2 * LANES + l) + c)

                coefs = finish(T(0), T(0), (T(0), T(0), T(0)), T(0), T(0), numbers)[1]  # for its type
                for l in range(n):
                    abc = (T(sums[l]), T(load(sums, LANES + l)), T(load(sums, 2 * LANES + l)))
                    value, coefs = finish(top[l], logsum[l], abc, zy[l], wy[l], numbers)
                    pack(kept, LANES, l, coefs)
                    top[l] = value
                    g[l] = load_or(upstream, tile + l, factor)

                for j in range(columns):
                    base = j * lanes
                    w = load_or(weight, j, T(1))
                    column = np.int32(j)
                    for l in range(n):
                        p = load(energies, base + l) * inverse[l] if softmax else T(0)
                        s = load(operand, base + l) if present(t) else T(0)
                        hit = indexed and labels[l] == column
                        numbers_l = unpack(kept, LANES, l, coefs)
                        slopes, curvature = entry(load(z, base + l), p, s, w, hit, numbers_l, numbers)
                        stage_each(outs, padded, base + l, slopes, g[l], grads)
                        stage_each(outs, padded, after + base + l, (curvature,), g[l], (second,))

                if skipped > 0:
                    for l in range(n):
                        label = label_at(y, tile + l)
                        if label < 0 or label >= columns or label == ignore:
                            top[l] = T(0) if label == ignore else T(np.nan)
                            for place in range(l, outs.size, lanes):
                                store(outs, place, top[l])
                for l in range(n):
                    store(values, tile + l, top[l])
                    total += top[l]
                write_tile(outs, 0, d0, tile, n, columns, inner, lanes)
                write_tile(outs, present(d0) * padded, d1, tile, n, columns, inner, lanes)
                write_tile(outs, (present(d0) + present(d1)) * padded, d2, tile, n, columns, inner, lanes)
                write_tile(outs, after, second, tile, n, columns, inner, lanes)
            put(board, 1, k, total)
            k = claim(board, 1)
        return -1, combined(board, 1) / divisor if lead else 0.0

    return across


@functools.cache
def kernel(maths: RowMaths, layout: str) -> Kernel:
    """Return the kernel of a row loss.

    `layout` is ``"along"``, ``"wide"`` (the same with 512-bit vectors), ``"across"``, ``"strided"`` or ``"gather"``.
    """
    if layout == "gather":
        body = _gather(maths)
    elif layout in ("along", "wide"):
        body = _along(maths, layout == "wide")
    else:
        body = _across(maths, layout == "strided")
    return Kernel(f"rowwise_{layout}_{maths.finish.__name__}_{maths.entry.__name__}", body)


def run(
    maths: RowMaths,
    x: Any,
    operand: Any,
    target: Any,
    weight: Any,
    upstream: Any,
    params: tuple[float, ...],
    scale: float,
    divisor: float,
    shape: tuple[int, int, int],
    ignore_index: int,
    check: bool,
    values: Any,
    grads: tuple[Any, Any, Any],
    second: Any,
    clear: bool,
) -> tuple[int, float]:
    """Run a row loss and return (row of the first class index that does not exist or -1, reduced value).

    Parameters
    ----------
    x, operand, target, weight, upstream
        Contiguous flat arrays, absent ones ``()``.
    shape
        (outer, classes, inner).
    divisor
        What value and derivatives are divided by; 0: the summed weight of the rows that count.
    clear
        Whether a sparse loss has to write the zeros of its gradient.
    """
    outer, columns, inner = shape
    count = outer * inner
    if maths.sparse:
        layout = "gather"
    elif inner > 1:
        layout = "strided"
    elif columns < ALONG_FROM:
        layout = "across"
    else:
        layout = "wide" if columns >= WIDE_FROM else "along"
    work = count if maths.sparse else count * columns
    return kernel(maths, layout)(
        count, work, x, operand, target, weight, upstream, values, *grads, second,
        params, scale, divisor, count, columns, inner, ignore_index, check, clear,
    )  # fmt: skip
