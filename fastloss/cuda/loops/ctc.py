"""Connectionist temporal classification: the recursion over each sequence, then every row of the gradient.

In the recursion (``ctc_recursion.py``) every time step waits for the one before, so the first kernel does no more than
it must: it leaves in the lattice how much of the total passes through each state. The second kernel, a warp or a block
for each row of the gradient, adds up what belongs to one class: states of equal labels are linked, and the last of them
collects its chain, in one order whatever the threads do.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastloss.cuda.device.block import WARP, added, block, blocks, meet, minimum, over, thread, threads
from fastloss.cuda.device.memory import label_at, load, load_or, store
from fastloss.cuda.device.numba_cuda import SMALL
from fastloss.cuda.device.reduce import THREADS, grid_of
from fastloss.cuda.device_array import DeviceArray
from fastloss.cuda.launch import Kernel
from fastloss.cuda.loops import elementwise
from fastloss.cuda.loops.check_labels import first_of
from fastloss.cuda.loops.ctc_recursion import recursion_kernel
from fastloss.define.point_maths import itself
from fastloss.define.scalars import exp
from fastloss.runtime.dtypes import I64, real_of

# Bytes of lattices at a time: samples beyond run in a further launch.
MOST_SCRATCH = 4096 if SMALL else 1 << 29

# Classes from which a block shares a row of the gradient.
LONG_ROW = 16 if SMALL else 1024


@functools.cache
def _survey() -> Kernel:
    first_over = over(minimum, THREADS)

    def ctc_survey(y, starts, lengths, most, classes, size, firsts):
        first = size
        for k in range(block() * threads() + thread(), size, threads() * blocks()):
            n = k // most
            if k - n * most < label_at(lengths, n):
                label = label_at(y, label_at(starts, n) + k - n * most)
                if label < 0 or label >= classes:
                    first = minimum(first, k)
        first = first_over(first)
        if thread() == 0:
            store(firsts, block(), first)

    return Kernel("ctc_survey", ctc_survey, THREADS)


@functools.cache
def _rows(lanes: int) -> Kernel:
    """Return the kernel that writes the gradient, with `lanes` threads for each row."""
    sum_over, settle = over(added, lanes), meet(lanes)

    def gradient_rows(
        x, y, starts, steps, lengths, grad_output, gradient, losses, lattice, links,
        blank, by_length, zero_infinity, factor, first, group, count, samples, classes, stored, width,
    ):  # fmt: skip
        T = type(factor)
        lane = thread() % lanes
        groups = threads() // lanes
        # Every thread takes as many turns, those past the last row with the last row once more, unwritten.
        for begin in range(block() * groups, count, blocks() * groups):
            r = begin + thread() // lanes
            here = r < count
            r = r if here else count - 1
            t = r // group
            j = r - t * group
            n = first + j
            labels, origin = label_at(lengths, n), label_at(starts, n)
            loss = load(losses, j)
            inside = t < label_at(steps, n)
            finite = loss - loss == T(0)
            states = labels + 1 if finite and inside else 0
            at = (t * samples + n) * classes
            shares = (j * stored + t + 1) * 4 * width
            label_shares = shares + 2 * width
            link = j * 2 * width
            blanks = T(0)
            for s in range(lane, states, lanes):
                blanks += load(lattice, shares + s)
            blanks = sum_over(blanks)
            g = T(load_or(grad_output, n, factor))
            g = g / T(labels) if by_length != 0 and labels > 1 else g
            # All that is read of the input is read before it may be overwritten.
            for s in range(lane, states - 1, lanes):
                if here and label_at(links, link + width + s) == 0:
                    c = label_at(y, origin + s)
                    share = blanks if c == blank else T(0)
                    k = s
                    while k >= 0:
                        share += load(lattice, label_shares + k)
                        k = label_at(links, link + k)
                    store(lattice, label_shares + s, g * (exp(T(load(x, at + c))) - share))
            settle()
            filler = T(0) if not inside or (zero_infinity != 0 and loss == T(np.inf)) else T(np.nan)
            for c in range(lane, classes, lanes):
                slope = g * (exp(T(load(x, at + c))) - (blanks if c == blank else T(0)))
                if here:
                    store(gradient, at + c, slope if states > 0 else filler)
            settle()
            for s in range(lane, states - 1, lanes):
                if here and label_at(links, link + width + s) == 0:
                    store(gradient, at + label_at(y, origin + s), load(lattice, label_shares + s))

    return Kernel(f"ctc_rows_{lanes}", gradient_rows, THREADS)


def run(
    device: Any,
    x: Any,
    labels: Any,
    starts: Any,
    steps: Any,
    lengths: Any,
    grad_output: Any,
    shape: tuple[int, int, int],
    counts: tuple[list[int], list[int]],
    blank: int,
    by_length: bool,
    zero_infinity: bool,
    check: bool,
    scale: float,
    divisor: float,
    values: Any,
    gradient: Any,
) -> tuple[int, DeviceArray | None]:
    """Run over all sequences; return (place of the first label that is no class or -1, sum of the values / divisor).

    The parameters are those of :func:`fastloss.cpu.loops.ctc.run`. With `check` the call waits for the device.
    """
    times, samples, classes = shape
    frames, label_counts = counts
    most_steps, most_labels = max(frames), max(label_counts)
    real = real_of(x.dtype)
    uploaded = device.upload(np.concatenate([starts, steps, lengths]))
    begins, times_of, labels_of = (
        DeviceArray(uploaded.pointer + 8 * samples * k, (samples,), I64, uploaded) for k in range(3)
    )
    if check and most_labels:
        bad = _bad_label(device, real, labels, begins, labels_of, (samples, most_labels, classes))
        if bad is not None:
            return int(starts[bad // most_labels]) + bad % most_labels, None

    keep = gradient != ()
    width = most_labels + 1
    stored = most_steps + 1 if keep else 2
    lanes = WARP
    while lanes < min(width, THREADS):
        lanes *= 2
    each = (stored + 2) * 4 * width
    group = max(1, min(samples, MOST_SCRATCH // (each * real.itemsize)))
    lattice = device.scratch(group * stored * 4 * width, real)
    rows = device.scratch(group * 8 * width, real) if keep else ()
    links = device.scratch(group * 2 * width, I64) if keep else ()
    losses = device.scratch(group, real) if keep else ()
    partials: Any = device.scratch(samples, real) if values == () else ()
    options = (blank, int(by_length), int(zero_infinity))
    arrays = (x, labels, begins, times_of, labels_of)
    sharing = THREADS if classes >= LONG_ROW else WARP
    for first in range(0, samples, group):
        now = min(group, samples - first)
        recursion_kernel(lanes, keep).launch(
            device, now, real, *arrays, values, partials, losses, lattice, rows, links,
            *options, 1.0, first, samples, classes, stored, width,
        )  # fmt: skip
        if keep:
            count = times * now
            grid = grid_of(count * sharing, THREADS, classes)
            _rows(sharing).launch(
                device, grid, real, *arrays, grad_output, gradient, losses, lattice, links,
                *options, scale / divisor, first, now, count, samples, classes, stored, width,
            )  # fmt: skip
    if values != ():
        return -1, None
    operands, nothing = (partials, (), (), (), ()), ((),) * 5
    return elementwise.plan(device, itself, operands, nothing, ()).run_once(operands, nothing, 1.0, divisor)


def _bad_label(
    device: Any, real: Any, labels: Any, begins: Any, lengths: Any, shape: tuple[int, int, int]
) -> int | None:
    """Return the first label that is no class, None without one; `shape` is (samples, most labels of one, classes).

    Label k of sample n counts as number n * most + k. Waits for the device.
    """
    samples, most, classes = shape
    size = samples * most
    grid = grid_of(size, THREADS)
    firsts = device.scratch(grid, I64)
    _survey().launch(device, grid, real, labels, begins, lengths, most, classes, size, firsts)
    bad = first_of(device, real, firsts.pointer, grid)
    return bad if bad < size else None
