"""The loop over a class axis, a tile of rows at a time, one row for each SIMD lane. Arguments: see ``rowwise.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastloss.cpu.loops.check_labels import opening
from fastloss.cpu.loops.tile_stages import (
    Rows,
    Tile,
    clear,
    entries_stage,
    leave_out,
    read_labels,
    skip_rows,
    softmax_stage,
    terms_stage,
    values_stage,
)
from fastloss.cpu.simd.llvm_hints import vector_function
from fastloss.cpu.simd.memory import load, load_or, part, present, store
from fastloss.cpu.simd.scratch import free, scratch
from fastloss.cpu.simd.stack_arrays import LANES, lane_array, lane_arrays
from fastloss.cpu.simd.transpose import place_of, read_rows, read_strided, write_rows, write_strided
from fastloss.cpu.simd.work_queue import chunks, total_of
from fastloss.cpu.simd.work_queue import finish as finish_chunk
from fastloss.define.descriptions import RowMaths
from fastloss.runtime.compile import written_out

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


def _buffers_for(strided: bool) -> Callable[..., Any]:
    """Return what makes the buffers of a thread: one array, the rows of a tile, and the entries of each part of it."""

    @written_out
    def buffers_for(grads, hess, factor, columns):
        lanes = (STRIDED_ENTRIES if strided else TILE_ENTRIES) // columns // STEP * STEP
        lanes = STEP if lanes < STEP else (LANES if lanes > LANES else lanes)
        size = (columns + STEP - 1) // STEP * STEP * lanes
        kinds = 3 + present(grads[0]) + present(grads[1]) + present(grads[2]) + present(hess)
        return scratch(kinds * size, factor), lanes, size

    return buffers_for


def across(maths: RowMaths, strided: bool) -> Callable[..., Any]:
    """Return the kernel for few classes, or for a strided class axis."""
    has_terms, has_softmax, indexed, sampled = maths.terms is not None, maths.softmax, maths.indexed, maths.sampled
    read_tile, write_tile = (read_strided, write_strided) if strided else (read_rows, write_rows)
    open_rows, buffers_for = opening(maths), _buffers_for(strided)
    softmax, terms_of = softmax_stage(strided), terms_stage(maths)
    values_of, entries_of = values_stage(maths), entries_stage(maths)

    def rowwise(
        x, t, y, weight, grad_output, values, d0, d1, d2, hess,
        params, scale, divisor, count, columns, inner, ignore, check, queue, lead,
    ):  # fmt: skip
        vector_function()
        bad, divisor, numbers, factor = open_rows(
            x, y, weight, grad_output, params, scale, divisor, count, columns, ignore, check, queue
        )
        if bad != -1:
            return bad, 0.0
        T, grads = type(factor), (d0, d1, d2)
        buffers, lanes, size = buffers_for(grads, hess, factor, columns)
        z, outs = part(buffers, 0, size), part(buffers, 3 * size, buffers.size)
        tile = Tile(z, part(buffers, size, 2 * size), part(buffers, 2 * size, 3 * size), outs, lanes, size)
        labels, top, inverse = lane_array(np.int32(0)), lane_array(factor), lane_array(factor)
        log_sums, p_others = lane_array(factor), lane_array(factor)
        rows = Rows(labels, top, inverse, log_sums, p_others, lane_array(factor), lane_array(factor))
        after_d0 = present(d0) * size
        after_d1 = after_d0 + present(d1) * size
        after_d2 = after_d1 + present(d2) * size
        g, coefs_of = lane_array(factor), lane_arrays(factor)
        sums, parts, wide = lane_arrays(0.0), lane_arrays(factor), lane_array(0.0)
        for k, start, last in chunks(queue, 1, count, STEP):
            total = 0.0
            for first in range(start, last, lanes):
                n = lanes if last - first > lanes else last - first
                read_tile(x, first, n, columns, inner, z, lanes)
                read_tile(t, first, n, columns, inner, tile.operand, lanes)
                skipped = read_labels(y, first, n, columns, ignore, labels)
                clear(rows, sums, n)
                if has_softmax:
                    here, ahead = place_of(first, columns, inner), place_of(first + lanes, columns, inner)
                    softmax(tile, rows, n, columns, x, d0, here, ahead, inner, wide)
                for l in range(n):
                    rows.z[l] = load(z, labels[l] * lanes + l) if indexed else T(0)
                    rows.w[l] = load_or(weight, labels[l], T(1)) if indexed else T(1)
                if has_terms:
                    terms_of(tile, rows, n, columns, t, weight, parts, sums, numbers)
                coefs = values_of(tile, rows, first, n, grad_output, sums, numbers, factor, coefs_of, g)
                entries_of(tile, rows, n, columns, t, weight, grads, hess, after_d2, numbers, coefs_of, coefs, g)
                if indexed and skipped > 0:
                    skip_rows(tile, rows, y, first, n, columns, ignore)
                if sampled:
                    leave_out(tile, rows, grad_output, first, n)
                for l in range(n):
                    store(values, first + l, top[l])
                    total += top[l]
                # z has been used: the last rows of the tile go by way of it.
                write_tile(outs, 0, d0, first, n, columns, inner, lanes, z)
                write_tile(outs, after_d0, d1, first, n, columns, inner, lanes, z)
                write_tile(outs, after_d1, d2, first, n, columns, inner, lanes, z)
                write_tile(outs, after_d2, hess, first, n, columns, inner, lanes, z)
            finish_chunk(queue, 1, k, total)
        free(buffers)
        return -1, total_of(queue, 1) / divisor if lead else 0.0

    return rowwise
