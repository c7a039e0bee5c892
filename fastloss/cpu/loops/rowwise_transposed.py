"""The loop over a class axis, a tile of rows at a time, one row for each SIMD lane. Arguments: see ``rowwise.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastloss.runtime.compile import kernel_part
from fastloss.define.descriptions import RowMaths
from fastloss.cpu.simd.memory import (
    LINE,
    cast,
    fetch,
    fetch_to_write,
    label_at,
    load,
    load_or,
    pack,
    part,
    present,
    stage_each,
    store,
    unpack,
)
from fastloss.cpu.simd.llvm_hints import interleaved, vector_function
from fastloss.cpu.simd.row_max import column_maxima
from fastloss.cpu.simd.work_queue import chunks_of, claim, combined, put, share
from fastloss.cpu.simd.stack_arrays import LANES, lane_array, lane_arrays
from fastloss.cpu.loops.check_labels import is_counted, survey
from fastloss.cpu.simd.transpose import place_of, read_rows, read_strided, write_rows, write_strided
from fastloss.define.scalars import exp_difference, log_sum

# Entries that the across loop keeps in each buffer: what it touches fits the L1 cache. Where the class axis is strided
# it fits the L2 cache: the more rows, the longer the stretches that are read of every class. cross_entropy of
# 8x150x128x128 on two threads, with 2**12 to 2**16 entries: 45, 32, 29, 25, 25 ms; of 16x1000x196: 6.3, 6.2, 6.1, 5.9
# and 9.8.
TILE_ENTRIES = 1 << 12
STRIDED_ENTRIES = 1 << 15

# Rows of the smallest tile, a vector of float32 and a cache line where the class axis is strided. Chunks begin at whole
# steps: a line that two of them shared was read and written by both. cross_entropy of 4x4096x256 on two threads: 49 ms
# with chunks of single rows, 9 with this.
STEP = 16

# Classes whose terms are summed in the row's own precision before they go to float64 sums, which hold half the lanes.
COLUMNS_BLOCK = 32


@kernel_part(forceinline=True)
def _energy(z, place, top, energies):
    """Take the row's maximum from an entry, keep the exponential of what is left, and return it."""
    d = load(z, place) - top
    e = exp_difference(d)
    store(z, place, d)
    store(energies, place, e)
    return e


