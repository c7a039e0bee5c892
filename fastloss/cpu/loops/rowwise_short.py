"""The loop over short rows, SIMD lanes along the classes. Arguments: see ``rowwise.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastloss.cpu.loops.check_labels import is_counted, opening
from fastloss.cpu.loops.rowwise_stages import entries_stage, skip_row, softmax_stage, terms_stage
from fastloss.cpu.simd.llvm_hints import interleaved, vector_function
from fastloss.cpu.simd.memory import (
    LINE,
    as_type_of,
    fetch,
    fetch_to_write,
    label_at,
    load,
    load_or,
    present,
    store,
)
from fastloss.cpu.simd.nontemporal import beyond_line, drain_rest, drain_whole_lines
from fastloss.cpu.simd.scratch import free, scratch
from fastloss.cpu.simd.stack_arrays import group_array, lane_array
from fastloss.cpu.simd.sum_exp import TOGETHER, of_rows, row_maxima
from fastloss.cpu.simd.work_queue import chunks, total_of
from fastloss.cpu.simd.work_queue import finish as finish_chunk
from fastloss.define.descriptions import RowMaths
from fastloss.runtime.compile import kernel_part, written_out

# Bytes of the numbers of a row up to which rows are computed together, as TOGETHER says. Of longer ones more is read
# at once, and then more computed: cross_entropy of 26 MB on two threads, time beside a row at a time, 0.8 at 160
# classes of float32, 0.85 at 200, 0.96 at 256, 1.0 at 300, 1.2 at 384; of float64 in cache 0.93 at 64, 1.05 at 128.
TOGETHER_BYTES = 1100

# Bytes of logits from which short rows of a softmax ask the caches for what they need soon, and how many entries ahead
# for what they read and write: the CPU's own prefetching loses its way in rows that are read twice. Two threads of an
# EPYC, 26 MB, time beside that without: 0.7 to 0.95 from 100 classes on, streamed or not. What fits the last cache took
# 1.0 to 1.1 of the time, and multilabel_soft_margin_loss, which has two operands and much to compute, 1.0 to 1.2.
FETCHED_FROM = 16 << 20
READ_AHEAD = 2048
WRITTEN_AHEAD = 512

# Vectors at a time in the loops over short rows. LLVM's four leave up to 63 entries to narrower vectors and to scalar
# code: two take, with AVX-512, 0.77 of the time of four for symmetric_cross_entropy, multi_margin_loss and
# multilabel_soft_margin_loss at 100 classes, 0.95 for cross_entropy, and up to 1.08 where four fit. A single one takes
# 0.75 of that at 80 classes, and 1.2 at 300 with AVX2.
VECTORS = 2


@kernel_part(forceinline=True)
def _fetch_ahead(x, t, grads, base, columns, writes):
    """Ask the caches for entries that are read soon; and those that are written soon, if `writes` go through them."""
    for near in range(base, base + columns, LINE):
        fetch(x, near + READ_AHEAD)
        fetch(t, near + READ_AHEAD)
        if writes:
            fetch_to_write(grads[0], near + WRITTEN_AHEAD)
            fetch_to_write(grads[1], near + WRITTEN_AHEAD)


def _buffers_of(softmax: bool, streamed: bool) -> Callable[..., Any]:
    """Return what makes the buffers of a thread, and how rows lie in them."""

    @written_out
    def buffers_for(grads, hess, factor, columns):
        together = TOGETHER if columns * lane_array(factor).itemsize <= TOGETHER_BYTES else 1
        # Rows whose exponentials begin at a line are stored faster, but streamed ones have to follow each other.
        stride = columns if streamed else (columns + LINE - 1) // LINE * LINE
        room = together * stride + LINE
        d0, d1, d2 = grads
        keep = softmax and (present(d0) or present(d1) or present(d2) or present(hess))
        first = scratch(room if streamed or keep else 0, factor)
        second = scratch(room if streamed and present(d1) else 0, factor)
        return (first, second), keep, together, stride

    return buffers_for


def short_rows(maths: RowMaths, streamed: bool) -> Callable[..., Any]:
    """Return the kernel for rows of which several are computed together, and the maxima of those that follow before."""
    has_terms, finish, softmax, indexed = maths.terms is not None, maths.finish, maths.softmax, maths.indexed
    sampled, open_rows, buffers_for = maths.sampled, opening(maths), _buffers_of(maths.softmax, streamed)
    of_softmax, terms_of, entries_of = softmax_stage(maths.softmax), terms_stage(maths), entries_stage(maths)

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
        T, results = type(factor), (d0, d1, d2)
        buffers, keep, together, stride = buffers_for(results, hess, factor, columns)
        exps = buffers[0]
        far = softmax and x.size * x.itemsize >= FETCHED_FROM
        padding = group_array(x[0])
        maxima, next_maxima, sums = lane_array(factor), lane_array(factor), lane_array(factor)
        grads = (as_type_of(d0, exps), as_type_of(d1, buffers[1]), d2) if streamed else results
        for k, start, last in chunks(queue, 1, count, 1):
            held = beyond_line(d0, start * columns) if streamed else 0
            total = 0.0
            if softmax:
                row_maxima(x, start * columns, min(together, last - start), columns, next_maxima)
            for first in range(start, last, together):
                n = min(together, last - first)
                base, size = first * columns, n * columns
                needed = not indexed
                for i in range(n):
                    maxima[i] = next_maxima[i]
                    needed |= is_counted(label_at(y, first + i), columns, ignore)
                if softmax:
                    if needed:
                        of_rows(x, base, n, together, columns, padding, maxima, keep, exps, held, stride, sums)
                    # Here neither their last steps nor those of the sums are waited for: 0.9 to 0.95 of the time.
                    row_maxima(x, base + size, min(together, last - first - n), columns, next_maxima)
                for i in range(n):
                    r, base, at = first + i, (first + i) * columns, held + i * stride
                    into = at if streamed else base
                    if far:
                        _fetch_ahead(x, t, grads, base, columns, not streamed)
                    label = label_at(y, r)
                    own = load_or(grad_output, r, T(1)) if sampled else T(1)
                    if (indexed and not is_counted(label, columns, ignore)) or (sampled and own == T(0)):
                        total += skip_row(label == ignore, own, r, base, into, columns, values, grads, hess, factor)
                        continue
                    top, exp_sum = (maxima[i], sums[i]) if softmax else (T(0), T(0))
                    inverse, logsum, p_others = of_softmax(x, base, columns, top, exp_sum, keep, exps, at, (), ())
                    zy = load(x, base + label) - top if indexed else T(0)
                    wy = load_or(weight, label, T(1)) if indexed else T(1)
                    py = load(exps, at + label) * inverse if keep else T(0)
                    a, b, c = 0.0, 0.0, 0.0
                    if has_terms:
                        a, b, c = terms_of(
                            x, t, weight, base, columns, label, top, inverse, (), keep, exps, at, zy, wy, numbers
                        )
                    value, coefs = finish(top, logsum, (T(a), T(b), T(c)), zy, wy, p_others, py, numbers)
                    value = own * value if sampled else value
                    store(values, r, value)
                    total += value
                    g = own * factor if sampled else load_or(grad_output, r, factor)
                    entries_of(
                        x, t, weight, base, 0, columns, label, top, inverse, True, exps, at,
                        zy, wy, py, coefs, numbers, g, grads, into, hess,
                    )  # fmt: skip
                interleaved(VECTORS)
                if streamed:
                    held = drain_whole_lines(buffers, results, 0, held + size, start * columns, first * columns + size)
            if streamed:
                drain_rest(buffers, results, held, last * columns)
            finish_chunk(queue, 1, k, total)
        free(buffers[0])
        free(buffers[1])
        return -1, total_of(queue, 1) / divisor if lead else 0.0

    return rowwise
