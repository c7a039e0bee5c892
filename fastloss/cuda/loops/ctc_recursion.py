"""The forward-backward recursion of connectionist temporal classification, a block for each sequence.

A thread has every label that is its number modulo their number, and the blank before it. Lattice and rows are those of
``cpu/lattice.py``, without margins.
"""

from __future__ import annotations

import functools

import numpy as np

from fastloss.cuda.device.memory import label_at, load, store
from fastloss.cuda.device.scaled_float import exp_pair, larger, normal, power
from fastloss.cuda.device.block import added, block, meet, over, thread
from fastloss.cuda.launch import Kernel
from fastloss.cuda.device.numba_cuda import jitable
from fastloss.define.scalars import log

# Time steps between two normalisations, see cpu/lattice.py.
NORMAL_EVERY = 16


@jitable
def _log_of(m, e):
    """Return log(m * 2**e): the product with the high part of ln 2 is rounded once, with the sum."""
    T = type(m)
    return e * T(0.693145751953125) + (e * T(1.42860682030941723e-6) + log(m))


@functools.cache
def recursion_kernel(lanes: int, keep: bool) -> Kernel:
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
