"""Connectionist temporal classification: a block for each sequence, a thread for each label and the blank before it.

The recursion is that of :mod:`fastloss.cpu.ctc`. Every time step waits for the one before, so the first kernel does no
more than it must: it leaves in the lattice how much of the total passes through each state. The second kernel, a warp
or a block for each row of the gradient, adds up what belongs to one class: states of equal labels are linked, and the
last of them collects its chain, in one order whatever the threads do.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastloss.cuda.access import label_at, load, load_or, store
from fastloss.cuda.arrays import DeviceArray
from fastloss.cuda.extended import exp_pair, larger, normal, power
from fastloss.cuda.grid import added, block, blocks, meet, minimum, over, thread, threads
from fastloss.cuda.reduce import THREADS, combine, grid_of
from fastloss.cuda.survey import I64, first_of
from fastloss.cuda.target import SIMULATED, Kernel, jitable
from fastloss.cuda.views import real_of
from fastloss.losses.scalars import exp, log

WARP = 4 if SIMULATED else 32

# Time steps between two normalisations, see fastloss/cpu/ctc.py.
NORMAL_EVERY = 16

# Bytes of lattices at a time: samples beyond run in a further launch.
MOST_SCRATCH = 4096 if SIMULATED else 1 << 29

# Classes from which a block shares a row of the gradient.
LONG_ROW = 16 if SIMULATED else 1024


@jitable
def _log_of(m, e):
    """Return log(m * 2**e): the product with the high part of ln 2 is rounded once, with the sum."""
    T = type(m)
    return e * T(0.693145751953125) + (e * T(1.42860682030941723e-6) + log(m))


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
def _recursion(lanes: int, keep: bool) -> Kernel:
    """Return the kernel of values, and if `keep` is set of what passes through each state."""
    sum_over, settle = over(added, lanes), meet(lanes)

    def recursion(
        x, y, starts, steps, lengths, values, partials, losses, lattice, rows, links,
        blank, by_length, zero_infinity, unit, first, samples, classes, stored, width,
    ):  # fmt: skip
        T = type(unit)
        zero = T(-np.inf)
        me = thread()
        n = first + block()
        frames, labels, begin = label_at(steps, n), label_at(lengths, n), label_at(starts, n)
        size = 4 * width
        base = block() * stored * size
        wrong = 0
        repeats = 0
        for s in range(me, labels, lanes):
            c = label_at(y, begin + s)
            if c < 0 or c >= classes:
                wrong += 1
            if s > 0 and label_at(y, begin + s - 1) == c:
                repeats += 1
        wrong = sum_over(wrong)
        repeats = sum_over(repeats)
        loss = T(np.nan) if wrong > 0 else T(np.inf)
        if wrong == 0 and labels + repeats <= frames:
            # Before the first step: at blank 0.
            for s in range(me, labels + 1, lanes):
                at = base + s
                store(lattice, at, unit)
                store(lattice, at + width, T(0) if s == 0 else zero)
                store(lattice, at + 2 * width, unit)
                store(lattice, at + 3 * width, zero)
            settle()
            for t in range(frames):
                before = base + (t if keep else t % 2) * size
                now = base + (t + 1 if keep else (t + 1) % 2) * size
                row = (t * samples + n) * classes
                blank_m, blank_e = exp_pair(T(load(x, row + blank)))
                for s in range(me, labels + 1, lanes):
                    at = before + s
                    bm, be = load(lattice, at), load(lattice, at + width)
                    lm, le = load(lattice, at + 2 * width), load(lattice, at + 3 * width)
                    pm = unit
                    pe = zero
                    label = label_at(y, begin + s) if s < labels else blank
                    apart = s > 0
                    if s > 0:
                        pm, pe = load(lattice, at + 2 * width - 1), load(lattice, at + 3 * width - 1)
                        apart = label_at(y, begin + s - 1) != label
                    top = larger(be, pe)
                    m = (bm * power(be - top) + pm * power(pe - top)) * blank_m
                    e = top + blank_e
                    if t % NORMAL_EVERY == NORMAL_EVERY - 1:
                        m, e = normal(m, e)
                    at = now + s
                    store(lattice, at, m)
                    store(lattice, at + width, e)
                    pe = pe if apart else zero
                    top = larger(larger(be, le), pe)
                    m, e = exp_pair(T(load(x, row + label)))
                    m *= bm * power(be - top) + lm * power(le - top) + pm * power(pe - top)
                    e = top + e if s < labels else zero
                    if t % NORMAL_EVERY == NORMAL_EVERY - 1:
                        m, e = normal(m, e)
                    store(lattice, at + 2 * width, m)
                    store(lattice, at + 3 * width, e)
                settle()
            at = base + (frames if keep else frames % 2) * size + labels
            m, e = load(lattice, at), load(lattice, at + width)
            if labels > 0:
                lm, le = load(lattice, at + 2 * width - 1), load(lattice, at + 3 * width - 1)
                top = larger(e, le)
                m = m * power(e - top) + lm * power(le - top)
                e = top
            m, e = normal(m, e)
            loss = -_log_of(m, e)

            if keep and loss - loss == T(0):
                # After the last step: at the last blank, with the inverse of the total.
                after = block() * 2 * size
                now = after + size
                for s in range(me, labels + 1, lanes):
                    at = after + s
                    store(rows, at, unit / m)
                    store(rows, at + width, -e if s == labels else zero)
                    store(rows, at + 2 * width, unit)
                    store(rows, at + 3 * width, zero)
                settle()
                for step in range(frames):
                    t = frames - 1 - step
                    row = (t * samples + n) * classes
                    blank_m, blank_e = exp_pair(T(load(x, row + blank)))
                    for s in range(me, labels + 1, lanes):
                        at = after + s
                        bm, be = load(rows, at), load(rows, at + width)
                        lm, le = load(rows, at + 2 * width), load(rows, at + 3 * width)
                        there = base + (t + 1) * size + s
                        top = larger(be, le)
                        m = bm * power(be - top) + lm * power(le - top)
                        store(lattice, there, load(lattice, there) * m * power(load(lattice, there + width) + top))
                        m *= blank_m
                        e = top + blank_e
                        if t % NORMAL_EVERY == 0:
                            m, e = normal(m, e)
                        store(rows, now + s, m)
                        store(rows, now + s + width, e)
                        if s < labels:
                            label = label_at(y, begin + s)
                            bm, be = load(rows, at + 1), load(rows, at + width + 1)
                            pm = unit
                            pe = zero
                            if s + 1 < labels and label_at(y, begin + s + 1) != label:
                                pm, pe = load(rows, at + 2 * width + 1), load(rows, at + 3 * width + 1)
                            top = larger(larger(be, le), pe)
                            m = bm * power(be - top) + lm * power(le - top) + pm * power(pe - top)
                            there += 2 * width
                            store(lattice, there, load(lattice, there) * m * power(load(lattice, there + width) + top))
                            blank_share, e = exp_pair(T(load(x, row + label)))
                            m *= blank_share
                            e += top
                            if t % NORMAL_EVERY == 0:
                                m, e = normal(m, e)
                            store(rows, now + s + 2 * width, m)
                            store(rows, now + s + 3 * width, e)
                        else:
                            store(rows, now + s + 2 * width, unit)
                            store(rows, now + s + 3 * width, zero)
                    after, now = now, after
                    settle()
                # Which label before is the same, and whether there is none after.
                for s in range(me, labels, lanes):
                    c = label_at(y, begin + s)
                    k = s - 1
                    while k >= 0 and label_at(y, begin + k) != c:
                        k -= 1
                    store(links, block() * 2 * width + s, k)
                    k = s + 1
                    while k < labels and label_at(y, begin + k) != c:
                        k += 1
                    store(links, block() * 2 * width + width + s, k - labels)
        if me == 0:
            if keep:
                store(losses, block(), loss)
            loss = T(0) if zero_infinity != 0 and loss == T(np.inf) else loss
            store(values, n, loss)
            store(partials, n, loss / T(labels) if by_length != 0 and labels > 1 else loss)

    return Kernel(f"ctc_{'gradient' if keep else 'value'}_{lanes}", recursion, lanes)


@functools.cache
def _rows(lanes: int) -> Kernel:
    """Return the kernel that writes the gradient, with `lanes` threads for each row."""
    sum_over, settle = over(added, lanes), meet(lanes)

    def gradient_rows(
        x, y, starts, steps, lengths, upstream, gradient, losses, lattice, links,
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
            g = T(load_or(upstream, n, factor))
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
    upstream: Any,
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

    The parameters are those of :func:`fastloss.cpu.ctc.run`. With `check` the call waits for the device.
    """
    times, samples, classes = shape
    frames, label_counts = counts
    most_steps, most_labels = max(frames), max(label_counts)
    real = real_of(x.dtype)
    uploaded = device.upload(np.concatenate([starts, steps, lengths]))
    on_device = [DeviceArray(uploaded.pointer + 8 * samples * k, (samples,), I64, uploaded) for k in range(3)]
    begins, times_of, labels_of = on_device
    if check and most_labels:
        size = samples * most_labels
        grid = grid_of(size, THREADS)
        firsts = device.scratch(grid, I64)
        _survey().launch(device, grid, real, labels, begins, labels_of, most_labels, classes, size, firsts)
        strange = first_of(device, real, firsts, grid)
        if strange < size:
            return int(starts[strange // most_labels]) + strange % most_labels, None

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
    partials = device.scratch(samples, real) if values == () else ()
    options = (blank, int(by_length), int(zero_infinity))
    arrays = (x, labels, begins, times_of, labels_of)
    for first in range(0, samples, group):
        now = min(group, samples - first)
        _recursion(lanes, keep).launch(
            device, now, real, *arrays, values, partials, losses, lattice, rows, links,
            *options, 1.0, first, samples, classes, stored, width,
        )  # fmt: skip
        if keep:
            count = times * now
            sharing = THREADS if classes >= LONG_ROW else WARP
            _rows(sharing).launch(
                device, grid_of(count * sharing, THREADS), real, *arrays, upstream, gradient, losses, lattice, links,
                *options, scale / divisor, first, now, count, samples, classes, stored, width,
            )  # fmt: skip
    return -1, combine(device, partials, divisor, real)
