"""The forward-backward recursion of connectionist temporal classification, a block for each sequence.

A thread has every label that is its number modulo their number, and the blank before it. Lattice and rows are those of
``cpu/loops/ctc_recursion.py``, without margins.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastloss.cuda.device.block import added, block, meet, over, thread
from fastloss.cuda.device.memory import label_at, load, store
from fastloss.cuda.device.numba_cuda import jitable
from fastloss.cuda.device.scaled_float import exp_pair, larger, normal, power
from fastloss.cuda.launch import Kernel
from fastloss.define.scalars import log

# Time steps between two normalisations, see cpu/loops/ctc_recursion.py.
NORMAL_EVERY = 16


@jitable
def _log_of(m, e):
    """Return log(m * 2**e): the product with the high part of ln 2 is rounded once, with the sum."""
    T = type(m)
    return e * T(0.693145751953125) + (e * T(1.42860682030941723e-6) + log(m))


@jitable
def _write(array, at, width, blank_m, blank_e, label_m, label_e):
    """Write the state at a blank, and that at the label behind it, each a mantissa and an exponent."""
    store(array, at, blank_m)
    store(array, at + width, blank_e)
    store(array, at + 2 * width, label_m)
    store(array, at + 3 * width, label_e)


@jitable
def _pass_through(lattice, at, width, m, e):
    """Multiply what reaches a state by what leaves it."""
    store(lattice, at, load(lattice, at) * m * power(load(lattice, at + width) + e))


@jitable
def _now_and_then(m, e, is_time):
    """Return a number, normalised if it is time."""
    return normal(m, e) if is_time else (m, e)


def _counting(lanes: int) -> Any:
    """Return what counts the labels that are no classes, and those that repeat the one before."""
    sum_over = over(added, lanes)

    @jitable
    def count(y, begin, labels, classes):
        wrong = 0
        repeats = 0
        for s in range(thread(), labels, lanes):
            c = label_at(y, begin + s)
            if c < 0 or c >= classes:
                wrong += 1
            if s > 0 and label_at(y, begin + s - 1) == c:
                repeats += 1
        return sum_over(wrong), sum_over(repeats)

    return count


def _forward(lanes: int, keep: bool) -> Any:
    """Return the recursion from the first step on, which gives the probability of all paths."""
    settle = meet(lanes)

    @jitable
    def forward(x, y, lattice, base, width, begin, labels, frames, n, samples, classes, blank, unit):
        T = type(unit)
        zero = T(-np.inf)
        size = 4 * width
        # Before the first step: at blank 0.
        for s in range(thread(), labels + 1, lanes):
            _write(lattice, base + s, width, unit, T(0) if s == 0 else zero, unit, zero)
        settle()
        for t in range(frames):
            before = base + (t if keep else t % 2) * size
            now = base + (t + 1 if keep else (t + 1) % 2) * size
            is_time = t % NORMAL_EVERY == NORMAL_EVERY - 1
            row = (t * samples + n) * classes
            blank_m, blank_e = exp_pair(T(load(x, row + blank)))
            for s in range(thread(), labels + 1, lanes):
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
                m, e = _now_and_then(m, top + blank_e, is_time)
                pe = pe if apart else zero
                top = larger(larger(be, le), pe)
                label_m, label_e = exp_pair(T(load(x, row + label)))
                label_m *= bm * power(be - top) + lm * power(le - top) + pm * power(pe - top)
                label_m, label_e = _now_and_then(label_m, top + label_e if s < labels else zero, is_time)
                _write(lattice, now + s, width, m, e, label_m, label_e)
            settle()
        at = base + (frames if keep else frames % 2) * size + labels
        m, e = load(lattice, at), load(lattice, at + width)
        if labels > 0:
            lm, le = load(lattice, at + 2 * width - 1), load(lattice, at + 3 * width - 1)
            top = larger(e, le)
            m = m * power(e - top) + lm * power(le - top)
            e = top
        return normal(m, e)

    return forward


def _backward(lanes: int) -> Any:
    """Return the recursion from the last step on, which leaves in the lattice what passes through each state."""
    settle = meet(lanes)

    @jitable
    def backward(x, y, lattice, base, rows, width, begin, labels, frames, n, samples, classes, blank, unit, m, e):
        T = type(unit)
        zero = T(-np.inf)
        size = 4 * width
        # After the last step: at the last blank, with the inverse of the total.
        after = block() * 2 * size
        now = after + size
        for s in range(thread(), labels + 1, lanes):
            _write(rows, after + s, width, unit / m, -e if s == labels else zero, unit, zero)
        settle()
        for step in range(frames):
            t = frames - 1 - step
            is_time = t % NORMAL_EVERY == 0
            row = (t * samples + n) * classes
            blank_m, blank_e = exp_pair(T(load(x, row + blank)))
            for s in range(thread(), labels + 1, lanes):
                at = after + s
                there = base + (t + 1) * size + s
                bm, be = load(rows, at), load(rows, at + width)
                lm, le = load(rows, at + 2 * width), load(rows, at + 3 * width)
                top = larger(be, le)
                m = bm * power(be - top) + lm * power(le - top)
                _pass_through(lattice, there, width, m, top)
                m, e = _now_and_then(m * blank_m, top + blank_e, is_time)
                label_m, label_e = unit, zero
                if s < labels:
                    label = label_at(y, begin + s)
                    bm, be = load(rows, at + 1), load(rows, at + width + 1)
                    pm = unit
                    pe = zero
                    if s + 1 < labels and label_at(y, begin + s + 1) != label:
                        pm, pe = load(rows, at + 2 * width + 1), load(rows, at + 3 * width + 1)
                    top = larger(larger(be, le), pe)
                    sum_m = bm * power(be - top) + lm * power(le - top) + pm * power(pe - top)
                    _pass_through(lattice, there + 2 * width, width, sum_m, top)
                    share, label_e = exp_pair(T(load(x, row + label)))
                    label_m, label_e = _now_and_then(sum_m * share, label_e + top, is_time)
                _write(rows, now + s, width, m, e, label_m, label_e)
            after, now = now, after
            settle()

    return backward


@jitable
def _link(y, links, at, width, begin, labels, s):
    """Write which label before number `s` is the same, -1 for none, and which behind, counted from the end."""
    c = label_at(y, begin + s)
    k = s - 1
    while k >= 0 and label_at(y, begin + k) != c:
        k -= 1
    store(links, at + s, k)
    k = s + 1
    while k < labels and label_at(y, begin + k) != c:
        k += 1
    store(links, at + width + s, k - labels)


@functools.cache
def recursion_kernel(lanes: int, keep: bool) -> Kernel:
    """Return the kernel of values, and if `keep` is set of what passes through each state."""
    count, forward, backward = _counting(lanes), _forward(lanes, keep), _backward(lanes)

    def recursion(
        x, y, starts, steps, lengths, values, partials, losses, lattice, rows, links,
        blank, by_length, zero_infinity, unit, first, samples, classes, stored, width,
    ):  # fmt: skip
        T = type(unit)
        n = first + block()
        frames, labels, begin = label_at(steps, n), label_at(lengths, n), label_at(starts, n)
        base = block() * stored * 4 * width
        wrong, repeats = count(y, begin, labels, classes)
        loss = T(np.nan) if wrong > 0 else T(np.inf)
        if wrong == 0 and labels + repeats <= frames:
            m, e = forward(x, y, lattice, base, width, begin, labels, frames, n, samples, classes, blank, unit)
            loss = -_log_of(m, e)
            if keep and loss - loss == T(0):
                backward(
                    x, y, lattice, base, rows, width, begin, labels, frames, n, samples, classes, blank, unit, m, e
                )
                for s in range(thread(), labels, lanes):
                    _link(y, links, block() * 2 * width, width, begin, labels, s)
        if thread() == 0:
            if keep:
                store(losses, block(), loss)
            loss = T(0) if zero_infinity != 0 and loss == T(np.inf) else loss
            store(values, n, loss)
            store(partials, n, loss / T(labels) if by_length != 0 and labels > 1 else loss)

    return Kernel(f"ctc_{'gradient' if keep else 'value'}_{lanes}", recursion, lanes)
