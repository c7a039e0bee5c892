"""The loop over long rows, block by block, SIMD lanes along the classes. Arguments: see ``rowwise.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastloss.cpu.loops.check_labels import is_counted, opening
from fastloss.cpu.loops.rowwise_stages import entries_stage, skip_row, softmax_stage, terms_stage
from fastloss.cpu.simd.llvm_hints import vector_function
from fastloss.cpu.simd.memory import LINE, as_type_of, label_at, load, load_or, of_one_type, present, store
from fastloss.cpu.simd.nontemporal import (
    beyond_line,
    drain_rest,
    drain_rows,
    drain_whole_lines,
)
from fastloss.cpu.simd.scratch import free, scratch
from fastloss.cpu.simd.sum_exp import BLOCK, of_blocks
from fastloss.cpu.simd.work_queue import chunks, total_of
from fastloss.cpu.simd.work_queue import finish as finish_chunk
from fastloss.define.descriptions import RowMaths
from fastloss.runtime.compile import kernel_part, written_out

# Classes of the longest row that is written past the caches at once; longer ones are block by block, since the more
# there is to write the longer the next row waits. Two threads of an EPYC, 131 MB, time beside that of ordinary stores:
# cross_entropy 0.9 to 0.96 from 8000 classes to 128256, softmax 0.77, log_softmax 0.9, multi_margin_loss 0.88,
# symmetric_cross_entropy 1.0. Shorter rows by block took 1.02 to 1.1 of the time of a row at once; those by ordinary
# stores 1.25 times as long at 1000 classes, 1.1 at 256 and 4000, as long at 100.
DRAINED_ROW = 4096


@kernel_part(forceinline=True)
def _scale_all(factors, number):
    """Multiply the factors of a row's blocks, once: LLVM multiplies in an order that differs from loop to loop."""
    for block in range(factors.size):
        factors[block] *= number


def _buffers_of(softmax: bool, replaces: bool, streamed: bool) -> Callable[..., Any]:
    """Return what makes the buffers of a thread, and whether exponentials are kept, and in the first result."""

    @written_out
    def buffers_for(grads, hess, factor, columns):
        blocks = (columns + BLOCK - 1) // BLOCK if softmax else 0
        references, factors = scratch(blocks, factor), scratch(blocks, factor)
        room = (columns if streamed else (columns + LINE - 1) // LINE * LINE) + LINE
        d0, d1, d2 = grads
        keep = softmax and (present(d0) or present(d1) or present(d2) or present(hess))
        in_result = not replaces and not streamed and of_one_type(d0, factors)
        first = scratch(room if streamed or (keep and not in_result) else 0, factor)
        second = scratch(room if streamed and present(d1) else 0, factor)
        return references, factors, (first, second), keep, in_result

    return buffers_for


def long_rows(maths: RowMaths, replaces: bool, streamed: bool) -> Callable[..., Any]:
    """Return the kernel for rows that are computed block by block.

    A row's exponentials lie where its first result will, and not in a buffer beside it: what the second cache has to
    hold until they are read again is half as much. cross_entropy on two threads with AVX-512, 1 MiB of cache a core,
    share of a copy: 58 and 70 % at 128256 classes, 70 and 78 % at 32000, 70 and 72 % at 1000. They need a buffer if the
    result is of another type, or `replaces` an operand.
    """
    has_terms, finish, softmax, indexed = maths.terms is not None, maths.finish, maths.softmax, maths.indexed
    sampled, open_rows, buffers_for = maths.sampled, opening(maths), _buffers_of(maths.softmax, replaces, streamed)
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
        # `keep`: exponentials are kept, relative to what :func:`of_blocks` took for each block.
        references, factors, buffers, keep, in_result = buffers_for(results, hess, factor, columns)
        exps = as_type_of(buffers[0], d0) if in_result else buffers[0]
        grads = (as_type_of(d0, buffers[0]), as_type_of(d1, buffers[1]), d2) if streamed else results
        for k, start, last in chunks(queue, 1, count, 1):
            held = beyond_line(d0, start * columns) if streamed else 0
            total = 0.0
            for r in range(start, last):
                base = r * columns
                at = base if in_result else held
                into = at if streamed else base
                written = 0
                label = label_at(y, r)
                own = load_or(grad_output, r, T(1)) if sampled else T(1)
                if (indexed and not is_counted(label, columns, ignore)) or (sampled and own == T(0)):
                    total += skip_row(label == ignore, own, r, base, into, columns, values, grads, hess, factor)
                else:
                    top, exp_sum = T(0), T(0)
                    if softmax:
                        top, exp_sum = of_blocks(
                            x, base, columns, keep, exps, at, references, factors, t, grads, streamed
                        )
                    inverse, logsum, p_others = of_softmax(
                        x, base, columns, top, exp_sum, keep, exps, at, references, factors
                    )
                    if keep:
                        _scale_all(factors, inverse)
                    zy = load(x, base + label) - top if indexed else T(0)
                    wy = load_or(weight, label, T(1)) if indexed else T(1)
                    py = load(exps, at + label) * factors[label // BLOCK] if keep else T(0)
                    a, b, c = 0.0, 0.0, 0.0
                    if has_terms:
                        a, b, c = terms_of(
                            x, t, weight, base, columns, label, top, inverse, factors, keep, exps, at, zy, wy, numbers
                        )
                    value, coefs = finish(top, logsum, (T(a), T(b), T(c)), zy, wy, p_others, py, numbers)
                    value = own * value if sampled else value
                    store(values, r, value)
                    total += value
                    g = own * factor if sampled else load_or(grad_output, r, factor)
                    for begin in range(0, columns, BLOCK):
                        end = min(begin + BLOCK, columns)
                        scale = factors[begin // BLOCK] if keep else inverse
                        entries_of(
                            x, t, weight, base, begin, end, label, top, scale, True, exps, at,
                            zy, wy, py, coefs, numbers, g, grads, into, hess,
                        )  # fmt: skip
                        if streamed and columns > DRAINED_ROW:
                            written = drain_rows(buffers, results, written, held + end, start * columns, base + end)
                if streamed:
                    held = drain_whole_lines(buffers, results, written, held + columns, start * columns, base + columns)
            if streamed:
                drain_rest(buffers, results, held, last * columns)
            finish_chunk(queue, 1, k, total)
        free(references)
        free(factors)
        free(buffers[0])
        free(buffers[1])
        return -1, total_of(queue, 1) / divisor if lead else 0.0

    return rowwise