def across(maths: RowMaths, strided: bool) -> Callable[..., Any]:
    """Return the loop for few classes, or for a strided class axis."""
    terms, has_terms = maths.terms, maths.terms is not None
    finish, entry, softmax, indexed = maths.finish, maths.entry, maths.softmax, maths.indexed
    read_tile, write_tile = (read_strided, write_strided) if strided else (read_rows, write_rows)

    def kernel(
        x, t, y, weight, upstream, values, d0, d1, d2, second,
        params, scale, divisor, count, columns, inner, ignore, check, board, lead,
    ):  # fmt: skip
        vector_function()
        like = load(x, 0)
        T = type(like)
        numbers = cast(params, like)
        grads = (d0, d1, d2)
        lanes = (STRIDED_ENTRIES if strided else TILE_ENTRIES) // columns // STEP * STEP
        lanes = STEP if lanes < STEP else (LANES if lanes > LANES else lanes)
        steps = (count + STEP - 1) // STEP
        # Entry j of the row in lane l stands at j * lanes + l of its buffer.
        padded = (columns + STEP - 1) // STEP * STEP * lanes
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
        parts = lane_arrays(like)
        if indexed and (check or divisor == 0.0):
            strange, counted = survey(y, weight, columns, ignore, check, count, board)
            if strange >= 0:
                return strange, 0.0
            divisor = counted if divisor == 0.0 else divisor
        factor = T(scale / divisor)

        chunks = chunks_of(board)
        k = claim(board, 1)
        while k < chunks:
            total = 0.0
            last = min(share(steps, k + 1, chunks) * STEP, count)
            for tile in range(share(steps, k, chunks) * STEP, last, lanes):
                n = lanes if last - tile > lanes else last - tile
                here, ahead = place_of(tile, columns, inner), place_of(tile + lanes, columns, inner)
                read_tile(x, tile, n, columns, inner, z, lanes)
                read_tile(t, tile, n, columns, inner, operand, lanes)

                skipped = np.int64(0)  # a literal 0 would change its type in this loop: one more round of inference
                for l in range(n):
                    label = label_at(y, tile + l)
                    known = is_counted(label, columns, ignore)
                    skipped += indexed and not known
                    labels[l] = label if known else 0
                    top[l] = T(0)
                    inverse[l] = T(0)
                    logsum[l] = T(0)
                    sums[l] = 0.0
                    store(sums, LANES + l, 0.0)
                    store(sums, 2 * LANES + l, 0.0)

                if softmax:
                    column_maxima(z, lanes, n, columns, top)
                    # Two columns at a time, which share the maxima and the constants of exp: one from each half, since
                    # LLVM tests before the outer loop whether what the two streams cover overlaps, and neighbouring
                    # columns would. What is left of an odd number of columns comes last.
                    half = columns // 2 * lanes
                    for j in range(0, half, lanes):
                        # The next tile comes into the L2 cache while this one is computed: reading, computing and
                        # writing in turn leaves the memory idle. cross_entropy of 2**22 entries in rows of 16, 32 and
                        # 47, two threads: 4.3, 4.1 and 4.7 ms without, 3.5, 3.2 and 3.7 with this.
                        if strided:
                            for near in range(0, lanes, LINE):
                                for column in (2 * j // lanes, 2 * j // lanes + 1):
                                    fetch(x, ahead + column * inner + near)
                                    fetch_to_write(d0, here + column * inner + near)
                        else:
                            for near in range(2 * j, 2 * (j + lanes), LINE):
                                fetch(x, ahead + near)
                                fetch_to_write(d0, here + near)
                        for l in range(n):
                            first = _energy(z, j + l, top[l], energies)
                            inverse[l] += first + _energy(z, half + j + l, top[l], energies)
                    interleaved(4)
                    for j in range(2 * half, columns * lanes, lanes):
                        for l in range(n):
                            inverse[l] += _energy(z, j + l, top[l], energies)
                    for l in range(n):
                        logsum[l] = log_sum(inverse[l])
                        inverse[l] = T(1) / inverse[l]
                for l in range(n):
                    zy[l] = load(z, labels[l] * lanes + l) if indexed else T(0)
                    wy[l] = load_or(weight, labels[l], T(1)) if indexed else T(1)

                if has_terms:
                    for begin in range(0, columns, COLUMNS_BLOCK):
                        for l in range(n):
                            pack(parts, LANES, l, (T(0), T(0), T(0)))
                        for j in range(begin, min(begin + COLUMNS_BLOCK, columns)):
                            base = j * lanes
                            w = load_or(weight, j, T(1))
                            column = np.int32(j)
                            for l in range(n):
                                p = load(energies, base + l) * inverse[l] if softmax else T(0)
                                s = load(operand, base + l) if present(t) else T(1)
                                hit = indexed and labels[l] == column
                                a, b, c = terms(load(z, base + l), p, s, w, hit, zy[l], wy[l], numbers)
                                store(parts, l, load(parts, l) + a)
                                store(parts, LANES + l, load(parts, LANES + l) + b)
                                store(parts, 2 * LANES + l, load(parts, 2 * LANES + l) + c)
                        for l in range(n):
                            sums[l] += load(parts, l)
                            store(sums, LANES + l, load(sums, LANES + l) + load(parts, LANES + l))
                            store(sums, 2 * LANES + l, load(sums, 2 * LANES + l) + load(parts, 2 * LANES + l))

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
                        s = load(operand, base + l) if present(t) else T(1)
                        hit = indexed and labels[l] == column
                        numbers_l = unpack(kept, LANES, l, coefs)
                        slopes, curvature = entry(load(z, base + l), p, s, w, hit, numbers_l, numbers)
                        stage_each(outs, padded, base + l, slopes, g[l], grads)
                        stage_each(outs, padded, after + base + l, (curvature,), g[l], (second,))

                if indexed and skipped > 0:
                    for l in range(n):
                        label = label_at(y, tile + l)
                        if not is_counted(label, columns, ignore):
                            top[l] = T(0) if label == ignore else T(np.nan)
                            for place in range(l, outs.size, lanes):
                                store(outs, place, top[l])
                for l in range(n):
                    store(values, tile + l, top[l])
                    total += top[l]
                # z has been used: the last rows of the tile go by way of it.
                write_tile(outs, 0, d0, tile, n, columns, inner, lanes, z)
                write_tile(outs, present(d0) * padded, d1, tile, n, columns, inner, lanes, z)
                write_tile(outs, (present(d0) + present(d1)) * padded, d2, tile, n, columns, inner, lanes, z)
                write_tile(outs, after, second, tile, n, columns, inner, lanes, z)
            put(board, 1, k, total)
            k = claim(board, 1)
        return -1, combined(board, 1) / divisor if lead else 0.0

    return kernel
