"""The loop of losses that look at nothing but the target's entry. Arguments: see ``rowwise.py``.

All else of the gradient is zeros, which are written a tile of rows at a time: its entries are read before, since the
gradient may replace the input, and written after.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastloss.cpu.loops.check_labels import is_counted, opening
from fastloss.cpu.simd.llvm_hints import vector_function
from fastloss.cpu.simd.memory import clear, label_at, load, load_or, present, store, store_each
from fastloss.cpu.simd.stack_arrays import LANES, lane_array
from fastloss.cpu.simd.transpose import place_of
from fastloss.cpu.simd.work_queue import chunks, total_of
from fastloss.cpu.simd.work_queue import finish as finish_chunk
from fastloss.define.descriptions import RowMaths
from fastloss.runtime.compile import kernel_part, written_out

# Entries of a tile of rows that lie end to end: the cache lines that were cleared are still at hand for what is not 0.
TILE_ENTRIES = 1 << 14

# Entries from which a stretch is cleared by the C library rather than by a loop. nll_loss of 2**22 entries on two
# threads of an EPYC, time with the library beside that with a loop: 1.15 at 16 classes, which are 2**11 entries at a
# time, 1.0 at 24, 0.85 at 48, 0.75 at 100; 0.73 at 32000.
CLEARED_FROM = 3 << 10


@kernel_part()
def _clear_rows(array, row, n, columns, inner, zero):
    """Write zeros to rows row ... row + n, along the memory they lie in."""
    if not present(array):
        return
    if inner == 1 and n * columns >= CLEARED_FROM:
        clear(array, row * columns, n * columns)
        return
    if inner == 1:
        for i in range(row * columns, (row + n) * columns):
            store(array, i, zero)
        return
    done = 0
    while done < n:
        run = min(n - done, inner - (row + done) % inner)
        first = place_of(row + done, columns, inner)
        for j in range(columns):
            for i in range(first + j * inner, first + j * inner + run):
                store(array, i, zero)
        done += run


def gather(maths: RowMaths) -> Callable[..., Any]:
    """Return the kernel of a sparse loss."""
    finish, entry, sampled, open_rows = maths.finish, maths.entry, maths.sampled, opening(maths)

    @written_out
    def read_entries(x, y, tile, n, columns, inner, ignore, entries):
        for l in range(n):
            label = label_at(y, tile + l)
            known = label if is_counted(label, columns, ignore) else 0
            entries[l] = load(x, place_of(tile + l, columns, inner) + known * inner)

    @written_out
    def write_row(r, z, y, weight, grad_output, values, grads, hess, numbers, factor, columns, inner, ignore):
        T = type(factor)
        label = label_at(y, r)
        base = place_of(r, columns, inner)
        value = T(0)
        own = load_or(grad_output, r, T(1)) if sampled else T(1)
        if is_counted(label, columns, ignore) and own != T(0):
            w = load_or(weight, label, T(1))
            value, coefs = finish(T(0), T(0), (T(0), T(0), T(0)), z, w, T(0), T(0), numbers)
            slopes, curvature = entry(z, T(0), T(0), w, True, coefs, numbers)
            value = own * value if sampled else value
            g = own * factor if sampled else load_or(grad_output, r, factor)
            store_each(grads, base + label * inner, slopes, g)
            store(hess, base + label * inner, g * curvature)
        elif label != ignore and own != T(0):  # nobody was to check it
            value = T(np.nan)
            for j in range(columns):
                store_each(grads, base + j * inner, (value, value, value), T(1))
                store(hess, base + j * inner, value)
        store(values, r, value)
        return value

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
        zero, grads, entries = type(factor)(0), (d0, d1, d2), lane_array(factor)
        step = LANES if inner > 1 else max(1, min(LANES, TILE_ENTRIES // columns))
        for k, start, last in chunks(queue, 1, count, LANES if inner > 1 else 1):
            total = 0.0
            for tile in range(start, last, step):
                n = min(step, last - tile)
                read_entries(x, y, tile, n, columns, inner, ignore, entries)
                _clear_rows(d0, tile, n, columns, inner, zero)
                _clear_rows(d1, tile, n, columns, inner, zero)
                _clear_rows(d2, tile, n, columns, inner, zero)
                _clear_rows(hess, tile, n, columns, inner, zero)
                for l in range(n):
                    total += write_row(
                        tile + l, entries[l], y, weight, grad_output, values, grads, hess,
                        numbers, factor, columns, inner, ignore,
                    )  # fmt: skip
            finish_chunk(queue, 1, k, total)
        return -1, total_of(queue, 1) / divisor if lead else 0.0

    return rowwise
