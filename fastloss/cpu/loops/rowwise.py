"""The loops of losses over a class axis.

Four loops run the same maths. *Along* (``rowwise_short.py`` and ``rowwise_long.py``): SIMD lanes along the classes of a
row; for a contiguous class axis. *Across* (``rowwise_transposed.py``): a tile of rows at a time, one row per lane, the
tile transposed so that the classes follow each other; for few classes, where a row does not fill the lanes, and for a
strided class axis (N, C, d1 ...), where the rows lie side by side already. *Gather* (``rowwise_target_only.py``): for
losses that look at the target's entry alone. *Split* (``rowwise_split.py``): for a few very long rows, of which threads
share pieces; its kernels have arguments of their own.

The loops along and across are kernels made of stages that are written out in them: ``rowwise_stages.py``,
``tile_stages.py``.

All but the split one take the same arguments. Arrays are flat, absent ones are ``()``: x the logits, t a second operand
of the same shape, y the class indices, and the outputs. Entry (o, c, i) stands at ``(o * columns + c) * inner + i``;
row ``r = o * inner + i`` has its label, entry of `grad_output` and value at place r. They return (row of the first
label that does not exist or -1, reduced value).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from fastloss.cpu.loops import rowwise_split as split
from fastloss.cpu.loops.rowwise_long import long_rows
from fastloss.cpu.loops.rowwise_short import short_rows
from fastloss.cpu.loops.rowwise_target_only import gather
from fastloss.cpu.loops.rowwise_transposed import STEP, across
from fastloss.cpu.simd.nontemporal import are_streamed, moves_enough, past_caches
from fastloss.cpu.simd.stack_arrays import LANES
from fastloss.cpu.windows import ALL_FLAT
from fastloss.define.descriptions import RowMaths
from fastloss.runtime.compile import Kernel, Launch, is_small, launch_of
from fastloss.runtime.plans import KernelPlan

# Classes from which a row fills the lanes by itself. What a loop along the row leaves to narrower vectors and to scalar
# code costs more the more there is to compute. cross_entropy of 2**22 entries on two threads, time along beside across:
# with AVX2 1.04 at 40 classes, 0.9 at 48, 1.1 at 55, 1.0 at 63, 0.84 at 64, 0.72 at 80; with AVX-512 1.4 at 32, 1.25 at
# 48, 1.2 at 63, 0.76 at 64, 0.65 at 80, 0.68 at 100. symmetric_cross_entropy 1.05 at 48, 1.3 at 55, 1.15 at 63 with
# AVX2, 1.6 from 32 to 63, 0.9 at 64, 0.76 at 100 with AVX-512. Without exponentials, at 20, 25, 32 and 40 classes:
# multi_margin_loss 0.67, 0.55, 0.5 and 0.5 with AVX-512, 1.3, 0.7, 0.5 and 0.5 with AVX2; multilabel_soft_margin_loss
# 1.3, 1.3, 0.55 and 0.7, and 0.8, 0.9, 0.55 and 0.7.
ALONG_FROM = 32
SOFTMAX_ALONG_FROM = 64

# Classes from which the loop for long rows wins, which reads a row block by block. Time beside that of short rows on
# two threads of an EPYC, AVX-512, 26 MB: cross_entropy 1.2 at 500 classes, 1.1 at 600, 1.0 at 700, 0.88 at 1000,
# log_softmax 1.05, 0.99, 0.87 and 0.88; in cache both 1.1 at all of them; with AVX2 cross_entropy 1.15 at 600, 0.97 at
# 800.
LONG_FROM = 640

# What a row of a sparse loss costs, in elements of a plain loss, and how many zeros as much as one of those. nll_loss
# of 2**20 entries in rows of 256 on one thread and on two of an EPYC: 57 and 90 microseconds, in rows of 64 86 and 75;
# of 2**21 in rows of 1000 86 and 80.
SPARSE_ROW = 8
CLEARED = 16


@functools.cache
def kernel(maths: RowMaths, layout: str) -> Kernel:
    """Return the kernel of a row loss.

    `layout` is ``"along"`` or ``"long"`` (for more classes), ``"streamed"`` or ``"streamed_long"`` (the same past the
    caches), ``"replacing"`` (long, the first result replaces an operand), ``"across"``, ``"strided"`` or ``"gather"``.
    """
    if layout == "gather":
        body = gather(maths)
    elif layout in ("across", "strided"):
        body = across(maths, layout == "strided")
    else:
        streamed = layout.startswith("streamed")
        short = layout in ("along", "streamed")
        body = short_rows(maths, streamed) if short else long_rows(maths, layout == "replacing", streamed)
    sampled = "sampled_" if maths.sampled else ""
    return Kernel(f"rowwise_{sampled}{layout}_{maths.finish.__name__}_{maths.entry.__name__}", body)


def layout_of(maths: RowMaths, columns: int, inner: int, replaces: bool = False) -> str:
    """Return the loop for rows of `columns` classes that lie `inner` apart.

    `replaces` says that the first result replaces an operand.
    """
    if maths.sparse:
        return "gather"
    if inner > 1:
        return "strided"
    if columns < (SOFTMAX_ALONG_FROM if maths.softmax else ALONG_FROM):
        return "across"
    if columns < LONG_FROM:
        return "along"
    return "replacing" if replaces and maths.softmax else "long"


def work_of(maths: RowMaths, count: int, columns: int, inner: int = 1) -> int:
    """Return the work of `count` rows, in elements of a plain loss."""
    return count * (SPARSE_ROW + columns // CLEARED) if maths.sparse and inner == 1 else count * columns


def plan(
    maths: RowMaths,
    operands: tuple[Any, ...],
    results: tuple[Any, ...],
    params: tuple[float, ...] | None,
    shape: tuple[int, int, int],
    ignore_index: int,
    replaces: bool = False,
) -> KernelPlan:
    """Plan a row loss over `shape` = (outer, classes, inner).

    `operands` are x, the second operand, the class indices, the class weight and grad_output, `results` the values,
    three derivatives and the Hessian: flat arrays, absent ones ``()``. `replaces`: the first derivative replaces an
    operand. Without `params` it is a map of rows, whose one parameter is the factor of its derivative.
    """
    outer, columns, inner = shape
    count = outer * inner
    params = params if params is None else tuple(map(float, params))

    def numbers(scale: float, divisor: float, check: bool) -> tuple[Any, ...]:
        if params is None:
            return (scale,), 1.0, 1.0, count, columns, inner, ignore_index, False
        return params, scale, float(divisor), count, columns, inner, ignore_index, check

    layout = layout_of(maths, columns, inner, replaces)
    units = count if inner == 1 else -(-count // (LANES if maths.sparse else STEP))
    work = work_of(maths, count, columns, inner)
    if split.suits(maths, count, columns, inner) and not maths.sampled:
        launch = launch_of(_split(maths, layout, units, work), units, 0)
    else:
        launch = _launch(maths, layout, units, work, count * columns, (*operands, *results, *numbers(1.0, 1.0, True)))
    return KernelPlan(launch, ALL_FLAT, numbers, labelled=True, divided=True)


def _launch(maths: RowMaths, layout: str, units: int, work: int, size: int, sample: tuple[Any, ...]) -> Launch:
    """Return the loop of a layout for arguments of the types of `sample`, whose input has `size` elements."""
    launch = kernel(maths, layout).launch(units, work, sample, flat=True, params=len(sample[10]))
    past = {"along": "streamed", "long": "streamed_long"}.get(layout)
    # Where every entry has much arithmetic of its own, as in multilabel_soft_margin_loss, which has neither a softmax
    # nor a label for the row, streaming took 1.15 of the time at 1000 classes.
    large = not is_small(work) and moves_enough(size, (*sample[:2], *sample[6:10]))
    if not large or past is None or not (maths.softmax or maths.indexed):
        return launch
    return past_caches(launch, _is_streamed, functools.partial(kernel, maths, past), units, work)


def _is_streamed(*args: Any) -> bool:
    """Return whether a call writes past the caches: one or two results, which are large and begin at cache lines."""
    x, t, _, weight, grad_output, _, d0, d1, d2, hess = args[:10]
    return (
        type(d0) is not tuple
        and type(d2) is type(hess) is tuple
        and x.dtype == d0.dtype == (d0 if type(d1) is tuple else d1).dtype
        and x.dtype.kind == "f"  # half types travel as integers, and are no type of the arithmetic
        and not np.may_share_memory(d0, x)  # whose lines the caches hold then
        and are_streamed((x, t, weight, grad_output), (d0, d1))
    )


def _split(maths: RowMaths, layout: str, units: int, work: int) -> Callable[..., Any]:
    """Return the loop for a few very long rows, which leaves rows out of the ordinary to that of `layout`."""

    def code(*args: Any) -> Any:
        params, scale, divisor, count, columns, _, ignore_index, _ = args[10:18]
        numbers = (params, scale, divisor, count, columns, ignore_index)
        found = split.run(maths, *args[:5], *numbers, args[5], args[6:9], args[9])  # type: ignore[call-arg]
        if found is None:
            launch = _launch(maths, layout, units, work, count * columns, args[:-2])
            found = launch.code(*args[:-2], launch.queue(), True)
        return found

    return code
